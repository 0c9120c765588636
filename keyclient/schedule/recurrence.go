package schedule

import (
	"fmt"
	"slices"
	"time"
	_ "time/tzdata" // a host without zone files must not fall back to UTC

	"github.com/teambition/rrule-go"
)

// Caps of a [TimeExpression]: what is beyond them is refused, so that no
// event makes a server count for seconds.
const (
	maxExceptions  = 1000
	maxOccurrences = 10_000
	maxDuration    = 366 * 24 * time.Hour
	// lookAround is more than any change of any zone moves a local time
	// (Samoa left out a whole day in 2011).
	lookAround = 26 * time.Hour
)

// horizon ends every expansion: the year 2200.
var horizon = time.UnixMilli(maxInstantMS).UTC()

// TimeExpression says when an event takes place, in the words of RFC 5545
// §§3.3.6, 3.8.2.4, 3.8.5: the time of a ticket's entry.
//
// The rule is worked out in the event's own zone: "every day at 20:00" stays
// at 20:00 over a clock change. A local time that a change leaves out is read
// with the offset before the change; one that comes twice is the first
// (RFC 5545 §3.3.5). Rules repeat hourly at most.
type TimeExpression struct {
	// Start is DTSTART: local time as 20261125T200000, or UTC with a Z.
	Start string `json:"dtstart"`
	// Zone is TZID, an IANA name; empty means UTC.
	Zone string `json:"tzid,omitempty"`
	// Duration is DURATION, as PT1H30M; its days and weeks are nominal, as
	// long as the local calendar says. Empty: the event has no end.
	Duration string `json:"duration,omitempty"`
	// Rule is the value of RRULE, as FREQ=WEEKLY;BYDAY=FR. Empty: once.
	Rule string `json:"rrule,omitempty"`
	// Except is EXDATE: starts that do not take place, local or with a Z.
	Except []string `json:"exdate,omitempty"`
}

// Occurrence is one run of an event, in the event's zone. End is the zero time
// where the event has no end.
type Occurrence struct{ Start, End time.Time }

// Validate checks e without listing it. The error names the field and wraps
// [ErrTimeExpression], and [ErrUnknownZone] or [ErrNotInThisVersion] where
// that is the matter.
func (e TimeExpression) Validate() error {
	_, err := e.parse()
	return err
}

// Next lists the occurrences whose end is after the instant given, in order,
// at most n of them (and never more than 10,000). It takes as long for a rule
// that began decades ago as for one that began today, unless the rule counts
// (COUNT).
func (e TimeExpression) Next(after time.Time, n int) ([]Occurrence, error) {
	x, err := e.parse()
	if err != nil {
		return nil, err
	}
	return x.list(after, min(n, maxOccurrences)), nil
}

// expression is a [TimeExpression] that was parsed. Wall-clock times are held
// as if they were UTC, so that no library meets a zone; see [instantOf].
type expression struct {
	wall     time.Time
	zone     *time.Location
	duration duration
	endless  bool
	rule     *rule // nil: once
	except   map[int64]bool
}

// parse reads and checks all fields.
func (e TimeExpression) parse() (*expression, error) {
	x := &expression{}
	var err error
	if x.zone, err = loadZone(e.Zone); err != nil {
		return nil, err
	}
	var utc bool
	if x.wall, utc, err = parseDateTime("dtstart", e.Start); err != nil {
		return nil, err
	}
	if utc && x.zone != time.UTC {
		return nil, wrong("dtstart", "%q is UTC, but tzid is %q: leave one of them out", e.Start, e.Zone)
	}
	if x.wall.Unix() <= 0 || !x.wall.Before(horizon) {
		return nil, wrong("dtstart", "%q is outside 1970 to 2199", e.Start)
	}
	if e.Duration == "" {
		x.endless = true
	} else if x.duration, err = parseDuration(e.Duration); err != nil {
		return nil, err
	}
	if err := x.parseExcept(e.Except); err != nil {
		return nil, err
	}
	if e.Rule == "" {
		if len(e.Except) > 0 {
			return nil, wrong("exdate", "there is no rrule to except from")
		}
		return x, nil
	}
	if x.endless {
		return nil, wrong("duration", "an event that recurs needs one")
	}
	if x.rule, err = parseRule(e.Rule, x.wall); err != nil {
		return nil, err
	}
	return x, x.checkStart()
}

