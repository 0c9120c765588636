package sqlite

import (
	"context"
	"fmt"
	"slices"

	"usher/keyclient/derive"
	"usher/server/store"
)

const occurrenceColumns = `tag, event, incarnation, start_ms, end_ms, first_ms, interval_ms, initial_ms, window_ms, ahead, transform`

func scanOccurrence(row scanner) (store.Occurrence, error) {
	var o store.Occurrence
	var tag, event []byte
	err := row.Scan(&tag, &event, &o.Incarnation, &o.StartMS, &o.EndMS, &o.FirstMS, &o.IntervalMS, &o.InitialMS, &o.WindowMS, &o.Ahead, &o.Transform)
	copy(o.Tag[:], tag)
	copy(o.Event[:], event)
	return o, err
}

// Occurrences that end after an instant, by start.
func (r *reader) Occurrences(ctx context.Context, endsAfterMS int64) ([]store.Occurrence, error) {
	return collect(ctx, r, scanOccurrence,
		`SELECT `+occurrenceColumns+` FROM occurrences WHERE end_ms > ? OR end_ms = 0 ORDER BY start_ms, tag`, endsAfterMS)
}

// Occurrence by its tag.
func (r *reader) Occurrence(ctx context.Context, tag derive.Tag) (store.Occurrence, error) {
	o, err := scanOccurrence(r.q.QueryRowContext(ctx, `SELECT `+occurrenceColumns+` FROM occurrences WHERE tag = ?`, tag[:]))
	return o, found(err, "occurrence %s", tag)
}

// InsertOccurrence stores an occurrence unless it is there.
func (t *tx) InsertOccurrence(ctx context.Context, o store.Occurrence) error {
	n, err := t.exec(ctx, `INSERT INTO occurrences (`+occurrenceColumns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (tag) DO NOTHING`,
		o.Tag[:], o.Event[:], o.Incarnation, o.StartMS, o.EndMS, o.FirstMS, o.IntervalMS, o.InitialMS, o.WindowMS, o.Ahead, o.Transform)
	if err != nil {
		return taken(err, "event %s", o.Event)
	}
	if n == 0 {
		return nil
	}
	return t.changed(ctx, store.KindOccurrence, o.Tag)
}

// EndOccurrence brings an end forward.
func (t *tx) EndOccurrence(ctx context.Context, tag derive.Tag, endMS int64, n uint32) error {
	o, err := t.Occurrence(ctx, tag)
	if err != nil {
		return err
	}
	if o.EndMS != 0 && endMS >= o.EndMS || endMS <= 0 {
		return fmt.Errorf("store: occurrence %s: an end can only be brought forward", tag)
	}
	if _, err := t.exec(ctx, `UPDATE occurrences SET end_ms = ? WHERE tag = ?`, endMS, tag[:]); err != nil {
		return err
	}
	if _, err := t.exec(ctx, `DELETE FROM interval_rows WHERE tag = ? AND i >= ?`, tag[:], n); err != nil {
		return err
	}
	return t.changed(ctx, store.KindOccurrence, tag)
}

// DeleteOccurrences removes what ended long ago.
func (t *tx) DeleteOccurrences(ctx context.Context, endedBeforeMS int64, limit int) (int, error) {
	return t.exec(ctx, `DELETE FROM occurrences WHERE tag IN (
		SELECT tag FROM occurrences WHERE end_ms > 0 AND end_ms < ? ORDER BY end_ms LIMIT ?)`, endedBeforeMS, limit)
}

// Rows of one occurrence, by interval.
func (r *reader) Rows(ctx context.Context, tag derive.Tag, first uint32) ([]store.Row, error) {
	return collect(ctx, r, func(row scanner) (store.Row, error) {
		v := store.Row{Tag: tag}
		var sealed []byte
		err := row.Scan(&v.Interval, &v.Epoch, &sealed)
		copy(v.Sealed[:], sealed)
		return v, err
	}, `SELECT i, epoch, sealed FROM interval_rows WHERE tag = ? AND i >= ? ORDER BY i`, tag[:], first)
}

// InsertRows stores rows that are not there yet.
func (t *tx) InsertRows(ctx context.Context, rows []store.Row) error {
	insert, err := t.q.PrepareContext(ctx, `INSERT INTO interval_rows (tag, i, epoch, sealed) VALUES (?, ?, ?, ?) ON CONFLICT (tag, i) DO NOTHING`)
	if err != nil {
		return err
	}
	defer insert.Close() //nolint:errcheck // the transaction's end closes it, too
	var fresh []derive.Tag
	for _, row := range rows {
		res, err := insert.ExecContext(ctx, row.Tag[:], row.Interval, int64(row.Epoch), row.Sealed[:])
		if err != nil {
			return taken(err, "occurrence %s", row.Tag)
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n > 0 && !slices.Contains(fresh, row.Tag) {
			fresh = append(fresh, row.Tag)
		}
	}
	for _, tag := range fresh {
		if err := t.changed(ctx, store.KindRows, tag); err != nil {
			return err
		}
	}
	return nil
}

// DeleteRows removes rows of epochs that are over.
func (t *tx) DeleteRows(ctx context.Context, beforeEpoch uint64, limit int) (int, error) {
	return t.exec(ctx, `DELETE FROM interval_rows WHERE (tag, i) IN (
		SELECT tag, i FROM interval_rows WHERE epoch < ? ORDER BY epoch LIMIT ?)`, int64(beforeEpoch), limit)
}
