package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"html"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"usher/scripts/lab/stream"
)

// picture is what one host saw of the event, over time.
type picture struct {
	host, subtitle string
	bars           []float64 // an instant for each frame (or datagram), seconds since the start
	barUnit        string
	thumbs         []thumb
	marks          []mark
}

// thumb is a small image that the host saw at an instant.
type thumb struct {
	at   float64
	mime string
	data []byte
}

// mark is something that happened to the host.
type mark struct {
	at   float64
	text string
}

// drawAll writes a picture for each host that is on the stream's way.
func drawAll(ctx context.Context, out io.Writer, w *wire, dir string) error {
	pictures, err := w.pictures(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "pictures:")
	for _, p := range pictures {
		file := filepath.Join(dir, p.host+".svg")
		if err := os.WriteFile(file, []byte(p.svg(w)), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(out, "  %s\n", file)
	}
	return nil
}

// pictures gathers what each host saw.
func (w *wire) pictures(ctx context.Context) ([]picture, error) {
	when := map[int64]float64{} // PTS → the instant at which the frame was sent
	sender := picture{host: "sender", subtitle: "frames that ffmpeg gave to usher0; pale: kept in, there was no key", barUnit: "frames"}
	for _, frame := range stream.Frames(w.sent) {
		at := w.since(w.sent[frame.First].At)
		when[frame.PTS] = at
		sender.bars = append(sender.bars, at)
	}
	sender.marks = []mark{{w.since(w.record.senderRanBefore), "ffmpeg starts"}, {w.since(w.record.joined["sender"]), "usher join"}}
	all := []picture{sender}
	for _, name := range receivers {
		p, err := w.receiverPicture(name, when)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	mallory, err := w.malloryPicture(ctx)
	if err != nil {
		return nil, err
	}
	return append(all, mallory), nil
}

func (w *wire) receiverPicture(name string, when map[int64]float64) (picture, error) {
	p := picture{host: name, subtitle: "frames that the player decoded", barUnit: "frames"}
	decoded, err := readFrames(w.record.decoded[name])
	if err != nil {
		return p, err
	}
	for _, pts := range decoded {
		if at, sent := when[pts]; sent {
			p.bars = append(p.bars, at)
		}
	}
	files, err := filepath.Glob(filepath.Join(w.record.thumbnails[name], "*.jpg"))
	if err != nil {
		return p, err
	}
	for _, file := range files {
		number, err := strconv.ParseInt(strings.TrimSuffix(filepath.Base(file), ".jpg"), 10, 64)
		if err != nil {
			return p, fmt.Errorf("thumbnail %s: %w", file, err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return p, err
		}
		if at, sent := when[number*stream.TicksPerSecond/framesASecond]; sent {
			p.thumbs = append(p.thumbs, thumb{at, "image/jpeg", data})
		}
	}
	p.marks = []mark{{w.since(w.record.playerStarted[name]), "player starts"}, {w.since(w.record.joined[name]), "usher join"},
		{w.since(w.record.serversDown), "servers stop"}, {w.since(w.record.serversBack), "servers back"}}
	if name == "bob" {
		p.marks = append(p.marks, mark{w.since(w.record.bobKilled), "agent killed"},
			mark{w.since(w.record.bobBack), "agent back"}, mark{w.since(w.record.suspended), "suspended"})
	}
	return p, nil
}

// malloryPicture draws ciphertext as what it is to her.
func (w *wire) malloryPicture(ctx context.Context) (picture, error) {
	p := picture{host: "mallory", subtitle: "datagrams from the wire, drawn byte for byte: there is nothing to decode", barUnit: "datagrams"}
	got, err := stream.ReadCapture(ctx, w.record.captures["mallory"], "udp && ip.dst == "+group)
	if err != nil {
		return p, err
	}
	second := -1 << 20
	var bytesOfSecond []byte
	flush := func() {
		if data := noise(bytesOfSecond); data != nil {
			p.thumbs = append(p.thumbs, thumb{float64(second), "image/png", data})
		}
		bytesOfSecond = nil
	}
	for _, datagram := range got {
		at := w.since(datagram.At)
		p.bars = append(p.bars, at)
		if int(at) != second {
			flush()
			second = int(at)
		}
		bytesOfSecond = append(bytesOfSecond, datagram.Payload...)
	}
	flush()
	p.marks = []mark{{malloryInjects.Seconds(), "begins to inject"}}
	return p, nil
}

// noise draws bytes as grey pixels, nil where there are not enough of them.
func noise(data []byte) []byte {
	const width, height = 128, 72
	if len(data) < width*height {
		return nil
	}
	img := image.NewGray(image.Rect(0, 0, width, height))
	for i := range width * height {
		img.SetGray(i%width, i/width, color.Gray{Y: data[i]})
	}
	var out bytes.Buffer
	if png.Encode(&out, img) != nil {
		return nil
	}
	return out.Bytes()
}

// Geometry of a picture, in pixels.
const (
	left, right            = 24, 24
	pixelsASecond          = 22
	fromSecond, tillSecond = -9, 42
	titleY, bandY, bandH   = 34, 66, 26
	barsY, barsH           = 108, 70
	thumbY, thumbW, thumbH = 196, 43, 24
	marksY, markStep       = 268, 18
	barSecond              = 0.2
)

func x(at float64) float64 { return left + (at-fromSecond)*pixelsASecond }

// svg draws the picture: keys on the wire, bars, thumbnails, and what happened.
func (p picture) svg(w *wire) string {
	var b strings.Builder
	width := left + right + (tillSecond-fromSecond)*pixelsASecond
	height := marksY + markStep*(len(p.marks)+1) + 30
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="DejaVu Sans, Verdana, sans-serif" font-size="11">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<title>What %s saw of “%s”</title>`+"\n", p.host, html.EscapeString(title))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fbfaf7"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="18" font-weight="bold" fill="#22252a">%s</text>`, left, titleY, p.host)
	fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#5c6068">%s</text>`+"\n", left+110, titleY, html.EscapeString(p.subtitle))
	p.drawKeys(&b, w)
	p.drawBars(&b, w)
	p.drawThumbs(&b, w)
	p.drawMarks(&b, height)
	b.WriteString("</svg>\n")
	return b.String()
}

// hue sets neighbouring keys apart.
func hue(i int) int { return (i*137 + 200) % 360 }

func (p picture) keyAt(w *wire, at float64) int {
	found := -1
	for i, key := range w.keys {
		if w.since(key.from) <= at {
			found = i
		}
	}
	return found
}

func (p picture) drawKeys(b *strings.Builder, w *wire) {
	for i, key := range w.keys {
		from, till := w.since(key.from), w.since(w.record.end)
		if i+1 < len(w.keys) {
			till = w.since(w.keys[i+1].from)
		}
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="hsl(%d 55%% 78%%)"/>`, x(from), bandY, x(till)-x(from)-1, bandH, hue(i))
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#22252a">key %d · %s</text>`+"\n", x(from)+5, bandY+17, i, spiText(key.spi))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="#5c6068">keys on the wire</text>`+"\n", left, bandY+17)
	for s := fromSecond; s <= tillSecond; s++ {
		long := 3
		if s%5 == 0 {
			long = 6
			fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" font-size="10" fill="#5c6068">%d s</text>`, x(float64(s)), barsY+barsH+14, s)
		}
		fmt.Fprintf(b, `<path d="M%.1f %d v%d" stroke="#5c6068"/>`+"\n", x(float64(s)), barsY+barsH, long)
	}
}

