package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// forgery begins each datagram that mallory sends under the sender's address.
var forgery = []byte("forged by mallory ")

// outsider is mallory: on the same wire, with no ticket.
type outsider struct {
	sent int
	// membership keeps her joined to (S,G), so that the switch sends her all of it.
	membership net.PacketConn
}

// prepareOutsiderAndEars makes what listens beside the players.
func (s *show) prepareOutsiderAndEars() error {
	for _, name := range receivers {
		s.record.ears[name] = &ear{}
	}
	s.record.outsider = &outsider{}
	return s.hosts["mallory"].Do(func() error {
		real, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		s.record.outsider.membership, err = joined(real)
		return err
	})
}

// outsiderActs captures what reaches mallory, and injects cleartext from the second
// second of the event to its end.
func (s *show) outsiderActs(ctx context.Context) error {
	defer s.record.outsider.membership.Close()
	if _, err := s.lab.Capture(ctx, s.hosts["mallory"], "eth0", s.record.captures["mallory"], "inbound", "and", "udp"); err != nil {
		return err
	}
	if err := s.until(ctx, malloryInjects); err != nil {
		return err
	}
	var socket int
	err := s.hosts["mallory"].Do(func() error {
		var err error
		if socket, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return fmt.Errorf("raw socket: %w", err)
		}
		return unix.BindToDevice(socket, "eth0")
	})
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	s.say("mallory: injects cleartext under the sender's address")
	to := &unix.SockaddrInet4{Addr: netip.MustParseAddr(group).As4()}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(s.start.Add(streamEnds)) {
		if err := unix.Sendto(socket, forgedPacket(s.record.outsider.sent), 0, to); err != nil {
			return fmt.Errorf("injecting: %w", err)
		}
		s.record.outsider.sent++
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.say("mallory: has sent %d forged datagrams", s.record.outsider.sent)
	return nil
}

// forgedPacket is an IPv4 packet with a UDP datagram to the stream's port, from the
// sender's address, as long as the stream's own.
func forgedPacket(number int) []byte {
	const ipLen, udpLen, payloadLen = 20, 8, 1316
	packet := make([]byte, ipLen+udpLen+payloadLen)
	packet[0] = 0x45
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	packet[8], packet[9] = 8, unix.IPPROTO_UDP
	source, destination := netip.MustParseAddr(senderAddress).As4(), netip.MustParseAddr(group).As4()
	copy(packet[12:], source[:])
	copy(packet[16:], destination[:])
	udp := packet[ipLen:]
	binary.BigEndian.PutUint16(udp[0:], port)
	binary.BigEndian.PutUint16(udp[2:], port)
	// A checksum of zero is "none" (RFC 768): what is wrong with this datagram is
	// who sent it, nothing else.
	binary.BigEndian.PutUint16(udp[4:], udpLen+payloadLen)
	copy(udp[udpLen:], fmt.Appendf(nil, "%s%d", forgery, number))
	return packet
}
