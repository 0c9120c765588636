package schedule

// The client of docs/keying.md §§5.4-5.5. The table, with the functions that
// hold each row:
//
//	state      on                      does                                     becomes
//	---------  ----------------------  ---------------------------------------  ---------------------
//	out        Join                    enrols at an instant of what is left of  enrolling
//	                                   initial, later at once (join)
//	enrolling  Enrolled                installs, draws its instant (enrolled)   keyed
//	enrolling  EnrolRefused 403, 404   tries once an interval (enrolRefused)    refused
//	enrolling  EnrolRefused 425, 503…, waits as told or 1 … 60 s doubled, next  enrolling
//	           EnrolFailed             address (enrolLater)
//	enrolling  EnrolRefused 410        -                                        ended
//	refused    its instant             enrols (enrolDue)                        enrolling, if given
//	keyed      its instant; Tᵢ−margin  sends (askDue, pullInMargin)             asking
//	           without i
//	asking     status 0                installs, draws its instant (answered)   keyed
//	asking     status 2                draws its instant (answered)             keyed
//	asking     status 5, 6             asks the next address (answered)         asking
//	asking     status 1, 7             keeps what it holds, asks once an        withheld
//	                                   interval (withheld)
//	withheld   its instant             sends (askDue)                           asking
//	asking     silence                 repeats while n lives (askDue, retryMS)  asking
//	any keyed  status 4, NAK by        enrols after the delay (enrolAgain)      enrolling
//	           HTTPS, n over
//	any        status 3, the end       wipes (rest)                             ended
//	any        Leave                   wipes (Step)                             out
//
// Beside it, in keyed, asking and withheld: a renewal (a sender's enrolment
// nears its end, or the settings changed) enrols under the living cookie
// without leaving the state (docs/keying.md §§5.3, 6); a sender asks the time
// whenever its bound e passes half the tolerance (§6); keys are dropped when
// their time is over (§2).

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
// one. Int64N returns a number in [0, n), for n > 0.
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
	// Datagrams lets refreshes go by datagram first. Without it everything
	// goes by HTTPS.
	Datagrams bool
}

// Machine is one client in one occurrence, out of [NewMachine]. It is a plain
// value: it can be copied, compared with ==, and stepped again from any copy.
// It holds no key, only which intervals it has keys of.
type Machine struct {
	timing  Timing
	role    Role
	options Options
	state   State

	// The newest unbroken run of intervals whose keys are held, and the first
	// interval that the cookie has not given yet.
	holds bool
	held  Span
	first uint32

	// The cookie, and the settings in force as told last.
	hasCookie    bool
	cookieNumber uint32
	edition      uint16

	// Enrolments: the next one's instant (0: none planned) and why, one
	// under way and when it is given up, how often it failed in a row, the
	// next address, and when the last grant came.
	enrolAtMS      int64
	enrolWhy       string
	enrolBusy      bool
	enrolTimeoutMS int64
	enrolFailures  uint8
	enrolAddress   uint32
	grantedMS      int64
	reenrolMS      int64

	// Refreshes: the next try's instant (0: none), tries in this asking, the
	// address in turn of so many, whether the servers were silent, the place
	// in the window (a fraction of 2³²), and until when nothing is pulled for
	// in the margin once more.
	askAtMS       int64
	tries         int
	address       uint32
	addresses     int
	away          bool
	spread        Spread
	placed        bool
	place         uint32
	pulledUntilMS int64

	// Datagrams: when this asking goes over to HTTPS, and whether any was
	// ever sent and ever answered.
	httpsFromMS    int64
	datagramSent   bool
	datagramHeard  bool
	datagramAsking bool

	// A sender's clock: when it passes half the tolerance (0: never asked),
	// and how often the time was asked since it last was good enough.
	timeAtMS  int64
	timeTries int
}

// NewMachine is a machine that is out, for an occurrence as the ticket has it.
// t must be valid.
func NewMachine(t Timing, role Role, options Options) Machine {
	return Machine{timing: t, role: role, options: options, reenrolMS: defaultReenrolMS, addresses: 1}
}

// State is where the machine stands.
func (m Machine) State() State { return m.state }

// Timing is the occurrence as the machine takes it: the ticket's, later the
// grant's.
func (m Machine) Timing() Timing { return m.timing }

// Held are the intervals of the newest unbroken run of keys; ok is false if
// there is none.
func (m Machine) Held() (keys Span, ok bool) { return m.held, m.holds }

// Cookie is the number of the cookie held; ok is false if there is none.
func (m Machine) Cookie() (n uint32, ok bool) { return m.cookieNumber, m.hasCookie }

// NextMS is the next instant at which the machine will enrol or ask for a key,
// 0 if none is planned: what `usher status` shows.
func (m Machine) NextMS() int64 {
	next := earliest(0, m.askAtMS)
	if !m.enrolBusy {
		next = earliest(next, m.enrolAtMS)
	}
	return next
}

// joined reports whether the machine is at work at all.
func (m *Machine) joined() bool { return m.state != StateOut && m.state != StateEnded }

// cookied reports whether it is in a state in which it asks by a cookie.
func (m *Machine) cookied() bool {
	return m.hasCookie && (m.state == StateKeyed || m.state == StateAsking || m.state == StateWithheld)
}

// holdsCurrent reports whether it has the key of the interval running.
func (m *Machine) holdsCurrent(nowMS int64) bool {
	c := m.timing.Current(nowMS)
	return m.holds && m.held.First <= c && c <= m.held.Last
}

// lacking is the first interval, running or to come, whose key it has not got
// and may still be given.
func (m *Machine) lacking(nowMS int64) uint32 { return max(m.first, m.timing.Current(nowMS)) }

// heldUntilMS is the end of the last key held, 0 if there is none.
func (m *Machine) heldUntilMS() int64 {
	if !m.holds {
		return 0
	}
	return m.timing.endMS(m.held.Last)
}

// graceMS is how long after its interval a key is kept (docs/keying.md §2).
func (m *Machine) graceMS() int64 {
	if m.role == RoleSend {
		return 0
	}
	return GraceMS
}

// earliest is the lesser of two instants, of which 0 means none.
func earliest(a, b int64) int64 {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	}
	return min(a, b)
}
