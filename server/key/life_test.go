package key

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server/group"
	"usher/server/store"
)

// TestRevocation is attack test 11 for keys one interval ahead: a suspension
// right after a refresh, in the window before one, and before the window. The
// client keeps the keys that it was given before, and gets no other.
func TestRevocation(t *testing.T) {
	for name, c := range map[string]struct {
		refreshed bool          // in the window of interval 3
		suspended time.Duration // after the beginning of interval 2
		last      uint32        // interval whose key is held in the end
	}{
		"right after the refresh":   {true, 2600 * time.Millisecond, 3},
		"in the window, before it":  {false, 2600 * time.Millisecond, 2},
		"at the window's beginning": {false, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			l, v, e := enrolled(t) // in interval 2 since 1 s; holds 0 … 2
			begins := 20 * time.Second
			if c.refreshed {
				if b := v.refresh(1); b.Status != 0 {
					t.Fatal(schedule.Status(b.Status))
				}
			}
			l.goTo(begins + max(c.suspended, time.Second))
			l.suspend(v.number)
			for at := begins + 3*time.Second; at < 50*time.Second; at += 5 * time.Second {
				l.goTo(at)
				b := v.refresh(8)
				if b.Status != uint8(schedule.StatusWithheld) || len(b.Records) != 0 {
					t.Fatalf("%v after the start: %v, keys of %v", at-10*time.Second, schedule.Status(b.Status), intervals(b))
				}
				if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); !isProblem(err, 403, wire.CodeWithheld) {
					t.Fatalf("enrolment: %v", err)
				}
			}
			for i := range v.keys {
				if i > c.last {
					t.Errorf("holds the key of interval %d", i)
				}
			}
			if v.keys[c.last] == "" {
				t.Errorf("lost the key of interval %d", c.last)
			}
		})
	}
}

// TestRestored: a withheld client that keeps asking gets keys again without a
// login, from the running interval on.
func TestRestored(t *testing.T) {
	l, v, _ := enrolled(t)
	l.suspend(v.number)
	l.goTo(23 * time.Second)
	v.refresh(1) // interval 3 withheld
	l.goTo(28 * time.Second)
	v.refresh(1) // in interval 3: 4 withheld
	l.restore(v.number)
	l.goTo(33 * time.Second) // in interval 4
	if b := v.refresh(8); b.Status != 0 || !slices.Equal(intervals(b), []uint32{4, 5}) {
		t.Errorf("%v, keys of %v", schedule.Status(b.Status), intervals(b))
	}
}

// TestGroupLost: a client taken out of one group loses that group's events only;
// an arrow removed from the graph counts the same.
func TestGroupLost(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers", "others")
	mine := l.newEvent(10 * time.Second)
	mine.Group = l.groups["viewers"]
	mine = l.addEvent(mine)
	other := l.newEvent(10 * time.Second)
	other.Group, other.Flows[0].Destination = l.groups["others"], other.Flows[0].Destination.Next()
	other = l.addEvent(other)
	roots := l.newEvent(10 * time.Second)
	roots.Flows[0].Destination = other.Flows[0].Destination.Next()
	roots = l.addEvent(roots)
	l.start()
	base := l.serve()
	l.goTo(11 * time.Second)
	viewers := map[string]*viewer{}
	for name, e := range map[string]store.Event{"mine": mine, "other": other, "root's": roots} {
		viewers[name] = l.viewer(base, alice)
		viewers[name].mustEnrol(l.ask(e, wire.RoleReceive))
	}
	check := func(when string, want map[string]schedule.Status) {
		t.Helper()
		for name, v := range viewers {
			if b := v.refresh(1); b.Status != uint8(want[name]) {
				t.Errorf("%s, event %s: %v, want %v", when, name, schedule.Status(b.Status), want[name])
			}
		}
	}
	l.update(func(tx store.Tx) error { return tx.Leave(t.Context(), alice, l.groups["viewers"]) })
	l.goTo(18 * time.Second)
	check("out of viewers", map[string]schedule.Status{"mine": schedule.StatusWithheld})
	l.update(func(tx store.Tx) error { return group.Unlink(t.Context(), tx, "root", "others") })
	l.goTo(23 * time.Second)
	check("arrow removed", map[string]schedule.Status{"mine": schedule.StatusWithheld, "root's": schedule.StatusWithheld})
}

