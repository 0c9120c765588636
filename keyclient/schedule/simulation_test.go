package schedule_test

import (
	"testing"

	"usher/keyclient/schedule"
)

func TestSimulationServerUp(t *testing.T) {
	for name, timing := range shapes() {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(200) {
				for _, role := range []schedule.Role{schedule.RoleReceive, schedule.RoleSend} {
					w := &world{timing: timing, delayMS: int64(seed % 20)}
					join := timing.BeginsMS() - 10_000
					if seed%2 == 1 { // late
						join = timing.StartMS + int64(seed)*min(timing.IntervalMS, 10_000)/17
						if timing.Over(join + 100) {
							continue
						}
					}
					c := newClient(w, schedule.NewMachine(timing, role, schedule.Options{}), seed).run(join, end(timing))
					c.checkKeyedInTime(t, join)
					if got := c.enrolments(t); got != 1 {
						t.Errorf("seed %d: %d enrolments, want 1", seed, got)
					}
					c.pace(t)
					first, last := keysDue(timing, join)
					asked := 0 // repetitions aside: 1 s intervals have them after 24 ms
					for _, s := range c.log {
						if !s.enrol && s.try == 1 && s.want > 0 {
							asked++
						}
					}
					if asked > int(last-first)+1 {
						t.Errorf("seed %d: %d refreshes for %d keys", seed, asked, last-first+1)
					}
					if timing.EndMS != 0 && c.overAtMS < timing.EndMS {
						t.Errorf("over at %d, the end is at %d", c.overAtMS, timing.EndMS)
					}
				}
			}
		})
	}
}

// checkKeyedInTime: every key is there before its interval, the first one of a
// late-comer at once.
func (c *client) checkKeyedInTime(t *testing.T, join int64) {
	t.Helper()
	timing := c.w.timing
	first, last := keysDue(timing, join)
	for i := first; i <= last; i++ {
		at, ok := c.keys[i]
		due := timing.T(i)
		if i == first && join > timing.T(i)-timing.MarginMS() {
			due = max(due, join) + 2*c.w.delayMS
		}
		if i == first && join >= timing.StartMS && timing.Preview > 0 {
			due = timing.T(i)
		}
		// One who comes in a key's last margin gets it with the grant.
		if join > timing.T(i)-timing.MarginMS() {
			due = max(due, join+2*c.w.delayMS)
		}
		if !ok || at > due {
			t.Errorf("key %d at %d ms, due at %d (joined at %d): have it: %v",
				i, at-timing.StartMS, due-timing.StartMS, join-timing.StartMS, ok)
		}
		if d, ok := c.dropped[i]; ok && d < timing.T(i+1) {
			t.Errorf("key %d dropped at %d, before its end", i, d-timing.StartMS)
		}
	}
}

func TestSimulationLoss(t *testing.T) {
	for name, timing := range shapes() {
		t.Run(name, func(t *testing.T) {
			missed, total := 0, 0
			for seed := range uint64(200) {
				w := &world{timing: timing, delayMS: 5, loss: 0.15}
				c := newClient(w, schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), seed).
					run(timing.BeginsMS(), end(timing))
				c.enrolments(t)
				c.pace(t)
				_, last := keysDue(timing, timing.BeginsMS())
				for i := timing.Preview + 1; i <= last; i++ {
					total++
					if at, ok := c.keys[i]; !ok || at > timing.T(i) {
						missed++
					}
				}
			}
			// 28 % of the exchanges fail; a window has room for many tries.
			if missed*100 > total {
				t.Errorf("%d of %d keys late at 28 %% loss", missed, total)
			}
		})
	}
}

// TestSimulationDemoOutage: both servers away for 1.5 s in mid-interval, at
// any instant: nobody is without a key for a moment.
func TestSimulationDemoOutage(t *testing.T) {
	timing := shapes()["the demo's"]
	for seed := range uint64(500) {
		from := timing.StartMS + 5000*(1+int64(seed%5)) + 1000 + int64(seed)%1250
		w := &world{timing: timing, delayMS: 2, away: func(now int64) bool { return from <= now && now < from+1500 }}
		c := newClient(w, schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), seed).
			run(timing.BeginsMS(), end(timing))
		c.checkKeyedInTime(t, timing.BeginsMS())
		if c.enrolments(t) != 1 {
			t.Error("more than one enrolment")
		}
	}
}

// histogram counts instants by their place in [from, to).
type histogram struct {
	bins [20]int
	n    int
}

