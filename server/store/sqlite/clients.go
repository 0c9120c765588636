package sqlite

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"usher/server/store"
)

// clientColumns selects a client with its groups, as one list of numbers, and
// whether it is suspended.
const clientColumns = `SELECT c.number, c.name, c.created_ms,
	coalesce((SELECT group_concat(grp) FROM memberships WHERE client = c.number), ''),
	EXISTS (SELECT 1 FROM suspensions WHERE client = c.number)
	FROM clients c `

func scanClient(row scanner) (store.Client, error) {
	var c store.Client
	var created int64
	var groups string
	if err := row.Scan(&c.Number, &c.Name, &created, &groups, &c.Suspended); err != nil {
		return store.Client{}, err
	}
	c.Created = fromMilliseconds(created)
	var err error
	c.Groups, err = numbers(groups)
	return c, err
}

// numbers reads group_concat's list.
func numbers(list string) ([]uint32, error) {
	if list == "" {
		return nil, nil
	}
	var all []uint32
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return nil, err
		}
		all = append(all, uint32(n))
	}
	slices.Sort(all)
	return all, nil
}

// Clients are all clients, by number.
func (r *reader) Clients(ctx context.Context) ([]store.Client, error) {
	return collect(ctx, r, scanClient, clientColumns+`ORDER BY c.number`)
}

// Client by its name.
func (r *reader) Client(ctx context.Context, name string) (store.Client, error) {
	c, err := scanClient(r.q.QueryRowContext(ctx, clientColumns+`WHERE c.name = ?`, name))
	return c, found(err, "client %q", name)
}

// ClientByNumber is the client with that number.
func (r *reader) ClientByNumber(ctx context.Context, number uint32) (store.Client, error) {
	c, err := scanClient(r.q.QueryRowContext(ctx, clientColumns+`WHERE c.number = ?`, number))
	return c, found(err, "client %d", number)
}

// Credential is what a login is checked against.
func (r *reader) Credential(ctx context.Context, name string) (store.Credential, error) {
	var c store.Credential
	err := r.q.QueryRowContext(ctx, `SELECT number, password_hash FROM clients WHERE name = ?`, name).Scan(&c.Number, &c.PasswordHash)
	return c, found(err, "client %q", name)
}

// Suspensions of one client.
func (r *reader) Suspensions(ctx context.Context, number uint32) ([]store.Suspension, error) {
	return collect(ctx, r, func(row scanner) (s store.Suspension, err error) {
		var since int64
		err = row.Scan(&s.Source, &s.Reason, &since)
		s.Since = fromMilliseconds(since)
		return s, err
	}, `SELECT source, reason, since_ms FROM suspensions WHERE client = ? ORDER BY source`, number)
}

// Member is one client of the set.
func (r *reader) Member(ctx context.Context, number uint32) (store.Member, error) {
	c, err := r.ClientByNumber(ctx, number)
	return store.Member{Number: c.Number, Groups: c.Groups, Suspended: c.Suspended}, err
}

// Members are all clients of the set.
func (r *reader) Members(ctx context.Context, each func(store.Member) error) error {
	return r.each(ctx, func(row scanner) error {
		c, err := scanClient(row)
		if err != nil {
			return err
		}
		return each(store.Member{Number: c.Number, Groups: c.Groups, Suspended: c.Suspended})
	}, clientColumns+`ORDER BY c.number`)
}

// AddClient makes a client.
func (t *tx) AddClient(ctx context.Context, name, passwordHash string, groups []uint32) (store.Client, error) {
	var number uint32
	err := t.q.QueryRowContext(ctx, `INSERT INTO clients (name, password_hash, created_ms) VALUES (?, ?, ?) RETURNING number`,
		name, passwordHash, milliseconds(t.now)).Scan(&number)
	if err != nil {
		return store.Client{}, taken(err, "client %q", name)
	}
	for _, g := range groups {
		if err := t.insertMembership(ctx, number, g); err != nil {
			return store.Client{}, err
		}
	}
	if err := t.changed(ctx, store.KindMember, number); err != nil {
		return store.Client{}, err
	}
	return t.ClientByNumber(ctx, number)
}

// SetPassword replaces a hash.
func (t *tx) SetPassword(ctx context.Context, number uint32, passwordHash string) error {
	n, err := t.exec(ctx, `UPDATE clients SET password_hash = ? WHERE number = ?`, passwordHash, number)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: client %d", store.ErrNotFound, number)
	}
	return err
}

func (t *tx) insertMembership(ctx context.Context, number, group uint32) error {
	_, err := t.exec(ctx, `INSERT INTO memberships (client, grp) VALUES (?, ?)`, number, group)
	return taken(err, "client %d in group %d", number, group)
}

// Join puts a client into a group.
func (t *tx) Join(ctx context.Context, number, group uint32) error {
	if err := t.insertMembership(ctx, number, group); err != nil {
		return err
	}
	return t.changed(ctx, store.KindMember, number)
}

// Leave takes a client out of a group.
func (t *tx) Leave(ctx context.Context, number, group uint32) error {
	n, err := t.exec(ctx, `DELETE FROM memberships WHERE client = ? AND grp = ?`, number, group)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: client %d in group %d", store.ErrNotFound, number, group)
	}
	return t.changed(ctx, store.KindMember, number)
}

// Suspend adds or renews one source's suspension.
func (t *tx) Suspend(ctx context.Context, number uint32, source, reason string) error {
	_, err := t.exec(ctx, `INSERT INTO suspensions (client, source, reason, since_ms) VALUES (?, ?, ?, ?)
		ON CONFLICT (client, source) DO UPDATE SET reason = excluded.reason`, number, source, reason, milliseconds(t.now))
	if err != nil {
		return taken(err, "client %d", number)
	}
	return t.changed(ctx, store.KindMember, number)
}

// Restore lifts one source's suspension.
func (t *tx) Restore(ctx context.Context, number uint32, source string) error {
	n, err := t.exec(ctx, `DELETE FROM suspensions WHERE client = ? AND source = ?`, number, source)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: suspension of client %d by %s", store.ErrNotFound, number, source)
	}
	return t.changed(ctx, store.KindMember, number)
}
