package schedule

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/teambition/rrule-go"
)

// Caps of an RRULE.
const (
	maxCount    = 10_000
	maxInterval = 1000
)

// rule is an RRULE that was checked (RFC 5545 §3.3.10). The library behind it
// is given neither a zone nor UNTIL as it stands, and only what it is known to
// do right: it takes contradictions in silence, and some numbers that are out
// of range make it panic or count for ever.
type rule struct {
	// option lacks Dtstart; its BY parts are all written out, also those
	// that RFC 5545 takes from DTSTART, so that the start may be moved.
	option rrule.ROption
	// until is UNTIL as an instant, zero if there is none.
	until time.Time
}

// parts is an RRULE taken apart: name → value.
type parts map[string]string

// parseRule reads an RRULE for a DTSTART, given as wall clock.
func parseRule(text string, start time.Time) (*rule, error) {
	p, err := splitRule(text)
	if err != nil {
		return nil, err
	}
	r := &rule{}
	if r.option.Freq, err = p.frequency(); err != nil {
		return nil, err
	}
	if err := r.parseLimits(p); err != nil {
		return nil, err
	}
	if err := r.parseNumbers(p); err != nil {
		return nil, err
	}
	if err := r.parseDays(p); err != nil {
		return nil, err
	}
	if err := r.checkCombination(p); err != nil {
		return nil, err
	}
	r.writeOut(start)
	if r.option.Freq == rrule.HOURLY && len(r.option.Byhour) > 0 && !slices.Contains(r.option.Byhour, start.Hour()) {
		// Beside being meaningless this can keep the library counting.
		return nil, wrong("dtstart", "its hour is not in BYHOUR")
	}
	return r, nil
}

// splitRule takes an RRULE apart; each part may come once.
func splitRule(text string) (parts, error) {
	p := parts{}
	for part := range strings.SplitSeq(text, ";") {
		name, value, ok := strings.Cut(part, "=")
		if !ok || value == "" {
			return nil, wrong("rrule", "%q is not of the form NAME=VALUE", part)
		}
		if _, double := p[name]; double {
			return nil, wrong("rrule", "%s comes twice", name)
		}
		switch name {
		case "FREQ", "UNTIL", "COUNT", "INTERVAL", "WKST", "BYDAY", "BYSETPOS",
			"BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYHOUR", "BYMINUTE", "BYSECOND":
			p[name] = value
		default:
			return nil, wrong("rrule", "%q is no part of an RRULE (names are upper case)", name)
		}
	}
	return p, nil
}

func (p parts) frequency() (rrule.Frequency, error) {
	switch p["FREQ"] {
	case "YEARLY":
		return rrule.YEARLY, nil
	case "MONTHLY":
		return rrule.MONTHLY, nil
	case "WEEKLY":
		return rrule.WEEKLY, nil
	case "DAILY":
		return rrule.DAILY, nil
	case "HOURLY":
		return rrule.HOURLY, nil
	case "MINUTELY", "SECONDLY":
		return 0, fmt.Errorf("%w: rrule: FREQ=%s: %w, HOURLY at most", ErrTimeExpression, p["FREQ"], ErrNotInThisVersion)
	case "":
		return 0, wrong("rrule", "FREQ is missing")
	}
	return 0, wrong("rrule", "FREQ=%s is no frequency", p["FREQ"])
}

// parseLimits reads INTERVAL, COUNT, UNTIL and WKST.
func (r *rule) parseLimits(p parts) error {
	r.option.Interval = 1
	if text, ok := p["INTERVAL"]; ok {
		n, ok := shortNumber(text)
		if !ok || n < 1 || n > maxInterval {
			return wrong("rrule", "INTERVAL=%s is outside 1 to %d", text, maxInterval)
		}
		r.option.Interval = n
	}
	count, counted := p["COUNT"]
	until, limited := p["UNTIL"]
	if counted && limited {
		return wrong("rrule", "COUNT and UNTIL exclude each other")
	}
	if counted {
		n, ok := shortNumber(count)
		if !ok || n < 1 || n > maxCount {
			return wrong("rrule", "COUNT=%s is outside 1 to %d", count, maxCount)
		}
		r.option.Count = n
	}
	r.option.Until = horizon
	if limited {
		instant, utc, err := parseDateTime("rrule: UNTIL", until)
		if err != nil {
			return err
		}
		if !utc {
			return wrong("rrule", "UNTIL=%s must be UTC, with a Z at its end", until)
		}
		r.until = instant
		// The library sees wall clocks: this one is surely late enough.
		if wall := instant.Add(lookAround); wall.Before(horizon) {
			r.option.Until = wall
		}
	}
	if text, ok := p["WKST"]; ok {
		day, ok := weekdayOf(text)
		if !ok {
			return wrong("rrule", "WKST=%s is no day of the week", text)
		}
		r.option.Wkst = day
	}
	return nil
}

