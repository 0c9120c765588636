package server

import (
	"errors"
	"fmt"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/store"
)

// lookAhead is how many occurrences of an event are looked at when it is added.
// The key role looks again at each, as its turn comes.
const lookAhead = 400

// errSPI: two occurrences would use the same SPIs at one time and address.
var errSPI = errors.New("server: no event id found whose SPIs are free; try again")

// Next lists at most n occurrences of an event that end after an instant.
func Next(e store.Event, after time.Time, n int) ([]schedule.Occurrence, error) {
	return schedule.TimeExpression(e.Time).Next(after, n)
}

// coming lists the occurrences of a new event and checks each.
func coming(e store.Event, now time.Time) ([]schedule.Occurrence, error) {
	runs, err := Next(e, now, lookAhead)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("%w: it is over: no occurrence ends after %s", ErrEvent, now.UTC().Format(time.RFC3339))
	}
	for i, run := range runs {
		if err := timing(e, run).Validate(); err != nil {
			return nil, fmt.Errorf("%w: occurrence of %s: %w", ErrEvent, run.Start.Format(time.RFC3339), err)
		}
		if i > 0 && run.Start.Before(runs[i-1].End) {
			return nil, fmt.Errorf("%w: it overlaps itself: the occurrence of %s begins before that of %s ends",
				ErrEvent, run.Start.Format(time.RFC3339), runs[i-1].Start.Format(time.RFC3339))
		}
	}
	return runs, nil
}

// collide looks for occurrences of other events, and of e itself, that live at
// the same time as one of e and would be taken for it: by selector
// (ErrConflict) or by SPI (errSPI).
func collide(e store.Event, runs []schedule.Occurrence, others []store.Event, now time.Time) error {
	for _, other := range append([]store.Event{e}, others...) {
		if !shareDestination(e, other) {
			continue
		}
		its := runs
		if other.ID != e.ID {
			var err error
			if its, err = Next(other, now, lookAhead); err != nil {
				return fmt.Errorf("event %q (%s): %w", other.Title, other.ID, err)
			}
		}
		if err := collideWith(e, runs, other, its); err != nil {
			return err
		}
	}
	return nil
}

// collideWith compares two lists in order of time.
func collideWith(e store.Event, runs []schedule.Occurrence, other store.Event, its []schedule.Occurrence) error {
	from := 0
	for _, run := range runs {
		a := life(e, run)
		for from < len(its) && life(other, its[from]).ends.Before(a.begins) {
			from++
		}
		for _, theirs := range its[from:] {
			b := life(other, theirs)
			if b.begins.After(a.ends) {
				break
			}
			if other.ID == e.ID && theirs.Start.Equal(run.Start) {
				continue
			}
			if other.ID != e.ID && theirs.Start.Before(run.End) && run.Start.Before(theirs.End) && shareSelector(e, other) {
				return fmt.Errorf("%w: event %q (%s), which begins at %s, has a flow of the same sender, address and port at that time",
					ErrConflict, other.Title, other.ID, theirs.Start.Format(time.RFC3339))
			}
			if prefix(e, run) == prefix(other, theirs) {
				return errSPI
			}
		}
	}
	return nil
}

// span is when an occurrence's keys are alive.
type span struct{ begins, ends time.Time }

func life(e store.Event, run schedule.Occurrence) span {
	return span{
		begins: run.Start.Add(-time.Duration(e.InitialMS) * time.Millisecond),
		ends:   run.End.Add(time.Duration(schedule.LingerMS) * time.Millisecond),
	}
}

// prefix is S of an occurrence with incarnation 0 (docs/keying.md §2).
func prefix(e store.Event, run schedule.Occurrence) [3]byte {
	return derive.SPIPrefix(derive.OccurrenceTag(e.ID, uint64(run.Start.Unix()), 0))
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

// shareSelector tells whether a packet could be of both events: an event is
// told apart by source, destination, protocol and ports (docs/design.md §1).
func shareSelector(a, b store.Event) bool {
	for _, s := range a.Senders {
		for _, t := range b.Senders {
			if s == t && shareFlow(a, b) {
				return true
			}
		}
	}
	return false
}

func shareFlow(a, b store.Event) bool {
	for _, f := range a.Flows {
		for _, g := range b.Flows {
			if f.Protocol == g.Protocol && f.Destination == g.Destination && f.FirstPort <= g.LastPort && g.FirstPort <= f.LastPort {
				return true
			}
		}
	}
	return false
}
