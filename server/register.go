package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/group"
	"usher/server/store"
)

// FindEvent finds an event by its id or its title. store.ErrNotFound,
// ErrAmbiguous (with the ids).
func FindEvent(ctx context.Context, r store.Reader, idOrTitle string) (store.Event, error) {
	if id, err := derive.ParseEventID(idOrTitle); err == nil {
		return r.Event(ctx, id)
	}
	all, err := r.Events(ctx)
	if err != nil {
		return store.Event{}, err
	}
	var found []store.Event
	var ids []string
	for _, e := range all {
		if e.Title == idOrTitle {
			found = append(found, e)
			ids = append(ids, e.ID.String())
		}
	}
	switch len(found) {
	case 0:
		return store.Event{}, fmt.Errorf("%w: event %q", store.ErrNotFound, idOrTitle)
	case 1:
		return found[0], nil
	}
	return store.Event{}, fmt.Errorf("%w: %q: name one by its id: %s", ErrAmbiguous, idOrTitle, strings.Join(ids, ", "))
}

// Associate sets a client's role in an event. A client without a way to the
// event (Fig 3) is refused: the association would open nothing.
func Associate(ctx context.Context, tx store.Tx, e store.Event, client string, role store.Role) error {
	c, err := tx.Client(ctx, client)
	if err != nil {
		return err
	}
	graph, err := group.Load(ctx, tx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(graph.WithDescendants(e.Group), func(g uint32) bool { return slices.Contains(c.Groups, g) }) {
		return fmt.Errorf("%w: %q is neither in group %q of event %q nor beneath it: usher-server client join first",
			ErrUnreached, client, graph.Name(e.Group), e.Title)
	}
	return tx.Associate(ctx, store.Association{Event: e.ID, Client: c.Number, Role: role})
}

// EndEvent brings the end of the occurrence that runs now forward, to the next
// whole second at or after the instant given (docs/keying.md §1). ErrNotRunning.
func EndEvent(ctx context.Context, tx store.Tx, e store.Event, at time.Time) (time.Time, error) {
	if whole := at.Truncate(time.Second); whole.Before(at) {
		at = whole.Add(time.Second)
	}
	endMS := at.UnixMilli()
	live, err := tx.Occurrences(ctx, endMS)
	if err != nil {
		return time.Time{}, err
	}
	for _, o := range live {
		if o.Event != e.ID || o.StartMS >= endMS {
			continue
		}
		n, _ := schedule.Timing{StartMS: o.StartMS, EndMS: endMS, FirstMS: o.FirstMS, IntervalMS: o.IntervalMS,
			InitialMS: o.InitialMS, WindowMS: o.WindowMS, Ahead: o.Ahead}.N()
		if err := tx.EndOccurrence(ctx, o.Tag, endMS, n); err != nil {
			return time.Time{}, err
		}
		return at, tx.UpdateEvent(ctx, e) // the edition tells clients
	}
	return time.Time{}, fmt.Errorf("%w: %q (%s) has no occurrence that began before %s and ends after it; to be rid of it altogether: usher-server event delete",
		ErrNotRunning, e.Title, e.ID, at.UTC().Format(time.RFC3339))
}
