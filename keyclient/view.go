package keyclient

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
)

// Flow is one flow of an entry, with its ports read.
type Flow struct {
	Protocol            string // "udp"
	Destination         netip.Addr
	FirstPort, LastPort uint16 // both included
}

// Entry is one event of the held tickets, however many of them have it: what
// routes, guard and policies are made of, joined or not.
type Entry struct {
	ID         derive.EventID
	Title      string
	Groups     []string // ids of the tickets that have it
	Senders    []netip.Addr
	Flows      []Flow
	TTL        uint8
	KeyServers []string
	Priority   int
	// Refused is nil, or says why this event cannot be joined (it wraps
	// wire.ErrNotInThisVersion or wire.ErrESPPort). It is protected all the same.
	Refused error
}

// State is how far a joined event is.
type State string

// The states of an event.
const (
	StateNotJoined State = "not_joined"
	StateWaiting   State = "waiting" // for its occurrence, its key's instant, or the server: Detail says
	StateKeyed     State = "keyed"   // a key is there
	StateWithheld  State = "withheld"
	StateRefused   State = "refused" // the server, or this client, said no: Detail says why
	StateEnded     State = "ended"   // no further occurrence
)

// Event is an entry with what this client does about it.
type Event struct {
	Entry
	// Role is that of the join, or else what a join would take: RoleSend where
	// the server lists this client as a sender or one of the entry's senders
	// is an address of this host.
	Role   wire.Role
	Joined bool // Join was called, now or before a restart
	// Followed: a program of this host wants it (Client.Follow). An event is keyed
	// while it is joined, followed or both.
	Followed bool

	State   State
	Detail  string                // one sentence on State, "" if there is nothing to say
	Next    []schedule.Occurrence // the running one or the next ones, at most three
	Until   time.Time             // by the server's clock: when what State waits for is due, or the key at hand ends; zero: unknown
	Keys    int                   // keys at hand
	Current int64                 // interval in use, −1 if there is none
	NextKey time.Time             // when the next key is asked for; zero: unknown
}

// Status is what the client as a whole knows of itself.
type Status struct {
	Server      string // URL, "" if none is configured
	LoggedIn    bool
	Number      uint32 // client number, 0 if not logged in
	Subject     string // of the certificate
	NotAfter    time.Time
	RenewAt     time.Time
	LastContact time.Time // last answer of the ticket server; zero: none since the start
	LastError   string    // what the last attempt got, "" after a success
	ClockKnown  bool
	// ClockOffset is the server's clock less the host's wall clock, ClockError
	// bounds its error.
	ClockOffset, ClockError time.Duration
	Events                  []Event
}

// Login is what a person gives to log in. Server and CASHA256 replace those of
// the Config where they are not "". The caller wipes the password.
type Login struct {
	Server, CASHA256 string
	Name             string
	Password         []byte
}

// String hides the password.
func (l Login) String() string { return "login of " + l.Name + " (password REDACTED)" }

// GoString hides the password.
func (l Login) GoString() string { return l.String() }

// Format hides the password from every verb.
func (l Login) Format(f fmt.State, _ rune) { io.WriteString(f, l.String()) } //nolint:errcheck // fmt reports it

// LogValue hides the password.
func (l Login) LogValue() slog.Value { return slog.StringValue(l.String()) }

// MarshalText hides the password: no login travels as JSON by accident.
func (l Login) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// LoginResult tells what a login brought.
type LoginResult struct {
	Server, CASHA256 string
	Subject          string
	Number           uint32
	NotAfter         time.Time
	Events           int
	// TicketError is why the tickets could not be fetched after the login
	// itself worked; they are tried again. nil: they were.
	TicketError error
}
