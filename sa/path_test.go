package sa_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"usher/sa"
	"usher/sa/esp"
)

// pathStep is what the packet path does for one packet in both directions.
func pathStep(t testing.TB, db *sa.DB, buf []byte, bootNS int64) {
	out := db.Snapshot().Outbound(stream)
	if out == nil {
		t.Fatal("no policy")
	}
	s := out.SA(bootNS)
	seq, iv, ok := s.Next()
	if !ok {
		t.Fatal("no number")
	}
	packet := s.Seal(buf, 1200, seq, iv, esp.NextIPv4)
	in := db.Snapshot().Inbound(binary.BigEndian.Uint32(packet), group)
	if in == nil {
		t.Fatal("no association")
	}
	if _, _, err := in.Open(packet, bootNS); err != nil {
		t.Fatal(err)
	}
	if !in.Matches(stream) {
		t.Fatal("selector mismatch")
	}
}

func TestPathDoesNotAllocate(t *testing.T) {
	for _, transform := range []esp.Transform{esp.AES256GCM, esp.ChaCha20Poly1305} {
		db := sa.NewDB()
		setPolicies(t, db, sa.OriginTicket, eventPolicy())
		p := params(1)
		p.Transform, p.Reservation = transform, reservedForEver{}
		s := install(t, db, p)
		buf := make([]byte, 1500)
		pathStep(t, db, buf, second) // makes the sender's window
		if n := testing.AllocsPerRun(1000, func() { pathStep(t, db, buf, second) }); n != 0 {
			t.Errorf("%s: %v allocations for a packet", transform, n)
		}
		// What is refused must not allocate either.
		replayed := make([]byte, 64)
		binary.BigEndian.PutUint64(replayed[8:], 5<<48|1)
		forged := make([]byte, 64)
		binary.BigEndian.PutUint64(forged[8:], 6<<48|1)
		if n := testing.AllocsPerRun(1000, func() {
			_, _, _ = s.Open(replayed, second)
			_, _, _ = s.Open(forged, second)
			_, _, _ = s.Open(forged[:20], second)
			db.Snapshot().Inbound(1, group)
		}); n != 0 {
			t.Errorf("%s: %v allocations for refused packets", transform, n)
		}
	}
}

type reservedForEver struct{}

func (reservedForEver) First() (uint32, uint64) { return 1, 1 }
func (reservedForEver) Reserved() uint64        { return 1 << 40 }
func (reservedForEver) Extend()                 {}

// crowded returns a database of n events with a policy and an association each, beside the test's own.
func crowded(b *testing.B, n int) *sa.DB {
	db := sa.NewDB()
	list := []sa.Policy{}
	for i := range n {
		p := eventPolicy()
		p.Association = fmt.Sprint("event", i)
		p.Destination = host(crowdGroup(i))
		list = append(list, p)
	}
	setPolicies(b, db, sa.OriginTicket, append(list, eventPolicy())...)
	for i := range n {
		p := params(1)
		p.Association, p.Destinations, p.SPI = fmt.Sprint("event", i), []netip.Addr{crowdGroup(i)}, uint32(1000+i*257)
		install(b, db, p)
	}
	return db
}

func crowdGroup(i int) netip.Addr { return netip.AddrFrom4([4]byte{239, 1, byte(i >> 8), byte(i)}) }

var crowds = []int{1, 1000, 10_000}

func BenchmarkLookup(b *testing.B) {
	for _, n := range crowds {
		db := crowded(b, n)
		s := install(b, db, params(1))
		b.Run(fmt.Sprintf("outbound/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if db.Snapshot().Outbound(stream).SA(second) != s {
					b.Fatal("not found")
				}
			}
		})
		b.Run(fmt.Sprintf("inbound/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if found := db.Snapshot().Inbound(s.SPI(), group); found != s || !found.Matches(stream) {
					b.Fatal("not found")
				}
			}
		})
	}
}

// BenchmarkRollover is a new key into a crowded database and the old one out of it.
func BenchmarkRollover(b *testing.B) {
	for _, n := range crowds {
		db := crowded(b, n)
		install(b, db, params(0))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			i := uint32(0)
			for b.Loop() {
				i++
				p := params(i)
				p.SPI = 0x10000000 + i
				install(b, db, p)
				db.Remove("event", func(info sa.SAInfo) bool { return info.Interval < i })
			}
		})
	}
}

func BenchmarkPath(b *testing.B) {
	db := crowded(b, 1000)
	install(b, db, params(1))
	buf := make([]byte, 1500)
	b.SetBytes(1200)
	b.ReportAllocs()
	for b.Loop() {
		pathStep(b, db, buf, second)
	}
}
