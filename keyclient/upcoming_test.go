package keyclient_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"usher/keyclient"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
)

// TestOccurrencesMoveOn: what is listed of an event is what its rule says at
// that instant, though it is not worked out each time.
func TestOccurrencesMoveOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		hourly, once := entry("hourly", 20*time.Second), entry("once", time.Hour)
		hourly.Time.Rule = "FREQ=HOURLY;COUNT=6"
		f.set(func() { f.groups["g1"] = []*wire.Entry{hourly, once} })
		h := newHost(t, f, receiverAddr)
		h.login()
		for range 300 {
			for _, e := range []*wire.Entry{hourly, once} {
				want, err := schedule.TimeExpression{Start: e.Time.Start, Duration: e.Time.Duration, Rule: e.Time.Rule}.Next(time.Now(), 3)
				if err != nil {
					t.Fatal(err)
				}
				if got := h.event(e.Title).Next; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("%s at %v: got %v, want %v", e.Title, time.Now(), got, want)
				}
			}
			pass(71 * time.Second)
		}
	})
}

// TestManyRulesCostLittle: the agent looks at the events whenever anything
// changes, and a ticket may hold hundreds that recur.
func TestManyRulesCostLittle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const many = 200
		f := newFakeServer(t)
		var entries []*wire.Entry
		for i := range many {
			e := entry(fmt.Sprintf("%03d", i), time.Hour)
			e.Time.Rule = "FREQ=WEEKLY"
			entries = append(entries, e)
		}
		f.set(func() { f.groups["g1"] = entries })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "007")
		pass(time.Second)
		var all, joined []keyclient.Event
		if n := testing.AllocsPerRun(3, func() { all = h.Events() }); n > 2*many {
			t.Errorf("a list of %d events makes %.0f allocations: rules are worked out each time", many, n)
		}
		if n := testing.AllocsPerRun(3, func() { joined = h.Joined() }); n > 20 {
			t.Errorf("a list of the joined event makes %.0f allocations", n)
		}
		if len(all) != many || len(joined) != 1 {
			t.Errorf("%d events, %d joined", len(all), len(joined))
		}
	})
}

// TestJoinOfWhatRunsTellsOfIt: a join of a daily event that runs does not tell of
// tomorrow while it waits for today's key.
func TestJoinOfWhatRunsTellsOfIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		daily := entry("daily", -10*time.Second)
		daily.Time.Rule = "FREQ=DAILY"
		f.set(func() { f.groups["g1"] = []*wire.Entry{daily} })
		h := newHost(t, f, receiverAddr)
		h.login()
		changed := h.Changed()
		h.join(nil, "daily")
		for e := h.event("daily"); e.State != keyclient.StateKeyed; e = h.event("daily") {
			if strings.Contains(e.Detail, "begins at") || e.Until.After(daysEnd(e)) {
				t.Fatalf("%s, %q until %v", e.State, e.Detail, e.Until)
			}
			<-changed
			changed = h.Changed()
		}
	})
}

func daysEnd(e keyclient.Event) time.Time { return e.Next[0].End }
