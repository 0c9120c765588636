package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"usher/scripts/lab"
)

// scaleSizes are the numbers of policies, each with an association.
var scaleSizes = []int{1, 10, 100, 1000, 10_000}

const (
	scaleRounds = 3
	rssAt       = 1000 // associations of the figure for memory
)

// ScaleRow is what everything costs with a number of policies and associations.
type ScaleRow struct {
	Policies   int       `json:"policies"`     // of each agent, and as many associations
	StartS     float64   `json:"start_s"`      // until both agents ran
	AgentCPUUS []float64 `json:"agent_cpu_us"` // both agents, for each packet of the paced load, a value for each round
	IdleCPUMS  float64   `json:"idle_cpu_ms"`  // both agents, for each second without a packet
	FlowCPUUS  []float64 `json:"flow_cpu_us"`  // the sending program of a flow that is not protected, for each datagram
	TxRSSMiB   float64   `json:"tx_rss_mib"`   // resident memory of the sender's agent
	RxRSSMiB   float64   `json:"rx_rss_mib"`   // of the receiver's
}

// loadFlow is the unrelated flow: as fast as one program can send.
var loadFlow = load{name: "flow", rate: 0, burst: 64, size: "200", duration: time.Second}

// measureScale measures cost against the number of policies and associations.
// The policy of the stream is the last one, so that each that is tried before
// would show.
func measureScale(ctx context.Context, b *bench) error {
	for _, n := range scaleSizes {
		if err := inLab(func(l *lab.Lab) error { return b.scaleAt(ctx, l, n) }); err != nil {
			return fmt.Errorf("%d policies: %w", n, err)
		}
	}
	rows := b.figures.Raw.Scale
	first, last := rows[0], rows[len(rows)-1]
	b.figures.CostRatio10000SAs = pointer(max(
		median(last.AgentCPUUS)/median(first.AgentCPUUS),
		median(last.FlowCPUUS)/median(first.FlowCPUUS)))
	for _, r := range rows {
		if r.Policies == rssAt {
			b.figures.RSSMiB1000SAs = pointer(max(r.TxRSSMiB, r.RxRSSMiB))
		}
	}
	return nil
}

// scaleAt measures one row.
func (b *bench) scaleAt(ctx context.Context, l *lab.Lab, n int) error {
	p := &pair{b: b, variant: variantUsher}
	defer p.close()
	var err error
	if p.tx, err = l.Host("a", "10.77.0.1/24", lab.KeepSegmentation()); err != nil {
		return err
	}
	if p.rx, err = l.Host("b", "10.77.0.2/24", lab.KeepSegmentation()); err != nil {
		return err
	}
	row := ScaleRow{Policies: n}
	begin := time.Now()
	// The two that are used are one of n: a pair needs both directions.
	if err := p.openUsher(ctx, usherConfig{extra: max(0, n-2)}); err != nil {
		return err
	}
	row.StartS = time.Since(begin).Seconds()
	if err := p.warm(ctx); err != nil {
		return err
	}
	if row.IdleCPUMS, err = p.idle(); err != nil {
		return err
	}
	drain, err := p.unrelated()
	if err != nil {
		return err
	}
	defer drain.Close()
	for range min(b.rounds, scaleRounds) {
		r, err := p.stream(ctx, loadBursts)
		if err != nil {
			return err
		}
		row.AgentCPUUS = append(row.AgentCPUUS, r.cpu())
		cost, err := p.flow(ctx)
		if err != nil {
			return err
		}
		row.FlowCPUUS = append(row.FlowCPUUS, cost)
	}
	row.TxRSSMiB, err = p.txDaemons[0].rss()
	if err != nil {
		return err
	}
	if row.RxRSSMiB, err = p.rxDaemons[0].rss(); err != nil {
		return err
	}
	b.figures.Raw.Scale = append(b.figures.Raw.Scale, row)
	return nil
}

// idle is what the agents take for each second in which nothing happens, in ms:
// their looking after interfaces, routes and lifetimes.
func (p *pair) idle() (float64, error) {
	const during = 2 * time.Second
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	time.Sleep(during)
	after, err := p.cpu()
	if err != nil {
		return 0, err
	}
	return float64((after.tx + after.rx - before.tx - before.rx).Microseconds()) / 1000 / during.Seconds(), nil
}

// unrelatedPort is where the flow goes that no policy is about.
const unrelatedPort = 9999

// unrelated opens the far end of the unrelated flow: a socket that nobody
// reads, so that what is measured is the way there.
func (p *pair) unrelated() (net.PacketConn, error) {
	var c net.PacketConn
	err := p.rx.Do(func() (err error) {
		c, err = net.ListenPacket("udp4", net.JoinHostPort(p.rx.Addr().String(), strconv.Itoa(unrelatedPort)))
		return err
	})
	return c, err
}

// flow is what a datagram of the unrelated flow costs who sends it, the way
// through both hosts' rules included, in µs.
func (p *pair) flow(parent context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(parent, loadFlow.duration+10*time.Second)
	defer cancel()
	to := *p
	to.to = netip.AddrPortFrom(p.rx.Addr(), unrelatedPort)
	s, err := to.send(ctx, loadFlow)
	if err != nil {
		return 0, err
	}
	if s.Refused > 0 {
		return 0, errors.New("the unrelated flow was refused: " + s.Refusal)
	}
	return s.UserCPUUS + s.SystemCPUUS, nil
}
