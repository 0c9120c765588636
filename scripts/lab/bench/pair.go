package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"usher/scripts/lab"
)

// The variants that are compared.
const (
	variantPlain     = "plain" // no tunnel
	variantUsher     = "usher"
	variantWireguard = "wireguard-go"
	variantNebula    = "nebula"
	variantOpenVPN   = "openvpn"
)

// peerVariants are the other VPNs.
var peerVariants = []string{variantWireguard, variantNebula, variantOpenVPN}

// pair is a way from one host to another, with the daemons of one variant on it.
// Each has hosts of its own on the same bridge, so that no variant pays for
// another's interfaces and rules.
type pair struct {
	b       *bench
	variant string
	tx, rx  *lab.Host

	to     netip.AddrPort // where the sending program sends
	source netip.Addr     // for the join of a group; invalid for unicast
	back   netip.AddrPort // the group of the other direction; invalid for unicast

	txDaemons, rxDaemons []*process
}

// number gives each variant networks of its own: 10.77.N.0/24 outside, and
// 10.88.N.0/24 in the tunnel.
func number(variant string) int {
	switch variant {
	case variantPlain:
		return 10
	case variantUsher:
		return 11
	case variantWireguard:
		return 12
	case variantNebula:
		return 13
	}
	return 14
}

// The hosts' addresses in the tunnels of the peers.
func inner(variant string, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 88, byte(number(variant)), byte(host)})
}

// open lays out a pair's hosts and starts its daemons.
func (b *bench) open(ctx context.Context, l *lab.Lab, variant string) (*pair, error) {
	p := &pair{b: b, variant: variant}
	n := number(variant)
	var err error
	// The two hosts share a machine: a batch crosses the link as one, for
	// every variant that makes batches.
	if p.tx, err = l.Host(fmt.Sprintf("a%d", n), fmt.Sprintf("10.77.%d.1/24", n), lab.KeepSegmentation()); err != nil {
		return nil, err
	}
	if p.rx, err = l.Host(fmt.Sprintf("b%d", n), fmt.Sprintf("10.77.%d.2/24", n), lab.KeepSegmentation()); err != nil {
		return nil, err
	}
	p.to = netip.AddrPortFrom(inner(variant, 2), appPort)
	switch variant {
	case variantPlain:
		err = p.openPlain(ctx)
	case variantUsher:
		err = p.openUsher(ctx, usherConfig{})
	case variantWireguard:
		err = p.openWireguard(ctx)
	case variantNebula:
		err = p.openNebula(ctx, l)
	case variantOpenVPN:
		err = p.openOpenVPN(ctx, l)
	}
	if err == nil {
		err = p.warm(ctx)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("%s: %w", variant, err)
	}
	return p, nil
}

// openAll opens the variants that a comparison is made of, ours first.
func (b *bench) openAll(ctx context.Context, l *lab.Lab, withPlain bool) (pairs []*pair, closeAll func(), err error) {
	variants := []string{variantUsher}
	if withPlain {
		variants = append(variants, variantPlain)
	}
	if b.peers {
		variants = append(variants, peerVariants...)
	}
	closeAll = func() {
		for _, p := range pairs {
			p.close()
		}
	}
	for _, v := range variants {
		p, err := b.open(ctx, l, v)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		pairs = append(pairs, p)
	}
	return pairs, closeAll, nil
}

// openPlain has the stream of a group cross the link as it is: what it takes
// without any tunnel.
func (p *pair) openPlain(ctx context.Context) error {
	p.to, p.back, p.source = forwardGroup, backwardGroup, p.tx.Addr()
	for _, h := range []*lab.Host{p.tx, p.rx} {
		if _, err := h.Run(ctx, "ip", "route", "add", "232.0.0.0/8", "dev", "eth0"); err != nil {
			return err
		}
	}
	return nil
}

func (p *pair) close() {
	for _, d := range p.daemons() {
		d.stop()
	}
}

