package packet_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"usher/tunnel/packet"
)

// messages are such as Linux writes into a TUN, and queries, each with its checksum.
var messages = []struct {
	name, octets string
	want         packet.IGMPMessage
}{
	{"any source joined", "2200 e8f9 0000 0001 04000000 ef010203",
		report(packet.ChangeToExclude, "239.1.2.3")},
	{"any source left", "2200 e9f9 0000 0001 03000000 ef010203",
		report(packet.ChangeToInclude, "239.1.2.3")},
	{"one source joined", "2200 2cf1 0000 0001 05000001 e8010203 c0000207",
		report(packet.AllowNewSources, "232.1.2.3", "192.0.2.7")},
	{"one source left", "2200 2bf1 0000 0001 06000001 e8010203 c0000207",
		report(packet.BlockOldSources, "232.1.2.3", "192.0.2.7")},
	{"answer to a query", "2200 eaf3 0000 0001 02000000 ef010209",
		report(packet.IsExclude, "239.1.2.9")},
	{"v2 report", "1600 f8fa ef010203", packet.IGMPMessage{Type: packet.IGMPv2Report, Group: netip.MustParseAddr("239.1.2.3")}},
	{"v2 leave", "1700 f7fa ef010203", packet.IGMPMessage{Type: packet.IGMPv2Leave, Group: netip.MustParseAddr("239.1.2.3")}},
	{"v1 report", "1200 fcfa ef010203", packet.IGMPMessage{Type: packet.IGMPv1Report, Group: netip.MustParseAddr("239.1.2.3")}},
	{"v1 query", "1100 eeff 00000000", packet.IGMPMessage{Type: packet.IGMPQuery, Group: netip.IPv4Unspecified(), Version: 1}},
	{"v2 query", "1164 ee9b 00000000", packet.IGMPMessage{Type: packet.IGMPQuery, Group: netip.IPv4Unspecified(), Version: 2, MaxResponse: 100}},
	{"v3 query", "110a ec78 00000000 027d0000", packet.IGMPMessage{Type: packet.IGMPQuery, Group: netip.IPv4Unspecified(), Version: 3, MaxResponse: 10, Flags: 2, Interval: 125}},
}

func report(kind packet.RecordType, group string, sources ...string) packet.IGMPMessage {
	r := packet.GroupRecord{Type: kind, Group: netip.MustParseAddr(group)}
	for _, s := range sources {
		r.Sources = append(r.Sources, netip.MustParseAddr(s))
	}
	return packet.IGMPMessage{Type: packet.IGMPv3Report, Records: []packet.GroupRecord{r}}
}

// octets decodes a sample; the checksum is set right where fix is true.
func octets(t testing.TB, s string, fix bool) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	if fix && len(b) >= 4 {
		b[2], b[3] = 0, 0
		binary.BigEndian.PutUint16(b[2:], ^words(b, 0))
	}
	return b
}

func TestIGMP(t *testing.T) {
	for _, c := range messages {
		b := octets(t, c.octets, false)
		got, err := packet.ParseIGMP(b)
		if err != nil || !got.Equal(&c.want) {
			t.Errorf("%s: got %+v, %v, want %+v", c.name, got, err, c.want)
			continue
		}
		if back, err := got.Encode(); err != nil || !bytes.Equal(back, b) {
			t.Errorf("%s: encoded as %x, %v, want %x", c.name, back, err, b)
		}
		b[len(b)-1] ^= 1
		if m, err := packet.ParseIGMP(b); m != nil || !errors.Is(err, packet.ErrIGMPChecksum) {
			t.Errorf("%s, damaged: %+v, %v", c.name, m, err)
		}
	}
}

// TestIGMPIgnores: auxiliary data, and what comes behind the last record.
func TestIGMPIgnores(t *testing.T) {
	got, err := packet.ParseIGMP(octets(t, "2200 0000 0000 0002"+
		"0502 0001 e8010203 c0000207 aaaaaaaa bbbbbbbb"+
		"0400 0000 ef010203"+"ffff", true))
	want := report(packet.AllowNewSources, "232.1.2.3", "192.0.2.7")
	want.Records = append(want.Records, packet.GroupRecord{Type: packet.ChangeToExclude, Group: netip.MustParseAddr("239.1.2.3")})
	if err != nil || !got.Equal(&want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestIGMPRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":              "",
		"short":                "16000000ef0102",
		"unknown type":         "13000000ef010203",
		"query of 11 bytes":    "11000000 00000000 000000",
		"query lacks a source": "11000000 00000000 027d0001",
		"more records":         "22000000 00000002 04000000ef010203",
		"record lacks sources": "22000000 00000001 05000002e8010203c0000207",
		"record lacks aux":     "22000000 00000001 05010001e8010203c0000207",
		"65535 records":        "22000000 0000ffff 04000000ef010203",
		"65535 sources":        "22000000 00000001 0500ffffe8010203c0000207",
	} {
		if m, err := packet.ParseIGMP(octets(t, s, true)); m != nil || !errors.Is(err, packet.ErrIGMP) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	six := netip.MustParseAddr("ff02::1")
	for name, m := range map[string]packet.IGMPMessage{
		"no type":                  {},
		"no group":                 {Type: packet.IGMPv2Report},
		"IPv6 group":               {Type: packet.IGMPv2Leave, Group: six},
		"IPv6 in a record":         {Type: packet.IGMPv3Report, Records: []packet.GroupRecord{{Group: six}}},
		"query of no version":      {Type: packet.IGMPQuery, Group: netip.IPv4Unspecified()},
		"v1 query with a code":     {Type: packet.IGMPQuery, Version: 1, MaxResponse: 1, Group: netip.IPv4Unspecified()},
		"v2 query with a source":   {Type: packet.IGMPQuery, Version: 2, MaxResponse: 1, Group: netip.IPv4Unspecified(), Sources: []netip.Addr{netip.IPv4Unspecified()}},
		"flags that are too large": {Type: packet.IGMPQuery, Version: 3, Flags: 16, Group: netip.IPv4Unspecified()},
	} {
		if b, err := m.Encode(); b != nil || !errors.Is(err, packet.ErrIGMP) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
}

// FuzzIGMP: what was parsed is the same after it was encoded and parsed again.
// The checksum is made right first, else nothing would come through.
func FuzzIGMP(f *testing.F) {
	seeds := 0
	for _, c := range messages {
		b := octets(f, c.octets, false)
		for n := range len(b) + 1 {
			f.Add(b[:n])
			seeds++
		}
	}
	f.Add(octets(f, "2200 0000 0000 0002 0502 0001 e8010203 c0000207 aaaaaaaa bbbbbbbb 0400 0000 ef010203 ffff", true))
	if seeds < 100 {
		f.Fatalf("%d seeds: the corpus is gone", seeds)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		if len(b) >= 4 {
			b[2], b[3] = 0, 0
			binary.BigEndian.PutUint16(b[2:], ^words(b, 0))
		}
		m, err := packet.ParseIGMP(b)
		if err != nil {
			if m != nil {
				t.Fatalf("%v with %+v", err, m)
			}
			return
		}
		back, err := m.Encode()
		if err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		if len(back) > len(b) {
			t.Fatalf("%x became %x", b, back)
		}
		again, err := packet.ParseIGMP(back)
		if err != nil || !again.Equal(m) {
			t.Fatalf("%x: %+v became %+v, %v", b, m, again, err)
		}
	})
}
