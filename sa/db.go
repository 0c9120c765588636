package sa

import "net/netip"

// DB holds policies and associations. Writers take turns; readers take the [Snapshot].
type DB struct{}

// family is all associations of one name.
type family struct{}

// NewDB returns an empty database.
func NewDB() *DB { return &DB{} }

// SetPolicies replaces all policies of an origin, in this order, by one step.
func (d *DB) SetPolicies(o Origin, policies []Policy) error { return ErrBadPolicy }

// Install puts an association into force, by one step. Errors: [ErrSPIInUse] for a second key under a
// live (SPI, destination), [ErrInstalled] for an association that was installed before.
func (d *DB) Install(s *SA) error { return ErrInstalled }

// Remove takes out and wipes the associations of that name for which match returns true (nil: all).
func (d *DB) Remove(association string, match func(SAInfo) bool) (removed []SAInfo) { return nil }

// Expire takes out and wipes the associations that are over at this instant.
func (d *DB) Expire(bootNS int64) (removed []SAInfo) { return nil }

// Snapshot returns the database as it is now; it never changes. One atomic load.
func (d *DB) Snapshot() *Snapshot { return &Snapshot{} }

// Subscribe returns a channel that gets a value after changes of the database, and when an association
// nears its limits. Changes that come before the last value was taken are told once. cancel ends it.
func (d *DB) Subscribe() (changed <-chan struct{}, cancel func()) { return nil, func() {} }

// Snapshot is an immutable state of a [DB].
type Snapshot struct{}

// Entry is a policy in force, with the associations that send for it.
type Entry struct {
	*Policy
}

// Outbound returns the first policy that selects the packet, nil if none does.
func (s *Snapshot) Outbound(t Tuple) *Entry { return nil }

// SA returns the association that sends at this instant, nil if there is none.
func (e *Entry) SA(bootNS int64) *SA { return nil }

// Inbound returns the association of an inbound packet, by SPI and outer destination, nil if there is none.
func (s *Snapshot) Inbound(spi uint32, destination netip.Addr) *SA { return nil }

// Policies lists the policies in order.
func (s *Snapshot) Policies() []PolicyInfo { return nil }

// SAs lists the associations, by name, interval and age.
func (s *Snapshot) SAs() []SAInfo { return nil }
