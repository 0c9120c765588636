package key

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/store"
)

// horizonMS is how long before its initial period an occurrence is made, so that
// its first request finds it and its secrets.
const horizonMS = 60_000

const never = math.MaxInt64

// plan is what the time expressions of events ask to be written now.
type plan struct {
	begin  []store.Occurrence
	end    []broughtForward
	looked map[derive.EventID]bool
}

// broughtForward is an occurrence that ends earlier than it was to.
type broughtForward struct {
	tag   derive.Tag
	endMS int64
	n     uint32 // rows from here on go
}

func (p *plan) write(ctx context.Context, tx store.Tx) error {
	for _, o := range p.begin {
		if err := tx.InsertOccurrence(ctx, o); err != nil {
			return err
		}
	}
	for _, e := range p.end {
		if err := tx.EndOccurrence(ctx, e.tag, e.endMS, e.n); err != nil {
			return err
		}
	}
	return nil
}

// plan looks at the events that are due: those that changed, and those whose
// next occurrence comes near.
func (k *keeper) plan(nowMS int64) plan {
	p := plan{looked: map[derive.EventID]bool{}}
	for id, due := range k.due {
		if due > nowMS {
			continue
		}
		e := k.events[id]
		p.looked[id] = true
		next, err := k.planEvent(&p, e, nowMS)
		if err != nil {
			k.complain(e, err)
			next = never
		}
		k.due[id] = next
	}
	if len(p.looked) > 0 {
		k.planEnds(&p, nowMS)
	}
	return p
}

// planEvent adds the event's occurrences that begin within the horizon, and
// returns when to look again.
func (k *keeper) planEvent(p *plan, e *event, nowMS int64) (due int64, err error) {
	if err := unsupported(e.Event); err != nil {
		return 0, err
	}
	for n := 4; ; n *= 2 {
		list, err := expression(e.Event).Next(time.UnixMilli(nowMS), n)
		if err != nil {
			return 0, err
		}
		for i, next := range list {
			if opens := next.Start.UnixMilli() - e.InitialMS - horizonMS; opens > nowMS {
				return opens, nil
			}
			if i < n/2 && n > 4 {
				continue // seen in the round before
			}
			if err := k.planRun(p, e, next); err != nil {
				return 0, err
			}
		}
		if len(list) < n {
			return never, nil
		}
	}
}

// planRun adds one occurrence, unless it is there or may not be.
func (k *keeper) planRun(p *plan, e *event, next schedule.Occurrence) error {
	if next.End.IsZero() {
		return ErrEndless
	}
	o := store.Occurrence{
		Tag:     derive.OccurrenceTag(e.ID, uint64(next.Start.Unix()), 0),
		Event:   e.ID,
		StartMS: next.Start.UnixMilli(), EndMS: next.End.UnixMilli(),
		FirstMS: e.FirstMS, IntervalMS: e.IntervalMS, InitialMS: e.InitialMS, WindowMS: e.WindowMS,
		Ahead: e.Ahead, Transform: e.Transform,
	}
	if r := k.runs[o.Tag]; r != nil && r.Event == o.Event && !r.gone {
		return nil // it keeps the timing that it began with
	}
	if err := timingOf(o).Validate(); err != nil {
		return err
	}
	if tag, collides := k.collides(o); collides {
		return fmt.Errorf("%w: it is %v", ErrCollision, tag)
	}
	for _, other := range p.begin {
		if derive.SPIPrefix(other.Tag) == derive.SPIPrefix(o.Tag) && shareDestination(e.Event, k.events[other.Event].Event) {
			return fmt.Errorf("%w: it is %v", ErrCollision, other.Tag)
		}
	}
	p.begin = append(p.begin, o)
	return nil
}

// planEnds brings occurrences to the earlier end that their event now gives
// them. Any other change of timing holds from the next occurrence.
//
// Rows beyond the new end go, but for those whose numbers living cookies may
// have: without them all clients would have to enrol by TLS at once. No key of
// such an interval is given, and nothing is sent under one.
func (k *keeper) planEnds(p *plan, nowMS int64) {
	for tag, r := range k.runs {
		if !p.looked[r.Event] || r.gone || r.cancelled {
			continue
		}
		now, found := find(expression(k.events[r.Event].Event), r.StartMS)
		if !found || now.End.IsZero() || now.End.UnixMilli() >= r.EndMS {
			continue
		}
		timing := r.timing
		timing.EndMS = now.End.UnixMilli()
		n, _ := timing.N()
		p.end = append(p.end, broughtForward{tag: tag, endMS: timing.EndMS, n: max(n, wanted(r.timing, nowMS)+1)})
	}
}

// cancel finds the occurrences that are no more: their event was deleted, or
// their start is an exception of it now.
func (k *keeper) cancel() {
	for _, r := range k.runs {
		e := k.events[r.Event]
		cancelled := e == nil
		if e != nil && len(e.Time.Except) > 0 {
			with := expression(e.Event)
			without := with
			without.Except = nil
			_, listed := find(with, r.StartMS)
			_, ruled := find(without, r.StartMS)
			cancelled = ruled && !listed
		}
		if cancelled != r.cancelled {
			r.cancelled, k.changed = cancelled, true
		}
	}
}

// complain logs what is wrong with an event, once for each edition of it.
func (k *keeper) complain(e *event, err error) {
	c := complaint{edition: e.Edition, text: err.Error()}
	if k.refused[e.ID] == c {
		return
	}
	k.refused[e.ID] = c
	k.log.Error("event cannot be keyed", "event", e.ID.String(), "title", e.Title, "error", err)
}

var errNotInThisVersion = errors.New("not in this version")

// unsupported names what this version cannot do for an event, should the store
// hold one that asks for it.
func unsupported(e store.Event) error {
	switch {
	case e.Method != "pull":
		return fmt.Errorf("method %q: %w", e.Method, errNotInThisVersion)
	case e.Ahead != 1:
		return fmt.Errorf("%d keys ahead: %w", e.Ahead, errNotInThisVersion)
	case e.WindowMS != e.IntervalMS:
		return fmt.Errorf("window other than the interval: %w", errNotInThisVersion)
	case e.Spread != "fixed":
		return fmt.Errorf("spread %q: %w", e.Spread, errNotInThisVersion)
	case e.Revocation != "withhold":
		return fmt.Errorf("revocation %q: %w", e.Revocation, errNotInThisVersion)
	case e.Transform != derive.TransformAES256GCM && e.Transform != derive.TransformChaCha20Poly1305:
		return fmt.Errorf("transform %d: %w", e.Transform, errNotInThisVersion)
	}
	return nil
}

func expression(e store.Event) schedule.TimeExpression {
	return schedule.TimeExpression{
		Start: e.Time.Start, Zone: e.Time.Zone, Duration: e.Time.Duration, Rule: e.Time.Rule, Except: e.Time.Except,
	}
}

// overlaps is how many occurrences of one event may be under way when another
// one starts, and it is still found.
const overlaps = 8

// find looks for the occurrence that starts at an instant.
func find(x schedule.TimeExpression, startMS int64) (schedule.Occurrence, bool) {
	list, err := x.Next(time.UnixMilli(startMS), overlaps)
	if err != nil {
		return schedule.Occurrence{}, false
	}
	for _, o := range list {
		if o.Start.UnixMilli() == startMS {
			return o, true
		}
	}
	return schedule.Occurrence{}, false
}
