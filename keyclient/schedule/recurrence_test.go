package schedule_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/keyclient/schedule"
)

// utc reads a time for a test.
func utc(t *testing.T, text string) time.Time {
	t.Helper()
	instant, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return instant
}

// spans writes occurrences as "start/end" in UTC.
func spans(all []schedule.Occurrence) []string {
	const layout = "2006-01-02T15:04Z"
	var out []string
	for _, o := range all {
		s := o.Start.UTC().Format(layout)
		if !o.End.IsZero() {
			s += "/" + o.End.UTC().Format(layout)
		}
		out = append(out, s)
	}
	return out
}

func TestNext(t *testing.T) {
	const berlin = "Europe/Berlin"
	tests := []struct {
		name  string
		e     schedule.TimeExpression
		after string
		n     int
		want  []string
	}{
		{
			"once", schedule.TimeExpression{Start: "20261125T200000", Zone: berlin, Duration: "PT1H30M"},
			"2026-01-01T00:00:00Z", 5, []string{"2026-11-25T19:00Z/2026-11-25T20:30Z"},
		},
		{
			"once, in UTC", schedule.TimeExpression{Start: "20261125T200000Z", Duration: "PT1H"},
			"2026-01-01T00:00:00Z", 5, []string{"2026-11-25T20:00Z/2026-11-25T21:00Z"},
		},
		{
			"once, running", schedule.TimeExpression{Start: "20261125T200000Z", Duration: "PT1H"},
			"2026-11-25T20:59:59Z", 5, []string{"2026-11-25T20:00Z/2026-11-25T21:00Z"},
		},
		{
			"once, over", schedule.TimeExpression{Start: "20261125T200000Z", Duration: "PT1H"},
			"2026-11-25T21:00:00Z", 5, nil,
		},
		{
			"without an end", schedule.TimeExpression{Start: "20261125T200000Z"},
			"2099-11-25T21:00:00Z", 5, []string{"2026-11-25T20:00Z"},
		},
		{
			"daily, over the change to summer time",
			schedule.TimeExpression{Start: "20270326T200000", Zone: berlin, Duration: "PT1H", Rule: "FREQ=DAILY"},
			"2027-03-27T00:00:00Z", 3,
			[]string{"2027-03-27T19:00Z/2027-03-27T20:00Z", "2027-03-28T18:00Z/2027-03-28T19:00Z", "2027-03-29T18:00Z/2027-03-29T19:00Z"},
		},
		{
			"daily, over the change back",
			schedule.TimeExpression{Start: "20261001T200000", Zone: berlin, Duration: "PT1H", Rule: "FREQ=DAILY"},
			"2026-10-24T00:00:00Z", 2,
			[]string{"2026-10-24T18:00Z/2026-10-24T19:00Z", "2026-10-25T19:00Z/2026-10-25T20:00Z"},
		},
		{
			"daily at a time that does not exist: the offset before",
			schedule.TimeExpression{Start: "20270327T023000", Zone: berlin, Duration: "PT10M", Rule: "FREQ=DAILY"},
			"2027-03-27T00:00:00Z", 3,
			[]string{"2027-03-27T01:30Z/2027-03-27T01:40Z", "2027-03-28T01:30Z/2027-03-28T01:40Z", "2027-03-29T00:30Z/2027-03-29T00:40Z"},
		},
		{
			"daily at a time that comes twice: the first",
			schedule.TimeExpression{Start: "20261024T023000", Zone: berlin, Duration: "PT10M", Rule: "FREQ=DAILY"},
			"2026-10-24T00:00:00Z", 3,
			[]string{"2026-10-24T00:30Z/2026-10-24T00:40Z", "2026-10-25T00:30Z/2026-10-25T00:40Z", "2026-10-26T01:30Z/2026-10-26T01:40Z"},
		},
		{
			"hourly, over the gap: one instant comes once",
			schedule.TimeExpression{Start: "20270328T000000", Zone: berlin, Duration: "PT10M", Rule: "FREQ=HOURLY"},
			"2027-03-27T23:30:00Z", 3,
			[]string{"2027-03-28T00:00Z/2027-03-28T00:10Z", "2027-03-28T01:00Z/2027-03-28T01:10Z", "2027-03-28T02:00Z/2027-03-28T02:10Z"},
		},
		{
			"a duration in days is nominal",
			schedule.TimeExpression{Start: "20261024T120000", Zone: berlin, Duration: "P1D"},
			"2026-01-01T00:00:00Z", 1, []string{"2026-10-24T10:00Z/2026-10-25T11:00Z"},
		},
		{
			"one in hours is exact",
			schedule.TimeExpression{Start: "20261024T120000", Zone: berlin, Duration: "PT24H"},
			"2026-01-01T00:00:00Z", 1, []string{"2026-10-24T10:00Z/2026-10-25T10:00Z"},
		},
		{
			"third Friday",
			schedule.TimeExpression{Start: "20260116T190000", Zone: "America/New_York", Duration: "PT2H", Rule: "FREQ=MONTHLY;BYDAY=3FR"},
			"2026-02-28T00:00:00Z", 3,
			[]string{"2026-03-20T23:00Z/2026-03-21T01:00Z", "2026-04-17T23:00Z/2026-04-18T01:00Z", "2026-05-15T23:00Z/2026-05-16T01:00Z"},
		},
		{
			"last Sunday, counted",
			schedule.TimeExpression{Start: "20260125T100000", Duration: "PT1H", Rule: "FREQ=MONTHLY;BYDAY=-1SU;COUNT=3"},
			"2026-02-01T00:00:00Z", 9,
			[]string{"2026-02-22T10:00Z/2026-02-22T11:00Z", "2026-03-29T10:00Z/2026-03-29T11:00Z"},
		},
		{
			"29 February, over 2100",
			schedule.TimeExpression{Start: "20240229T120000", Duration: "PT1H", Rule: "FREQ=YEARLY"},
			"2092-03-01T00:00:00Z", 3,
			[]string{"2096-02-29T12:00Z/2096-02-29T13:00Z", "2104-02-29T12:00Z/2104-02-29T13:00Z", "2108-02-29T12:00Z/2108-02-29T13:00Z"},
		},
		{
			"the 31st, only where there is one",
			schedule.TimeExpression{Start: "20260131T120000", Duration: "PT1H", Rule: "FREQ=MONTHLY"},
			"2026-02-01T00:00:00Z", 2,
			[]string{"2026-03-31T12:00Z/2026-03-31T13:00Z", "2026-05-31T12:00Z/2026-05-31T13:00Z"},
		},
		{
			"UNTIL is an instant and included",
			schedule.TimeExpression{Start: "20261101T200000", Zone: berlin, Duration: "PT1H", Rule: "FREQ=DAILY;UNTIL=20261103T190000Z"},
			"2026-11-02T12:00:00Z", 9,
			[]string{"2026-11-02T19:00Z/2026-11-02T20:00Z", "2026-11-03T19:00Z/2026-11-03T20:00Z"},
		},
		{
			"UNTIL a second earlier",
			schedule.TimeExpression{Start: "20261101T200000", Zone: berlin, Duration: "PT1H", Rule: "FREQ=DAILY;UNTIL=20261103T185959Z"},
			"2026-11-02T12:00:00Z", 9, []string{"2026-11-02T19:00Z/2026-11-02T20:00Z"},
		},
		{
			"exceptions, local and in UTC",
			schedule.TimeExpression{
				Start: "20261101T200000", Zone: berlin, Duration: "PT1H", Rule: "FREQ=DAILY;COUNT=4",
				Except: []string{"20261102T200000", "20261103T190000Z"},
			},
			"2026-11-01T00:00:00Z", 9, []string{"2026-11-01T19:00Z/2026-11-01T20:00Z", "2026-11-04T19:00Z/2026-11-04T20:00Z"},
		},
		{
			"every other week on two days, the week begins on Sunday",
			schedule.TimeExpression{Start: "19970805T090000", Duration: "PT1H", Rule: "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU"},
			"1997-08-01T00:00:00Z", 9, // RFC 5545 §3.8.5.3 has this very example
			[]string{
				"1997-08-05T09:00Z/1997-08-05T10:00Z", "1997-08-17T09:00Z/1997-08-17T10:00Z",
				"1997-08-19T09:00Z/1997-08-19T10:00Z", "1997-08-31T09:00Z/1997-08-31T10:00Z",
			},
		},
		{
			"a zone that left out a day",
			schedule.TimeExpression{Start: "20111229T120000", Zone: "Pacific/Apia", Duration: "PT1H", Rule: "FREQ=DAILY"},
			"2011-12-29T00:00:00Z", 3, // 30 December did not happen: read as before, it is the 31st
			[]string{"2011-12-29T22:00Z/2011-12-29T23:00Z", "2011-12-30T22:00Z/2011-12-30T23:00Z", "2011-12-31T22:00Z/2011-12-31T23:00Z"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.e.Next(utc(t, test.after), test.n)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(spans(got), test.want) {
				t.Errorf("got  %v\nwant %v", spans(got), test.want)
			}
		})
	}
}

