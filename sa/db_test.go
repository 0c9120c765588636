package sa_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"usher/sa"
	"usher/sa/esp"
)

// hexed is bytes that JSON has in hex.
type hexed []byte

func (h *hexed) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func TestBadParams(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*sa.Params)
		want   error
	}{
		{"no name", func(p *sa.Params) { p.Association = "" }, sa.ErrBadParams},
		{"reserved SPI", func(p *sa.Params) { p.SPI = 255 }, sa.ErrBadParams},
		{"no destination", func(p *sa.Params) { p.Destinations = nil }, sa.ErrBadParams},
		{"empty destination", func(p *sa.Params) { p.Destinations = []netip.Addr{{}} }, sa.ErrBadParams},
		{"unknown direction", func(p *sa.Params) { p.Direction = 3 }, sa.ErrBadParams},
		{"unknown replay mode", func(p *sa.Params) { p.Replay = 3 }, sa.ErrBadParams},
		{"counter of 49 bits", func(p *sa.Params) { p.CounterStart = 1 << 48 }, sa.ErrBadParams},
		{"negative slack", func(p *sa.Params) { p.InitiationSlack = -1 }, sa.ErrBadParams},
		{"integrity only", func(p *sa.Params) { p.Transform = esp.AESGMAC }, esp.ErrNotInThisVersion},
		{"packaging only", func(p *sa.Params) { p.Transform = esp.NULL }, esp.ErrNotInThisVersion},
		{"no transform", func(p *sa.Params) { p.Transform = 0 }, esp.ErrUnknownTransform},
		{"short key", func(p *sa.Params) { p.Material = p.Material[1:] }, esp.ErrMaterialLength},
	} {
		p := params(1)
		tc.change(&p)
		if s, err := sa.NewSA(p); !errors.Is(err, tc.want) || s != nil {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// TestOneKeyForAnSPI has docs/keying.md §2: never a second key under a live (SPI, destination).
func TestOneKeyForAnSPI(t *testing.T) {
	other := netip.MustParseAddr("232.9.9.9")
	db := sa.NewDB()
	p := params(1)
	p.Destinations = []netip.Addr{group, other, netip.MustParseAddr("::ffff:232.1.2.3")}
	first := install(t, db, p)

	second := params(2)
	second.SPI, second.Destinations, second.Association = p.SPI, []netip.Addr{other}, "another event"
	err := db.Install(newSA(t, second))
	if !errors.Is(err, sa.ErrSPIInUse) || !strings.Contains(err.Error(), `"event"`) {
		t.Errorf("second key: %v", err)
	}
	if err := db.Install(first); !errors.Is(err, sa.ErrInstalled) {
		t.Errorf("installed twice: %v", err)
	}
	second.Destinations = []netip.Addr{netip.MustParseAddr("232.9.9.10")}
	install(t, db, second)
	if got := db.Snapshot().Inbound(p.SPI, other); got != first {
		t.Errorf("found %v", got)
	}
	if n := len(db.Snapshot().SAs()); n != 2 {
		t.Errorf("%d associations listed", n)
	}

	db.Remove("event", nil)
	for _, d := range []netip.Addr{group, other} {
		if got := db.Snapshot().Inbound(p.SPI, d); got != nil {
			t.Errorf("found %v after Remove", got)
		}
	}
	if err := db.Install(first); !errors.Is(err, sa.ErrInstalled) {
		t.Errorf("installed after Remove: %v", err)
	}
	second.Destinations, second.Association = []netip.Addr{other}, "event"
	install(t, db, second)
}

func TestInboundLookup(t *testing.T) {
	db := sa.NewDB()
	both := install(t, db, params(1))
	p := params(2)
	p.Direction = sa.Outbound
	install(t, db, p)
	for _, tc := range []struct {
		name string
		spi  uint32
		dst  netip.Addr
		want *sa.SA
	}{
		{"as installed", both.SPI(), group, both},
		{"IPv4-mapped", both.SPI(), netip.AddrFrom16(group.As16()), both},
		{"another destination", both.SPI(), viewer, nil},
		{"another SPI", both.SPI() + 7, group, nil},
		{"outbound only", p.SPI, group, nil},
	} {
		if got := db.Snapshot().Inbound(tc.spi, tc.dst); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// TestRollover has docs/keying.md §6: make before break, and the sender's clock decides.
func TestRollover(t *testing.T) {
	db := sa.NewDB()
	setPolicies(t, db, sa.OriginTicket, eventPolicy())
	entry := func() *sa.Entry { return db.Snapshot().Outbound(stream) }
	if entry() == nil || entry().SA(second) != nil {
		t.Fatal("a policy without a key must be found, and send nothing")
	}
	var keys []*sa.SA
	for i := range uint32(6) {
		p := params(i)
		p.SendFrom, p.SendUntil = int64(i)*5*second, int64(i+1)*5*second
		p.AcceptUntil = p.SendUntil + 2*second
		if i == 0 {
			p.SendFrom = second
		}
		keys = append(keys, install(t, db, p))
	}
	for _, tc := range []struct {
		ns   int64
		want *sa.SA
	}{
		{second - 1, nil}, {second, keys[0]}, {5*second - 1, keys[0]}, {5 * second, keys[1]}, {29 * second, keys[5]}, {30 * second, nil},
	} {
		if got := entry().SA(tc.ns); got != tc.want {
			t.Errorf("at %d ns: %v, want %v", tc.ns, got, tc.want)
		}
	}

	// A better clock moves the switch; where two may send, the later interval does.
	old := entry()
	keys[1].SetSendSpan(4*second, 10*second)
	if got := old.SA(4 * second); got != keys[1] {
		t.Errorf("after the sample: %v", got)
	}
	keys[1].SetSendSpan(sa.Never, 0)
	if got := old.SA(6 * second); got != nil {
		t.Errorf("an uncertain clock must silence: %v", got)
	}

	// The old key stays for the grace, then goes, and is wiped.
	packet := seal(t, keys[0], 1, 1)
	if removed := db.Expire(7*second - 1); removed != nil {
		t.Errorf("expired within the grace: %v", removed)
	}
	removed := db.Expire(7 * second)
	if len(removed) != 1 || removed[0].Interval != 0 || removed[0].PacketsOut != 1 {
		t.Errorf("expired %v", removed)
	}
	if _, _, err := keys[0].Open(packet, 6*second); !errors.Is(err, sa.ErrExpired) {
		t.Errorf("a wiped key opens: %v", err)
	}
	if keys[0].Seal(make([]byte, 256), 40, 2, 2, esp.NextIPv4) != nil || !errors.Is(keys[0].Exhausted(), sa.ErrRemoved) {
		t.Error("a wiped key seals")
	}
	if n := len(db.Expire(1 << 62)); n != 5 {
		t.Errorf("%d expired at last", n)
	}
	if entry().SA(12*second) != nil || db.Snapshot().Policies()[0].Associations != 0 {
		t.Error("a removed association is still there")
	}
}

func TestExpireOfSenders(t *testing.T) {
	db := sa.NewDB()
	p := params(1)
	p.Direction, p.SendUntil = sa.Outbound, 10*second
	s := install(t, db, p)
	p = params(2)
	p.SendUntil = 10 * second // it still receives
	install(t, db, p)
	s.SetSendSpan(0, 12*second)
	if got := db.Expire(11 * second); got != nil {
		t.Errorf("expired before its span was over: %v", got)
	}
	if got := db.Expire(12 * second); len(got) != 1 || got[0].Interval != 1 {
		t.Errorf("expired %v", got)
	}
}

func TestNewestOfEqualIntervals(t *testing.T) {
	db := sa.NewDB()
	setPolicies(t, db, sa.OriginManual, eventPolicy())
	var last *sa.SA
	for i := range uint32(3) {
		p := params(i)
		p.Interval = 0
		last = install(t, db, p)
	}
	if got := db.Snapshot().Outbound(stream).SA(1); got != last {
		t.Errorf("%v sends, want the newest", got)
	}
}

func TestSnapshotsDoNotChange(t *testing.T) {
	db := sa.NewDB()
	before := db.Snapshot()
	setPolicies(t, db, sa.OriginTicket, eventPolicy())
	with := db.Snapshot()
	s := install(t, db, params(1))
	after := db.Snapshot()
	db.Remove("event", nil)
	setPolicies(t, db, sa.OriginTicket)

	if before.Outbound(stream) != nil || len(before.Policies()) != 0 {
		t.Error("the empty snapshot changed")
	}
	if with.Outbound(stream).SA(1) != nil || with.Inbound(s.SPI(), group) != nil || len(with.SAs()) != 0 {
		t.Error("the snapshot without a key changed")
	}
	if after.Inbound(s.SPI(), group) != s || len(after.SAs()) != 1 || after.Policies()[0].Associations != 1 {
		t.Error("the snapshot with a key changed")
	}
	if now := db.Snapshot(); now.Outbound(stream) != nil || len(now.SAs()) != 0 {
		t.Error("the last snapshot holds what was removed")
	}
}

// TestManyPoliciesOneAssociation crosses the pages in which entries are copied.
func TestManyPoliciesOneAssociation(t *testing.T) {
	const n = 200
	db := sa.NewDB()
	var list []sa.Policy
	for i := range uint16(n) {
		p := eventPolicy()
		p.DestinationPorts, p.Association = sa.Port(5000+i), fmt.Sprint("event", i%2)
		list = append(list, p)
	}
	setPolicies(t, db, sa.OriginTicket, list...)
	p := params(1)
	p.Association = "event1"
	s := install(t, db, p)
	for i := range uint16(n) {
		packet := stream
		packet.DestinationPort = 5000 + i
		want := s
		if i%2 == 0 {
			want = nil
		}
		if got := db.Snapshot().Outbound(packet).SA(1); got != want {
			t.Fatalf("port %d: %v", packet.DestinationPort, got)
		}
		if s.Matches(packet) != (want != nil) {
			t.Fatalf("port %d: matches the other association", packet.DestinationPort)
		}
	}
}

func TestRemoveSome(t *testing.T) {
	db := sa.NewDB()
	for i := range uint32(4) {
		install(t, db, params(i))
	}
	removed := db.Remove("event", func(i sa.SAInfo) bool { return i.Interval%2 == 1 })
	if len(removed) != 2 || removed[0].Interval != 1 || removed[1].Interval != 3 {
		t.Errorf("removed %v", removed)
	}
	left := db.Snapshot().SAs()
	if len(left) != 2 || left[0].Interval != 0 || left[1].Interval != 2 {
		t.Errorf("left %v", left)
	}
	if got := db.Remove("unknown", nil); got != nil {
		t.Errorf("removed %v of an unknown name", got)
	}
}

func TestSubscribe(t *testing.T) {
	db := sa.NewDB()
	one, cancelOne := db.Subscribe()
	two, cancelTwo := db.Subscribe()
	defer cancelTwo()
	if told(one) {
		t.Error("told before any change")
	}
	for i := range uint32(3) { // nobody takes: the writer must not wait
		install(t, db, params(i))
	}
	if !told(one) || told(one) || !told(two) {
		t.Error("three changes must be told once to each")
	}
	cancelOne()
	cancelOne()
	db.Remove("event", nil)
	if told(one) || !told(two) {
		t.Error("told after cancel, or not told")
	}
	db.Remove("event", nil)
	db.Expire(second)
	if told(two) {
		t.Error("told of nothing")
	}
}

func TestListingNeverPrintsKeys(t *testing.T) {
	db := sa.NewDB()
	p := params(1)
	p.Material = []byte("0123456789abcdef0123456789abcdef\xca\xfe\xba\xbe")
	secret := string(p.Material)
	paramsText := fmt.Sprintf("%v %+v %#v %s", p, p, p, p)
	p.KeepMaterial = true
	s := install(t, db, p)
	clear(p.Material)

	info := db.Snapshot().SAs()[0]
	if got := string(info.Material.Reveal()); got != secret {
		t.Errorf("kept material is %x", got)
	}
	asJSON, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "info", info, "params", p, "material", info.Material)
	for _, text := range []string{paramsText, fmt.Sprintf("%v %+v %#v %s", info, info, info, info), string(asJSON), log.String(),
		fmt.Sprintf("%v %+v %#v %x %q", s, s, s, info.Material, info.Material)} {
		for _, form := range []string{"0123456789abcdef", hex.EncodeToString([]byte("0123456789abcdef")), "48 49 50", "0x30, 0x31", "MDEyMzQ1"} {
			if strings.Contains(text, form) {
				t.Errorf("prints its key: %s", text)
			}
		}
	}
	if !strings.Contains(string(asJSON), `"material":"REDACTED"`) {
		t.Errorf("listing is %s", asJSON)
	}

	db.Remove("event", nil)
	if got := info.Material.Reveal(); got != nil {
		t.Errorf("after Remove the key is %x", got)
	}
	install(t, db, params(2))
	if m := db.Snapshot().SAs()[0].Material; m != nil || m.Reveal() != nil {
		t.Error("material is kept unasked")
	}
}

// TestPathBesideWriters runs the path in two goroutines while keys change, counters are listed and
// spans set: for the race detector, and so that no packet of a live key is lost.
func TestPathBesideWriters(t *testing.T) {
	const keys, packets = 200, 20
	db := sa.NewDB()
	setPolicies(t, db, sa.OriginTicket, eventPolicy())
	install(t, db, params(0))
	wire := make(chan []byte, 64)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // sender
		defer close(wire)
		for {
			select {
			case <-stop:
				return
			default:
			}
			now := db.Snapshot()
			s := now.Outbound(stream).SA(second)
			if s == nil {
				if now == db.Snapshot() {
					t.Error("no key: the new one must be there before the old one goes")
					return
				}
				continue // the key was removed since the snapshot
			}
			if seq, iv, ok := s.Next(); ok {
				if packet := s.Seal(make([]byte, 256), 40, seq, iv, esp.NextIPv4); packet != nil {
					wire <- packet
				}
			}
		}
	})
	opened := 0
	wg.Go(func() { // receiver
		for packet := range wire {
			spi := uint32(packet[0])<<24 | uint32(packet[1])<<16 | uint32(packet[2])<<8 | uint32(packet[3])
			s := db.Snapshot().Inbound(spi, group)
			if s == nil {
				continue // removed meanwhile
			}
			if _, _, err := s.Open(packet, second); err != nil && !errors.Is(err, sa.ErrExpired) {
				t.Errorf("SPI %08x: %v", spi, err)
			}
			if s.Matches(stream) {
				opened++
			}
		}
	})
	for i := uint32(1); i < keys; i++ {
		s := install(t, db, params(i))
		s.SetSendSpan(0, 2*second)
		setPolicies(t, db, sa.OriginTicket, eventPolicy())
		db.Snapshot().SAs()
		for range packets {
			db.Snapshot().Policies()
		}
		db.Remove("event", func(info sa.SAInfo) bool { return info.Interval < i })
	}
	close(stop)
	wg.Wait()
	if opened == 0 {
		t.Error("nothing arrived")
	}
}

// Two events on one channel, one after the other: whichever has a key is sent, in
// either order of their policies.
func TestEventsThatShareAChannel(t *testing.T) {
	early, late := eventPolicy(), eventPolicy()
	late.Name, late.Association, late.Title = "late", "late", "The event after it"
	for _, c := range []struct {
		name  string
		order []sa.Policy
	}{{"early first", []sa.Policy{early, late}}, {"late first", []sa.Policy{late, early}}} {
		t.Run(c.name, func(t *testing.T) {
			db := sa.NewDB()
			setPolicies(t, db, sa.OriginTicket, c.order...)
			if e, s := db.Snapshot().Sending(stream, 50); e == nil || s != nil {
				t.Fatalf("before any key: entry %v, association %v; want a policy and no association", e, s)
			}
			first := params(1)
			first.SendFrom, first.SendUntil = 10, 100
			second := params(2)
			second.Association, second.SendFrom, second.SendUntil = "late", 200, 300
			install(t, db, first)
			install(t, db, second)
			for at, want := range map[int64]string{50: "event", 150: "", 250: "late", 350: ""} {
				e, s := db.Snapshot().Sending(stream, at)
				switch {
				case e == nil:
					t.Errorf("at %d: no policy", at)
				case want == "" && s != nil:
					t.Errorf("at %d: %s sends", at, s)
				case want != "" && (s == nil || e.Association != want):
					t.Errorf("at %d: association %v by policy %q, want %q", at, s, e.Name, want)
				}
			}
		})
	}
}

func TestSendingAllocatesNothing(t *testing.T) {
	db := sa.NewDB()
	twin := eventPolicy()
	twin.Association = "late"
	setPolicies(t, db, sa.OriginTicket, eventPolicy(), twin)
	p := params(2)
	p.Association = "late"
	install(t, db, p)
	snapshot := db.Snapshot()
	if n := testing.AllocsPerRun(100, func() { snapshot.Sending(stream, 1) }); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}
