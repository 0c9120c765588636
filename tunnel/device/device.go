package device

import "encoding/binary"

// Device is the virtual interface as the packet path sees it: it reads what
// the host's applications send, and writes what the host's applications are
// to receive.
//
// One goroutine may call Read and Wait, another one Write; neither method is
// safe for two goroutines. Wake is safe for any.
type Device interface {
	// Name is the interface's name, "usher0" for example.
	Name() string

	// Read takes the next packet without waiting: a HeaderLen long offload
	// header (see Header), then one IP packet, which may be a super-packet
	// of up to 65,535 bytes. It returns ErrAgain when nothing is there, and
	// ErrClosed when the interface has been removed. Nothing is allocated.
	Read(buf []byte) (n int, err error)

	// Wait sleeps until a Read would give something, or until Wake. It
	// returns false once Wake was called, then and for ever after.
	Wait() bool

	// Wake ends the current and all later calls of Wait.
	Wake()

	// Write hands packets to the host, in their order. Each begins at
	// bufs[i][offset]; offset is at least HeaderLen, and the bytes in front
	// of it are overwritten. Packets of one flow are merged into the first
	// of them as far as the capacity of its buffer allows: it should be
	// MergeCapacity and must not be more; bytes behind its length are
	// overwritten, and elements of bufs changed.
	//
	// A write that the kernel refuses does not stop the others. refused is
	// the number of packets that were lost, where packets were merged a
	// lower bound of it; err is the last reason, and nil if refused is 0.
	Write(bufs [][]byte, offset int) (refused int, err error)

	// Close gives the interface back. A persistent one stays where it is,
	// with its addresses and routes. Read, Wait and Write must have ended.
	Close() error
}

// HeaderLen is the length of the offload header in front of each packet that
// Read gives (struct virtio_net_hdr of linux/virtio_net.h).
const HeaderLen = 10

// MaxPacket is the capacity that a buffer needs to hold any packet or
// super-packet with the header and some headroom in front of it.
const MaxPacket = 64 + 65535

// MergeCapacity is the capacity of a buffer that Write may merge packets into.
// With more, a merged packet could outgrow the length field of its header.
const MergeCapacity = 65535

// Segmentation kinds of Header.Kind (VIRTIO_NET_HDR_GSO_* of
// linux/virtio_net.h).
const (
	KindNone  = 0 // one ordinary packet
	KindTCPv4 = 1 // TCP super-packet over IPv4
	KindTCPv6 = 4 // TCP super-packet over IPv6
	KindUDP   = 5 // UDP super-packet over either (UDP_SEGMENT, "USO")
)

// flagNeedsChecksum says that the transport checksum holds the sum of the
// pseudo header only, and has to be completed (VIRTIO_NET_HDR_F_NEEDS_CSUM).
const flagNeedsChecksum = 1

// Header is the offload header, decoded.
//
//	0  flags            1 = the checksum is unfinished
//	1  kind             Kind…
//	2  header length    not to be trusted
//	4  segment size     payload bytes of a segment, if Kind is not KindNone
//	6  checksum start   where the transport header begins
//	8  checksum offset  where its checksum field is, from there
//
// All numbers are in the host's byte order.
type Header struct {
	NeedsChecksum  bool
	Kind           uint8
	SegmentSize    uint16
	ChecksumStart  uint16
	ChecksumOffset uint16
}

// ParseHeader decodes the first HeaderLen bytes of what Read gave. It returns
// ErrShort if there are fewer.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, ErrShort
	}
	return Header{
		NeedsChecksum:  b[0]&flagNeedsChecksum != 0,
		Kind:           b[1] &^ 0x80, // the bit for ECN in TCP is of no interest here
		SegmentSize:    binary.NativeEndian.Uint16(b[4:]),
		ChecksumStart:  binary.NativeEndian.Uint16(b[6:]),
		ChecksumOffset: binary.NativeEndian.Uint16(b[8:]),
	}, nil
}

// Encode writes the header to the first HeaderLen bytes of b. Tests use it to
// play the kernel.
func (h Header) Encode(b []byte) error {
	if len(b) < HeaderLen {
		return ErrShort
	}
	clear(b[:HeaderLen])
	if h.NeedsChecksum {
		b[0] = flagNeedsChecksum
	}
	b[1] = h.Kind
	binary.NativeEndian.PutUint16(b[4:], h.SegmentSize)
	binary.NativeEndian.PutUint16(b[6:], h.ChecksumStart)
	binary.NativeEndian.PutUint16(b[8:], h.ChecksumOffset)
	return nil
}
