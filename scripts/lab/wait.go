package lab

import (
	"context"
	"fmt"
	"time"
)

// pollEvery is how often WaitFor looks again: short beside what is waited for
// (seconds), long beside what a look costs.
const pollEvery = 20 * time.Millisecond

// WaitFor calls look until it returns nil. When ctx ends first, the error wraps
// [ErrTimeout] and tells what was waited for and what look said last.
func WaitFor(ctx context.Context, what string, look func() error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		last := look()
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w for %s: %w", ErrTimeout, what, last)
		case <-tick.C:
		}
	}
}

// Within is [WaitFor] with a deadline of d from now.
func Within(d time.Duration, what string, look func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return WaitFor(ctx, what, look)
}
