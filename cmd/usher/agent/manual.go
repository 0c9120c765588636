package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"usher/cmd/usher/agent/config"
	"usher/sa"
)

// manual is what [[policy]] and [[sa]] tables have put into the database.
type manual struct {
	db        *sa.DB
	reserve   reserver
	keep      bool // key material for usher sa --show-keys
	installed []manualSA
}

// reserver makes counter reservations for sending [[sa]]: numbers that were once
// given out never come again, whatever happens to the agent.
type reserver func(material []byte, senderID uint16) (sa.Reservation, error)

// manualSA remembers what an installed association was made from.
type manualSA struct {
	origin [32]byte // of all that makes it what it is, key included
	name   string   // association
	spi    uint32
	dst    netip.Addr
}

// association names the associations of a manual policy. The prefix keeps it
// apart from event ids.
func association(policy string) string { return "manual:" + policy }

// policies puts the [[policy]] tables into force.
func (m *manual) policies(c *config.Config) error {
	policies := make([]sa.Policy, len(c.Policies))
	for i := range c.Policies {
		policies[i] = manualPolicy(&c.Policies[i])
	}
	if err := m.db.SetPolicies(sa.OriginManual, policies); err != nil {
		return fmt.Errorf("agent: [[policy]] of %s: %w", c.File(), err)
	}
	return nil
}

// apply replaces what stood by what c says. What is unchanged is left alone, so
// that a reload loses no packet; where something cannot be made the old state
// stays.
func (m *manual) apply(c *config.Config) error {
	keys, err := c.ReadKeys()
	if err != nil {
		return err
	}
	defer func() {
		for _, k := range keys {
			k.Wipe()
		}
	}()
	var next []manualSA
	for i := range c.SAs {
		id := identify(&c.SAs[i], c.Policy(c.SAs[i].Policy), keys[i], m.keep)
		next = append(next, id)
		if other := m.inUse(id); other != "" {
			return c.Errorf(fmt.Sprintf("sa[%d].spi", i), "0x%08x to %s is in use by association %q: give this one another", id.spi, id.dst, other)
		}
	}
	fresh := map[manualSA]*sa.SA{}
	for i, id := range next {
		if m.has(id) {
			continue
		}
		s, err := m.make(&c.SAs[i], keys[i])
		if err != nil {
			return c.Errorf(fmt.Sprintf("sa[%d]", i), "%v", err)
		}
		fresh[id] = s
	}
	if err := m.policies(c); err != nil {
		return err
	}
	for _, old := range m.installed {
		if !contains(next, old) {
			m.remove(old)
		}
	}
	m.installed = nil
	var errs []error
	for _, id := range next {
		if s := fresh[id]; s != nil {
			if err := m.db.Install(s); err != nil {
				errs = append(errs, fmt.Errorf("agent: [[sa]] of %s: %w", c.File(), err))
				continue // the next reload tries again
			}
		}
		m.installed = append(m.installed, id)
	}
	return errors.Join(errs...)
}

// inUse names the association that has the SPI and destination of id and is none
// of the manual ones, "" if there is none.
func (m *manual) inUse(id manualSA) string {
	for _, i := range m.db.Snapshot().SAs() {
		if _, own := manualName(i.Association); !own && i.SPI == id.spi && slices.Contains(i.Destinations, id.dst) {
			return i.Association
		}
	}
	return ""
}

func (m *manual) has(id manualSA) bool { return contains(m.installed, id) }

func contains(list []manualSA, id manualSA) bool {
	for _, s := range list {
		if s == id {
			return true
		}
	}
	return false
}

func (m *manual) remove(s manualSA) {
	m.db.Remove(s.name, func(i sa.SAInfo) bool {
		return i.SPI == s.spi && len(i.Destinations) == 1 && i.Destinations[0] == s.dst
	})
}

// identify sums up what an association is made from. The sum of the key stays in
// memory, as the key itself does in the cipher.
func identify(s *config.SA, p *config.Policy, k *config.Key, keep bool) manualSA {
	sender := -1
	if s.SenderID != nil {
		sender = int(*s.SenderID)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %d %v %s %d %d %s %v %d %t ", s.Policy, s.SPI, s.Destination, s.Direction, s.Transform, sender, s.Replay, s.Gather, p.TTL, keep)
	h.Write(k.Bytes())
	id := manualSA{name: association(s.Policy), spi: s.SPI, dst: s.Destination}
	h.Sum(id.origin[:0])
	return id
}

func (m *manual) make(s *config.SA, k *config.Key) (*sa.SA, error) {
	p := sa.Params{
		Association: association(s.Policy), SPI: s.SPI, Destinations: []netip.Addr{s.Destination},
		Transform: s.Transform, Material: k.Bytes(), Gather: s.Gather, KeepMaterial: m.keep,
	}
	switch s.Direction {
	case config.DirectionSend:
		p.Direction = sa.Outbound
	case config.DirectionReceive:
		p.Direction = sa.Inbound
	}
	switch s.Replay {
	case config.ReplaySequence:
		p.Replay = sa.BySequence
	case config.ReplayNone:
		p.Replay = sa.None
	}
	if s.SenderID != nil {
		p.SenderID = *s.SenderID
	}
	if s.Direction.Sends() {
		r, err := m.reserve(k.Bytes(), p.SenderID)
		if err != nil {
			return nil, err
		}
		p.Reservation = r
	}
	return sa.NewSA(p)
}

// manualPolicy turns a [[policy]] into one of the database.
func manualPolicy(p *config.Policy) sa.Policy {
	out := sa.Policy{
		Name: p.Name, Title: p.Name, TTL: p.TTL, TTLSet: true,
		Selector: sa.Selector{
			Source: p.Source.Prefix, Destination: p.Destination.Prefix, Protocol: unix.IPPROTO_UDP,
			DestinationPorts: sa.PortRange{First: p.Ports.First, Last: p.Ports.Last},
		},
	}
	switch p.Action {
	case config.ActionProtect:
		out.Action, out.Association = sa.Protect, association(p.Name)
	default:
		out.Action = sa.Discard
	}
	return out
}

// wallOf turns an instant of the boot clock into one of the wall clock; 0 is
// unbounded, sa.Never is never: both are nil.
func wallOf(ns, bootNow int64, wallNow time.Time) *time.Time {
	if ns == 0 || ns == sa.Never {
		return nil
	}
	t := wallNow.Add(time.Duration(ns - bootNow)).UTC()
	return &t
}

// manualName undoes association.
func manualName(association string) (policy string, ok bool) {
	return strings.CutPrefix(association, "manual:")
}
