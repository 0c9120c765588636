package key

import (
	"sync/atomic"
	"time"

	"usher/keyclient/clock"
)

const (
	// maxStep is how far the wall clock may be from the carried time: beyond it
	// one of the two is wrong, and nobody knows which (docs/keying.md §6).
	maxStep = time.Second
	// slewRate bounds how fast the carried time follows the wall clock: 500 ppm,
	// as the kernel's own slewing.
	slewRate = 2000
)

// instant is one reading of the server's clock.
type instant struct {
	boot    time.Duration // since boot
	wallNS  int64         // carried wall time, Unix, ns
	trusted bool
}

func (i instant) ms() int64       { return i.wallNS / 1e6 }
func (i instant) us() int64       { return i.wallNS / 1e3 }
func (i instant) s() int64        { return i.wallNS / 1e9 }
func (i instant) time() time.Time { return time.Unix(0, i.wallNS) }

// serverClock is the key role's time: the wall clock read once, carried by time
// since boot, slewed. It never goes back, and no step of the wall clock moves
// it; a step makes it untrusted until wall clock and carried time agree again,
// or until a restart, by which an operator confirms the new time.
type serverClock struct {
	host clock.Clock
	// No time before the ratchet's epoch can be right, and a day beyond it is
	// more than the ratchet may advance unasked; 0: no limit.
	floorNS, ceilingNS int64

	offset atomic.Int64 // carried wall time less time since boot, ns
	valid  atomic.Bool  // has it ever been trusted?
	ticked time.Duration
}

func newServerClock(host clock.Clock, floorNS, ceilingNS int64) *serverClock {
	c := &serverClock{host: host, floorNS: floorNS, ceilingNS: ceilingNS}
	c.rebase()
	return c
}

// now reads the clock. Safe for any goroutine.
func (c *serverClock) now() instant {
	boot := c.host.Boot()
	at := instant{boot: boot, wallNS: int64(boot) + c.offset.Load()}
	at.trusted = c.valid.Load() && c.difference(at).Abs() <= maxStep
	return at
}

func (c *serverClock) difference(at instant) time.Duration {
	return time.Duration(c.host.Wall().UnixNano() - at.wallNS)
}

// tick follows the wall clock slowly. One goroutine calls it.
func (c *serverClock) tick() instant {
	if !c.valid.Load() {
		// Nothing was handed out by this time yet, so a host without a clock
		// battery may still get the right one.
		c.rebase()
		return c.now()
	}
	at := c.now()
	if at.trusted {
		bound := (at.boot - c.ticked) / slewRate
		c.offset.Add(int64(min(max(c.difference(at), -bound), bound)))
	}
	c.ticked = at.boot
	return at
}

func (c *serverClock) rebase() {
	c.ticked = c.host.Boot()
	wall := c.host.Wall().UnixNano()
	c.offset.Store(wall - int64(c.ticked))
	c.valid.Store(wall >= c.floorNS && (c.ceilingNS == 0 || wall < c.ceilingNS))
}
