package key

import (
	"sync"
	"testing"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/server/group"
	"usher/server/store"
)

// TestStandingFigure3 is the graph of Fig 3: G1 above G2, G3 and G4; G4 above
// G6; and who has which event.
func TestStandingFigure3(t *testing.T) {
	graph := group.New(nil, []store.Edge{{Parent: 1, Child: 2}, {Parent: 1, Child: 3}, {Parent: 1, Child: 4}, {Parent: 3, Child: 5}, {Parent: 4, Child: 6}})
	m := new(members).with([]store.Member{
		{Number: 1, Groups: []uint32{1}},
		{Number: 7, Groups: []uint32{6}},
		{Number: 300, Groups: []uint32{5, 2}},
		{Number: 301, Groups: []uint32{6}, Suspended: true},
		{Number: 302},
	}, nil)
	if m.count != 5 {
		t.Errorf("%d members", m.count)
	}
	of := func(g uint32) *access {
		return &access{groups: reach(graph, g), senders: map[uint32]struct{}{1: {}, 301: {}, 302: {}}}
	}
	for _, c := range []struct {
		client, group uint32
		role          wire.Role
		want          standing
	}{
		{7, 6, wire.RoleReceive, allowed},
		{7, 4, wire.RoleReceive, allowed},
		{7, 1, wire.RoleReceive, allowed},
		{7, 3, wire.RoleReceive, notMember},
		{7, 1, wire.RoleSend, notSender},
		{1, 1, wire.RoleSend, allowed},
		{1, 1, wire.RoleReceive, allowed},
		{1, 6, wire.RoleSend, notMember},
		{300, 3, wire.RoleReceive, allowed},
		{300, 2, wire.RoleReceive, allowed},
		{300, 4, wire.RoleReceive, notMember},
		{301, 6, wire.RoleReceive, suspended},
		{301, 1, wire.RoleSend, suspended},
		{302, 1, wire.RoleSend, notMember},
		{303, 1, wire.RoleReceive, notMember},
		{1 << 31, 1, wire.RoleReceive, notMember},
		{1<<32 - 1, 1, wire.RoleSend, notMember},
	} {
		if got := of(c.group).standing(m.find(c.client), c.client, c.role); got != c.want {
			t.Errorf("client %d, event of G%d, %v: %d, want %d", c.client, c.group, c.role, got, c.want)
		}
	}
}

// TestMembersImmutable: an edit leaves the old set as it was, and copies the
// page that it changes only.
func TestMembersImmutable(t *testing.T) {
	old := new(members).with([]store.Member{{Number: 5, Groups: []uint32{1}}, {Number: 600, Groups: []uint32{1}}}, nil)
	now := old.with([]store.Member{{Number: 5, Groups: []uint32{1}, Suspended: true}, {Number: 6}}, []uint32{600, 100_000})
	if m := old.find(5); m == nil || m.suspended {
		t.Error("the old set changed")
	}
	if old.find(600) == nil || old.find(6) != nil || old.count != 2 {
		t.Error("the old set changed")
	}
	if m := now.find(5); m == nil || !m.suspended || now.find(600) != nil || now.find(6) == nil || now.count != 2 {
		t.Error("the new set is wrong")
	}
	same := now.with([]store.Member{{Number: 5}}, nil)
	if same.pages[600/memberPageSize] != now.pages[600/memberPageSize] {
		t.Error("a page was copied that did not change")
	}
}

// TestReap: keys are wiped after the last reader of any view that has them, in
// whatever order readers come and go. The race detector watches.
func TestReap(t *testing.T) {
	var p published
	p.current.Store(&view{})
	fresh := func() (*view, *intervalKeys) {
		k := newIntervalKeys(derive.RandomSecret(), derive.Tag{}, 1)
		o := &occurrence{keys: []*intervalKeys{k}}
		return &view{byTag: map[derive.Tag]*occurrence{{}: o}}, k
	}
	zero, _ := derive.NewSecret(make([]byte, 32))
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				v := p.acquire()
				if o := v.byTag[derive.Tag{}]; o != nil && (o.keys[0].group.Equal(zero) || o.keys[0].cookies == nil) {
					t.Error("read a wiped key")
				}
				v.release()
			}
		})
	}
	var queue []retired
	var last *intervalKeys
	wiped := 0
	for range 2000 {
		v, k := fresh()
		old := p.current.Swap(v)
		r := retired{view: old}
		if last != nil {
			r.dropped = append(r.dropped, last)
		}
		last = k
		before := len(queue) + 1
		queue = reap(append(queue, r))
		wiped += before - len(queue)
	}
	close(stop)
	readers.Wait()
	queue = reap(queue)
	if len(queue) != 0 || wiped == 0 {
		t.Errorf("%d views left, %d reaped while being read", len(queue), wiped)
	}
}
