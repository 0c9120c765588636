package tunnel

import (
	"context"
	"time"
)

// reportEvery is how often drops are logged: a line for a reason at most.
// A stranger who floods the port must not fill the disk.
const reportEvery = time.Minute

// report logs, once in a while, which drops have grown, until ctx ends.
func (t *Tunnel) report(ctx context.Context) {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	var before Snapshot
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := t.counters.Snapshot()
		t.reportDrops("out", before.Out, now.Out)
		t.reportDrops("in", before.In, now.In)
		before = now
	}
}

// reportDrops logs the reasons whose counters have grown.
func (t *Tunnel) reportDrops(direction string, before, now Traffic) {
	for _, r := range Reasons() {
		grown := now.Dropped(r) - before.Dropped(r)
		if grown == 0 || r.Harmless() {
			continue
		}
		t.config.Log.Warn("packets dropped", "direction", direction, "reason", r.String(), "packets", grown, "meaning", r.Doc())
	}
}
