package tunnel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"usher/sa"
	"usher/sa/esp"
	"usher/tunnel/device"
	"usher/tunnel/packet"
	"usher/tunnel/underlay"
)

// The loops' bodies, without the sleeping: for allocations and for time.

// source is a device that gives the same packets again and again, and a sink
// for what is written.
type source struct {
	packets [][]byte
	next    int
	written int
}

func (s *source) Name() string { return "usher0" }
func (s *source) Wait() bool   { return true }
func (s *source) Wake()        {}
func (s *source) Close() error { return nil }

func (s *source) Read(buf []byte) (int, error) {
	if s.next == len(s.packets) {
		s.next = 0
		return 0, device.ErrAgain
	}
	n := copy(buf, s.packets[s.next])
	s.next++
	return n, nil
}

func (s *source) Write(bufs [][]byte, _ int) (int, error) {
	s.written += len(bufs)
	return 0, nil
}

// wire is a socket that keeps what is sent, and gives it out when told so.
type wire struct {
	data    [][]byte
	size    []int
	next    int
	keep    bool
	batches int
	to      netip.Addr
}

func (w *wire) Wait() bool                   { return true }
func (w *wire) Wake()                        {}
func (w *wire) Close() error                 { return nil }
func (w *wire) SetInterface(int, netip.Addr) {}

func (w *wire) Send(b *underlay.Batch) (int, error) {
	w.batches++
	if w.keep {
		w.data = append(w.data, bytes.Clone(b.Data))
		w.size = append(w.size, b.SegmentSize)
	}
	return 0, nil
}

func (w *wire) Receive(m *underlay.Message) error {
	if w.next == len(w.data) {
		w.next = 0
		return underlay.ErrAgain
	}
	m.Data = m.Buffer[:copy(m.Buffer, w.data[w.next])]
	m.SegmentSize = w.size[w.next]
	m.Destination = w.to
	w.next++
	return nil
}

// burstOf makes n packets with their offload headers, of the event of
// newBench.
func burstOf(n, payload int) [][]byte {
	var all [][]byte
	for range n {
		b := make([]byte, device.HeaderLen+28+payload)
		_ = device.Header{NeedsChecksum: true, ChecksumStart: 20, ChecksumOffset: 6}.Encode(b)
		ip := b[device.HeaderLen:]
		ip[0], ip[8], ip[9] = 0x45, 8, packet.ProtocolUDP
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		copy(ip[12:], []byte{10, 1, 0, 1, 232, 1, 2, 3, 0x9c, 0x40, 0x13, 0x8c})
		binary.BigEndian.PutUint16(ip[24:], uint16(8+payload))
		_ = packet.SetHeaderChecksum(ip, 20)
		all = append(all, b)
	}
	return all
}

