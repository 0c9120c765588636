package ticket

import (
	"strconv"

	"usher/keyclient/wire"
	"usher/server/store"
)

// Entry is what a ticket says of an event (Fig 4, 421–424). Transform, gather,
// revocation and the like stay out: the grant tells a client what it needs of
// them.
func Entry(e store.Event) *wire.Entry {
	entry := &wire.Entry{
		ID: e.ID, Title: e.Title, Senders: e.Senders,
		Time: wire.TimeExpr{Start: e.Time.Start, Zone: e.Time.Zone, Duration: e.Time.Duration, Rule: e.Time.Rule, Except: e.Time.Except},
		TTL:  e.TTL, KeyServers: e.KeyServers,
		InitialMS: e.InitialMS, FirstMS: e.FirstMS, IntervalMS: e.IntervalMS, WindowMS: e.WindowMS,
		Refresh: wire.Refresh{Method: e.Method}, Priority: int(e.Priority), Edition: e.Edition,
	}
	for _, f := range e.Flows {
		ports := strconv.Itoa(int(f.FirstPort))
		if f.LastPort != f.FirstPort {
			ports += "-" + strconv.Itoa(int(f.LastPort))
		}
		entry.Flows = append(entry.Flows, wire.Flow{Protocol: f.Protocol, Destination: f.Destination, Ports: ports})
	}
	return entry
}
