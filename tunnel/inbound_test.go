package tunnel_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"usher/sa"
	"usher/sa/esp"
	"usher/tunnel"
	"usher/tunnel/underlay"
	"usher/tunnel/underlay/underlaytest"
)

// forge seals whatever it is given under the event's key, as a member could.
type forge struct {
	cipher  *esp.Cipher
	counter uint64
}

func newForge(t testing.TB) *forge {
	t.Helper()
	c, err := esp.New(esp.AES256GCM, params(0, sa.Outbound).Material)
	if err != nil {
		t.Fatal(err)
	}
	return &forge{cipher: c}
}

// seal makes the next datagram of sender 9.
func (f *forge) seal(inner []byte, next uint8) []byte {
	f.counter++
	return f.sealAt(inner, next, f.counter)
}

func (f *forge) sealAt(inner []byte, next uint8, counter uint64) []byte {
	b := make([]byte, esp.HeaderLen+len(inner)+esp.Overhead)
	copy(b[esp.HeaderLen:], inner)
	return f.cipher.Seal(b, len(inner), 0x1000, uint32(counter), 9<<48|counter, next)
}

// Each kind of bad datagram is dropped under its own reason, does no harm to
// the good ones before and after, and reaches nobody.
func TestInboundDrops(t *testing.T) {
	good := udp(from, to, payload(100, 0))
	edit := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	other := udp(from, netip.AddrPortFrom(group, 5005), nil)
	for _, c := range []struct {
		name string
		make func(f *forge) []byte
		want tunnel.Reason
	}{
		{"empty", func(*forge) []byte { return nil }, tunnel.Short},
		{"keepalive", func(*forge) []byte { return []byte{0xff} }, tunnel.Keepalive},
		{"one byte", func(*forge) []byte { return []byte{0xfe} }, tunnel.Short},
		{"three bytes", func(*forge) []byte { return []byte{0xff, 0xff, 0xff} }, tunnel.Short},
		{"SPI only", func(*forge) []byte { return []byte{0, 0, 0x10, 0} }, tunnel.Short},
		{"no whole words", func(f *forge) []byte { return append(f.seal(good, 4), 0) }, tunnel.Short},
		{"garbage", func(*forge) []byte { return payload(1300, 77) }, tunnel.UnknownSPI},
		{"garbage behind the right SPI", func(*forge) []byte { return append([]byte{0, 0, 0x10, 0}, payload(1200, 1)...) }, tunnel.ReplayJump},
		{"garbage behind a right header", func(f *forge) []byte {
			return append(bytes.Clone(f.seal(good, 4)[:esp.HeaderLen]), payload(1200, 1)...)
		}, tunnel.BadICV},
		{"cut by a word", func(f *forge) []byte { b := f.seal(good, 4); return b[:len(b)-4] }, tunnel.BadICV},
		{"a word longer", func(f *forge) []byte { return append(f.seal(good, 4), 0, 0, 0, 0) }, tunnel.BadICV},
		{"another's sequence number", func(f *forge) []byte { b := f.seal(good, 4); b[7]++; return b }, tunnel.BadICV},
		{"oversized", func(f *forge) []byte { return append(f.seal(good, 4), make([]byte, 60000)...) }, tunnel.BadICV},
		{"seen", func(f *forge) []byte { return f.sealAt(good, 4, 1) }, tunnel.ReplaySeen},
		{"old", func(f *forge) []byte { return f.sealAt(good, 4, 100) }, tunnel.ReplayOld},
		{"jump", func(f *forge) []byte { return f.sealAt(good, 4, 1<<48-1) }, tunnel.ReplayJump},
		{"dummy", func(f *forge) []byte { return f.seal(payload(100, 0), 59) }, tunnel.Dummy},
		{"inner IPv6", func(f *forge) []byte { return f.seal(payload(100, 0), 41) }, tunnel.IPv6},
		{"inner TCP as transport mode", func(f *forge) []byte { return f.seal(payload(100, 0), 6) }, tunnel.NextHeader},
		{"no IP inside", func(f *forge) []byte { return f.seal([]byte{0x10, 2, 3, 4}, 4) }, tunnel.NotIP},
		{"nothing inside", func(f *forge) []byte { return f.seal(nil, 4) }, tunnel.NotIP},
		{"version against next header", func(f *forge) []byte {
			return f.seal(append([]byte{0x60, 0, 0, 0, 0, 0, 59, 1}, make([]byte, 32)...), 4)
		}, tunnel.Malformed},
		{"inner length too long", func(f *forge) []byte { return f.seal(edit(func(b []byte) { b[3]++ }), 4) }, tunnel.Malformed},
		{"inner header too short", func(f *forge) []byte { return f.seal(edit(func(b []byte) { b[0] = 0x44 }), 4) }, tunnel.Malformed},
		{"inner cut in its header", func(f *forge) []byte { return f.seal(good[:19], 4) }, tunnel.Malformed},
		{"inner fragment", func(f *forge) []byte { return f.seal(edit(func(b []byte) { b[6] = 0x20 }), 4) }, tunnel.Fragment},
		{"another port", func(f *forge) []byte { return f.seal(other, 4) }, tunnel.SelectorMismatch},
		{"another source", func(f *forge) []byte { return f.seal(udp(netip.MustParseAddrPort("10.1.0.66:1"), to, nil), 4) }, tunnel.SelectorMismatch},
		{"another destination", func(f *forge) []byte { return f.seal(udp(from, netip.MustParseAddrPort("10.1.0.2:5004"), nil), 4) }, tunnel.SelectorMismatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := underlaytest.NewNetwork()
				r := start(t, network, receiverAddr, tunnel.Hooks{})
				defer r.stop()
				p := params(0, sa.Inbound)
				p.Initiation = r.now.Load() - int64(time.Second)
				r.install(p)
				f := newForge(t)
				inject := func(d []byte) { network.Inject(d, netip.AddrPortFrom(senderAddr, 4500), group, 0) }
				inject(f.seal(good, 4))
				if c.want == tunnel.ReplayOld {
					f.counter = 20000
					inject(f.seal(good, 4))
					expect(t, r, [][]byte{good, good})
				} else {
					expect(t, r, [][]byte{good})
				}
				inject(c.make(f))
				inject(f.seal(good, 4))
				expect(t, r, [][]byte{good})
				expectDrops(t, r.dropsIn(), map[tunnel.Reason]uint64{c.want: 1})
			})
		})
	}
}

