package live

import (
	"errors"
	"testing"
	"time"
)

// TestEventsAreFresh: what was added on the spur of the moment is seen at once, and
// what is known is shown while the server is away.
func TestEventsAreFresh(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.station("studio", "10.77.0.2", everybody), w.station("viewer", "10.77.0.11", everybody)
	if e := viewer.events().event("Flash"); e != nil {
		t.Fatalf("an event before it was added: %+v", e)
	}
	w.add(event{title: "Flash", sender: studio, flows: []string{"udp/232.1.2.3/5004"}, in: 20 * time.Second})
	// Who looks twice within a few seconds is shown what the first look found.
	eventually(t, "the new event", func() error {
		if viewer.events().event("Flash") == nil {
			return errors.New("not shown")
		}
		return nil
	})
	// Only its sender is told that it sends.
	if e := viewer.events().event("Flash"); e.Role != "receive" {
		t.Errorf("the viewer's role is %s", e.Role)
	}
	if e := studio.events().event("Flash"); e == nil || e.Role != "send" {
		t.Errorf("the studio sees %+v", e)
	}
	w.stopServer()
	if viewer.events().event("Flash") == nil {
		t.Error("not shown any more while the server is away")
	}
}
