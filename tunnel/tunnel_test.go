package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"usher/sa"
	"usher/sa/esp"
	"usher/tunnel"
	"usher/tunnel/device"
	"usher/tunnel/device/devicetest"
	"usher/tunnel/underlay"
	"usher/tunnel/underlay/underlaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	senderAddr   = netip.MustParseAddr("10.1.0.1")
	receiverAddr = netip.MustParseAddr("10.1.0.2")
	group        = netip.MustParseAddr("232.1.2.3")
	from         = netip.AddrPortFrom(senderAddr, 40000)
	to           = netip.AddrPortFrom(group, 5004)
)

const event = "e0e1e2e3e4e5e6e7e8e9eaebecedeeef"

// policy is the event's: one sender, one group, one port.
func policy() sa.Policy {
	return sa.Policy{
		Name: event,
		Selector: sa.Selector{
			Source:           netip.PrefixFrom(senderAddr, 32),
			Destination:      netip.PrefixFrom(group, 32),
			Protocol:         17,
			DestinationPorts: sa.Port(5004),
		},
		Action:      sa.Protect,
		Association: event,
		TTL:         16,
		TTLSet:      true,
	}
}

// params is interval i's association for one side.
func params(i uint32, direction sa.Direction) sa.Params {
	material := bytes.Repeat([]byte{byte(i + 1)}, esp.MaterialLen)
	return sa.Params{
		Association:  event,
		SPI:          0x1000 + i,
		Destinations: []netip.Addr{group},
		Direction:    direction,
		Transform:    esp.AES256GCM,
		Material:     material,
		SenderID:     7,
		Interval:     i,
	}
}

// host is one end: a tunnel with an application's side and a wire's side.
type host struct {
	t        testing.TB
	device   *devicetest.Device
	conn     *underlaytest.Conn
	db       *sa.DB
	tunnel   *tunnel.Tunnel
	now      *atomic.Int64
	finished chan error
	cancel   context.CancelFunc
}

