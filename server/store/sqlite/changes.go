package sqlite

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"usher/server/store"
)

// changed appends to the change log what this transaction did.
func (t *tx) changed(ctx context.Context, kind store.Kind, key any) error {
	var random [8]byte
	rand.Read(random[:]) //nolint:errcheck // never fails: the runtime ends the process instead
	mark := store.Mark{Random: binary.BigEndian.Uint64(random[:])}
	err := t.q.QueryRowContext(ctx, `INSERT INTO changes (random, kind, key, at_ms) VALUES (?, ?, ?, ?) RETURNING seq`,
		int64(mark.Random), string(kind), fmt.Sprint(key), milliseconds(t.now)).Scan(&mark.Seq)
	if err != nil {
		return err
	}
	t.mark = mark
	return nil
}

// Horizon is the sequence number of the newest change: with one writer, no
// later commit can have a lower one.
func (r *reader) Horizon(ctx context.Context) (store.Cursor, error) {
	var c store.Cursor
	err := r.q.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM changes`).Scan(&c)
	return c, err
}

// Changes after a sequence number.
func (r *reader) Changes(ctx context.Context, after store.Cursor, limit int) ([]store.Change, store.Cursor, error) {
	var first, last store.Cursor
	err := r.q.QueryRowContext(ctx, `SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM changes`).Scan(&first, &last)
	if err != nil {
		return nil, after, err
	}
	if after > last || after+1 < first {
		return nil, after, fmt.Errorf("%w: it has %d to %d, asked for what follows %d", store.ErrCursorGone, first, last, after)
	}
	list, err := collect(ctx, r, func(row scanner) (c store.Change, err error) {
		var random, at int64
		err = row.Scan(&c.Seq, &random, &c.Kind, &c.Key, &at)
		c.Random, c.At = uint64(random), fromMilliseconds(at)
		return c, err
	}, `SELECT seq, random, kind, key, at_ms FROM changes WHERE seq > ? ORDER BY seq LIMIT ?`, after, limit)
	if len(list) > 0 {
		after = store.Cursor(list[len(list)-1].Seq)
	}
	return list, after, err
}

// Last is the newest change's mark.
func (r *reader) Last(ctx context.Context) (store.Mark, error) {
	list, err := collect(ctx, r, func(row scanner) (m store.Mark, err error) {
		var random int64
		err = row.Scan(&m.Seq, &random)
		m.Random = uint64(random)
		return m, err
	}, `SELECT seq, random FROM changes ORDER BY seq DESC LIMIT 1`)
	if err != nil || len(list) == 0 {
		return store.Mark{}, err
	}
	return list[0], nil
}

// Holds looks a mark up by both of its halves.
func (r *reader) Holds(ctx context.Context, m store.Mark) (bool, error) {
	var n int
	err := r.q.QueryRowContext(ctx, `SELECT count(*) FROM changes WHERE seq = ? AND random = ?`, m.Seq, int64(m.Random)).Scan(&n)
	return n > 0, err
}

// TrimChanges removes old changes, never the newest.
func (t *tx) TrimChanges(ctx context.Context, beforeMS int64, limit int) (int, error) {
	return t.exec(ctx, `DELETE FROM changes WHERE seq IN (
		SELECT seq FROM changes WHERE at_ms < ? AND seq < (SELECT max(seq) FROM changes) ORDER BY seq LIMIT ?)`, beforeMS, limit)
}
