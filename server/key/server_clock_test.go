package key

import (
	"sync/atomic"
	"testing"
	"time"

	"usher/keyclient/clock"
)

// handClock is a host whose clocks a test turns.
type handClock struct{ wall, boot atomic.Int64 }

func newHandClock(at time.Time) *handClock {
	h := new(handClock)
	h.wall.Store(at.UnixNano())
	h.boot.Store(int64(time.Hour))
	return h
}

// pass lets time pass; step moves the wall clock alone.
func (h *handClock) pass(d time.Duration) { h.wall.Add(int64(d)); h.boot.Add(int64(d)) }
func (h *handClock) step(d time.Duration) { h.wall.Add(int64(d)) }

func (h *handClock) clock() clock.Clock {
	return clock.Clock{
		Wall:     func() time.Time { return time.Unix(0, h.wall.Load()) },
		Boot:     func() time.Duration { return time.Duration(h.boot.Load()) },
		MaxError: func() time.Duration { return 0 },
	}
}

var testStart = time.Unix(1_800_000_000, 0)

// TestServerClockStep: a step makes the clock untrusted and moves it not at all;
// stepped back, it is trusted again.
func TestServerClockStep(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour, 1001 * time.Millisecond, -1001 * time.Millisecond} {
		h := newHandClock(testStart)
		c := newServerClock(h.clock(), 0, 0)
		h.pass(10 * time.Second)
		h.step(step)
		for range 20 {
			h.pass(200 * time.Millisecond)
			if at := c.tick(); at.trusted {
				t.Fatalf("step of %v: still trusted", step)
			}
		}
		if got := c.now().time().Sub(testStart); got != 14*time.Second {
			t.Errorf("step of %v: %v have passed, want 14 s", step, got)
		}
		h.step(-step)
		if at := c.now(); !at.trusted {
			t.Errorf("step of %v taken back: not trusted", step)
		}
	}
}

// TestServerClockSlew: a small difference is made up slowly, never by going back.
func TestServerClockSlew(t *testing.T) {
	for _, step := range []time.Duration{500 * time.Millisecond, -500 * time.Millisecond} {
		h := newHandClock(testStart)
		c := newServerClock(h.clock(), 0, 0)
		h.step(step)
		last := c.now().wallNS
		for range 1100 * 5 {
			h.pass(200 * time.Millisecond)
			c.tick()
			at := c.now()
			if !at.trusted || at.wallNS <= last {
				t.Fatalf("step of %v: trusted %v, from %d to %d", step, at.trusted, last, at.wallNS)
			}
			if passed := at.wallNS - last; passed < 199_800_000 || passed > 200_200_000 {
				t.Fatalf("step of %v: 200 ms took %d ns", step, passed)
			}
			last = at.wallNS
		}
		if d := c.difference(c.now()); d.Abs() > time.Microsecond {
			t.Errorf("step of %v: still %v apart", step, d)
		}
	}
}

// TestServerClockFloor: a host that wakes up before the ratchet's time is not
// believed, until its clock is right.
func TestServerClockFloor(t *testing.T) {
	h := newHandClock(time.Unix(1000, 0))
	c := newServerClock(h.clock(), testStart.UnixNano(), testStart.Add(24*time.Hour).UnixNano())
	if c.now().trusted || c.tick().trusted {
		t.Error("1970 is believed")
	}
	h.wall.Store(testStart.Add(25 * time.Hour).UnixNano())
	if c.tick().trusted {
		t.Error("a day too late is believed")
	}
	h.wall.Store(testStart.Add(time.Minute).UnixNano())
	if c.now().trusted {
		t.Error("believed before the clock was read again")
	}
	at := c.tick()
	if !at.trusted || !at.time().Equal(testStart.Add(time.Minute)) {
		t.Errorf("after the clock was set: trusted %v, %v", at.trusted, at.time())
	}
}