// start makes a host with the event's policy and runs its tunnel, which ends
// with the test. Call it in a synctest bubble.
func start(t testing.TB, network *underlaytest.Network, address netip.Addr, hooks tunnel.Hooks) *host {
	t.Helper()
	h := &host{
		t:        t,
		device:   devicetest.New("usher0"),
		conn:     network.Host(address),
		db:       sa.NewDB(),
		now:      new(atomic.Int64),
		finished: make(chan error, 1),
	}
	h.now.Store(int64(time.Hour))
	h.conn.Join(group)
	if err := h.db.SetPolicies(sa.OriginTicket, []sa.Policy{policy()}); err != nil {
		t.Fatal(err)
	}
	var err error
	h.tunnel, err = tunnel.New(tunnel.Config{
		Device: h.device, Underlay: h.conn, DB: h.db, BootNS: h.now.Load, Hooks: hooks,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.cancel = cancel
	go func() { h.finished <- h.tunnel.Run(ctx) }()
	// Both loops have had their first look at the database, and sleep: what the test
	// puts into it is seen by the first packet, since they look at each wake-up.
	synctest.Wait()
	return h
}

// stop ends the tunnel.
func (h *host) stop() {
	h.t.Helper()
	h.cancel()
	if err := <-h.finished; err != nil {
		h.t.Errorf("the tunnel ended with %v", err)
	}
}

// install puts an association into force.
func (h *host) install(p sa.Params) *sa.SA {
	h.t.Helper()
	s, err := sa.NewSA(p)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.db.Install(s); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// drops is what the host has dropped, but for zeros.
func (h *host) dropsIn() map[string]uint64  { return h.tunnel.Counters().Snapshot().In.Drops }
func (h *host) dropsOut() map[string]uint64 { return h.tunnel.Counters().Snapshot().Out.Drops }

// pair is a sender and a receiver with the key of interval 0.
func pair(t *testing.T) (*underlaytest.Network, *host, *host) {
	network := underlaytest.NewNetwork()
	s, r := start(t, network, senderAddr, tunnel.Hooks{}), start(t, network, receiverAddr, tunnel.Hooks{})
	s.install(params(0, sa.Outbound))
	r.install(params(0, sa.Inbound))
	return network, s, r
}

// expect fails unless these packets, and no others, were delivered in order.
func expect(t *testing.T, r *host, want [][]byte) {
	t.Helper()
	synctest.Wait()
	got := r.device.Received()
	if len(got) != len(want) {
		t.Fatalf("%d packets delivered, not %d; receiver dropped %v", len(got), len(want), r.dropsIn())
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("packet %d of %d differs:\n%x\n%x", i, len(want), got[i], want[i])
		}
	}
}

// expectDrops fails unless exactly these drops were counted.
func expectDrops(t *testing.T, got map[string]uint64, want map[tunnel.Reason]uint64) {
	t.Helper()
	for r, n := range want {
		if got[r.String()] != n {
			t.Errorf("%d packets dropped as %v, not %d: %v", got[r.String()], r, n, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("drops %v, not %v", got, want)
	}
}

func payload(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + seed
	}
	return b
}

// Packets of all sizes, alone and in bursts, arrive as they were sent; what
// lies on the wire is ESP to the group and not a byte of it readable.
func TestEndToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, s, r := pair(t)
		defer s.stop()
		defer r.stop()
		random := rand.New(rand.NewPCG(1, 2))
		secret := []byte("the quick brown fox jumps over the lazy dog")
		batched := 0
		network.Tap(func(b *underlay.Batch, datagram []byte) {
			if b.Segments() > 1 {
				batched++
			}
			if bytes.Contains(datagram, secret) {
				t.Error("cleartext on the wire")
			}
			if b.Destination != netip.AddrPortFrom(group, 4500) || b.Source != senderAddr || b.TTL != 16 {
				t.Errorf("a datagram to %v from %v with TTL %d", b.Destination, b.Source, b.TTL)
			}
			if spi := [4]byte(datagram); spi != [4]byte{0, 0, 0x10, 0} {
				t.Errorf("SPI %x", spi)
			}
		})
		var want [][]byte
		for i := range 3000 {
			p := udp(from, to, append(payload(random.IntN(1400), byte(i)), secret...))
			if i%3 == 0 {
				p = udp(from, to, append(payload(1272, byte(i)), secret...)) // equal ones, for batches
			}
			want = append(want, p)
			s.device.Send(p)
			if i%100 < 5 {
				synctest.Wait() // some alone, some in bursts
			}
		}
		expect(t, r, want)
		if batched == 0 {
			t.Error("no batch had more than one packet")
		}
		expectDrops(t, r.dropsIn(), nil)
		expectDrops(t, s.dropsOut(), nil)
		out, in := s.tunnel.Counters().Snapshot().Out, r.tunnel.Counters().Snapshot().In
		if out.Packets != 3000 || in.Packets != 3000 || out.Bytes != in.Bytes {
			t.Errorf("counted %+v out, %+v in", out, in)
		}
	})
}

// What an application sent with UDP_SEGMENT, or with an unfinished checksum,
// arrives as the datagrams that it stands for.
func TestOffloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, r := pair(t)
		defer s.stop()
		defer r.stop()
		var want [][]byte
		for _, c := range []struct{ size, total int }{{1200, 1200 * 40}, {1200, 1200*49 + 77}, {1, 64}, {1400, 1401}, {9000, 60000}} {
			data := payload(c.total, byte(c.size))
			super := udp(from, to, data)
			super[26], super[27] = 0xaa, 0xbb // what a kernel leaves there is of no use
			s.device.SendWith(device.Header{NeedsChecksum: true, Kind: device.KindUDP, SegmentSize: uint16(c.size), ChecksumStart: 20, ChecksumOffset: 6}, super)
			for i := 0; len(data) > 0; i++ {
				n := min(c.size, len(data))
				one := udp(from, to, data[:n])
				one[5] = byte(i) // identification
				setChecksums(one)
				want = append(want, one)
				data = data[n:]
			}
		}
		for _, n := range []int{0, 1, 2, 31, 32, 33, 1316} {
			one := udp(from, to, payload(n, 9))
			want = append(want, bytes.Clone(one))
			sum := words(nil, pseudo(one))
			one[26], one[27] = byte(sum>>8), byte(sum)
			s.device.SendWith(device.Header{NeedsChecksum: true, ChecksumStart: 20, ChecksumOffset: 6}, one)
		}
		expect(t, r, want)
		expectDrops(t, s.dropsOut(), nil)
	})
}

