package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"usher/cmd/usher/agent/config"
	"usher/tunnel/device"
	"usher/tunnel/host"
	"usher/tunnel/underlay"
)

// mark is the firewall mark of the agent's own packets: they never go into
// usher0 again. The number is arbitrary, and the same on every host.
const mark = 0x75736872 // "ushr"

// Machine is what the agent changes outside of itself. [Host] is the real one;
// tests without root give another.
type Machine interface {
	// OnChange sets what Watch calls when links, addresses or routes changed.
	OnChange(f func(host.Change))
	// Set brings a plan about and keeps it.
	Set(ctx context.Context, p host.Plan) error
	// Watch keeps the plan until ctx ends.
	Watch(ctx context.Context) error
	// Status tells how things stand.
	Status() host.Status
	// Owner tells which interface holds an address.
	Owner(a netip.Addr) (host.Interface, bool, error)
	// Down removes interface, routes and guard.
	Down() error
	// OpenDevice makes or takes over usher0.
	OpenDevice(mtu int, lockDir string) (device.Device, error)
	// OpenUnderlay opens the UDP socket.
	OpenUnderlay(c underlay.Config) (underlay.Conn, error)
	// Memberships holds multicast memberships.
	Memberships() Memberships
}

// Memberships is what the agent needs of *underlay.Memberships.
type Memberships interface {
	Set(want []underlay.Membership) error
	Join(group, source netip.Addr, index int) error
	Leave(group, source netip.Addr, index int) error
	List() []underlay.Membership
	Close() error
}

// Host is the machine that the agent runs on.
func Host(log *slog.Logger) Machine {
	return &realHost{Keeper: host.New(log), members: underlay.NewMemberships()}
}

type realHost struct {
	*host.Keeper
	members *underlay.Memberships
}

func (h *realHost) Watch(ctx context.Context) error { return h.Run(ctx) }

func (h *realHost) Owner(a netip.Addr) (host.Interface, bool, error) { return host.Owner(a) }

func (h *realHost) Down() error { return Remove() }

func (h *realHost) OpenDevice(mtu int, lockDir string) (device.Device, error) {
	d, err := device.Open(config.TUN, mtu, lockDir)
	if err != nil {
		return nil, err // not a nil *device.TUN in an interface
	}
	return d, nil
}

func (h *realHost) OpenUnderlay(c underlay.Config) (underlay.Conn, error) {
	u, err := underlay.Open(c)
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (h *realHost) Memberships() Memberships { return h.members }

// Remove takes interface, routes and guard from this host: for "usher down",
// which works as root with the agent dead.
func Remove() error {
	// Interface first, the guard at last: a program that still sends meets one
	// or the other.
	if err := host.Down(config.TUN); err != nil && !errors.Is(err, host.ErrNoTUN) {
		return err
	}
	return nil
}
