package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"usher/scripts/lab"
)

// loadBulk is what an application sends that uses UDP_SEGMENT.
var loadBulk = load{name: "bulk", rate: 200_000, burst: 40, segment: true, size: "1200", duration: 1500 * time.Millisecond}

// transformNull packs without encrypting (RFC 2410): the same path less the
// cryptography.
const transformNull = "null"

// measureBulk compares AES-256-GCM with NULL.
func measureBulk(ctx context.Context, b *bench) error {
	err := inLab(func(l *lab.Lab) error {
		var pairs []*pair
		defer func() {
			for _, p := range pairs {
				p.close()
			}
		}()
		for i, transform := range []string{"", transformNull} {
			p, err := b.openTransform(ctx, l, i, transform)
			if p != nil {
				pairs = append(pairs, p)
			}
			if err != nil {
				return err
			}
		}
		for range b.rounds {
			for i, name := range []string{"aes-256-gcm", transformNull} {
				r, err := pairs[i].stream(ctx, loadBulk)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				b.figures.Raw.Bulk[name] = append(b.figures.Raw.Bulk[name], *r)
			}
		}
		return nil
	})
	if err != nil && strings.Contains(err.Error(), "not in this version") {
		b.figures.explain("the NULL transform is not in this version", "bulk_cpu_ratio_to_null")
		return nil
	}
	if err != nil {
		return err
	}
	runs := b.figures.Raw.Bulk
	b.figures.BulkCPURatioToNull = pointer(median(ratios(each(runs["aes-256-gcm"], Run.cpu), each(runs[transformNull], Run.cpu))))
	return nil
}

// openTransform is open for a pair of ours with a transform, the i-th of a lab.
func (b *bench) openTransform(ctx context.Context, l *lab.Lab, i int, transform string) (*pair, error) {
	p := &pair{b: b, variant: variantUsher}
	var err error
	if p.tx, err = l.Host(fmt.Sprintf("a%d", i), fmt.Sprintf("10.77.%d.1/24", i), lab.KeepSegmentation()); err != nil {
		return nil, err
	}
	if p.rx, err = l.Host(fmt.Sprintf("b%d", i), fmt.Sprintf("10.77.%d.2/24", i), lab.KeepSegmentation()); err != nil {
		return nil, err
	}
	if err := p.openUsher(ctx, usherConfig{transform: transform}); err != nil {
		return p, err
	}
	return p, p.warm(ctx)
}

// measureTCP would compare TCP over a unicast event with wireguard-go.
func measureTCP(_ context.Context, b *bench) error {
	b.figures.explain("unicast flows are not in this version", "tcp_ratio_to_wireguard_go")
	return nil
}