// parseNumbers reads the parts that are lists of numbers.
func (r *rule) parseNumbers(p parts) error {
	o := &r.option
	lists := []struct {
		name     string
		low      int
		high     int
		negative bool
		into     *[]int
	}{
		{"BYMONTH", 1, 12, false, &o.Bymonth},
		{"BYMONTHDAY", 1, 31, true, &o.Bymonthday},
		{"BYYEARDAY", 1, 366, true, &o.Byyearday},
		{"BYWEEKNO", 1, 53, true, &o.Byweekno},
		{"BYSETPOS", 1, 366, true, &o.Bysetpos},
		{"BYHOUR", 0, 23, false, &o.Byhour},
		{"BYMINUTE", 0, 59, false, &o.Byminute},
		{"BYSECOND", 0, 59, false, &o.Bysecond},
	}
	for _, list := range lists {
		text, ok := p[list.name]
		if !ok {
			continue
		}
		for item := range strings.SplitSeq(text, ",") {
			n, ok := signedNumber(item, list.negative)
			if size := max(n, -n); !ok || size < list.low || size > list.high {
				return wrong("rrule", "%s=%s: %q is outside %d to %d", list.name, text, item, list.low, list.high)
			}
			if slices.Contains(*list.into, n) {
				return wrong("rrule", "%s=%s: %s comes twice", list.name, text, item)
			}
			*list.into = append(*list.into, n)
		}
	}
	return nil
}

// parseDays reads BYDAY.
func (r *rule) parseDays(p parts) error {
	text, ok := p["BYDAY"]
	if !ok {
		return nil
	}
	// A number counts within the month, or the year: FREQ=MONTHLY, or YEARLY
	// without BYWEEKNO.
	highest := 0
	switch {
	case r.option.Freq == rrule.MONTHLY, r.option.Freq == rrule.YEARLY && p["BYMONTH"] != "":
		highest = 5
	case r.option.Freq == rrule.YEARLY && p["BYWEEKNO"] == "":
		highest = 53
	}
	if p["BYWEEKNO"] != "" {
		highest = 0
	}
	for item := range strings.SplitSeq(text, ",") {
		if len(item) < 2 {
			return wrong("rrule", "BYDAY=%s: %q is no day of the week", text, item)
		}
		day, ok := weekdayOf(item[len(item)-2:])
		if !ok {
			return wrong("rrule", "BYDAY=%s: %q is no day of the week", text, item)
		}
		if number := item[:len(item)-2]; number != "" {
			n, ok := signedNumber(number, true)
			if highest == 0 {
				return wrong("rrule", "BYDAY=%s: a number before the day needs FREQ=MONTHLY, or YEARLY without BYWEEKNO", text)
			}
			if size := max(n, -n); !ok || size < 1 || size > highest {
				return wrong("rrule", "BYDAY=%s: the number in %q is outside 1 to %d", text, item, highest)
			}
			day = day.Nth(n)
		}
		if slices.Contains(r.option.Byweekday, day) {
			return wrong("rrule", "BYDAY=%s: %s comes twice", text, item)
		}
		r.option.Byweekday = append(r.option.Byweekday, day)
	}
	return nil
}

// checkCombination refuses what RFC 5545 §3.3.10 says must not stand together,
// and what would repeat more than once an hour.
func (r *rule) checkCombination(p parts) error {
	frequency := p["FREQ"]
	has := func(name string) bool { return p[name] != "" }
	switch {
	case has("BYWEEKNO") && frequency != "YEARLY":
		return wrong("rrule", "BYWEEKNO needs FREQ=YEARLY")
	case has("BYYEARDAY") && (frequency == "MONTHLY" || frequency == "WEEKLY" || frequency == "DAILY"):
		return wrong("rrule", "BYYEARDAY does not go with FREQ=%s", frequency)
	case has("BYMONTHDAY") && frequency == "WEEKLY":
		return wrong("rrule", "BYMONTHDAY does not go with FREQ=WEEKLY")
	case has("BYSETPOS") && frequency == "HOURLY":
		return wrong("rrule", "BYSETPOS does not go with FREQ=HOURLY: an hour has one time to choose from")
	case has("BYSETPOS") && !slices.ContainsFunc([]string{
		"BYDAY", "BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYHOUR", "BYMINUTE", "BYSECOND",
	}, has):
		return wrong("rrule", "BYSETPOS needs another BY part to choose from")
	case len(r.option.Byminute) > 1:
		return fmt.Errorf("%w: rrule: more than one BYMINUTE: %w, HOURLY at most", ErrTimeExpression, ErrNotInThisVersion)
	case len(r.option.Bysecond) > 1:
		return fmt.Errorf("%w: rrule: more than one BYSECOND: %w, HOURLY at most", ErrTimeExpression, ErrNotInThisVersion)
	}
	return nil
}