// TestSenderDeregistered: who sends no more gets no key for it, and may watch.
func TestSenderDeregistered(t *testing.T) {
	l := newLab(t)
	number := l.addClient("sender", "root")
	e := l.addEvent(l.newEvent(10 * time.Second))
	l.associate(e, number, store.RoleSend)
	l.start()
	base := l.serve()
	l.goTo(11 * time.Second)
	sends, watches := l.viewer(base, number), l.viewer(base, number)
	sends.mustEnrol(l.ask(e, wire.RoleSend))
	watches.mustEnrol(l.ask(e, wire.RoleReceive))
	l.associate(e, number, store.RoleReceive)
	l.goTo(18 * time.Second)
	if b := sends.refresh(1); b.Status != uint8(schedule.StatusWithheld) {
		t.Errorf("sender: %v", schedule.Status(b.Status))
	}
	if b := watches.refresh(1); b.Status != 0 {
		t.Errorf("watcher: %v", schedule.Status(b.Status))
	}
}

// TestRecurring: each occurrence has a tag, SPIs and secrets of its own, and its
// enrolment opens no other.
func TestRecurring(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	e := l.newEvent(10 * time.Second)
	e.Time.Rule = "FREQ=HOURLY"
	e = l.addEvent(e)
	l.start()
	base := l.serve()
	v := l.viewer(base, alice)
	l.goTo(11 * time.Second)
	q := l.ask(e, wire.RoleReceive)
	first, b1 := v.mustEnrol(q)
	oldTag, oldCookie, oldN, oldK := v.tag, v.cookie, v.n, v.k

	next := *q
	next.StartS += 3600
	if _, _, err := v.enrol(&next); !isProblem(err, 425, wire.CodeNotYet) {
		t.Errorf("next occurrence an hour before: %v", err)
	}
	l.leap(time.Hour - 10*time.Second)
	l.goTo(time.Hour + 11*time.Second)
	if _, _, err := v.enrol(q); !isProblem(err, 410, wire.CodeEnded) {
		t.Errorf("occurrence of an hour ago: %v", err)
	}
	second, b2 := v.mustEnrol(&next)
	if first.Tag == second.Tag || b1.Records[0].SPI == b2.Records[0].SPI || b1.Records[0].Key.Equal(b2.Records[0].Key) {
		t.Error("two occurrences share a tag, an SPI or a key")
	}
	stale := &viewer{t: t, tag: oldTag, k: oldK, cookie: oldCookie, n: oldN}
	raw, _, _ := stale.request(1)
	if reply, what := l.exchange(raw); what != refusedNAK {
		t.Errorf("cookie of the occurrence before: outcome %d, %x", what, reply)
	}
	stale.tag = second.Tag
	raw, _, _ = stale.request(1)
	if reply, what := l.exchange(raw); what != droppedSeal {
		t.Errorf("the same under the new tag: outcome %d, %x", what, reply)
	}
}

// TestCreatedLate: an event created inside its own initial period, or while it
// runs, can be joined at the next round.
func TestCreatedLate(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	l.start()
	base := l.serve()
	for name, c := range map[string]struct {
		starts time.Duration // from now
		want   []uint32
	}{
		"in the initial period": {3 * time.Second, []uint32{0}},
		"running":               {-12 * time.Second, []uint32{2, 3}},
		"in the last interval":  {-38 * time.Second, []uint32{7}},
	} {
		e := l.addEvent(l.newEvent(c.starts))
		if _, b := l.viewer(base, alice).mustEnrol(l.ask(e, wire.RoleReceive)); !slices.Equal(intervals(b), c.want) {
			t.Errorf("%s: keys of %v, want %v", name, intervals(b), c.want)
		}
	}
}

