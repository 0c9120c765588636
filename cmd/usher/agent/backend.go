package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"usher/cmd/usher/agent/config"
	"usher/cmd/usher/control"
	"usher/keyclient"
	"usher/keyclient/derive"
	"usher/keyclient/wire"
)

var _ control.Backend = (*Agent)(nil)

// Login implements control.Backend.
func (a *Agent) Login(ctx context.Context, r *control.LoginRequest) (*control.LoginResult, error) {
	c := a.current()
	l := keyclient.Login{Server: r.Server, CASHA256: r.CASHA256, Name: r.Name, Password: r.Password}
	if l.Server == "" {
		l.Server, l.CASHA256 = c.Server, c.CASHA256
	} else if err := errors.Join(config.CheckServer(l.Server), config.CheckFingerprint(l.CASHA256)); err != nil {
		return nil, control.Errorf(control.CodeBadRequest, "%v", err)
	}
	if l.Server == "" {
		return nil, control.Errorf(control.CodeConfig, "no server is configured: %s has no server and ca_sha256", a.opts.Config).
			WithHint("usher login URL --ca-sha256 HEX, as usher-server init printed them")
	}
	res, err := a.keys.Login(ctx, l)
	if err != nil {
		return nil, refusal(err)
	}
	out := &control.LoginResult{Client: res.Subject, Server: res.Server, Until: res.NotAfter.UTC(), Events: res.Events}
	if res.TicketError != nil {
		out.Warning = "logged in, but the tickets could not be fetched; the agent tries again: " + res.TicketError.Error()
	}
	if r.Server != "" && (c.Server != r.Server || c.CASHA256 != r.CASHA256) {
		if _, err := config.SetServer(a.opts.Config, r.Server, r.CASHA256); err != nil {
			out.Warning = fmt.Sprintf("logged in, but %s could not be written, so the login does not outlive the agent: %v", a.opts.Config, err)
		} else {
			out.Wrote = a.opts.Config
			if err := a.do(ctx, a.reload); err != nil {
				out.Warning = fmt.Sprintf("logged in, but the configuration is refused: %v", err)
			}
		}
	}
	// Whoever was told that he is logged in may start to send: the guard stands
	// before he is told.
	if err := a.settle(ctx); err != nil {
		return nil, refusal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.IndexFunc(a.problems, func(p control.Problem) bool { return p.Code == codeGuard }); i >= 0 {
		out.Warning = "logged in, but do not send or play yet, nothing keeps cleartext in or out: " + a.problems[i].Text
	}
	return out, nil
}

// Logout implements control.Backend.
func (a *Agent) Logout(ctx context.Context) (*control.Done, error) {
	if s := a.keys.Status(); !s.LoggedIn && len(a.keys.Entries()) == 0 && s.Subject == "" {
		return &control.Done{Text: "Nobody was logged in."}, nil
	}
	if err := a.keys.Logout(ctx); err != nil {
		return nil, refusal(err)
	}
	if err := a.settle(ctx); err != nil {
		return nil, refusal(err)
	}
	return &control.Done{Text: "Logged out: identity, tickets, joins and keys are gone, and their events are no longer protected."}, nil
}

// Join implements control.Backend.
func (a *Agent) Join(ctx context.Context, r *control.JoinRequest, news func(control.Event) error) error {
	if err := a.hasTickets(); err != nil {
		return err
	}
	if a.isDown() {
		return control.Errorf(control.CodeDown, "usher is down on this host, so nothing could be played or sent").WithHint("sudo usher up")
	}
	var role *wire.Role
	switch r.Role {
	case "send":
		role = new(wire.RoleSend)
	case "receive":
		role = new(wire.RoleReceive)
	}
	if err := a.know(ctx, r.Events); err != nil {
		return refusal(err)
	}
	ids, err := a.keys.Join(ctx, r.Events, role)
	if err != nil {
		return refusal(err)
	}
	if err := a.settle(ctx); err != nil {
		return refusal(err)
	}
	return a.follow(ctx, ids, min(time.Duration(r.WaitMS)*time.Millisecond, maxWait), news)
}

// know fetches tickets where none has an event of these names, and looks at the
// host as they ask for: before that it is not known which interface is an event's,
// and so not whether its sender's address is this host's.
func (a *Agent) know(ctx context.Context, names []string) error {
	known := map[string]bool{}
	for _, e := range a.keys.Entries() {
		known[e.Title], known[e.ID.String()] = true, true
	}
	for _, name := range names {
		if !known[name] {
			// What fails here fails again at the join, which tells of it.
			_ = a.keys.FetchTickets(ctx)
			break
		}
	}
	return a.do(ctx, func(ctx context.Context) error { a.look(ctx); return nil })
}

const (
	// maxWait bounds how long one join may wait; the agent itself waits for ever.
	maxWait = 24 * time.Hour
	// lookAgain is how often a join that waits looks without news.
	lookAgain = time.Second
	// steady is for how long an event must have said the same until a join
	// believes that its wait is a long one: while a request is under way, what
	// comes next may be far away for an instant.
	steady = 2 * time.Second
)

// follow tells news of events until all are settled, wait has passed, or each
// of them waits for something that comes later than that.
func (a *Agent) follow(ctx context.Context, ids []derive.EventID, wait time.Duration, news func(control.Event) error) error {
	over := time.Now().Add(wait)
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	type said struct {
		what  string
		since time.Time
	}
	told := map[derive.EventID]said{}
	for {
		changed := a.keys.Changed()
		waiting := false
		for _, e := range a.pickEvents(ids) {
			view := a.event(&e)
			if what := fmt.Sprint(view.State, view.Detail, e.Until); told[e.ID].what != what {
				told[e.ID] = said{what, time.Now()}
				if err := news(view); err != nil {
					return err
				}
			}
			long := a.later(e, over) && time.Since(told[e.ID].since) >= steady
			waiting = waiting || !control.JoinState(view.State).Settled() && !long
		}
		if !waiting {
			return nil
		}
		select {
		case <-changed:
		case <-again.C:
		case <-deadline.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// later tells that what an event waits for comes after the instant at which the
// caller stops waiting, so that there is nothing to wait for.
func (a *Agent) later(e keyclient.Event, over time.Time) bool {
	if e.Until.IsZero() {
		return false
	}
	return e.Until.Add(-a.keys.Status().ClockOffset).After(over)
}

// pickEvents are the events of these ids, in their order.
func (a *Agent) pickEvents(ids []derive.EventID) []keyclient.Event {
	all := a.keys.Events()
	var out []keyclient.Event
	for _, id := range ids {
		for _, e := range all {
			if e.ID == id {
				out = append(out, e)
				break
			}
		}
	}
	return out
}

// Leave implements control.Backend.
func (a *Agent) Leave(ctx context.Context, r *control.LeaveRequest) (*control.Events, error) {
	if err := a.hasTickets(); err != nil {
		return nil, err
	}
	before := a.keys.Joined()
	ids, err := a.keys.Leave(ctx, r.Events)
	if err != nil {
		return nil, refusal(err)
	}
	if err := a.settle(ctx); err != nil {
		return nil, refusal(err)
	}
	out := &control.Events{Events: []control.Event{}}
	for _, id := range ids {
		left := a.pickEvents([]derive.EventID{id})
		if len(left) == 0 { // no ticket has it any more
			i := slices.IndexFunc(before, func(e keyclient.Event) bool { return e.ID == id })
			if i < 0 {
				continue
			}
			left = []keyclient.Event{{Entry: before[i].Entry, Role: before[i].Role, Current: -1}}
		}
		out.Events = append(out.Events, a.event(&left[0]))
	}
	return out, nil
}

// Up implements control.Backend: read the configuration again, and set up what
// it and the tickets say. A refused configuration leaves all as it was.
func (a *Agent) Up(ctx context.Context) (*control.Done, error) {
	err := a.do(ctx, func(ctx context.Context) error {
		a.mu.Lock()
		was := a.down
		a.down = false
		a.mu.Unlock()
		if err := a.reload(ctx); err != nil {
			a.mu.Lock()
			a.down = was
			a.mu.Unlock()
			return control.Errorf(control.CodeConfig, "%v", err).WithHint("the configuration that was loaded before runs on; usher config check " + a.opts.Config)
		}
		return nil
	})
	if err != nil {
		return nil, refusal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.state == control.StateFailed && len(a.problems) > 0:
		p := a.problems[0]
		return nil, control.Errorf(control.CodeHost, "%s", p.Text).WithHint(p.Todo)
	case a.state == control.StateIdle:
		return &control.Done{Text: "Loaded " + a.opts.Config + "; there is nothing to protect yet."}, nil
	}
	return &control.Done{Text: "Up: " + config.TUN + ", routes and guard stand."}, nil
}

// Down implements control.Backend.
func (a *Agent) Down(ctx context.Context) (*control.Done, error) {
	err := a.do(ctx, func(context.Context) error {
		a.mu.Lock()
		a.down = true
		a.mu.Unlock()
		err := a.takeDown()
		a.note(control.StateDown, nil)
		return err
	})
	if err != nil {
		return nil, refusal(err)
	}
	return &control.Done{Text: downText}, nil
}

const downText = "Down: " + config.TUN + ", routes and guard are removed; nothing is protected any more."

func (a *Agent) isDown() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.down
}

// hasTickets refuses what makes no sense before a login.
func (a *Agent) hasTickets() error {
	if a.keys.Status().LoggedIn || len(a.keys.Entries()) > 0 {
		return nil
	}
	return control.Errorf(control.CodeNotLoggedIn, "not logged in: this host holds no ticket").WithHint("sudo usher login")
}

// refusal gives an error of the parts below its code, and the sentence without
// the names of packages.
func refusal(err error) error {
	if _, ok := errors.AsType[*control.Error](err); ok {
		return err
	}
	text := plain(err)
	switch {
	case errors.Is(err, wire.ErrNotInThisVersion), errors.Is(err, config.ErrNotInThisVersion):
		return control.Errorf(control.CodeNotInThisVersion, "%s", text)
	case errors.Is(err, keyclient.ErrNotConfigured):
		return control.Errorf(control.CodeConfig, "%s", text).WithHint("usher login URL --ca-sha256 HEX, as usher-server init printed them")
	case errors.Is(err, keyclient.ErrNotLoggedIn):
		return control.Errorf(control.CodeNotLoggedIn, "%s", text).WithHint("sudo usher login")
	case errors.Is(err, keyclient.ErrNoSuchEvent):
		return control.Errorf(control.CodeNoSuchEvent, "%s", text).WithHint("usher events lists what your tickets hold")
	case errors.Is(err, keyclient.ErrAmbiguous):
		return control.Errorf(control.CodeAmbiguous, "%s", text)
	case errors.Is(err, keyclient.ErrNotOwnAddress), errors.Is(err, wire.ErrESPPort):
		return control.Errorf(control.CodeHost, "%s", text)
	case errors.Is(err, keyclient.ErrCA), errors.Is(err, keyclient.ErrServer), errors.Is(err, keyclient.ErrRefused):
		return control.Errorf(control.CodeServer, "%s", text)
	}
	return control.Errorf(control.CodeInternal, "%s", text)
}