func (p *pair) daemons() []*process { return slices.Concat(p.txDaemons, p.rxDaemons) }

func (b *bench) tool(name string) string { return filepath.Join(b.bin, name) }
func (b *bench) peer(name string) string { return filepath.Join(b.bin, "peers", name) }

// appPort is where applications listen.
const appPort = 5004

// The groups of the pairs that have multicast.
var (
	forwardGroup  = netip.MustParseAddrPort("232.1.2.3:5004")
	backwardGroup = netip.MustParseAddrPort("232.1.2.4:5004")
)

// LatencyUS is usher-bench's distribution of times, in µs.
type LatencyUS struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// sent and received are the answers of usher-bench that are used here.
type sent struct {
	Sent        uint64  `json:"sent"`
	Refused     uint64  `json:"refused"`
	Refusal     string  `json:"refusal"`
	Rate        float64 `json:"rate"`
	LateBursts  uint64  `json:"late_bursts"`
	UserCPUUS   float64 `json:"user_cpu_us"`
	SystemCPUUS float64 `json:"system_cpu_us"`
}

type received struct {
	Offered    uint64     `json:"offered"`
	Received   uint64     `json:"received"`
	Lost       uint64     `json:"lost"`
	Duplicated uint64     `json:"duplicated"`
	Reordered  uint64     `json:"reordered"`
	Damaged    uint64     `json:"damaged"`
	Overflow   uint64     `json:"overflow"`
	LatencyUS  *LatencyUS `json:"latency_us"`
}

// load is how a stream is sent.
type load struct {
	name     string
	rate     int // datagrams a second
	burst    int
	segment  bool
	size     string
	duration time.Duration
}

// Run is one stream through one pair.
type Run struct {
	TxCPUUS    float64    `json:"tx_cpu_us"` // of the sender's daemon, for each datagram sent
	RxCPUUS    float64    `json:"rx_cpu_us"` // of the receiver's
	Sent       uint64     `json:"sent"`
	Rate       float64    `json:"rate"` // datagrams a second that the generator reached
	Lost       uint64     `json:"lost"`
	Overflow   uint64     `json:"overflow"` // lost by the sink's own buffer
	Duplicated uint64     `json:"duplicated"`
	Reordered  uint64     `json:"reordered"`
	LatencyUS  *LatencyUS `json:"latency_us"`
}

// cpu of both ends, for each datagram, in µs.
func (r Run) cpu() float64 { return r.TxCPUUS + r.RxCPUUS }

// sinkBuffer is what a program with a stream to receive asks for. Every variant
// gets the same.
const sinkBuffer = 8 << 20

// joinTime is what a switch is given to learn of a join.
const joinTime = 150 * time.Millisecond

