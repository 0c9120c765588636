// Package group is the directed acyclic graph of Fig 3: groups, arrows from
// parent to child, and the rule that a client of a group has the events of that
// group and of all its ancestors, each once, and of no other.
//
// Load reads the graph out of one snapshot of the store; Link draws an arrow
// and refuses one that would close a cycle. The package must never follow an
// arrow against its direction.
package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"usher/server/store"
)

// ErrCycle marks a *CycleError.
var ErrCycle = errors.New("group: a cycle")

// CycleError says which arrows an arrow would close to a cycle.
type CycleError struct {
	// Path are the names from the arrow's child, down the arrows there are, to
	// its parent; the refused arrow would lead from the last to the first.
	Path []string
}

// Error names the path.
func (e *CycleError) Error() string {
	return fmt.Sprintf("%v: %s leads to %s already (%s): an arrow back would close the circle",
		ErrCycle, e.Path[0], e.Path[len(e.Path)-1], strings.Join(e.Path, " -> "))
}

// Is makes errors.Is(err, ErrCycle) true.
func (e *CycleError) Is(target error) bool { return target == ErrCycle }

// Graph is the graph at one moment, immutable.
type Graph struct {
	names    map[uint32]string
	parents  map[uint32][]uint32
	children map[uint32][]uint32
}

// New makes a graph of groups and arrows.
func New(groups []store.Group, edges []store.Edge) *Graph {
	g := &Graph{names: map[uint32]string{}, parents: map[uint32][]uint32{}, children: map[uint32][]uint32{}}
	for _, v := range groups {
		g.names[v.Number] = v.Name
	}
	for _, e := range edges {
		g.parents[e.Child] = append(g.parents[e.Child], e.Parent)
		g.children[e.Parent] = append(g.children[e.Parent], e.Child)
	}
	return g
}

// Load reads the graph of one snapshot.
func Load(ctx context.Context, r store.Reader) (*Graph, error) {
	groups, err := r.Groups(ctx)
	if err != nil {
		return nil, err
	}
	edges, err := r.Edges(ctx)
	if err != nil {
		return nil, err
	}
	return New(groups, edges), nil
}

// Name of a group, "" if there is no such group.
func (g *Graph) Name(group uint32) string { return g.names[group] }

// Parents of a group, by number.
func (g *Graph) Parents(group uint32) []uint32 { return slices.Sorted(slices.Values(g.parents[group])) }

// Children of a group, by number.
func (g *Graph) Children(group uint32) []uint32 {
	return slices.Sorted(slices.Values(g.children[group]))
}

// WithAncestors are the group and all groups from which arrows lead to it, over
// any number of steps (Fig 2, 240): the group first, nearer ones before farther
// ones, each once.
func (g *Graph) WithAncestors(group uint32) []uint32 {
	return walk(group, g.Parents)
}

// WithDescendants are the group and all groups that arrows lead to from it:
// those whose clients have its events.
func (g *Graph) WithDescendants(group uint32) []uint32 {
	return walk(group, g.Children)
}

func walk(from uint32, next func(uint32) []uint32) []uint32 {
	found, seen := []uint32{from}, map[uint32]bool{from: true}
	for i := 0; i < len(found); i++ {
		for _, n := range next(found[i]) {
			if !seen[n] {
				seen[n] = true
				found = append(found, n)
			}
		}
	}
	return found
}

// CheckLink answers a *CycleError if an arrow from parent to child would close
// a cycle: if arrows lead from child to parent already.
func (g *Graph) CheckLink(parent, child uint32) error {
	cameFrom := map[uint32]uint32{child: child}
	queue := []uint32{child}
	for i := 0; i < len(queue); i++ {
		at := queue[i]
		if at == parent {
			return &CycleError{Path: g.path(cameFrom, parent)}
		}
		for _, n := range g.Children(at) {
			if _, seen := cameFrom[n]; !seen {
				cameFrom[n] = at
				queue = append(queue, n)
			}
		}
	}
	return nil
}

// path goes back from the end of a search to its start.
func (g *Graph) path(cameFrom map[uint32]uint32, end uint32) []string {
	names := []string{g.names[end]}
	for at := end; cameFrom[at] != at; {
		at = cameFrom[at]
		names = append(names, g.names[at])
	}
	slices.Reverse(names)
	return names
}

// Link draws an arrow from parent to child, by name. store.ErrNotFound,
// store.ErrExists, ErrCycle.
func Link(ctx context.Context, tx store.Tx, parent, child string) error {
	edge, err := named(ctx, tx, parent, child)
	if err != nil {
		return err
	}
	graph, err := Load(ctx, tx)
	if err != nil {
		return err
	}
	if err := graph.CheckLink(edge.Parent, edge.Child); err != nil {
		return err
	}
	if err := tx.AddEdge(ctx, edge); errors.Is(err, store.ErrExists) {
		return fmt.Errorf("%w: arrow from %s to %s", store.ErrExists, parent, child)
	} else if err != nil {
		return err
	}
	return nil
}

// Unlink removes the arrow from parent to child, by name. store.ErrNotFound.
func Unlink(ctx context.Context, tx store.Tx, parent, child string) error {
	edge, err := named(ctx, tx, parent, child)
	if err != nil {
		return err
	}
	if err := tx.RemoveEdge(ctx, edge); errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: arrow from %s to %s", store.ErrNotFound, parent, child)
	} else if err != nil {
		return err
	}
	return nil
}

func named(ctx context.Context, r store.Reader, parent, child string) (store.Edge, error) {
	p, err := r.Group(ctx, parent)
	if err != nil {
		return store.Edge{}, err
	}
	c, err := r.Group(ctx, child)
	if err != nil {
		return store.Edge{}, err
	}
	return store.Edge{Parent: p.Number, Child: c.Number}, nil
}

// Events is the summary of Fig 2, 250: the events of a group and of all its
// ancestors, each once, by creation.
func Events(ctx context.Context, r store.Reader, group uint32) ([]store.Event, error) {
	graph, err := Load(ctx, r)
	if err != nil {
		return nil, err
	}
	return r.EventsOf(ctx, graph.WithAncestors(group))
}
