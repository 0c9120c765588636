package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"usher/cmd/usher/agent/config"
	"usher/cmd/usher/control"
	"usher/tunnel"
	"usher/tunnel/host"
)

// lookEvery is how often the loop, without being told, removes keys whose time
// is over, and tries again what did not work.
const lookEvery = time.Second

// restTime is the least time between two looks for which news of the keys ask:
// with many events there is news all the time, and little of it is for the host.
// What comes alone is looked at at once.
const restTime = 200 * time.Millisecond

// request is work for the loop from another goroutine.
type request struct {
	ctx  context.Context
	work func(context.Context) error
	done chan error
}

// do runs work on the loop, which alone changes the host.
func (a *Agent) do(ctx context.Context, work func(context.Context) error) error {
	r := request{ctx: ctx, work: work, done: make(chan error, 1)}
	select {
	case a.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle makes the loop look now, and waits until the host is as it should be.
func (a *Agent) settle(ctx context.Context) error {
	return a.do(ctx, func(ctx context.Context) error {
		a.look(ctx)
		return nil
	})
}

// kick makes the loop look soon.
func (a *Agent) kick() {
	select {
	case a.kicked <- struct{}{}:
	default: // it will look anyway
	}
}

// changed is told by the keeper that links, addresses or routes moved.
func (a *Agent) changed(c host.Change) {
	a.mu.Lock()
	a.choices = c.Choices
	for _, i := range c.Rejoin {
		if !slices.Contains(a.rejoin, i) {
			a.rejoin = append(a.rejoin, i)
		}
	}
	a.mu.Unlock()
	a.keys.AddressesChanged()
	a.kick()
}

// loop looks whenever something changed, until ctx ends.
func (a *Agent) loop(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	// The channel is kept until it has told: one that was taken anew each time
	// round would miss what changes while other work is done.
	news := a.keys.Changed()
	a.look(ctx)
	looked := time.Now()
	var rested <-chan time.Time // nil: no news waits
	var hearing <-chan time.Time
	var heard time.Time // when programs' joins were last read
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-a.requests:
			r.done <- r.work(r.ctx)
		case <-a.opts.Reload:
			if err := a.reload(ctx); err != nil {
				a.log.Error("reload refused, the old configuration runs on", "error", err)
			}
		case <-news:
			news = a.keys.Changed()
			if rested == nil {
				rested = time.After(restTime - time.Since(looked))
			}
		case <-rested:
			rested = nil
			a.look(ctx)
			looked = time.Now()
		case <-a.kicked:
			a.look(ctx)
		case <-a.heard:
			if hearing == nil {
				hearing = time.After(hearEvery - time.Since(heard))
			}
		case <-hearing:
			hearing, heard = nil, time.Now()
			if a.programsMoved() {
				a.look(ctx)
			}
		case <-tick.C:
			a.db.Expire(a.bootNS())
			if a.programsMoved() || a.troubled() {
				a.look(ctx)
			}
		}
	}
}

// look compares what should stand with what stands, and changes what differs.
// What fails is noted as a problem and tried again; nothing of it stops the rest.
func (a *Agent) look(ctx context.Context) {
	a.mu.Lock()
	c, down, rejoin := a.config, a.down, a.rejoin
	a.rejoin = nil
	a.mu.Unlock()

	entries, owns := a.keys.Entries(), a.owner()
	wanted := a.heed(entries, owns, down)
	joined := a.keys.Joined()
	n := plan(c, entries, joined, owns)
	n.follow(wanted, joined)
	problems := append(n.problems, a.unheardOf()...)
	state := control.StateRunning
	switch {
	case down:
		state = control.StateDown
	case n.empty():
		state = control.StateIdle
		problems = append(problems, a.clearHost()...)
	default:
		more := a.standUp(ctx, &n, c)
		st := a.machine.Status()
		more = append(more, unfit(st)...)
		more = append(more, a.join(&n, st, rejoin)...)
		// A path without any interface to leave by is none, and one without a guard
		// is not what people were promised.
		if len(more) > 0 && (!a.pathRunning() || pick(st.Choices, nil) == nil) || unguarded(more) {
			state = control.StateFailed
		}
		problems = append(problems, more...)
	}
	a.note(state, problems)
}

