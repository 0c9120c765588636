package main

import (
	"context"
	"fmt"
	"time"

	"usher/scripts/lab"
)

// The good stream beside the forged one.
var loadGood = load{name: "good", rate: 10_000, burst: 10, size: "1200", duration: 3 * time.Second}

const (
	forgedRate   = 100_000
	forgedRounds = 3
)

// forgedKinds are usher-bench's kinds of forged packets.
var forgedKinds = []string{"spi", "association", "sender"}

// ForgeryRun is the good stream beside one kind of forged packets.
type ForgeryRun struct {
	Goodput    float64 `json:"goodput"` // delivered ÷ offered
	Offered    uint64  `json:"offered"`
	Lost       uint64  `json:"lost"`
	Overflow   uint64  `json:"overflow"`    // lost by the sink's own buffer, and not counted against the agent
	ForgedRate float64 `json:"forged_rate"` // forged packets a second that the attacker reached
	Forged     uint64  `json:"forged"`
	RxCPUUS    float64 `json:"rx_cpu_us"` // of the receiver's agent, for each packet, good or forged
}

// measureForgery has an attacker on the link flood the receivers' ESP port under
// the sender's address.
func measureForgery(ctx context.Context, b *bench) error {
	err := inLab(func(l *lab.Lab) error {
		// The attacker's packets are cut on its link: nothing merges a stranger's.
		mallory, err := l.Host("m", "10.77.11.66/24")
		if err != nil {
			return err
		}
		p, err := b.open(ctx, l, variantUsher)
		if err != nil {
			return err
		}
		defer p.close()
		for range min(b.rounds, forgedRounds) {
			for _, kind := range forgedKinds {
				r, err := p.underForgery(ctx, mallory, kind)
				if err != nil {
					return fmt.Errorf("kind %s: %w", kind, err)
				}
				b.figures.Raw.Forgery[kind] = append(b.figures.Raw.Forgery[kind], *r)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	worst := 1.0
	for _, kind := range forgedKinds {
		worst = min(worst, median(each(b.figures.Raw.Forgery[kind], func(r ForgeryRun) float64 { return r.Goodput })))
	}
	b.figures.GoodputRatioUnderForgery = pointer(worst)
	return nil
}

// forged is usher-bench's answer to forge.
type forged struct {
	Sent    uint64  `json:"sent"`
	Refused uint64  `json:"refused"`
	Rate    float64 `json:"rate"`
}

// underForgery sends the good stream while mallory forges.
func (p *pair) underForgery(parent context.Context, mallory *lab.Host, kind string) (*ForgeryRun, error) {
	ctx, cancel := context.WithTimeout(parent, loadGood.duration+20*time.Second)
	defer cancel()
	// The flood begins before the stream and ends after it. What it imitates
	// it hears from a few pings.
	f, err := start(ctx, mallory, p.b.tool("usher-bench"), "forge", "--json", "--kind", kind,
		"--to", fmt.Sprintf("%s:4500", forwardGroup.Addr()), "--source", p.tx.Addr().String(),
		"--rate", fmt.Sprint(forgedRate), "--for", (loadGood.duration + time.Second).String())
	if err != nil {
		return nil, err
	}
	defer f.stop()
	if err := lab.WaitFor(ctx, "the attacker to hear the stream", func() error {
		select {
		case <-f.err.ready:
			return nil
		case <-f.done:
			return nil // its error is read below
		default:
		}
		if _, err := p.ping(ctx, 2, 20*time.Millisecond); err != nil {
			return err
		}
		return fmt.Errorf("it has not yet")
	}); err != nil {
		return nil, err
	}
	r, err := p.stream(ctx, loadGood)
	if err != nil {
		return nil, err
	}
	a, err := answerOf[forged](ctx, f)
	if err != nil {
		return nil, err
	}
	if a.Sent == 0 {
		return nil, fmt.Errorf("the attacker could send nothing")
	}
	offered := float64(r.Sent)
	return &ForgeryRun{
		Goodput: (offered - float64(r.Lost)) / offered, Offered: r.Sent, Lost: r.Lost, Overflow: r.Overflow,
		ForgedRate: a.Rate, Forged: a.Sent,
		RxCPUUS: r.RxCPUUS * offered / (offered + a.Rate*loadGood.duration.Seconds()),
	}, nil
}
