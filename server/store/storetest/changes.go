package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"usher/server/store"
)

// testChanges: which write appends which change, in its own transaction.
func testChanges(t *testing.T, a, b store.Store) {
	e := exampleEvent(1)
	o := exampleOccurrence(e, 1000)
	tag, id := o.Tag.String(), e.ID.String()
	for _, step := range []struct {
		name  string
		write func(ctx context.Context, tx store.Tx) error
		want  []string
	}{
		{"AddGroup", func(ctx context.Context, tx store.Tx) error {
			_, err1 := tx.AddGroup(ctx, "g")
			_, err2 := tx.AddGroup(ctx, "h")
			return errors.Join(err1, err2)
		}, []string{"group 1", "group 2"}},
		{"AddEdge", func(ctx context.Context, tx store.Tx) error { return tx.AddEdge(ctx, store.Edge{Parent: 1, Child: 2}) }, []string{"edge 2"}},
		{"RemoveEdge", func(ctx context.Context, tx store.Tx) error {
			return tx.RemoveEdge(ctx, store.Edge{Parent: 1, Child: 2})
		}, []string{"edge 2"}},
		{"AddClient", func(ctx context.Context, tx store.Tx) error {
			_, err := tx.AddClient(ctx, "alice", "x", []uint32{1})
			return err
		}, []string{"member 1"}},
		{"SetPassword", func(ctx context.Context, tx store.Tx) error { return tx.SetPassword(ctx, 1, "y") }, nil},
		{"Join", func(ctx context.Context, tx store.Tx) error { return tx.Join(ctx, 1, 2) }, []string{"member 1"}},
		{"Leave", func(ctx context.Context, tx store.Tx) error { return tx.Leave(ctx, 1, 2) }, []string{"member 1"}},
		{"Suspend", func(ctx context.Context, tx store.Tx) error { return tx.Suspend(ctx, 1, "operator", "") }, []string{"member 1"}},
		{"Restore", func(ctx context.Context, tx store.Tx) error { return tx.Restore(ctx, 1, "operator") }, []string{"member 1"}},
		{"AddEvent", func(ctx context.Context, tx store.Tx) error { return tx.AddEvent(ctx, e) }, []string{"event " + id}},
		{"UpdateEvent", func(ctx context.Context, tx store.Tx) error { return tx.UpdateEvent(ctx, e) }, []string{"event " + id}},
		{"Associate", func(ctx context.Context, tx store.Tx) error {
			return tx.Associate(ctx, store.Association{Event: e.ID, Client: 1, Role: store.RoleSend})
		}, []string{"association " + id}},
		{"InsertOccurrence", func(ctx context.Context, tx store.Tx) error { return tx.InsertOccurrence(ctx, o) }, []string{"occurrence " + tag}},
		{"InsertRows", func(ctx context.Context, tx store.Tx) error { return tx.InsertRows(ctx, rows(o.Tag, 0, 3, 1)) }, []string{"rows " + tag}},
		{"TakeBlock", func(ctx context.Context, tx store.Tx) error {
			_, err := tx.TakeBlock(ctx, store.BlockRequest{Tag: o.Tag, Owner: "a", ExpiresMS: 9})
			return err
		}, []string{"block " + tag}},
		{"ExtendBlock", func(ctx context.Context, tx store.Tx) error { return tx.ExtendBlock(ctx, o.Tag, 0, "a", 10) }, []string{"block " + tag}},
		{"EndOccurrence", func(ctx context.Context, tx store.Tx) error { return tx.EndOccurrence(ctx, o.Tag, o.EndMS-1, 2) }, []string{"occurrence " + tag}},
		{"DeleteEvent", func(ctx context.Context, tx store.Tx) error { return tx.DeleteEvent(ctx, e.ID) }, []string{"event " + id}},
	} {
		before := horizon(t, b)
		mark := update(t, a, step.write)
		changes, _ := after(t, b, before, 10)
		var got []string
		var last store.Mark
		for _, c := range changes {
			got = append(got, fmt.Sprint(c.Kind, " ", c.Key))
			last = c.Mark
			if c.At.IsZero() {
				t.Errorf("%s: a change without a time", step.name)
			}
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("%s wrote %v, want %v", step.name, got, step.want)
		}
		if mark != last {
			t.Errorf("%s answered the mark %v, want %v", step.name, mark, last)
		}
	}
}

func horizon(t *testing.T, s store.Store) (c store.Cursor) {
	t.Helper()
	view(t, s, func(ctx context.Context, r store.Reader) (err error) {
		c, err = r.Horizon(ctx)
		return err
	})
	return c
}

func after(t *testing.T, s store.Store, from store.Cursor, limit int) (list []store.Change, next store.Cursor) {
	t.Helper()
	view(t, s, func(ctx context.Context, r store.Reader) (err error) {
		list, next, err = r.Changes(ctx, from, limit)
		return err
	})
	return list, next
}