func (x *expression) parseExcept(texts []string) error {
	if len(texts) > maxExceptions {
		return wrong("exdate", "%d dates, at most %d", len(texts), maxExceptions)
	}
	x.except = make(map[int64]bool, len(texts))
	for i, text := range texts {
		wall, utc, err := parseDateTime(fmt.Sprintf("exdate[%d]", i), text)
		if err != nil {
			return err
		}
		if utc {
			x.except[wall.Unix()] = true
		} else {
			x.except[instantOf(wall, x.zone).Unix()] = true
		}
	}
	return nil
}

// checkStart refuses a DTSTART that its own rule does not name: RFC 5545
// §3.8.5.3 leaves open what such a rule means, and programs differ.
func (x *expression) checkStart() error {
	if until := x.rule.until; !until.IsZero() && until.Before(instantOf(x.wall, x.zone)) {
		return wrong("rrule", "UNTIL is before dtstart")
	}
	// Looked for no further than the first period: a rule that names no time
	// at all would be walked to the year 9999. (The library looks at UNTIL
	// only when it has found something.)
	alone := *x.rule
	alone.option.Until = x.wall
	alone.option.Interval = beyondAllYears(alone.option.Freq)
	expander, err := alone.expander(x.wall)
	if err != nil {
		return err
	}
	if _, named := expander.Iterator()(); !named {
		return wrong("dtstart", "%s is not one of the times that the rrule names: begin with one that is", x.wall.Format(localLayout))
	}
	return nil
}

// list is [TimeExpression.Next] of a parsed expression.
func (x *expression) list(after time.Time, n int) []Occurrence {
	if n <= 0 {
		return nil
	}
	if x.rule == nil {
		if o := x.occurrence(x.wall); x.endless || o.End.After(after) {
			return []Occurrence{o}
		}
		return nil
	}
	need := after.UTC().Add(-x.duration.longest() - 2*lookAround)
	expander, err := x.rule.expander(x.rule.skipTo(x.wall, need))
	if err != nil {
		return nil // parse built the same rule
	}
	// A clock change may turn two wall times round or make one instant of
	// them, so go on until no later wall time can come before the last one
	// found, then sort.
	var found []Occurrence
	next := expander.Iterator()
	for wall, ok := next(); ok; wall, ok = next() {
		o := x.occurrence(wall)
		if len(found) >= n && o.Start.After(found[n-1].Start.Add(lookAround)) {
			break
		}
		if x.takesPlace(o, after) {
			at, double := slices.BinarySearchFunc(found, o, byStart)
			if !double {
				found = slices.Insert(found, at, o)
			}
		}
	}
	return found[:min(n, len(found))]
}

func byStart(a, b Occurrence) int { return a.Start.Compare(b.Start) }

// takesPlace leaves out what UNTIL, EXDATE and `after` leave out: instants are
// compared, not wall times.
func (x *expression) takesPlace(o Occurrence, after time.Time) bool {
	until := x.rule.until
	return o.End.After(after) &&
		(until.IsZero() || !o.Start.After(until)) &&
		!x.except[o.Start.Unix()]
}

// occurrence maps a wall-clock start to instants.
func (x *expression) occurrence(wall time.Time) Occurrence {
	start := instantOf(wall, x.zone)
	if x.endless {
		return Occurrence{Start: start}
	}
	return Occurrence{Start: start, End: x.duration.after(start)}
}

// expander is the library's rule from a wall-clock start on.
func (r *rule) expander(wall time.Time) (*rrule.RRule, error) {
	option := r.option
	option.Dtstart = wall
	expander, err := rrule.NewRRule(option)
	if err != nil {
		return nil, wrong("rrule", "%v", err)
	}
	return expander, nil
}
