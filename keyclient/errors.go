package keyclient

import (
	"errors"
	"fmt"
	"strings"

	"usher/keyclient/derive"
)

// Errors of this package. They are wrapped with what is wrong and what to do.
var (
	// ErrNotConfigured means that no server, or no CA fingerprint, is known.
	ErrNotConfigured = errors.New("keyclient: no server and ca_sha256 are configured")
	// ErrNotLoggedIn means that there is no certificate that is still valid.
	ErrNotLoggedIn = errors.New("keyclient: not logged in")
	// ErrNoSuchEvent means that no held ticket has an event of that title or id.
	ErrNoSuchEvent = errors.New("keyclient: no such event in a held ticket")
	// ErrAmbiguous means that several events have the title; see [AmbiguousError].
	ErrAmbiguous = errors.New("keyclient: several events have this title")
	// ErrNotOwnAddress means that this client is to send an event, but the
	// sender's address is not on its interface.
	ErrNotOwnAddress = errors.New("keyclient: the sender's address is not this host's")
	// ErrCA means that a server showed no certificate chain under the pinned CA.
	ErrCA = errors.New("keyclient: the server's CA is not the one of ca_sha256")
	// ErrServer means that a server could not be reached or did not speak the protocol.
	ErrServer = errors.New("keyclient: no usable answer from the server")
	// ErrRefused means that the server said no; the chain holds the *wire.Problem.
	ErrRefused = errors.New("keyclient: refused by the server")
	// ErrGrant means that a grant is not for what was asked; it is not used.
	ErrGrant = errors.New("keyclient: grant is refused")
	// ErrState means that a file under the state folder cannot be used.
	ErrState = errors.New("keyclient: state folder")
)

// AmbiguousError lists the events that have one title. It wraps [ErrAmbiguous].
type AmbiguousError struct {
	Title string
	IDs   []derive.EventID
}

// Error lists the ids.
func (e *AmbiguousError) Error() string {
	ids := make([]string, 0, len(e.IDs))
	for _, id := range e.IDs {
		ids = append(ids, id.String())
	}
	return fmt.Sprintf("%v: %q: join by id: %s", ErrAmbiguous, e.Title, strings.Join(ids, ", "))
}

// Unwrap returns [ErrAmbiguous].
func (e *AmbiguousError) Unwrap() error { return ErrAmbiguous }
