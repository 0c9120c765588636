package key

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/store"
)

// wantedRow is one interval secret to make or to open. They are worked on by
// rising epoch, so that the ratchet is walked once.
type wantedRow struct {
	run      *run
	interval uint32
	epoch    uint64
}

func byEpoch(list []wantedRow) {
	slices.SortFunc(list, func(a, b wantedRow) int { return cmp.Compare(a.epoch, b.epoch) })
}

// open opens sealed rows and derives from each what is kept of it.
func (k *keeper) open(wanted []wantedRow) {
	if len(wanted) == 0 {
		return
	}
	byEpoch(wanted)
	walk := k.ratchet.walk()
	defer walk.end()
	for _, w := range wanted {
		if w.run.broken {
			continue
		}
		row := w.run.rows[w.interval]
		keys, err := openKeysOf(walk, &row)
		if errors.Is(err, ErrForgotten) {
			delete(w.run.rows, w.interval)
			continue
		}
		if err != nil {
			w.run.broken = true
			k.log.Error("interval secret does not open: the ratchet file is another one than it was sealed under; this occurrence gets no keys, its next one will",
				"event", w.run.Event.String(), "tag", w.run.Tag.String(), "interval", w.interval, "error", err)
			continue
		}
		w.run.keys[w.interval] = keys
		k.changed = true
	}
}

func openKeysOf(walk *epochWalk, row *store.Row) (*intervalKeys, error) {
	e, err := walk.sealKey(row.Epoch)
	if err != nil {
		return nil, err
	}
	defer e.Wipe()
	c, err := openRow(e, row)
	if err != nil {
		return nil, err
	}
	defer c.Wipe()
	return newIntervalKeys(c, row.Tag, row.Interval), nil
}

// missingRows are the secrets to make now, of all occurrences: none while each
// has `lead` beyond its current interval; else for all of them up to `lead` and
// an epoch, so that it is done once an epoch (docs/keying.md §3).
func (k *keeper) missingRows(runs []*run, nowMS int64) []wantedRow {
	if !slices.ContainsFunc(runs, func(r *run) bool { return r.short(nowMS) }) {
		return nil
	}
	var missing []wantedRow
	for _, r := range runs {
		perEpoch := uint32((epochLength.Milliseconds() + r.IntervalMS - 1) / r.IntervalMS)
		c := r.timing.Current(nowMS)
		for i := c; i <= min(r.last(), c+r.timing.Lead()+perEpoch); i++ {
			if _, there := r.rows[i]; !there {
				missing = append(missing, wantedRow{run: r, interval: i, epoch: rowEpoch(r.timing.T(i + 1))})
			}
		}
	}
	return missing
}

// short tells that rows up to `lead` beyond the current interval are not all there.
func (r *run) short(nowMS int64) bool {
	c := r.timing.Current(nowMS)
	if _, there := r.rows[c]; !there {
		return true
	}
	newest, ok := r.newestRow(nowMS)
	return !ok || newest < min(r.last(), c+r.timing.Lead())
}

// seal makes the missing secrets. Nobody uses them from here: they are written,
// committed, and what the store then has is what counts.
func (k *keeper) seal(missing []wantedRow) ([]store.Row, error) {
	byEpoch(missing)
	walk := k.ratchet.walk()
	defer walk.end()
	rows := make([]store.Row, 0, len(missing))
	for _, w := range missing {
		e, err := walk.sealKey(w.epoch)
		if err != nil {
			return nil, err
		}
		c := derive.RandomSecret()
		rows = append(rows, sealRow(e, w.run.Tag, w.interval, w.epoch, randomNonce(), c))
		c.Wipe()
		e.Wipe()
	}
	return rows, nil
}

// tidyLimit bounds the rows that one clean-up transaction removes.
const tidyLimit = 10_000

const (
	keepOccurrencesMS = 3_600_000
	keepChangesMS     = 14 * 24 * 3_600_000
)

// tidy removes from the store what the ratchet has made unreadable, and what is
// over. It is hygiene and carries no claim.
func (k *keeper) tidy(ctx context.Context, nowMS int64) error {
	_, err := k.store.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.DeleteRows(ctx, k.ratchet.at(), tidyLimit); err != nil {
			return err
		}
		if _, err := tx.DeleteOccurrences(ctx, nowMS-schedule.LingerMS-keepOccurrencesMS, tidyLimit); err != nil {
			return err
		}
		_, err := tx.TrimChanges(ctx, nowMS-keepChangesMS, tidyLimit)
		return err
	})
	return err
}
