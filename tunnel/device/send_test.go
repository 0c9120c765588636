package device_test

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// sendUDP sends one datagram from an unbound socket of the caller's namespace.
func sendUDP(to string, data []byte) error {
	address, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Sendto(fd, data, 0, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()})
	return errors.Join(err, unix.Close(fd))
}
