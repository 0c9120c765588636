package schedule_test

import (
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"usher/keyclient/schedule"
)

// chaos is a random event, sensible or not.
func chaos(rnd *rand.Rand, t schedule.Timing, now int64) schedule.Event {
	outcome := func() schedule.Outcome {
		c := t.Current(now)
		o := schedule.Outcome{
			Status: schedule.Status(rnd.IntN(9)), Given: rnd.IntN(2) == 0, CookieNumber: c + uint32(rnd.IntN(4)) - 1,
			Edition: uint16(rnd.IntN(2)), ServerMS: now - int64(rnd.IntN(100)),
			WindowOpensMS: uint32(rnd.IntN(60_000)), WindowLastsMS: uint32(rnd.IntN(60_000)), ErrorMS: int64(rnd.IntN(600)),
		}
		o.Keys.First = c + uint32(rnd.IntN(3)) - 1
		o.Keys.Last = o.Keys.First + uint32(rnd.IntN(3))
		if rnd.IntN(20) == 0 {
			o.Keys = schedule.Span{First: rnd.Uint32(), Last: rnd.Uint32()}
			o.CookieNumber = rnd.Uint32()
			o.WindowOpensMS, o.WindowLastsMS = rnd.Uint32(), rnd.Uint32()
			o.ErrorMS, o.ServerMS = rnd.Int64N(1<<40)-1<<39, rnd.Int64N(1<<42)
		}
		return o
	}
	switch rnd.IntN(12) {
	case 0:
		return schedule.Join{}
	case 1:
		if rnd.IntN(8) == 0 {
			return schedule.Leave{}
		}
		return schedule.Renew{}
	case 2, 3:
		ev := schedule.Enrolled{Outcome: outcome(), ReenrolMS: rnd.Int64N(100_000) - 10, Addresses: rnd.IntN(4) - 1, Spread: schedule.Spread(rnd.IntN(2))}
		if rnd.IntN(10) == 0 {
			ev.UntilMS = now + rnd.Int64N(1<<34) - 1<<33
		}
		return ev
	case 4:
		codes := []int{400, 401, 403, 404, 410, 425, 429, 500, 503}
		return schedule.EnrolRefused{Code: codes[rnd.IntN(len(codes))], RetryAfterMS: rnd.Int64N(80_000) - 100}
	case 5:
		return schedule.EnrolFailed{}
	case 6, 7:
		return schedule.Answered{Outcome: outcome(), Transport: schedule.Transport(rnd.IntN(2))}
	case 8:
		return schedule.Unanswered{RetryAfterMS: rnd.Int64N(1<<33) - 1<<32}
	case 9:
		return schedule.NotAcknowledged{Transport: schedule.Transport(rnd.IntN(2))}
	default:
		return schedule.Timer{}
	}
}

// TestRandomSequences: 10⁵ random sequences of events never stop the machine:
// it always asks to be woken, in the future, never in a tight loop; the same
// step gives the same result; and a client left alone with a good server
// after that has the current key again.
func TestRandomSequences(t *testing.T) {
	sequences := uint64(100_000)
	if testing.Short() {
		sequences = 5000
	}
	var all []schedule.Timing
	byName := shapes()
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		endless := byName[name]
		endless.EndMS = 0
		all = append(all, byName[name], endless)
	}
	recovered := 0
	for seed := range sequences {
		rnd := rand.New(rand.NewPCG(seed, 30))
		timing := all[rnd.IntN(len(all))]
		role := schedule.Role(rnd.IntN(2))
		b := &bench{
			t: t, m: schedule.NewMachine(timing, role, schedule.Options{Datagrams: rnd.IntN(2) == 0}), rnd: rnd,
			now: timing.BeginsMS() - 1000 + rnd.Int64N(timing.InitialMS+3*timing.IntervalMS),
		}
		b.step(schedule.Join{})
		for range 20 {
			check(t, seed, b)
			ev := chaos(rnd, timing, b.now)
			if w, ok := find[schedule.Wake](b.actions); ok && rnd.IntN(2) == 0 {
				b.now, ev = w.AtMS, schedule.Timer{}
			} else {
				b.now += rnd.Int64N(timing.IntervalMS/4) - 100
			}
			if seed%64 == 0 {
				state := rnd.Int64()
				m1, a1 := b.m.Step(ev, b.now, rand.New(rand.NewPCG(uint64(state), 1)))
				m2, a2 := b.m.Step(ev, b.now, rand.New(rand.NewPCG(uint64(state), 1)))
				if m1 != m2 || !reflect.DeepEqual(a1, a2) {
					t.Fatalf("seed %d: one step, two results", seed)
				}
			}
			b.step(ev)
		}
		check(t, seed, b)
		// Left alone, no tight loop: an interval holds only so many steps.
		idle := *b
		for steps := 0; idle.now < b.now+timing.IntervalMS; steps++ {
			if _, ok := find[schedule.Wake](idle.actions); !ok {
				break
			}
			if steps > 500 {
				t.Fatalf("seed %d: %d steps in %d ms, state %v", seed, steps, idle.now-b.now, idle.m.State())
			}
			idle.wake()
		}
		if seed%8 == 0 {
			recovered += recovers(t, seed, b, timing)
		}
	}
	if recovered < int(sequences)/8/4 {
		t.Errorf("only %d sequences left a machine at work to look at", recovered)
	}
}

func check(t *testing.T, seed uint64, b *bench) {
	t.Helper()
	s := b.m.State()
	rests := s == schedule.StateOut || s == schedule.StateEnded
	for i, a := range b.actions {
		w, wakes := a.(schedule.Wake)
		if wakes != (i == len(b.actions)-1 && !rests) {
			t.Fatalf("seed %d: state %v, actions %+v", seed, s, b.actions)
		}
		if wakes && w.AtMS <= b.now {
			t.Fatalf("seed %d: to be woken at %d, it is %d", seed, w.AtMS, b.now)
		}
	}
	if !rests && len(b.actions) == 0 {
		t.Fatalf("seed %d: state %v and nothing to wake it", seed, s)
	}
}

// recovers gives the machine a server that works and knows nothing of it. What
// may hold it up are a forgotten enrolment (2 min), a Retry-After or reenrol
// (100 s), 10 s between grants, and once an interval for who was refused.
func recovers(t *testing.T, seed uint64, b *bench, timing schedule.Timing) int {
	w, ok := find[schedule.Wake](b.actions)
	if !ok || timing.EndMS != 0 {
		return 0
	}
	c := newClient(&world{timing: timing, delayMS: 5, reenrolMS: 20_000}, b.m, seed)
	c.nowMS, c.wakeMS = b.now, w.AtMS
	limit := max(b.now, timing.StartMS) + 4*timing.IntervalMS + 400_000
	c.resume(limit)
	if held, ok := c.m.Held(); !ok || timing.Current(limit) < held.First || timing.Current(limit) > held.Last {
		t.Errorf("seed %d: no current key, state %v, next in %d ms", seed, c.m.State(), c.m.NextMS()-limit)
	}
	return 1
}