func (h *histogram) add(at, from, to int64) {
	h.n++
	h.bins[min(max((at-from)*int64(len(h.bins))/(to-from), 0), int64(len(h.bins))-1)]++
}

// flat is a χ² test: with 19 degrees of freedom a value over 55 comes once in
// 40,000 times; the seeds are fixed.
func (h *histogram) flat(t *testing.T, what string) {
	t.Helper()
	expected := float64(h.n) / float64(len(h.bins))
	chi := 0.0
	for _, got := range h.bins {
		chi += (float64(got) - expected) * (float64(got) - expected) / expected
	}
	if expected < 20 || chi > 55 {
		t.Errorf("%s: χ² = %.0f over %d instants: %v", what, chi, h.n, h.bins)
	}
}

func TestSimulationInstantsAreUniform(t *testing.T) {
	timing := plain()
	for _, spread := range []schedule.Spread{schedule.SpreadFixed, schedule.SpreadRedraw} {
		var first, second, third histogram
		same := 0
		for seed := range uint64(4000) {
			w := &world{timing: timing, delayMS: 5}
			c := newClient(w, schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), seed)
			c.nowMS = timing.BeginsMS() - 1000
			c.step(schedule.Join{})
			c.resume(c.m.NextMS()) // sends
			first.add(c.log[0].atMS, timing.BeginsMS(), timing.StartMS-timing.MarginMS())
			for i := range c.pending { // the grant's spread
				if ev, ok := c.pending[i].event.(schedule.Enrolled); ok {
					ev.Spread = spread
					c.pending[i].event = ev
				}
			}
			c.resume(timing.T(2))
			opens, closes := timing.Window(1)
			second.add(c.log[1].atMS, opens, closes)
			third.add(c.log[2].atMS, opens+60_000, closes+60_000)
			if c.log[2].atMS == c.log[1].atMS+60_000 {
				same++
			}
		}
		first.flat(t, "enrolments")
		second.flat(t, "first refreshes")
		third.flat(t, "second refreshes")
		if fixed := spread == schedule.SpreadFixed; fixed != (same == 4000) || !fixed && same > 20 {
			t.Errorf("spread %v: %d of 4000 at the same place in both windows", spread, same)
		}
	}
}

// TestSimulationOutage: the server is away for 1.5 intervals. All are keyed
// again, and from the interval after next their requests are flat again, also
// under spread fixed (pitfall: one outage makes a peak at every interval).
func TestSimulationOutage(t *testing.T) {
	timing := plain()
	from, to := timing.T(3)+30_000, timing.T(5)
	var refreshes, enrolments histogram
	for seed := range uint64(3000) {
		w := &world{timing: timing, delayMS: 5, away: func(now int64) bool { return from <= now && now < to }}
		c := newClient(w, schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), seed).
			run(timing.BeginsMS(), end(timing))
		c.enrolments(t)
		c.pace(t)
		for i := uint32(7); i < 10; i++ {
			if at, ok := c.keys[i]; !ok || at > timing.T(i) {
				t.Fatalf("seed %d: key %d not in time after the outage", seed, i)
			}
		}
		opens, closes := timing.Window(8)
		for _, s := range c.log {
			if !s.enrol && s.try == 1 && opens <= s.atMS && s.atMS < closes {
				refreshes.add(s.atMS, opens, closes)
			}
			if s.enrol && s.why == "cookie over" && s.atMS >= to {
				enrolments.add(s.atMS, to, to+60_000)
			}
		}
	}
	refreshes.flat(t, "refreshes in the interval after next")
	enrolments.flat(t, "enrolments of those who lost their cookie")
}

