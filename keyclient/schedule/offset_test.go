package schedule_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"usher/keyclient/schedule"
)

const ms = int64(time.Millisecond)

// exchange is a request and its answer, with delays each way, against a server
// whose Unix time is boot time + trueOffset.
func exchange(sentNS, toNS, atServerNS, backNS, trueOffsetNS int64) schedule.Sample {
	answered := sentNS + toNS + atServerNS
	return schedule.Sample{
		T1BootNS: sentNS, T4BootNS: answered + backNS,
		ServerUS: uint64((answered + trueOffsetNS) / 1000), ElapsedUS: uint32(atServerNS / 1000),
	}
}

func TestOffset(t *testing.T) {
	const trueOffset = 1_800_000_000_000 * ms
	var o schedule.Offset
	if _, _, ok := o.NowMS(5); ok || o.Ready() || o.BootAt(1) != 0 {
		t.Error("the zero value knows a time")
	}
	if !o.Add(exchange(100*ms, 10*ms, 4*ms, 30*ms, trueOffset)) {
		t.Fatal("sample refused")
	}
	now, e, _ := o.NowNS(144 * ms)
	if want := 144*ms + trueOffset - 10*ms; now != want { // 20 ms apart: half is taken to be each way
		t.Errorf("now %d, want %d", now, want)
	}
	if want := 20*ms + ms; e != want {
		t.Errorf("e %d, want %d", e, want)
	}
	// 200 ppm of age.
	if _, later, _ := o.NowNS(144*ms + 10_000*ms); later != e+2*ms {
		t.Errorf("e after 10 s %d, want %d", later, e+2*ms)
	}
	inMS, eMS, _ := o.NowMS(144*ms + 1)
	if inMS != 1_800_000_000_134 || eMS != 23 {
		t.Errorf("%d ± %d ms", inMS, eMS)
	}
	if boot := o.BootAt(1_800_000_000_134); boot != 144*ms {
		t.Errorf("boot %d, want %d", boot, 144*ms)
	}
	// A better one wins, a worse one does not.
	o.Add(exchange(1000*ms, ms, 0, ms, trueOffset))
	o.Add(exchange(2000*ms, 300*ms, 0, 0, trueOffset))
	if now, e, _ := o.NowNS(2300 * ms); now != 2300*ms+trueOffset || e != 2*ms+1298*ms/5000 {
		t.Errorf("off by %d, e %d", now-2300*ms-trueOffset, e)
	}
	// It is forgotten after seven more.
	for i := range int64(7) {
		o.Add(exchange(3000*ms+i*100*ms, 40*ms, 0, 40*ms, trueOffset))
	}
	if _, e, _ := o.NowNS(3680 * ms); e < 41*ms {
		t.Errorf("e %d: older than 8 samples", e)
	}
}