// newBench makes a tunnel between a source and a wire, with one key for both
// directions and replays allowed, so that packets can come again and again.
func newBench(t testing.TB, packets [][]byte) (*Tunnel, *source, *wire) {
	group := netip.MustParseAddr("232.1.2.3")
	s, w := &source{packets: packets}, &wire{to: group}
	db := sa.NewDB()
	err := db.SetPolicies(sa.OriginManual, []sa.Policy{{
		Name:        "bench",
		Selector:    sa.Selector{Destination: netip.PrefixFrom(group, 32), Protocol: packet.ProtocolUDP, DestinationPorts: sa.Port(5004)},
		Action:      sa.Protect,
		Association: "bench",
	}})
	if err != nil {
		t.Fatal(err)
	}
	association, err := sa.NewSA(sa.Params{
		Association: "bench", SPI: 0x1000, Destinations: []netip.Addr{group}, Transform: esp.AES256GCM,
		Material: bytes.Repeat([]byte{1}, esp.MaterialLen), Replay: sa.None,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Install(association); err != nil {
		t.Fatal(err)
	}
	tunnel, err := New(Config{Device: s, Underlay: w, DB: db, BootNS: func() int64 { return 1 }})
	if err != nil {
		t.Fatal(err)
	}
	return tunnel, s, w
}

// out is one pass of the way out, as run does it.
func (o *outbound) pass(t testing.TB) {
	o.look()
	if _, err := o.drain(); err != nil {
		t.Fatal(err)
	}
	o.flush()
}

// pass is one pass of the way in, as run does it.
func (i *inbound) pass(t testing.TB) {
	i.look()
	if _, err := i.drain(); err != nil {
		t.Fatal(err)
	}
	i.deliver()
}

// mixed is every kind of packet that the loops may see in one burst: batches,
// lone ones, a super-packet, one without a selector, garbage.
func mixed() [][]byte {
	all := append(burstOf(42, 1316), burstOf(3, 100)...)
	all = append(all, burstOf(20, 1316)...)
	super := burstOf(1, 40*1200)[0]
	_ = device.Header{NeedsChecksum: true, Kind: device.KindUDP, SegmentSize: 1200, ChecksumStart: 20, ChecksumOffset: 6}.Encode(super)
	stranger := burstOf(1, 1316)[0]
	stranger[device.HeaderLen+23]++
	return append(all, super, stranger, make([]byte, 40), super[:20])
}

func TestNoAllocation(t *testing.T) {
	tunnel, s, w := newBench(t, mixed())
	o := newOutbound(tunnel)
	w.keep = true
	o.pass(t)
	w.keep = false
	if n := testing.AllocsPerRun(200, func() { o.pass(t) }); n != 0 {
		t.Errorf("the way out allocates %v times for %d packets", n, len(s.packets))
	}
	if w.batches == 0 {
		t.Fatal("nothing was sent")
	}

	w.data = append(w.data, []byte{0xff}, []byte{1, 2, 3, 4}, make([]byte, 4))
	w.size = append(w.size, 1, 4, 4)
	i := newInbound(tunnel)
	i.pass(t)
	if n := testing.AllocsPerRun(200, func() { i.pass(t) }); n != 0 {
		t.Errorf("the way in allocates %v times for %d receives", n, len(w.data))
	}
	if want := 42 + 3 + 20 + 40; s.written%want != 0 || s.written == 0 {
		t.Errorf("%d packets written, not a multiple of %d", s.written, want)
	}
	in := tunnel.Counters().Snapshot().In
	if in.Dropped(BadICV) > 0 || in.Dropped(Keepalive) == 0 || in.Dropped(UnknownSPI) == 0 {
		t.Errorf("drops %v", in.Drops)
	}
}

// A batch is as full as its rules allow.
func TestBatches(t *testing.T) {
	tos := func(packets [][]byte) [][]byte {
		for i, p := range packets {
			p[device.HeaderLen+1] = byte(i % 2)
		}
		return packets
	}
	join := func(all ...[][]byte) (joined [][]byte) {
		for _, a := range all {
			joined = append(joined, a...)
		}
		return joined
	}
	for _, c := range []struct {
		name    string
		packets [][]byte
		batches int
	}{
		{"one", burstOf(1, 100), 1},
		{"42 equal ones", burstOf(42, 1200), 1},
		{"64 segments", burstOf(65, 100), 2},
		{"65,000 bytes", burstOf(64, 1316), 2},
		{"a shorter one ends it", join(burstOf(5, 1200), burstOf(1, 50), burstOf(5, 1200)), 2},
		{"a longer one begins the next", join(burstOf(5, 100), burstOf(5, 1200)), 2},
		{"padding makes these equal", join(burstOf(5, 1198), burstOf(5, 1197)), 1},
		{"another TOS", tos(burstOf(6, 100)), 6},
	} {
		tunnel, _, w := newBench(t, c.packets)
		o := newOutbound(tunnel)
		o.pass(t)
		if w.batches != c.batches {
			t.Errorf("%s: %d batches, not %d", c.name, w.batches, c.batches)
		}
		if n := tunnel.Counters().Snapshot().Out.Packets; n != uint64(len(c.packets)) {
			t.Errorf("%s: %d packets", c.name, n)
		}
	}
}

// The loop naps while packets come in numbers, and sleeps else.
func TestPacing(t *testing.T) {
	var p pacing
	for i, c := range []struct {
		got  int
		naps bool
	}{
		{0, false}, {1, false}, {1, false}, // lone ones after silence
		{2, true}, {1, true}, {1, true}, {1, false}, {1, false}, // a stream that thins out
		{42, true}, {0, false}, // a burst that ends
		{1, true}, {0, false}, {1, false}, {9, true}, {9, true}, {9, true}, {9, true},
	} {
		if naps := p.streaming(c.got); naps != c.naps {
			t.Errorf("step %d, %d packets: nap %v", i, c.got, naps)
		}
	}
}

// The inbound loop gives the first packet of a run a buffer with room, so that
// the device can merge, and no packet the room of its neighbour.
func TestMergeBuffers(t *testing.T) {
	tunnel, s, w := newBench(t, append(burstOf(40, 1200), burstOf(3, 100)...))
	w.keep = true
	newOutbound(tunnel).pass(t)
	i := newInbound(tunnel)
	roomy, tight := 0, 0
	check := &checking{source: s, check: func(b []byte) {
		if cap(b) == device.MergeCapacity {
			roomy++
		} else if cap(b) == len(b) {
			tight++
		} else {
			t.Errorf("a packet of %d bytes has the room of its neighbour: %d", len(b), cap(b))
		}
	}}
	tunnel.config.Device = check
	i.pass(t)
	if roomy != 2 || tight != 41 { // the first short one ends a run, the second begins one
		t.Errorf("%d packets with room to merge into, %d without", roomy, tight)
	}
}

type checking struct {
	*source
	check func([]byte)
}

func (c *checking) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		c.check(b)
	}
	return c.source.Write(bufs, offset)
}

