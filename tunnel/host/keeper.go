package host

import (
	"context"
	"errors"
	"log/slog"
)

// Keeper applies plans and keeps them applied.
type Keeper struct{ log *slog.Logger }

var errSoon = errors.New("host: not yet written")

// New makes a keeper that logs to log.
func New(log *slog.Logger) *Keeper { return &Keeper{log: log} }

// OnChange sets the function that Run calls when a real interface, or the
// tunnel's, changed. Call it before Run. f may call Status, not Set.
func (k *Keeper) OnChange(f func(Change)) {}

// Set applies a plan and makes it the one that Run keeps.
func (k *Keeper) Set(ctx context.Context, p Plan) error { return errSoon }

// Run watches until ctx ends.
func (k *Keeper) Run(ctx context.Context) error { return errSoon }

// Status tells how things stand.
func (k *Keeper) Status() Status { return Status{} }
