package sa

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// DB holds policies and associations. Writers take turns; each of their methods ends in one pointer
// swap. Readers take the [Snapshot] and never wait.
type DB struct {
	current atomic.Pointer[Snapshot]
	changes notifier

	mu       sync.Mutex
	origins  [origins][]Policy  // guarded by mu
	families map[string]*family // guarded by mu
	order    uint64             // guarded by mu: of the association installed last
}

// family is all associations of one name. Its policies are looked at from the packet path.
type family struct {
	members []*SA // guarded by DB.mu
	inbound atomic.Pointer[table]
}

// senders returns the members that may send, the preferred first (see [Entry.SA]).
func (f *family) senders() []*SA {
	var out []*SA
	for _, s := range f.members {
		if s.params.Direction != Inbound {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *SA) int {
		return cmp.Or(cmp.Compare(b.params.Interval, a.params.Interval), cmp.Compare(b.order, a.order))
	})
	return out
}

// NewDB returns an empty database.
func NewDB() *DB {
	d := &DB{families: make(map[string]*family)}
	d.current.Store(&Snapshot{policies: newPolicies(nil)})
	return d
}

// Snapshot returns the database as it is now; it never changes. One atomic load.
func (d *DB) Snapshot() *Snapshot { return d.current.Load() }

// SetPolicies replaces all policies of an origin, in this order, by one step. Manual policies are
// looked at before those of tickets. If one is not valid nothing changes and the error wraps
// [ErrBadPolicy].
func (d *DB) SetPolicies(o Origin, list []Policy) error {
	if o >= origins {
		return fmt.Errorf("%w: unknown %s", ErrBadPolicy, o)
	}
	list = slices.Clone(list)
	for i := range list {
		p := &list[i]
		if err := p.validate(); err != nil {
			return err
		}
		p.Origin = o
		for _, r := range [...]*PortRange{&p.SourcePorts, &p.DestinationPorts} {
			if r.IsAny() {
				*r = AnyPort
			}
		}
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	d.origins[o] = list
	p := newPolicies(slices.Concat(d.origins[OriginManual], d.origins[OriginTicket]))
	for name, f := range d.families {
		f.inbound.Store(p.inboundTable(name))
	}
	senders := make(map[string][]*SA, len(d.families))
	for name, f := range d.families {
		senders[name] = f.senders()
	}
	d.publish(d.current.Load().withPolicies(p, func(association string) []*SA { return senders[association] }))
	return nil
}

// Install puts an association into force, by one step. Errors: [ErrSPIInUse] for a second key under a
// live (SPI, destination), [ErrInstalled] for an association that was installed before.
func (d *DB) Install(s *SA) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.family != nil || s.dead.Load() {
		return fmt.Errorf("install %s: %w", s, ErrInstalled)
	}
	now := d.current.Load()
	for _, destination := range s.params.Destinations {
		if other := now.at(newInboundKey(s.params.SPI, destination)); other != nil {
			return fmt.Errorf("install %s for %s: %w by association %q, interval %d; remove that first",
				s, destination, ErrSPIInUse, other.params.Association, other.params.Interval)
		}
	}

	f := d.families[s.params.Association]
	if f == nil {
		f = new(family)
		f.inbound.Store(now.policies.inboundTable(s.params.Association))
		d.families[s.params.Association] = f
	}
	d.order++
	s.family, s.order, s.notify = f, d.order, d.changes.notify
	f.members = append(f.members, s)

	c := now.change()
	for _, destination := range s.params.Destinations {
		c.put(newInboundKey(s.params.SPI, destination), s)
	}
	c.setSenders(s.params.Association, f.senders())
	d.publish(c.next)
	return nil
}

// Remove takes out and wipes the associations of that name for which match returns true (nil: all),
// by one step, and returns their last state. match must not call the database.
func (d *DB) Remove(association string, match func(SAInfo) bool) (removed []SAInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.current.Load().change()
	return d.finish(c, d.drop(c, association, func(s *SA) bool { return match == nil || match(s.Info()) }))
}

// Expire takes out and wipes the associations that are over at this instant (boot ns), by one step, and
// returns their last state. An association is over at its AcceptUntil; one that only sends and has none,
// at its SendUntil; and at once where it was dropped for failed integrity checks.
func (d *DB) Expire(bootNS int64) (removed []SAInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.current.Load().change()
	var dropped []*SA
	for association := range d.families {
		dropped = append(dropped, d.drop(c, association, func(s *SA) bool { return s.over(bootNS) })...)
	}
	return d.finish(c, dropped)
}

// drop takes the members of a family for which gone returns true out of the family and of what c will
// publish. d.mu is held.
func (d *DB) drop(c *change, association string, gone func(*SA) bool) (dropped []*SA) {
	f := d.families[association]
	if f == nil {
		return nil
	}
	for _, s := range f.members {
		if gone(s) {
			dropped = append(dropped, s)
		}
	}
	if len(dropped) == 0 {
		return nil
	}
	for _, s := range dropped {
		for _, destination := range s.params.Destinations {
			c.put(newInboundKey(s.params.SPI, destination), nil)
		}
	}
	f.members = slices.DeleteFunc(f.members, func(s *SA) bool { return slices.Contains(dropped, s) })
	c.setSenders(association, f.senders())
	if len(f.members) == 0 {
		delete(d.families, association)
	}
	return dropped
}

// finish publishes a change that drops associations, wipes them, and returns their last state, the
// oldest first. d.mu is held.
func (d *DB) finish(c *change, dropped []*SA) (removed []SAInfo) {
	if len(dropped) == 0 {
		return nil
	}
	d.publish(c.next)
	slices.SortFunc(dropped, func(a, b *SA) int { return cmp.Compare(a.order, b.order) })
	for _, s := range dropped {
		removed = append(removed, s.Info())
		s.wipe()
	}
	return removed
}

// publish makes a snapshot the current one and tells the subscribers. d.mu is held.
func (d *DB) publish(next *Snapshot) {
	d.current.Store(next)
	d.changes.notify()
}

// Subscribe returns a channel that gets a value after changes of the database, and when an association
// nears or reaches its limits. Changes that come before the last value was taken are told once, and
// nobody waits for a subscriber. cancel ends it; the channel is never closed.
func (d *DB) Subscribe() (changed <-chan struct{}, cancel func()) { return d.changes.subscribe() }
