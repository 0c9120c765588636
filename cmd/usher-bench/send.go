package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// What one UDP_SEGMENT call can hold.
const (
	maxSegments     = 64
	maxSegmentBytes = 65000
)

type sendOptions struct {
	to       []netip.AddrPort // of one family, each of multicast or none
	rate     int
	burst    int
	segment  bool
	size     sizes
	count    uint64
	duration time.Duration
	stream   uint32
	ttl      int
	noEnd    bool
}

func (o *sendOptions) check() error {
	switch {
	case len(o.to) == 0:
		return errors.New("send needs --to")
	case slices.ContainsFunc(o.to, func(a netip.AddrPort) bool { return a.Addr().Is4() != o.to[0].Addr().Is4() }):
		return errors.New("each --to must be of the same IP version")
	case o.rate < 0, o.burst < 1:
		return errors.New("--rate is 0 or more, --burst 1 or more")
	case o.segment && o.size.least != o.size.most:
		return errors.New("--segment cuts datagrams of one size: give --size one number")
	case o.duration <= 0 && o.count == 0:
		return errors.New("give --for or --count")
	}
	return nil
}

// Sent is what send did.
type Sent struct {
	Sent        uint64  `json:"sent"`        // datagrams that the kernel took, copies counted
	Refused     uint64  `json:"refused"`     // that it refused
	Refusal     string  `json:"refusal"`     // why, the first time
	Seconds     float64 `json:"seconds"`     // from the first to the last
	Rate        float64 `json:"rate"`        // datagrams a second
	LateBursts  uint64  `json:"late_bursts"` // more than a millisecond behind
	UserCPUUS   float64 `json:"user_cpu_us"` // own processor time for each datagram
	SystemCPUUS float64 `json:"system_cpu_us"`
}

func (s *Sent) text(w io.Writer) {
	fmt.Fprintf(w, "sent %d in %.2f s, %.0f a second; refused %d, late bursts %d\n", s.Sent, s.Seconds, s.Rate, s.Refused, s.LateBursts)
	if s.Refusal != "" {
		fmt.Fprintln(w, "refused:", s.Refusal)
	}
}

// generator is a stream being sent.
type generator struct {
	sendOptions
	socket  socket
	targets []unix.Sockaddr
	clock   monotonic
	buffer  []byte
	super   []byte // the control message of UDP_SEGMENT
	number  uint64
	result  Sent
}

// send sends a stream and tells the sink how long it was.
func send(ctx context.Context, o sendOptions) (*Sent, error) {
	// Nothing is allocated in the loop; a collection would only be a hiccup.
	debug.SetGCPercent(-1)
	prepareThread()
	clock, err := newMonotonic()
	if err != nil {
		return nil, err
	}
	s, err := sender(o.to[0].Addr(), o.ttl)
	if err != nil {
		return nil, err
	}
	defer s.close()
	g := &generator{sendOptions: o, socket: s, clock: clock, buffer: make([]byte, max(o.size.most, maxSegmentBytes))}
	for _, to := range o.to {
		g.targets = append(g.targets, sockaddr(to))
	}
	if o.segment {
		g.super = segmentMessage(o.size.least)
	}
	userBefore, systemBefore, err := cpuSeconds()
	if err != nil {
		return nil, err
	}
	g.run(ctx)
	user, system, err := cpuSeconds()
	if err != nil {
		return nil, err
	}
	if n := float64(g.result.Sent); n > 0 {
		g.result.UserCPUUS, g.result.SystemCPUUS = (user-userBefore)/n*1e6, (system-systemBefore)/n*1e6
	}
	if !o.noEnd {
		g.end()
	}
	return &g.result, nil
}

// segmentMessage is the control message that has the kernel cut a buffer.
func segmentMessage(size int) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(b[8:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(b[12:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(b[16:], uint16(size))
	return b
}

func (g *generator) run(ctx context.Context) {
	p := newPacer(g.clock, g.rate, g.burst)
	begin := g.clock.now()
	last := begin
	deadline := begin + int64(g.duration)
	for {
		now := p.wait()
		if g.duration > 0 && now >= deadline || ended(ctx) {
			break
		}
		n := g.burst
		if g.count > 0 {
			n = int(min(uint64(n), g.count-g.number))
		}
		if n == 0 {
			break
		}
		if g.segment {
			g.sendSegmented(n)
		} else {
			g.sendEach(n)
		}
		last = g.clock.now()
	}
	g.result.LateBursts = p.late
	g.result.Seconds = float64(last-begin) / 1e9
	if g.result.Seconds > 0 {
		g.result.Rate = float64(g.result.Sent) / g.result.Seconds
	}
}

// put writes the next datagram to b, and gives its length.
func (g *generator) put(b []byte, number uint64) int {
	n := g.size.of(number)
	header{kind: kindData, number: number, sentNS: g.clock.now(), stream: g.stream, length: n}.put(b)
	return n
}

func (g *generator) sendEach(count int) {
	for range count {
		n := g.put(g.buffer, g.number)
		g.number++
		for _, to := range g.targets {
			g.account(1, unix.Sendto(g.socket.fd, g.buffer[:n], 0, to))
		}
	}
}

func (g *generator) sendSegmented(count int) {
	perCall := min(maxSegments, maxSegmentBytes/g.size.least)
	for count > 0 {
		n := min(count, perCall)
		for i := range n {
			g.put(g.buffer[i*g.size.least:], g.number)
			g.number++
		}
		for _, to := range g.targets {
			g.account(uint64(n), unix.Sendmsg(g.socket.fd, g.buffer[:n*g.size.least], g.super, to, 0))
		}
		count -= n
	}
}

// account counts what became of datagrams. A refusal is no reason to stop: the
// numbers go on, and the sink sees a gap.
func (g *generator) account(n uint64, err error) {
	if err == nil {
		g.result.Sent += n
		return
	}
	g.result.Refused += n
	if g.result.Refusal == "" {
		g.result.Refusal = err.Error()
	}
}

// end tells the sink, more than once since any of it may be lost.
func (g *generator) end() {
	p := newPacer(g.clock, 50, 1)
	for range 5 {
		p.wait()
		header{kind: kindEnd, number: g.number, sentNS: g.clock.now(), stream: g.stream, length: headerLen}.put(g.buffer)
		for _, to := range g.targets {
			_ = unix.Sendto(g.socket.fd, g.buffer[:headerLen], 0, to) // the sink's silence tells, too
		}
	}
}
