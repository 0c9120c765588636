package keyclient

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"usher/keyclient/clock"
	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/sa"
)

// Config is what a [Client] works with. StateDir, Clock, DB and Log are needed.
type Config struct {
	StateDir string // identity.key, identity.pem, ca.pem, tickets/, joined.json; made 0700 if missing
	Server   string // URL of the ticket role, "" until a login names one
	CASHA256 string // 64 hex digits: SHA-256 of the CA's certificate, "" until a login names one
	Clock    clock.Clock
	DB       *sa.DB
	Log      *slog.Logger
	// OwnAddresses returns the addresses of the real interface, and its name
	// for messages. nil: none.
	OwnAddresses func() (addresses []netip.Addr, interfaceName string)
	ESPPort      uint16 // 0: 4500
	Queues       int    // sender ids to ask for, 1…16; 0: 1
	KeepMaterial bool   // SAs keep their key for `usher sa --show-keys`
}

// Client is the client's side of keying of one host.
type Client struct{}

// New loads identity, tickets and joins from the state folder, and puts the
// policies of held tickets into force, expired or not. Nothing is sent yet.
func New(c Config) (*Client, error) { return nil, errors.New("keyclient: not yet") }

// Run renews, fetches and keys until ctx ends; then it wipes all keys and
// leaves the policies in force. It returns nil when ctx ends.
func (c *Client) Run(ctx context.Context) error { return nil }

// Changed returns a channel that is closed at the next change of anything that
// Entries, Events, Joined or Status show. Take it before you look.
func (c *Client) Changed() <-chan struct{} { return nil }

// Entries returns every event of the held tickets once, by title and id: what
// routes, guard and memberships are made of.
func (c *Client) Entries() []Entry { return nil }

// Events returns the entries with what this client does about each.
func (c *Client) Events() []Event { return nil }

// Joined returns the events that are joined.
func (c *Client) Joined() []Event { return nil }

// Status never waits for the network.
func (c *Client) Status() Status { return Status{} }

// Login makes a new key, has it certified, and fetches the tickets. An earlier
// identity is replaced only when the server has taken the name and password.
// Errors: ErrNotConfigured, ErrCA, ErrServer, ErrRefused.
func (c *Client) Login(ctx context.Context, l Login) (*LoginResult, error) { return nil, nil }

// Logout forgets identity, tickets and joins, wipes the keys and removes the
// policies. It needs no server.
func (c *Client) Logout(ctx context.Context) error { return nil }

// Join joins the events of these titles or ids: all of them, or none and an
// error. role nil takes what each [Event.Role] says. Joins are remembered; it
// does not wait for keys: watch Changed and Events. Errors: ErrNoSuchEvent,
// ErrAmbiguous, ErrNotOwnAddress, wire.ErrNotInThisVersion, wire.ErrESPPort.
func (c *Client) Join(ctx context.Context, names []string, role *wire.Role) ([]derive.EventID, error) {
	return nil, nil
}

// Leave ends the joins of these titles or ids and wipes their keys; the
// policies stay. Errors: ErrNoSuchEvent, ErrAmbiguous.
func (c *Client) Leave(ctx context.Context, names []string) ([]derive.EventID, error) {
	return nil, nil
}

// AddressesChanged tells that OwnAddresses may return something else: a sender
// that now owns its address need not wait.
func (c *Client) AddressesChanged() {}
