package schedule

// Event is what happens to a [Machine]: one of [Join], [Leave], [Timer],
// [Enrolled], [EnrolRefused], [EnrolFailed], [Renew], [Answered], [Unanswered]
// and [NotAcknowledged].
type Event interface{ event() }

// Join starts the machine: the user joined, or the agent started and remembers
// that he did. The driver may have a server's clock by then (from login); if
// not, it lends the machine the host's.
type Join struct{}

// Leave ends it: the user left.
type Leave struct{}

// Timer says that the instant of the last [Wake] has come. One that comes
// early or late does no harm.
type Timer struct{}

// Span is a run of intervals, both ends included; the zero value is the run
// of interval 0 alone, so what may be empty has a flag beside it.
type Span struct{ First, Last uint32 }

// Outcome is what the body of docs/keying.md §5.2 says, in a grant and in a
// refresh answer alike.
type Outcome struct {
	Status Status
	// Keys are the intervals whose keys came, if Given is set. (Zeros under
	// [StatusIncomplete] are no keys.)
	Keys  Span
	Given bool
	// CookieNumber is n' of the new cookie, if the status brings one.
	CookieNumber uint32
	// Edition of the event's settings now in force.
	Edition uint16
	// ServerMS is the server's time at sending; WindowOpensMS and
	// WindowLastsMS count from it.
	ServerMS                     int64
	WindowOpensMS, WindowLastsMS uint32
	// ErrorMS is e of the driver's [Offset] with this answer taken in; only
	// senders need it.
	ErrorMS int64
}

// Enrolled is a grant that was verified: the answer of docs/keying.md §4.
type Enrolled struct {
	Outcome
	// Timing is the grant's schedule; the zero value keeps the ticket's.
	Timing Timing
	// Spread is the grant's, ReenrolMS too (0: one minute).
	Spread    Spread
	ReenrolMS int64
	// Addresses is how many refresh addresses the grant has (0: one).
	Addresses int
	// UntilMS is the end of a sender's enrolment where the driver knows it;
	// 0: the machine assumes docs/keying.md §6's hour.
	UntilMS int64
}

// EnrolRefused is an enrolment that the server answered with an HTTP status
// of docs/keying.md §4 other than 200; RetryAfterMS is its Retry-After, 0 if
// there was none.
type EnrolRefused struct {
	Code         int
	RetryAfterMS int64
}

// EnrolFailed is an enrolment without an answer: no connection, a time-out, an
// answer that could not be verified.
type EnrolFailed struct{}

// Renew asks for a new enrolment under the living cookie: a fetched ticket
// changed more than words (docs/keying.md §5.3).
type Renew struct{}

// Answered is a refresh answer that was accepted: it opened under Aⱼ and has
// the id of an open try (docs/keying.md §5.4). All other tries are void.
type Answered struct {
	Outcome
	// Transport is the way by which it came.
	Transport Transport
}

// Unanswered is a try that will not be answered any more: refused, reset,
// timed out, 503 (then with its Retry-After, if it had one). A driver need not
// report it: the machine repeats by its own clock.
type Unanswered struct{ RetryAfterMS int64 }

// NotAcknowledged is a NAK (docs/keying.md §5.3) to an open try.
type NotAcknowledged struct{ Transport Transport }

func (Join) event()            {}
func (Leave) event()           {}
func (Timer) event()           {}
func (Enrolled) event()        {}
func (EnrolRefused) event()    {}
func (EnrolFailed) event()     {}
func (Renew) event()           {}
func (Answered) event()        {}
func (Unanswered) event()      {}
func (NotAcknowledged) event() {}

// Action is what the driver of a [Machine] shall do: one of [Enrol],
// [Refresh], [Install], [Drop], [FetchTicket], [Refused], [Over] and [Wake].
type Action interface{ action() }

// Enrol sends an enrolment (docs/keying.md §4). Report exactly one of
// [Enrolled], [EnrolRefused] and [EnrolFailed].
type Enrol struct {
	// Address counts the enrolments so far: take it modulo the number of
	// key servers in the entry.
	Address uint32
	// Why, for the log: first, retry, cookie over, nak, status, renewal.
	Why string
}

// Refresh sends one try of a refresh (docs/keying.md §5.1): a new id, the
// cookie held. At most 4 tries stay open, the oldest goes. Report [Answered],
// [NotAcknowledged] or, if known, [Unanswered].
type Refresh struct {
	// Want is the number of key records; 0 asks the time.
	Want uint8
	// Address is to be taken modulo the number of refresh addresses.
	Address uint32
	// Transport is the way to send it.
	Transport Transport
	// Try counts from 1 within one asking.
	Try int
}

// Install makes associations of the keys that just came.
type Install struct{ Keys Span }

// Drop wipes the keys of all intervals up to Through and their associations.
type Drop struct{ Through uint32 }

// FetchTicket says that the event's settings have another edition; if the
// ticket then fetched differs in more than words, report [Renew].
type FetchTicket struct{ Edition uint16 }

// Refused says that the server gives no key: withheld, incomplete, or an
// enrolment refused with Code. What is held works on until HeldUntilMS (0:
// nothing is held). The machine asks on, once an interval.
type Refused struct {
	Status      Status
	Code        int
	HeldUntilMS int64
}

// Over says that the machine has come to rest: wipe everything of this
// occurrence. Left tells a [Leave] from the occurrence's end.
type Over struct{ Left bool }

// Wake asks for a [Timer] at AtMS, server's time. It replaces the one before.
// Every step but one that ends in [Over] has exactly one, as its last action.
type Wake struct{ AtMS int64 }

func (Enrol) action()       {}
func (Refresh) action()     {}
func (Install) action()     {}
func (Drop) action()        {}
func (FetchTicket) action() {}
func (Refused) action()     {}
func (Over) action()        {}
func (Wake) action()        {}
