package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"usher/keyclient/derive"
	"usher/server/store"
)

// flow is a store.Flow as the column has it.
type flow struct {
	Protocol    string     `json:"protocol"`
	Destination netip.Addr `json:"destination"`
	First       uint16     `json:"first_port"`
	Last        uint16     `json:"last_port"`
}

const eventColumns = `id, grp, title, senders, flows, dtstart, tzid, duration, rrule, exdate, ttl, key_servers,
	initial_ms, first_ms, interval_ms, window_ms, ahead, transform, gather_us, spread, revocation, method, priority, edition, created_ms`

func scanEvent(row scanner) (store.Event, error) {
	var e store.Event
	var id, senders, flows, except, servers []byte
	var created int64
	err := row.Scan(&id, &e.Group, &e.Title, &senders, &flows, &e.Time.Start, &e.Time.Zone, &e.Time.Duration, &e.Time.Rule, &except,
		&e.TTL, &servers, &e.InitialMS, &e.FirstMS, &e.IntervalMS, &e.WindowMS, &e.Ahead, &e.Transform, &e.GatherUS,
		&e.Spread, &e.Revocation, &e.Method, &e.Priority, &e.Edition, &created)
	if err != nil {
		return store.Event{}, err
	}
	copy(e.ID[:], id)
	e.Created = fromMilliseconds(created)
	var list []flow
	err = errors.Join(json.Unmarshal(senders, &e.Senders), json.Unmarshal(flows, &list),
		json.Unmarshal(except, &e.Time.Except), json.Unmarshal(servers, &e.KeyServers))
	for _, f := range list {
		e.Flows = append(e.Flows, store.Flow{Protocol: f.Protocol, Destination: f.Destination, FirstPort: f.First, LastPort: f.Last})
	}
	return e, err
}

// eventValues are the values of eventColumns.
func eventValues(e store.Event) ([]any, error) {
	var list []flow
	for _, f := range e.Flows {
		list = append(list, flow{f.Protocol, f.Destination, f.FirstPort, f.LastPort})
	}
	var text [4]string
	for i, v := range []any{e.Senders, list, e.Time.Except, e.KeyServers} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		text[i] = string(b)
	}
	return []any{e.ID[:], e.Group, e.Title, text[0], text[1], e.Time.Start, e.Time.Zone, e.Time.Duration, e.Time.Rule, text[2],
		e.TTL, text[3], e.InitialMS, e.FirstMS, e.IntervalMS, e.WindowMS, e.Ahead, e.Transform, e.GatherUS,
		e.Spread, e.Revocation, e.Method, e.Priority, e.Edition, milliseconds(e.Created)}, nil
}

// Events are all events, by creation.
func (r *reader) Events(ctx context.Context) ([]store.Event, error) {
	return collect(ctx, r, scanEvent, `SELECT `+eventColumns+` FROM events ORDER BY number`)
}

// EventsOf are the events of these groups, by creation.
func (r *reader) EventsOf(ctx context.Context, groups []uint32) ([]store.Event, error) {
	list, err := json.Marshal(groups)
	if err != nil {
		return nil, err
	}
	return collect(ctx, r, scanEvent,
		`SELECT `+eventColumns+` FROM events WHERE grp IN (SELECT value FROM json_each(?)) ORDER BY number`, string(list))
}

// Event by its id.
func (r *reader) Event(ctx context.Context, id derive.EventID) (store.Event, error) {
	e, err := scanEvent(r.q.QueryRowContext(ctx, `SELECT `+eventColumns+` FROM events WHERE id = ?`, id[:]))
	return e, found(err, "event %s", id)
}

// Associations of one event, by client.
func (r *reader) Associations(ctx context.Context, id derive.EventID) ([]store.Association, error) {
	return collect(ctx, r, func(row scanner) (store.Association, error) {
		a := store.Association{Event: id}
		err := row.Scan(&a.Client, &a.Role)
		return a, err
	}, `SELECT client, role FROM associations WHERE event = ? ORDER BY client`, id[:])
}

// SendsOf are the events that a client may send.
func (r *reader) SendsOf(ctx context.Context, number uint32) ([]derive.EventID, error) {
	return collect(ctx, r, func(row scanner) (id derive.EventID, err error) {
		var b []byte
		err = row.Scan(&b)
		copy(id[:], b)
		return id, err
	}, `SELECT event FROM associations WHERE client = ? AND role = ? ORDER BY event`, number, store.RoleSend)
}

// AddEvent stores a new event.
func (t *tx) AddEvent(ctx context.Context, e store.Event) error {
	e.Edition, e.Created = 1, t.now
	values, err := eventValues(e)
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, `INSERT INTO events (`+eventColumns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`, values...)
	if err != nil {
		return taken(err, "event %s in group %d", e.ID, e.Group)
	}
	return t.changed(ctx, store.KindEvent, e.ID)
}

// UpdateEvent replaces an event's settings.
func (t *tx) UpdateEvent(ctx context.Context, e store.Event) error {
	old, err := t.Event(ctx, e.ID)
	if err != nil {
		return err
	}
	e.Edition, e.Created = old.Edition+1, old.Created
	values, err := eventValues(e)
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, `UPDATE events SET (`+eventColumns+`) = (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) WHERE id = ?`,
		append(values, e.ID[:])...)
	if err != nil {
		return taken(err, "event %s in group %d", e.ID, e.Group)
	}
	return t.changed(ctx, store.KindEvent, e.ID)
}

// DeleteEvent removes an event and all that hangs on it.
func (t *tx) DeleteEvent(ctx context.Context, id derive.EventID) error {
	n, err := t.exec(ctx, `DELETE FROM events WHERE id = ?`, id[:])
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: event %s", store.ErrNotFound, id)
	}
	return t.changed(ctx, store.KindEvent, id)
}

// Associate sets a client's role.
func (t *tx) Associate(ctx context.Context, a store.Association) error {
	_, err := t.exec(ctx, `INSERT INTO associations (event, client, role) VALUES (?, ?, ?)
		ON CONFLICT (event, client) DO UPDATE SET role = excluded.role`, a.Event[:], a.Client, a.Role)
	if err != nil {
		return taken(err, "client %d in event %s", a.Client, a.Event)
	}
	return t.changed(ctx, store.KindAssociation, a.Event)
}