// Every bit that is turned on the way is found; every packet that is played
// back is found; the untouched ones arrive.
func TestForgedAndReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, s, r := pair(t)
		defer s.stop()
		defer r.stop()
		p := udp(from, to, payload(20, 0))
		var recorded [][]byte
		network.Wire(func(d []byte) [][]byte {
			recorded = append(recorded, bytes.Clone(d))
			return [][]byte{d, d}
		})
		s.device.Send(p)
		expect(t, r, [][]byte{p})
		expectDrops(t, r.dropsIn(), map[tunnel.Reason]uint64{tunnel.ReplaySeen: 1})

		forged := uint64(0)
		network.Wire(func(d []byte) [][]byte {
			var arriving [][]byte
			for bit := 32; bit < 8*len(d); bit++ { // from behind the SPI on
				f := bytes.Clone(d)
				f[bit/8] ^= 1 << (bit % 8)
				arriving = append(arriving, f)
			}
			forged += uint64(len(arriving))
			return append(arriving, d)
		})
		s.device.Send(p)
		expect(t, r, [][]byte{p})
		dropped := r.dropsIn()
		// A turned bit of the counter may look like one that came before.
		if n := dropped["bad_icv"] + dropped["replay_seen"] + dropped["replay_old"] + dropped["replay_jump"] - 1; n != forged {
			t.Errorf("%d of %d forged ones dropped: %v", n, forged, dropped)
		}
		if dropped["bad_icv"] < forged*9/10 {
			t.Errorf("%v", dropped)
		}
	})
}

// Packets that the network puts out of order arrive all, once.
func TestReordered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, s, r := pair(t)
		defer s.stop()
		defer r.stop()
		random := rand.New(rand.NewPCG(3, 4))
		var held [][]byte
		network.Wire(func(d []byte) [][]byte { held = append(held, d); return nil })
		want := map[string]bool{}
		for i := range 4000 {
			p := udp(from, to, binary.BigEndian.AppendUint32(nil, uint32(i)))
			want[string(p)] = true
			s.device.Send(p)
		}
		synctest.Wait()
		random.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		for _, d := range held {
			network.Inject(d, netip.AddrPortFrom(senderAddr, 4500), group, 0)
		}
		synctest.Wait()
		for _, p := range r.device.Received() {
			if !want[string(p)] {
				t.Fatal("a packet came twice, or changed")
			}
			delete(want, string(p))
		}
		if len(want) > 0 {
			t.Errorf("%d packets lost: %v", len(want), r.dropsIn())
		}
	})
}

// A key whose time is over opens nothing more.
func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := underlaytest.NewNetwork()
		s, r := start(t, network, senderAddr, tunnel.Hooks{}), start(t, network, receiverAddr, tunnel.Hooks{})
		defer s.stop()
		defer r.stop()
		s.install(params(0, sa.Outbound))
		p := params(0, sa.Inbound)
		p.AcceptUntil = r.now.Load() + int64(time.Second)
		r.install(p)
		packet := udp(from, to, payload(100, 0))
		s.device.Send(packet)
		expect(t, r, [][]byte{packet})
		r.now.Add(int64(time.Second))
		s.device.Send(packet)
		expect(t, r, nil)
		expectDrops(t, r.dropsIn(), map[tunnel.Reason]uint64{tunnel.Expired: 1})
		r.db.Expire(r.now.Load())
		s.device.Send(packet)
		expect(t, r, nil)
		expectDrops(t, r.dropsIn(), map[tunnel.Reason]uint64{tunnel.Expired: 1, tunnel.UnknownSPI: 1})
	})
}

