package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// System returns the clocks of this host.
func System() Clock {
	return Clock{Wall: wall, Boot: boot, MaxError: maxError}
}

// wall strips Go's monotonic reading: two wall times must differ by what the
// wall clock did, steps included.
func wall() time.Time { return time.Now().Round(0) }

func boot() time.Duration {
	var t unix.Timespec
	// CLOCK_BOOTTIME is in every kernel since 2.6.39 and has no error to give.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return time.Duration(t.Nano())
}

// maxError reads the kernel's bound. modes is 0, so nothing is changed.
func maxError() time.Duration {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return Undisciplined
	}
	bound := time.Duration(t.Maxerror) * time.Microsecond
	if t.Status&unix.STA_UNSYNC != 0 {
		return max(bound, Undisciplined)
	}
	return bound
}