func (p picture) drawBars(b *strings.Builder, w *wire) {
	counts := map[int]int{}
	most := 1
	for _, at := range p.bars {
		bin := int((at - fromSecond) / barSecond)
		counts[bin]++
		most = max(most, counts[bin])
	}
	for bin := range int((tillSecond - fromSecond) / barSecond) {
		n := counts[bin]
		if n == 0 {
			continue
		}
		at := fromSecond + float64(bin)*barSecond
		h := float64(n) / float64(most) * barsH
		fill := "#d3d0c8"
		if key := p.keyAt(w, at+barSecond/2); key >= 0 {
			fill = fmt.Sprintf("hsl(%d 50%% 45%%)", hue(key))
		}
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x(at), barsY+barsH-h, barSecond*pixelsASecond-0.6, h, fill)
	}
	fmt.Fprintf(b, `<path d="M%d %d H%d" stroke="#5c6068"/>`, left, barsY+barsH, int(x(tillSecond)))
	fmt.Fprintf(b, `<text x="%d" y="%d" font-size="10" fill="#5c6068">%s in %.1f s, at most %d</text>`+"\n", left, barsY+10, p.barUnit, barSecond, most)
}

// drawThumbs draws one image every two seconds; black where the host saw nothing
// though there was something to see.
func (p picture) drawThumbs(b *strings.Builder, w *wire) {
	if len(p.thumbs) == 0 {
		return
	}
	const every = 2.0
	for at := 0.0; at < w.since(w.record.end)-1; at += every {
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%d" height="%d" fill="#111"/>`, x(at), thumbY, thumbW, thumbH)
		for _, t := range p.thumbs {
			if t.at >= at && t.at < at+every {
				fmt.Fprintf(b, `<image x="%.1f" y="%d" width="%d" height="%d" preserveAspectRatio="none" href="data:%s;base64,%s"/>`+"\n",
					x(at), thumbY, thumbW, thumbH, t.mime, base64.StdEncoding.EncodeToString(t.data))
				break
			}
		}
	}
}

func (p picture) drawMarks(b *strings.Builder, height int) {
	for i, m := range p.marks {
		y := marksY + markStep*i
		fmt.Fprintf(b, `<path d="M%.1f %d V%d" stroke="#b3261e" stroke-dasharray="2 3"/>`, x(m.at), bandY-6, y)
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%d" r="3" fill="#b3261e"/><text x="%.1f" y="%d" fill="#22252a">%s (%+.1f s)</text>`+"\n",
			x(m.at), y, x(m.at)+7, y+4, html.EscapeString(m.text), m.at)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-size="10" fill="#5c6068">seconds since the event's start · %s</text>`+"\n", left, height-10, time.Now().UTC().Format(time.RFC3339))
}
