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
// read out of the announcements, since it may be back before anybody looks.
type watcher struct {
	wake    chan struct{} // holds one
	sockets []*os.File
	readers sync.WaitGroup

	mu   sync.Mutex
	lost map[int]bool // interfaces that lost their link; guarded by mu
}

// newWatcher opens the sockets in the calling thread's network namespace.
func newWatcher() (*watcher, error) {
	w := &watcher{wake: make(chan struct{}, 1), lost: map[int]bool{}}
	for _, kind := range watched {
		socket, err := listen(kind.protocol, kind.groups)
		if err != nil {
			w.close()
			return nil, err
		}
		w.sockets = append(w.sockets, socket)
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
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// noteLost remembers the interfaces that an announcement shows without a link.
// Its fields are of the machine's byte order: struct ifinfomsg of
// linux/rtnetlink.h holds the index at 4 and the flags at 8.
func (w *watcher) noteLost(datagram []byte) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return
	}
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		index := int(binary.NativeEndian.Uint32(m.Data[4:]))
		if binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_LOWER_UP == 0 {
			w.mu.Lock()
			w.lost[index] = true
			w.mu.Unlock()
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
