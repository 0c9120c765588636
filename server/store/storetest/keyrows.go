package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"usher/keyclient/derive"
	"usher/server/store"
)

// compareEvents compares all of two events but when they were made.
var compareEvents = cmp.Options{
	cmp.Comparer(func(a, b interface{ String() string }) bool { return a.String() == b.String() }),
	cmpopts.IgnoreFields(store.Event{}, "Created"),
}

func testEvents(t *testing.T, a, b store.Store) {
	e := event(t, a)
	plain := exampleEvent(e.Group)
	plain.Flows, plain.Senders, plain.KeyServers, plain.Time.Except = nil, nil, nil, nil
	update(t, a, func(ctx context.Context, tx store.Tx) error { return tx.AddEvent(ctx, plain) })
	other := event(t, a)
	e.Edition, plain.Edition, other.Edition = 1, 1, 1
	view(t, b, func(ctx context.Context, r store.Reader) error {
		got, err1 := r.Event(ctx, e.ID)
		if d := cmp.Diff(e, got, compareEvents); d != "" || got.Created.IsZero() {
			t.Errorf("read back: %s", d)
		}
		all, err2 := r.Events(ctx)
		if d := cmp.Diff([]store.Event{e, plain, other}, all, compareEvents); d != "" {
			t.Errorf("all: %s", d)
		}
		of, err3 := r.EventsOf(ctx, []uint32{e.Group, 77})
		if d := cmp.Diff([]store.Event{e, plain}, of, compareEvents); d != "" {
			t.Errorf("of a group: %s", d)
		}
		none, err4 := r.EventsOf(ctx, nil)
		if len(none) != 0 {
			t.Errorf("of no group: %v", none)
		}
		return errors.Join(err1, err2, err3, err4)
	})
	refused(t, a, store.ErrExists, func(ctx context.Context, tx store.Tx) error { return tx.AddEvent(ctx, e) })
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.AddEvent(ctx, exampleEvent(77)) })
	changed := e
	changed.Title, changed.Edition = "Ballet", 40
	update(t, b, func(ctx context.Context, tx store.Tx) error { return tx.UpdateEvent(ctx, changed) })
	changed.Edition = 2
	view(t, a, func(ctx context.Context, r store.Reader) error {
		got, err := r.Event(ctx, e.ID)
		if d := cmp.Diff(changed, got, compareEvents); d != "" {
			t.Errorf("after an update: %s", d)
		}
		return err
	})
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.UpdateEvent(ctx, exampleEvent(e.Group)) })
}

func testDeleteEvent(t *testing.T, a, b store.Store) {
	o := occurrence(t, a)
	alice := client(t, a, "alice")
	update(t, a, func(ctx context.Context, tx store.Tx) error {
		_, err := tx.TakeBlock(ctx, store.BlockRequest{Tag: o.Tag, Owner: "a", LastIndex: 1, ExpiresMS: 9})
		return errors.Join(err, tx.InsertRows(ctx, rows(o.Tag, 0, 2, 1)),
			tx.Associate(ctx, store.Association{Event: o.Event, Client: alice.Number, Role: store.RoleSend}))
	})
	update(t, a, func(ctx context.Context, tx store.Tx) error { return tx.DeleteEvent(ctx, o.Event) })
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.DeleteEvent(ctx, o.Event) })
	view(t, b, func(ctx context.Context, r store.Reader) error {
		list, err1 := r.Rows(ctx, o.Tag, 0)
		blocks, err2 := r.Blocks(ctx, o.Tag)
		sends, err3 := r.SendsOf(ctx, alice.Number)
		if len(list)+len(blocks)+len(sends) != 0 {
			t.Errorf("left behind: %v, %v, %v", list, blocks, sends)
		}
		if _, err := r.Occurrence(ctx, o.Tag); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("its occurrence: %v", err)
		}
		return errors.Join(err1, err2, err3)
	})
}

func testOccurrences(t *testing.T, a, b store.Store) {
	e := event(t, a)
	late, early, endless := exampleOccurrence(e, 2000), exampleOccurrence(e, 1000), exampleOccurrence(e, 3000)
	endless.EndMS, endless.Incarnation = 0, 7
	second := late
	second.IntervalMS = 9999
	update(t, a, func(ctx context.Context, tx store.Tx) error {
		return errors.Join(tx.InsertOccurrence(ctx, late), tx.InsertOccurrence(ctx, early), tx.InsertOccurrence(ctx, endless))
	})
	if m := update(t, b, func(ctx context.Context, tx store.Tx) error { return tx.InsertOccurrence(ctx, second) }); m != (store.Mark{}) {
		t.Error("an occurrence that is there made a change")
	}
	view(t, b, func(ctx context.Context, r store.Reader) error {
		all, err1 := r.Occurrences(ctx, 0)
		if d := cmp.Diff([]store.Occurrence{early, late, endless}, all); d != "" {
			t.Errorf("all: %s", d)
		}
		live, err2 := r.Occurrences(ctx, early.EndMS)
		if d := cmp.Diff([]store.Occurrence{late, endless}, live); d != "" {
			t.Errorf("those that end later: %s", d)
		}
		one, err3 := r.Occurrence(ctx, late.Tag)
		if one != late || one.StartS() != 2000 {
			t.Errorf("the first insert did not win: %+v", one)
		}
		return errors.Join(err1, err2, err3)
	})
	stray := exampleOccurrence(exampleEvent(e.Group), 1)
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.InsertOccurrence(ctx, stray) })
}

