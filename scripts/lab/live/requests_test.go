package live

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestRequestsOnTheWire: one capture of all that passes the switch, packets of the
// stream and requests for keys in the order in which they were seen. Whoever takes
// part opens the connection, and asks once in the life of each key for the next one.
func TestRequestsOnTheWire(t *testing.T) {
	w := newWorld(t)
	studio := w.station("studio", "10.77.0.2")
	viewer, second := w.station("viewer", "10.77.0.11"), w.station("second", "10.77.0.12")
	stations := []*station{studio, viewer, second}
	w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}})
	wire := w.sniffAll("udp port 4500 or tcp port 7441")
	for _, s := range stations {
		s.join("News")
	}
	player := viewer.plays(studio, "232.1.2.3:5004")
	sends := studio.sends('n', 200, "232.1.2.3:5004")
	player.awaits(t, 'n', 0)
	player.awaitsMore(t, sends, 8*400) // eight intervals
	player.awaits(t, 'n', sends.halt(t)-1)
	if err := wire.Stop(); err != nil {
		t.Fatal(err)
	}
	seen := readOrder(t, wire.File())

	t.Run("clients_open_the_link", func(t *testing.T) {
		for _, s := range stations {
			first := slices.IndexFunc(seen, func(p passing) bool {
				return p.source == s.Addr().String() && p.spi == "" || p.destination == s.Addr().String()
			})
			if first < 0 || !seen[first].opens || seen[first].source != s.Addr().String() {
				t.Errorf("%s: the first packet is not its own", s.Name())
			}
		}
		if i := slices.IndexFunc(seen, func(p passing) bool { return p.opens && p.source == serverAddress }); i >= 0 {
			t.Errorf("the server opens a connection to %s", seen[i].destination)
		}
	})
	t.Run("one_in_each_interval", func(t *testing.T) {
		player.unbroken(t, 'n')
		regular := 0
		for _, s := range stations {
			// What lies between two changes of SPI is an interval.
			counts, spi := []int{}, ""
			for _, p := range seen {
				switch {
				case p.spi != "" && p.spi != spi:
					counts, spi = append(counts, 0), p.spi
				case p.asks && p.source == s.Addr().String() && len(counts) > 0:
					counts[len(counts)-1]++
				}
			}
			if len(counts) < 7 {
				t.Fatalf("%d intervals", len(counts))
			}
			counts = counts[1 : len(counts)-1] // the whole ones
			if !slices.Contains(counts, 0) {
				regular++
			}
			total := 0
			for _, n := range counts {
				total += n
			}
			if total < len(counts)-1 {
				t.Errorf("%s: %v requests in the intervals", s.Name(), counts)
			}
		}
		// One that drew the very instant of the change may fall to either side.
		if regular < len(stations)-1 {
			t.Errorf("%d of %d ask in every interval", regular, len(stations))
		}
	})
}

// passing is a packet of a capture of both.
type passing struct {
	source, destination string
	spi                 string // of a packet of the stream
	opens               bool   // it asks for a connection
	asks                bool   // it carries data to the key server
}

// readOrder reads a capture of streams and requests.
func readOrder(t *testing.T, file string) []passing {
	t.Helper()
	args := []string{"-r", file, "-d", "tcp.port==7441,tls", "-T", "fields", "-E", "separator=;", "-E", "occurrence=a",
		"--disable-protocol", "esp", "--disable-protocol", "udpencap"}
	for _, field := range []string{"ip.src", "ip.dst", "udp.payload", "tcp.flags", "tcp.dstport", "tls.record.opaque_type"} {
		args = append(args, "-e", field)
	}
	out, err := exec.CommandContext(t.Context(), "tshark", args...).Output()
	if err != nil {
		t.Fatalf("tshark -r %s: %v", file, err)
	}
	var list []passing
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ";")
		if len(f) != 6 {
			t.Fatalf("tshark -r %s: %q", file, line)
		}
		p := passing{source: f[0], destination: f[1]}
		if len(f[2]) >= 8 {
			p.spi = f[2][:8]
		}
		const syn, ack = 0x002, 0x010
		var flags int
		if f[3] != "" {
			if _, err := fmt.Sscanf(f[3], "0x%x", &flags); err != nil {
				t.Fatalf("flags %q: %v", f[3], err)
			}
		}
		p.opens = flags&(syn|ack) == syn
		p.asks = f[4] == "7441" && slices.Contains(strings.Split(f[5], ","), "23")
		list = append(list, p)
	}
	return list
}
