package key

import (
	"slices"
	"testing"
	"time"

	"usher/keyclient/wire"
	"usher/server/store"
)

// TestBoundary: which keys are given depends on the instant, to the millisecond:
// up to the change the old one and the next, from it on the new one and its
// successor. Senders and receivers are told the same.
func TestBoundary(t *testing.T) {
	l := newLab(t)
	viewer, sender := l.addClient("viewer", "viewers"), l.addClient("sender", "root")
	e := l.addEvent(l.newEvent(10 * time.Second))
	l.associate(e, sender, store.RoleSend)
	l.start()
	base := l.serve()
	const change = 25 * time.Second // interval 2 ends, 3 begins
	for _, c := range []struct {
		at   time.Duration
		want []uint32
	}{
		{4 * time.Second, []uint32{0}}, // the initial period begins
		{10*time.Second - time.Millisecond, []uint32{0}},
		{10 * time.Second, []uint32{0, 1}},
		{change - time.Millisecond, []uint32{2, 3}},
		{change, []uint32{3, 4}},
		{change + time.Millisecond, []uint32{3, 4}},
		{45*time.Second - time.Millisecond, []uint32{6, 7}},
		{45 * time.Second, []uint32{7}}, // the last one
		{50*time.Second - time.Millisecond, []uint32{7}},
	} {
		l.goTo(c.at)
		for who, role := range map[uint32]wire.Role{viewer: wire.RoleReceive, sender: wire.RoleSend} {
			v := l.viewer(base, who)
			_, b := v.mustEnrol(l.ask(e, role))
			if got := intervals(b); !slices.Equal(got, c.want) {
				t.Errorf("%v after the start, %v: keys of %v, want %v", c.at-10*time.Second, role, got, c.want)
			}
			if got := v.refresh(8); len(got.Records) != 0 {
				t.Errorf("%v after the start, %v: a refresh brings keys of %v beyond these", c.at-10*time.Second, role, intervals(got))
			}
		}
	}
}

// TestRecordsAreAlike: a key has one initiation time and one lifetime, whoever
// is given it and when: in the interval before, or a moment before it ends.
func TestRecordsAreAlike(t *testing.T) {
	l, early, e := enrolled(t) // in interval 2 since 1 s
	before := early.refresh(1)
	late := l.viewer(early.base, l.addClient("late", "viewers"))
	l.goTo(30*time.Second - time.Millisecond) // interval 3 ends at 30 s
	_, b := late.mustEnrol(l.ask(e, wire.RoleReceive))
	if len(before.Records) != 1 || len(b.Records) != 2 {
		t.Fatalf("keys of %v and of %v", intervals(before), intervals(b))
	}
	first, last := before.Records[0], b.Records[0]
	if !first.Key.Equal(last.Key) {
		t.Error("two keys")
	}
	first.Key, last.Key = nil, nil
	if first != last || first.Interval != 3 || first.InitiationMS != testStart.Add(25*time.Second).UnixMilli() || first.LifetimeMS != 5000 {
		t.Errorf("given early %+v, late %+v", first, last)
	}
}
