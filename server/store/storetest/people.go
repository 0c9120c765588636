package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"usher/server/store"
)

func testGroups(t *testing.T, a, b store.Store) {
	root, leaf := group(t, a, "root"), group(t, b, "leaf")
	if root.Number != 1 || leaf.Number != 2 {
		t.Errorf("numbers %d, %d, want 1, 2", root.Number, leaf.Number)
	}
	edge := store.Edge{Parent: root.Number, Child: leaf.Number}
	update(t, a, func(ctx context.Context, tx store.Tx) error { return tx.AddEdge(ctx, edge) })
	refused(t, b, store.ErrExists, func(ctx context.Context, tx store.Tx) error { return tx.AddEdge(ctx, edge) })
	refused(t, a, store.ErrExists, func(ctx context.Context, tx store.Tx) error {
		_, err := tx.AddGroup(ctx, "root")
		return err
	})
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error {
		return tx.AddEdge(ctx, store.Edge{Parent: root.Number, Child: 77})
	})
	view(t, b, func(ctx context.Context, r store.Reader) error {
		groups, err1 := r.Groups(ctx)
		edges, err2 := r.Edges(ctx)
		found, err3 := r.Group(ctx, "leaf")
		if !slices.Equal(groups, []store.Group{root, leaf}) || !slices.Equal(edges, []store.Edge{edge}) || found != leaf {
			t.Errorf("read back %v, %v, %v", groups, edges, found)
		}
		if _, err := r.Group(ctx, "LEAF"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a group in another case: %v", err)
		}
		return errors.Join(err1, err2, err3)
	})
	update(t, a, func(ctx context.Context, tx store.Tx) error { return tx.RemoveEdge(ctx, edge) })
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.RemoveEdge(ctx, edge) })
}

func testClients(t *testing.T, a, b store.Store) {
	g, h := group(t, a, "g"), group(t, a, "h")
	alice := client(t, a, "alice", h.Number, g.Number)
	client(t, a, "bob")
	if alice.Number != 1 || !slices.Equal(alice.Groups, []uint32{g.Number, h.Number}) || alice.Created.IsZero() {
		t.Errorf("made %+v", alice)
	}
	refused(t, b, store.ErrExists, func(ctx context.Context, tx store.Tx) error {
		_, err := tx.AddClient(ctx, "alice", "x", nil)
		return err
	})
	refused(t, b, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error {
		_, err := tx.AddClient(ctx, "carol", "x", []uint32{77})
		return err
	})
	carol := client(t, b, "carol")
	update(t, b, func(ctx context.Context, tx store.Tx) error {
		return errors.Join(tx.SetPassword(ctx, alice.Number, "new"), tx.Join(ctx, carol.Number, g.Number), tx.Leave(ctx, alice.Number, h.Number))
	})
	refused(t, a, store.ErrExists, func(ctx context.Context, tx store.Tx) error { return tx.Join(ctx, carol.Number, g.Number) })
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.Join(ctx, carol.Number, 77) })
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.Leave(ctx, carol.Number, h.Number) })
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.SetPassword(ctx, 77, "x") })
	view(t, a, func(ctx context.Context, r store.Reader) error {
		all, err1 := r.Clients(ctx)
		again, err2 := r.Client(ctx, "alice")
		byNumber, err3 := r.ClientByNumber(ctx, carol.Number)
		cred, err4 := r.Credential(ctx, "alice")
		if len(all) != 3 || all[0].Name != "alice" || all[2].Name != "carol" {
			t.Errorf("clients %+v", all)
		}
		if !slices.Equal(again.Groups, []uint32{g.Number}) || !slices.Equal(byNumber.Groups, []uint32{g.Number}) {
			t.Errorf("groups %v, %v", again.Groups, byNumber.Groups)
		}
		if cred != (store.Credential{Number: alice.Number, PasswordHash: "new"}) {
			t.Errorf("credential %+v", cred)
		}
		for _, err := range []error{second(r.Client(ctx, "dave")), second(r.ClientByNumber(ctx, 77)), second(r.Credential(ctx, "dave")), second(r.Member(ctx, 77))} {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("missing client: %v", err)
			}
		}
		return errors.Join(err1, err2, err3, err4)
	})
}

