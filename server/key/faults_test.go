package key

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server/store"
)

// brokenStore fails when told to.
type brokenStore struct {
	store.Store
	views, updates error
}

func (b *brokenStore) View(ctx context.Context, f func(store.Reader) error) error {
	if b.views != nil {
		return b.views
	}
	return b.Store.View(ctx, f)
}

func (b *brokenStore) Update(ctx context.Context, f func(store.Tx) error) (store.Mark, error) {
	if b.updates != nil {
		return store.Mark{}, b.updates
	}
	return b.Store.Update(ctx, f)
}

// ignoring lets time pass where rounds may fail.
func (l *lab) ignoring(d time.Duration) {
	for ; d > 0; d -= 200 * time.Millisecond {
		l.host.pass(200 * time.Millisecond)
		l.server.Follow(l.t.Context()) //nolint:errcheck // what the test is about
	}
}

// longEvent is one of three hours in intervals of a minute that has begun.
func (l *lab) longEvent() store.Event {
	e := l.newEvent(-time.Minute)
	e.Time.Duration = "PT3H"
	e.FirstMS, e.IntervalMS, e.WindowMS = 60_000, 60_000, 60_000
	return l.addEvent(e)
}

// TestStoreGone is attack test 29, and 12 as far as one replica has a part in
// it: without its database a server keeps a stream going for an hour; senders
// cannot enrol; once its set is `stale`, nothing is given any more.
func TestStoreGone(t *testing.T) {
	for name, fault := range map[string]brokenStore{
		"gone":      {views: errors.New("disk is gone"), updates: errors.New("disk is gone")},
		"full":      {updates: fmt.Errorf("write: %w", store.ErrFull)},
		"read-only": {updates: store.ErrReadOnly},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			alice, sender := l.addClient("alice", "viewers"), l.addClient("sender", "root")
			e := l.longEvent()
			l.associate(e, sender, store.RoleSend)
			broken := &brokenStore{Store: l.store}
			l.config.Store = broken
			l.start()
			base := l.serve()
			v, s := l.viewer(base, alice), l.viewer(base, sender)
			v.mustEnrol(l.ask(e, wire.RoleReceive))
			s.mustEnrol(l.ask(e, wire.RoleSend))

			broken.views, broken.updates = fault.views, fault.updates
			held := len(v.keys)
			for range 59 {
				l.host.pass(time.Minute)
				l.server.Follow(t.Context()) //nolint:errcheck // it fails
				if b := v.refresh(1); b.Status != 0 || len(b.Records) != 1 {
					t.Fatalf("minute %d: %v, keys of %v", len(v.keys), schedule.Status(b.Status), intervals(b))
				}
			}
			if len(v.keys) != held+59 {
				t.Errorf("%d keys in 59 minutes", len(v.keys)-held)
			}
			if _, _, err := s.enrol(l.ask(e, wire.RoleSend)); !isProblem(err, 503, wire.CodeStore) {
				t.Errorf("sender: %v", err)
			}
			v.mustEnrol(l.ask(e, wire.RoleReceive))
			if n := strings.Count(l.logs.String(), "key role is in trouble"); n == 0 || n > 2 {
				t.Errorf("%d alarms in an hour", n)
			}

			l.host.pass(2 * time.Minute)
			l.server.Follow(t.Context()) //nolint:errcheck // it fails
			b := v.refresh(1)
			if fault.views != nil {
				if b.Status != uint8(schedule.StatusBusy) || len(b.Records) != 0 {
					t.Errorf("stale: %v, keys of %v", schedule.Status(b.Status), intervals(b))
				}
				if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); !isProblem(err, 503, wire.CodeStore) {
					t.Errorf("stale, enrolment: %v", err)
				}
			}
			broken.views, broken.updates = nil, nil
			l.leap(2 * time.Second)
			l.leap(0)
			// The cookies of an hour ago are dead with their intervals; what was
			// promised is there still.
			if _, b := v.mustEnrol(l.ask(e, wire.RoleReceive)); len(b.Records) != 2 {
				t.Errorf("after the repair: keys of %v", intervals(b))
			}
			s.mustEnrol(l.ask(e, wire.RoleSend))
			if !strings.Contains(l.logs.String(), "key role has recovered") {
				t.Error("the repair is not logged")
			}
		})
	}
}

