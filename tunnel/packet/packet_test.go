package packet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"usher/tunnel/packet"
)

// words is the ones' complement sum, one word after the other.
func words(b []byte, sum uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// ipv4 makes a packet with a right header checksum.
func ipv4(protocol byte, transport []byte) []byte {
	b := make([]byte, 20+len(transport))
	b[0], b[1], b[8], b[9] = 0x45, 0x2e, 8, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[4:], 0xfffe)
	copy(b[12:], []byte{10, 1, 0, 1, 232, 1, 2, 3})
	copy(b[20:], transport)
	binary.BigEndian.PutUint16(b[10:], ^words(b[:20], 0))
	return b
}

func udp(payload int) []byte {
	b := make([]byte, 8+payload)
	copy(b, []byte{0x9c, 0x40, 0x13, 0x8c})
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	for i := range payload {
		b[8+i] = byte(i*31 + i>>8)
	}
	return b
}

func tcp(payload int) []byte {
	b := make([]byte, 32+payload)
	copy(b, []byte{0x9c, 0x40, 0x13, 0x8c, 0xff, 0xff, 0xff, 0x00})
	b[12], b[13] = 8<<4, 0x80|0x10|0x08|0x01 // with options; CWR, ACK, PSH, FIN
	for i := range payload {
		b[32+i] = byte(i * 13)
	}
	return b
}

func transportOK(b []byte) bool {
	header := int(b[0]&15) * 4
	pseudo := uint32(words(b[12:20], 0)) + uint32(b[9]) + uint32(len(b)-header)
	return words(b[header:], pseudo) == 0xffff
}

func TestParse(t *testing.T) {
	var info packet.Info
	if err := packet.Parse(append(ipv4(17, udp(100)), 1, 2, 3), &info); err != nil {
		t.Fatal(err)
	}
	want := packet.Info{
		Source: netip.MustParseAddr("10.1.0.1"), Destination: netip.MustParseAddr("232.1.2.3"),
		SourcePort: 40000, DestinationPort: 5004, HasPorts: true,
		Protocol: 17, Version: 4, TOS: 0x2e, TTL: 8, HeaderLen: 20, Length: 128,
	}
	if info != want {
		t.Errorf("%+v, not %+v", info, want)
	}
	if err := packet.Parse(ipv4(1, []byte{8, 0, 0, 0}), &info); err != nil || info.HasPorts {
		t.Errorf("ICMP: %+v, %v", info, err)
	}
	v6 := make([]byte, 48)
	copy(v6, []byte{0x6b, 0x80, 0, 0, 0, 8, 17, 3})
	v6[23], v6[24] = 1, 0xff
	copy(v6[40:], []byte{0x9c, 0x40, 0x13, 0x8c, 0, 8})
	if err := packet.Parse(v6, &info); err != nil || info.Version != 6 || info.TOS != 0xb8 || info.TTL != 3 || info.DestinationPort != 5004 || info.Length != 48 {
		t.Errorf("IPv6: %+v, %v", info, err)
	}
}

