package sqlite

import (
	"context"
	"fmt"

	"usher/server/store"
)

// Groups are all groups, by number.
func (r *reader) Groups(ctx context.Context) ([]store.Group, error) {
	return collect(ctx, r, func(row scanner) (g store.Group, err error) {
		err = row.Scan(&g.Number, &g.Name)
		return g, err
	}, `SELECT number, name FROM groups ORDER BY number`)
}

// Group by its name.
func (r *reader) Group(ctx context.Context, name string) (store.Group, error) {
	g := store.Group{Name: name}
	err := r.q.QueryRowContext(ctx, `SELECT number FROM groups WHERE name = ?`, name).Scan(&g.Number)
	return g, found(err, "group %q", name)
}

// Edges are all arrows.
func (r *reader) Edges(ctx context.Context) ([]store.Edge, error) {
	return collect(ctx, r, func(row scanner) (e store.Edge, err error) {
		err = row.Scan(&e.Parent, &e.Child)
		return e, err
	}, `SELECT parent, child FROM edges ORDER BY parent, child`)
}

// AddGroup makes a group.
func (t *tx) AddGroup(ctx context.Context, name string) (store.Group, error) {
	g := store.Group{Name: name}
	err := t.q.QueryRowContext(ctx, `INSERT INTO groups (name) VALUES (?) RETURNING number`, name).Scan(&g.Number)
	if err != nil {
		return store.Group{}, taken(err, "group %q", name)
	}
	return g, t.changed(ctx, store.KindGroup, g.Number)
}

// AddEdge draws an arrow.
func (t *tx) AddEdge(ctx context.Context, e store.Edge) error {
	if _, err := t.exec(ctx, `INSERT INTO edges (parent, child) VALUES (?, ?)`, e.Parent, e.Child); err != nil {
		return taken(err, "arrow from group %d to group %d", e.Parent, e.Child)
	}
	return t.changed(ctx, store.KindEdge, e.Child)
}

// RemoveEdge removes an arrow.
func (t *tx) RemoveEdge(ctx context.Context, e store.Edge) error {
	n, err := t.exec(ctx, `DELETE FROM edges WHERE parent = ? AND child = ?`, e.Parent, e.Child)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: arrow from group %d to group %d", store.ErrNotFound, e.Parent, e.Child)
	}
	return t.changed(ctx, store.KindEdge, e.Child)
}
