package main

import (
	"context"
	"fmt"
	"time"

	"usher/scripts/lab"
)

// The paced loads: 1200 bytes of payload each. 42,000 a second is what iperf3
// makes of 400 Mbit/s.
var (
	loadBursts = load{name: "bursts", rate: 42_000, burst: 42, size: "1200", duration: 1500 * time.Millisecond}
	loadEven   = load{name: "even", rate: 42_000, burst: 1, size: "1200", duration: 1500 * time.Millisecond}
	loadLow    = load{name: "lowrate", rate: 500, burst: 1, size: "1200", duration: 2 * time.Second}
)

// measurePaced runs each load through every variant, round by round. The
// variant without a tunnel gives the latency that is not ours.
func measurePaced(ctx context.Context, b *bench) error {
	runs := b.figures.Raw.Paced
	err := inLab(func(l *lab.Lab) error {
		pairs, closeAll, err := b.openAll(ctx, l, true)
		if err != nil {
			return err
		}
		defer closeAll()
		for _, o := range []load{loadBursts, loadEven, loadLow} {
			runs[o.name] = map[string][]Run{}
			for round := range b.rounds {
				for _, p := range pairs {
					r, err := p.stream(ctx, o)
					if err != nil {
						return fmt.Errorf("%s, %s, round %d: %w", p.variant, o.name, round+1, err)
					}
					runs[o.name][p.variant] = append(runs[o.name][p.variant], *r)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	f := b.figures
	f.PacedCPURatio = b.ratioToCheapest(runs[loadBursts.name])
	f.PacedEvenCPURatio = b.ratioToCheapest(runs[loadEven.name])
	f.LowrateCPURatio = b.ratioToCheapest(runs[loadLow.name])
	if !b.peers {
		f.explain("needs the peers (--peers)", "paced_cpu_ratio", "paced_even_cpu_ratio", "lowrate_cpu_ratio")
	}
	bursts := runs[loadBursts.name]
	f.PacedAddedLatencyUS = pointer(median(each(bursts[variantUsher], p50)) - median(each(bursts[variantPlain], p50)))
	return nil
}

func p50(r Run) float64 {
	if r.LatencyUS == nil {
		return 0
	}
	return r.LatencyUS.P50
}

// ratioToCheapest is the median of our cost over that of the peer that costs
// least, round by round; nil without peers.
func (b *bench) ratioToCheapest(runs map[string][]Run) *float64 {
	costs := map[string][]float64{}
	for _, name := range peerVariants {
		if len(runs[name]) > 0 {
			costs[name] = each(runs[name], Run.cpu)
		}
	}
	peer := cheapest(costs)
	if peer == "" {
		return nil
	}
	return pointer(median(ratios(each(runs[variantUsher], Run.cpu), costs[peer])))
}

// measureIdle measures the round trip of a small datagram on an idle link. Ours
// goes out under one group and back under another: the same program answers
// under every variant.
func measureIdle(ctx context.Context, b *bench) error {
	trips := b.figures.Raw.Idle
	err := inLab(func(l *lab.Lab) error {
		pairs, closeAll, err := b.openAll(ctx, l, true)
		if err != nil {
			return err
		}
		defer closeAll()
		for round := range b.rounds {
			for _, p := range pairs {
				t, err := p.idleTrip(ctx)
				if err != nil {
					return fmt.Errorf("%s, round %d: %w", p.variant, round+1, err)
				}
				trips[p.variant] = append(trips[p.variant], t)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	peers := map[string][]float64{}
	for _, name := range peerVariants {
		if len(trips[name]) > 0 {
			peers[name] = trips[name]
		}
	}
	best := cheapest(peers)
	if best == "" {
		b.figures.explain("needs the peers (--peers)", "idle_rtt_ratio_to_best_peer")
		return nil
	}
	b.figures.IdleRTTRatioToBestPeer = pointer(median(ratios(trips[variantUsher], trips[best])))
	return nil
}

// idleTrip is the median round trip of a second's pings, in µs.
func (p *pair) idleTrip(parent context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(parent, 20*time.Second)
	defer cancel()
	echo, err := p.startEcho(ctx)
	if err != nil {
		return 0, err
	}
	defer echo.stop()
	r, err := p.ping(ctx, 50, 20*time.Millisecond)
	if err != nil {
		return 0, err
	}
	if r.RoundTripUS == nil || r.Answered < r.Sent*9/10 {
		return 0, fmt.Errorf("%d of %d pings were answered", r.Answered, r.Sent)
	}
	return r.RoundTripUS.P50, nil
}