// Selector data that makes no selector is told as such, at every length.
func TestParseMalformed(t *testing.T) {
	edit := func(b []byte, f func([]byte)) []byte { f(b); return b }
	for name, b := range map[string][]byte{
		"header shorter than a header":  edit(ipv4(17, udp(10)), func(b []byte) { b[0] = 0x44 }),
		"header longer than the packet": edit(ipv4(17, udp(10)), func(b []byte) { b[0] = 0x4f }),
		"length smaller than header":    edit(ipv4(17, udp(10)), func(b []byte) { b[2], b[3] = 0, 19 }),
		"length larger than packet":     edit(ipv4(17, udp(10)), func(b []byte) { b[3]++ }),
		"UDP header cut":                ipv4(17, udp(10)[:7]),
		"UDP length below 8":            edit(ipv4(17, udp(10)), func(b []byte) { b[25] = 7 }),
		"UDP length beyond":             edit(ipv4(17, udp(10)), func(b []byte) { b[25]++ }),
		"TCP header cut":                ipv4(6, tcp(0)[:19]),
		"SCTP header cut":               ipv4(132, make([]byte, 11)),
		"fragment beyond the largest":   edit(ipv4(17, udp(100)), func(b []byte) { b[6], b[7] = 0x1f, 0xff }),
		"IPv6 header cut":               append([]byte{0x60}, make([]byte, 38)...),
		"IPv6 length beyond":            append([]byte{0x60, 0, 0, 0, 0, 1}, make([]byte, 34)...),
		"IPv6 options beyond":           append([]byte{0x60, 0, 0, 0, 0, 8, 0, 1}, append(make([]byte, 32), 58, 1, 0, 0, 0, 0, 0, 0)...),
	} {
		var info packet.Info
		if err := packet.Parse(b, &info); !errors.Is(err, packet.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var info packet.Info
	for _, b := range [][]byte{nil, {0}, {0x35}, {0xf0}} {
		if err := packet.Parse(b, &info); !errors.Is(err, packet.ErrNotIP) {
			t.Errorf("%x: %v", b, err)
		}
	}
	whole := ipv4(17, udp(10))
	for n := 1; n < len(whole); n++ {
		if err := packet.Parse(whole[:n], &info); !errors.Is(err, packet.ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestFragments(t *testing.T) {
	var info packet.Info
	first := ipv4(17, udp(100))
	first[6] = 0x20
	binary.BigEndian.PutUint16(first[24:], 4000) // the datagram's length, not the fragment's
	if err := packet.Parse(first, &info); err != nil || !info.Fragment || !info.HasPorts {
		t.Errorf("first: %+v, %v", info, err)
	}
	later := ipv4(17, udp(100))
	later[7] = 50
	if err := packet.Parse(later, &info); err != nil || !info.Fragment || info.HasPorts {
		t.Errorf("later: %+v, %v", info, err)
	}
}

func TestChecksums(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for n := range 300 {
		b := ipv4(17, udp(n))
		for i := 28; i < len(b); i++ {
			b[i] = byte(random.Uint32())
		}
		pseudo := words(nil, uint32(words(b[12:20], 0))+17+uint32(len(b)-20))
		binary.BigEndian.PutUint16(b[26:], pseudo)
		if err := packet.CompleteChecksum(b, 20, 6); err != nil {
			t.Fatal(err)
		}
		if !transportOK(b) {
			t.Fatalf("wrong checksum with %d bytes of payload", n)
		}
		b[1], b[10], b[11] = byte(n), 0xff, 0xff
		if err := packet.SetHeaderChecksum(b, 20); err != nil || words(b[:20], 0) != 0xffff {
			t.Fatalf("wrong header checksum, %v", err)
		}
	}
	// A UDP checksum of 0 would mean that there is none.
	zero := ipv4(17, udp(2))
	sum := uint32(words(zero[12:20], 0)) + 17 + 10
	binary.BigEndian.PutUint16(zero[26:], words(nil, sum))
	binary.BigEndian.PutUint16(zero[28:], ^words(append(bytes.Clone(zero[20:26]), 0, 0), sum))
	if err := packet.CompleteChecksum(zero, 20, 6); err != nil || zero[26] != 0xff || zero[27] != 0xff {
		t.Errorf("a checksum of 0 became %x, %v", zero[26:28], err)
	}
	for _, c := range [][2]int{{-1, 6}, {20, -1}, {20, 100}, {31, 0}, {1000, 0}, {30, 1}} {
		if err := packet.CompleteChecksum(ipv4(17, udp(3)), c[0], c[1]); !errors.Is(err, packet.ErrMalformed) {
			t.Errorf("checksum at %v: %v", c, err)
		}
	}
}

func TestSegments(t *testing.T) {
	for _, c := range []struct {
		name     string
		protocol byte
		super    []byte
		headers  int
		size     int
	}{
		{"udp", 17, udp(5000), 28, 1200},
		{"udp, whole", 17, udp(4800), 28, 1200},
		{"udp, single", 17, udp(10), 28, 1200},
		{"udp, bytes", 17, udp(70), 28, 1},
		{"tcp", 6, tcp(5000), 52, 1388},
	} {
		super := ipv4(c.protocol, c.super)
		var info packet.Info
		if err := packet.Parse(super, &info); err != nil {
			t.Fatal(err)
		}
		var cut packet.Super
		if err := cut.Init(super, &info, c.size); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var joined []byte
		payload := super[c.headers:]
		out := make([]byte, 2000)
		for i := 0; cut.NextLen() > 0; i++ {
			left, n := cut.Remaining(), cut.NextLen()
			if cut.Next(out[:n-1]) != 0 {
				t.Fatalf("%s: a packet in too little room", c.name)
			}
			if got := cut.Next(out); got != n || cut.Remaining() != left-1 {
				t.Fatalf("%s: %d bytes of %d, %d of %d remain", c.name, got, n, cut.Remaining(), left)
			}
			b := out[:n]
			if err := packet.Parse(b, &info); err != nil || info.Length != n {
				t.Fatalf("%s: segment %d: %+v, %v", c.name, i, info, err)
			}
			if words(b[:20], 0) != 0xffff || !transportOK(b) {
				t.Fatalf("%s: segment %d has a wrong checksum", c.name, i)
			}
			if id := binary.BigEndian.Uint16(b[4:]); id != uint16(0xfffe+i) {
				t.Errorf("%s: segment %d has identification %x", c.name, i, id)
			}
			if c.protocol == 6 {
				if seq := binary.BigEndian.Uint32(b[24:]); seq != 0xffffff00+uint32(i*c.size) {
					t.Errorf("sequence number %x of segment %d", seq, i)
				}
				last := left == 1
				if (b[33]&0x09 != 0) != last || (b[33]&0x80 != 0) != (i == 0) {
					t.Errorf("flags %x of segment %d", b[33], i)
				}
			}
			joined = append(joined, b[c.headers:]...)
		}
		if !bytes.Equal(joined, payload) {
			t.Errorf("%s: the payload has changed", c.name)
		}
		if cut.Next(out) != 0 || cut.Remaining() != 0 {
			t.Errorf("%s: something behind the last segment", c.name)
		}
	}
}

func TestSegmentsRefused(t *testing.T) {
	var cut packet.Super
	for name, b := range map[string][]byte{
		"ICMP":                     ipv4(1, make([]byte, 3000)),
		"UDP without payload":      ipv4(17, udp(0)),
		"TCP offset too small":     ipv4(6, append(append(tcp(0)[:12:12], 0x40), make([]byte, 3000)...)),
		"TCP offset beyond packet": ipv4(6, append(append(tcp(0)[:12:12], 0xf0), make([]byte, 20)...)),
	} {
		var info packet.Info
		if err := packet.Parse(b, &info); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := cut.Init(b, &info, 1000); !errors.Is(err, packet.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var info packet.Info
	b := ipv4(17, udp(100))
	if err := packet.Parse(b, &info); err != nil {
		t.Fatal(err)
	}
	if err := cut.Init(b, &info, 0); !errors.Is(err, packet.ErrMalformed) {
		t.Errorf("segments of no size: %v", err)
	}
}

func TestCombineECN(t *testing.T) {
	for tos := range 256 {
		for outer := range 256 {
			b := ipv4(17, udp(4))
			b[1] = byte(tos)
			if err := packet.SetHeaderChecksum(b, 20); err != nil {
				t.Fatal(err)
			}
			if err := packet.CombineECN(b, byte(outer)); err != nil {
				if tos&3 != 0 || outer&3 != 3 {
					t.Fatalf("inner %02x, outer %02x: %v", tos, outer, err)
				}
				continue
			}
			if b[1]>>2 != byte(tos)>>2 || words(b[:20], 0) != 0xffff {
				t.Fatalf("inner %02x, outer %02x: %02x, checksum %x", tos, outer, b[1], b[10:12])
			}
		}
	}
	if err := packet.CombineECN([]byte{0x45, 0}, 0); !errors.Is(err, packet.ErrMalformed) {
		t.Errorf("a short packet: %v", err)
	}
}

func TestNoAllocation(t *testing.T) {
	b := ipv4(17, udp(3000))
	out := make([]byte, 2000)
	var info packet.Info
	var cut packet.Super
	if n := testing.AllocsPerRun(100, func() {
		if packet.Parse(b, &info) != nil || packet.CompleteChecksum(b, 20, 6) != nil || packet.CombineECN(b, 3) != nil || cut.Init(b, &info, 1200) != nil {
			t.Error("refused")
		}
		for cut.Next(out) > 0 {
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse: whatever comes, nothing panics, and what is parsed lies within
// the input. What is cut has the sum of its parts.
func FuzzParse(f *testing.F) {
	seeds := [][]byte{nil, ipv4(17, udp(3000)), ipv4(6, tcp(3000)), ipv4(1, nil), append([]byte{0x60, 0, 0, 0, 0, 8, 0, 1}, append(make([]byte, 32), 58, 0, 0, 0, 0, 0, 0, 0)...)}
	for n := range 60 {
		seeds = append(seeds, ipv4(17, udp(40))[:n])
	}
	for _, s := range seeds {
		f.Add(s, uint16(1200), uint8(20), uint8(6))
	}
	if len(seeds) < 60 {
		f.Fatal("the corpus is gone")
	}
	f.Fuzz(func(t *testing.T, b []byte, size uint16, start, offset uint8) {
		b = bytes.Clone(b)
		var info packet.Info
		err := packet.Parse(b, &info)
		_ = packet.CompleteChecksum(b, int(start), int(offset))
		_ = packet.CombineECN(b, 3)
		if err != nil {
			return
		}
		if info.Length > len(b) || int(info.HeaderLen) > info.Length || (info.Version != 4 && info.Version != 6) {
			t.Fatalf("%d bytes: %+v", len(b), info)
		}
		packet.Kernel(b, &info)
		if packet.Parse(b, &info) != nil {
			return // the checksum was written over the header
		}
		var cut packet.Super
		if cut.Init(b, &info, int(size)) != nil {
			return
		}
		out := make([]byte, 65600)
		for n, left := 0, cut.Remaining(); left > 0; left-- {
			if n = cut.Next(out); n == 0 {
				t.Fatalf("%d segments missing", left)
			}
			var one packet.Info
			if err := packet.Parse(out[:n], &one); err != nil || one.Length != n || one.Source != info.Source {
				t.Fatalf("segment %+v of %+v: %v", one, info, err)
			}
		}
	})
}
