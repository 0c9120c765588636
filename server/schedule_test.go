package server

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/store"
)

// TestSPICollision looks for two ids whose SPIs begin alike (one of 2²⁴ pairs
// does; among 20,000 ids some do) and shows them to the check.
func TestSPICollision(t *testing.T) {
	start := time.Date(2026, 11, 25, 20, 0, 0, 0, time.UTC)
	run := schedule.Occurrence{Start: start, End: start.Add(time.Minute)}
	event := func(id derive.EventID, port uint16) store.Event {
		return store.Event{ID: id, InitialMS: 1000, Senders: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			Flows: []store.Flow{{Protocol: "udp", Destination: netip.MustParseAddr("232.1.2.3"), FirstPort: port, LastPort: port}},
			Time:  store.TimeExpression{Start: "20261125T200000Z", Duration: "PT1M"}}
	}
	seen := map[[3]byte]derive.EventID{}
	for range 1 << 20 {
		id := derive.NewEventID()
		s := prefix(event(id, 1), run)
		other, found := seen[s]
		seen[s] = id
		if !found {
			continue
		}
		a, b := event(id, 5000), event(other, 5002)
		if err := collide(a, []schedule.Occurrence{run}, []store.Event{b}, start.Add(-time.Hour)); !errors.Is(err, errSPI) {
			t.Fatalf("two events of one S: %v", err)
		}
		b.Flows[0].Destination = netip.MustParseAddr("232.1.2.4")
		if err := collide(a, []schedule.Occurrence{run}, []store.Event{b}, start.Add(-time.Hour)); err != nil {
			t.Fatalf("at two addresses: %v", err)
		}
		b = event(other, 5002)
		b.Time.Start = "20261125T210000Z" // S is of the start, too
		if err := collide(a, []schedule.Occurrence{run}, []store.Event{b}, start.Add(-time.Hour)); err != nil {
			t.Fatalf("at two times: %v", err)
		}
		return
	}
	t.Fatal("no two ids of one S among a million")
}
