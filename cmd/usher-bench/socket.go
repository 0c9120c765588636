package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The sockets stay out of Go's poller, which would wake a second thread for
// each datagram and cost more than what is measured.

// socket is a UDP socket, IPv4 or IPv6.
type socket struct {
	fd     int
	family int
}

func newSocket(like netip.Addr) (socket, error) {
	family := unix.AF_INET
	if like.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return socket{}, fmt.Errorf("open a socket: %w", err)
	}
	return socket{fd: fd, family: family}, nil
}

func (s socket) close() { _ = unix.Close(s.fd) }

// sockaddr is an address as system calls want it.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// sender opens a socket as most programs do that send a stream: neither bound
// nor connected.
func sender(to netip.Addr, ttl int) (socket, error) {
	s, err := newSocket(to)
	if err != nil {
		return s, err
	}
	if s.family == unix.AF_INET {
		err = unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, ttl)
	} else {
		err = unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ttl)
	}
	if err != nil {
		s.close()
		return socket{}, fmt.Errorf("set the TTL: %w", err)
	}
	return s, nil
}

// listener opens a socket as players do: bound to the group or address, joined
// by the routes' interface unless one is named, from one source if it is given.
func listener(at netip.AddrPort, source netip.Addr, iface string, buffer int) (socket, error) {
	s, err := newSocket(at.Addr())
	if err != nil {
		return s, err
	}
	if err := s.listen(at, source, iface, buffer); err != nil {
		s.close()
		return socket{}, err
	}
	return s, nil
}

func (s socket) listen(at netip.AddrPort, source netip.Addr, iface string, buffer int) error {
	if buffer > 0 {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
			return fmt.Errorf("a buffer of %d bytes (beyond net.core.rmem_max only root gets one): %w", buffer, err)
		}
	}
	if err := unix.Bind(s.fd, sockaddr(at)); err != nil {
		return fmt.Errorf("listen at %s: %w", at, err)
	}
	if !at.Addr().IsMulticast() {
		return nil
	}
	if err := s.join(at.Addr(), source, iface); err != nil {
		return fmt.Errorf("join %s: %w", at.Addr(), err)
	}
	return nil
}

// join joins a group by the options that are the same for both families
// (RFC 3678 §5.1).
func (s socket) join(group, source netip.Addr, iface string) error {
	index := 0
	if iface != "" {
		i, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		index = i.Index
	}
	level := unix.IPPROTO_IP
	if s.family == unix.AF_INET6 {
		level = unix.IPPROTO_IPV6
	}
	// struct group_source_req: interface, padding, two sockaddr_storage.
	const storage = 128
	request := make([]byte, 8+2*storage)
	binary.NativeEndian.PutUint32(request, uint32(index))
	putSockaddr(request[8:], group)
	option := unix.MCAST_JOIN_GROUP
	request = request[:8+storage]
	if source.IsValid() {
		option = unix.MCAST_JOIN_SOURCE_GROUP
		request = request[:8+2*storage]
		putSockaddr(request[8+storage:], source)
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(s.fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&request[0])), uintptr(len(request)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// putSockaddr writes a sockaddr without a port.
func putSockaddr(b []byte, a netip.Addr) {
	if a.Is4() {
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		copy(b[4:], a.AsSlice())
		return
	}
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	copy(b[8:], a.AsSlice())
}

// wait sleeps until there is something to receive, at most so many
// milliseconds; it returns earlier at a signal.
func (s socket) wait(ms int) error {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, ms); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for datagrams: %w", err)
	}
	return nil
}

// receive reads one datagram if there is one, and says so. The call returns at
// once, so that the Go scheduler need not know of it.
func (s socket) receive(buf []byte) (n int, ok bool, err error) {
	r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0:
		return int(r), true, nil
	case unix.EAGAIN, unix.EINTR:
		return 0, false, nil
	}
	return 0, false, fmt.Errorf("receive: %w", errno)
}

// overflow is how many datagrams the kernel threw away because nobody had read
// the socket: what SO_RXQ_OVFL reports, but also what came last.
func (s socket) overflow() (uint32, error) {
	const drops = 8 // SK_MEMINFO_DROPS
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("the socket's drops: %w", errno)
	}
	if int(size) < len(info)*4 {
		return 0, errors.New("the socket's drops: this kernel does not tell them")
	}
	return info[drops], nil
}

// cpuSeconds is the processor time that this process took so far.
func cpuSeconds() (user, system float64, err error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, 0, err
	}
	seconds := func(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(u.Utime), seconds(u.Stime), nil
}
