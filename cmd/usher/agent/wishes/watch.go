package wishes

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// groupIPv4Multicast is RTNLGRP_IPV4_MCADDR (linux/rtnetlink.h): the kernel tells
// of the first and the last member of a group on an interface. Package unix has no
// name for it.
const groupIPv4Multicast = 37

// Watch calls changed whenever the kernel announces that a group was joined or left
// on any interface, until ctx ends. It returns an error at once where the kernel
// has no such announcements: older ones do not.
func Watch(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("wishes: open netlink: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "netlink")
	defer socket.Close() //nolint:errcheck // nothing was written
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("wishes: bind netlink: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, groupIPv4Multicast); err != nil {
		return fmt.Errorf("wishes: this kernel does not announce joins: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() }) //nolint:errcheck // it ends the Read
	defer stop()
	buf := make([]byte, 16<<10)
	for {
		_, err := socket.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS): // lost ones are news, too
			changed()
		default:
			return fmt.Errorf("wishes: read netlink: %w", err)
		}
	}
}
