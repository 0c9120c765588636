package control

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Paths and limits of the API.
const (
	// DefaultSocket is where the agent listens unless told otherwise.
	DefaultSocket = "/run/usher/agent.sock"
	// Group may open the socket, where the host has it.
	Group = "usher"
	// MaxBody bounds a request's body, in bytes.
	MaxBody = 64 << 10
	// MaxTitles bounds the events named in one request.
	MaxTitles = 256
)

// State says what the agent does as a whole.
type State string

// The agent's states.
const (
	StateRunning State = "running" // interface, routes and guard are there, the path runs
	StateIdle    State = "idle"    // nothing to protect yet: no login and no [[policy]]
	StateFailed  State = "failed"  // there is something to protect, and the host cannot: see Problems
	StateDown    State = "down"    // usher down was typed
)

// Problem is something a person should act on.
type Problem struct {
	Code string `json:"code"`
	Text string `json:"text"`           // what is wrong, in one sentence
	Todo string `json:"todo,omitempty"` // what to do about it
}

// Status is the answer to GET /v1/status.
type Status struct {
	Version     string             `json:"version"`
	PID         int                `json:"pid"`
	State       State              `json:"state"`
	Started     time.Time          `json:"started"`
	Problems    []Problem          `json:"problems"`
	Config      ConfigStatus       `json:"config"`
	Interface   InterfaceStatus    `json:"interface"`
	Server      *ServerStatus      `json:"server,omitempty"`
	Clock       ClockStatus        `json:"clock"`
	Certificate *CertificateStatus `json:"certificate,omitempty"`
	Events      []Event            `json:"events"`
	Traffic     Traffic            `json:"traffic"`
	Drops       []Drop             `json:"drops"`
	Guard       GuardStatus        `json:"guard"`
	Offload     string             `json:"offload"`
}

// ConfigStatus tells which configuration runs. After a refused reload Failed
// and Error are set, and what was loaded at Loaded runs on.
type ConfigStatus struct {
	Path   string     `json:"path"`
	Loaded time.Time  `json:"loaded"`
	Failed *time.Time `json:"failed,omitempty"`
	Error  string     `json:"error,omitempty"` // with file, line and key
}

// InterfaceStatus tells which interfaces are in use, and why.
type InterfaceStatus struct {
	TUN       string   `json:"tun"`
	MTU       int      `json:"mtu"` // of the TUN, bytes
	Real      string   `json:"real,omitempty"`
	RealIndex int      `json:"real_index,omitempty"`
	Why       string   `json:"why,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // of the real interface
	Port      uint16   `json:"port"`                // UDP port of ESP
}

// ServerStatus tells of the ticket server.
type ServerStatus struct {
	URL      string     `json:"url"`
	LoggedIn bool       `json:"logged_in"`
	Client   string     `json:"client,omitempty"`
	Contact  *time.Time `json:"contact,omitempty"` // last answer
	Error    string     `json:"error,omitempty"`   // what the last attempt got, empty after a success
}

// ClockStatus tells by which clock keys change.
type ClockStatus struct {
	Source string `json:"source"` // "server"
	Known  bool   `json:"known"`
	// OffsetMS is the server's clock less the host's, in ms.
	OffsetMS int64 `json:"offset_ms"`
	// ErrorMS bounds the error of OffsetMS, in ms.
	ErrorMS int64 `json:"error_ms"`
}

// CertificateStatus tells of the client's certificate.
type CertificateStatus struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
}

// Traffic counts what went through, since the agent's start.
type Traffic struct {
	OutPackets uint64 `json:"out_packets"`
	OutBytes   uint64 `json:"out_bytes"`
	InPackets  uint64 `json:"in_packets"`
	InBytes    uint64 `json:"in_bytes"`
}

// Drop counts what did not, by reason.
type Drop struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Todo    string `json:"todo,omitempty"`
}

// GuardStatus tells of the nftables guard.
type GuardStatus struct {
	Active     bool   `json:"active"`
	RefusedOut uint64 `json:"refused_out"` // packets of local programs that would have left in the clear
	RefusedIn  uint64 `json:"refused_in"`  // cleartext from the network for a protected flow
	Restored   uint64 `json:"restored"`    // times that routes or guard were put back
	Todo       string `json:"todo,omitempty"`
}

// Events is the answer to GET /v1/events.
type Events struct {
	Events []Event `json:"events"`
}

// Event is one event of a held ticket.
type Event struct {
	ID      string     `json:"id"`
	Title   string     `json:"title"`
	Role    string     `json:"role"`              // "send" or "receive"
	Joined  bool       `json:"joined"`            // by usher join
	Program bool       `json:"program,omitempty"` // a program of this host has joined a group of it
	State   string     `json:"state,omitempty"`   // of an event that is one or both, see JoinState
	Detail  string     `json:"detail,omitempty"`  // one sentence on State
	Start   *time.Time `json:"start,omitempty"`   // of the current or next occurrence
	End     *time.Time `json:"end,omitempty"`
	Until   *time.Time `json:"until,omitempty"` // when what State waits for is due
	Senders []string   `json:"senders"`
	Flows   []Flow     `json:"flows"`
	Groups  []string   `json:"groups,omitempty"` // ids of the tickets that hold it
	// KeyServers are where its keys are, as the ticket says.
	KeyServers []string `json:"key_servers,omitempty"`
	// Interval and Keys tell of the key in use, where there is one.
	Interval *uint32 `json:"interval,omitempty"`
	Keys     int     `json:"keys,omitempty"`
	// Refused says why this version cannot play the event, if so.
	Refused string `json:"refused,omitempty"`
}

// Flow is one flow of an event, and how programs name it.
type Flow struct {
	Protocol    string   `json:"protocol"`
	Destination string   `json:"destination"`
	Ports       string   `json:"ports"`
	URLs        []string `json:"urls,omitempty"`
}

// JoinState says how far a joined event is.
type JoinState string

// The states of a joined event.
const (
	JoinWaiting   JoinState = "waiting"  // for its occurrence, a key's instant, or the server
	JoinKeyed     JoinState = "keyed"    // a key is there
	JoinRefused   JoinState = "refused"  // the server said no: Detail says why
	JoinWithheld  JoinState = "withheld" // the server gives no further key: suspended, or no longer a member
	JoinEnded     JoinState = "ended"    // no further occurrence
	JoinNotJoined JoinState = "not_joined"
)

// Settled says that nothing more will come of waiting.
func (s JoinState) Settled() bool {
	return s == JoinKeyed || s == JoinRefused || s == JoinWithheld || s == JoinEnded || s == JoinNotJoined
}

// JoinRequest is the body of POST /v1/join. The answer is a stream of
// newline-separated [JoinLine] values.
type JoinRequest struct {
	Events []string `json:"events"` // titles or ids
	Role   string   `json:"role,omitempty"`
	WaitMS int64    `json:"wait_ms"` // how long to wait for first keys; 0: not at all
}

// JoinLine is one line of the answer to a join: news of one event, or the end
// of the answer (Done, with Error where the join as a whole was refused).
type JoinLine struct {
	Event *Event `json:"event,omitempty"`
	Done  bool   `json:"done,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// LeaveRequest is the body of POST /v1/leave.
type LeaveRequest struct {
	Events []string `json:"events"`
}

// LoginRequest is the body of POST /v1/login.
type LoginRequest struct {
	// Server and CASHA256, where given, replace those of the configuration.
	Server   string `json:"server,omitempty"`
	CASHA256 string `json:"ca_sha256,omitempty"`
	Name     string `json:"name"`
	Password []byte `json:"password"`
}

// LogValue keeps the password out of logs.
func (r LoginRequest) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", r.Name), slog.String("server", r.Server), slog.String("password", "REDACTED"))
}

