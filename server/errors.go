package server

import "errors"

// Errors of this package, wrapped with what is wrong and where.
var (
	// ErrConfig: the configuration contradicts itself.
	ErrConfig = errors.New("server: bad configuration")
	// ErrSetUp: the state folder holds a server already.
	ErrSetUp = errors.New("server: already set up")
	// ErrNotSetUp: the state folder holds no server.
	ErrNotSetUp = errors.New("server: not set up")
	// ErrEvent: what was said of an event makes none.
	ErrEvent = errors.New("server: bad event")
	// ErrConflict: another event is in the way.
	ErrConflict = errors.New("server: events collide")
	// ErrNotInThisVersion marks what is well formed and cannot be done yet.
	ErrNotInThisVersion = errors.New("not in this version")
	// ErrAmbiguous: a title that several events have.
	ErrAmbiguous = errors.New("server: several events have this title")
	// ErrNotRunning: there is no occurrence to end.
	ErrNotRunning = errors.New("server: the event does not run now")
	// ErrUnreached: the client is in no group that has the event.
	ErrUnreached = errors.New("server: the client has no way to the event")
)