func TestTimeExpressionValidate(t *testing.T) {
	good := schedule.TimeExpression{Start: "20260116T190000", Zone: "Europe/Berlin", Duration: "PT1H"}
	rule := func(rule string) func(*schedule.TimeExpression) {
		return func(e *schedule.TimeExpression) { e.Rule = rule }
	}
	duration := func(d string) func(*schedule.TimeExpression) {
		return func(e *schedule.TimeExpression) { e.Duration = d }
	}
	start := func(s string) func(*schedule.TimeExpression) {
		return func(e *schedule.TimeExpression) { e.Start = s }
	}
	tests := []struct {
		field  string
		change func(*schedule.TimeExpression)
		is     error
	}{
		{"dtstart", start(""), nil}, // the library takes the present then
		{"dtstart", start("2026-01-16T19:00:00"), nil},
		{"dtstart", start("20260230T190000"), nil},
		{"dtstart", start("20260116T190000.5"), nil},
		{"dtstart", start("20260116T1900"), nil},
		{"dtstart", start("20260116"), nil},
		{"dtstart", start("20260116T190000Z"), nil}, // contradicts tzid
		{"dtstart", start("19690116T190000"), nil},
		{"dtstart", start("22010116T190000"), nil},
		{"tzid", func(e *schedule.TimeExpression) { e.Zone = "Local" }, schedule.ErrUnknownZone},
		{"tzid", func(e *schedule.TimeExpression) { e.Zone = "Europe/Atlantis" }, schedule.ErrUnknownZone},
		{"tzid", func(e *schedule.TimeExpression) { e.Zone = "../../etc/passwd" }, schedule.ErrUnknownZone},
		{"duration", duration("1H"), nil},
		{"duration", duration("P"), nil},
		{"duration", duration("PT"), nil},
		{"duration", duration("P1DT"), nil},
		{"duration", duration("PT0S"), nil},
		{"duration", duration("-PT1H"), nil},
		{"duration", duration("PT1H30S"), nil},
		{"duration", duration("PT1M1H"), nil},
		{"duration", duration("P1W2D"), nil},
		{"duration", duration("P1WT1H"), nil},
		{"duration", duration("P367D"), nil},
		{"duration", duration("PT99999999H"), nil},
		{"exdate", func(e *schedule.TimeExpression) { e.Except = []string{"20260116T190000"} }, nil},
		{"exdate[1]", func(e *schedule.TimeExpression) {
			e.Rule, e.Except = "FREQ=DAILY", []string{"20260116T190000", "tomorrow"}
		}, nil},
		{"exdate", func(e *schedule.TimeExpression) { e.Rule, e.Except = "FREQ=DAILY", make([]string, 1001) }, nil},
		{"duration", func(e *schedule.TimeExpression) { e.Rule, e.Duration = "FREQ=DAILY", "" }, nil},
		{"rrule", rule("DAILY"), nil},
		{"rrule", rule("RRULE:FREQ=DAILY"), nil},
		{"rrule", rule("FREQ=DAILY\nRRULE:FREQ=WEEKLY"), nil},
		{"rrule", rule("FREQ=DAILY;"), nil},
		{"rrule", rule("COUNT=3"), nil},
		{"rrule", rule("FREQ=FORTNIGHTLY"), nil},
		{"rrule", rule("freq=DAILY"), nil},
		{"rrule", rule("FREQ=DAILY;FREQ=WEEKLY"), nil},
		{"rrule", rule("FREQ=MINUTELY"), schedule.ErrNotInThisVersion},
		{"rrule", rule("FREQ=SECONDLY"), schedule.ErrNotInThisVersion},
		{"rrule", rule("FREQ=DAILY;BYMINUTE=0,30"), schedule.ErrNotInThisVersion},
		{"rrule", rule("FREQ=DAILY;BYSECOND=0,30"), schedule.ErrNotInThisVersion},
		{"rrule", rule("FREQ=DAILY;COUNT=3;UNTIL=20270101T000000Z"), nil},
		{"rrule", rule("FREQ=DAILY;COUNT=-1"), nil},
		{"rrule", rule("FREQ=DAILY;COUNT=0"), nil},
		{"rrule", rule("FREQ=DAILY;COUNT=10001"), nil},
		{"rrule", rule("FREQ=DAILY;INTERVAL=0"), nil},
		{"rrule", rule("FREQ=DAILY;INTERVAL=+1"), nil},
		{"rrule", rule("FREQ=DAILY;INTERVAL=99999999999999999999"), nil},
		{"rrule", rule("FREQ=DAILY;UNTIL=20270101T000000"), nil},
		{"rrule", rule("FREQ=DAILY;UNTIL=20270101"), nil},
		{"rrule", rule("FREQ=DAILY;UNTIL=20250101T000000Z"), nil},
		{"rrule", rule("FREQ=DAILY;DTSTART=20250101T000000Z"), nil},
		{"rrule", rule("FREQ=DAILY;BYEASTER=0"), nil},
		{"rrule", rule("FREQ=DAILY;WKST=XX"), nil},
		{"rrule", rule("FREQ=DAILY;BYHOUR=24"), nil},
		{"rrule", rule("FREQ=DAILY;BYHOUR=19,19"), nil},
		{"rrule", rule("FREQ=DAILY;BYMONTH=0"), nil},
		{"rrule", rule("FREQ=DAILY;BYDAY=1FR"), nil},
		{"rrule", rule("FREQ=WEEKLY;BYDAY=FR,FR"), nil},
		{"rrule", rule("FREQ=WEEKLY;BYDAY=F"), nil},
		{"rrule", rule("FREQ=WEEKLY;BYDAY="), nil},
		{"rrule", rule("FREQ=WEEKLY;BYMONTHDAY=16"), nil},
		{"rrule", rule("FREQ=MONTHLY;BYDAY=-53FR"), nil}, // the library panics here
		{"rrule", rule("FREQ=MONTHLY;BYDAY=53FR"), nil},  // and here
		{"rrule", rule("FREQ=MONTHLY;BYDAY=0FR"), nil},
		{"rrule", rule("FREQ=MONTHLY;BYYEARDAY=16"), nil},
		{"rrule", rule("FREQ=MONTHLY;BYWEEKNO=3"), nil},
		{"rrule", rule("FREQ=MONTHLY;BYSETPOS=1"), nil},
		{"rrule", rule("FREQ=HOURLY;BYMONTH=1;BYSETPOS=2"), nil},
		{"dtstart", rule("FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=30"), nil}, // never
		{"dtstart", rule("FREQ=WEEKLY;BYDAY=MO"), nil},                 // it is a Friday
		{"dtstart", rule("FREQ=HOURLY;INTERVAL=24;BYHOUR=5"), nil},     // the library would not come back
	}
	for _, test := range tests {
		e := good
		test.change(&e)
		err := e.Validate()
		if !errors.Is(err, schedule.ErrTimeExpression) {
			t.Errorf("%+v: error %v, want ErrTimeExpression", e, err)
			continue
		}
		if test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%+v: error %v, want %v", e, err, test.is)
		}
		if !strings.HasPrefix(err.Error(), schedule.ErrTimeExpression.Error()+": "+test.field+": ") {
			t.Errorf("error %q does not name %q", err, test.field)
		}
		if _, nextErr := e.Next(time.Unix(0, 0), 1); nextErr == nil || nextErr.Error() != err.Error() {
			t.Errorf("%+v: Next says %v, Validate %v", e, nextErr, err)
		}
	}
}

