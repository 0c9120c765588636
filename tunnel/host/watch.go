package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watched are the kernel's announcements that make a keeper look again, by
// netlink protocol.
var watched = []struct {
	protocol int
	groups   []int
}{
	{unix.NETLINK_ROUTE, []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_NETCONF, // NETCONF tells of rp_filter
	}},
	{unix.NETLINK_NETFILTER, []int{unix.NFNLGRP_NFTABLES}},
}

// watcher tells that something changed, never what: whoever hears it lists
// everything. So an announcement that was lost (ENOBUFS) costs nothing, and
// nothing here has to understand other programs' rules. Only a lost link is
// read out of the announcements, since it may be back before anybody looks; the
// kernel counts the losses, and announces late.
type watcher struct {
	wake    chan struct{} // holds one
	sockets []*os.File
	readers sync.WaitGroup

	mu     sync.Mutex     // guards the fields below
	losses map[int]uint32 // how often each interface lost its link since it exists
	lost   map[int]bool   // interfaces that lost their link
}

// newWatcher opens the sockets in the calling thread's network namespace.
func newWatcher() (*watcher, error) {
	w := &watcher{wake: make(chan struct{}, 1), losses: map[int]uint32{}, lost: map[int]bool{}}
	for _, kind := range watched {
		socket, err := listen(kind.protocol, kind.groups)
		if err != nil {
			w.close()
			return nil, err
		}
		w.sockets = append(w.sockets, socket)
	}
	if err := askLinks(w.sockets[0]); err != nil {
		w.close()
		return nil, err
	}
	for _, socket := range w.sockets {
		w.readers.Go(func() { w.read(socket) })
	}
	return w, nil
}

func listen(protocol int, groups []int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("host: open netlink: %w", err)
	}
	// Nonblocking, so that Close ends a Read.
	socket := os.NewFile(uintptr(fd), "netlink")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("host: bind netlink: %w", err), socket.Close())
	}
	for _, group := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return nil, errors.Join(fmt.Errorf("host: watch netlink group %d: %w", group, err), socket.Close())
		}
	}
	return socket, nil
}

// close ends the readers.
func (w *watcher) close() {
	for _, socket := range w.sockets {
		_ = socket.Close() // nothing was written
	}
	w.readers.Wait()
}

func (w *watcher) read(socket *os.File) {
	buf := make([]byte, 64<<10)
	for {
		n, err := socket.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err == nil {
			w.noteLost(buf[:n])
		} else if !errors.Is(err, unix.ENOBUFS) {
			return // a netlink socket has no other lasting error; the keeper's tick goes on
		} else if socket == w.sockets[0] {
			_ = askLinks(socket) // at worst a lost link goes unseen
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// askLinks asks for all interfaces. The answers come like announcements and are
// read as such. A request is a struct nlmsghdr and a struct ifinfomsg, in the
// machine's byte order (linux/netlink.h, linux/rtnetlink.h).
func askLinks(socket *os.File) error {
	request := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.RTM_GETLINK)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if _, err := socket.Write(request); err != nil {
		return fmt.Errorf("host: ask for interfaces: %w", err)
	}
	return nil
}

// noteLost remembers the interfaces whose count of lost links has grown. The
// index is at byte 4 of struct ifinfomsg.
func (w *watcher) noteLost(datagram []byte) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range messages {
		if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
			continue // a bridge tells of its ports by the same types
		}
		index := int(binary.NativeEndian.Uint32(m.Data[4:]))
		switch m.Header.Type {
		case unix.RTM_DELLINK:
			delete(w.losses, index)
			delete(w.lost, index)
		case unix.RTM_NEWLINK:
			attributes, err := syscall.ParseNetlinkRouteAttr(&m)
			if err != nil {
				continue
			}
			for _, a := range attributes {
				if a.Attr.Type != unix.IFLA_CARRIER_DOWN_COUNT || len(a.Value) != 4 {
					continue
				}
				count := binary.NativeEndian.Uint32(a.Value)
				before, known := w.losses[index]
				w.losses[index] = count
				if known && count != before {
					w.lost[index] = true
				}
			}
		}
	}
}

// takeLost returns the interfaces that lost their link since it was last asked.
func (w *watcher) takeLost() map[int]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	lost := w.lost
	w.lost = map[int]bool{}
	return lost
}
