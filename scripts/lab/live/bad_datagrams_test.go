package live

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestBadDatagrams: another host sends what no member sends to the ESP port of a
// running receiver, under the sender's address, so that the network and the kernel
// let it through. Each kind is counted under its own reason, nothing reaches the
// player, the stream does not suffer, and the log does not fill.
func TestBadDatagrams(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.station("studio", "10.77.0.2"), w.station("viewer", "10.77.0.11")
	mallory := w.host("mallory", "10.77.0.66")
	// One key for all of it: a genuine packet stays one.
	w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}, interval: time.Minute})
	studio.join("News")
	viewer.join("News")
	player := viewer.plays(studio, "232.1.2.3:5004")
	wire := w.sniffBridge()
	const sendsASecond = 1500
	sends := studio.sends('n', sendsASecond, "232.1.2.3:5004")
	player.awaits(t, 'n', 0)
	player.awaitsMore(t, sends, 100)
	captured := sends.sent.Load()
	packets := seen(t, wire, "")
	var genuine []byte // the last long one: half of it still is as long as ESP has to be
	for _, p := range packets {
		if len(p.Payload) > 200 {
			genuine = p.Payload
		}
	}
	if err := wire.Stop(); err != nil {
		t.Error(err)
	}

	inject := mallory.injector(t)
	source := netip.AddrPortFrom(studio.Addr(), espPort)
	group := netip.MustParseAddrPort(fmt.Sprintf("232.1.2.3:%d", espPort))
	// with changes a copy of the genuine packet: its 8 bytes of IV are the sender's
	// id and a counter.
	with := func(sender uint16, counter uint64, length int) []byte {
		b := bytes.Clone(genuine)
		binary.BigEndian.PutUint64(b[8:], uint64(sender)<<48|counter&(1<<48-1))
		for len(b) < length {
			b = append(b, b...)
		}
		return b[:length]
	}
	iv := binary.BigEndian.Uint64(genuine[8:])
	own, counter := uint16(iv>>48), iv&(1<<48-1)
	foreign := own + 1 // an id that nobody has
	random := func(n int) []byte {
		b := make([]byte, n)
		rand.Read(b) //nolint:errcheck // never fails
		return b
	}
	flipped := with(foreign, counter, len(genuine))
	flipped[len(flipped)-1] ^= 1

	const each, replayWindow = 500, 8128 // the window: docs/design.md §3
	kinds := []struct {
		name, reason string
		make         func() []byte
	}{
		{"empty", "short", func() []byte { return nil }},
		{"truncated", "short", func() []byte { return genuine[:20] }},
		// ESP packets are whole words long (RFC 4303 §2.4).
		{"cut_off", "bad_icv", func() []byte { return with(foreign, counter, len(genuine)/8*4) }},
		{"oversized", "bad_icv", func() []byte { return with(foreign, counter, 20000) }},
		{"forged", "bad_icv", func() []byte { return append(with(foreign, counter, 16), random(300)...) }},
		{"one_bit", "bad_icv", func() []byte { return flipped }},
		{"garbage", "unknown_spi", func() []byte { return append([]byte{0xde, 0xad, 0xbe, 0xef}, random(200)...) }},
		{"replayed", "replay_seen", func() []byte { return genuine }},
		{"far_ahead", "replay_jump", func() []byte { return with(own, 1<<48-1, len(genuine)) }},
		{"before_the_window", "replay_old", func() []byte { return genuine }}, // the last: it has to grow old
	}
	before := viewer.status()
	lines := len(viewer.agent.lines(t))
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			viewer, inject := viewer.on(t), *inject
			inject.t = t
			if k.reason == "replay_old" {
				player.awaits(t, 'n', captured+replayWindow+sendsASecond)
			}
			was := viewer.status()
			for n := range each {
				inject.udp(source, group, k.make())
				if n%50 == 49 {
					// The kernel's buffer is not what is tested.
					player.awaitsMore(t, sends, 1)
				}
			}
			eventually(t, "the count", func() error {
				is := viewer.status()
				for _, d := range is.Drops {
					if grown := d.Packets - was.dropped(d.Reason); d.Reason == k.reason && grown != each || d.Reason != k.reason && grown > 0 && !quiet[d.Reason] {
						return fmt.Errorf("%s grew by %d", d.Reason, grown)
					}
				}
				if is.dropped(k.reason) == was.dropped(k.reason) {
					return fmt.Errorf("%s did not grow", k.reason)
				}
				return nil
			})
		})
	}
	t.Run("daemon_runs_on", func(t *testing.T) {
		after := viewer.on(t).status()
		if viewer.agent.ended() || after.PID != before.PID {
			t.Errorf("the agent ended: pid %d, then %d", before.PID, after.PID)
		}
		// A line for a reason and minute: with what the test takes, two at most.
		said := viewer.agent.lines(t)[lines:]
		for _, k := range kinds {
			if n := len(slices.DeleteFunc(slices.Clone(said), func(line string) bool { return !strings.Contains(line, k.reason) })); n > 2 {
				t.Errorf("the log has %d lines on %s", n, k.reason)
			}
		}
		if len(said) > 20 {
			t.Errorf("the log grew by %d lines:\n%s", len(said), strings.Join(said, "\n"))
		}
	})
	t.Run("stream_unharmed", func(t *testing.T) {
		last := sends.halt(t) - 1
		player.awaits(t, 'n', last)
		if first, end := player.unbroken(t, 'n'); end != last || last-first < 200 {
			t.Errorf("%d to %d of %d", first, end, last)
		}
	})
}

// quiet are reasons that grow by themselves on any host.
var quiet = map[string]bool{"igmp": true, "mld": true, "router_solicitation": true}
