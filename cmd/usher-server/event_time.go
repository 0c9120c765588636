package main

import (
	"fmt"
	"strings"
	"time"

	"usher/server/store"
)

// eventTime is what the flags say of an event's time.
type eventTime struct {
	start, zone, duration, rule string
	except                      []string
}

// localTime and expressionTime are the forms of a time without an offset, as a
// person types it and as RFC 5545 has it.
const (
	localTime      = "2006-01-02T15:04:05"
	expressionTime = "20060102T150405"
)

// shortRules are words for the commonest rules.
var shortRules = map[string]string{"daily": "FREQ=DAILY", "weekly": "FREQ=WEEKLY"}

// expression turns the flags into RFC 5545's terms.
func (t eventTime) expression(now time.Time) (store.TimeExpression, error) {
	e := store.TimeExpression{Zone: t.zone, Rule: t.rule}
	if rule, ok := shortRules[strings.ToLower(t.rule)]; ok {
		e.Rule = rule
	}
	zone := time.UTC
	if t.zone != "" {
		var err error
		if zone, err = time.LoadLocation(t.zone); err != nil || t.zone == "Local" {
			return e, usagef("--zone %q: no such time zone; want a name such as Europe/Berlin", t.zone)
		}
	}
	var err error
	if e.Start, err = t.instant("--start", t.start, zone, now); err != nil {
		return e, err
	}
	for _, text := range t.except {
		x, err := t.instant("--exdate", text, zone, now)
		if err != nil {
			return e, err
		}
		e.Except = append(e.Except, x)
	}
	e.Duration, err = expressionDuration(t.duration)
	return e, err
}

// instant reads "+8s", RFC 3339, or a time of the zone. Starts are whole
// seconds (docs/keying.md §1): what "+8s" gives is rounded up.
func (t eventTime) instant(flag, text string, zone *time.Location, now time.Time) (string, error) {
	at, err := time.Parse(time.RFC3339, text)
	if ahead, ok := strings.CutPrefix(text, "+"); ok {
		d, durationErr := time.ParseDuration(ahead)
		if durationErr != nil {
			return "", usagef("%s %q: want a duration after the plus, as +8s or +2h", flag, text)
		}
		at, err = now.Add(d+time.Second-1).Truncate(time.Second), nil
	}
	if err != nil {
		if t.zone == "" {
			return "", usagef("%s %q: want 2026-11-25T20:00:00+01:00, +8s, or with --zone 2026-11-25T20:00:00", flag, text)
		}
		// Kept as it was typed: what a clock change makes of it is for the
		// event's own rules.
		wall, err := time.Parse(localTime, text)
		if err != nil {
			return "", usagef("%s %q: want 2026-11-25T20:00:00 (in the zone), 2026-11-25T20:00:00+01:00, or +8s", flag, text)
		}
		return wall.Format(expressionTime), nil
	}
	if at.Nanosecond() != 0 {
		return "", usagef("%s %q is no whole second", flag, text)
	}
	if t.zone == "" {
		return at.UTC().Format(expressionTime) + "Z", nil
	}
	return at.In(zone).Format(expressionTime), nil
}

// expressionDuration turns 1h30m into PT1H30M, and leaves P1D as it is. "" is
// without end.
func expressionDuration(text string) (string, error) {
	if text == "" || strings.HasPrefix(text, "P") {
		return text, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d%time.Second != 0 {
		return "", usagef("--duration %q: want whole seconds, as 90m or 1h30m, or P1D (a day by the calendar)", text)
	}
	s := int64(d / time.Second)
	out := "PT"
	for _, unit := range []struct {
		name    string
		seconds int64
	}{{"H", 3600}, {"M", 60}, {"S", 1}} {
		if n := s / unit.seconds; n > 0 {
			out += fmt.Sprintf("%d%s", n, unit.name)
			s %= unit.seconds
		}
	}
	return out, nil
}

// moment is an instant in the viewer's zone.
func (a *app) moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(a.zone).Format("2006-01-02 15:04:05 MST")
}
