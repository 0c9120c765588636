package live

import (
	"fmt"
	"strings"
	"testing"
)

// TestServersOff: while all servers are off, the stream goes on to the end of the
// last key that was given, and stops there; when they are back, so is the stream.
func TestServersOff(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.station("studio", "10.77.0.2"), w.station("viewer", "10.77.0.11")
	w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}})
	wire := w.sniffBridge()
	studio.join("News")
	viewer.join("News")
	player := viewer.plays(studio, "232.1.2.3:5004")
	sends := studio.sends('n', 200, "232.1.2.3:5004")
	player.awaits(t, 'n', 0)
	player.awaitsMore(t, sends, 400)

	w.stopServer()
	off := sends.sent.Load()
	held, theirs := studio.sas().spis("News"), viewer.sas().spis("News")
	if len(held) == 0 {
		t.Fatal("the sender holds no key as the servers go off")
	}
	atOnce := studio.status().dropped("no_sa")
	var stopped uint64
	eventually(t, "the end of the last key", func() error {
		if stopped = studio.status().dropped("no_sa"); stopped < atOnce+100 {
			return fmt.Errorf("no_sa went from %d to %d", atOnce, stopped)
		}
		return nil
	})
	packets := seen(t, wire, "")
	last, ok := player.last('n')

	t.Run("goes_on_to_the_end_of_the_key", func(t *testing.T) {
		if !ok || last < off {
			t.Errorf("the last datagram before the dark is %d, the servers went off at %d", last, off)
		}
		if first, last := player.unbroken(t, 'n'); last-first+1 != uint32(len(player.heard('n'))) {
			t.Errorf("%d to %d", first, last)
		}
		under := spisOf(packets)
		if newest := under[len(under)-1]; !held[newest] || !theirs[newest] {
			t.Errorf("the last packets are under %s; held were %v and %v", newest, held, theirs)
		}
	})
	t.Run("then_nothing", func(t *testing.T) {
		mark, count := sends.sent.Load(), len(packets)
		eventually(t, "sent in vain", func() error {
			if n := sends.sent.Load(); n < mark+100 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		if more := seen(t, wire, ""); len(more) != count {
			t.Errorf("without a key %d packets became %d", count, len(more))
		}
		if len(studio.on(t).sas().spis("News")) > 0 {
			t.Errorf("the sender still lists %v", studio.sas().spis("News"))
		}
		for _, s := range []*station{studio.on(t), viewer.on(t)} {
			// A receiver keeps its last key for a moment of grace.
			eventually(t, s.Name()+" says that it waits", func() error {
				if e := s.events().event("News"); e.State != "waiting" || !strings.Contains(e.Detail, "refused") {
					return &stateError{*e}
				}
				return nil
			})
		}
	})
	t.Run("comes_back", func(t *testing.T) {
		w.startServer()
		player.awaitsMore(t, sends, 50)
		player.awaits(t, 'n', sends.halt(t)-1)
		under := spisOf(seen(t, wire, ""))
		if newest := under[len(under)-1]; held[newest] {
			t.Errorf("the stream is back under the old key %s", newest)
		}
	})
	if err := wire.Stop(); err != nil {
		t.Error(err)
	}
}

// TestSuspendAndRestore: a suspended client is dark at the end of the last interval
// whose key it holds, to the packet; restored, it plays again with nobody's help.
func TestSuspendAndRestore(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.station("studio", "10.77.0.2"), w.station("viewer", "10.77.0.11")
	other := w.station("other", "10.77.0.12")
	w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}})
	studio.join("News")
	viewer.join("News")
	other.join("News")
	player, others := viewer.plays(studio, "232.1.2.3:5004"), other.plays(studio, "232.1.2.3:5004")
	wire := w.sniffBridge()
	sends := studio.sends('n', 200, "232.1.2.3:5004")
	player.awaits(t, 'n', 0)
	player.awaitsMore(t, sends, 300)

	w.manage("client", "suspend", "viewer")
	var detail string
	eventually(t, "the refusal", func() error {
		e := viewer.events().event("News")
		if detail = e.Detail; e.State != "withheld" {
			return fmt.Errorf("it is %s: %s", e.State, e.Detail)
		}
		return nil
	})
	held := viewer.sas().spis("News")
	if len(held) == 0 {
		t.Fatal("the viewer holds no key as it is refused")
	}
	others.awaitsMore(t, sends, 1000) // two intervals and a half
	var dark uint32
	eventually(t, "the dark", func() error {
		was := dark
		if dark, _ = player.last('n'); dark != was {
			return fmt.Errorf("it plays datagram %d", dark)
		}
		return nil
	})

	t.Run("dark_at_the_end_of_the_last_key", func(t *testing.T) {
		player.unbroken(t, 'n')
		// Every datagram after the first that got through became one packet, in
		// order: counted from the end of all, packets have the datagrams' numbers.
		packets := seen(t, wire, "")
		first := others.heard('n')[0]
		number := -1
		for i, p := range packets {
			if held[p.spi] {
				number = int(first) + i
			}
		}
		if number != int(dark) {
			t.Errorf("the last datagram that it played is %d, the last one under a key that it held is %d", dark, number)
		}
		if detail == "" {
			t.Error("usher events gives no reason")
		}
		t.Log(detail)
	})
	t.Run("others_play_on", func(t *testing.T) {
		if last, _ := others.last('n'); last < dark+100 {
			t.Errorf("the other viewer is at %d, the suspended one stopped at %d", last, dark)
		}
	})
	t.Run("a_new_join_is_refused", func(t *testing.T) {
		s := viewer.on(t)
		s.stop()
		s.start()
		viewer.agent = s.agent
		s.fails("refused", []string{"suspended"}, "News")
		s.usher("leave", "News")
		s.fails("refused", []string{"suspended"}, "News")
	})
	t.Run("restored", func(t *testing.T) {
		w.manage("client", "restore", "viewer")
		player.awaitsMore(t, sends, 50)
		if e := viewer.on(t).events().event("News"); e.State != "keyed" {
			t.Errorf("it is %s: %s", e.State, e.Detail)
		}
	})
	others.awaits(t, 'n', sends.halt(t)-1)
	others.unbroken(t, 'n')
	if err := wire.Stop(); err != nil {
		t.Error(err)
	}
}
