package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

type pingOptions struct {
	to       netip.AddrPort
	listen   netip.AddrPort // invalid: the answers come to the sending socket
	source   netip.Addr
	count    int
	size     int
	interval time.Duration
	ttl      int
}

// Pinged is what ping measured.
type Pinged struct {
	Sent        int      `json:"sent"`
	Answered    int      `json:"answered"`
	RoundTripUS *Latency `json:"round_trip_us"` // null if there was no answer
}

func (p *Pinged) text(w io.Writer) {
	fmt.Fprintf(w, "sent %d, answered %d\n", p.Sent, p.Answered)
	if l := p.RoundTripUS; l != nil {
		fmt.Fprintf(w, "round trip in µs: p50 %.1f, p90 %.1f, p99 %.1f, max %.1f\n", l.P50, l.P90, l.P99, l.Max)
	}
}

// ping asks an echo, one question at a time.
func ping(ctx context.Context, o pingOptions) (*Pinged, error) {
	if !o.to.IsValid() || o.count < 1 || o.size < headerLen || o.size > maxSize || o.interval <= 0 {
		return nil, fmt.Errorf("ping needs --to, a --count, an --interval, and a --size of at least %d", headerLen)
	}
	prepareThread()
	clock, err := newMonotonic()
	if err != nil {
		return nil, err
	}
	out, err := sender(o.to.Addr(), o.ttl)
	if err != nil {
		return nil, err
	}
	defer out.close()
	in := out
	if o.listen.IsValid() {
		if in, err = listener(o.listen, o.source, "", 0); err != nil {
			return nil, err
		}
		defer in.close()
	}
	b := make([]byte, o.size)
	buf := make([]byte, maxSize+1)
	target := sockaddr(o.to)
	var trips histogram
	var r Pinged
	p := newPacer(clock, 0, 1)
	p.interval = int64(o.interval)
	for number := range o.count {
		sent := p.wait()
		if ended(ctx) {
			break
		}
		header{kind: kindPing, number: uint64(number), sentNS: sent, length: o.size}.put(b)
		if err := unix.Sendto(out.fd, b, 0, target); err != nil {
			return nil, fmt.Errorf("send to %s: %w", o.to, err)
		}
		r.Sent++
		back, err := awaitPong(in, buf, clock, uint64(number), p.next)
		if err != nil {
			return nil, err
		}
		if back > 0 {
			r.Answered++
			trips.add(back - sent)
		}
	}
	r.RoundTripUS = trips.latency()
	return &r, nil
}

// awaitPong returns when the answer to a question came, or 0 if it did not
// before the deadline.
func awaitPong(s socket, buf []byte, clock monotonic, number uint64, deadline int64) (int64, error) {
	for {
		n, ok, err := s.receive(buf)
		if err != nil {
			return 0, err
		}
		now := clock.now()
		if ok {
			if h, err := parse(buf[:n]); err == nil && h.kind == kindPong && h.number == number {
				return now, nil
			}
			continue
		}
		left := deadline - now
		if left <= 0 {
			return 0, nil
		}
		if err := s.wait(int(left/int64(time.Millisecond)) + 1); err != nil {
			return 0, err
		}
	}
}

type echoOptions struct {
	to     netip.AddrPort // invalid: to whoever asked
	listen netip.AddrPort
	source netip.Addr
	ttl    int
}

// echo answers questions until ctx ends. ready is called once it listens.
func echo(ctx context.Context, o echoOptions, ready func()) error {
	if !o.listen.IsValid() {
		return errors.New("echo needs --listen")
	}
	prepareThread()
	in, err := listener(o.listen, o.source, "", 0)
	if err != nil {
		return err
	}
	defer in.close()
	out, target := in, unix.Sockaddr(nil)
	if o.to.IsValid() {
		if out, err = sender(o.to.Addr(), o.ttl); err != nil {
			return err
		}
		defer out.close()
		target = sockaddr(o.to)
	}
	ready()
	buf := make([]byte, maxSize+1)
	for !ended(ctx) {
		n, from, err := unix.Recvfrom(in.fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			if err := in.wait(200); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		h, err := parse(buf[:n])
		if err != nil || h.kind != kindPing {
			continue
		}
		h.kind = kindPong
		h.put(buf[:n])
		answer := target
		if answer == nil {
			answer = from
		}
		_ = unix.Sendto(out.fd, buf[:n], 0, answer) // whoever asked sees no answer
	}
	return nil
}
