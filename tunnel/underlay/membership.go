package underlay

import "net/netip"

// Membership is one (source, group) on one interface.
type Membership struct {
	Group     netip.Addr // IPv4 multicast
	Source    netip.Addr // invalid: any source
	Interface int        // index
}

// Memberships holds multicast memberships, each as long as it is wanted.
type Memberships struct{}

// NewMemberships makes an empty set.
func NewMemberships() *Memberships { return &Memberships{} }

// Join adds a membership.
func (m *Memberships) Join(group, source netip.Addr, index int) error { return nil }

// Leave ends a membership.
func (m *Memberships) Leave(group, source netip.Addr, index int) error { return nil }

// Set joins what is wanted and not held, then leaves what is held and not wanted.
func (m *Memberships) Set(want []Membership) error { return nil }

// List is what is held.
func (m *Memberships) List() []Membership { return nil }

// Close leaves everything.
func (m *Memberships) Close() error { return nil }
