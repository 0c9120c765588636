package schedule

import (
	"fmt"
	"math"
)

const (
	// GraceMS is how long a receiver still accepts packets of an interval
	// after its end (docs/keying.md §4).
	GraceMS int64 = 2000
	// LingerMS is how long a key server keeps an interval's secret after its
	// end (docs/keying.md §2).
	LingerMS int64 = 5000
)

// Limits of docs/keying.md §10, and what follows from them.
const (
	minIntervalMS = 1000
	maxIntervalMS = 7 * 24 * 3600 * 1000
	maxInitialMS  = 7 * 24 * 3600 * 1000
	maxWindowMS   = 8 * maxIntervalMS
	maxAhead      = 8
	// maxInstantMS keeps every instant, with any window added, in the range
	// of int64 nanoseconds: the year 2200.
	maxInstantMS = 7258118400000

	defaultGenerationMS = 5 * 60 * 1000
	minGeneration       = 4
	spanMS              = 60 * 1000
	leadMS              = 3600 * 1000
	minLead             = 8
)

// Timing is one occurrence of an event: all that decides when its intervals
// run and when their keys may be had (docs/keying.md §1). Times are in ms.
// The zero value is not valid; [Timing.Validate] says what is.
type Timing struct {
	// StartMS is T₀, in whole seconds; EndMS is the end, 0 for none.
	StartMS, EndMS int64
	// FirstMS is the length of interval 0, IntervalMS of every later one;
	// InitialMS is how long before the start key p may be had, WindowMS the
	// window of the others.
	FirstMS, IntervalMS, InitialMS, WindowMS int64
	// Ahead is how many windows early a key may be given (1: in its own);
	// Preview is p, the number of intervals before the first with a key.
	Ahead, Preview uint32
	// Push is set where keys come by multicast (docs/keying.md §7), in
	// generations of GenerationMS (0: five minutes).
	Push         bool
	GenerationMS int64
}

// Validate checks t against itself and the limits of docs/keying.md §§1 and
// 10. The error wraps [ErrTiming] and names the field.
func (t Timing) Validate() error {
	bad := func(field, format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrTiming, field, fmt.Sprintf(format, args...))
	}
	if t.StartMS <= 0 || t.StartMS > maxInstantMS {
		return bad("start", "%d ms is outside 1970 to 2200", t.StartMS)
	}
	if t.StartMS%1000 != 0 {
		return bad("start", "%d ms is not a whole second", t.StartMS)
	}
	if t.EndMS != 0 && (t.EndMS <= t.StartMS || t.EndMS > maxInstantMS) {
		return bad("end", "%d ms is not between the start, %d ms, and the year 2200", t.EndMS, t.StartMS)
	}
	if t.FirstMS < minIntervalMS || t.FirstMS > maxIntervalMS {
		return bad("first", "%d ms is outside 1 s to 7 days", t.FirstMS)
	}
	if t.IntervalMS < minIntervalMS || t.IntervalMS > maxIntervalMS {
		return bad("interval", "%d ms is outside 1 s to 7 days", t.IntervalMS)
	}
	if (t.EndMS-t.StartMS)/t.IntervalMS >= math.MaxUint32 {
		return bad("end", "%d ms is more than 2³² intervals after the start", t.EndMS)
	}
	if t.InitialMS < 0 || t.InitialMS > maxInitialMS {
		return bad("initial", "%d ms is outside 0 to 7 days", t.InitialMS)
	}
	if t.WindowMS < 2*t.MarginMS() || t.WindowMS > maxWindowMS {
		return bad("window", "%d ms is outside twice the margin, %d ms, to 56 days", t.WindowMS, 2*t.MarginMS())
	}
	if t.Ahead < 1 || t.Ahead > maxAhead {
		return bad("ahead", "%d is outside 1 to %d", t.Ahead, maxAhead)
	}
	if n, finite := t.N(); finite && t.Preview >= n {
		return bad("preview", "%d intervals of preview leave none of %d with a key", t.Preview, n)
	}
	if t.Push && t.Ahead != 1 {
		return bad("ahead", "%d keys ahead, but a push event gives 1", t.Ahead)
	}
	if t.Push && t.WindowMS > t.IntervalMS {
		return bad("window", "%d ms is longer than the interval, %d ms, in a push event", t.WindowMS, t.IntervalMS)
	}
	if t.GenerationMS < 0 || t.GenerationMS > maxInstantMS {
		return bad("generation", "%d ms is outside 0 to 230 years", t.GenerationMS)
	}
	return nil
}

// shorter is L of docs/keying.md §1: the lesser of first and interval.
func (t Timing) shorter() int64 { return min(t.FirstMS, t.IntervalMS) }

// ToleranceMS is how far apart the clocks of a sender and the server may be:
// L ÷ 20, at most 500 ms.
func (t Timing) ToleranceMS() int64 { return min(t.shorter()/20, 500) }

