package schedule

import "fmt"

// Role is a client's part in an event, with the values of the wire.
type Role uint8

// The roles of docs/keying.md §5.1.
const (
	RoleReceive Role = 0
	RoleSend    Role = 1
)

// Spread says how a client chooses its instants in later windows.
type Spread uint8

// The spreads of docs/keying.md §4.
const (
	// SpreadFixed keeps the place that the client drew for its first window
	// until something fails.
	SpreadFixed Spread = iota
	// SpreadRedraw draws a new one for each window.
	SpreadRedraw
)

// Transport is the way of a refresh.
type Transport uint8

// The transports of docs/keying.md §5.
const (
	TransportHTTPS Transport = iota
	TransportDatagram
)

// Rand is where a [Machine] draws its instants; *rand.Rand of math/rand/v2 is
// one. Int64N returns a number in [0, n).
type Rand interface{ Int64N(n int64) int64 }

// State is the client's state of docs/keying.md §5.5.
type State uint8

// The states.
const (
	StateOut       State = iota // not joined, or left
	StateEnrolling              // waits for its instant, or for an answer
	StateKeyed                  // has what it may have at this time
	StateAsking                 // a refresh is under way
	StateWithheld               // refused at a refresh; asks once an interval
	StateRefused                // refused at an enrolment; tries once an interval
	StateEnded                  // the occurrence is over
)

// String is the state in one word.
func (s State) String() string {
	names := [...]string{"out", "enrolling", "keyed", "asking", "withheld", "refused", "ended"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Options are what a [Machine] is told beside timing and role.
type Options struct {
	// Datagrams lets refreshes go by datagram first.
	Datagrams bool
}

// Machine is one client in one occurrence. It is a plain value: it can be
// copied, compared with ==, and stepped again from any copy.
type Machine struct {
	timing  Timing
	role    Role
	options Options
	state   State
}

// NewMachine is a machine that is out.
func NewMachine(t Timing, role Role, options Options) Machine {
	return Machine{timing: t, role: role, options: options}
}

// State is where the machine stands.
func (m Machine) State() State { return m.state }

// Step takes an event at the server's time nowMS.
func (m Machine) Step(ev Event, nowMS int64, rnd Rand) (Machine, []Action) { return m, nil }