// TestEndBroughtForward: an earlier end counts at once, any other change of
// timing from the next occurrence on, and a restart changes nothing of that.
func TestEndBroughtForward(t *testing.T) {
	l, v, e := enrolled(t) // in interval 2, since 20 s; it was to end at 50 s
	if v.n <= 4 {
		t.Fatalf("cookie %d does not lie beyond the new end; the test is about such a one", v.n)
	}
	e.Time.Duration, e.IntervalMS, e.WindowMS, e.FirstMS = "PT22S", 1000, 1000, 1000
	l.update(func(tx store.Tx) error { return tx.UpdateEvent(t.Context(), e) })
	l.restart()
	o := l.server.keeper.current.Load().byTag[v.tag]
	if n, _ := o.timing.N(); n != 5 || o.IntervalMS != 5000 || o.EndMS != testStart.Add(32*time.Second).UnixMilli() {
		t.Errorf("now %d intervals of %d ms, end %d", n, o.IntervalMS, o.EndMS)
	}
	err := l.store.View(t.Context(), func(r store.Reader) error {
		rows, err := r.Rows(t.Context(), v.tag, 0)
		// What living cookies may be numbered stays: this one has number 7.
		if len(rows) == 0 || rows[len(rows)-1].Interval != v.n {
			t.Errorf("%d rows, the last one of another interval than %d", len(rows), v.n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	v.base = l.serve()
	if b := v.refresh(8); b.Status != 0 || !slices.Equal(intervals(b), []uint32{3}) {
		t.Errorf("%v, keys of %v", schedule.Status(b.Status), intervals(b))
	}
	l.goTo(28 * time.Second)
	if b := v.refresh(8); len(b.Records) != 1 || b.Records[0].LifetimeMS != 2000 {
		t.Errorf("last key: %+v", b.Records)
	}
	l.goTo(32 * time.Second)
	if b := v.refresh(8); b.Status != uint8(schedule.StatusEnded) {
		t.Errorf("after the new end: %v", schedule.Status(b.Status))
	}
	// A later end is none of a running occurrence's.
	e.Time.Duration = "PT1H"
	l.update(func(tx store.Tx) error { return tx.UpdateEvent(t.Context(), e) })
	if b := l.server.keeper.current.Load().byTag[v.tag]; b.EndMS != testStart.Add(32*time.Second).UnixMilli() {
		t.Errorf("the end moved to %d", b.EndMS)
	}
}

// TestDeleted: the cookies of a deleted event, and of a run that became an
// exception, read "ended"; nobody enrols any more.
func TestDeleted(t *testing.T) {
	for name, change := range map[string]func(*lab, store.Tx, store.Event) error{
		"event deleted": func(l *lab, tx store.Tx, e store.Event) error { return tx.DeleteEvent(l.t.Context(), e.ID) },
		"run excepted": func(l *lab, tx store.Tx, e store.Event) error {
			e.Time.Rule, e.Time.Except = "FREQ=DAILY", []string{e.Time.Start}
			return tx.UpdateEvent(l.t.Context(), e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, v, e := enrolled(t)
			l.update(func(tx store.Tx) error { return change(l, tx, e) })
			if b := v.refresh(8); b.Status != uint8(schedule.StatusEnded) {
				t.Errorf("refresh: %v", schedule.Status(b.Status))
			}
			if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); !isProblem(err, 404, wire.CodeNoSuchEvent) && !isProblem(err, 410, wire.CodeEnded) {
				t.Errorf("enrolment: %v", err)
			}
			l.leap(time.Minute)
			if n := len(l.server.keeper.current.Load().byTag); n != 0 {
				t.Errorf("%d occurrences left in memory", n)
			}
		})
	}
}

// TestRefusedEvents: what this version cannot do, or what collides, is not keyed
// and says so once; other events go on.
func TestRefusedEvents(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	l.start()
	base := l.serve()
	for name, c := range map[string]struct {
		change func(*store.Event)
		log    string
	}{
		"push":        {func(e *store.Event) { e.Method = "push" }, "not in this version"},
		"ahead":       {func(e *store.Event) { e.Ahead = 3 }, "not in this version"},
		"window":      {func(e *store.Event) { e.WindowMS = 2500 }, "not in this version"},
		"spread":      {func(e *store.Event) { e.Spread = "redraw" }, "not in this version"},
		"incomplete":  {func(e *store.Event) { e.Revocation = "incomplete" }, "not in this version"},
		"GMAC":        {func(e *store.Event) { e.Transform = derive.TransformAESGMAC }, "not in this version"},
		"endless":     {func(e *store.Event) { e.Time.Duration = "" }, "not in this version"},
		"zone":        {func(e *store.Event) { e.Time.Start, e.Time.Zone = "20270115T090000", "Mars/Olympus" }, "Mars/Olympus"},
		"no interval": {func(e *store.Event) { e.IntervalMS, e.WindowMS = 500, 500 }, "interval"},
	} {
		e := l.newEvent(3 * time.Second)
		e.Title = name
		c.change(&e)
		l.addEvent(e)
		if len(l.server.keeper.current.Load().byTag) != 0 {
			t.Errorf("%s: keyed", name)
		}
		said := 0
		for line := range strings.Lines(l.logs.String()) {
			if strings.Contains(line, `title="`+name+`"`) || strings.Contains(line, "title="+name+" ") {
				said++
				if !strings.Contains(line, c.log) {
					t.Errorf("%s: logged %s", name, line)
				}
			}
		}
		l.pass(2 * time.Second)
		if said != 1 {
			t.Errorf("%s: logged %d times", name, said)
		}
		l.update(func(tx store.Tx) error { return tx.DeleteEvent(t.Context(), e.ID) })
	}
	good := l.addEvent(l.newEvent(l.server.clock.now().time().Sub(testStart).Truncate(time.Second) + 2*time.Second))
	l.viewer(base, alice).mustEnrol(l.ask(good, wire.RoleReceive))
}

// TestCollision: of two events that would share SPIs under one destination the
// later is refused; under different ones both go on.
func TestCollision(t *testing.T) {
	l := newLab(t)
	l.start()
	first := l.newEvent(5 * time.Second)
	start := uint64(startOf(t, first))
	second := first
	// The prefix has 24 bits: some thousand ids hold a pair that shares one.
	for seen := map[[3]byte]derive.EventID{}; ; seen[derive.SPIPrefix(derive.OccurrenceTag(first.ID, start, 0))] = first.ID {
		first.ID = derive.NewEventID()
		if twin, found := seen[derive.SPIPrefix(derive.OccurrenceTag(first.ID, start, 0))]; found {
			second.ID = twin
			break
		}
	}
	l.addEvent(first)
	l.addEvent(second)
	keyed := func(e store.Event) bool { return l.server.keeper.current.Load().byTag[l.tagOf(e)] != nil }
	if !keyed(first) || keyed(second) || !strings.Contains(l.logs.String(), "SPIs are in use") {
		t.Errorf("first keyed: %v, second: %v", keyed(first), keyed(second))
	}
	second.Flows = slices.Clone(second.Flows)
	second.Flows[0].Destination = second.Flows[0].Destination.Next()
	l.update(func(tx store.Tx) error { return tx.UpdateEvent(t.Context(), second) })
	if !keyed(first) || !keyed(second) {
		t.Error("equal SPIs with different destinations are refused")
	}
}

func (l *lab) tagOf(e store.Event) derive.Tag {
	return derive.OccurrenceTag(e.ID, uint64(startOf(l.t, e)), 0)
}

// TestRestart: a restarted server gives the same keys to the same cookies.
func TestRestart(t *testing.T) {
	l, v, _ := enrolled(t)
	raw, a, _ := v.request(1)
	before, _ := l.exchange(raw)
	l.restart()
	after, what := l.exchange(raw)
	if what != answered {
		t.Fatalf("outcome %d", what)
	}
	b1, err1 := wire.OpenAnswer(a, raw, before)
	b2, err2 := wire.OpenAnswer(a, raw, after)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if len(b1.Records) != 1 || len(b2.Records) != 1 || !b1.Records[0].Key.Equal(b2.Records[0].Key) {
		t.Error("another key after the restart")
	}
}

// TestMemoryForgets: the keys of an interval are wiped once its cookies are
// dead, and not while a request still reads them.
func TestMemoryForgets(t *testing.T) {
	l, v, _ := enrolled(t)
	held := l.server.keeper.acquire()
	o := held.byTag[v.tag]
	group := o.key(2).group
	zero, _ := derive.NewSecret(make([]byte, 32))
	l.goTo(29800 * time.Millisecond) // interval 2 ended at 25 s; it lingers for 5 s
	if l.server.keeper.current.Load().byTag[v.tag].key(2) == nil {
		t.Error("dropped before its cookies are dead")
	}
	l.goTo(31 * time.Second)
	if l.server.keeper.current.Load().byTag[v.tag].key(2) != nil {
		t.Error("still there")
	}
	if group.Equal(zero) {
		t.Error("wiped under a request")
	}
	held.release()
	l.turn()
	if !group.Equal(zero) {
		t.Error("not wiped")
	}
}
