package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// rolloverChanges is how many key changes the stream goes through.
const rolloverChanges = 1000

// RolloverRun is what the packet path's own test counted: it puts keys into the
// database of associations, which no command does.
type RolloverRun struct {
	Changes    int     `json:"changes"`
	Rate       float64 `json:"rate"` // datagrams a second, of mixed sizes
	Offered    uint64  `json:"offered"`
	Lost       uint64  `json:"lost"`
	Duplicated uint64  `json:"duplicated"`
	Reordered  uint64  `json:"reordered"`
	Damaged    uint64  `json:"damaged"`
	Overflow   uint64  `json:"overflow"` // lost by the sink's own buffer, counted apart
}

// measureRollover runs TestRolloverUnderLoad of the packet path at its full length.
func measureRollover(parent context.Context, b *bench) error {
	ctx, cancel := context.WithTimeout(parent, 3*time.Minute)
	defer cancel()
	file := filepath.Join(b.out, "rollover.json")
	if err := os.RemoveAll(file); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, b.tool("tunnel.test"), "-test.run", "^TestRolloverUnderLoad$", "-test.v",
		"-rollover.changes", strconv.Itoa(rolloverChanges), "-rollover.json", file, "-rollover.bench", b.tool("usher-bench"))
	text, err := cmd.CombinedOutput()
	written, readErr := os.ReadFile(file)
	if readErr != nil {
		return fmt.Errorf("TestRolloverUnderLoad: %w\n%s", err, text)
	}
	r := &RolloverRun{}
	if err := json.Unmarshal(written, r); err != nil {
		return fmt.Errorf("TestRolloverUnderLoad's figures: %w", err)
	}
	f := b.figures
	f.Raw.Rollover = r
	f.RolloverLost, f.RolloverDuplicated, f.RolloverReordered = &r.Lost, &r.Duplicated, &r.Reordered
	if err != nil {
		b.say("TestRolloverUnderLoad: %s", text) // the figures stand, and say what is wrong
	}
	return nil
}