// TestNextSkips: the short cut over an old rule's past changes nothing. What
// Next lists from some instant on is what one gets by walking there from the
// start.
func TestNextSkips(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 0))
	rules := []string{
		"FREQ=DAILY", "FREQ=DAILY;INTERVAL=3;BYHOUR=3,19", "FREQ=DAILY;INTERVAL=11;BYMONTH=1,6",
		"FREQ=HOURLY;INTERVAL=7", "FREQ=HOURLY;INTERVAL=5;BYDAY=FR,SA", "FREQ=HOURLY;BYHOUR=2,3,19",
		"FREQ=WEEKLY;INTERVAL=3;BYDAY=FR,SU", "FREQ=WEEKLY;INTERVAL=2;WKST=SU;BYDAY=SU,FR,MO",
		"FREQ=MONTHLY;INTERVAL=5", "FREQ=MONTHLY;BYDAY=3FR", "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=12",
		"FREQ=MONTHLY;INTERVAL=2;BYMONTHDAY=-16,16;BYHOUR=1,19",
		"FREQ=YEARLY;INTERVAL=3", "FREQ=YEARLY;BYDAY=3FR;BYMONTH=1,7", "FREQ=YEARLY;BYYEARDAY=16,-100",
		"FREQ=YEARLY;BYWEEKNO=3,40", "FREQ=YEARLY;BYMONTH=1;BYMONTHDAY=13,14,15,16,17;BYDAY=FR",
		"FREQ=DAILY;UNTIL=20300101T000000Z",
	}
	for _, rule := range rules {
		e := schedule.TimeExpression{Start: "20260116T190000", Zone: "Europe/Berlin", Duration: "P2DT1H", Rule: rule}
		all, err := e.Next(time.Unix(0, 0), 10_000)
		if err != nil {
			t.Errorf("%s: %v", rule, err)
			continue
		}
		last := all[len(all)-1].Start
		for range 40 {
			after := all[0].Start.Add(time.Duration(rnd.Int64N(int64(min(last.Sub(all[0].Start), 25*365*24*time.Hour))))).Truncate(time.Second)
			got, err := e.Next(after, 5)
			if err != nil {
				t.Fatal(err)
			}
			from, _ := slices.BinarySearchFunc(all, after, func(o schedule.Occurrence, at time.Time) int {
				if o.End.After(at) {
					return 1
				}
				return -1
			})
			want := all[from:min(from+5, len(all))]
			if !slices.Equal(spans(got), spans(want)) {
				t.Fatalf("%s after %s:\ngot  %v\nwant %v", rule, after, spans(got), spans(want))
			}
		}
	}
}

