package clock_test

import (
	"testing"
	"testing/synctest"
	"time"

	"usher/keyclient/clock"
)

func TestSystemReadsTheHost(t *testing.T) {
	c := clock.System()
	before := c.Boot()
	if before <= 0 {
		t.Fatalf("time since boot is %v", before)
	}
	if after := c.Boot(); after < before {
		t.Errorf("boot clock went back from %v to %v", before, after)
	}
	if d := time.Since(c.Wall()); d < 0 || d > time.Minute {
		t.Errorf("wall clock is %v away from package time", d)
	}
	if wall := c.Wall(); wall != wall.Round(0) {
		t.Errorf("wall time carries a monotonic reading: %s", wall)
	}
	if e := c.MaxError(); e < 0 {
		t.Errorf("maximum error is %v", e)
	}
	if c.BootNS() < int64(before) {
		t.Error("BootNS is not Boot in nanoseconds")
	}
}

func TestFromTimeFollowsTheBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock.FromTime()
		wall := c.Wall()
		<-time.After(90 * time.Minute)
		if c.Boot() != 90*time.Minute {
			t.Errorf("boot = %v", c.Boot())
		}
		if d := c.Wall().Sub(wall); d != 90*time.Minute {
			t.Errorf("wall moved by %v", d)
		}
		if c.MaxError() != 0 {
			t.Errorf("maximum error is %v", c.MaxError())
		}
	})
}
