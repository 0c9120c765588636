// Package agenttest has a machine in memory, so that a whole agent runs without
// root: its host remembers what it was told, its device and its network are
// those of devicetest and underlaytest.
package agenttest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"usher/cmd/usher/agent"
	"usher/cmd/usher/agent/config"
	"usher/cmd/usher/agent/wishes"
	"usher/tunnel/device"
	"usher/tunnel/device/devicetest"
	"usher/tunnel/host"
	"usher/tunnel/underlay"
	"usher/tunnel/underlay/underlaytest"
)

// TUNIndex is the index of usher0 on every Machine.
const TUNIndex = 7

// Machine is an agent.Machine in memory, with one real interface.
type Machine struct {
	network *underlaytest.Network
	members members

	mu       sync.Mutex
	real     host.Interface     // guarded by mu
	onChange func(host.Change)  // guarded by mu
	plan     *host.Plan         // guarded by mu; nil: nothing stands
	sets     int                // guarded by mu
	tun      bool               // guarded by mu; usher0 exists
	device   *devicetest.Device // guarded by mu; the newest
	conn     *underlaytest.Conn // guarded by mu; the newest
	noGuard  bool               // guarded by mu; the guard cannot be made
	programs wishes.Snapshot    // guarded by mu; what programs have joined
	onGroups func()             // guarded by mu

	// PortTaken, if set, is what opening the socket fails with. Set it before
	// the agent starts.
	PortTaken error
}

var _ agent.Machine = (*Machine)(nil)

// New makes a machine on a network, with an interface eth0 of that address.
func New(n *underlaytest.Network, address netip.Prefix) *Machine {
	return &Machine{network: n, real: host.Interface{
		Name: "eth0", Index: 2, MTU: 1500, Addrs: []netip.Prefix{address}, Up: true, Carrier: true,
	}}
}

// OnChange implements agent.Machine.
func (m *Machine) OnChange(f func(host.Change)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onChange = f
}

// Move gives the machine another real interface, and tells the agent.
func (m *Machine) Move(i host.Interface, rejoin ...int) {
	m.mu.Lock()
	m.real = i
	c, f := host.Change{Choices: m.choices(), Rejoin: rejoin, TUN: m.state()}, m.onChange
	m.mu.Unlock()
	if f != nil {
		f(c)
	}
}

// Set implements agent.Machine.
func (m *Machine) Set(_ context.Context, p host.Plan) error {
	if err := p.Validate(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plan = &p
	m.sets++
	if m.noGuard {
		return fmt.Errorf("%w: as the test wants it", host.ErrGuard)
	}
	if !m.tun {
		return fmt.Errorf("%w (usher0)", host.ErrNoTUN)
	}
	return nil
}

// RefuseGuard makes Set fail as on a host whose kernel takes no guard, or no more.
func (m *Machine) RefuseGuard(refuse bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noGuard = refuse
}

// Plan is what Set was last given; nil after Down and before the first one.
func (m *Machine) Plan() *host.Plan {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plan
}

// Sets counts the calls of Set.
func (m *Machine) Sets() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sets
}

// Watch implements agent.Machine.
func (m *Machine) Watch(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// choices needs mu.
func (m *Machine) choices() []host.Choice {
	if m.plan == nil {
		return nil
	}
	var out []host.Choice
	for _, f := range m.plan.Flows {
		c := host.Choice{Group: f.Destination, Source: f.Source, Interface: m.real, Why: "the only one"}
		if want := m.plan.RealInterface; want != "" && want != m.real.Name {
			c.Interface, c.Why = host.Interface{}, ""
			c.Err = fmt.Errorf("%w: %q, which the configuration names", host.ErrNoInterface, want)
		}
		if !slices.ContainsFunc(out, func(o host.Choice) bool { return o.Group == c.Group && o.Source == c.Source }) {
			out = append(out, c)
		}
	}
	return out
}

// state needs mu.
func (m *Machine) state() host.TUNState {
	return host.TUNState{Present: m.tun, Index: TUNIndex, Up: m.tun, MTU: 1438}
}

// Status implements agent.Machine.
func (m *Machine) Status() host.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return host.Status{Choices: m.choices(), TUN: m.state(), Guard: host.GuardStatus{Present: m.plan != nil}}
}

// Owner implements agent.Machine.
func (m *Machine) Owner(a netip.Addr) (host.Interface, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.real.Addrs {
		if p.Addr() == a {
			return m.real, true, nil
		}
	}
	return host.Interface{}, false, nil
}

// Down implements agent.Machine.
func (m *Machine) Down() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plan, m.tun = nil, false
	return nil
}

// OpenDevice implements agent.Machine.
func (m *Machine) OpenDevice(int, string) (device.Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tun = true
	m.device = devicetest.New(config.TUN)
	return m.device, nil
}

