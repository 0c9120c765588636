package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"

	"usher/cmd/usher/agent/config"
	"usher/cmd/usher/agent/wishes"
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
	// Groups reads what programs and the agent have joined, as wishes.Reader does.
	// One goroutine calls it.
	Groups() (s wishes.Snapshot, settled bool, err error)
	// WatchGroups calls f when that may have changed, until ctx ends. It returns
	// an error at once where nobody tells.
	WatchGroups(ctx context.Context, f func()) error
}

// Memberships is what the agent needs of *underlay.Memberships.
type Memberships interface {
	Set(want []underlay.Membership) error
	Join(group, source netip.Addr, index int) error
	Leave(group, source netip.Addr, index int) error
	List() []underlay.Membership
	Sockets() map[underlay.Membership]int
	Close() error
}

// Host is the machine that the agent runs on.
func Host(log *slog.Logger) Machine {
	return &realHost{log: log, keeper: host.New(log), members: underlay.NewMemberships(), idle: make(chan struct{}, 1)}
}

// realHost keeps a plan by a host.Keeper. A keeper has no way to be without a
// plan again, so that Down ends it and begins with a new one.
type realHost struct {
	log     *slog.Logger
	members *underlay.Memberships
	marker  wishes.Marker // of Groups

	mu       sync.Mutex
	keeper   *host.Keeper       // guarded by mu
	onChange func(host.Change)  // guarded by mu
	stop     context.CancelFunc // guarded by mu; ends the keeper's Run, nil while it does not run
	idle     chan struct{}      // gets a value when a stopped Run has ended
}

func (h *realHost) current() *host.Keeper {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keeper
}

func (h *realHost) OnChange(f func(host.Change)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onChange = f
	h.keeper.OnChange(f)
}

func (h *realHost) Set(ctx context.Context, p host.Plan) error { return h.current().Set(ctx, p) }

func (h *realHost) Status() host.Status { return h.current().Status() }

// Watch runs the keeper, and after each Down the next one.
func (h *realHost) Watch(ctx context.Context) error {
	for {
		run, cancel := context.WithCancel(ctx)
		h.mu.Lock()
		k := h.keeper
		h.stop = cancel
		h.mu.Unlock()
		err := k.Run(run)
		cancel()
		h.mu.Lock()
		stopped := h.stop == nil
		h.stop = nil
		h.mu.Unlock()
		if stopped {
			h.idle <- struct{}{}
		}
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// Down ends the keeper, which would put back what goes now, and removes all.
func (h *realHost) Down() error {
	h.mu.Lock()
	stop := h.stop
	h.stop = nil
	h.keeper = host.New(h.log)
	h.keeper.OnChange(h.onChange)
	h.mu.Unlock()
	if stop != nil {
		stop()
		<-h.idle
	}
	return Remove()
}

func (h *realHost) Owner(a netip.Addr) (host.Interface, bool, error) { return host.Owner(a) }

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

func (h *realHost) Groups() (wishes.Snapshot, bool, error) {
	return wishes.Reader{Marker: &h.marker}.Read()
}

func (h *realHost) WatchGroups(ctx context.Context, f func()) error { return wishes.Watch(ctx, f) }

// Remove takes interface, routes and guard from this host: for "usher down",
// which works as root with the agent dead.
func Remove() error {
	if err := host.Down(config.TUN); err != nil && !errors.Is(err, host.ErrNoTUN) {
		return err
	}
	return nil
}