// standUp brings host and path to what n says.
func (a *Agent) standUp(ctx context.Context, n *need, c *config.Config) []control.Problem {
	var problems []control.Problem
	fail := func(code string, err error) {
		problems = append(problems, control.Problem{Code: code, Text: plain(err)})
	}
	set := func() error {
		err := a.machine.Set(ctx, n.plan)
		a.mu.Lock()
		a.choices = a.machine.Status().Choices
		a.mu.Unlock()
		return err
	}
	if a.applied == nil || !samePlan(*a.applied, n.plan) {
		// The guard stands from here on, be there a usher0 or not.
		err := set()
		switch {
		case err == nil:
			a.applied = &n.plan
		case errors.Is(err, host.ErrGuard):
			a.applied = nil
			fail(codeGuard, err)
		case errors.Is(err, host.ErrNoTUN):
		default:
			a.applied = nil
			fail("host", err)
		}
		a.keys.AddressesChanged()
	}
	if errs := a.standPath(n, c, !unguarded(problems)); errs != nil {
		fail("path", errs)
	}
	if a.applied == nil && len(problems) == 0 {
		// usher0 is there now: address and routes, too.
		switch err := set(); {
		case err == nil:
			a.applied = &n.plan
		case errors.Is(err, host.ErrGuard):
			fail(codeGuard, err)
		default:
			fail("host", err)
		}
	}
	return problems
}

// codeGuard is the code of the problem that the guard does not stand.
const codeGuard = "guard"

func unguarded(problems []control.Problem) bool {
	return slices.ContainsFunc(problems, func(p control.Problem) bool { return p.Code == codeGuard })
}

// standPath makes sure that the packet path runs with the right settings. Where
// there is no real interface, or no guard, it makes usher0 alone: programs that
// send to it lose packets, and get no error. A path that runs is left to run.
func (a *Agent) standPath(n *need, c *config.Config, guarded bool) error {
	a.mu.Lock()
	choices, p := a.choices, a.path
	a.mu.Unlock()
	real := pick(choices, n.plan.OwnSources)
	s := pathSettings{mtu: c.MTU, lockDir: c.Paths.Run, port: c.Port, offload: c.Offload != "off"}
	if s.mtu == 0 {
		s.mtu = tunMTU(choices, real)
	}
	// A new MTU needs no new path: the keeper sets it.
	if p.running() && p.settings.port == s.port && p.settings.offload == s.offload && p.settings.lockDir == s.lockDir {
		if real != nil {
			p.leaveBy(real.Interface.Index, addressOf(real))
		}
		return nil
	}
	if p != nil {
		if !p.running() && p.err != nil {
			a.log.Warn("packet path ended, it is opened again", "error", p.err)
		}
		if err := a.stopPath(); err != nil {
			a.log.Debug("packet path not closed in order", "error", err)
		}
	}
	d, err := openDevice(a.machine, s)
	if err != nil {
		return err
	}
	if real == nil || !guarded {
		return d.Close()
	}
	p, err = startPath(a.machine, s, d, a.db, a.bootNS, a.log, tunnel.Hooks{GroupReport: a.reports.Put}, a.kick)
	if err != nil {
		return err
	}
	p.leaveBy(real.Interface.Index, addressOf(real))
	a.mu.Lock()
	a.path = p
	a.mu.Unlock()
	// The routes of an interface that was made anew are gone.
	a.applied = nil
	a.log.Info("packet path runs", "tun", p.device.Name(), "mtu", s.mtu, "interface", real.Interface.Name, "why", real.Why, "port", s.port)
	return nil
}

// stopPath ends the packet path and keeps its counts.
func (a *Agent) stopPath() error {
	a.mu.Lock()
	p := a.path
	a.path = nil
	a.mu.Unlock()
	if p == nil {
		return nil
	}
	err := p.stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	addCounts(p, &a.traffic, a.past)
	return err
}

func (a *Agent) pathRunning() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.path.running()
}

// pick chooses the interface by which packets leave: that of a flow that this
// host sends, else the first that works; nil if none does.
func pick(choices []host.Choice, own []netip.Addr) *host.Choice {
	var first *host.Choice
	for i := range choices {
		c := &choices[i]
		if c.Err != nil {
			continue
		}
		if slices.Contains(own, c.Source) {
			return c
		}
		if first == nil {
			first = c
		}
	}
	return first
}

// addressOf is the address that packets without one of their own leave with.
func addressOf(c *host.Choice) netip.Addr {
	for _, p := range c.Interface.Addrs {
		if p.Addr() == c.Source {
			return c.Source
		}
	}
	if len(c.Interface.Addrs) > 0 {
		return c.Interface.Addrs[0].Addr()
	}
	return netip.Addr{}
}

