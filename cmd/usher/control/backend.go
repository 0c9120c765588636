package control

import "context"

// Backend is what a [Server] asks: the agent, or a test's fake. Methods may be
// called by many goroutines at once. A refusal is an *Error; any other error is
// sent as internal. The server has checked the rights before.
type Backend interface {
	// Status reports without waiting for the network.
	Status(ctx context.Context) (*Status, error)
	// Events lists the events of held tickets; CodeNotLoggedIn without any.
	Events(ctx context.Context) (*Events, error)
	// SAs lists the associations; with keys only when showKeys.
	SAs(ctx context.Context, showKeys bool) (*SAs, error)
	// Policies lists the policies in order.
	Policies(ctx context.Context) (*Policies, error)
	// Login logs in; the request's password is wiped by the caller afterwards.
	Login(ctx context.Context, r *LoginRequest) (*LoginResult, error)
	// Logout forgets identity, tickets and joins.
	Logout(ctx context.Context) (*Done, error)
	// Join joins, and calls news for each event at once and at each change of
	// its state, until all are settled, r.WaitMS has passed, or ctx ends.
	Join(ctx context.Context, r *JoinRequest, news func(Event) error) error
	// Leave leaves.
	Leave(ctx context.Context, r *LeaveRequest) (*Events, error)
	// Up loads the configuration anew and sets the host up again.
	Up(ctx context.Context) (*Done, error)
	// Down removes interface, routes and guard, until Up.
	Down(ctx context.Context) (*Done, error)
}
