package sa_test

import (
	"bytes"
	"net/netip"
	"testing"

	"usher/sa"
	"usher/sa/esp"
)

const second = int64(1e9)

var (
	sender = netip.MustParseAddr("192.0.2.10")
	group  = netip.MustParseAddr("232.1.2.3")
	viewer = netip.MustParseAddr("192.0.2.20")
)

// stream is a packet of the event that the tests use.
var stream = sa.Tuple{Source: sender, Destination: group, Protocol: 17, SourcePort: 40000, DestinationPort: 5004, HasPorts: true}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// eventPolicy protects the packets that stream is one of.
func eventPolicy() sa.Policy {
	return sa.Policy{
		Name: "event", Title: "An event", Association: "event",
		Selector: sa.Selector{Source: host(sender), Destination: host(group), Protocol: 17, DestinationPorts: sa.Port(5004)},
	}
}

func material(fill byte) []byte { return bytes.Repeat([]byte{fill}, esp.MaterialLen) }

// params are those of interval i of the event, both directions, without bounds.
func params(i uint32) sa.Params {
	return sa.Params{
		Association: "event", SPI: 0xabcd00 + i + 256, Destinations: []netip.Addr{group},
		Transform: esp.AES256GCM, Material: material(byte(i)), SenderID: 5, Interval: i,
	}
}

func newSA(t testing.TB, p sa.Params) *sa.SA {
	t.Helper()
	s, err := sa.NewSA(p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func install(t testing.TB, db *sa.DB, p sa.Params) *sa.SA {
	t.Helper()
	s := newSA(t, p)
	if err := db.Install(s); err != nil {
		t.Fatal(err)
	}
	return s
}

func setPolicies(t testing.TB, db *sa.DB, o sa.Origin, p ...sa.Policy) {
	t.Helper()
	if err := db.SetPolicies(o, p); err != nil {
		t.Fatal(err)
	}
}

// seal makes a packet with numbers of one's own choice, as another sender would.
func seal(t testing.TB, s *sa.SA, seq uint32, iv uint64) []byte {
	t.Helper()
	packet := s.Seal(make([]byte, 256), 40, seq, iv, esp.NextIPv4)
	if packet == nil {
		t.Fatal("Seal returned nil")
	}
	return packet
}