// Padding against traffic analysis behind the inner packet does not reach the
// application (RFC 4303 §2.7).
func TestTrafficPadding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := underlaytest.NewNetwork()
		r := start(t, network, receiverAddr, tunnel.Hooks{})
		defer r.stop()
		r.install(params(0, sa.Inbound))
		good := udp(from, to, payload(100, 0))
		network.Inject(newForge(t).seal(append(bytes.Clone(good), payload(500, 0)...), 4), netip.AddrPortFrom(senderAddr, 4500), group, 0)
		expect(t, r, [][]byte{good})
	})
}

// Control datagrams and unknown SPIs reach their hooks.
func TestHooks(t *testing.T) {
	type unknown struct {
		spi                 uint32
		source, destination netip.Addr
	}
	synctest.Test(t, func(t *testing.T) {
		var control []string
		var spis []unknown
		network := underlaytest.NewNetwork()
		r := start(t, network, receiverAddr, tunnel.Hooks{
			ControlIn: func(b []byte, from netip.AddrPort) { control = append(control, string(b)+" from "+from.String()) },
			UnknownSPI: func(spi uint32, source, destination netip.Addr) {
				spis = append(spis, unknown{spi, source, destination})
			},
		})
		defer r.stop()
		peer := netip.AddrPortFrom(senderAddr, 4500)
		network.Inject([]byte{0, 0, 0, 0, 'h', 'i'}, peer, receiverAddr, 0)
		network.Inject([]byte{0, 0, 0, 0}, peer, receiverAddr, 0)
		network.Inject(payload(100, 0x42), peer, group, 0)
		synctest.Wait()
		if len(control) != 2 || control[0] != "hi from 10.1.0.1:4500" || control[1] != " from 10.1.0.1:4500" {
			t.Errorf("control datagrams: %q", control)
		}
		if want := (unknown{0x42495057, senderAddr, group}); len(spis) != 1 || spis[0] != want {
			t.Errorf("unknown SPIs: %v", spis)
		}
		if n := r.tunnel.Counters().Snapshot().Control; n != 2 {
			t.Errorf("%d control datagrams counted", n)
		}
	})
}

// FuzzInbound gives the way in arbitrary datagrams, as they are and sealed by
// a member: it survives them, counts each once, and delivers nothing but IPv4
// packets of the association.
func FuzzInbound(f *testing.F) {
	good := udp(from, to, payload(40, 0))
	member := newForge(f)
	seeds := [][]byte{nil, {0xff}, {0, 0, 0, 0, 1}, good, good[:27], member.seal(good, 4), payload(200, 1)}
	for n := range len(good) {
		seeds = append(seeds, good[:n])
	}
	for _, s := range seeds {
		f.Add(s, uint8(0))
	}
	if len(seeds) < 20 {
		f.Fatal("the corpus is gone")
	}
	f.Fuzz(func(t *testing.T, b []byte, tos uint8) {
		if len(b) > 2000 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			network := underlaytest.NewNetwork()
			r := start(t, network, receiverAddr, tunnel.Hooks{})
			defer r.stop()
			r.install(params(0, sa.Inbound))
			f := newForge(t)
			f.counter = 1 << 20
			network.Inject(b, netip.AddrPortFrom(senderAddr, 4500), group, tos)
			network.Inject(f.seal(b, 4), netip.AddrPortFrom(senderAddr, 4500), group, tos)
			synctest.Wait()
			count := r.tunnel.Counters().Snapshot()
			total := count.In.Packets + count.Control
			for _, n := range count.In.Drops {
				total += n
			}
			if total != 2 {
				t.Errorf("2 datagrams came, %d are accounted for: %+v", total, count)
			}
			for _, p := range r.device.Received() {
				if len(p) < 28 || p[0]>>4 != 4 || [4]byte(p[16:20]) != group.As4() || [4]byte(p[12:16]) != senderAddr.As4() {
					t.Errorf("delivered %x", p)
				}
			}
		})
	})
}

// FuzzOutbound gives the way out arbitrary packets with arbitrary offload
// headers: it survives them, and nothing leaves that is not ESP.
func FuzzOutbound(f *testing.F) {
	seeds := 0
	for n := range 60 {
		f.Add(append(make([]byte, 10), udp(from, to, payload(40, 0))[:n]...))
		f.Add(append([]byte{1, 5, 0, 0, 7, 0, 20, 0, 6, 0}, udp(from, to, payload(40, 0))[:n+8]...))
		seeds++
	}
	if seeds == 0 {
		f.Fatal("the corpus is gone")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 3000 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			network := underlaytest.NewNetwork()
			s := start(t, network, senderAddr, tunnel.Hooks{})
			defer s.stop()
			s.install(params(0, sa.Outbound))
			left := uint64(0)
			network.Tap(func(_ *underlay.Batch, d []byte) {
				left++
				if [4]byte(d) != [4]byte{0, 0, 0x10, 0} {
					t.Errorf("%x left", d)
				}
			})
			s.device.SendRaw(b)
			synctest.Wait()
			out := s.tunnel.Counters().Snapshot().Out
			if out.Packets != left {
				t.Errorf("%d packets counted, %d left", out.Packets, left)
			}
			total := out.Packets
			for _, n := range out.Drops {
				total += n
			}
			if total == 0 {
				t.Error("the packet is not accounted for")
			}
		})
	})
}
