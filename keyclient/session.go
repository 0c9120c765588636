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

// session is one occurrence of a joined event. It carries out what
// schedule.Machine says: every request runs in a goroutine of its own, and what
// it brings is handled by run's goroutine, which alone touches the fields.
type session struct {
	c      *Client
	m      *membership
	entry  heldEntry
	role   wire.Role
	timing schedule.Timing

	machine schedule.Machine
	timer   *time.Timer
	wakeMS  int64          // server's time at which the machine wants a Timer
	done    chan func()    // what requests brought
	work    sync.WaitGroup // requests under way
	over    bool

	offset schedule.Offset // the key server's clock
	grant  *wire.Grant     // nil until enrolled; its body is wiped
	chain  stepChain       // what refreshes are made with
	tries  []*try          // open ones, oldest first
	fresh  map[uint32]wire.Record
	keys   map[uint32]*installed // by interval
	gone   traffic               // counted by associations that were removed
	seen   traffic               // reported so far

	detail string // the last refusal or failure, in plain words
	held   int64  // until when what is held lasts, ms; set by a refusal
}

// maxTries is how many tries of one request may be open (docs/keying.md §5.4).
const maxTries = 4

func newSession(c *Client, m *membership, e heldEntry, t schedule.Timing) *session {
	return &session{
		c: c, m: m, entry: e, role: m.role, timing: t,
		machine: schedule.NewMachine(t, schedule.Role(m.role), schedule.Options{}),
		timer:   time.NewTimer(time.Hour),
		done:    make(chan func(), 2*maxTries),
		fresh:   make(map[uint32]wire.Record),
		keys:    make(map[uint32]*installed),
	}
}

// run keys the occurrence until it is over or ctx ends. When it returns, its
// keys are wiped and its associations gone.
func (s *session) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wipe()
	defer s.work.Wait()
	defer cancel() // ends requests that are under way
	defer s.timer.Stop()
	s.c.log.Info("occurrence joined", "event", s.entry.entry.ID, "start_ms", s.timing.StartMS, "role", s.role)
	s.step(ctx, schedule.Join{})
	seen := s.c.renewals()
	for !s.over {
		wake := s.c.renewals()
		if wake != seen {
			seen = wake
			s.entryChanged(ctx)
			continue
		}
		s.publish()
		s.arm()
		select {
		case <-ctx.Done():
			return
		case handle := <-s.done:
			handle()
		case <-wake:
		case <-s.timer.C:
			if s.nowMS() >= s.wakeMS {
				s.step(ctx, schedule.Timer{})
			}
		}
	}
}

// spawn runs f in a goroutine that run waits for.
func (s *session) spawn(f func()) { s.work.Go(f) }

// later hands what a request brought to run's goroutine.
func (s *session) later(ctx context.Context, handle func()) {
	select {
	case s.done <- handle:
	case <-ctx.Done():
	}
}

// nowMS is the server's time: by the key server's answers, before them by the
// ticket server's, before these by the host's clock.
func (s *session) nowMS() int64 {
	if ms, _, ok := s.offset.NowMS(s.c.cfg.Clock.BootNS()); ok {
		return ms
	}
	return s.c.serverNow().UnixMilli()
}

// arm sets the timer to the machine's wake-up by today's clock, or to the next
// beginning or end of a held interval, at which the view changes.
func (s *session) arm() {
	now := s.nowMS()
	at := s.wakeMS
	for _, k := range s.keys {
		for _, edge := range [...]int64{k.beginMS, k.endMS} {
			if edge > now {
				at = min(at, edge)
			}
		}
	}
	wait := time.Duration(at-now) * time.Millisecond
	s.timer.Reset(min(max(wait, 0), longestWait))
}

// step feeds the machine and carries out what it says.
func (s *session) step(ctx context.Context, ev schedule.Event) {
	before := s.machine.State()
	var actions []schedule.Action
	s.machine, actions = s.machine.Step(ev, s.nowMS(), s.c.cfg.Rand)
	for _, a := range actions {
		s.do(ctx, a)
	}
	for i, r := range s.fresh { // installed, or not wanted
		r.Key.Wipe()
		delete(s.fresh, i)
	}
	if after := s.machine.State(); after != before {
		s.c.log.Debug("keying state", "event", s.entry.entry.ID, "state", after.String(), "before", before.String())
	}
}

