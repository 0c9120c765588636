package schedule

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const localLayout = "20060102T150405"

// wrong is an error about a field of a [TimeExpression].
func wrong(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrTimeExpression, field, fmt.Sprintf(format, args...))
}

// loadZone is the zone of an IANA name, never the host's own.
func loadZone(name string) (*time.Location, error) {
	switch name {
	case "", "UTC":
		return time.UTC, nil
	case "Local":
		return nil, fmt.Errorf("%w: tzid: %w: %q means another one on each host", ErrTimeExpression, ErrUnknownZone, name)
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%w: tzid: %w: %q is not in IANA's list", ErrTimeExpression, ErrUnknownZone, name)
	}
	return zone, nil
}

// parseDateTime reads DATE-TIME of RFC 5545 §3.3.5, form 1 (local) or 2 (UTC).
// The result holds the wall clock as if it were UTC.
func parseDateTime(field, text string) (wall time.Time, utc bool, err error) {
	local, utc := strings.CutSuffix(text, "Z")
	wall, parseErr := time.Parse(localLayout, local)
	// Parse takes fractions of a second that the layout does not have.
	if parseErr != nil || len(local) != len(localLayout) {
		return time.Time{}, false, wrong(field, "%q is no date and time of the form 20261125T200000 or 20261125T200000Z", text)
	}
	return wall, utc, nil
}

// instantOf is the instant at which clocks in zone show the wall time (given
// as if it were UTC), by RFC 5545 §3.3.5: the first, if they show it twice;
// if never, as the offset before the gap has it. (time.Date promises neither.)
func instantOf(wall time.Time, zone *time.Location) time.Time {
	// No offset is beyond −12 h and +14 h: at these two instants the offsets
	// are those before and after whatever change matters here.
	before := offsetAt(wall.Add(-15*time.Hour), zone)
	after := offsetAt(wall.Add(13*time.Hour), zone)
	byBefore, byAfter := wall.Add(-before), wall.Add(-after)
	if offsetAt(byBefore, zone) != before && offsetAt(byAfter, zone) == after {
		return byAfter.In(zone)
	}
	// Before the change, in the gap, or twice: then the offset before it
	// gives the first.
	return byBefore.In(zone)
}

func offsetAt(instant time.Time, zone *time.Location) time.Duration {
	_, seconds := instant.In(zone).Zone()
	return time.Duration(seconds) * time.Second
}

// duration is DURATION of RFC 5545 §3.3.6: days as the calendar has them, and
// exact time.
type duration struct {
	days  int
	exact time.Duration
}

// after is the instant so much later, counted in the zone of start.
func (d duration) after(start time.Time) time.Time {
	if d.days > 0 {
		year, month, day := start.Date()
		hour, minute, second := start.Clock()
		start = instantOf(time.Date(year, month, day+d.days, hour, minute, second, 0, time.UTC), start.Location())
	}
	return start.Add(d.exact)
}

// longest bounds d whatever the calendar does.
func (d duration) longest() time.Duration {
	return time.Duration(d.days)*24*time.Hour + d.exact + lookAround
}

// parseDuration reads the grammar of RFC 5545 §3.3.6, without a sign: P2W,
// P1D, P1DT2H, PT1H30M. It must be positive and at most 366 days.
func parseDuration(text string) (duration, error) {
	bad := wrong("duration", "%q is no duration of the form PT1H30M, P1DT2H or P2W, from one second to 366 days", text)
	rest, ok := strings.CutPrefix(text, "P")
	if !ok {
		return duration{}, bad
	}
	date, clock, timed := strings.Cut(rest, "T")
	var d duration
	switch {
	case date == "":
	case strings.HasSuffix(date, "D"):
		d.days, ok = shortNumber(date[:len(date)-1])
	case strings.HasSuffix(date, "W") && !timed:
		d.days, ok = shortNumber(date[:len(date)-1])
		d.days *= 7
	default:
		ok = false
	}
	if !ok || date == "" && !timed {
		return duration{}, bad
	}
	if timed {
		if d.exact, ok = parseClock(clock); !ok {
			return duration{}, bad
		}
	}
	if total := d.longest() - lookAround; total <= 0 || total > maxDuration {
		return duration{}, bad
	}
	return d, nil
}

// parseClock reads hours, minutes and seconds in this order, none left out
// between two that are there.
func parseClock(text string) (time.Duration, bool) {
	units := []struct {
		letter string
		length time.Duration
	}{{"H", time.Hour}, {"M", time.Minute}, {"S", time.Second}}
	var sum time.Duration
	read := 0 // the unit read last, from 1
	for i, unit := range units {
		number, rest, found := strings.Cut(text, unit.letter)
		if !found {
			continue
		}
		n, ok := shortNumber(number)
		if !ok || read != 0 && read != i {
			return 0, false
		}
		sum += time.Duration(n) * unit.length
		text, read = rest, i+1
	}
	return sum, read != 0 && text == ""
}

// shortNumber reads up to 8 digits and nothing else.
func shortNumber(text string) (int, bool) {
	if text == "" || len(text) > 8 || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}
