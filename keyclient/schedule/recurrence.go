package schedule

import (
	"errors"
	"time"
)

// TimeExpression says when an event takes place, in the words of RFC 5545.
type TimeExpression struct {
	Start    string   `json:"dtstart"`
	Zone     string   `json:"tzid,omitempty"`
	Duration string   `json:"duration,omitempty"`
	Rule     string   `json:"rrule,omitempty"`
	Except   []string `json:"exdate,omitempty"`
}

// Occurrence is one run of an event. End is the zero time where the event has
// no end.
type Occurrence struct{ Start, End time.Time }

// Validate checks e.
func (e TimeExpression) Validate() error { return errors.New("schedule: recurrence is being written") }

// Next lists at most n occurrences whose end is after the instant given.
func (e TimeExpression) Next(after time.Time, n int) ([]Occurrence, error) {
	return nil, errors.New("schedule: recurrence is being written")
}
