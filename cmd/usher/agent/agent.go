package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"usher/cmd/usher/agent/config"
	"usher/cmd/usher/agent/reserve"
	"usher/cmd/usher/agent/wishes"
	"usher/cmd/usher/control"
	"usher/keyclient"
	"usher/keyclient/clock"
	"usher/sa"
	"usher/tunnel/host"
)

// Options are what an agent is started with.
type Options struct {
	Config string // path of the TOML; it may be missing
	Socket string
	Log    *slog.Logger
	Clock  clock.Clock
	// Machine is what the agent runs on; nil: this host.
	Machine Machine
	// Ready is called once, when all that can stand stands. nil: nobody waits.
	Ready func()
	// Reload gets a value when the configuration is to be read again.
	Reload <-chan os.Signal
}

// Agent is one running agent. Its exported methods are those of
// control.Backend; all of them may be called by any goroutine.
type Agent struct {
	opts    Options
	log     *slog.Logger
	clock   clock.Clock
	machine Machine
	db      *sa.DB
	keys    *keyclient.Client
	numbers *reserve.Store // of sending [[sa]]
	started time.Time
	first   *config.Config // what the agent was started with

	requests chan request  // for the loop
	kicked   chan struct{} // something changed: the loop looks again
	manual   manual        // the loop's
	applied  *host.Plan    // the loop's; what Set was last given and took
	heard    chan struct{} // a program may have joined or left: the loop reads
	reports  *wishes.Inbox // from the packet path to the loop
	wishes   *wishes.State // the loop's; what programs of this host want
	heeded   []program     // the loop's; what of it the last look brought about
	unheard  error         // the loop's; why it cannot be read

	mu        sync.Mutex
	config    *config.Config        // guarded by mu
	loaded    time.Time             // guarded by mu; when config was read
	failed    *control.ConfigStatus // guarded by mu; the last reload, if it was refused
	down      bool                  // guarded by mu; usher down was typed
	path      *path                 // guarded by mu; nil while there is none
	choices   []host.Choice         // guarded by mu
	rejoin    []int                 // guarded by mu; interfaces on which reports are to be forced
	problems  []control.Problem     // guarded by mu; of the last look
	state     control.State         // guarded by mu
	freshened time.Duration         // guarded by mu; boot time of the last look at the events
	past      map[string]uint64     // guarded by mu; drops of paths that ended
	traffic   control.Traffic       // guarded by mu; traffic of paths that ended
}

// Run runs an agent until ctx ends, and returns nil then. What it set up on the
// host stays. Errors at the start: control.ErrRunning; faults of the
// configuration, with file, line and key; a state folder that cannot be used.
func Run(ctx context.Context, o Options) error {
	lock, err := control.Acquire(o.Socket)
	if err != nil {
		return err
	}
	defer lock.Release() //nolint:errcheck // the process ends
	c, err := loadConfig(o.Config)
	if err != nil {
		return err
	}
	// Two agents with two sockets would share identity, counters and usher0.
	state, err := lockState(c.Paths.State)
	if err != nil {
		return err
	}
	defer state.Close()
	a, err := assemble(o, c)
	if err != nil {
		return err
	}
	ln, err := lock.Listen()
	if err != nil {
		return err
	}
	defer os.Remove(o.Socket) //nolint:errcheck // a stale socket is replaced by the next agent
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	// The first look sets guard, routes and path up, before anybody can ask for
	// a key and before programs are told that the agent is ready.
	a.machine.OnChange(a.changed)
	a.look(ctx)

	var parts sync.WaitGroup
	run := func(name string, f func(context.Context) error) {
		parts.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("agent: %s: %w", name, err))
			}
		})
	}
	run("control socket", func(ctx context.Context) error { return control.NewServer(a, a.log).Serve(ctx, ln) })
	run("watch of the host", a.machine.Watch)
	run("watch of groups", a.listen)
	run("keying", a.keys.Run)
	run("loop", a.loop)
	if o.Ready != nil {
		o.Ready()
	}
	a.log.Info("agent runs", "config", o.Config, "socket", o.Socket, "pid", os.Getpid())
	<-ctx.Done()
	parts.Wait()
	err = errors.Join(a.stopPath(), a.machine.Memberships().Close())
	a.numbers.Close()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return errors.Join(cause, err)
	}
	a.log.Info("agent ends; interface, routes and guard stay")
	return err
}

// assemble makes an agent without touching the host.
func assemble(o Options, c *config.Config) (*Agent, error) {
	a := &Agent{
		opts: o, log: o.Log, clock: o.Clock, machine: o.Machine, db: sa.NewDB(), started: o.Clock.Wall(),
		requests: make(chan request), kicked: make(chan struct{}, 1), heard: make(chan struct{}, 1),
		wishes: wishes.NewState(config.TUN), state: control.StateIdle, past: map[string]uint64{},
	}
	if a.machine == nil {
		a.machine = Host(a.log)
	}
	a.reports = wishes.NewInbox(a.heard)
	a.config, a.first, a.loaded = c, c, a.clock.Wall()
	a.numbers = reserve.Open(filepath.Join(c.Paths.State, "reserved"), a.log)
	a.manual = manual{db: a.db, keep: c.ShowKeys, reserve: a.numbers.Take}
	if err := a.manual.policies(c); err != nil {
		return nil, err
	}
	if err := a.manual.apply(c); err != nil {
		// Without their keys the packets of a [[policy]] are dropped; without an
		// agent they would leave in the clear.
		a.log.Error("[[sa]] refused, their policies stand without keys", "error", err)
		a.failed = &control.ConfigStatus{Failed: &a.loaded, Error: err.Error()}
	}
	var err error
	a.keys, err = keyclient.New(keyclient.Config{
		StateDir: c.Paths.State, Server: c.Server, CASHA256: c.CASHA256, Clock: a.clock, DB: a.db, Log: a.log,
		OwnAddresses: a.ownAddresses, ESPPort: c.Port, KeepMaterial: c.ShowKeys,
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// lockState takes the state folder for this agent alone.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("agent: state folder: %w", err)
	}
	return control.LockFile(filepath.Join(dir, "agent.lock"))
}

// loadConfig reads the TOML. One that is not there is an empty one: an agent
// without a configuration waits for "usher login URL", which writes it.
func loadConfig(file string) (*config.Config, error) {
	c, err := config.Load(file)
	if errors.Is(err, fs.ErrNotExist) {
		return config.None(file), nil
	}
	return c, err
}

// bootNS is the instant of the data plane.
func (a *Agent) bootNS() int64 { return int64(a.clock.Boot()) }

// current is the configuration that runs.
func (a *Agent) current() *config.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.config
}

// ownAddresses are the addresses of the real interfaces in use.
func (a *Agent) ownAddresses() (addresses []netip.Addr, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[netip.Addr]bool{}
	for _, c := range a.choices {
		if c.Err != nil {
			continue
		}
		if name == "" {
			name = c.Interface.Name
		}
		for _, p := range c.Interface.Addrs {
			if !seen[p.Addr()] {
				seen[p.Addr()] = true
				addresses = append(addresses, p.Addr())
			}
		}
	}
	return addresses, name
}

// owner returns a function that tells whether an address is this host's, by
// whatever interface; it asks the kernel once for each address.
func (a *Agent) owner() func(netip.Addr) bool {
	known := map[netip.Addr]bool{}
	return func(addr netip.Addr) bool {
		own, ok := known[addr]
		if !ok {
			_, found, err := a.machine.Owner(addr)
			own = err == nil && found
			known[addr] = own
		}
		return own
	}
}
