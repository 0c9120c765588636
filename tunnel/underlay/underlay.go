package underlay

import "net/netip"

// Conn carries ESP in UDP over the real interface, in batches.
//
// One goroutine may call Send, another one Receive and Wait. Wake and
// SetInterface are safe for any.
type Conn interface {
	// Send sends one batch. A datagram that the network refuses does not
	// take the rest of its batch with it: refused counts the lost ones, err
	// is the last reason, and nil if refused is 0. Nothing is allocated.
	Send(b *Batch) (refused int, err error)

	// Receive takes one datagram, or several of equal length from one
	// sender that the kernel has merged, without waiting. m.Buffer is the
	// caller's and should have MaxDatagram bytes; the rest of m is
	// overwritten. It returns ErrAgain when nothing is there. Nothing is
	// allocated.
	Receive(m *Message) error

	// Wait sleeps until Receive would give something, or until Wake. It
	// returns false once Wake was called, then and for ever after.
	Wait() bool

	// Wake ends the current and all later calls of Wait.
	Wake()

	// SetInterface chooses the real interface by index, and the source
	// address of what is sent without one of its own.
	SetInterface(index int, address netip.Addr)

	// Close closes the socket. Send, Receive and Wait must have ended.
	Close() error
}

// MaxDatagram is the largest number of bytes that Receive can give at once.
const MaxDatagram = 65535

// Limits of one batch: 64 segments is what every kernel since UDP_SEGMENT
// takes, and an IPv4 datagram ends at 65,507 bytes of payload.
const (
	MaxSegments   = 64
	MaxBatchBytes = 65000
)

// Batch is one or more datagrams for one destination. All but the last are
// SegmentSize long, the last one may be shorter.
type Batch struct {
	Data        []byte         // the datagrams, one behind the other
	SegmentSize int            // length of each; len(Data) or 0 for a single one
	Destination netip.AddrPort // IPv4, group or host
	Source      netip.Addr     // invalid: the interface's
	TTL         uint8          // 0: DefaultTTL
	TOS         uint8          // DSCP and ECN of all of them
}

// DefaultTTL is the outer TTL of a batch that names none.
const DefaultTTL = 64

// Segments is the number of datagrams in the batch.
func (b *Batch) Segments() int {
	if b.SegmentSize <= 0 || len(b.Data) <= b.SegmentSize {
		return 1
	}
	return (len(b.Data) + b.SegmentSize - 1) / b.SegmentSize
}

// Message is what Receive gives.
type Message struct {
	Buffer      []byte         // where to receive; set by the caller
	Data        []byte         // what came: a prefix of Buffer
	SegmentSize int            // length of each datagram in Data, len(Data) if only one
	Source      netip.AddrPort // outer source
	Destination netip.Addr     // outer destination: a group or an own address
	Interface   int            // index of the interface by which it came
	TOS         uint8          // outer DSCP and ECN
}

// Stats are counters of a socket. They only grow.
type Stats struct {
	ReceiveOverflow     uint64 // datagrams lost because the socket's buffer was full
	SegmentationRefused uint64 // batches that had to go one by one
	SegmentationOff     bool   // the driver cannot segment: batches go one by one for good
}
