package sa

import (
	"sync/atomic"

	"usher/sa/esp"
)

// reserveAhead is how many numbers before the end of the reserved ones [Reservation.Extend] is asked
// for more: half a block of 2²⁰, at a million packets a second half a second.
const reserveAhead = 1 << 19

// sender is what a sending association counts. Sequence number and counter go up together, so that
// one number, the packets numbered so far, is enough for both.
type sender struct {
	numbered  atomic.Uint64 // packets that got their numbers
	packets   atomic.Uint64 // packets sealed
	bytes     atomic.Uint64 // bytes encrypted, with padding and trailer
	quotaOver atomic.Bool

	firstSeq     uint64
	firstCounter uint64
	senderID     uint64 // shifted to its place in the IV
	limit        uint64 // packets that sequence number and counter allow
	soft         uint64 // packets after which a report is due (docs/keying.md §10)
	quota        uint64 // bytes that may be encrypted, 0: not bounded
	softQuota    uint64
	reservation  Reservation // nil: none needed
}

func (c *sender) init(p *Params) {
	sequence, counter := uint32(1), max(p.CounterStart, 1)
	if p.Reservation != nil {
		sequence, counter = p.Reservation.First()
		c.reservation = p.Reservation
	}
	c.senderID = uint64(p.SenderID) << 48
	c.firstSeq, c.firstCounter = uint64(max(sequence, 1)), max(counter, 1)
	if c.firstCounter <= maxCounter {
		c.limit = min(maxSequence-c.firstSeq, maxCounter-c.firstCounter) + 1
	}
	c.soft = c.limit - min(c.limit, maxSequence/4)
	c.quota, c.softQuota = p.QuotaBytes, p.QuotaBytes-p.QuotaBytes/4
}

// Next takes the numbers of one packet: ESP's sequence number, and the IV = sender id << 48 | counter.
// No number comes twice. ok is false once the association may send no more, or not now: see
// [SA.Exhausted]. Safe for several goroutines.
func (s *SA) Next() (seq uint32, iv uint64, ok bool) {
	c := &s.send
	if s.params.Direction == Inbound || s.dead.Load() || c.quotaOver.Load() {
		return 0, 0, false
	}
	for {
		n := c.numbered.Load()
		if n >= c.limit || c.reservation != nil && !c.reserved(n) {
			return 0, 0, false
		}
		if !c.numbered.CompareAndSwap(n, n+1) {
			continue // another queue took n
		}
		if n+1 == c.soft || n+1 == c.limit {
			s.notify()
		}
		return uint32(c.firstSeq + n), c.senderID | (c.firstCounter + n), true
	}
}

// reserved reports whether the numbers of packet n are durably reserved, and asks for more in time.
func (c *sender) reserved(n uint64) bool {
	covered := c.reservation.Reserved()
	if n+reserveAhead >= covered {
		c.reservation.Extend()
	}
	return n < covered
}

// Seal makes an ESP packet in place, as [esp.Cipher.Seal] does, under numbers from [SA.Next], and
// counts it. It returns nil if the capacity is not there, the byte quota is used up or the association
// was removed. Safe for several goroutines.
func (s *SA) Seal(buf []byte, n int, seq uint32, iv uint64, nextHeader uint8) []byte {
	c := &s.send
	encrypted := uint64(esp.SealedLen(n) - esp.HeaderLen - esp.ICVLen)
	total := c.bytes.Add(encrypted)
	if c.quota != 0 {
		if total > c.quota {
			c.bytes.Add(-encrypted)
			if !c.quotaOver.Swap(true) {
				s.notify()
			}
			return nil
		}
		if total >= c.softQuota && total-encrypted < c.softQuota {
			s.notify()
		}
	}
	packet := s.cipher.Seal(buf, n, s.params.SPI, seq, iv, nextHeader)
	if packet == nil {
		c.bytes.Add(-encrypted)
		return nil
	}
	c.packets.Add(1)
	return packet
}

// Exhausted returns why the association sends no more, or nil: [ErrSequenceOver], [ErrQuotaOver],
// [ErrNotReserved] (which may pass), [ErrRemoved].
func (s *SA) Exhausted() error {
	c := &s.send
	switch n := c.numbered.Load(); {
	case s.dead.Load():
		return ErrRemoved
	case s.params.Direction == Inbound:
		return nil
	case n >= c.limit:
		return ErrSequenceOver
	case c.quotaOver.Load():
		return ErrQuotaOver
	case c.reservation != nil && n >= c.reservation.Reserved():
		return ErrNotReserved
	}
	return nil
}

// nearLimit reports whether three quarters of the packets or bytes are used up.
func (c *sender) nearLimit() bool {
	return c.numbered.Load() >= c.soft || c.quota != 0 && c.bytes.Load() >= c.softQuota
}

// last returns the numbers given out last, zeros if there are none.
func (c *sender) last() (seq uint32, counter uint64) {
	n := c.numbered.Load()
	if n == 0 {
		return 0, 0
	}
	return uint32(c.firstSeq + n - 1), c.firstCounter + n - 1
}
