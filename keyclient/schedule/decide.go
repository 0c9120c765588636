package schedule

import (
	"fmt"
	"math"
)

// Status is the first byte of a refresh answer's body (docs/keying.md §5.2).
type Status uint8

// The statuses of docs/keying.md §5.2.
const (
	StatusGiven      Status = iota // keys given; also the answer to want 0
	StatusWithheld                 // suspended, or no member
	StatusNotYet                   // no key may be given at this time
	StatusEnded                    // the occurrence is over
	StatusEnrolAgain               // the enrolment is over
	StatusBusy                     // overloaded, or the server's set is too old
	StatusClock                    // the server does not trust its clock
	StatusIncomplete               // as withheld, in the form of given
)

// String is the status in words, for logs and `usher status`.
func (s Status) String() string {
	names := [...]string{"given", "withheld", "not yet", "ended", "enrol again", "busy", "clock", "incomplete"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// CarriesCookie reports whether an answer of this status brings a new cookie.
func (s Status) CarriesCookie() bool { return s != StatusEnded && s != StatusEnrolAgain }

// Question is what the server knows when it comes to step 9 of docs/keying.md
// §5.3.
type Question struct {
	// NowMS is the server's time.
	NowMS int64
	// First is the first interval not yet given, out of the cookie.
	First uint32
	// Want is how many key records were asked for, RecordsPerInterval how
	// many one interval takes (0 counts as 1; more for a unicast receiver of
	// several senders).
	Want, RecordsPerInterval int
	// Refusal is what clock, set, enrolment or membership decided; 0 if
	// nothing speaks against giving.
	Refusal Status
	// NewestRow is the newest interval whose secret the server has.
	NewestRow uint32
}

// Verdict is the answer to a [Question]: what to give, and what the new
// cookie and the body say.
type Verdict struct {
	Status Status
	// Given are the intervals that get records: with [StatusGiven] their
	// keys, with [StatusIncomplete] zeros.
	Given []uint32
	// FirstAfter and CookieNumber go into the new cookie; both are 0 where
	// the status brings none.
	FirstAfter, CookieNumber uint32
	// WindowOpensMS and WindowLastsMS are the next window as the body has
	// it: opens in so many ms (0: it is open), and lasts so many from then
	// on. Both 0: there is none.
	WindowOpensMS, WindowLastsMS uint32
}

// Decide is the key server's verdict: steps 6 to 10 of docs/keying.md §5.3,
// given what clock, set and membership say.
func (t Timing) Decide(q Question) Verdict {
	status := t.status(q)
	if !status.CarriesCookie() {
		return Verdict{Status: status}
	}
	v := Verdict{Status: status, FirstAfter: q.First}
	current := t.Current(q.NowMS)
	switch status {
	case StatusGiven:
		v.Given = t.toGive(q)
		if len(v.Given) > 0 {
			v.FirstAfter = v.Given[len(v.Given)-1] + 1
		} else if q.Want > 0 {
			v.Status = StatusNotYet
		}
	case StatusIncomplete:
		v.Given = t.toGive(q)
		v.FirstAfter = max(current+1, q.First)
	case StatusWithheld:
		v.FirstAfter = max(current+1, q.First)
	}
	v.CookieNumber = t.cookieNumber(v.FirstAfter, current, q.NewestRow)
	v.WindowOpensMS, v.WindowLastsMS = t.nextWindow(v.FirstAfter, q.NowMS)
	return v
}

// status orders the refusals as docs/keying.md §5.3 does: a server that
// trusts neither its clock nor its set cannot know that an event has ended.
func (t Timing) status(q Question) Status {
	switch {
	case q.Refusal == StatusClock || q.Refusal == StatusBusy:
		return q.Refusal
	case t.Over(q.NowMS):
		return StatusEnded
	default:
		return q.Refusal
	}
}

// toGive are the intervals of step 9: from max(c, first) on as long as each
// may be given and all of its records fit.
func (t Timing) toGive(q Question) []uint32 {
	perInterval := max(q.RecordsPerInterval, 1)
	var given []uint32
	for i := max(t.Current(q.NowMS), q.First); t.Givable(i, q.NowMS) && i <= q.NewestRow; i++ {
		if (len(given)+1)*perInterval > q.Want || i == math.MaxUint32 {
			break
		}
		given = append(given, i)
	}
	return given
}

// cookieNumber is n' of docs/keying.md §5.3.
func (t Timing) cookieNumber(first, current, newestRow uint32) uint32 {
	number := int64(first) - 1 + int64(t.Span())
	if t.Push {
		g := int64(t.G())
		number = (int64(current)/g+2)*g - 1
	}
	number = max(number, int64(t.Preview))
	if n, finite := t.N(); finite {
		number = min(number, int64(n)-1)
	}
	return uint32(min(number, int64(newestRow)))
}

// nextWindow is the window that the body of an answer names (docs/keying.md
// §5.2): of the lowest interval from `first` − ahead + 1 on whose window is
// not over.
func (t Timing) nextWindow(first uint32, nowMS int64) (opensMS, lastsMS uint32) {
	opens, closes, ok := t.nextWindowMS(first, nowMS)
	if !ok {
		return 0, 0
	}
	from := max(opens, nowMS)
	return capped(from - nowMS), capped(closes - from)
}

// nextWindowMS is the same as two instants; ok is false if there is none.
func (t Timing) nextWindowMS(first uint32, nowMS int64) (opensMS, closesMS int64, ok bool) {
	lowest := max(int64(first)-int64(t.Ahead)+1, int64(t.Preview))
	if closing := nowMS + t.MarginMS(); closing >= t.StartMS {
		// Windows close in order: all up to that of the interval in which
		// `closing` lies are over.
		lowest = max(lowest, int64(t.running(closing))+1)
	}
	if lowest > math.MaxUint32 || !t.exists(uint32(lowest)) {
		return 0, 0, false
	}
	opensMS, closesMS = t.Window(uint32(lowest))
	return opensMS, closesMS, true
}

func capped(ms int64) uint32 { return uint32(min(max(ms, 0), math.MaxUint32)) }
