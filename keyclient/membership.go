package keyclient

import (
	"context"
	"fmt"
	"sync"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
)

// membership is one joined event: a session for each of its occurrences, one
// after the other, and two where the next one's initial period begins early.
type membership struct {
	id   derive.EventID
	role wire.Role

	// Who wants it, one of them at least; guarded by Client.mu.
	joined   bool // Join was called
	followed bool // a program of this host wants it: Follow

	begun int64 // boot ns at which it was followed; 0 where Join came first

	cancel context.CancelFunc // nil until it runs; set by the membership loop, guarded by Client.mu
	ended  chan struct{}      // closed when it has wiped everything; nil until it runs

	// All below is guarded by Client.mu.
	views  map[int64]*sessionView // by the occurrence's start, ms
	idle   State                  // what it is without a session
	detail string
	until  time.Time
}

// sessionView is what a session shows of itself.
type sessionView struct {
	state   State
	detail  string
	until   time.Time // due time, or end of the key at hand
	next    time.Time // when it asks a server next; zero: no more
	keys    int
	current int64
	offset  schedule.Offset
}

// newMembership makes one that a call of Join wants.
func newMembership(id derive.EventID, role wire.Role) *membership {
	return &membership{id: id, role: role, joined: true, views: make(map[int64]*sessionView), idle: StateWaiting}
}

// stop ends it and returns when its keys are wiped. Client.mu is not held. One
// that does not run has nothing to wipe.
func (m *membership) stop() {
	if m.cancel != nil {
		m.cancel()
		<-m.ended
	}
}

// addTo fills in what is known of the joined event: the session with a key
// speaks for it, else the earliest one. Client.mu is held.
func (m *membership) addTo(e Event) Event {
	e.Joined, e.Followed, e.Role = m.joined, m.followed, m.role
	e.State, e.Detail, e.Until = m.idle, m.detail, m.until
	var best *sessionView
	var bestStart int64
	for start, v := range m.views {
		better := best == nil || v.keys > 0 && best.keys == 0 || (v.keys > 0) == (best.keys > 0) && start < bestStart
		if better {
			best, bestStart = v, start
		}
	}
	if best != nil {
		e.State, e.Detail, e.Until, e.Keys, e.Current, e.NextKey = best.state, best.detail, best.until, best.keys, best.current, best.next
	}
	return e
}

// membershipLoop starts and ends memberships as joins come and go.
func (c *Client) membershipLoop(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	started := make(map[derive.EventID]*membership)
	for {
		wake := c.renewals()
		c.mu.Lock()
		wanted := make(map[derive.EventID]*membership, len(c.joined))
		for id, m := range c.joined {
			wanted[id] = m
		}
		c.mu.Unlock()
		for id, m := range started {
			if wanted[id] != m { // left, or joined anew in another role
				m.stop()
				delete(started, id)
			}
		}
		for id, m := range wanted {
			if started[id] == nil {
				started[id] = m
				c.startMembership(ctx, m, &running)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
	}
}

func (c *Client) startMembership(ctx context.Context, m *membership, running *sync.WaitGroup) {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.joined[m.id] != m { // left before it began
		cancel()
		return
	}
	m.cancel, m.ended = cancel, make(chan struct{})
	running.Go(func() {
		defer cancel()
		defer close(m.ended)
		c.runMembership(ctx, m)
	})
}

// runMembership starts a session for each occurrence as its initial keying
// period begins.
func (c *Client) runMembership(ctx context.Context, m *membership) {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	over := make(chan *session, 4)   // sessions that ended
	running := make(map[int64]bool)  // sessions, by start
	finished := make(map[int64]bool) // occurrences that are done with, though perhaps not over by the clock
	for ctx.Err() == nil {           // else a session that just ended would begin anew
		wake := c.renewals()
		plan := c.planMembership(m, running, finished)
		for _, o := range plan.begin {
			start := o.occurrence.Start.UnixMilli()
			running[start] = true
			s := newSession(c, m, o.entry, o.timing)
			sessions.Go(func() {
				s.run(ctx)
				select {
				case over <- s:
				case <-ctx.Done():
				}
			})
		}
		timer := time.NewTimer(plan.wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case s := <-over:
			delete(running, s.timing.StartMS)
			finished[s.timing.StartMS] = s.machine.State() == schedule.StateEnded
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// plan is what a membership does now, and when it looks again.
type plan struct {
	begin []plannedSession
	wait  time.Duration
}

type plannedSession struct {
	entry      heldEntry
	occurrence schedule.Occurrence
	timing     schedule.Timing
}

// longestWait bounds how long a membership trusts a timer: the host may sleep,
// and the server's clock may turn out to be another.
const longestWait = time.Minute

// planMembership looks at the entry as it now is.
func (c *Client) planMembership(m *membership, running, finished map[int64]bool) plan {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.notify()
	p := plan{wait: longestWait}
	e := c.held.find(m.id)
	if e == nil {
		m.idle, m.detail, m.until = StateRefused, "no ticket that this client holds has the event any more", time.Time{}
		return p
	}
	if _, err := c.joinable(e, &m.role); err != nil {
		m.idle, m.detail, m.until = StateRefused, err.Error(), time.Time{}
		return p
	}
	now := c.wall()
	next, err := e.occurrences(now)
	if err != nil {
		m.idle, m.detail, m.until = StateRefused, err.Error(), time.Time{}
		return p
	}
	if len(next) == 0 {
		m.idle, m.detail, m.until = StateEnded, "no further occurrence", time.Time{}
		return p
	}
	m.idle, m.detail, m.until = StateWaiting, "", time.Time{}
	for _, o := range next[:min(2, len(next))] {
		start := o.Start.UnixMilli()
		if running[start] || finished[start] {
			continue
		}
		t := timingOf(e.entry, o)
		if err := t.Validate(); err != nil {
			m.idle, m.detail = StateRefused, err.Error()
			return p
		}
		begins := time.UnixMilli(t.BeginsMS())
		if wait := begins.Sub(now); wait > 0 {
			p.wait = min(p.wait, wait)
			if len(p.begin)+len(running) > 0 {
				break // the one that is under way is to be told of
			}
			m.until = begins
			m.detail = fmt.Sprintf("keys from %s on, the event begins at %s", begins.UTC().Format(time.RFC3339), o.Start.UTC().Format(time.RFC3339))
			break
		}
		p.begin = append(p.begin, plannedSession{*e, o, t})
	}
	return p
}
