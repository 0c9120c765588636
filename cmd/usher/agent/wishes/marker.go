package wishes

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Where the marker is: an experimental group of the link (RFC 4727 §2.4.1), of the
// host itself, on the interface that is first in all lists and reaches nobody.
var (
	markerGroup  = netip.AddrFrom4([4]byte{224, 0, 0, 254})
	markerSource = netip.AddrFrom4([4]byte{127, 0, 0, 1})
)

const loopback = "lo"

// Marker makes the kernel list sources. /proc/net/mcfilter begins at the first
// interface whose newest group has sources, and leaves out all interfaces before
// it: one mDNS responder that starts later than the players hides what they have
// joined. A membership with a source that is the newest one of the first interface
// makes it begin there. The zero value is usable; it belongs to one goroutine.
type Marker struct {
	socket int
	held   bool
}

// renew makes the marker the newest group of its interface.
func (m *Marker) renew() error {
	if err := m.Close(); err != nil {
		return err
	}
	lo, err := net.InterfaceByName(loopback)
	if err != nil {
		return fmt.Errorf("wishes: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("wishes: socket: %w", err)
	}
	m.socket, m.held = fd, true
	// struct group_source_req: index, then two sockaddr_storage (RFC 3678 §5.1).
	var request [8 + 2*128]byte
	binary.NativeEndian.PutUint32(request[:], uint32(lo.Index))
	for i, a := range []netip.Addr{markerGroup, markerSource} {
		binary.NativeEndian.PutUint16(request[8+i*128:], unix.AF_INET)
		copy(request[8+i*128+4:], a.AsSlice())
	}
	if err := unix.SetsockoptString(fd, unix.SOL_IP, unix.MCAST_JOIN_SOURCE_GROUP, string(request[:])); err != nil {
		return fmt.Errorf("wishes: join on %s: %w", loopback, err)
	}
	return nil
}

// Close removes the marker.
func (m *Marker) Close() error {
	if !m.held {
		return nil
	}
	m.held = false
	return unix.Close(m.socket)
}
