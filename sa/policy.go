package sa

import "fmt"

// Action is what a policy does with a packet (RFC 4301 §4.4.1).
type Action uint8

// The actions of Fig 12.
const (
	Protect Action = iota // encrypt, or drop where no association can
	Bypass                // pass unchanged
	Discard               // drop
)

// String returns "protect", "bypass" or "discard".
func (a Action) String() string {
	switch a {
	case Protect:
		return "protect"
	case Bypass:
		return "bypass"
	case Discard:
		return "discard"
	}
	return fmt.Sprintf("action-%d", uint8(a))
}

// MarshalText returns the action's name.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Direction restricts a policy or an association (RFC 5374 §4.1.1: symmetric, sender-only, receiver-only).
type Direction uint8

// The directions.
const (
	Both Direction = iota
	Outbound
	Inbound
)

// String returns "both", "out" or "in".
func (d Direction) String() string {
	switch d {
	case Both:
		return "both"
	case Outbound:
		return "out"
	case Inbound:
		return "in"
	}
	return fmt.Sprintf("direction-%d", uint8(d))
}

// MarshalText returns the direction's name.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Origin says who set a policy; each origin replaces its own policies only.
type Origin uint8

// The origins. Manual policies come before those of tickets: the operator of a host has the last word.
const (
	OriginTicket Origin = iota
	OriginManual
	origins = iota
)

// String returns "ticket" or "manual".
func (o Origin) String() string {
	switch o {
	case OriginTicket:
		return "ticket"
	case OriginManual:
		return "manual"
	}
	return fmt.Sprintf("origin-%d", uint8(o))
}

// MarshalText returns the origin's name.
func (o Origin) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Policy says what happens to the packets of its selector; the first one that matches decides.
//
// The selector is written as an outbound packet shows itself. Inbound, a policy of direction Both is
// turned round (its destination is then the peer), unless its destination is multicast: a group is the
// destination in both directions (RFC 5374 §4.1.1). A policy of direction Inbound is written as the
// inbound packet shows itself and never turned.
type Policy struct {
	Name  string `json:"name"`            // unique for people: the event's id, or the table's name
	Title string `json:"title,omitempty"` // the event's title
	Selector
	Action      Action    `json:"action"`
	Direction   Direction `json:"direction"`
	Association string    `json:"association,omitempty"` // event id in hex, or configured name: all SAs of it serve this policy
	Origin      Origin    `json:"origin"`                // set by [DB.SetPolicies]
	TTL         uint8     `json:"ttl,omitempty"`         // of the outer packet; meaningful where TTLSet
	TTLSet      bool      `json:"ttl_set,omitempty"`     // false: the outer packet gets the inner one's
}

func (p *Policy) validate() error {
	if err := p.Selector.validate(); err != nil {
		return fmt.Errorf("%w: %q: %w", ErrBadPolicy, p.Name, err)
	}
	switch {
	case p.Action > Discard || p.Direction > Inbound:
		return fmt.Errorf("%w: %q: unknown %s or %s", ErrBadPolicy, p.Name, p.Action, p.Direction)
	case p.Action == Protect && p.Association == "":
		return fmt.Errorf("%w: %q: protects, but names no association", ErrBadPolicy, p.Name)
	case p.Action != Protect && p.Association != "":
		return fmt.Errorf("%w: %q: names association %q, but its action is %s", ErrBadPolicy, p.Name, p.Association, p.Action)
	}
	return nil
}

// inboundSelector returns the selector as inbound packets show themselves; ok is false if the policy
// is not for inbound packets.
func (p *Policy) inboundSelector() (s Selector, ok bool) {
	switch {
	case p.Direction == Outbound:
		return Selector{}, false
	case p.Direction == Inbound || p.isMulticast():
		return p.Selector, true
	}
	return p.swapped(), true
}

// PolicyInfo is a policy as `usher policy` lists it.
type PolicyInfo struct {
	Policy
	Order        int `json:"order"`        // place in the database, from 0; the first match decides
	Associations int `json:"associations"` // installed associations that serve it
}