func BenchmarkOutbound(b *testing.B) {
	for _, c := range []struct {
		name    string
		packets [][]byte
	}{
		{"lone", burstOf(1, 1200)},
		{"bursts", burstOf(42, 1200)},
	} {
		b.Run(c.name, func(b *testing.B) {
			tunnel, s, _ := newBench(b, c.packets)
			o := newOutbound(tunnel)
			b.SetBytes(1228)
			b.ReportAllocs()
			for n := 0; n < b.N; n += len(s.packets) {
				o.pass(b)
			}
		})
	}
}

func BenchmarkInbound(b *testing.B) {
	for _, c := range []struct {
		name    string
		packets [][]byte
	}{
		{"lone", burstOf(1, 1200)},
		{"bursts", burstOf(42, 1200)},
	} {
		b.Run(c.name, func(b *testing.B) {
			tunnel, s, w := newBench(b, c.packets)
			w.keep = true
			newOutbound(tunnel).pass(b)
			i := newInbound(tunnel)
			b.SetBytes(1228)
			b.ReportAllocs()
			for n := 0; n < b.N; n += len(s.packets) {
				i.pass(b)
			}
		})
	}
}

// hooked is a source that does something before it gives its packet number at.
type hooked struct {
	*source
	at int
	do func()
}

func (h *hooked) Read(buf []byte) (int, error) {
	if h.next == h.at && h.do != nil {
		h.do()
		h.do = nil
	}
	return h.source.Read(buf)
}

// The key ends, and is wiped, while the loop is in the middle of a drain: the rest
// goes under the next key, and where there is none, each packet is counted.
func TestKeyEndsInDrain(t *testing.T) {
	const all, early = 20, 5
	group := netip.MustParseAddr("232.1.2.3")
	key := func(spi uint32, from, until int64) *sa.SA {
		s, err := sa.NewSA(sa.Params{
			Association: "bench", SPI: spi, Destinations: []netip.Addr{group}, Direction: sa.Outbound, Transform: esp.AES256GCM,
			Material: bytes.Repeat([]byte{byte(spi)}, esp.MaterialLen), SendFrom: from, SendUntil: until,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, next := range map[string]bool{"next key": true, "no next key": false} {
		t.Run(name, func(t *testing.T) {
			tunnel, s, w := newBench(t, burstOf(all, 1000))
			w.keep = true
			db, now := tunnel.config.DB, int64(50)
			tunnel.config.BootNS = func() int64 { return now }
			remove := func(spi uint32) {
				db.Remove("bench", func(i sa.SAInfo) bool { return i.SPI == spi })
			}
			remove(0x1000)
			install := func(one *sa.SA) {
				if err := db.Install(one); err != nil {
					t.Fatal(err)
				}
			}
			install(key(0x2000, 0, 100))
			if next {
				install(key(0x2001, 100, 200))
			}
			tunnel.config.Device = &hooked{source: s, at: early, do: func() {
				now = 100
				remove(0x2000)
			}}
			o := newOutbound(tunnel)
			o.pass(t)
			spis := map[uint32]int{}
			for i, data := range w.data {
				for ; len(data) > 0; data = data[min(w.size[i], len(data)):] {
					spis[binary.BigEndian.Uint32(data)]++
				}
			}
			left, dropped := all, uint64(0)
			if !next {
				left, dropped = early, all-early
			}
			if spis[0x2000] != early || spis[0x2001] != left-early {
				t.Errorf("sent by SPI: %v", spis)
			}
			if out := tunnel.Counters().Snapshot().Out; out.Packets != uint64(left) || out.Dropped(NoSA) != dropped {
				t.Errorf("%d sent, drops %v", out.Packets, out.Drops)
			}
		})
	}
}
