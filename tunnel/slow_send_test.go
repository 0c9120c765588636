package tunnel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"usher/sa"
	"usher/sa/esp"
	"usher/tunnel/device"
	"usher/tunnel/underlay"
)

// slow is a wire that takes its time: the clock moves on with each batch.
type slow struct {
	*wire
	sent func()
}

func (s *slow) Send(b *underlay.Batch) (int, error) {
	refused, err := s.wire.Send(b)
	s.sent()
	return refused, err
}

// An interface that stands still holds the loop up in the middle of a drain, but
// never lengthens a key: what is sealed after the key's end goes under the next one,
// or not at all. A member that was revoked could read it otherwise
// (docs/keying.md §6, "Sender's clock").
func TestKeyEndsWhileSending(t *testing.T) {
	super := burstOf(1, 40*1200)[0]
	_ = device.Header{NeedsChecksum: true, Kind: device.KindUDP, SegmentSize: 1200, ChecksumStart: 20, ChecksumOffset: 6}.Encode(super)
	for name, packets := range map[string][][]byte{
		"packets":       burstOf(120, 1200),
		"super-packets": {super, super, super},
	} {
		for _, next := range []bool{true, false} {
			tunnel, _, w := newBench(t, packets)
			w.keep = true
			db, now := tunnel.config.DB, int64(50)
			db.Remove("bench", nil)
			install := func(spi uint32, from, until int64) {
				s, err := sa.NewSA(sa.Params{
					Association: "bench", SPI: spi, Destinations: []netip.Addr{netip.MustParseAddr("232.1.2.3")}, Direction: sa.Outbound,
					Transform: esp.AES256GCM, Material: bytes.Repeat([]byte{1}, esp.MaterialLen), SendFrom: from, SendUntil: until,
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := db.Install(s); err != nil {
					t.Fatal(err)
				}
			}
			install(0x2000, 0, 100)
			if next {
				install(0x2001, 100, 0)
			}
			var ended int // datagrams under the first key that left after its end
			tunnel.config.BootNS = func() int64 { return now }
			tunnel.config.Underlay = &slow{w, func() {
				if now >= 100 && binary.BigEndian.Uint32(w.data[len(w.data)-1]) == 0x2000 {
					ended++
				}
				now += 60
			}}
			newOutbound(tunnel).pass(t)
			out := tunnel.Counters().Snapshot().Out
			if ended > 0 {
				t.Errorf("%s: %d batches left under a key that had ended", name, ended)
			}
			if total := out.Packets + out.Dropped(NoSA); total != 120 || next && out.Packets != 120 || !next && out.Packets == 120 {
				t.Errorf("%s, next key %v: %d sent, drops %v", name, next, out.Packets, out.Drops)
			}
		}
	}
}