// Twenty key changes in the middle of the stream: nothing lost, nothing out of
// order; a receiver that joined late reads from its first key on.
func TestRollover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, s, r := pair(t)
		defer s.stop()
		defer r.stop()
		late := start(t, network, netip.MustParseAddr("10.1.0.3"), tunnel.Hooks{})
		defer late.stop()
		const interval, changes = int64(time.Second), 20
		began := s.now.Load()
		spis := map[[4]byte]bool{}
		network.Tap(func(_ *underlay.Batch, d []byte) { spis[[4]byte(d)] = true })
		s.db.Remove(event, nil)
		for i := range uint32(changes) {
			p := params(i, sa.Outbound)
			p.SendFrom, p.SendUntil = began+int64(i)*interval, began+int64(i+1)*interval
			s.install(p)
			if i > 0 {
				r.install(params(i, sa.Inbound))
			}
			if i >= 5 {
				late.install(params(i, sa.Inbound))
			}
		}
		var all [][]byte
		for i := range changes * 50 {
			p := udp(from, to, payload(100+i%1200, byte(i)))
			all = append(all, p)
			s.device.Send(p)
			if i%7 == 0 || i == changes*50-1 {
				synctest.Wait()
			}
			s.now.Add(interval / 50)
		}
		synctest.Wait()
		expect(t, r, all)
		if len(spis) < changes-1 {
			t.Errorf("%d keys were used", len(spis))
		}
		heard := late.device.Received()
		if len(heard) < 50*(changes-6) || len(heard) > 50*(changes-4) {
			t.Errorf("the late one heard %d packets", len(heard))
		}
		if late.dropsIn()[tunnel.UnknownSPI.String()] != uint64(len(all)-len(heard)) {
			t.Errorf("the late one dropped %v, heard %d", late.dropsIn(), len(heard))
		}
		// Behind the last key there is silence.
		s.now.Store(began + changes*interval)
		s.device.Send(all[0])
		expect(t, r, nil)
		expectDrops(t, s.dropsOut(), map[tunnel.Reason]uint64{tunnel.NoSA: 1})
	})
}

// What does not leave, and under which reason.
func TestOutboundDrops(t *testing.T) {
	igmp := []byte{0x46, 0xc0, 0, 40, 0, 0, 0x40, 0, 1, 2, 0, 0, 0, 0, 0, 0, 224, 0, 0, 22, 0x94, 4, 0, 0,
		0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 239, 1, 2, 3}
	v6 := func(next byte, body ...byte) []byte {
		b := make([]byte, 40, 40+len(body))
		b[0], b[5], b[6], b[7] = 0x60, byte(len(body)), next, 1
		return append(b, body...)
	}
	other := udp(from, netip.AddrPortFrom(group, 5005), payload(10, 0))
	fragment := udp(from, to, payload(100, 0))
	fragment[6] = 0x20
	setChecksums(fragment)
	later := bytes.Clone(fragment)
	later[6], later[7] = 0, 5
	setChecksums(later)
	long := udp(from, to, payload(100, 0))
	long[3]++
	truncated := udp(from, to, payload(100, 0))[:60]
	for _, c := range []struct {
		name   string
		packet []byte
		header device.Header
		want   tunnel.Reason
		count  uint64
	}{
		{"igmp", igmp, device.Header{}, tunnel.IGMP, 1},
		{"mld", v6(0, 58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0), device.Header{}, tunnel.MLD, 1},
		{"router solicitation", v6(58, 133, 0, 0, 0, 0, 0, 0, 0), device.Header{}, tunnel.RouterSolicitation, 1},
		{"ipv6", v6(17, 0, 1, 0, 1, 0, 8, 0, 0), device.Header{}, tunnel.IPv6, 1},
		{"other port", other, device.Header{}, tunnel.NoSelector, 1},
		{"other port, super", udp(from, netip.AddrPortFrom(group, 5005), payload(3000, 0)), device.Header{Kind: device.KindUDP, SegmentSize: 1000}, tunnel.NoSelector, 3},
		{"other source", udp(netip.MustParseAddrPort("10.1.0.9:1"), to, nil), device.Header{}, tunnel.NoSelector, 1},
		{"first fragment", fragment, device.Header{}, tunnel.Fragment, 1},
		{"later fragment", later, device.Header{}, tunnel.Fragment, 1},
		{"length too long", long, device.Header{}, tunnel.Malformed, 1},
		{"truncated", truncated, device.Header{}, tunnel.Malformed, 1},
		{"no IP", []byte{0x10, 1, 2, 3}, device.Header{}, tunnel.NotIP, 1},
		{"empty", nil, device.Header{}, tunnel.NotIP, 1},
		{"checksum outside", udp(from, to, nil), device.Header{NeedsChecksum: true, ChecksumStart: 20, ChecksumOffset: 60}, tunnel.Malformed, 1},
		{"super of no size", udp(from, to, payload(3000, 0)), device.Header{Kind: device.KindUDP}, tunnel.Malformed, 1},
		{"super of one byte more than it can be", udp(from, to, payload(65507, 0)), device.Header{}, tunnel.TooBig, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network, s, r := pair(t)
				defer s.stop()
				defer r.stop()
				network.Tap(func(*underlay.Batch, []byte) { t.Error("something left") })
				s.device.SendWith(c.header, c.packet)
				expect(t, r, nil)
				expectDrops(t, s.dropsOut(), map[tunnel.Reason]uint64{c.want: c.count})
			})
		})
	}
}

