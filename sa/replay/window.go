// Package replay is the anti-replay window of one sender (RFC 4303 §3.4.3), in the form of RFC 6479:
// a ring of words that is never shifted. Use [Window.Check] before a packet is authenticated and
// [Window.Commit] after; a window must never change for a packet that did not authenticate.
package replay

const (
	wordBits = 64
	words    = 128 // a power of two, so that a counter's word is found by a mask
)

// Width is how many counters back from the highest committed one a packet is still taken:
// one word of the ring is always in part ahead of the highest counter (RFC 6479 §2).
const Width = (words - 1) * wordBits // 8,128

// Verdict says what a window makes of a counter.
type Verdict uint8

// The verdicts. Seen and TooOld are kept apart, since they have different causes: somebody repeats
// packets, or the network reorders more than the window is wide.
const (
	OK     Verdict = iota // new, and not too far back
	Seen                  // committed before
	TooOld                // at least Width behind the highest, or 0, which nobody sends
)

// String returns the verdict's name as counters have it.
func (v Verdict) String() string {
	switch v {
	case OK:
		return "ok"
	case Seen:
		return "replay_seen"
	}
	return "replay_old"
}

// Window remembers which of the last Width counters were committed. The zero value is an empty
// window. It is not safe for concurrent use: one goroutine owns it. It takes 1,032 bytes.
type Window struct {
	highest uint64
	ring    [words]uint64
}

// Check returns what the window makes of a counter (48 bits, or a 32-bit sequence number), and
// changes nothing.
func (w *Window) Check(counter uint64) Verdict {
	switch {
	case counter == 0: // RFC 4303 §2.2: the first packet has 1
		return TooOld
	case counter > w.highest:
		return OK
	case w.highest-counter >= Width:
		return TooOld
	case w.ring[counter/wordBits%words]&(1<<(counter%wordBits)) != 0:
		return Seen
	}
	return OK
}

// Commit records the counter of an authenticated packet. One that is too old changes nothing.
func (w *Window) Commit(counter uint64) {
	if counter > w.highest {
		w.advance(counter)
	} else if counter == 0 || w.highest-counter >= Width {
		return
	}
	w.ring[counter/wordBits%words] |= 1 << (counter % wordBits)
}

// Highest returns the highest counter committed, 0 if none was.
func (w *Window) Highest() uint64 { return w.highest }

// advance moves the window up to counter and forgets the words that it enters.
func (w *Window) advance(counter uint64) {
	from, to := w.highest/wordBits, counter/wordBits
	for i := range min(to-from, words) {
		w.ring[(from+1+i)%words] = 0
	}
	w.highest = counter
}