// Device is usher0 as the newest path has it, nil before.
func (m *Machine) Device() *devicetest.Device {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.device
}

// Conn is the socket as the newest path has it, nil before.
func (m *Machine) Conn() *underlaytest.Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conn
}

// OpenUnderlay implements agent.Machine.
func (m *Machine) OpenUnderlay(underlay.Config) (underlay.Conn, error) {
	if m.PortTaken != nil {
		return nil, m.PortTaken
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conn = m.network.Host(m.real.Addrs[0].Addr())
	m.members.attach(m.conn)
	return m.conn, nil
}

// Groups implements agent.Machine: what programs and the agent itself joined.
func (m *Machine) Groups() (wishes.Snapshot, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := wishes.Snapshot{Names: map[int]string{TUNIndex: config.TUN, m.real.Index: m.real.Name}, Groups: map[wishes.Place]wishes.Counts{}, Marked: true}
	add := func(at wishes.Place, sockets int, source netip.Addr, n wishes.SourceCount) {
		c := s.Groups[at]
		c.Sockets += sockets
		if source.IsValid() {
			if c.Sources == nil {
				c.Sources = map[netip.Addr]wishes.SourceCount{}
			}
			old := c.Sources[source]
			c.Sources[source] = wishes.SourceCount{Include: old.Include + n.Include, Exclude: old.Exclude + n.Exclude}
		}
		s.Groups[at] = c
	}
	for at, c := range m.programs.Groups {
		add(at, c.Sockets, netip.Addr{}, wishes.SourceCount{})
		for source, n := range c.Sources {
			add(at, 0, source, n)
		}
	}
	for _, h := range m.members.List() {
		add(wishes.Place{Interface: h.Interface, Group: h.Group}, 1, h.Source, wishes.SourceCount{Include: 1})
	}
	return s, true, nil
}

// SetPrograms makes s what programs have joined, and announces it.
func (m *Machine) SetPrograms(s wishes.Snapshot) {
	m.mu.Lock()
	m.programs = s
	f := m.onGroups
	m.mu.Unlock()
	if f != nil {
		f()
	}
}

// WatchGroups implements agent.Machine.
func (m *Machine) WatchGroups(ctx context.Context, f func()) error {
	m.mu.Lock()
	m.onGroups = f
	m.mu.Unlock()
	<-ctx.Done()
	return nil
}

// Memberships implements agent.Machine.
func (m *Machine) Memberships() agent.Memberships { return &m.members }

// Joined lists what is joined now.
func (m *Machine) Joined() []underlay.Membership { return m.members.List() }

// Renewed counts how often a membership that was there was left and joined.
func (m *Machine) Renewed() int {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	return m.members.left
}

// members are memberships in memory; those on the real interface reach the
// network.
type members struct {
	mu   sync.Mutex
	conn *underlaytest.Conn    // guarded by mu
	held []underlay.Membership // guarded by mu
	left int                   // guarded by mu; calls of Leave
}

func (s *members) attach(c *underlaytest.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = c
	for _, m := range s.held {
		s.wire(m, true)
	}
}

// wire needs mu.
func (s *members) wire(m underlay.Membership, join bool) {
	if s.conn == nil || m.Interface == TUNIndex {
		return
	}
	if join {
		s.conn.Join(m.Group)
	} else {
		s.conn.Leave(m.Group)
	}
}

// Set implements agent.Memberships.
func (s *members) Set(want []underlay.Membership) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.held {
		if !slices.Contains(want, m) {
			s.wire(m, false)
		}
	}
	s.held = slices.Clone(want)
	for _, m := range s.held {
		s.wire(m, true)
	}
	return nil
}

// Join implements agent.Memberships.
func (s *members) Join(group, source netip.Addr, index int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := underlay.Membership{Group: group, Source: source, Interface: index}
	if !slices.Contains(s.held, m) {
		s.held = append(s.held, m)
	}
	s.wire(m, true)
	return nil
}

// Leave implements agent.Memberships.
func (s *members) Leave(group, source netip.Addr, index int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := underlay.Membership{Group: group, Source: source, Interface: index}
	s.held = slices.DeleteFunc(s.held, func(o underlay.Membership) bool { return o == m })
	s.left++
	s.wire(m, false)
	return nil
}

// List implements agent.Memberships.
func (s *members) List() []underlay.Membership {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.held)
}

// Sockets implements agent.Memberships: each membership has its own.
func (s *members) Sockets() map[underlay.Membership]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[underlay.Membership]int{}
	for _, m := range s.held {
		all[underlay.Membership{Group: m.Group, Interface: m.Interface}]++
	}
	return all
}

// Close implements agent.Memberships.
func (s *members) Close() error { return s.Set(nil) }