// TestCutOff: a suspension that a replica cannot see does not serve the client
// for longer than `stale`.
func TestCutOff(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	e := l.longEvent()
	broken := &brokenStore{Store: l.store}
	l.config.Store, l.config.Stale = broken, time.Minute
	l.start()
	base := l.serve()
	v := l.viewer(base, alice)
	v.mustEnrol(l.ask(e, wire.RoleReceive))
	broken.views = errors.New("line is cut")
	if _, err := l.store.Update(t.Context(), func(tx store.Tx) error {
		return tx.Suspend(t.Context(), alice, store.SourceOperator, "test")
	}); err != nil {
		t.Fatal(err)
	}
	l.ignoring(time.Minute)
	if b := v.refresh(1); b.Status != 0 {
		t.Errorf("within `stale`: %v", schedule.Status(b.Status))
	}
	l.ignoring(400 * time.Millisecond)
	if b := v.refresh(1); b.Status != uint8(schedule.StatusBusy) {
		t.Errorf("after `stale`: %v", schedule.Status(b.Status))
	}
	broken.views = nil
	l.turn()
	if b := v.refresh(1); b.Status != uint8(schedule.StatusWithheld) {
		t.Errorf("reconnected: %v", schedule.Status(b.Status))
	}
}

// TestClockStepped is attack test 17: the wall clock of a running server an hour
// off, either way: status 6, enrolment 503, no key of another time, the ratchet
// stands; set right again, all goes on.
func TestClockStepped(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour, 1100 * time.Millisecond} {
		t.Run(step.String(), func(t *testing.T) {
			l, v, e := enrolled(t)
			epoch := l.server.keeper.ratchet.at()
			l.host.step(step)
			// Before the next round already.
			if b := v.refresh(1); b.Status != uint8(schedule.StatusClock) || len(b.Records) != 0 {
				t.Fatalf("%v, keys of %v", schedule.Status(b.Status), intervals(b))
			}
			if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); !isProblem(err, 503, wire.CodeClock) {
				t.Errorf("enrolment: %v", err)
			}
			l.leap(2 * time.Second)
			l.leap(0)
			if now := l.server.keeper.ratchet.at(); now != epoch {
				t.Errorf("ratchet went from %d to %d", epoch, now)
			}
			if b := v.refresh(1); b.Status != uint8(schedule.StatusClock) || int64(b.ServerTimeUS) != testStart.Add(23*time.Second).UnixMicro() {
				t.Errorf("%v at %d", schedule.Status(b.Status), b.ServerTimeUS)
			}
			if n := strings.Count(l.logs.String(), "part=clock"); n != 1 {
				t.Errorf("%d alarms", n)
			}
			l.host.step(-step)
			if b := v.refresh(1); b.Status != 0 || !slices.Equal(intervals(b), []uint32{3}) {
				t.Errorf("clock right again: %v, keys of %v", schedule.Status(b.Status), intervals(b))
			}
		})
	}
}

// TestNothingWrittenUntrusted: while the clock is not trusted the ratchet stands
// and no secret is made, however long that lasts; then it is made up for.
func TestNothingWrittenUntrusted(t *testing.T) {
	l := newLab(t)
	e := l.longEvent()
	l.start()
	epoch, before := epochOf(t, l), l.mark()
	l.host.step(time.Hour)
	for range 5 {
		l.leap(time.Minute)
	}
	if got := epochOf(t, l); got != epoch {
		t.Errorf("the ratchet went from %d to %d", epoch, got)
	}
	if got := l.mark(); got != before {
		t.Errorf("the store went from change %d to %d", before.Seq, got.Seq)
	}
	l.host.step(-time.Hour)
	l.turn()
	if got := epochOf(t, l); got != epoch+5 {
		t.Errorf("clock right again: epoch %d, want %d", got, epoch+5)
	}
	newest, ok := l.server.keeper.runs[l.tagOf(e)].newestRow(l.server.clock.now().ms())
	if !ok || newest < 65 {
		t.Errorf("clock right again: rows up to %d", newest)
	}
}

