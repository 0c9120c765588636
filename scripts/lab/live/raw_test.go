package live

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	ipHeader, udpHeader = 20, 8
	// wireMTU is that of the lab's interfaces; fragments carry multiples of 8.
	wireMTU = 1500
)

// injector writes IPv4 packets of its own making on a host's wire.
type injector struct {
	t      *testing.T
	socket int
	id     uint16
}

func (s *station) injector(t *testing.T) *injector {
	t.Helper()
	i := &injector{t: t}
	if err := s.Do(func() (err error) {
		if i.socket, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return fmt.Errorf("raw socket: %w", err)
		}
		return unix.BindToDevice(i.socket, "eth0")
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(i.socket) })
	return i
}

// udp sends a UDP datagram under any source address, in fragments where it is
// longer than the wire takes. A UDP checksum of 0 is "none" (RFC 768).
func (i *injector) udp(source, destination netip.AddrPort, payload []byte) {
	i.t.Helper()
	datagram := make([]byte, udpHeader+len(payload))
	binary.BigEndian.PutUint16(datagram[0:], source.Port())
	binary.BigEndian.PutUint16(datagram[2:], destination.Port())
	binary.BigEndian.PutUint16(datagram[4:], uint16(len(datagram)))
	copy(datagram[udpHeader:], payload)
	i.id++
	const most = (wireMTU - ipHeader) / 8 * 8
	for at := 0; at < len(datagram); at += most {
		piece := datagram[at:min(at+most, len(datagram))]
		packet := make([]byte, ipHeader, ipHeader+len(piece))
		packet[0] = 0x45
		binary.BigEndian.PutUint16(packet[2:], uint16(ipHeader+len(piece)))
		binary.BigEndian.PutUint16(packet[4:], i.id)
		flags := uint16(at / 8)
		if at+len(piece) < len(datagram) {
			flags |= 0x2000 // more fragments
		}
		binary.BigEndian.PutUint16(packet[6:], flags)
		packet[8], packet[9] = 8, unix.IPPROTO_UDP
		from, to := source.Addr().As4(), destination.Addr().As4()
		copy(packet[12:], from[:])
		copy(packet[16:], to[:])
		if err := unix.Sendto(i.socket, append(packet, piece...), 0, &unix.SockaddrInet4{Addr: to}); err != nil {
			i.t.Fatalf("inject %d bytes: %v", len(payload), err)
		}
	}
}