// TestSimulationSuspended: dark at the end of the last interval whose key was
// given, not earlier and not later; asks once an interval; a lifted suspension
// needs no enrolment.
func TestSimulationSuspended(t *testing.T) {
	for name, timing := range shapes() {
		if name == "first longer" {
			timing.EndMS += 300_000
		}
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(300) {
				n, _ := keysDue(timing, end(timing))
				suspendedAt := timing.T(timing.Preview+2) + int64(seed)*timing.IntervalMS/300
				restoredAt := suspendedAt + 4*timing.IntervalMS
				w := &world{timing: timing, delayMS: 2, suspended: func(now int64) bool { return suspendedAt <= now && now < restoredAt }}
				c := newClient(w, schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), seed).
					run(timing.BeginsMS(), end(timing))
				if got := c.enrolments(t); got != 1 {
					t.Fatalf("seed %d: %d enrolments: lifting a suspension needs none", seed, got)
				}
				if len(c.refused) == 0 {
					t.Fatalf("seed %d: never refused", seed)
				}
				// What it holds at the suspension is what it was given until then.
				lastHeld := uint32(0)
				for i, at := range c.keys {
					if at < suspendedAt+2*w.delayMS {
						lastHeld = max(lastHeld, i)
					}
				}
				darkFrom := timing.T(lastHeld + 1)
				if got := c.refused[0].HeldUntilMS; got != darkFrom {
					t.Errorf("seed %d: says it holds until %d, it is %d", seed, got-timing.StartMS, darkFrom-timing.StartMS)
				}
				for i := uint32(0); i <= lastHeld; i++ {
					if d, ok := c.dropped[i]; ok && d < timing.T(i+1) {
						t.Errorf("seed %d: key %d dropped too early", seed, i)
					}
				}
				for i, at := range c.keys {
					if i > lastHeld && at < restoredAt {
						t.Errorf("seed %d: key %d given while suspended", seed, i)
					}
				}
				// The bound of §9: window + ahead intervals after the suspension.
				if darkFrom-suspendedAt > timing.WindowMS+int64(timing.Ahead)*timing.IntervalMS+2*w.delayMS {
					t.Errorf("seed %d: dark %d ms after the suspension", seed, darkFrom-suspendedAt)
				}
				asked := map[uint32]int{}
				for _, s := range c.log {
					if suspendedAt <= s.atMS && s.atMS < restoredAt {
						asked[timing.Current(s.atMS)]++
					}
				}
				for i, count := range asked {
					// In the interval of the first refusal it may have asked
					// for its last key before.
					if count > 1 {
						t.Errorf("seed %d: asks %d times in interval %d", seed, count, i)
					}
				}
				// Keyed again in the second interval after the restoration at the latest.
				for i := timing.Current(restoredAt) + 2; i <= min(n, timing.Current(restoredAt)+4); i++ {
					if at, ok := c.keys[i]; !ok || at > timing.T(i) {
						t.Errorf("seed %d: key %d not in time after the restoration", seed, i)
					}
				}
			}
		})
	}
}

// TestSimulationSenderRenews: a sender enrols anew before its hour is over, and
// is never without a key or silent for lack of the time.
func TestSimulationSenderRenews(t *testing.T) {
	timing := plain()
	timing.EndMS = timing.StartMS + 4*3600_000
	for seed := range uint64(50) {
		w := &world{timing: timing, delayMS: 5, errorMS: func(int64) int64 { return 12 }}
		c := newClient(w, schedule.NewMachine(timing, schedule.RoleSend, schedule.Options{}), seed).
			run(timing.BeginsMS(), end(timing))
		c.checkKeyedInTime(t, timing.BeginsMS())
		last := int64(0)
		for _, s := range c.log {
			if !s.enrol {
				continue
			}
			if last != 0 && s.atMS-last > 3600_000 {
				t.Errorf("seed %d: %d ms between two enrolments", seed, s.atMS-last)
			}
			last = s.atMS
		}
		if got := c.enrolments(t); got < 4 || got > 6 {
			t.Errorf("seed %d: %d enrolments in 4 h", seed, got)
		}
	}
}

// TestSimulationSenderAsksTheTime: in long intervals, before e passes half the
// tolerance.
func TestSimulationSenderAsksTheTime(t *testing.T) {
	timing := plain()
	timing.FirstMS, timing.IntervalMS, timing.WindowMS = 12*3600_000, 12*3600_000, 12*3600_000
	timing.EndMS = timing.StartMS + 24*3600_000
	w := &world{timing: timing, delayMS: 5, loss: 0.1, errorMS: func(int64) int64 { return 10 }}
	c := newClient(w, schedule.NewMachine(timing, schedule.RoleSend, schedule.Options{}), 1).
		run(timing.BeginsMS(), timing.T(1))
	last, asked := c.keys[0], 0
	for _, s := range c.log {
		if s.enrol {
			last = s.atMS
			continue
		}
		if s.want == 0 {
			asked++
		}
		// 240 ms to half the tolerance, at 200 ppm, and some repetitions.
		if gap := s.atMS - last; gap > 240*5000+20_000 {
			t.Errorf("%d ms without a sample", gap)
		}
		last = s.atMS
	}
	if asked < 20 {
		t.Errorf("asked the time %d times in 12 h", asked)
	}
	receiver := newClient(w, schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), 1).
		run(timing.BeginsMS(), timing.T(1))
	for _, s := range receiver.log {
		if !s.enrol && s.want == 0 {
			t.Error("a receiver asks the time")
		}
	}
}