// second is the error of a pair.
func second[T any](_ T, err error) error { return err }

func testMembers(t *testing.T, a, b store.Store) {
	g := group(t, a, "g")
	client(t, a, "alice", g.Number)
	bob := client(t, a, "bob")
	update(t, a, func(ctx context.Context, tx store.Tx) error {
		return tx.Suspend(ctx, bob.Number, store.SourceOperator, "unpaid")
	})
	view(t, b, func(ctx context.Context, r store.Reader) error {
		var all []store.Member
		err := r.Members(ctx, func(m store.Member) error {
			all = append(all, m)
			return nil
		})
		if len(all) != 2 || all[0].Suspended || !all[1].Suspended || !slices.Equal(all[0].Groups, []uint32{g.Number}) || len(all[1].Groups) != 0 {
			t.Errorf("members %+v", all)
		}
		stop := errors.New("stop")
		if err := r.Members(ctx, func(store.Member) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("the caller's error became %v", err)
		}
		m, err2 := r.Member(ctx, bob.Number)
		if m.Number != bob.Number || !m.Suspended {
			t.Errorf("member %+v", m)
		}
		return errors.Join(err, err2)
	})
}

// testSuspensions: kept by source, suspended while any stands (docs/keying.md §6).
func testSuspensions(t *testing.T, a, b store.Store) {
	bob := client(t, a, "bob")
	suspended := func() (yes bool) {
		view(t, b, func(ctx context.Context, r store.Reader) error {
			m, err := r.Member(ctx, bob.Number)
			yes = m.Suspended
			return err
		})
		return yes
	}
	update(t, a, func(ctx context.Context, tx store.Tx) error {
		return errors.Join(tx.Suspend(ctx, bob.Number, "operator", "first"), tx.Suspend(ctx, bob.Number, "client care", "unpaid"),
			tx.Suspend(ctx, bob.Number, "operator", "second"))
	})
	view(t, a, func(ctx context.Context, r store.Reader) error {
		list, err := r.Suspensions(ctx, bob.Number)
		if len(list) != 2 || list[0].Source != "client care" || list[1].Reason != "second" || list[1].Since.IsZero() {
			t.Errorf("suspensions %+v", list)
		}
		return err
	})
	update(t, b, func(ctx context.Context, tx store.Tx) error { return tx.Restore(ctx, bob.Number, "operator") })
	if !suspended() {
		t.Error("one source lifted the other's suspension")
	}
	update(t, b, func(ctx context.Context, tx store.Tx) error { return tx.Restore(ctx, bob.Number, "client care") })
	if suspended() {
		t.Error("suspended with no source left")
	}
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.Restore(ctx, bob.Number, "operator") })
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.Suspend(ctx, 77, "operator", "") })
}

func testAssociations(t *testing.T, a, b store.Store) {
	e := event(t, a)
	alice, bob := client(t, a, "alice", e.Group), client(t, a, "bob", e.Group)
	update(t, a, func(ctx context.Context, tx store.Tx) error {
		return errors.Join(
			tx.Associate(ctx, store.Association{Event: e.ID, Client: bob.Number, Role: store.RoleSend}),
			tx.Associate(ctx, store.Association{Event: e.ID, Client: alice.Number, Role: store.RoleSend}),
			tx.Associate(ctx, store.Association{Event: e.ID, Client: alice.Number, Role: store.RoleReceive}))
	})
	view(t, b, func(ctx context.Context, r store.Reader) error {
		list, err1 := r.Associations(ctx, e.ID)
		want := []store.Association{{Event: e.ID, Client: alice.Number, Role: store.RoleReceive}, {Event: e.ID, Client: bob.Number, Role: store.RoleSend}}
		if !slices.Equal(list, want) {
			t.Errorf("associations %v, want %v", list, want)
		}
		none, err2 := r.SendsOf(ctx, alice.Number)
		one, err3 := r.SendsOf(ctx, bob.Number)
		if len(none) != 0 || len(one) != 1 || one[0] != e.ID {
			t.Errorf("alice sends %v, bob sends %v", none, one)
		}
		return errors.Join(err1, err2, err3)
	})
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error {
		return tx.Associate(ctx, store.Association{Event: e.ID, Client: 77, Role: store.RoleSend})
	})
}
