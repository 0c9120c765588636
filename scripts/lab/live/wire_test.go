package live

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"usher/scripts/lab"
	"usher/scripts/lab/stream"
)

// ciphertext is a protected packet on the wire.
type ciphertext struct {
	stream.Datagram
	spi string // as the commands print it
}

// seen reads the ESP packets of a capture, and fails where it holds anything that
// a program said in the clear.
func seen(t *testing.T, c *lab.Capture, filter string) []ciphertext {
	t.Helper()
	noCleartext(t, c.File())
	display := fmt.Sprintf("udp.dstport == %d && ip.dst >= 224.0.0.0", espPort)
	if filter != "" {
		display += " && " + filter
	}
	datagrams, err := stream.ReadCapture(t.Context(), c.File(), display)
	if err != nil {
		t.Fatal(err)
	}
	packets := make([]ciphertext, 0, len(datagrams))
	for _, d := range datagrams {
		if len(d.Payload) < 8 {
			t.Errorf("%s: %d bytes to the ESP port", c.File(), len(d.Payload))
			continue
		}
		packets = append(packets, ciphertext{Datagram: d, spi: spiText(d.Payload)})
	}
	return packets
}

// stopped ends a capture, which must have lost nothing, and reads it.
func stopped(t *testing.T, c *lab.Capture, filter string) []ciphertext {
	t.Helper()
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	return seen(t, c, filter)
}

// spisOf are the SPIs of packets in the order in which they first came.
func spisOf(packets []ciphertext) []string {
	var order []string
	known := map[string]bool{}
	for _, p := range packets {
		if !known[p.spi] {
			known[p.spi] = true
			order = append(order, p.spi)
		}
	}
	return order
}

// changes counts how often the SPI changed from one packet to the next.
func changes(packets []ciphertext) int {
	n := 0
	for i := 1; i < len(packets); i++ {
		if packets[i].spi != packets[i-1].spi {
			n++
		}
	}
	return n
}

// from are the packets of one source address.
func from(packets []ciphertext, source netip.Addr) []ciphertext {
	var out []ciphertext
	for _, p := range packets {
		if p.Source == source {
			out = append(out, p)
		}
	}
	return out
}

// overlap returns a member of both sets, "" if there is none.
func overlap(a, b map[string]bool) string {
	for one := range a {
		if b[one] {
			return one
		}
	}
	return ""
}

// set makes a set of SPIs.
func set(spis []string) map[string]bool {
	out := map[string]bool{}
	for _, spi := range spis {
		out[spi] = true
	}
	return out
}

// noCleartext fails where a capture holds anything that a program said.
func noCleartext(t *testing.T, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, mark) {
		t.Errorf("%s holds cleartext", file)
	}
}
