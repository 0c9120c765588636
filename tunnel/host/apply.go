package host

import (
	"context"
	"net/netip"
)

// Guard installs or changes the guard alone: for the boot, before usher0 exists.
func Guard(ctx context.Context, p Plan) error { return errSoon }

// ReadGuard reads what the guard holds and what it refused.
func ReadGuard() (GuardStatus, error) { return GuardStatus{}, errSoon }

// Apply brings the plan about.
func Apply(ctx context.Context, p Plan) error { return errSoon }

// Down removes all.
func Down(tun string) error { return errSoon }

// ChooseInterface picks the real interface.
func ChooseInterface(configured string, group, source netip.Addr) (Interface, string, error) {
	return Interface{}, "", errSoon
}

// Owner tells which real interface holds addr.
func Owner(addr netip.Addr) (Interface, bool, error) { return Interface{}, false, errSoon }
