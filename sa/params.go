package sa

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"time"

	"usher/sa/esp"
)

// Never is an instant that does not come: as SendFrom or AcceptFrom it keeps an association silent or deaf until its span is set anew.
const Never int64 = math.MaxInt64

// ReplayMode says which number the replay windows of an association look at.
type ReplayMode uint8

// The replay modes (docs/design.md §3).
const (
	BySender   ReplayMode = iota // one window a sender id, on the 48-bit counter of the IV
	BySequence                   // one window, on the 32-bit sequence number: for a kernel as the other end
	None                         // no window, for several kernels under one key
)

// String returns "sender", "sequence" or "none".
func (m ReplayMode) String() string {
	switch m {
	case BySender:
		return "sender"
	case BySequence:
		return "sequence"
	case None:
		return "none"
	}
	return fmt.Sprintf("replay-mode-%d", uint8(m))
}

// MarshalText returns the mode's name.
func (m ReplayMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Reservation keeps the numbers of a manually keyed sender from coming twice under one key: it holds
// them durably before they are used (docs/design.md §3, manual keying). Its methods are called from
// the packet path and must not block or allocate.
type Reservation interface {
	// First returns sequence number and counter of the first packet of this run.
	First() (sequence uint32, counter uint64)
	// Reserved returns how many packets of this run are covered so far. It never shrinks.
	Reserved() uint64
	// Extend asks for more. It is called early, and again for each packet that lacks numbers.
	Extend()
}

// Params describes an association. Instants are boot ns, negative ones before the host's start; 0 means
// unbounded. It prints without its key.
type Params struct {
	Association  string       // the policies of this association it serves: event id in hex, or a configured name
	SPI          uint32       // at least 256 (RFC 4303 §2.1)
	Destinations []netip.Addr // outer destinations it is found by, with the SPI; at least one
	Direction    Direction    // Outbound only sends, Inbound only receives
	Transform    esp.Transform
	Material     []byte     `json:"-"` // key 32 ‖ salt 4; not kept, the caller wipes it
	SenderID     uint16     // the upper 16 bits of the IVs that it sends
	Replay       ReplayMode // of inbound packets
	Interval     uint32     // number of the interval; of several that may send, the highest does

	Initiation      int64 // Tᵢ: no counter may be further ahead than 10⁷ a second since then; 0: not bounded
	InitiationSlack int64 // ns of tolerance + e that are added to the time since Initiation
	SendFrom        int64 // it sends from here on
	SendUntil       int64 // and no more from here on
	AcceptFrom      int64 // it accepts from here on
	AcceptUntil     int64 // and no more from here on; [DB.Expire] then removes it

	Gather       time.Duration // how long the sender waits for more packets of a batch; 0: not at all
	TTL          uint8         // of the outer packet; 0: the policy's, or else the inner packet's
	Source       netip.Addr    // outer source when sending; the zero address: the inner packet's
	QuotaBytes   uint64        // bytes that may be encrypted; 0: not bounded
	CounterStart uint64        // counter of the first packet, at least 1 (docs/keying.md §6, second line); 0: 1
	Reservation  Reservation   // nil: numbers need no reservation, since key or sender id are new
	KeepMaterial bool          // only where the configuration allows `usher sa --show-keys`
}

// String is one line without the key.
func (p Params) String() string {
	return fmt.Sprintf("sa %s spi %08x interval %d %s %s", p.Association, p.SPI, p.Interval, p.Direction, p.Transform)
}

// Format writes String for every verb.
func (p Params) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// LogValue returns String.
func (p Params) LogValue() slog.Value { return slog.StringValue(p.String()) }

// maxCounter is the last value of the 48-bit counter (RFC 6054, docs/design.md §3).
const maxCounter = 1<<48 - 1

// maxSequence is the last value of ESP's sequence number, which must not cycle (RFC 4303 §2.2).
const maxSequence = 1<<32 - 1

func (p *Params) validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: association %q, SPI %08x: %s", ErrBadParams, p.Association, p.SPI, fmt.Sprintf(format, args...))
	}
	switch {
	case p.Association == "":
		return fail("it has no name")
	case p.SPI < 256:
		return fail("SPIs below 256 are reserved")
	case len(p.Destinations) == 0:
		return fail("it has no destination")
	case p.Direction > Inbound || p.Replay > None:
		return fail("unknown %s or %s", p.Direction, p.Replay)
	case p.CounterStart > maxCounter:
		return fail("counter start %d does not fit 48 bits", p.CounterStart)
	case p.InitiationSlack < 0 || p.Gather < 0:
		return fail("a duration is negative")
	}
	for _, d := range p.Destinations {
		if !d.IsValid() {
			return fail("a destination is no address")
		}
	}
	return nil
}
