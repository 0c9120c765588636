package replay_test

import (
	"testing"

	"pgregory.net/rapid"

	"usher/sa/replay"
)

const maxCounter = 1<<48 - 1

// oracle is the rule of RFC 4303 §3.4.3 by a plain set.
type oracle struct {
	highest uint64
	seen    map[uint64]bool
}

func (o *oracle) check(counter uint64) replay.Verdict {
	switch {
	case counter == 0 || counter+replay.Width <= o.highest:
		return replay.TooOld
	case o.seen[counter]:
		return replay.Seen
	}
	return replay.OK
}

func (o *oracle) commit(counter uint64) {
	o.seen[counter] = true
	o.highest = max(o.highest, counter)
}

func TestEveryOffset(t *testing.T) {
	if replay.Width != 8128 {
		t.Fatalf("width is %d", replay.Width)
	}
	for _, highest := range []uint64{1, 63, 64, 65, 8127, 8128, 8129, 8191, 8192, 8193, 1 << 20, maxCounter - 64, maxCounter} {
		for _, before := range []uint64{0, 1, 40, 100, 9000} {
			var empty replay.Window
			o := &oracle{seen: map[uint64]bool{}}
			if before > 0 && before < highest {
				empty.Commit(highest - before)
				o.commit(highest - before)
			}
			empty.Commit(highest)
			o.commit(highest)
			for offset := uint64(0); offset <= replay.Width+200 && offset <= highest; offset++ {
				w := empty
				counter := highest - offset
				want := o.check(counter)
				if got := w.Check(counter); got != want {
					t.Fatalf("highest %d after −%d, offset %d: %s, want %s", highest, before, offset, got, want)
				}
				w.Commit(counter)
				if want == replay.OK {
					want = replay.Seen
				}
				if got := w.Check(counter); got != want {
					t.Fatalf("highest %d, offset %d committed: %s, want %s", highest, offset, got, want)
				}
				if w.Highest() != highest {
					t.Fatalf("an older packet moved the window to %d", w.Highest())
				}
			}
		}
	}
}

// TestInOrderAndTwice sends 20,000 packets, each twice: no honest drop, every copy known.
func TestInOrderAndTwice(t *testing.T) {
	var w replay.Window
	for counter := uint64(1); counter <= 20_000; counter++ {
		for _, want := range []replay.Verdict{replay.OK, replay.Seen} {
			if got := w.Check(counter); got != want {
				t.Fatalf("counter %d: %s, want %s", counter, got, want)
			}
			w.Commit(counter)
		}
	}
}

// TestReordered swaps blocks of 4,000 packets: no honest drop (docs/design.md §3, replay).
func TestReordered(t *testing.T) {
	const block = 4000
	var w replay.Window
	for base := uint64(1); base < 20*block; base += 2 * block {
		for _, start := range []uint64{base + block, base} {
			for i := range uint64(block) {
				if got := w.Check(start + i); got != replay.OK {
					t.Fatalf("counter %d, late by up to %d: %s", start+i, block, got)
				}
				w.Commit(start + i)
			}
		}
	}
}

func TestAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w replay.Window
		o := &oracle{seen: map[uint64]bool{}}
		near := rapid.Uint64Range(1, maxCounter).Draw(t, "start")
		step := rapid.OneOf(rapid.Int64Range(-70, 70), rapid.Int64Range(-2*replay.Width, 2*replay.Width), rapid.Int64Range(-1<<40, 1<<40))
		for _, step := range rapid.SliceOfN(step, 1, 200).Draw(t, "steps") {
			counter := uint64(min(max(int64(near)+step, 0), maxCounter))
			want := o.check(counter)
			if got := w.Check(counter); got != want {
				t.Fatalf("counter %d, highest %d: %s, want %s", counter, o.highest, got, want)
			}
			if want == replay.OK {
				w.Commit(counter)
				o.commit(counter)
				near = counter
			}
		}
	})
}

func TestVerdictNames(t *testing.T) {
	for verdict, want := range map[replay.Verdict]string{replay.OK: "ok", replay.Seen: "replay_seen", replay.TooOld: "replay_old"} {
		if got := verdict.String(); got != want {
			t.Errorf("%d is %q, want %q", verdict, got, want)
		}
	}
}

// TestCommitOfOldCounter: what is behind the window must not set the bit of another counter.
func TestCommitOfOldCounter(t *testing.T) {
	var w replay.Window
	w.Commit(20_000)
	for _, old := range []uint64{0, 1, 20_000 - replay.Width} {
		w.Commit(old)
	}
	for counter := uint64(20_000 - replay.Width + 1); counter < 20_000; counter++ {
		if got := w.Check(counter); got != replay.OK {
			t.Fatalf("counter %d: %s", counter, got)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	var w replay.Window
	counter := uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		counter += 77
		if w.Check(counter) == replay.OK {
			w.Commit(counter)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheckCommit(b *testing.B) {
	var w replay.Window
	counter := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		counter++
		if w.Check(counter) == replay.OK {
			w.Commit(counter)
		}
	}
}