// tunMTU is what fits the smallest real interface in use.
func tunMTU(choices []host.Choice, real *host.Choice) int {
	smallest := 1500
	if real != nil {
		smallest = real.Interface.MTU
	}
	for _, c := range choices {
		if c.Err == nil && c.Interface.MTU > 0 {
			smallest = min(smallest, c.Interface.MTU)
		}
	}
	return host.TunnelMTU(smallest)
}

// join brings the memberships to what n says, and forces reports where the
// network may have forgotten them.
func (a *Agent) join(n *need, st host.Status, rejoin []int) []control.Problem {
	var problems []control.Problem
	members := a.machine.Memberships()
	want, missing := n.memberships(st.Choices, st.TUN)
	for _, m := range members.List() {
		if !slices.Contains(rejoin, m.Interface) || !slices.Contains(want, m) {
			continue
		}
		// Joining again what is joined makes no report: leave first, here only.
		if err := errors.Join(members.Leave(m.Group, m.Source, m.Interface), members.Join(m.Group, m.Source, m.Interface)); err != nil {
			a.log.Warn("membership not renewed after the link came back", "membership", m.String(), "error", err)
		}
	}
	if err := members.Set(want); err != nil {
		problems = append(problems, control.Problem{Code: "membership", Text: plain(err)})
	}
	for _, s := range missing {
		problems = append(problems, control.Problem{
			Code: "membership", Text: fmt.Sprintf("group %s is not received: no interface leads to it", s.group),
			Todo: `set interface = "…" in the TOML, or a route to the group or to its source`,
		})
	}
	return problems
}

// unfit are problems that the keeper sees.
func unfit(st host.Status) []control.Problem {
	var problems []control.Problem
	for _, c := range st.Choices {
		if c.Err != nil {
			p := control.Problem{Code: "interface", Text: plain(c.Err), Todo: `ip link shows the interfaces; interface = "…" in the TOML names one`}
			if !slices.Contains(problems, p) {
				problems = append(problems, p)
			}
		}
	}
	for _, text := range st.Problems {
		problems = append(problems, control.Problem{Code: "host", Text: text})
	}
	return problems
}

// clearHost takes everything away where there was something to protect and
// nothing is left: after a logout, or a reload without policies. At a start it
// touches nothing: what an earlier agent left is not this one's to lift.
func (a *Agent) clearHost() []control.Problem {
	if a.applied == nil && !a.pathRunning() {
		return nil
	}
	err := a.takeDown()
	if err == nil {
		return nil
	}
	return []control.Problem{{Code: "host", Text: plain(err), Todo: "usher down"}}
}

// takeDown removes memberships, path, interface, routes and guard.
func (a *Agent) takeDown() error {
	err := errors.Join(a.machine.Memberships().Set(nil), a.stopPath(), a.machine.Down())
	a.applied = nil
	a.mu.Lock()
	a.choices = nil
	a.mu.Unlock()
	return err
}

// troubled tells whether something does not stand that should.
func (a *Agent) troubled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.problems) > 0 || a.state == control.StateRunning && !a.path.running()
}

// note keeps what the last look found, and tells the log of news.
func (a *Agent) note(state control.State, problems []control.Problem) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(a.problems, p) {
			a.log.Warn("problem", "code", p.Code, "text", p.Text, "todo", p.Todo)
		}
	}
	if state != a.state {
		a.log.Info("state changed", "state", string(state))
	}
	a.state, a.problems = state, problems
}

// reload reads the configuration again. One that is refused changes nothing, and
// is told by status until a later one is taken. A file that was there and is gone
// is refused, too: for an instant it may be neither the old nor the new one, and
// what it protects must not leave in the clear then.
func (a *Agent) reload(ctx context.Context) error {
	c, err := loadConfig(a.opts.Config)
	if now := a.current(); err == nil && c.Missing() && !now.Missing() {
		err = fmt.Errorf("%s is gone; an empty one would say that there is nothing to protect", a.opts.Config)
	}
	if err == nil {
		err = a.manual.apply(c)
	}
	now := a.clock.Wall()
	a.mu.Lock()
	if err != nil {
		a.failed = &control.ConfigStatus{Failed: &now, Error: err.Error()}
		a.mu.Unlock()
		return err
	}
	a.config, a.loaded, a.failed = c, now, nil
	a.mu.Unlock()
	a.look(ctx)
	return nil
}
