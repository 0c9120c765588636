package schedule

const (
	// offsetSamples is how many answers an [Offset] remembers.
	offsetSamples = 8
	// readingNS is the part of the bound that no round trip shows: reading
	// the clocks, and rounding on the wire.
	readingNS = 1_000_000
	// driftDivisor is the drift of a clock against another, 200 ppm, as a
	// divisor of the age.
	driftDivisor = 5000
	// farNS stands for an instant that never comes: the year 2223, so that a
	// bound added to it still fits in 64 bits.
	farNS = 8_000_000_000_000_000_000
)

// Sample is one authenticated answer of a server as a reading of its clock.
// Answers of [StatusClock] are no readings: leave them out.
type Sample struct {
	// T1BootNS and T4BootNS are when the request was sent and the answer
	// received, by CLOCK_BOOTTIME.
	T1BootNS, T4BootNS int64
	// ServerUS is the server's Unix time at sending, ElapsedUS how long
	// before that the request came in, both in µs.
	ServerUS  uint64
	ElapsedUS uint32
}

// Offset is the server's clock as a client knows it: the best of the last 8
// samples, carried by CLOCK_BOOTTIME, with a bound e of its error that grows
// with age (docs/keying.md §6, "Sender clock"). The host's wall clock plays no
// part, so steps of it do nothing. The zero value knows nothing. It is a plain
// value and not safe for concurrent use.
type Offset struct {
	readings [offsetSamples]reading
	count    uint64
	best     reading
}

// reading is one sample worked out.
type reading struct {
	atBootNS int64 // when it was taken
	offsetNS int64 // server's Unix time less boot time
	errorNS  int64 // e at atBootNS
}

// Add takes a sample in; false means that it cannot be (an answer before its
// request, a server that took longer than the round trip, a time beyond the
// year 2200) and was left out.
func (o *Offset) Add(s Sample) bool {
	elapsedNS := int64(s.ElapsedUS) * 1000
	outsideNS := s.T4BootNS - s.T1BootNS - elapsedNS
	if s.T4BootNS < s.T1BootNS || outsideNS < -readingNS || s.ServerUS > maxInstantMS*1000 {
		return false
	}
	sentNS := int64(s.ServerUS) * 1000
	// ((t₂ − t₁) + (t₃ − t₄)) ÷ 2, halved first: the sum may overflow.
	r := reading{
		atBootNS: s.T4BootNS,
		offsetNS: (sentNS - elapsedNS - s.T1BootNS) - (s.T4BootNS-s.T1BootNS-elapsedNS)/2,
		errorNS:  max(outsideNS, 0)/2 + readingNS,
	}
	o.readings[o.count%offsetSamples] = r
	o.count++
	// All bounds grow alike, so which is smallest does not depend on when
	// one looks.
	o.best = r
	for _, other := range o.readings[:min(o.count, offsetSamples)] {
		if other.errorAt(r.atBootNS) < o.best.errorAt(r.atBootNS) {
			o.best = other
		}
	}
	return true
}

// Ready reports whether there is any sample.
func (o *Offset) Ready() bool { return o.count > 0 }

// NowNS is the server's Unix time at the boot time given, and e, both in ns.
func (o *Offset) NowNS(bootNS int64) (unixNS, errorNS int64, ok bool) {
	if !o.Ready() {
		return 0, 0, false
	}
	return bootNS + o.best.offsetNS, o.best.errorAt(bootNS), true
}

// NowMS is the same in ms, the error rounded up and with room for the rounding
// of the time.
func (o *Offset) NowMS(bootNS int64) (ms int64, errMS int64, ok bool) {
	unixNS, errorNS, ok := o.NowNS(bootNS)
	if !ok {
		return 0, 0, false
	}
	const perMS = 1_000_000
	return floorDiv(unixNS, perMS), (errorNS + 2*perMS - 1) / perMS, true
}

// BootAt is the boot time at which the server's clock shows ms, by the offset
// of today; 0 without any sample.
func (o *Offset) BootAt(ms int64) (bootNS int64) {
	if !o.Ready() {
		return 0
	}
	return nanoseconds(ms) - o.best.offsetNS
}

// errorAt is e: the error of the reading and 200 ppm of its age, rounded up.
func (r reading) errorAt(bootNS int64) int64 {
	age := max(bootNS-r.atBootNS, 0)
	return r.errorNS + age/driftDivisor + min(age%driftDivisor, 1)
}

// latestReached is the first boot time at which now + e ≥ unixNS: the server's
// clock may show it already.
func (r reading) latestReached(unixNS int64) int64 {
	at := unixNS - r.offsetNS - r.errorNS
	if age := at - r.atBootNS; age > 0 {
		at -= age / (driftDivisor + 1)
	}
	for at-1+r.offsetNS+r.errorAt(at-1) >= unixNS {
		at--
	}
	for at+r.offsetNS+r.errorAt(at) < unixNS {
		at++
	}
	return at
}

// earliestReached is the first boot time from which on now − e ≥ unixNS: the
// server's clock shows it for certain.
func (r reading) earliestReached(unixNS int64) int64 {
	at := unixNS - r.offsetNS + r.errorNS
	if age := at - r.atBootNS; age > 0 {
		at += age / (driftDivisor - 1)
	}
	for at+r.offsetNS-r.errorAt(at) < unixNS {
		at++
	}
	for at-1+r.offsetNS-r.errorAt(at-1) >= unixNS {
		at--
	}
	return at
}

// nanoseconds turns ms into ns; what does not fit becomes "never".
func nanoseconds(ms int64) int64 {
	if ms > farNS/1_000_000 {
		return farNS
	}
	return max(ms, -farNS/1_000_000) * 1_000_000
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
