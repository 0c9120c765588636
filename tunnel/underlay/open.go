package underlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Config is what Open needs.
type Config struct {
	Port      uint16     // 0: DefaultPort
	Mark      uint32     // firewall mark of all that is sent; 0: none
	Interface string     // name of the real interface; "" leaves the choice to the routes until SetInterface
	Address   netip.Addr // source address; invalid: the first IPv4 address of Interface
	NoOffload bool       // send one datagram at a time (the agent's offload = "off")
}

// DefaultPort is the port of ESP in UDP (RFC 3948 §2.1).
const DefaultPort = 4500

// Sizes of the socket's buffers: 200 ms of 400 Mbit/s with the kernel's own
// book-keeping, which about doubles a datagram.
const (
	receiveBuffer = 32 << 20
	sendBuffer    = 8 << 20
)

// UDP is the socket; it implements Conn.
type UDP struct {
	fd    int
	wake  int            // eventfd; becomes readable for good with Wake
	poll  [2]unix.PollFd // Wait's; the socket and the eventfd
	route atomic.Pointer[egress]
	out   sender
	in    receiver
	close bool
}

// egress is where batches leave that name no source.
type egress struct {
	index   int32
	address [4]byte
}

// Open makes the socket, for IPv4 only in this version. It needs
// CAP_NET_ADMIN. Errors wrap ErrPortInUse, ErrNoInterface or ErrPermission.
func Open(c Config) (*UDP, error) {
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	var leave egress
	if c.Interface != "" {
		var err error
		if leave, err = resolve(c.Interface, c.Address); err != nil {
			return nil, err
		}
	} else if c.Address.Is4() {
		leave.address = c.Address.As4()
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("underlay: socket: %w", err)
	}
	if err := setUp(fd, c); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("underlay: eventfd: %w", err), unix.Close(fd))
	}
	u := &UDP{
		fd:   fd,
		wake: wake,
		poll: [2]unix.PollFd{
			{Fd: int32(fd), Events: unix.POLLIN},
			{Fd: int32(wake), Events: unix.POLLIN},
		},
	}
	u.route.Store(&leave)
	u.out.init(fd, c.NoOffload)
	u.in.init(fd)
	return u, nil
}

// resolve finds index and address of an interface.
func resolve(name string, address netip.Addr) (egress, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return egress{}, fmt.Errorf("%w: %q (see `ip link`, or leave `interface` out)", ErrNoInterface, name)
	}
	leave := egress{index: int32(link.Index)}
	if address.Is4() {
		leave.address = address.As4()
		return leave, nil
	}
	addresses, err := link.Addrs()
	if err != nil {
		return egress{}, fmt.Errorf("underlay: addresses of %s: %w", name, err)
	}
	for _, a := range addresses {
		if prefix, ok := a.(*net.IPNet); ok && prefix.IP.To4() != nil {
			leave.address = [4]byte(prefix.IP.To4())
			break
		}
	}
	return leave, nil
}

// setUp sets the options of the socket and binds it.
func setUp(fd int, c Config) error {
	for _, o := range []struct {
		name       string
		level      int
		option     int
		value      int
		unprivileg bool // an older kernel without it is no error
	}{
		{"SO_RCVBUFFORCE", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer, false},
		{"SO_SNDBUFFORCE", unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer, false},
		{"SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, int(c.Mark), false},
		{"SO_RXQ_OVFL", unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1, false},
		{"IP_PKTINFO", unix.SOL_IP, unix.IP_PKTINFO, 1, false},
		{"IP_RECVTOS", unix.SOL_IP, unix.IP_RECVTOS, 1, false},
		// A group that is joined by any socket of the host is received here:
		// the memberships are on sockets of their own.
		{"IP_MULTICAST_ALL", unix.SOL_IP, unix.IP_MULTICAST_ALL, 1, false},
		// Own packets must not come back to the host.
		{"IP_MULTICAST_LOOP", unix.SOL_IP, unix.IP_MULTICAST_LOOP, 0, false},
		// Sets DF and fails with EMSGSIZE above the interface's MTU, without
		// believing ICMP that anybody can forge.
		{"IP_MTU_DISCOVER", unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, false},
		{"UDP_GRO", unix.SOL_UDP, unix.UDP_GRO, 1, true},
	} {
		err := unix.SetsockoptInt(fd, o.level, o.option, o.value)
		switch {
		case err == nil, o.unprivileg && errors.Is(err, unix.ENOPROTOOPT):
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("%w: %s: %w (run as root, or with CAP_NET_ADMIN)", ErrPermission, o.name, err)
		default:
			return fmt.Errorf("underlay: %s: %w", o.name, err)
		}
	}
	err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(c.Port)})
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w: UDP port %d is taken by another program, often an IPsec daemon or a second agent (`ss -ulpn sport = :%d` names it): stop it, or set another port on every host of the event", ErrPortInUse, c.Port, c.Port)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: bind to UDP port %d: %w", ErrPermission, c.Port, err)
	case err != nil:
		return fmt.Errorf("underlay: bind to UDP port %d: %w", c.Port, err)
	}
	return nil
}

// SetInterface implements Conn.
func (u *UDP) SetInterface(index int, address netip.Addr) {
	leave := egress{index: int32(index)}
	if address.Is4() {
		leave.address = address.As4()
	}
	u.route.Store(&leave)
}

// Wait implements Conn.
func (u *UDP) Wait() bool {
	for {
		_, err := unix.Poll(u.poll[:], -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false
		}
		return u.poll[1].Revents == 0
	}
}

// Wake implements Conn.
func (u *UDP) Wake() { _, _ = unix.Write(u.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// Stats reads the socket's counters. Safe for any goroutine.
func (u *UDP) Stats() Stats {
	return Stats{
		ReceiveOverflow:     u.in.overflow.Load(),
		SegmentationRefused: u.out.fallbacks.Load(),
		SegmentationOff:     u.out.single.Load(),
	}
}

// Close implements Conn.
func (u *UDP) Close() error {
	if u.close {
		return nil
	}
	u.close = true
	return errors.Join(unix.Close(u.fd), unix.Close(u.wake))
}