// A policy without a key, and one that discards: nothing leaves.
func TestNoKeyNoPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := underlaytest.NewNetwork()
		s := start(t, network, senderAddr, tunnel.Hooks{})
		defer s.stop()
		network.Tap(func(*underlay.Batch, []byte) { t.Error("something left") })
		s.device.Send(udp(from, to, payload(100, 0)))
		synctest.Wait()
		expectDrops(t, s.dropsOut(), map[tunnel.Reason]uint64{tunnel.NoSA: 1})

		discard := policy()
		discard.Action, discard.Association = sa.Discard, ""
		if err := s.db.SetPolicies(sa.OriginManual, []sa.Policy{discard}); err != nil {
			t.Fatal(err)
		}
		s.device.Send(udp(from, to, payload(100, 0)))
		synctest.Wait()
		expectDrops(t, s.dropsOut(), map[tunnel.Reason]uint64{tunnel.NoSA: 1, tunnel.Discarded: 1})
	})
}

// A key whose quota is used up sends nothing more.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := underlaytest.NewNetwork()
		s := start(t, network, senderAddr, tunnel.Hooks{})
		defer s.stop()
		p := params(0, sa.Outbound)
		p.QuotaBytes = 1000
		s.install(p)
		for range 20 {
			s.device.Send(udp(from, to, payload(172, 0)))
		}
		synctest.Wait()
		out := s.tunnel.Counters().Snapshot().Out
		if out.Packets == 0 || out.Packets > 5 || out.Packets+out.Dropped(tunnel.Exhausted) != 20 {
			t.Errorf("%d packets left under a quota of 1000 bytes, drops %v", out.Packets, out.Drops)
		}
	})
}

// One packet that the network refuses does not take its batch along.
func TestRefusedPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := underlaytest.NewNetwork()
		s, r := start(t, network, senderAddr, tunnel.Hooks{}), start(t, network, receiverAddr, tunnel.Hooks{})
		defer s.stop()
		defer r.stop()
		count := 0
		s.conn.Refuse = func([]byte) error {
			count++
			switch count {
			case 3:
				return underlay.ErrTooBig
			case 12:
				return errors.New("no buffer space")
			}
			return nil
		}
		r.device.Refuse = func(p []byte) error {
			if p[30] == payload(100, 7)[2] {
				return errors.New("down")
			}
			return nil
		}
		s.install(params(0, sa.Outbound))
		r.install(params(0, sa.Inbound))
		var want [][]byte
		for i := range 20 {
			p := udp(from, to, payload(100, byte(i)))
			if i != 2 && i != 7 && i != 11 {
				want = append(want, p)
			}
			s.device.Send(p)
			if i == 9 {
				synctest.Wait()
			}
		}
		expect(t, r, want)
		expectDrops(t, s.dropsOut(), map[tunnel.Reason]uint64{tunnel.TooBig: 1, tunnel.SendRefused: 1})
		expectDrops(t, r.dropsIn(), map[tunnel.Reason]uint64{tunnel.DeviceRefused: 1})
		if out := s.tunnel.Counters().Snapshot().Out; out.Packets != 18 {
			t.Errorf("%d packets counted as sent", out.Packets)
		}
	})
}

