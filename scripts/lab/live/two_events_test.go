package live

import (
	"testing"
)

// TestTwoEventsAtOnce: one host joins three events by one command: two of them on
// one group address, from two senders; the third with two flows. Each plays under
// its own keys.
func TestTwoEventsAtOnce(t *testing.T) {
	w := newWorld(t)
	studio, field := w.station("studio", "10.77.0.2"), w.station("field", "10.77.0.3")
	viewer := w.station("viewer", "10.77.0.11")
	w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}})
	w.add(event{title: "Sports", sender: field, flows: []string{"udp/232.1.2.3/5006"}})
	w.add(event{title: "Film", sender: studio, flows: []string{"udp/232.1.2.4/5010", "udp/232.1.2.5/5012-5014"}})
	studio.join("News", "Film")
	field.join("Sports")
	viewer.join("News", "Sports", "Film")

	wire := w.sniffBridge()
	news, sports := viewer.plays(studio, "232.1.2.3:5004"), viewer.plays(field, "232.1.2.3:5006")
	picture, sound := viewer.plays(studio, "232.1.2.4:5010"), viewer.plays(studio, "232.1.2.5:5013")
	sendsNews, sendsSports := studio.sends('n', 200, "232.1.2.3:5004"), field.sends('s', 200, "232.1.2.3:5006")
	sendsPicture, sendsSound := studio.sends('p', 100, "232.1.2.4:5010"), studio.sends('q', 100, "232.1.2.5:5013")
	played := []struct {
		player *player
		source *source
	}{{news, sendsNews}, {sports, sendsSports}, {picture, sendsPicture}, {sound, sendsSound}}
	for _, p := range played {
		p.player.awaits(t, p.source.stream, p.source.sent.Load())
	}
	// Over at least two changes of keys.
	for _, p := range played {
		p.player.awaitsMore(t, p.source, uint32(5*100))
	}
	held := viewer.sas()
	for _, p := range played {
		sent := p.source.halt(t)
		p.player.awaits(t, p.source.stream, sent-1)
	}
	packets := stopped(t, wire, "")

	t.Run("byte_identical", func(t *testing.T) {
		for _, p := range played {
			p.player.unbroken(t, p.source.stream)
			if heard := len(p.player.heard(p.source.stream)); heard < 500 {
				t.Errorf("stream %q: %d datagrams", p.source.stream, heard)
			}
		}
	})
	t.Run("keys_of_their_own", func(t *testing.T) {
		titles := []string{"News", "Sports", "Film"}
		for i, a := range titles {
			if len(held.spis(a)) == 0 {
				t.Errorf("usher sa lists no association of %s", a)
			}
			for _, b := range titles[i+1:] {
				if spi := overlap(held.spis(a), held.spis(b)); spi != "" {
					t.Errorf("%s and %s have SPI %s", a, b, spi)
				}
			}
		}
	})
	t.Run("one_group_address", func(t *testing.T) {
		on := func(p []ciphertext, group string) (out []ciphertext) {
			for _, one := range p {
				if one.Destination.String() == group {
					out = append(out, one)
				}
			}
			return out
		}
		ofNews, ofSports := on(from(packets, studio.Addr()), "232.1.2.3"), on(from(packets, field.Addr()), "232.1.2.3")
		if changes(ofNews) < 2 || changes(ofSports) < 2 {
			t.Errorf("SPI changed %d and %d times, want 2 or more", changes(ofNews), changes(ofSports))
		}
		if spi := overlap(set(spisOf(ofNews)), set(spisOf(ofSports))); spi != "" {
			t.Errorf("both senders used SPI %s", spi)
		}
	})
	t.Run("two_flows_one_association", func(t *testing.T) {
		to := map[string]map[string]bool{"232.1.2.4": {}, "232.1.2.5": {}}
		for _, p := range from(packets, studio.Addr()) {
			if spis := to[p.Destination.String()]; spis != nil {
				spis[p.spi] = true
			}
		}
		both := 0
		for spi := range to["232.1.2.4"] {
			if to["232.1.2.5"][spi] {
				both++
			}
		}
		// The first and the last key may have been met by one flow alone.
		if both < 2 || both+2 < len(to["232.1.2.4"]) {
			t.Errorf("of %d and %d SPIs the flows share %d", len(to["232.1.2.4"]), len(to["232.1.2.5"]), both)
		}
		for _, sa := range held.SAs {
			if sa.Title == "Film" && len(sa.Destinations) != 2 {
				t.Errorf("association %s of Film is for %v, want both groups", sa.SPI, sa.Destinations)
			}
		}
	})
}

// TestSendOneReceiveAnother: two hosts, each sends one event and receives the
// other's, at once.
func TestSendOneReceiveAnother(t *testing.T) {
	w := newWorld(t)
	left, right := w.station("left", "10.77.0.2"), w.station("right", "10.77.0.3")
	third := w.station("third", "10.77.0.4")
	w.add(event{title: "There", sender: left, flows: []string{"udp/232.1.2.3/5004"}})
	w.add(event{title: "Back", sender: right, flows: []string{"udp/232.1.2.4/5004"}})
	wire := w.sniffBridge()
	left.join("There", "Back")
	right.join("There", "Back")
	atRight, atLeft := right.plays(left, "232.1.2.3:5004"), left.plays(right, "232.1.2.4:5004")
	there, back := left.sends('t', 200, "232.1.2.3:5004"), right.sends('b', 200, "232.1.2.4:5004")
	atRight.awaits(t, 't', 0)
	atLeft.awaits(t, 'b', 0)
	atRight.awaitsMore(t, there, 600)
	atLeft.awaitsMore(t, back, 600)
	atRight.awaits(t, 't', there.halt(t)-1)
	atLeft.awaits(t, 'b', back.halt(t)-1)
	packets := stopped(t, wire, "")

	t.Run("both_play", func(t *testing.T) {
		atRight.unbroken(t, 't')
		atLeft.unbroken(t, 'b')
		for _, s := range []*station{left, right} {
			if n := changes(from(packets, s.Addr())); n < 1 {
				t.Errorf("%s: the SPI changed %d times", s.Name(), n)
			}
			if c := s.status().Traffic; c.OutPackets < 600 || c.InPackets < 600 {
				t.Errorf("%s: %d out, %d in", s.Name(), c.OutPackets, c.InPackets)
			}
		}
	})
	t.Run("roles", func(t *testing.T) {
		for _, want := range []struct {
			s           *station
			there, back string
		}{{left, "send", "receive"}, {right, "receive", "send"}, {third, "receive", "receive"}} {
			events := want.s.on(t).eventsOnceHeld(t, "There", "Back")
			if got := events.event("There").Role; got != want.there {
				t.Errorf("%s: role in There is %q, want %q", want.s.Name(), got, want.there)
			}
			if got := events.event("Back").Role; got != want.back {
				t.Errorf("%s: role in Back is %q, want %q", want.s.Name(), got, want.back)
			}
		}
	})
}