func TestOffsetRefuses(t *testing.T) {
	good := exchange(100*ms, 10*ms, 4*ms, 30*ms, 1_800_000_000_000*ms)
	for name, change := range map[string]func(*schedule.Sample){
		"answer before request": func(s *schedule.Sample) { s.T4BootNS = s.T1BootNS - 1 },
		"longer at the server":  func(s *schedule.Sample) { s.ElapsedUS = 46_000 },
		"a time without sense":  func(s *schedule.Sample) { s.ServerUS = math.MaxUint64 },
	} {
		var o schedule.Offset
		s := good
		change(&s)
		if o.Add(s) || o.Ready() {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestOffsetBound: whatever the delays and a drift within 200 ppm, the true
// time is never outside now ± e (attack 18 of docs/keying.md §13).
func TestOffsetBound(t *testing.T) {
	rnd := rand.New(rand.NewPCG(18, 0))
	for range 200 {
		drift := (rnd.Float64()*2 - 1) * 200e-6
		epoch := 1_800_000_000_000 * ms
		server := func(bootNS int64) int64 { return epoch + bootNS + int64(drift*float64(bootNS)) }
		var o schedule.Offset
		boot := int64(0)
		for range 30 {
			boot += rnd.Int64N(20_000 * ms)
			to, at, back := rnd.Int64N(500*ms), rnd.Int64N(20*ms), rnd.Int64N(500*ms)
			switch rnd.IntN(4) {
			case 0:
				to = 10_000 * ms
			case 1:
				back = 10_000 * ms
			}
			t3 := boot + to + at
			o.Add(schedule.Sample{
				T1BootNS: boot, T4BootNS: t3 + back, ServerUS: uint64(server(t3) / 1000),
				ElapsedUS: uint32((server(t3) - server(boot+to)) / 1000),
			})
			boot = t3 + back
			for range 5 {
				at := boot + rnd.Int64N(3_600_000*ms)
				now, e, ok := o.NowNS(at)
				if off := now - server(at); !ok || max(off, -off) > e {
					t.Fatalf("off by %d ns, e %d ns", off, e)
				}
				nowMS, eMS, _ := o.NowMS(at)
				if off := nowMS*ms - server(at); max(off, -off) > eMS*ms {
					t.Fatalf("off by %d ns, e %d ms", off, eMS)
				}
			}
		}
	}
}

// TestSendSpan: the spans on the boot clock and the rule for one instant say
// the same, to the nanosecond, for narrow and wide bounds.
func TestSendSpan(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 0))
	timings := []schedule.Timing{
		plain(),
		{StartMS: 1_800_000_000_000, FirstMS: 1000, IntervalMS: 1000, InitialMS: 60_000, WindowMS: 1000, Ahead: 1, EndMS: 1_800_000_003_500},
		{StartMS: 1_800_000_000_000, FirstMS: 9000, IntervalMS: 3000, InitialMS: 60_000, WindowMS: 3000, Ahead: 1},
	}
	silent, sent := 0, 0
	for range 3000 {
		timing := timings[rnd.IntN(len(timings))]
		// A sample from somewhat before, so that e has grown by then.
		trueOffset := timing.StartMS*ms - rnd.Int64N(100_000_000*ms)
		sampledAt := timing.StartMS*ms - trueOffset - rnd.Int64N(4_000_000*ms)
		var o schedule.Offset
		width := []int64{1, 50, 400, 2500}[rnd.IntN(4)]
		o.Add(exchange(sampledAt, rnd.Int64N(width*ms), 0, rnd.Int64N(width*ms), trueOffset))

		i := uint32(rnd.IntN(5))
		from, until, ok := timing.SendSpan(&o, i, math.MinInt64)
		if n, finite := timing.N(); finite && i >= n {
			if ok {
				t.Fatalf("a span for key %d of %d", i, n)
			}
			continue
		}
		if !ok {
			silent++
			// Nowhere near the interval may the rule allow the key.
			for range 50 {
				at := timing.T(i)*ms - trueOffset + rnd.Int64N(2*timing.IntervalMS*ms) - timing.IntervalMS*ms/2
				if key, ok := timing.SenderKeyAt(&o, -1, at); ok && key == int64(i) {
					t.Fatalf("no span for key %d, but SenderKey allows it", i)
				}
			}
			continue
		}
		sent++
		for _, at := range []int64{from - 1, from, from + (until-from)/2, until - 1, until} {
			inside := from <= at && at < until
			for _, inUse := range []int64{-1, int64(i) - 1} {
				if key, ok := timing.SenderKeyAt(&o, inUse, at); (ok && key == int64(i)) != inside {
					t.Fatalf("%+v\nkey %d from %d to %d, at %d with key %d in use: %d %v", timing, i, from, until, at, inUse, key, ok)
				}
			}
			if key, ok := timing.SenderKeyAt(&o, int64(i), at); inside && (!ok || key != int64(i)) {
				t.Fatalf("key %d in use is dropped within its span", i)
			}
		}
		if _, _, ok := timing.SendSpan(&o, i, until); ok {
			t.Fatal("a span that is over")
		}
		if nextFrom, _, ok := timing.SendSpan(&o, i+1, math.MinInt64); ok && nextFrom < until {
			t.Fatal("spans overlap")
		}
		// Never late, whatever the true time within the bound.
		if now, e, _ := o.NowNS(until - 1); now+e >= timing.T(i+1)*ms {
			t.Fatal("late")
		}
	}
	if silent == 0 || sent == 0 {
		t.Errorf("%d silent, %d sent: one side was not tried", silent, sent)
	}
}
