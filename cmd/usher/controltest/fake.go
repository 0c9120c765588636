// Package controltest has a backend that remembers what it was asked and
// answers what a test tells it to: for tests of the socket and of the commands.
package controltest

import (
	"context"
	"sync"

	"usher/cmd/usher/control"
)

// Fake is a control.Backend. A nil answer with a nil Err is an empty one.
type Fake struct {
	Err         error // what every call fails with
	StatusIs    *control.Status
	EventsAre   []control.Event
	SAsAre      []control.SA
	PoliciesAre []control.Policy
	News        []control.Event // what a join tells, one after the other
	JoinErr     error           // what a join ends with, after its news
	LoginIs     *control.LoginResult

	mu    sync.Mutex
	calls []string // guarded by mu
	login control.LoginRequest
}

func (f *Fake) call(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name)
	return f.Err
}

// Calls are the names of the calls so far.
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

// LastLogin is a copy of the last login's request, password included.
func (f *Fake) LastLogin() control.LoginRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.login
}

func one[T any](v *T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	if v == nil {
		v = new(T)
	}
	return v, nil
}

// Status answers StatusIs.
func (f *Fake) Status(context.Context) (*control.Status, error) {
	return one(f.StatusIs, f.call("status"))
}

// Events answers EventsAre.
func (f *Fake) Events(context.Context) (*control.Events, error) {
	return one(&control.Events{Events: f.EventsAre}, f.call("events"))
}

// SAs answers SAsAre, without keys unless asked for them.
func (f *Fake) SAs(_ context.Context, showKeys bool) (*control.SAs, error) {
	name := "sa"
	list := append([]control.SA(nil), f.SAsAre...)
	if showKeys {
		name = "sa with keys"
	} else {
		for i := range list {
			list[i].Key = ""
		}
	}
	return one(&control.SAs{SAs: list}, f.call(name))
}

// Policies answers PoliciesAre.
func (f *Fake) Policies(context.Context) (*control.Policies, error) {
	return one(&control.Policies{Policies: f.PoliciesAre}, f.call("policy"))
}

// Login keeps a copy of the request and answers LoginIs.
func (f *Fake) Login(_ context.Context, r *control.LoginRequest) (*control.LoginResult, error) {
	f.mu.Lock()
	f.login = *r
	f.login.Password = append([]byte(nil), r.Password...)
	f.mu.Unlock()
	return one(f.LoginIs, f.call("login"))
}

// Logout answers a sentence.
func (f *Fake) Logout(context.Context) (*control.Done, error) {
	return one(&control.Done{Text: "Logged out."}, f.call("logout"))
}

// Join tells News, then ends with JoinErr.
func (f *Fake) Join(_ context.Context, r *control.JoinRequest, news func(control.Event) error) error {
	name := "join"
	if r.Role != "" {
		name += " to " + r.Role
	}
	for _, e := range r.Events {
		name += " " + e
	}
	if err := f.call(name); err != nil {
		return err
	}
	for _, e := range f.News {
		if err := news(e); err != nil {
			return err
		}
	}
	return f.JoinErr
}

// Leave answers EventsAre.
func (f *Fake) Leave(context.Context, *control.LeaveRequest) (*control.Events, error) {
	return one(&control.Events{Events: f.EventsAre}, f.call("leave"))
}

// Up answers a sentence.
func (f *Fake) Up(context.Context) (*control.Done, error) {
	return one(&control.Done{Text: "Up."}, f.call("up"))
}

// Down answers a sentence.
func (f *Fake) Down(context.Context) (*control.Done, error) {
	return one(&control.Done{Text: "Down."}, f.call("down"))
}

var _ control.Backend = (*Fake)(nil)
