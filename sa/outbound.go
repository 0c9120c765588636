package sa

import (
	"sync/atomic"
)

// reserveAhead is how many numbers before the end of the reserved ones [Reservation.Extend] is asked
// for more: half a block of 2²⁰, at a million packets a second half a second.
const reserveAhead = 1 << 19

// sender is what a sending association counts. Sequence number and counter go up together, so that
// one number, the packets numbered so far, is enough for both.
type sender struct {
	numbered    atomic.Uint64 // packets that got their numbers
	packets     atomic.Uint64 // packets sealed
	bytes       atomic.Uint64 // bytes encrypted, with padding and trailer
	firstSeq    uint64
	firstIV     uint64 // sender id << 48 | first counter
	limit       uint64 // packets that the sequence number and the counter allow
	soft        uint64 // packets after which a report is due (docs/keying.md §10)
	quota       uint64 // bytes that may be encrypted
	softQuota   uint64
	reservation Reservation // nil: none needed
	quotaOver   atomic.Bool
}

func (c *sender) init(p *Params) {
	sequence, counter := uint32(1), max(p.CounterStart, 1)
	if p.Reservation != nil {
		sequence, counter = p.Reservation.First()
		c.reservation = p.Reservation
	}
	c.firstSeq = uint64(max(sequence, 1))
	c.firstIV = uint64(p.SenderID)<<48 | counter
	c.limit = min(maxSequence-c.firstSeq+1, maxCounter-counter+1)
	c.soft = threeQuarters(maxSequence)
	if c.firstSeq > c.soft {
		c.soft = 0
	}
	c.quota, c.softQuota = p.QuotaBytes, threeQuarters(p.QuotaBytes)
}

func threeQuarters(n uint64) uint64 { return n - n/4 }

// Next takes the numbers of one packet: ESP's sequence number, and the IV = sender id << 48 | counter.
// No number comes twice. ok is false once the association may send no more, or not now: see
// [SA.Exhausted]. Safe for several goroutines.
func (s *SA) Next() (seq uint32, iv uint64, ok bool) { return 0, 0, false }

// Seal makes an ESP packet in place, as [esp.Cipher.Seal] does, under numbers from [SA.Next], and
// counts it. It returns nil if the capacity is not there, the byte quota is used up or the association
// was removed.
func (s *SA) Seal(buf []byte, n int, seq uint32, iv uint64, nextHeader uint8) []byte { return nil }

// Exhausted returns why the association sends no more, or nil: [ErrSequenceOver], [ErrQuotaOver],
// [ErrNotReserved] (which may pass), [ErrRemoved].
func (s *SA) Exhausted() error { return nil }
