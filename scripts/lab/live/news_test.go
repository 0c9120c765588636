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

// TestOnlyWhatWasJoined: a ticket and a player are no wish to take part. What plays is
// what was joined, unless the TOML says that programs are followed.
func TestOnlyWhatWasJoined(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.station("studio", "10.77.0.2", everybody), w.station("viewer", "10.77.0.11", everybody)
	w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}})
	studio.join("News")
	if viewer.events().event("News") == nil {
		t.Fatal("the viewer's ticket has no such event")
	}
	player := viewer.plays(studio, "232.1.2.3:5004")
	sends := studio.sends('n', 200, "232.1.2.3:5004")
	eventually(t, "packets under the second key", func() error {
		if now := studio.sas().spis("News"); len(now) < 2 {
			return errors.New("one key so far")
		}
		return nil
	})
	if got := player.heard('n'); len(got) > 0 {
		t.Errorf("%d datagrams reached a player whose host did not join", len(got))
	}
	if held := viewer.sas().spis("News"); len(held) > 0 {
		t.Errorf("a host that did not join holds %v", held)
	}
	viewer.join("News")
	player.awaitsMore(t, sends, 50)
}
