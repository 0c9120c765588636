// Package clock is the host's clocks as a value: wall time, time since boot,
// and how far the kernel trusts the wall time. Whoever has to reason about time
// (client, key role, simulator) is given a [Clock] instead of asking the host.
//
// Start with [System]; tests in a synctest bubble use [FromTime].
//
// The package must never set a clock.
package clock

import "time"

// Undisciplined is what [Clock.MaxError] returns where the kernel does not
// know its error: the limit at which the kernel itself gives up (NTP_PHASE_LIMIT).
const Undisciplined = 16 * time.Second

// Clock reads the host's clocks. All three functions are set and may be called
// from any goroutine.
type Clock struct {
	// Wall is the wall clock. It may jump in either direction.
	Wall func() time.Time
	// Boot is CLOCK_BOOTTIME: since boot, steady, counting suspended time too.
	Boot func() time.Duration
	// MaxError bounds the wall clock's error, as the kernel knows it
	// (adjtimex maxerror); [Undisciplined] or more where nothing steers it.
	MaxError func() time.Duration
}

// BootNS is Boot in nanoseconds, the unit of the data plane.
func (c Clock) BootNS() int64 { return int64(c.Boot()) }

// FromTime returns a clock made of package time alone, so that a synctest
// bubble drives it. Boot counts from this call, MaxError is 0.
func FromTime() Clock {
	start := time.Now()
	return Clock{
		Wall:     time.Now,
		Boot:     func() time.Duration { return time.Since(start) },
		MaxError: func() time.Duration { return 0 },
	}
}
