// Package storetest is the one suite that every backend of the store must
// pass: what the comment of [store.Store] promises, as tests. Run is the entry
// point. It must never look behind the interface.
package storetest

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"usher/keyclient/derive"
	"usher/server/store"
)

// Open gives two handles on one fresh, empty database, as two processes would
// have them. The backend's test closes them.
type Open func(t *testing.T) (a, b store.Store)

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, a, b store.Store)
	}{
		{"groups", testGroups},
		{"clients", testClients},
		{"members", testMembers},
		{"suspensions", testSuspensions},
		{"events", testEvents},
		{"event deletion", testDeleteEvent},
		{"associations", testAssociations},
		{"occurrences", testOccurrences},
		{"occurrence end", testEndOccurrence},
		{"rows", testRows},
		{"rows of two processes", testRowsRace},
		{"blocks", testBlocks},
		{"blocks of two processes", testBlocksRace},
		{"hygiene", testHygiene},
		{"changes of each write", testChanges},
		{"followers", testFollow},
		{"rollback is seen", testHolds},
		{"failed update", testRollback},
		{"updates are serial", testSerial},
		{"snapshots", testSnapshot},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := open(t)
			tt.test(t, a, b)
		})
	}
}

// update runs one transaction that must work.
func update(t *testing.T, s store.Store, f func(ctx context.Context, tx store.Tx) error) store.Mark {
	t.Helper()
	mark, err := s.Update(t.Context(), func(tx store.Tx) error { return f(t.Context(), tx) })
	if err != nil {
		t.Fatal(err)
	}
	return mark
}

// refused runs one transaction that must fail with this error.
func refused(t *testing.T, s store.Store, want error, f func(ctx context.Context, tx store.Tx) error) {
	t.Helper()
	if _, err := s.Update(t.Context(), func(tx store.Tx) error { return f(t.Context(), tx) }); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// view reads one snapshot.
func view(t *testing.T, s store.Store, f func(ctx context.Context, r store.Reader) error) {
	t.Helper()
	if err := s.View(t.Context(), func(r store.Reader) error { return f(t.Context(), r) }); err != nil {
		t.Fatal(err)
	}
}

// group makes a group.
func group(t *testing.T, s store.Store, name string) (g store.Group) {
	t.Helper()
	update(t, s, func(ctx context.Context, tx store.Tx) (err error) {
		g, err = tx.AddGroup(ctx, name)
		return err
	})
	return g
}

// client makes a client.
func client(t *testing.T, s store.Store, name string, groups ...uint32) (c store.Client) {
	t.Helper()
	update(t, s, func(ctx context.Context, tx store.Tx) (err error) {
		c, err = tx.AddClient(ctx, name, "hash of "+name, groups)
		return err
	})
	return c
}

// exampleEvent fills every field.
func exampleEvent(group uint32) store.Event {
	return store.Event{
		ID: derive.NewEventID(), Group: group, Title: "Opera, live",
		Senders: []netip.Addr{netip.MustParseAddr("10.0.0.2")},
		Flows: []store.Flow{
			{Protocol: "udp", Destination: netip.MustParseAddr("232.1.2.3"), FirstPort: 5004, LastPort: 5004},
			{Protocol: "udp", Destination: netip.MustParseAddr("232.1.2.3"), FirstPort: 5006, LastPort: 5010},
		},
		Time: store.TimeExpression{Start: "20261125T200000", Zone: "Europe/Berlin", Duration: "PT2H", Rule: "FREQ=DAILY",
			Except: []string{"20261224T200000"}},
		TTL: 16, KeyServers: []string{"https://10.0.0.1:7441"},
		InitialMS: 300_000, FirstMS: 5000, IntervalMS: 4000, WindowMS: 3000, Ahead: 1, Transform: derive.TransformAES256GCM,
		GatherUS: 200, Spread: "fixed", Revocation: "withhold", Method: "pull", Priority: -3,
	}
}

// event stores an event in a group of its own.
func event(t *testing.T, s store.Store) store.Event {
	t.Helper()
	e := exampleEvent(group(t, s, "group of "+derive.NewEventID().String()).Number)
	update(t, s, func(ctx context.Context, tx store.Tx) error { return tx.AddEvent(ctx, e) })
	return e
}

// occurrence stores an occurrence of an event of its own.
func occurrence(t *testing.T, s store.Store) store.Occurrence {
	t.Helper()
	e := event(t, s)
	o := exampleOccurrence(e, 1_800_000_000)
	update(t, s, func(ctx context.Context, tx store.Tx) error { return tx.InsertOccurrence(ctx, o) })
	return o
}

func exampleOccurrence(e store.Event, startS uint64) store.Occurrence {
	return store.Occurrence{
		Tag: derive.OccurrenceTag(e.ID, startS, 0), Event: e.ID,
		StartMS: int64(startS) * 1000, EndMS: int64(startS)*1000 + 60_000,
		FirstMS: e.FirstMS, IntervalMS: e.IntervalMS, InitialMS: e.InitialMS, WindowMS: e.WindowMS,
		Ahead: e.Ahead, Transform: e.Transform,
	}
}
