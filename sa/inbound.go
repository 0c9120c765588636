package sa

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"usher/sa/esp"
	"usher/sa/replay"
)

// MaxSenders is how many senders one association remembers (docs/design.md §3).
const MaxSenders = 4096

// Bounds of a receiver (docs/keying.md §9, §10).
const (
	maxFailedOpens = 1 << 36 // failed integrity checks, after which the key is dropped
	jumpSlack      = 1 << 16 // how far ahead a packet may be at any time
	nsPerNumber    = 100     // and beyond that, one for each 100 ns: 10⁷ a second
)

// receiver is what a receiving association remembers. The windows belong to the goroutine that
// receives; the counters are read by others.
type receiver struct {
	windows     map[uint16]*window
	failedLimit uint64 // maxFailedOpens

	packets, bytes                                       atomic.Uint64 // accepted: packets, and bytes of what they held
	expired, seen, old, jump, tooMany, badICV, malformed atomic.Uint64
	senders                                              atomic.Uint64
}

// window is the replay window of one sender.
type window struct {
	replay.Window
	lastNS int64 // when the last packet was accepted, boot ns
}

func (r *receiver) init() {
	r.windows = make(map[uint16]*window)
	r.failedLimit = maxFailedOpens
}

// Open takes one inbound packet through the association, in place: it accepts at this instant (boot
// ns), the packet's number is new and no jump, the packet authenticates, then the sender's window is
// made or moved. It returns what [esp.Cipher.Open] returns. Errors, each counted: [ErrExpired],
// [ErrReplaySeen], [ErrReplayOld], [ErrReplayJump], [ErrTooManySenders], and those of package esp. What
// the packet holds must then pass [SA.Matches]. For one goroutine at a time.
func (s *SA) Open(pkt []byte, bootNS int64) (inner []byte, nextHeader uint8, err error) {
	r := &s.receive
	if !s.Accepts(bootNS) {
		r.expired.Add(1)
		return nil, 0, ErrExpired
	}
	if len(pkt) < esp.MinLen {
		r.malformed.Add(1)
		return nil, 0, esp.ErrShort
	}
	sender, number := s.replayNumber(pkt)
	if err := s.check(r.windows[sender], number, bootNS); err != nil {
		return nil, 0, err
	}
	inner, nextHeader, err = s.cipher.Open(pkt)
	if err != nil && !authentic(err) {
		return nil, 0, s.countFailure(err)
	}
	if !s.commit(sender, number, bootNS) {
		r.tooMany.Add(1)
		return nil, 0, ErrTooManySenders
	}
	if err != nil {
		r.malformed.Add(1)
		return nil, 0, err
	}
	r.packets.Add(1)
	r.bytes.Add(uint64(len(inner)))
	return inner, nextHeader, nil
}

// authentic reports whether a packet that was refused with err had passed its integrity check: its
// number is then used up (RFC 4303 §3.4.3).
func authentic(err error) bool {
	return errors.Is(err, esp.ErrBadPadding) || errors.Is(err, esp.ErrBadNextHeader)
}

// replayNumber returns whose window looks at the packet, and at which number.
func (s *SA) replayNumber(pkt []byte) (sender uint16, number uint64) {
	if s.params.Replay == BySender {
		iv := binary.BigEndian.Uint64(pkt[8:])
		return uint16(iv >> 48), iv & maxCounter
	}
	return 0, uint64(binary.BigEndian.Uint32(pkt[4:]))
}

// check looks at a packet before it is authenticated and changes nothing but counters. w is nil for a
// sender that was not heard yet.
func (s *SA) check(w *window, number uint64, bootNS int64) error {
	if s.params.Replay == None {
		return nil
	}
	r := &s.receive
	if p := &s.params; p.Initiation != 0 && number > reachable(bootNS-p.Initiation+p.InitiationSlack) {
		r.jump.Add(1)
		return ErrReplayJump
	}
	if w == nil { // only number 0 is refused, as by any window
		if number == 0 {
			r.old.Add(1)
			return ErrReplayOld
		}
		return nil
	}
	if highest := w.Highest(); number > highest && number-highest > reachable(bootNS-w.lastNS) {
		r.jump.Add(1)
		return ErrReplayJump
	}
	switch w.Check(number) {
	case replay.Seen:
		r.seen.Add(1)
		return ErrReplaySeen
	case replay.TooOld:
		r.old.Add(1)
		return ErrReplayOld
	}
	return nil
}

// reachable returns how many numbers an honest sender can have used in a time (docs/keying.md §9).
func reachable(ns int64) uint64 { return uint64(max(ns, 0))/nsPerNumber + jumpSlack }

// commit records an authentic packet in its sender's window, which it makes if there is none. It is
// false if there are too many.
func (s *SA) commit(sender uint16, number uint64, bootNS int64) bool {
	if s.params.Replay == None {
		return true
	}
	r := &s.receive
	w := r.windows[sender]
	if w == nil {
		if len(r.windows) >= MaxSenders {
			return false
		}
		w = new(window)
		r.windows[sender] = w
		r.senders.Add(1)
	}
	w.Commit(number)
	w.lastNS = bootNS
	return true
}

// countFailure counts a packet that did not authenticate, and drops the key when that has happened so
// often that a forgery could succeed (docs/keying.md §10). It returns the error of [SA.Open].
func (s *SA) countFailure(err error) error {
	r := &s.receive
	switch {
	case errors.Is(err, esp.ErrWiped): // removed since the packet was looked up
		r.expired.Add(1)
		return ErrExpired
	case errors.Is(err, esp.ErrShort):
		r.malformed.Add(1)
	default:
		if r.badICV.Add(1) == r.failedLimit {
			s.wipe()
			s.notify()
		}
	}
	return err
}

// Matches reports whether an inner packet is one of those that the policies of the association select
// inbound (RFC 4301 §5.2 step 4). A policy is turned round, as [Policy] says, unless its destination is
// multicast.
func (s *SA) Matches(t Tuple) bool {
	if s.family == nil {
		return false
	}
	_, ok := s.family.inbound.Load().find(t)
	return ok
}