// String keeps the password out of messages.
func (r LoginRequest) String() string { return "login of " + r.Name + " (password REDACTED)" }

// GoString keeps the password out of %#v.
func (r LoginRequest) GoString() string { return r.String() }

// Format keeps the password out of every verb.
func (r LoginRequest) Format(f fmt.State, _ rune) { io.WriteString(f, r.String()) } //nolint:errcheck // fmt reports it

// Wipe overwrites the password.
func (r *LoginRequest) Wipe() { clear(r.Password) }

// LoginResult is the answer to a login.
type LoginResult struct {
	Client string    `json:"client"`
	Server string    `json:"server"`
	Until  time.Time `json:"certificate_until"`
	Events int       `json:"events"`
	// Wrote names the file that server and ca_sha256 were written to.
	Wrote string `json:"wrote,omitempty"`
	// Warning says what did not work after the login itself did.
	Warning string `json:"warning,omitempty"`
}

// SAs is the answer to GET /v1/sa.
type SAs struct {
	SAs []SA `json:"sas"`
}

// SA is one security association (RFC 4301 §4.4.2).
type SA struct {
	Association  string     `json:"association"`
	Title        string     `json:"title,omitempty"`
	Origin       string     `json:"origin"` // "ticket" or "manual"
	SPI          string     `json:"spi"`    // 0x and eight digits
	Source       string     `json:"source,omitempty"`
	Destinations []string   `json:"destinations"`
	Direction    string     `json:"direction"` // "send", "receive" or "both"
	Transform    string     `json:"transform"`
	Replay       string     `json:"replay"`
	SenderID     uint16     `json:"sender_id"`
	Interval     uint32     `json:"interval"`
	Initiation   *time.Time `json:"initiation,omitempty"`
	SendFrom     *time.Time `json:"send_from,omitempty"`
	SendUntil    *time.Time `json:"send_until,omitempty"`
	AcceptUntil  *time.Time `json:"accept_until,omitempty"`
	OutPackets   uint64     `json:"out_packets"`
	OutBytes     uint64     `json:"out_bytes"`
	InPackets    uint64     `json:"in_packets"`
	InBytes      uint64     `json:"in_bytes"`
	BadICV       uint64     `json:"bad_icv"`
	ReplayDrops  uint64     `json:"replay_drops"`
	// Key is key ‖ salt, 72 hex digits: with --show-keys alone, for root, where
	// the configuration allows it.
	Key string `json:"key,omitempty"`
}

// Policies is the answer to GET /v1/policy.
type Policies struct {
	Policies []Policy `json:"policies"`
}

// Policy is one line of the policy database (RFC 4301 §4.4.1), in order.
type Policy struct {
	Name             string `json:"name"`
	Title            string `json:"title,omitempty"`
	Origin           string `json:"origin"`
	Source           string `json:"source"`
	Destination      string `json:"destination"`
	Protocol         string `json:"protocol"`
	SourcePorts      string `json:"source_ports"`
	DestinationPorts string `json:"destination_ports"`
	Direction        string `json:"direction"`
	Action           string `json:"action"`
	Association      string `json:"association,omitempty"`
	// Associations counts the installed associations that serve it: none means
	// that its packets are dropped for want of a key.
	Associations int `json:"associations"`
}

// Done is the answer of commands that have little to tell.
type Done struct {
	Text string `json:"text"` // one sentence: what was done
}