// testEndOccurrence: an end can only come forward, and the rows beyond it go
// (docs/keying.md §1).
func testEndOccurrence(t *testing.T, a, b store.Store) {
	o := occurrence(t, a)
	update(t, a, func(ctx context.Context, tx store.Tx) error { return tx.InsertRows(ctx, rows(o.Tag, 0, 6, 1)) })
	end := o.StartMS + 20_000
	update(t, a, func(ctx context.Context, tx store.Tx) error { return tx.EndOccurrence(ctx, o.Tag, end, 4) })
	for _, later := range []int64{end, end + 1, 0} {
		if _, err := b.Update(t.Context(), func(tx store.Tx) error { return tx.EndOccurrence(t.Context(), o.Tag, later, 5) }); err == nil {
			t.Errorf("end moved from %d to %d", end, later)
		}
	}
	view(t, b, func(ctx context.Context, r store.Reader) error {
		got, err1 := r.Occurrence(ctx, o.Tag)
		list, err2 := r.Rows(ctx, o.Tag, 0)
		if got.EndMS != end || len(list) != 4 {
			t.Errorf("ends at %d with %d rows", got.EndMS, len(list))
		}
		return errors.Join(err1, err2)
	})
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.EndOccurrence(ctx, derive.Tag{1}, end, 4) })
}

// rows are made-up rows first … first+n-1, all of one byte.
func rows(tag derive.Tag, first uint32, n int, content byte) []store.Row {
	var list []store.Row
	for i := range uint32(n) {
		list = append(list, store.Row{Tag: tag, Interval: first + i, Epoch: uint64(30_000_000 + first + i),
			Sealed: [store.SealedLen]byte(bytes.Repeat([]byte{content}, store.SealedLen))})
	}
	return list
}

func testRows(t *testing.T, a, b store.Store) {
	o, p := occurrence(t, a), occurrence(t, a)
	both := append(rows(o.Tag, 0, 3, 1), rows(p.Tag, 5, 2, 2)...)
	update(t, a, func(ctx context.Context, tx store.Tx) error { return tx.InsertRows(ctx, both) })
	if m := update(t, b, func(ctx context.Context, tx store.Tx) error { return tx.InsertRows(ctx, rows(o.Tag, 0, 3, 9)) }); m != (store.Mark{}) {
		t.Error("rows that are there made a change")
	}
	update(t, b, func(ctx context.Context, tx store.Tx) error { return tx.InsertRows(ctx, rows(o.Tag, 2, 2, 9)) })
	view(t, a, func(ctx context.Context, r store.Reader) error {
		got, err1 := r.Rows(ctx, o.Tag, 1)
		want := append(rows(o.Tag, 1, 2, 1), rows(o.Tag, 3, 1, 9)...)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("the first insert did not win: %s", d)
		}
		other, err2 := r.Rows(ctx, p.Tag, 0)
		if len(other) != 2 || other[0].Interval != 5 {
			t.Errorf("the other occurrence's: %v", other)
		}
		return errors.Join(err1, err2)
	})
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error {
		return tx.InsertRows(ctx, append(rows(o.Tag, 9, 1, 1), rows(derive.Tag{1}, 0, 1, 1)...))
	})
	view(t, a, func(ctx context.Context, r store.Reader) error {
		got, err := r.Rows(ctx, o.Tag, 9)
		if len(got) != 0 {
			t.Error("a refused transaction left a row")
		}
		return err
	})
}

