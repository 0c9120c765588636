package live

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/scripts/lab"
	"usher/scripts/lab/stream"
)

// TestWalkOfOnePacket: a program that sends and programs that play run on hosts
// without Usher, and run on as they are once it is there. Then one datagram is
// followed from the one to the others, by captures on its way: it is the walk that
// the README describes.
func TestWalkOfOnePacket(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.host("studio", "10.77.0.2"), w.host("viewer", "10.77.0.11")
	second, other := w.host("second", "10.77.0.12"), w.host("other", "10.77.0.13")
	for _, s := range []*station{studio, viewer, second} {
		s.shell("ip", "route", "add", "default", "dev", "eth0")
	}
	const text = "232.1.2.3:5004"
	to := netip.MustParseAddrPort(text)
	program := studio.socket()
	t.Cleanup(func() { program.Close() })
	sent := uint32(0)
	send := func(t *testing.T, players ...*player) {
		t.Helper()
		if _, err := program.WriteToUDPAddrPort(datagram('w', sent), to); err != nil {
			t.Fatalf("datagram %d: %v", sent, err)
		}
		sent++
		for _, p := range players {
			p.awaits(t, 'w', sent-1)
		}
	}
	atViewer, atSecond := viewer.plays(studio, text), second.plays(studio, text)
	asked := func(s *station) []string { return groupLines(t, s, "232.1.2.3") }
	eventually(t, "the players' groups at the switch", func() error {
		if len(asked(viewer)) == 0 || len(asked(second)) == 0 {
			return fmt.Errorf("%q, %q", asked(viewer), asked(second))
		}
		return nil
	})
	for range 20 {
		send(t, atViewer, atSecond)
	}
	groups, path := asked(viewer), studio.shell("ip", "route", "get", serverAddress)
	without := atViewer.counts()

	for _, s := range []*station{studio, viewer, second} {
		w.client(s.Name())
		s.start()
		s.login()
	}
	// One key for all of it.
	id := w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}, interval: time.Minute})
	for _, s := range []*station{studio, viewer, second} {
		s.join("News")
	}
	// Before the start nothing is sent, whatever keys there are; and the sender may
	// begin as late as its tolerance.
	eventually(t, "the event's start", func() error {
		if start := studio.events().event("News").Start; start == nil || time.Since(*start) < time.Second {
			return fmt.Errorf("starts at %v", start)
		}
		return nil
	})

	t.Run("same_programs", func(t *testing.T) {
		for range 20 {
			send(t, atViewer, atSecond)
		}
		atViewer.unbroken(t, 'w')
		atSecond.unbroken(t, 'w')
		with := atViewer.counts()
		if len(without) != 1 || !slices.Equal(slices.Collect(maps.Keys(without)), slices.Collect(maps.Keys(with))) {
			t.Errorf("the player saw datagrams from %v, with Usher from %v", without, with)
		}
	})
	t.Run("switch_and_routes", func(t *testing.T) {
		if now := asked(viewer); !slices.Equal(now, groups) || !strings.Contains(strings.Join(now, " "), studio.Addr().String()) {
			t.Errorf("the switch's table had %q, and has %q: want the same, with group and source", groups, now)
		}
		if now := studio.shell("ip", "route", "get", serverAddress); now != path {
			t.Errorf("the path to another host was %q, and is %q", path, now)
		}
	})
	t.Run("one_packet", func(t *testing.T) {
		points := map[string]*lab.Capture{}
		for name, at := range map[string]struct {
			host  *lab.Host
			iface string
		}{
			"sender's tunnel": {studio.Host, "usher0"}, "sender's wire": {studio.Host, "eth0"}, "switch": {w.lab.Switch(), lab.DefaultBridge},
			"viewer's wire": {viewer.Host, "eth0"}, "viewer's tunnel": {viewer.Host, "usher0"}, "second's wire": {second.Host, "eth0"}, "other's wire": {other.Host, "eth0"},
		} {
			points[name] = w.sniff(at.host, at.iface, "udp")
		}
		out, in := studio.on(t).status().Traffic, viewer.on(t).status().Traffic
		send(t, atViewer, atSecond)
		seen := map[string]stream.Datagram{}
		for name, c := range points {
			if err := c.Stop(); err != nil {
				t.Fatal(err)
			}
			packets, err := stream.ReadCapture(t.Context(), c.File(), "udp && ip.dst == "+to.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			want := 1
			if name == "other's wire" {
				want = 0
			}
			if len(packets) != want {
				t.Fatalf("%s: %d packets to the group, want %d", name, len(packets), want)
			}
			if want > 0 {
				seen[name] = packets[0]
			}
		}
		plain, cipher := datagram('w', sent-1), seen["sender's wire"].Payload
		for name, p := range seen {
			inside := strings.HasSuffix(name, "tunnel")
			port, payload := uint16(espPort), cipher
			if inside {
				port, payload = to.Port(), plain
			}
			if p.Source != studio.Addr() || p.Destination != to.Addr() || p.Port != port || !bytes.Equal(p.Payload, payload) {
				t.Errorf("%s: from %s to %s port %d, %d bytes: %x", name, p.Source, p.Destination, p.Port, len(p.Payload), p.Payload)
			}
		}
		if bytes.Contains(cipher, mark) {
			t.Error("cleartext on the wire")
		}
		// It went by the association that the commands show, and was counted.
		if spi := spiText(cipher); !studio.on(t).sas().spis("News")[spi] || !viewer.on(t).sas().spis("News")[spi] {
			t.Errorf("it is under SPI %s, which usher sa does not list", spi)
		}
		if now := studio.on(t).status().Traffic; now.OutPackets != out.OutPackets+1 {
			t.Errorf("the sender counts %d packets, before it were %d", now.OutPackets, out.OutPackets)
		}
		if now := viewer.on(t).status().Traffic; now.InPackets != in.InPackets+1 {
			t.Errorf("the viewer counts %d packets, before it were %d", now.InPackets, in.InPackets)
		}
	})
	t.Run("kernel_without_ipsec", func(t *testing.T) {
		for _, s := range []*station{studio, viewer} {
			for _, what := range []string{"state", "policy"} {
				// A kernel that has none of it gives an error: just as well.
				if text, err := s.Run(t.Context(), "ip", "xfrm", what); err == nil && text != "" {
					t.Errorf("%s: the kernel's IPsec has a %s: %s", s.Name(), what, text)
				}
			}
		}
	})
	t.Run("another_makers_program", func(t *testing.T) {
		s := viewer.on(t)
		list := overSocket[eventsAnswer](t, s, "/v1/events")
		if want := s.events(); !reflect.DeepEqual(list, want) {
			t.Errorf("by the socket %+v, by the command %+v", list, want)
		}
		e := list.event("News")
		if e == nil || e.ID != id || e.Start == nil || !slices.Equal(e.Senders, []string{studio.Addr().String()}) || len(e.Flows) != 1 ||
			e.Flows[0].Destination != to.Addr().String() || e.Flows[0].Ports != "5004" || !slices.Equal(e.KeyServers, []string{"https://" + serverAddress + ":7441"}) {
			t.Errorf("the event is %+v", e)
		}
	})
	t.Run("sender_leaves", func(t *testing.T) {
		s := studio.on(t)
		sends := s.sends('l', 200, text)
		atViewer.awaits(t, 'l', 100)
		s.must("leave", "News")
		wire := w.sniffBridge()
		before, from := s.status().dropped("no_sa"), sends.sent.Load()
		eventually(t, "sent in vain", func() error {
			if n := sends.sent.Load(); n < from+100 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		sends.halt(t)
		if packets := stopped(t, wire, ""); len(packets) > 0 {
			t.Errorf("%d packets left after usher leave", len(packets))
		}
		if now := s.status().dropped("no_sa"); now < before+100 {
			t.Errorf("no_sa went from %d to %d while 100 datagrams were sent", before, now)
		}
		if len(s.sas().SAs) > 0 {
			t.Errorf("usher sa lists %+v", s.sas().SAs)
		}
	})
}

// counts is how many datagrams a player got from whom.
func (p *player) counts() map[netip.AddrPort]uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.senders)
}

// overSocket asks a host's agent by its socket, as a program does that knows
// nothing of Usher but the socket's path and HTTP.
func overSocket[T any](t *testing.T, s *station, path string) *T {
	t.Helper()
	socket := s.Path("/run/usher/agent.sock")
	client := http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://usher" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	v := new(T)
	if err := json.NewDecoder(answer.Body).Decode(v); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", path, answer.Status, err)
	}
	return v
}
