package key

import (
	"math"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/store"
)

// run is an occurrence as the keeper has it: what the store says, the sealed
// secrets, and the keys that are open now.
type run struct {
	store.Occurrence
	timing    schedule.Timing
	rows      map[uint32]store.Row // sealed, from the lowest needed on
	keys      map[uint32]*intervalKeys
	cancelled bool
	gone      bool // out of the store
	broken    bool // a row does not open: logged once
}

func timingOf(o store.Occurrence) schedule.Timing {
	return schedule.Timing{
		StartMS: o.StartMS, EndMS: o.EndMS,
		FirstMS: o.FirstMS, IntervalMS: o.IntervalMS, InitialMS: o.InitialMS, WindowMS: o.WindowMS,
		Ahead: o.Ahead,
	}
}

// lowestNeeded is the lowest interval whose secret is not yet forgotten at nowMS.
func lowestNeeded(t schedule.Timing, nowMS int64) uint32 {
	return t.Current(nowMS - schedule.LingerMS)
}

// over tells that not even the last cookie key is needed any more.
func (r *run) over(nowMS int64) bool {
	return r.EndMS != 0 && nowMS >= r.EndMS+schedule.LingerMS
}

// last is the last interval of the occurrence.
func (r *run) last() uint32 {
	if n, finite := r.timing.N(); finite {
		return n - 1
	}
	return math.MaxUint32
}

// newestRow is the newest interval up to which no secret is missing from the
// lowest needed one on.
func (r *run) newestRow(nowMS int64) (i uint32, ok bool) {
	i = lowestNeeded(r.timing, nowMS)
	if _, ok = r.rows[i]; !ok {
		// Made while the previous interval lingered: it begins at the next one.
		i++
		if _, ok = r.rows[i]; !ok {
			return 0, false
		}
	}
	for {
		if _, more := r.rows[i+1]; !more {
			return i, true
		}
		i++
	}
}

// wanted is the highest interval whose keys must be open at nowMS: what may be
// given, the cookies that go with it, and ten seconds in which Run may be late.
// It may lie beyond the last interval: where the end was brought forward, living
// cookies are numbered by the old one.
func wanted(t schedule.Timing, nowMS int64) uint32 {
	return t.Current(nowMS) + t.Span() + t.Ahead + 2 + uint32((t.WindowMS+openAheadMS)/t.IntervalMS)
}

const openAheadMS = 10_000

// takeRun takes an occurrence and its rows in. A row that is there already
// stays: rows never change.
func (k *keeper) takeRun(o store.Occurrence, rows []store.Row) {
	r := k.runs[o.Tag]
	if r == nil {
		r = &run{rows: map[uint32]store.Row{}, keys: map[uint32]*intervalKeys{}}
		k.runs[o.Tag] = r
		k.changed = true
	}
	if r.Occurrence != o || r.gone {
		r.Occurrence, r.timing, r.gone = o, timingOf(o), false
		k.changed = true
	}
	for _, row := range rows {
		if _, there := r.rows[row.Interval]; !there {
			r.rows[row.Interval] = row
		}
	}
}

// openKeys brings what is open in line with the time: later intervals are
// opened, past ones dropped, to be wiped when no request uses them any more.
func (k *keeper) openKeys(nowMS int64) {
	var rows []wantedRow
	for tag, r := range k.runs {
		if r.over(nowMS) {
			for i := range r.keys {
				k.drop(r, i)
			}
			delete(k.runs, tag)
			k.changed = true
			continue
		}
		low, high := lowestNeeded(r.timing, nowMS), wanted(r.timing, nowMS)
		for i := range r.keys {
			if i < low {
				k.drop(r, i)
			}
		}
		for i := range r.rows {
			if i < low {
				delete(r.rows, i)
			}
		}
		if r.broken {
			continue
		}
		for i := low; i <= high; i++ {
			if _, open := r.keys[i]; open {
				continue
			}
			if row, there := r.rows[i]; there {
				rows = append(rows, wantedRow{run: r, interval: i, epoch: row.Epoch})
			}
		}
	}
	k.open(rows)
}

func (k *keeper) drop(r *run, i uint32) {
	k.dropped = append(k.dropped, r.keys[i])
	delete(r.keys, i)
	k.changed = true
}

// occurrence is the immutable form for the view.
func (r *run) occurrence(e *event) *occurrence {
	o := &occurrence{Occurrence: r.Occurrence, timing: r.timing, event: e, cancelled: r.cancelled || r.gone}
	if len(r.keys) == 0 {
		return o
	}
	o.first = uint32(math.MaxUint32)
	for i := range r.keys {
		o.first = min(o.first, i)
	}
	for i := o.first; r.keys[i] != nil; i++ {
		o.keys = append(o.keys, r.keys[i])
	}
	return o
}

// collides names a live occurrence that the new one cannot stand beside.
func (k *keeper) collides(o store.Occurrence) (derive.Tag, bool) {
	mine := k.events[o.Event]
	for tag, r := range k.runs {
		if tag == o.Tag {
			return tag, r.Event != o.Event || r.StartMS != o.StartMS
		}
		other := k.events[r.Event]
		if derive.SPIPrefix(tag) == derive.SPIPrefix(o.Tag) && mine != nil && other != nil && shareDestination(mine.Event, other.Event) {
			return tag, true
		}
	}
	return derive.Tag{}, false
}

func shareDestination(a, b store.Event) bool {
	for _, f := range a.Flows {
		for _, g := range b.Flows {
			if f.Destination == g.Destination {
				return true
			}
		}
	}
	return false
}