// testRowsRace: two processes that make rows of the same intervals read the
// same ones back (docs/keying.md §3).
func testRowsRace(t *testing.T, a, b store.Store) {
	o := occurrence(t, a)
	const n = 40
	var wg sync.WaitGroup
	for i, s := range []store.Store{a, b} {
		wg.Go(func() {
			for first := range uint32(n) {
				_, err := s.Update(t.Context(), func(tx store.Tx) error {
					return tx.InsertRows(t.Context(), rows(o.Tag, first, 3, byte(i+1)))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var read [2][]store.Row
	for i, s := range []store.Store{a, b} {
		view(t, s, func(ctx context.Context, r store.Reader) (err error) {
			read[i], err = r.Rows(ctx, o.Tag, 0)
			return err
		})
	}
	if len(read[0]) != n+2 || !slices.Equal(read[0], read[1]) {
		t.Errorf("%d and %d rows, which differ", len(read[0]), len(read[1]))
	}
}

func testBlocks(t *testing.T, a, b store.Store) {
	o := occurrence(t, a)
	take := func(s store.Store, r store.BlockRequest) (block store.Block, err error) {
		r.Tag = o.Tag
		_, err = s.Update(t.Context(), func(tx store.Tx) (err error) {
			block, err = tx.TakeBlock(t.Context(), r)
			return err
		})
		return block, err
	}
	request := store.BlockRequest{Owner: "a", Client: 5, NowMS: 100, ExpiresMS: 200, FirstIndex: 2, LastIndex: 4, ClientLimit: 2}
	first, err := take(a, request)
	if err != nil || first.Index != 2 || first.First() != 32 {
		t.Fatalf("first block %+v: %v", first, err)
	}
	if second, err := take(b, request); err != nil || second.Index != 3 {
		t.Errorf("second block %+v: %v", second, err)
	}
	if _, err := take(a, request); !errors.Is(err, store.ErrSenderIDs) {
		t.Errorf("beyond the client's share: %v", err)
	}
	others := request
	others.Client = 6
	if third, err := take(a, others); err != nil || third.Index != 4 {
		t.Errorf("another client's block %+v: %v", third, err)
	}
	if _, err := take(a, others); !errors.Is(err, store.ErrSenderIDs) {
		t.Errorf("beyond the range: %v", err)
	}
	update(t, b, func(ctx context.Context, tx store.Tx) error {
		return errors.Join(tx.ExtendBlock(ctx, o.Tag, 2, "a", 300), tx.ExtendBlock(ctx, o.Tag, 2, "a", 250))
	})
	refused(t, b, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error { return tx.ExtendBlock(ctx, o.Tag, 2, "b", 300) })
	others.NowMS, others.ExpiresMS, others.Owner = 200, 400, "b" // 3 and 4 are free again, 2 is not
	if again, err := take(b, others); err != nil || again.Index != 3 || again.Owner != "b" {
		t.Errorf("block taken again %+v: %v", again, err)
	}
	view(t, a, func(ctx context.Context, r store.Reader) error {
		got, err := r.Blocks(ctx, o.Tag)
		want := []store.Block{{Tag: o.Tag, Index: 2, Owner: "a", Client: 5, ExpiresMS: 300},
			{Tag: o.Tag, Index: 3, Owner: "b", Client: 6, ExpiresMS: 400}, {Tag: o.Tag, Index: 4, Owner: "a", Client: 6, ExpiresMS: 200}}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		return err
	})
	refused(t, a, store.ErrNotFound, func(ctx context.Context, tx store.Tx) error {
		_, err := tx.TakeBlock(ctx, store.BlockRequest{Tag: derive.Tag{1}, Owner: "a", LastIndex: 9})
		return err
	})
}

// testBlocksRace: no block is given twice (docs/keying.md §6).
func testBlocksRace(t *testing.T, a, b store.Store) {
	o := occurrence(t, a)
	var mu sync.Mutex
	seen := map[uint16]int{}
	var wg sync.WaitGroup
	for _, s := range []store.Store{a, b, a, b} {
		wg.Go(func() {
			for range 15 {
				var block store.Block
				_, err := s.Update(t.Context(), func(tx store.Tx) (err error) {
					block, err = tx.TakeBlock(t.Context(), store.BlockRequest{Tag: o.Tag, Owner: "x", ExpiresMS: 1, LastIndex: store.BlockCount - 1})
					return err
				})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				seen[block.Index]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 60 {
		t.Errorf("%d blocks for 60 takers", len(seen))
	}
}

func testHygiene(t *testing.T, a, b store.Store) {
	o := occurrence(t, a)
	update(t, a, func(ctx context.Context, tx store.Tx) error { return tx.InsertRows(ctx, rows(o.Tag, 0, 10, 1)) })
	count := func(f func(ctx context.Context, tx store.Tx) (int, error)) (n int) {
		t.Helper()
		mark := update(t, b, func(ctx context.Context, tx store.Tx) (err error) {
			n, err = f(ctx, tx)
			return err
		})
		if mark != (store.Mark{}) {
			t.Error("hygiene made a change")
		}
		return n
	}
	old := func(limit int) int {
		return count(func(ctx context.Context, tx store.Tx) (int, error) { return tx.DeleteRows(ctx, 30_000_004, limit) })
	}
	if x, y, z := old(3), old(3), old(3); x != 3 || y != 1 || z != 0 {
		t.Errorf("deleted %d, %d, %d of 4 old rows", x, y, z)
	}
	ended := func(ms int64) int {
		return count(func(ctx context.Context, tx store.Tx) (int, error) { return tx.DeleteOccurrences(ctx, ms, 10) })
	}
	if x, y := ended(o.EndMS), ended(o.EndMS+1); x != 0 || y != 1 {
		t.Errorf("deleted %d before and %d after the end", x, y)
	}
	view(t, a, func(ctx context.Context, r store.Reader) error {
		list, err := r.Rows(ctx, o.Tag, 0)
		if len(list) != 0 {
			t.Errorf("rows outlived their occurrence: %v", list)
		}
		return err
	})
}
