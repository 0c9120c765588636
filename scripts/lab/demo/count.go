package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"usher/scripts/lab/stream"
)

// wire is what the captures say, read once.
type wire struct {
	record *record
	sent   []stream.Datagram // what the sender's application gave to usher0
	bridge []stream.Datagram // to the group on the bridge, from anybody but mallory
	forged []stream.Datagram // to the group on the bridge, from mallory
	keys   []keyPeriod
}

// keyPeriod is the time of one SPI on the bridge, from its first packet on.
type keyPeriod struct {
	spi     uint32
	from    time.Time
	packets int
}

// count reads the captures and fills in the figures and the claims.
func count(ctx context.Context, r *record, dir string) (*wire, *Figures, error) {
	w, err := readWire(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	f := &Figures{
		Receivers:           map[string]*Receiver{},
		ForgedCleartextSent: len(w.forged),
		ServersDownS:        r.serversBack.Sub(r.serversDown).Seconds(),
	}
	for _, datagram := range w.bridge {
		switch datagram.Port {
		case espPort:
			f.CiphertextPackets++
		default:
			f.CleartextPackets++
		}
	}
	for _, key := range w.keys {
		f.Intervals = append(f.Intervals, IntervalFigures{SPI: spiText(key.spi), FromS: w.since(key.from), Packets: key.packets})
	}
	frames, err := readFrames(r.sentFrames)
	if err != nil {
		return nil, nil, err
	}
	f.Sender = SenderFigures{
		DatagramsByApplication: len(w.sent), ExitStatus: r.senderExit, FramesEncoded: len(frames),
		RanBeforeKey: r.senderRanBefore.Before(r.joined["sender"]),
	}
	if len(w.keys) > 0 {
		for _, datagram := range w.sent {
			if datagram.At.Before(w.keys[0].from) {
				f.Sender.BeforeFirstKey++
			}
		}
	}
	for _, name := range receivers {
		if f.Receivers[name], err = w.receiver(ctx, name, frames); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		f.ForgedCleartextDelivered += int(r.ears[name].forged.Load())
	}
	if f.Mallory, err = w.mallory(ctx); err != nil {
		return nil, nil, err
	}
	if f.Tshark, err = w.decrypt(ctx, dir); err != nil {
		return nil, nil, err
	}
	f.Claims = claims(w, f)
	return w, f, nil
}

func spiText(spi uint32) string { return fmt.Sprintf("0x%08x", spi) }

// since is seconds after the event's start.
func (w *wire) since(at time.Time) float64 { return at.Sub(w.record.start).Seconds() }

func readFrames(file string) ([]int64, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	frames, err := stream.ReadFrames(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return frames, nil
}

func readWire(ctx context.Context, r *record) (*wire, error) {
	w := &wire{record: r}
	var err error
	if w.sent, err = stream.ReadCapture(ctx, r.captures["sender"], "udp"); err != nil {
		return nil, err
	}
	all, err := stream.ReadCapture(ctx, r.captures["bridge"], "udp && ip.dst == "+group)
	if err != nil {
		return nil, err
	}
	for _, datagram := range all {
		if datagram.HardwareSrc == r.malloryMAC {
			w.forged = append(w.forged, datagram)
			continue
		}
		w.bridge = append(w.bridge, datagram)
		if datagram.Port != espPort || len(datagram.Payload) < 8 {
			continue
		}
		spi := beUint32(datagram.Payload)
		if n := len(w.keys); n == 0 || w.keys[n-1].spi != spi {
			w.keys = append(w.keys, keyPeriod{spi: spi, from: datagram.At})
		}
		w.keys[len(w.keys)-1].packets++
	}
	return w, nil
}

func beUint32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// receiver counts what one player saw.
func (w *wire) receiver(ctx context.Context, name string, sentFrames []int64) (*Receiver, error) {
	got, err := stream.ReadCapture(ctx, w.record.captures[name], "udp")
	if err != nil {
		return nil, err
	}
	got = stream.Split(got, datagramLen)
	indexes, err := stream.Match(w.sent, got)
	if err != nil {
		return nil, fmt.Errorf("what came out of usher0: %w", err)
	}
	decoded, err := readFrames(w.record.decoded[name])
	if err != nil {
		return nil, err
	}
	received := stream.Frames(got)
	due := stream.FromFirstKeyFrame(sentFrames, received)
	shown := stream.Both(due, decoded)
	r := &Receiver{
		FramesSent: len(due), FramesDecoded: len(shown),
		PacketsReceived: len(got), PacketsLost: stream.Lost(indexes),
		EarGenuine: int(w.record.ears[name].genuine.Load()),
	}
	joined := w.since(w.record.joined[name])
	r.JoinedAtS = &joined
	if len(got) > 0 {
		first, last := got[0].At, got[len(got)-1].At
		r.FirstPacketS, r.LastPacketS = w.since(first), w.since(last)
		for _, key := range w.keys[1:] {
			if key.from.After(first) && key.from.Before(last) {
				r.KeyChanges++
			}
		}
	}
	if name == "bob" {
		killed := w.since(w.record.bobKilled)
		r.AgentKilledAt = &killed
		r.KeysHeld = w.record.bobKeys
		if dark, ok := w.darkAfter(got, received, shown); ok {
			r.DarkAfterS = &dark
		}
	}
	return r, nil
}

// darkAfter is when bob's last decoded frame came, less the end of the last
// interval whose key he held: the first packet under the key that followed it.
func (w *wire) darkAfter(got []stream.Datagram, received []stream.Frame, shown []int64) (float64, bool) {
	if len(shown) == 0 {
		return 0, false
	}
	var end time.Time
	for i, key := range w.keys[:len(w.keys)-1] {
		if slices.Contains(w.record.bobKeys, spiText(key.spi)) {
			end = w.keys[i+1].from
		}
	}
	if end.IsZero() {
		return 0, false
	}
	last := slices.Max(shown)
	for _, frame := range received {
		if frame.PTS == last {
			return got[frame.Last].At.Sub(end).Seconds(), true
		}
	}
	return 0, false
}

// mallory counts what reached the outsider.
func (w *wire) mallory(ctx context.Context) (MalloryFigures, error) {
	var f MalloryFigures
	got, err := stream.ReadCapture(ctx, w.record.captures["mallory"], "udp && ip.dst == "+group)
	if err != nil {
		return f, err
	}
	// Where an inner payload would begin if nothing had been encrypted: behind the
	// ESP header, the inner IP header and the inner UDP header.
	const innerPayload, piece = 16 + 20 + 8, 32
	pieces := map[string]bool{}
	for _, datagram := range w.sent {
		if len(datagram.Payload) >= piece {
			pieces[string(datagram.Payload[:piece])] = true
		}
	}
	for _, datagram := range got {
		if datagram.Port != espPort {
			f.CleartextReceived++
			continue
		}
		f.CiphertextReceived++
		if p := datagram.Payload; len(p) >= innerPayload+piece && pieces[string(p[innerPayload:innerPayload+piece])] {
			f.ReadableReceived++
		}
	}
	return f, nil
}