// TestNextOfOldRule would take seconds if Next walked from the start; what it
// counts is the library's work, by allocations, not time.
func TestNextOfOldRule(t *testing.T) {
	old := schedule.TimeExpression{Start: "19700102T000000", Zone: "Europe/Berlin", Duration: "PT1H", Rule: "FREQ=HOURLY"}
	young := old
	young.Start = "20261231T000000"
	after := utc(t, "2027-01-15T00:00:00Z")
	count := func(e schedule.TimeExpression) float64 {
		return testing.AllocsPerRun(3, func() {
			if got, err := e.Next(after, 3); err != nil || len(got) != 3 {
				t.Fatal(got, err)
			}
		})
	}
	if o, y := count(old), count(young); o > 2*y {
		t.Errorf("%v allocations for the old rule, %v for the young one", o, y)
	}
}

// FuzzTimeExpression: whatever is accepted can be listed, in order, without a
// double, and every entry fits what was asked.
func FuzzTimeExpression(f *testing.F) {
	seeds := []schedule.TimeExpression{
		{Start: "20260116T190000", Zone: "Europe/Berlin", Duration: "PT1H", Rule: "FREQ=MONTHLY;BYDAY=3FR"},
		{Start: "20240229T120000Z", Duration: "P1DT2H", Rule: "FREQ=YEARLY;COUNT=4", Except: []string{"20280229T120000Z"}},
		{Start: "20270328T003000", Zone: "Europe/Berlin", Duration: "PT5M", Rule: "FREQ=HOURLY;INTERVAL=2"},
		{Start: "20260116T190000", Duration: "P2W", Rule: "FREQ=YEARLY;BYWEEKNO=3;WKST=SU"},
		{Start: "20260116T190000", Duration: "PT1H", Rule: "FREQ=MONTHLY;BYDAY=FR,SA;BYSETPOS=-3;UNTIL=20300101T000000Z"},
		{Start: "20260116T190000"},
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, e := range seeds {
		f.Add(e.Start, e.Zone, e.Duration, e.Rule, strings.Join(e.Except, " "), int64(1_900_000_000))
	}
	f.Fuzz(func(t *testing.T, start, zone, duration, rule, except string, after int64) {
		e := schedule.TimeExpression{Start: start, Zone: zone, Duration: duration, Rule: rule, Except: strings.Fields(except)}
		from := time.Unix(after%(1<<34), 0)
		got, err := e.Next(from, 3)
		if bad := e.Validate(); (bad == nil) != (err == nil) {
			t.Fatalf("Validate %v, Next %v", bad, err)
		}
		if err != nil {
			if got != nil {
				t.Fatal("occurrences beside an error")
			}
			return
		}
		if len(got) > 3 {
			t.Fatalf("%d occurrences, at most 3", len(got))
		}
		for i, o := range got {
			if !o.End.IsZero() && (!o.End.After(from) || !o.End.After(o.Start)) {
				t.Fatalf("%v to %v after %v", o.Start, o.End, from)
			}
			if i > 0 && !o.Start.After(got[i-1].Start) {
				t.Fatalf("out of order: %v", got)
			}
		}
	})
}
