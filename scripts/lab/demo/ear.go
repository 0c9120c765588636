package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"usher/scripts/lab"
)

// ear is a program of another maker on a receiver, beside the player: plain UDP
// sockets on the stream's port, joined in two ways. It tells mallory's datagrams
// from the stream's by her marker.
type ear struct {
	genuine, forged atomic.Int64
	conns           []net.PacketConn
}

// listen joins (S,G) once with no interface named, and once by the real one.
func (e *ear) listen(host *lab.Host) error {
	return host.Do(func() error {
		real, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		for _, iface := range []*net.Interface{nil, real} {
			conn, err := joined(iface)
			if err != nil {
				return fmt.Errorf("ear on %s: %w", host.Name(), err)
			}
			e.conns = append(e.conns, conn)
			go e.hear(conn)
		}
		return nil
	})
}

// joined opens a socket on the stream's port that joined (S,G) as a player would.
func joined(iface *net.Interface) (net.PacketConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		})
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	err = ipv4.NewPacketConn(conn).JoinSourceSpecificGroup(iface,
		&net.UDPAddr{IP: net.ParseIP(group)}, &net.UDPAddr{IP: net.ParseIP(senderAddress)})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// hear counts until the socket is closed.
func (e *ear) hear(conn net.PacketConn) {
	buffer := make([]byte, 65536)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		if bytes.HasPrefix(buffer[:n], forgery) {
			e.forged.Add(1)
		} else {
			e.genuine.Add(1)
		}
	}
}

// close ends the sockets, and with them hear.
func (e *ear) close() {
	for _, conn := range e.conns {
		conn.Close()
	}
}