// writeOut adds the parts that RFC 5545 §3.3.10 takes from DTSTART.
func (r *rule) writeOut(start time.Time) {
	o := &r.option
	if len(o.Byweekno)+len(o.Byyearday)+len(o.Bymonthday)+len(o.Byweekday) == 0 {
		switch o.Freq {
		case rrule.YEARLY:
			if len(o.Bymonth) == 0 {
				o.Bymonth = []int{int(start.Month())}
			}
			o.Bymonthday = []int{start.Day()}
		case rrule.MONTHLY:
			o.Bymonthday = []int{start.Day()}
		case rrule.WEEKLY:
			o.Byweekday = []rrule.Weekday{weekdayOfTime(start)}
		}
	}
	if len(o.Byweekno) > 0 && len(o.Byyearday)+len(o.Bymonthday)+len(o.Byweekday) == 0 {
		// The library would take all seven days of the week.
		o.Byweekday = []rrule.Weekday{weekdayOfTime(start)}
	}
	if len(o.Byhour) == 0 && o.Freq != rrule.HOURLY {
		o.Byhour = []int{start.Hour()}
	}
	if len(o.Byminute) == 0 {
		o.Byminute = []int{start.Minute()}
	}
	if len(o.Bysecond) == 0 {
		o.Bysecond = []int{start.Second()}
	}
}

// skipTo is a start from which the rule names the same times, from `need` on,
// as from its own: the library walks from the start, which takes long for an
// old one. Every start that is whole steps of the rule later will do, if it
// is a step too early. A rule that counts is walked from its own.
func (r *rule) skipTo(start, need time.Time) time.Time {
	if r.option.Count > 0 || !need.After(start) {
		return start
	}
	step := r.option.Interval
	switch r.option.Freq {
	case rrule.YEARLY:
		if years := wholeSteps(need.Year()-start.Year(), step); years > 0 {
			return time.Date(start.Year()+years, 1, 1, 0, 0, 0, 0, time.UTC)
		}
	case rrule.MONTHLY:
		months := 12*(need.Year()-start.Year()) + int(need.Month()) - int(start.Month())
		if months = wholeSteps(months, step); months > 0 {
			return time.Date(start.Year(), start.Month()+time.Month(months), 1, 0, 0, 0, 0, time.UTC)
		}
	case rrule.WEEKLY:
		weeks := wholeSteps(int(need.Sub(start)/(7*24*time.Hour)), step)
		return start.AddDate(0, 0, 7*weeks)
	case rrule.DAILY:
		days := wholeSteps(int(need.Sub(start)/(24*time.Hour)), step)
		return start.AddDate(0, 0, days)
	case rrule.HOURLY:
		hours := wholeSteps(int(need.Sub(start)/time.Hour), step)
		return start.Add(time.Duration(hours) * time.Hour)
	}
	return start
}

// wholeSteps is the greatest multiple of step that is a step before `periods`,
// at least 0.
func wholeSteps(periods, step int) int { return max(periods/step-1, 0) * step }

// beyondAllYears is an INTERVAL that leads from any start behind the year
// 9999, where the library ends; whole days, so that the hour stays.
func beyondAllYears(f rrule.Frequency) int {
	const years = 10_000
	switch f {
	case rrule.YEARLY:
		return years
	case rrule.MONTHLY:
		return years * 12
	case rrule.WEEKLY:
		return years * 53
	case rrule.DAILY:
		return years * 366
	default:
		return years * 366 * 24
	}
}

func weekdayOf(name string) (rrule.Weekday, bool) {
	switch name {
	case "MO":
		return rrule.MO, true
	case "TU":
		return rrule.TU, true
	case "WE":
		return rrule.WE, true
	case "TH":
		return rrule.TH, true
	case "FR":
		return rrule.FR, true
	case "SA":
		return rrule.SA, true
	case "SU":
		return rrule.SU, true
	}
	return rrule.Weekday{}, false
}

func weekdayOfTime(t time.Time) rrule.Weekday {
	return [...]rrule.Weekday{rrule.SU, rrule.MO, rrule.TU, rrule.WE, rrule.TH, rrule.FR, rrule.SA}[t.Weekday()]
}

// signedNumber reads a number with a sign, which may be a minus only if
// negative says so.
func signedNumber(text string, negative bool) (int, bool) {
	digits, minus := text, false
	if negative && text != "" && (text[0] == '-' || text[0] == '+') {
		digits, minus = text[1:], text[0] == '-'
	}
	n, ok := shortNumber(digits)
	if minus {
		n = -n
	}
	return n, ok
}