// The inner TOS goes outside, and a batch has one; congestion comes in.
func TestTOS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, s, r := pair(t)
		defer s.stop()
		defer r.stop()
		var seen [256]int
		network.Tap(func(b *underlay.Batch, _ []byte) { seen[b.TOS]++ })
		var want [][]byte
		for tos := range 256 {
			p := udp(from, to, payload(50, 0))
			p[1] = byte(tos)
			setChecksums(p)
			want = append(want, p)
			s.device.Send(p)
		}
		expect(t, r, want)
		for tos, n := range seen {
			if n != 1 {
				t.Errorf("%d packets left with TOS %02x", n, tos)
			}
		}
	})
}

// The table of RFC 6040 §4.2: a router marks what is under way.
func TestECN(t *testing.T) {
	const notECT, ect1, ect0, ce = 0, 1, 2, 3
	const drop = -1
	table := [4][4]int{ // [inner][outer]
		notECT: {notECT: notECT, ect0: notECT, ect1: notECT, ce: drop},
		ect0:   {notECT: ect0, ect0: ect0, ect1: ect1, ce: ce},
		ect1:   {notECT: ect1, ect0: ect1, ect1: ect1, ce: ce},
		ce:     {notECT: ce, ect0: ce, ect1: ce, ce: ce},
	}
	synctest.Test(t, func(t *testing.T) {
		network, s, r := pair(t)
		defer s.stop()
		defer r.stop()
		r.conn.Leave(group) // what comes straight from the sender
		wire := make(chan []byte, 1)
		network.Tap(func(_ *underlay.Batch, d []byte) { wire <- bytes.Clone(d) })
		for inner := range 4 {
			for outer := range 4 {
				p := udp(from, to, payload(50, 0))
				p[1] = 0xb8 | byte(inner)
				setChecksums(p)
				s.device.Send(p)
				datagram := <-wire
				synctest.Wait() // the sender's own copy has passed a host that did not join
				r.conn.Join(group)
				network.Inject(datagram, netip.AddrPortFrom(senderAddr, 4500), group, 0x28|byte(outer))
				synctest.Wait()
				r.conn.Leave(group)
				got := r.device.Received()
				switch want := table[inner][outer]; {
				case want == drop && len(got) != 0:
					t.Errorf("inner %d, outer %d: delivered", inner, outer)
				case want != drop && len(got) != 1:
					t.Errorf("inner %d, outer %d: lost", inner, outer)
				case want != drop:
					p[1] = 0xb8 | byte(want)
					setChecksums(p)
					if !bytes.Equal(got[0], p) {
						t.Errorf("inner %d, outer %d: %x, not %x", inner, outer, got[0][:20], p[:20])
					}
				}
			}
		}
		expectDrops(t, r.dropsIn(), map[tunnel.Reason]uint64{tunnel.Congestion: 1})
	})
}

// New refuses what is incomplete, Run a second run; an interface that is
// removed ends the run with an error.
func TestLife(t *testing.T) {
	if _, err := tunnel.New(tunnel.Config{}); !errors.Is(err, tunnel.ErrConfig) {
		t.Errorf("New without anything: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		network, s, r := pair(t)
		_ = network
		defer r.stop()
		synctest.Wait()
		if err := s.tunnel.Run(t.Context()); !errors.Is(err, tunnel.ErrRan) {
			t.Errorf("second run: %v", err)
		}
		s.device.Remove()
		if err := <-s.finished; !errors.Is(err, device.ErrClosed) {
			t.Errorf("the tunnel of a removed interface ended with %v", err)
		}
		s.cancel()

		woken := start(t, network, netip.MustParseAddr("10.1.0.4"), tunnel.Hooks{})
		synctest.Wait()
		woken.conn.Wake()
		if err := <-woken.finished; !errors.Is(err, tunnel.ErrWoken) {
			t.Errorf("the tunnel of a socket that waits no more ended with %v", err)
		}
		woken.cancel()
	})
}
