package main

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// monotonic reads CLOCK_MONOTONIC without a system call: Go's own clock is the
// same one, counted from another instant.
type monotonic struct {
	base time.Time
	ns   int64
}

func newMonotonic() (monotonic, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return monotonic{}, err
	}
	return monotonic{base: time.Now(), ns: now.Nano()}, nil
}

func (m monotonic) now() int64 { return m.ns + int64(time.Since(m.base)) }

// spinBelow is the interval that cannot be slept: waking up takes as long.
const spinBelow = int64(200 * time.Microsecond)

// lateBy is when a burst counts as late.
const lateBy = int64(time.Millisecond)

// pacer gives out instants at a fixed distance. One that falls behind catches
// up at once, so that the rate over a run is kept, and counts how often.
type pacer struct {
	clock    monotonic
	interval int64
	next     int64
	late     uint64
}

// newPacer paces steps of burst datagrams at rate datagrams a second; rate 0
// does not wait.
func newPacer(clock monotonic, rate, burst int) *pacer {
	p := &pacer{clock: clock, next: clock.now()}
	if rate > 0 {
		p.interval = int64(burst) * int64(time.Second) / int64(rate)
	}
	return p
}

// prepareThread makes sleeps of this goroutine's thread end when they should:
// the kernel's default slack is 50 µs.
func prepareThread() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // without it sleeps are longer
}

// wait returns at the next instant, and tells what time it is.
func (p *pacer) wait() int64 {
	now := p.clock.now()
	if p.interval == 0 {
		return now
	}
	if now-p.next > lateBy {
		p.late++
	}
	if p.interval >= spinBelow && now < p.next {
		until := unix.NsecToTimespec(p.next)
		for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &until, nil) == unix.EINTR { //nolint:errorlint // a system call's bare number
		}
		now = p.clock.now()
	}
	for now < p.next {
		now = p.clock.now()
	}
	p.next += p.interval
	return now
}