// MarginMS is how long before its interval a key's window closes: twice the
// tolerance and 2 s, at most a quarter of L.
func (t Timing) MarginMS() int64 { return min(2*t.ToleranceMS()+2000, t.shorter()/4) }

// Span is how many intervals a cookie lives: as many as fill a minute
// (docs/keying.md §5.3).
func (t Timing) Span() uint32 { return uint32(ceilDiv(spanMS, t.IntervalMS)) }

// G is the number of intervals of a push generation, at least 4
// (docs/keying.md §7).
func (t Timing) G() uint32 {
	generation := t.GenerationMS
	if generation == 0 {
		generation = defaultGenerationMS
	}
	return uint32(min(max(ceilDiv(generation, t.IntervalMS), minGeneration), math.MaxUint32))
}

// Lead is how many intervals beyond the current one a key server keeps
// secrets for (docs/keying.md §3).
func (t Timing) Lead() uint32 {
	window := ceilDiv(t.WindowMS, t.IntervalMS)
	lead := max(
		ceilDiv(leadMS, t.IntervalMS),
		minLead,
		window+int64(t.Ahead)+int64(t.Span())+2,
		2*int64(t.G()),
	)
	return uint32(min(lead, math.MaxUint32))
}

// N is the number of intervals, the last one cut short by the end; finite is
// false for an occurrence without an end.
func (t Timing) N() (n uint32, finite bool) {
	if t.EndMS == 0 {
		return 0, false
	}
	first := t.StartMS + t.FirstMS
	if t.EndMS <= first {
		return 1, true
	}
	return uint32(1 + ceilDiv(t.EndMS-first, t.IntervalMS)), true
}

// exists reports whether the occurrence has an interval i.
func (t Timing) exists(i uint32) bool {
	n, finite := t.N()
	return !finite || i < n
}

// T is Tᵢ, the instant at which interval i begins and interval i−1 ends, in
// ms. Every i from N on gives the end.
func (t Timing) T(i uint32) int64 {
	if n, finite := t.N(); finite && i >= n {
		return t.EndMS
	}
	if i == 0 {
		return t.StartMS
	}
	return t.StartMS + t.FirstMS + int64(i-1)*t.IntervalMS
}

// running is the interval that contains nowMS; 0 before the start, N−1 after
// the end. Unlike [Timing.Current] it knows of no preview.
func (t Timing) running(nowMS int64) uint32 {
	var i int64
	if first := t.StartMS + t.FirstMS; nowMS >= first && t.IntervalMS > 0 {
		i = min(1+(nowMS-first)/t.IntervalMS, math.MaxUint32)
	}
	if n, finite := t.N(); finite {
		i = min(i, int64(n)-1)
	}
	return uint32(i)
}

// Current is c: the interval running at nowMS, 0 before the start, N−1 after
// the end, but p where that is greater.
func (t Timing) Current(nowMS int64) uint32 {
	return max(t.running(nowMS), t.Preview)
}

// Over reports whether the occurrence has ended at nowMS.
func (t Timing) Over(nowMS int64) bool { return t.EndMS != 0 && nowMS >= t.EndMS }

// BeginsMS is the instant from which on anything may be asked: T₀ − initial.
func (t Timing) BeginsMS() int64 { return t.StartMS - t.InitialMS }

// OpensMS is the earliest instant at which key i may be given. It has no
// meaning for i < p and i ≥ N: there is no such key.
func (t Timing) OpensMS(i uint32) int64 {
	if i <= t.Preview {
		return t.BeginsMS()
	}
	return max(t.T(i)-t.WindowMS-int64(t.Ahead-1)*t.IntervalMS, t.BeginsMS())
}

// Givable reports whether key i may be given at nowMS (docs/keying.md §1).
func (t Timing) Givable(i uint32, nowMS int64) bool {
	return i >= t.Preview && t.exists(i) && t.OpensMS(i) <= nowMS && nowMS < t.endMS(i)
}

// endMS is Tᵢ₊₁, also for the last interval that u32 can name.
func (t Timing) endMS(i uint32) int64 {
	if i == math.MaxUint32 {
		return t.T(i) + t.IntervalMS
	}
	return t.T(i + 1)
}

// Window is the window of interval i: the time in which clients ask for its
// key, closed a margin before it begins. Where the initial period is shorter
// than the margin, the window of p closes before it opens.
func (t Timing) Window(i uint32) (opensMS, closesMS int64) {
	opensMS = t.BeginsMS()
	if i > t.Preview {
		opensMS = max(opensMS, t.T(i)-t.WindowMS)
	}
	return opensMS, t.T(i) - t.MarginMS()
}

// ceilDiv is ⌈a ÷ b⌉ for a ≥ 0, b > 0; it is 0 where b is not, so that the
// values of a timing that was never validated do not stop the program.
func ceilDiv(a, b int64) int64 {
	if b <= 0 {
		return 0
	}
	return (a + b - 1) / b
}