// testFollow: a follower beside eight writers sees every change exactly once,
// and reading in small pieces loses none.
func testFollow(t *testing.T, a, b store.Store) {
	from := horizon(t, b)
	const writers, each = 8, 12
	var wg sync.WaitGroup
	for w := range writers {
		s := []store.Store{a, b}[w%2]
		wg.Go(func() {
			for i := range each {
				_, err := s.Update(t.Context(), func(tx store.Tx) error {
					_, err := tx.AddGroup(t.Context(), fmt.Sprintf("%d-%d", w, i))
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[string]int{}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for finished := false; ; {
		select {
		case <-done:
			finished = true
		default:
		}
		list, next := after(t, b, from, 5)
		for _, c := range list {
			seen[c.Key]++
		}
		from = next
		if finished && len(list) == 0 {
			break
		}
	}
	for n := 1; n <= writers*each; n++ {
		if key := strconv.Itoa(n); seen[key] != 1 {
			t.Errorf("group %s was seen %d times", key, seen[key])
		}
	}
	if h := horizon(t, a); h != from {
		t.Errorf("at the end the follower stands at %d, the log at %d", from, h)
	}
}

// testHolds: what tells a restored database from the one that was known.
func testHolds(t *testing.T, a, b store.Store) {
	view(t, a, func(ctx context.Context, r store.Reader) error {
		last, err := r.Last(ctx)
		if last != (store.Mark{}) {
			t.Errorf("an empty log ends with %v", last)
		}
		return err
	})
	mark := update(t, a, func(ctx context.Context, tx store.Tx) error {
		_, err := tx.AddGroup(ctx, "g")
		return err
	})
	group(t, a, "h")
	other := mark
	other.Random++
	view(t, b, func(ctx context.Context, r store.Reader) error {
		yes, err1 := r.Holds(ctx, mark)
		no, err2 := r.Holds(ctx, other)
		last, err3 := r.Last(ctx)
		if !yes || no || last.Seq <= mark.Seq || last.Random == mark.Random {
			t.Errorf("holds %v, holds another history's %v, last %v", yes, no, last)
		}
		return errors.Join(err1, err2, err3)
	})
	now := horizon(t, a)
	trimmed := 0
	update(t, a, func(ctx context.Context, tx store.Tx) (err error) {
		trimmed, err = tx.TrimChanges(ctx, 1<<60, 100)
		return err
	})
	if trimmed != 1 {
		t.Errorf("trimmed %d of two, the newest to be kept", trimmed)
	}
	if list, next := after(t, b, now, 10); len(list) != 0 || next != now {
		t.Errorf("after trimming, the end of the log is elsewhere: %v, %d", list, next)
	}
	for _, cursor := range []store.Cursor{0, now + 1} {
		err := b.View(t.Context(), func(r store.Reader) error {
			_, _, err := r.Changes(t.Context(), cursor, 10)
			return err
		})
		if !errors.Is(err, store.ErrCursorGone) {
			t.Errorf("a cursor that the log does not reach: %v", err)
		}
	}
}

// testRollback: an error of the caller's keeps nothing, and comes back as it is.
func testRollback(t *testing.T, a, b store.Store) {
	mine := errors.New("mine")
	mark, err := a.Update(t.Context(), func(tx store.Tx) error {
		if _, err := tx.AddGroup(t.Context(), "g"); err != nil {
			return err
		}
		return mine
	})
	if !errors.Is(err, mine) || mark != (store.Mark{}) {
		t.Errorf("got %v, %v", mark, err)
	}
	if h := horizon(t, b); h != 0 {
		t.Errorf("the log stands at %d", h)
	}
	if g := group(t, b, "g"); g.Name != "g" {
		t.Errorf("made %v", g)
	}
}

// testSerial: what an Update read is true when it commits: of two processes
// that each look before they write, one sees the other's.
func testSerial(t *testing.T, a, b store.Store) {
	x, y := group(t, a, "x"), group(t, a, "y")
	var mu sync.Mutex
	drawn := 0
	var wg sync.WaitGroup
	for s, edge := range map[store.Store]store.Edge{a: {Parent: x.Number, Child: y.Number}, b: {Parent: y.Number, Child: x.Number}} {
		wg.Go(func() {
			wrote := false
			_, err := s.Update(t.Context(), func(tx store.Tx) error {
				wrote = false
				edges, err := tx.Edges(t.Context())
				if err != nil || len(edges) > 0 {
					return err
				}
				wrote = true
				return tx.AddEdge(t.Context(), edge)
			})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if wrote {
				drawn++
			}
		})
	}
	wg.Wait()
	if drawn != 1 {
		t.Errorf("%d arrows drawn, want one", drawn)
	}
}

// testSnapshot: a View sees one state from its first read on, and no write of
// an Update that has not ended.
func testSnapshot(t *testing.T, a, b store.Store) {
	group(t, a, "g")
	view(t, b, func(ctx context.Context, r store.Reader) error {
		before, err1 := r.Groups(ctx)
		group(t, a, "h")
		later, err2 := r.Groups(ctx)
		if len(before) != 1 || len(later) != 1 {
			t.Errorf("one snapshot had %d groups, then %d", len(before), len(later))
		}
		return errors.Join(err1, err2)
	})
	update(t, a, func(ctx context.Context, tx store.Tx) error {
		if _, err := tx.AddGroup(ctx, "i"); err != nil {
			return err
		}
		view(t, a, func(ctx context.Context, r store.Reader) error {
			list, err := r.Groups(ctx)
			if len(list) != 2 {
				t.Errorf("an unfinished write is visible: %v", list)
			}
			return err
		})
		return nil
	})
}
