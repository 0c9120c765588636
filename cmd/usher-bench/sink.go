package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

type sinkOptions struct {
	listen netip.AddrPort
	source netip.Addr
	iface  string
	stream uint32
	buffer int
	limit  time.Duration
	idle   time.Duration
}

// Received is what sink counted.
type Received struct {
	Offered    uint64   `json:"offered"`    // datagrams of the stream: as its end says, else the highest number seen and those before
	EndSeen    bool     `json:"end_seen"`   // the stream's end was heard
	Received   uint64   `json:"received"`   // each number once
	Lost       uint64   `json:"lost"`       // offered and neither received nor lost by the sink itself
	Duplicated uint64   `json:"duplicated"` // came again
	Reordered  uint64   `json:"reordered"`  // came after a higher number
	Damaged    uint64   `json:"damaged"`    // of another length than was sent
	Foreign    uint64   `json:"foreign"`    // of other streams, or no datagram of usher-bench
	Overflow   uint64   `json:"overflow"`   // lost by the sink's own socket buffer
	Seconds    float64  `json:"seconds"`    // from the first to the last
	LatencyUS  *Latency `json:"latency_us"` // from send to sink; null if nothing came
	Bytes      uint64   `json:"bytes"`      // payload received
}

func (r *Received) text(w io.Writer) {
	fmt.Fprintf(w, "offered %d, received %d, lost %d, by the sink's buffer %d, duplicated %d, reordered %d, damaged %d, foreign %d\n",
		r.Offered, r.Received, r.Lost, r.Overflow, r.Duplicated, r.Reordered, r.Damaged, r.Foreign)
	if l := r.LatencyUS; l != nil {
		fmt.Fprintf(w, "latency in µs: p50 %.0f, p90 %.0f, p99 %.0f, p99.9 %.0f, max %.0f\n", l.P50, l.P90, l.P99, l.P999, l.Max)
	}
}

// collector is a stream being received.
type collector struct {
	sinkOptions
	clock       monotonic
	order       order
	latency     histogram
	result      Received
	first, last int64 // 0: nothing came yet
	endedAt     int64 // when its end was first heard; 0: not yet
}

// settle is how long a sink listens on after the end, for what was overtaken.
const settle = int64(200 * time.Millisecond)

// sink receives a stream to its end. ready is called once it listens.
func sink(ctx context.Context, o sinkOptions, ready func()) (*Received, error) {
	if !o.listen.IsValid() {
		return nil, errors.New("sink needs --listen")
	}
	prepareThread()
	clock, err := newMonotonic()
	if err != nil {
		return nil, err
	}
	s, err := listener(o.listen, o.source, o.iface, o.buffer)
	if err != nil {
		return nil, err
	}
	defer s.close()
	ready()
	c := &collector{sinkOptions: o, clock: clock}
	if err := c.run(ctx, s); err != nil {
		return nil, err
	}
	overflow, err := s.overflow()
	if err != nil {
		return nil, err
	}
	return c.sum(uint64(overflow)), nil
}

func (c *collector) run(ctx context.Context, s socket) error {
	buf := make([]byte, maxSize+1)
	begin := c.clock.now()
	for {
		for {
			n, ok, err := s.receive(buf)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			c.take(buf[:n])
		}
		now := c.clock.now()
		if c.over(now, begin) || ended(ctx) {
			return nil
		}
		if err := s.wait(50); err != nil {
			return err
		}
	}
}

// over tells whether no more is to come.
func (c *collector) over(now, begin int64) bool {
	switch {
	case c.endedAt > 0 && now-c.endedAt >= settle:
		return true
	case c.first > 0 && now-c.last >= int64(c.idle):
		return true
	}
	return now-begin >= int64(c.limit)
}

// take counts one datagram.
func (c *collector) take(b []byte) {
	h, err := parse(b)
	if err != nil || h.stream != c.stream || h.kind > kindEnd {
		c.result.Foreign++
		return
	}
	now := c.clock.now()
	if h.kind == kindEnd {
		if c.endedAt == 0 {
			c.endedAt = now
		}
		c.result.EndSeen = true
		c.result.Offered = h.number
		return
	}
	if err := c.order.add(h.number); err != nil {
		c.result.Foreign++
		return
	}
	if h.length != len(b) {
		c.result.Damaged++
	}
	if c.first == 0 {
		c.first = now
	}
	c.last = now
	c.latency.add(now - h.sentNS)
	c.result.Bytes += uint64(len(b))
}

// sum makes the result.
func (c *collector) sum(overflow uint64) *Received {
	r := &c.result
	r.Received, r.Duplicated, r.Reordered = c.order.received, c.order.doubled, c.order.reordered
	r.Offered = max(r.Offered, c.order.next)
	r.Overflow = overflow
	// The buffer may have lost an end or a foreign datagram instead: then less
	// is counted as lost than was, by a few at most.
	r.Lost = r.Offered - r.Received
	r.Lost -= min(r.Lost, overflow)
	r.Seconds = float64(c.last-c.first) / 1e9
	r.LatencyUS = c.latency.latency()
	return r
}