func (s *session) do(ctx context.Context, a schedule.Action) {
	switch a := a.(type) {
	case schedule.Enrol:
		s.enrol(ctx, a)
	case schedule.Refresh:
		s.refresh(ctx, a)
	case schedule.Install:
		s.install(a.Keys)
	case schedule.Drop:
		s.drop(a.Through)
	case schedule.FetchTicket:
		s.fetchTicket(ctx)
	case schedule.Refused:
		s.refused(a)
	case schedule.Over:
		s.over = true
	case schedule.Wake:
		s.wakeMS = a.AtMS
	}
}

// refused notes that the server gives no further key.
func (s *session) refused(a schedule.Refused) {
	s.held = a.HeldUntilMS
	if a.Code == 0 {
		s.detail = "the server withholds further keys"
	}
	s.c.log.Warn("no further key", "event", s.entry.entry.ID, "status", a.Status.String(), "http", a.Code, "held_until_ms", a.HeldUntilMS)
}

// fetchTicket has the tickets fetched after a random delay: the change came to
// everybody at once (docs/design.md §6).
func (s *session) fetchTicket(ctx context.Context) {
	reenrol := int64(60_000)
	if s.grant != nil {
		reenrol = max(s.grant.ReenrolMS, 1)
	}
	delay := time.Duration(s.c.cfg.Rand.Int64N(min(reenrol, s.timing.IntervalMS))) * time.Millisecond
	s.spawn(func() {
		if sleep(ctx, delay, nil) {
			_ = s.c.FetchTickets(ctx) // told by the status, tried again by the loop
		}
	})
}

// entryChanged looks whether the held entry still is the one that was enrolled
// with; more than words asks for a new enrolment (docs/keying.md §5.3). Timing
// holds from the next occurrence on.
func (s *session) entryChanged(ctx context.Context) {
	e := s.c.heldEntry(s.entry.entry.ID)
	if e == nil {
		s.over = true // no ticket has it any more: its selectors are gone, too
		return
	}
	more := !onlyWords(s.entry.entry, e.entry)
	s.entry = *e
	if more {
		s.step(ctx, schedule.Renew{})
	}
}

// heldEntry returns a copy of the entry as it is held now, nil if none is.
func (c *Client) heldEntry(id derive.EventID) *heldEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.held.find(id)
	if e == nil {
		return nil
	}
	out := *e
	return &out
}

// onlyWords tells whether two entries of one event differ in nothing that a
// grant depends on.
func onlyWords(a, b *wire.Entry) bool {
	x := *a
	x.Title, x.Priority, x.Edition = b.Title, b.Priority, b.Edition
	x.Time = b.Time
	return string(x.Encode()) == string(b.Encode())
}

// publish shows the session's state.
func (s *session) publish() {
	v := &sessionView{keys: len(s.keys), current: -1, offset: s.offset, detail: s.detail}
	if next := s.machine.NextMS(); next > 0 {
		v.next = time.UnixMilli(next)
	}
	v.state = s.viewState()
	if current := s.current(); current != nil {
		v.current = int64(current.interval)
		v.until = time.UnixMilli(current.endMS)
	} else if v.state == StateWaiting {
		v.until = v.next
	}
	if v.detail == "" {
		v.detail = s.usualDetail(v)
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	old := s.m.views[s.timing.StartMS]
	s.m.views[s.timing.StartMS] = v
	if old == nil || *old != *v {
		s.c.notify()
	}
}

func (s *session) viewState() State {
	switch s.machine.State() {
	case schedule.StateWithheld:
		return StateWithheld
	case schedule.StateRefused:
		return StateRefused
	case schedule.StateEnded, schedule.StateOut:
		return StateEnded
	}
	if len(s.keys) > 0 {
		return StateKeyed
	}
	return StateWaiting
}

func (s *session) usualDetail(v *sessionView) string {
	switch {
	case s.role == wire.RoleSend && len(s.keys) > 0 && s.silent():
		_, e, _ := s.offset.NowMS(s.c.cfg.Clock.BootNS())
		return fmt.Sprintf("silent until the server's clock is known well enough: off by up to %d ms, at most %d allowed", e, s.timing.ToleranceMS())
	case v.state == StateWaiting && !v.until.IsZero():
		return "asks the key server at " + v.until.UTC().Format(time.RFC3339)
	}
	return ""
}

// wipe ends the session's keys, associations and view.
func (s *session) wipe() {
	s.dropAll()
	s.chain.wipe()
	s.tries = nil
	s.c.mu.Lock()
	delete(s.m.views, s.timing.StartMS)
	s.c.notify()
	s.c.mu.Unlock()
	s.c.log.Info("occurrence left", "event", s.entry.entry.ID, "start_ms", s.timing.StartMS)
}