// TestClockAtStart is the rest of attack test 17: a boot in 2040, and one before
// the ratchet's time.
func TestClockAtStart(t *testing.T) {
	l, v, e := enrolled(t)
	epoch := epochOf(t, l)
	if err := l.server.Close(); err != nil {
		t.Fatal(err)
	}
	l.host.step(15 * 365 * 24 * time.Hour)
	if _, err := New(t.Context(), l.config); !errors.Is(err, ErrClockAhead) {
		t.Errorf("boot 15 years ahead: %v", err)
	}
	if got := epochOf(t, l); got != epoch {
		t.Errorf("the ratchet went from %d to %d", epoch, got)
	}
	l.host.step(-15*365*24*time.Hour - time.Hour)
	l.start()
	v.base = l.serve()
	if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); !isProblem(err, 503, wire.CodeClock) {
		t.Errorf("an hour before the ratchet: %v", err)
	}
	if b := len(l.rows(v.tag)); b == 0 {
		t.Error("a wrong clock removed rows")
	}
	l.host.step(time.Hour)
	l.turn()
	if b := v.refresh(1); b.Status != 0 || !slices.Equal(intervals(b), []uint32{3}) {
		t.Errorf("clock right again: %v, keys of %v", schedule.Status(b.Status), intervals(b))
	}

	// A host that was off for long goes on only when told to.
	if err := l.server.Close(); err != nil {
		t.Fatal(err)
	}
	l.host.pass(25 * time.Hour)
	if _, err := New(t.Context(), l.config); !errors.Is(err, ErrClockAhead) {
		t.Errorf("after 25 h: %v", err)
	}
	l.config.Advance = true
	l.start()
	if got := epochOf(t, l); got != epochAt(l.server.clock.now().ms()) {
		t.Errorf("with Advance the ratchet is at %d", got)
	}
}

func epochOf(t *testing.T, l *lab) uint64 {
	t.Helper()
	master, err := readMasterKey(l.config.MasterKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	r, err := openRatchet(&cutFile{content: readFile(t, l.config.RatchetFile), left: -1}, master)
	if err != nil {
		t.Fatal(err)
	}
	return r.at()
}

// TestLostRatchet: rows sealed under a ratchet that is no more give no key and
// say so; the event's next occurrence is keyed.
func TestLostRatchet(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	e := l.newEvent(5 * time.Second)
	e.Time.Rule = "FREQ=HOURLY"
	e = l.addEvent(e)
	l.start()
	l.goTo(6 * time.Second)
	if err := l.server.Close(); err != nil {
		t.Fatal(err)
	}
	l.config.RatchetFile += "-new"
	if err := CreateRatchet(l.config.RatchetFile, l.config.MasterKeyFile, l.host.clock().Wall()); err != nil {
		t.Fatal(err)
	}
	l.start()
	base := l.serve()
	v := l.viewer(base, alice)
	if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); !isProblem(err, 503, wire.CodeStore) {
		t.Errorf("enrolment: %v", err)
	}
	if !strings.Contains(l.logs.String(), "does not open") {
		t.Error("nothing is logged")
	}
	l.leap(time.Hour)
	q := l.ask(e, wire.RoleReceive)
	q.StartS += 3600
	v.mustEnrol(q)
}

// TestChangeLogCut: a follower that the log no longer serves loads all anew, and
// keeps the keys that are still good.
func TestChangeLogCut(t *testing.T) {
	l, v, _ := enrolled(t)
	l.suspend(v.number)
	l.restore(v.number)
	l.server.keeper.cursor = 1 << 40
	l.turn()
	l.turn()
	if !strings.Contains(l.logs.String(), "loading everything anew") {
		t.Fatal("the cursor was not gone; the test is about that")
	}
	if b := v.refresh(1); b.Status != 0 || len(b.Records) != 1 {
		t.Errorf("%v", schedule.Status(b.Status))
	}
}