// startSink starts a sink and waits until it listens.
func (p *pair) startSink(ctx context.Context) (*process, error) {
	args := []string{"sink", "--json", "--listen", p.to.String(), "--buffer", strconv.Itoa(sinkBuffer)}
	if p.source.IsValid() {
		args = append(args, "--source", p.source.String())
	}
	s, err := start(ctx, p.rx, p.b.tool("usher-bench"), args...)
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// send runs a generator to its end.
func (p *pair) send(ctx context.Context, o load) (*sent, error) {
	args := []string{"send", "--to", p.to.String(), "--rate", strconv.Itoa(o.rate), "--burst", strconv.Itoa(o.burst),
		"--size", o.size, "--for", o.duration.String()}
	if o.segment {
		args = append(args, "--segment")
	}
	s, err := answer[sent](ctx, p.tx, p.b.tool("usher-bench"), args...)
	if err != nil {
		return nil, err
	}
	if s.Sent == 0 {
		return nil, fmt.Errorf("the generator could send nothing: %s", s.Refusal)
	}
	return s, nil
}

// stream sends one load through the pair, and says what it cost and what came
// of it.
func (p *pair) stream(parent context.Context, o load) (*Run, error) {
	ctx, cancel := context.WithTimeout(parent, o.duration+20*time.Second)
	defer cancel()
	sink, err := p.startSink(ctx)
	if err != nil {
		return nil, err
	}
	defer sink.stop()
	// Where the sink itself joins, the switch must have heard of it.
	time.Sleep(joinTime)
	before, err := p.cpu()
	if err != nil {
		return nil, err
	}
	s, err := p.send(ctx, o)
	if err != nil {
		return nil, err
	}
	r, err := answerOf[received](ctx, sink)
	if err != nil {
		return nil, err
	}
	after, err := p.cpu()
	if err != nil {
		return nil, err
	}
	if r.Received == 0 {
		return nil, fmt.Errorf("%s: nothing arrived of %d datagrams", p.variant, s.Sent)
	}
	perPacket := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 / float64(s.Sent) }
	return &Run{
		TxCPUUS: perPacket(after.tx - before.tx), RxCPUUS: perPacket(after.rx - before.rx),
		Sent: s.Sent, Rate: s.Rate, Lost: r.Lost, Overflow: r.Overflow, Duplicated: r.Duplicated, Reordered: r.Reordered,
		LatencyUS: r.LatencyUS,
	}, nil
}

// spent is the processor time of a pair's daemons.
type spent struct{ tx, rx time.Duration }

func (p *pair) cpu() (s spent, err error) {
	for _, side := range []struct {
		daemons []*process
		sum     *time.Duration
	}{{p.txDaemons, &s.tx}, {p.rxDaemons, &s.rx}} {
		for _, d := range side.daemons {
			if err := d.alive(); err != nil {
				return s, err
			}
			t, err := d.cpu()
			if err != nil {
				return s, err
			}
			*side.sum += t
		}
	}
	return s, nil
}

// pinged is usher-bench's answer to ping.
type pinged struct {
	Sent        int        `json:"sent"`
	Answered    int        `json:"answered"`
	RoundTripUS *LatencyUS `json:"round_trip_us"`
}

// startEcho starts the far end of ping.
func (p *pair) startEcho(ctx context.Context) (*process, error) {
	args := []string{"echo", "--listen", p.to.String()}
	if p.back.IsValid() {
		args = append(args, "--source", p.tx.Addr().String(), "--to", p.back.String())
	}
	e, err := start(ctx, p.rx, p.b.tool("usher-bench"), args...)
	if err != nil {
		return nil, err
	}
	if err := e.ready(ctx); err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

// ping measures round trips to an echo that runs.
func (p *pair) ping(ctx context.Context, count int, interval time.Duration) (*pinged, error) {
	args := []string{"ping", "--to", p.to.String(), "--count", strconv.Itoa(count), "--interval", interval.String()}
	if p.back.IsValid() {
		args = append(args, "--listen", p.back.String(), "--source", p.rx.Addr().String())
	}
	return answer[pinged](ctx, p.tx, p.b.tool("usher-bench"), args...)
}

// warm waits until datagrams cross the pair both ways: handshakes, neighbours
// and joins are done.
func (p *pair) warm(parent context.Context) error {
	limited, cancel := context.WithTimeout(parent, 40*time.Second)
	defer cancel()
	ctx, release := whileAlive(limited, p.daemons())
	defer release()
	// Wireguard's and the others' first datagram makes the handshake, and
	// nobody can listen before the daemon has made the interface.
	return awaited(ctx, "datagrams to cross it both ways", func() error {
		echo, err := p.startEcho(ctx)
		if err != nil {
			return err
		}
		defer echo.stop()
		r, err := p.ping(ctx, 10, 50*time.Millisecond)
		if err != nil {
			return err
		}
		if r.Answered < 5 {
			return fmt.Errorf("%d of %d were answered", r.Answered, r.Sent)
		}
		return nil
	})
}
