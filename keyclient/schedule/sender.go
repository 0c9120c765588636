package schedule

import "math"

// maxErrorNS caps a bound of error, 30 years, so that sums fit in 64 bits.
const maxErrorNS = 1_000_000_000_000_000_000

// SenderKey is the rule of docs/keying.md §6, "Sender clock", for one instant:
// which key a sender may encrypt under, given the one that it uses (−1: none
// yet), the server's time and the bound of its error in ms. ok is false where
// it must be silent.
//
// From a key in use only the next one can be reached; a sender that has slept
// through an interval starts from −1 again.
func (t Timing) SenderKey(inUse int64, nowMS, eMS int64) (key int64, ok bool) {
	return t.senderKey(inUse, nanoseconds(nowMS), min(nanoseconds(eMS), maxErrorNS))
}

// SenderKeyAt is [Timing.SenderKey] by an offset, to the nanosecond.
func (t Timing) SenderKeyAt(o *Offset, inUse int64, bootNowNS int64) (key int64, ok bool) {
	nowNS, eNS, ok := o.NowNS(bootNowNS)
	if !ok {
		return 0, false
	}
	return t.senderKey(inUse, nowNS, eNS)
}

func (t Timing) senderKey(inUse, nowNS, eNS int64) (key int64, ok bool) {
	stopped := func(i uint32) bool { return nowNS+eNS >= nanoseconds(t.endMS(i)) }
	switch {
	case inUse < 0:
		// The only key not stopped and perhaps begun is that of the
		// interval in which the latest possible time lies.
		inUse = int64(t.running(floorDiv(nowNS+eNS, 1_000_000)))
	case inUse >= math.MaxUint32 || !t.exists(uint32(inUse)):
		return 0, false
	case !stopped(uint32(inUse)):
		if inUse > 0 {
			return inUse, true
		}
	default:
		inUse++
	}
	i := uint32(inUse)
	if !t.exists(i) || stopped(i) || !t.started(i, nowNS, eNS) {
		return 0, false
	}
	return inUse, true
}

// started is the rule for beginning with key i. Written out in §6 it has two
// cases, e ≤ tolerance and e > tolerance; both together say that key i−1 must
// be stopped, and that we are not earlier than the margin covers.
func (t Timing) started(i uint32, nowNS, eNS int64) bool {
	begins := nanoseconds(t.T(i))
	if i == 0 {
		return nowNS-eNS >= begins
	}
	return nowNS+eNS >= begins && nowNS-eNS >= begins-nanoseconds(2*t.ToleranceMS())
}

// SendSpan is the same rule for all instants: key i may be used from
// fromBootNS until before untilBootNS on the boot clock, by what o knows now,
// with e growing all the while. Compute it again after each sample. ok is
// false where key i may not be used any more or at all: no such interval, no
// sample, a bound too wide, or the span is over at bootNowNS.
//
// Spans of neighbouring keys never overlap.
func (t Timing) SendSpan(o *Offset, i uint32, bootNowNS int64) (fromBootNS, untilBootNS int64, ok bool) {
	if !o.Ready() || !t.exists(i) {
		return 0, 0, false
	}
	begins := nanoseconds(t.T(i))
	if i == 0 {
		fromBootNS = o.best.earliestReached(begins)
	} else {
		fromBootNS = max(
			o.best.latestReached(begins),
			o.best.earliestReached(begins-nanoseconds(2*t.ToleranceMS())),
		)
	}
	untilBootNS = o.best.latestReached(nanoseconds(t.endMS(i)))
	return fromBootNS, untilBootNS, fromBootNS < untilBootNS && bootNowNS < untilBootNS
}
