package live

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAfterTheEnd: an event ends while the application sends on, and another one
// is left while it runs. Keys and associations go, the group is left, nothing of
// what is sent reaches the wire, and nobody asks for a key any more.
func TestAfterTheEnd(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.station("studio", "10.77.0.2"), w.station("viewer", "10.77.0.11")
	late := w.station("late", "10.77.0.12")
	w.add(event{title: "Short", sender: studio, flows: []string{"udp/232.1.2.3/5004"}, lasts: 4 * time.Second, interval: time.Second})
	w.add(event{title: "Long", sender: studio, flows: []string{"udp/232.1.2.4/5004"}, interval: time.Second})
	wire := w.sniffBridge()
	requests := w.sniff(w.server, "eth0", "tcp", "dst", "port", "7441")
	studio.join("Short", "Long")
	viewer.join("Short", "Long")
	short, long := viewer.plays(studio, "232.1.2.3:5004"), viewer.plays(studio, "232.1.2.4:5004")
	sendsShort, sendsLong := studio.sends('s', 100, "232.1.2.3:5004"), studio.sends('l', 100, "232.1.2.4:5004")
	short.awaits(t, 's', 0)
	long.awaits(t, 'l', 0)

	t.Run("end", func(t *testing.T) {
		studio, viewer, late := studio.on(t), viewer.on(t), late.on(t)
		for _, s := range []*station{studio, viewer} {
			if len(s.sas().spis("Short")) == 0 {
				t.Errorf("%s: usher sa lists no association of the running event", s.Name())
			}
		}
		for _, s := range []*station{studio, viewer} {
			eventually(t, "the associations' end on "+s.Name(), func() error {
				if held := s.sas().spis("Short"); len(held) > 0 {
					return fmt.Errorf("there are %v", held)
				}
				if e := s.events().event("Short"); e.State != "ended" {
					return fmt.Errorf("it is %s: %s", e.State, e.Detail)
				}
				return nil
			})
		}
		packets := toGroup(seen(t, wire, ""), "232.1.2.3")
		before := studio.status().dropped("no_sa")
		mark := sendsShort.sent.Load()
		eventually(t, "sent in vain", func() error {
			if sendsShort.sent.Load() < mark+100 {
				return fmt.Errorf("%d", sendsShort.sent.Load())
			}
			return nil
		})
		if after := studio.status().dropped("no_sa"); after < before+100 {
			t.Errorf("no_sa went from %d to %d while 100 datagrams were sent", before, after)
		}
		if more := toGroup(seen(t, wire, ""), "232.1.2.3"); len(more) != len(packets) || len(packets) == 0 {
			t.Errorf("after the end %d packets became %d", len(packets), len(more))
		}
		if n := changes(packets); n < 2 {
			t.Errorf("the SPI changed %d times, want 2 or more", n)
		}
		late.fails("ended", nil, "Short")
	})
	t.Run("group_left", func(t *testing.T) {
		leftGroup(t, viewer.on(t), "232.1.2.3")
		onlyReceives(t, viewer.on(t), "232.1.2.4")
	})
	t.Run("leave", func(t *testing.T) {
		s := viewer.on(t)
		s.must("leave", "Long")
		if held := s.sas().spis("Long"); len(held) > 0 {
			t.Errorf("right after usher leave there are %v", held)
		}
		if e := s.events().event("Long"); e.Joined || e.State != "not_joined" {
			t.Errorf("after usher leave it is %+v", e)
		}
		asked := countRequests(t, requests.File(), s)
		if asked == 0 {
			t.Error("it never asked for a key")
		}
		heard := len(long.heard('l'))
		leftGroup(t, s, "232.1.2.4")
		// Three intervals, by the sender's changes of keys.
		sent := sendsLong.sent.Load()
		eventually(t, "three intervals", func() error {
			if now := sendsLong.sent.Load(); now < sent+400 {
				return fmt.Errorf("%d datagrams", now-sent)
			}
			return nil
		})
		if n := countRequests(t, requests.File(), s); n != asked {
			t.Errorf("after usher leave it sent %d requests to the key server", n-asked)
		}
		if n := len(long.heard('l')); n > heard {
			t.Errorf("%d datagrams were played after usher leave", n-heard)
		}
	})
	sendsShort.halt(t)
	sendsLong.halt(t)
	if err := requests.Stop(); err != nil {
		t.Error(err)
	}
	// The one that was not left went on under new keys all the time.
	packets := stopped(t, wire, "")
	if n := changes(toGroup(packets, "232.1.2.4")); n < 6 {
		t.Errorf("the SPI of the long event changed %d times, want 6 or more", n)
	}
	short.unbroken(t, 's')
	long.unbroken(t, 'l')
}

// toGroup are the packets to one group.
func toGroup(packets []ciphertext, group string) []ciphertext {
	return slices.DeleteFunc(slices.Clone(packets), func(p ciphertext) bool { return p.Destination.String() != group })
}

// countRequests counts the packets with data that a host sent to the key server.
func countRequests(t *testing.T, file string, s *station) int {
	t.Helper()
	filter := fmt.Sprintf("ip.src == %s && tcp.dstport == 7441 && tls.record.content_type == 23", s.Addr())
	out, err := exec.CommandContext(t.Context(), "tshark", "-r", file, "-d", "tcp.port==7441,tls", "-Y", filter).Output()
	if err != nil {
		t.Fatalf("tshark -r %s: %v", file, err)
	}
	return bytes.Count(out, []byte{'\n'})
}

// leftGroup waits until the switch sends a group no longer to a host. Programs on
// the host may still be joined: they are so on usher0.
func leftGroup(t *testing.T, s *station, group string) {
	t.Helper()
	eventually(t, s.Name()+" leaves "+group, func() error {
		if line := forwarded(t, s, group); line != "" {
			return fmt.Errorf("the switch has %q", line)
		}
		return nil
	})
}

// onlyReceives checks that the switch still sends a group to a host.
func onlyReceives(t *testing.T, s *station, group string) {
	t.Helper()
	if forwarded(t, s, group) == "" {
		t.Errorf("the switch does not send %s to %s any more", group, s.Name())
	}
}

// forwarded is the line of the switch's table by which a host gets a group.
func forwarded(t *testing.T, s *station, group string) string {
	t.Helper()
	for _, line := range groupLines(t, s, group) {
		return line
	}
	return ""
}

// groupLines are all lines of the switch's table on a host and a group.
func groupLines(t *testing.T, s *station, group string) []string {
	t.Helper()
	table, err := s.world.lab.Switch().Run(t.Context(), "bridge", "mdb", "show")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(table) {
		if strings.Contains(line, "port "+s.Port("eth0")+" ") && strings.Contains(line, "grp "+group+" ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}
