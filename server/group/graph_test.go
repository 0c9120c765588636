package group_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"usher/keyclient/derive"
	"usher/server/group"
	"usher/server/store"
	"usher/server/store/sqlite"
)

func open(t *testing.T) store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "usher.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) //nolint:errcheck // the test is over
	return s
}

// TestFigure3 is the figure: G1 is the root with E1 and C1; G4 beneath it has
// E5, G6 beneath G4 has E7, E8 and C7. The figure's other groups and events
// stand beside them and must not show.
func TestFigure3(t *testing.T) {
	s := open(t)
	groups := map[string]uint32{}
	_, err := s.Update(t.Context(), func(tx store.Tx) error {
		ctx := t.Context()
		for i := 1; i <= 6; i++ {
			g, err := tx.AddGroup(ctx, fmt.Sprintf("G%d", i))
			if err != nil {
				return err
			}
			groups[g.Name] = g.Number
		}
		for _, e := range [][2]string{{"G1", "G2"}, {"G1", "G3"}, {"G1", "G4"}, {"G3", "G5"}, {"G4", "G6"}} {
			if err := group.Link(ctx, tx, e[0], e[1]); err != nil {
				return err
			}
		}
		for _, e := range [][2]string{{"E1", "G1"}, {"E2", "G2"}, {"E3", "G3"}, {"E4", "G3"}, {"E5", "G4"}, {"E6", "G5"}, {"E7", "G6"}, {"E8", "G6"}} {
			if err := tx.AddEvent(ctx, store.Event{ID: derive.NewEventID(), Title: e[0], Group: groups[e[1]],
				Senders: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}); err != nil {
				return err
			}
		}
		for _, c := range [][2]string{{"C1", "G1"}, {"C7", "G6"}} {
			if _, err := tx.AddClient(ctx, c[0], "", []uint32{groups[c[1]]}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for client, want := range map[string][]string{"C7": {"E1", "E5", "E7", "E8"}, "C1": {"E1"}} {
		if got := summary(t, s, client); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", client, got, want)
		}
	}
	// A second way up, a diamond, and G6 as a child of two groups.
	_, err = s.Update(t.Context(), func(tx store.Tx) error {
		return group.Link(t.Context(), tx, "G5", "G6")
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := summary(t, s, "C7"), []string{"E1", "E3", "E4", "E5", "E6", "E7", "E8"}; !slices.Equal(got, want) {
		t.Errorf("with two parents C7 has %v, want %v", got, want)
	}
	_, err = s.Update(t.Context(), func(tx store.Tx) error { return group.Link(t.Context(), tx, "G6", "G1") })
	want := "group: a cycle: G1 leads to G6 already (G1 -> G4 -> G6): an arrow back would close the circle"
	if !errors.Is(err, group.ErrCycle) || err.Error() != want {
		t.Errorf("closing arrow: %v", err)
	}
	_, err = s.Update(t.Context(), func(tx store.Tx) error { return group.Unlink(t.Context(), tx, "G5", "G6") })
	if err != nil {
		t.Fatal(err)
	}
	if got := summary(t, s, "C7"); len(got) != 4 {
		t.Errorf("the arrow is gone, C7 still has %v", got)
	}
}

// summary are the titles of a client's events, over all its groups.
func summary(t *testing.T, s store.Store, client string) []string {
	t.Helper()
	var titles []string
	err := s.View(t.Context(), func(r store.Reader) error {
		c, err := r.Client(t.Context(), client)
		if err != nil {
			return err
		}
		for _, g := range c.Groups {
			events, err := group.Events(t.Context(), r, g)
			if err != nil {
				return err
			}
			for _, e := range events {
				titles = append(titles, e.Title)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(titles)
	return titles
}

func TestLinkRefused(t *testing.T) {
	s := open(t)
	link := func(parent, child string) error {
		_, err := s.Update(t.Context(), func(tx store.Tx) error { return group.Link(t.Context(), tx, parent, child) })
		return err
	}
	_, err := s.Update(t.Context(), func(tx store.Tx) error {
		return errors.Join(add(t.Context(), tx, "a"), add(t.Context(), tx, "b"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := link("a", "b"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		parent, child string
		want          error
	}{
		{"a", "a", group.ErrCycle},
		{"b", "a", group.ErrCycle},
		{"a", "b", store.ErrExists},
		{"a", "c", store.ErrNotFound},
		{"c", "a", store.ErrNotFound},
	} {
		if err := link(tt.parent, tt.child); !errors.Is(err, tt.want) {
			t.Errorf("%s to %s: %v, want %v", tt.parent, tt.child, err, tt.want)
		}
	}
	_, err = s.Update(t.Context(), func(tx store.Tx) error { return group.Unlink(t.Context(), tx, "b", "a") })
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such arrow: %v", err)
	}
}

func add(ctx context.Context, tx store.Tx, name string) error {
	_, err := tx.AddGroup(ctx, name)
	return err
}

// TestRandomGraphs compares with a plain transitive closure: ancestors are what
// the closure says, and CheckLink refuses exactly what would make a cycle.
func TestRandomGraphs(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const n = 9
	for range 200 {
		var groups []store.Group
		for i := range uint32(n) {
			groups = append(groups, store.Group{Number: i, Name: fmt.Sprint(i)})
		}
		var edges []store.Edge
		var leads [n][n]bool // leads[a][b]: arrows lead from a to b
		for range 25 {
			parent, child := rnd.Uint32N(n), rnd.Uint32N(n)
			err := group.New(groups, edges).CheckLink(parent, child)
			cycle := parent == child || leads[child][parent]
			if (err != nil) != cycle {
				t.Fatalf("arrow %d to %d beside %v: %v", parent, child, edges, err)
			}
			if cycle {
				checkPath(t, err, edges, parent, child)
				continue
			}
			edges = append(edges, store.Edge{Parent: parent, Child: child})
			for a := range n {
				for b := range n {
					if (uint32(a) == parent || leads[a][parent]) && (uint32(b) == child || leads[child][b]) {
						leads[a][b] = true
					}
				}
			}
		}
		g := group.New(groups, edges)
		for of := range uint32(n) {
			up, down := g.WithAncestors(of), g.WithDescendants(of)
			for other := range uint32(n) {
				if slices.Contains(up, other) != (other == of || leads[other][of]) || slices.Contains(down, other) != (other == of || leads[of][other]) {
					t.Fatalf("of %d in %v: up %v, down %v", of, edges, up, down)
				}
			}
			slices.Sort(up)
			if len(slices.Compact(up)) != len(up) {
				t.Fatalf("an ancestor twice: %v", up)
			}
		}
	}
}

// checkPath follows the arrows of a refused cycle.
func checkPath(t *testing.T, err error, edges []store.Edge, parent, child uint32) {
	t.Helper()
	cycle, ok := errors.AsType[*group.CycleError](err)
	if !ok || cycle.Path[0] != fmt.Sprint(child) || cycle.Path[len(cycle.Path)-1] != fmt.Sprint(parent) {
		t.Fatalf("path %v of a cycle from %d to %d", err, child, parent)
	}
	for i := range len(cycle.Path) - 1 {
		if !slices.ContainsFunc(edges, func(e store.Edge) bool {
			return fmt.Sprint(e.Parent) == cycle.Path[i] && fmt.Sprint(e.Child) == cycle.Path[i+1]
		}) {
			t.Fatalf("path %v goes where no arrow is: %v", cycle.Path, edges)
		}
	}
}
