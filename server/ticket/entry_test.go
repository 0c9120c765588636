package ticket_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"usher/keyclient/wire"
	"usher/server/store"
)

// TestEntryInFull: the tickets of an event's own group and of one beneath it have
// the same entry, byte for byte, with all that a client must know of the event,
// and without a word on who sends it and who receives.
func TestEntryInFull(t *testing.T) {
	r := newRig(t)
	root := r.addGroup("G1")
	leaf := r.addGroup("G6", "G1")
	e := r.addEvent("E1", root)
	sender := r.addClient("C1", "a", root)
	r.addClient("C7", "b", leaf)
	r.update(func(tx store.Tx) error {
		e.Time = store.TimeExpression{Start: "20261125T200000", Zone: "Europe/Berlin", Duration: "PT1H", Rule: "FREQ=WEEKLY", Except: []string{"20261202T200000"}}
		e.Flows = append(e.Flows, store.Flow{Protocol: "udp", Destination: e.Flows[0].Destination.Next(), FirstPort: 6000, LastPort: 6000})
		return errors.Join(tx.UpdateEvent(t.Context(), e),
			tx.Associate(t.Context(), store.Association{Event: e.ID, Client: sender.Number, Role: store.RoleSend}))
	})
	var entries [][]byte
	for name, password := range map[string]string{"C1": "a", "C7": "b"} {
		d := r.device()
		d.login(name, password)
		answer, _ := d.tickets()
		if len(answer.Tickets) != 1 || len(answer.Tickets[0].Entries) != 1 {
			t.Fatalf("%s has %+v", name, answer.Tickets)
		}
		if sends := slices.Contains(answer.Sends, e.ID); sends != (name == "C1") {
			t.Errorf("%s sends E1: %v", name, sends)
		}
		entries = append(entries, answer.Tickets[0].Entries[0])
	}
	if !bytes.Equal(entries[0], entries[1]) {
		t.Errorf("two entries:\n%s\n%s", entries[0], entries[1])
	}
	got, err := wire.ParseEntry(entries[0])
	if err != nil {
		t.Fatal(err)
	}
	want := &wire.Entry{
		ID: e.ID, Title: "E1", Senders: e.Senders,
		Flows: []wire.Flow{{Protocol: "udp", Destination: e.Flows[0].Destination, Ports: "5004-5005"}, {Protocol: "udp", Destination: e.Flows[1].Destination, Ports: "6000"}},
		Time:  wire.TimeExpr{Start: "20261125T200000", Zone: "Europe/Berlin", Duration: "PT1H", Rule: "FREQ=WEEKLY", Except: []string{"20261202T200000"}},
		TTL:   16, KeyServers: []string{"https://127.0.0.1:7441"},
		InitialMS: 300_000, FirstMS: 5000, IntervalMS: 5000, WindowMS: 5000,
		Refresh: wire.Refresh{Method: wire.RefreshPull}, Edition: got.Edition,
	}
	if !bytes.Equal(got.Encode(), want.Encode()) || got.Edition == 0 {
		t.Errorf("entry\n%s, want\n%s", got.Encode(), want.Encode())
	}
	var members map[string]any
	if err := json.Unmarshal(entries[0], &members); err != nil {
		t.Fatal(err)
	}
	for name := range members {
		if slices.Contains([]string{"role", "client", "clients", "sends"}, name) {
			t.Errorf("the entry has %q: it is the same for all", name)
		}
	}
}
