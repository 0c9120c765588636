package sa

import (
	"cmp"
	"net/netip"
	"slices"
)

// Snapshot is an immutable state of a [DB]. Successive snapshots share all that did not change, so that
// one more association costs a few copied pages, however many there are.
type Snapshot struct {
	policies *policies
	chunks   []*chunk // the entries, one a policy, in the order of policies
	inbound  [shards]map[inboundKey]*SA
}

// Entry is a policy in force, with the associations that send for it.
type Entry struct {
	*Policy
	senders []*SA // highest interval first, then the newest
}

// chunkLen is how many entries are copied when one of them changes.
const chunkLen = 64

type chunk [chunkLen]Entry

// policies is what a list of policies was made into. It is immutable.
type policies struct {
	list     []Policy
	outbound *table             // over list
	places   map[string][]int32 // association → places in list
	twins    map[int32][]int32  // place of the first policy of a selector → places of later ones with the same
}

// shards is how many parts the inbound index has; a part is copied when an association in it changes.
const shards = 256

// inboundKey is by what an inbound packet finds its association (RFC 4303 §2.1: group SAs are never
// found by SPI alone).
type inboundKey struct {
	spi         uint32
	destination [16]byte
}

func newInboundKey(spi uint32, destination netip.Addr) inboundKey {
	return inboundKey{spi, destination.As16()}
}

func (k inboundKey) shard() uint8 {
	return uint8(k.spi) ^ uint8(k.spi>>8) ^ uint8(k.spi>>16) ^ k.destination[14] ^ k.destination[15]
}

// Outbound returns the first policy that selects the outbound packet, nil if none does.
func (s *Snapshot) Outbound(t Tuple) *Entry {
	place, ok := s.policies.outbound.find(t)
	if !ok {
		return nil
	}
	return s.entry(int32(place))
}

// SA returns the association that sends at this instant (boot ns): of those that may, the one of the
// highest interval, and of these the newest; nil if there is none.
func (e *Entry) SA(bootNS int64) *SA {
	for _, s := range e.senders {
		if s.Sends(bootNS) {
			return s
		}
	}
	return nil
}

// Sending returns the policy and the association by which an outbound packet leaves at this instant (boot
// ns). The policy is the first that selects the packet (RFC 4301 §5.1), nil if none does; the association
// is nil where none may send now. Two events may share a channel, one after the other: their policies
// have one selector, and of these the first with an association that may send serves the packet.
func (s *Snapshot) Sending(t Tuple, bootNS int64) (*Entry, *SA) {
	place, ok := s.policies.outbound.find(t)
	if !ok {
		return nil, nil
	}
	first := s.entry(int32(place))
	if a := first.SA(bootNS); a != nil || first.Action != Protect {
		return first, a
	}
	for _, twin := range s.policies.twins[int32(place)] {
		e := s.entry(twin)
		if a := e.SA(bootNS); a != nil {
			return e, a
		}
	}
	return first, nil
}

func (s *Snapshot) entry(place int32) *Entry { return &s.chunks[place/chunkLen][place%chunkLen] }

// Inbound returns the association of an inbound packet, by SPI and outer destination; nil if there is
// none that receives. Whether it accepts now, [SA.Open] says.
func (s *Snapshot) Inbound(spi uint32, destination netip.Addr) *SA {
	found := s.at(newInboundKey(spi, destination))
	if found == nil || found.params.Direction == Outbound {
		return nil
	}
	return found
}

func (s *Snapshot) at(k inboundKey) *SA { return s.inbound[k.shard()][k] }

// Policies lists the policies in order.
func (s *Snapshot) Policies() []PolicyInfo {
	serving := make(map[string]int)
	for _, a := range s.associations() {
		serving[a.params.Association]++
	}
	infos := make([]PolicyInfo, len(s.policies.list))
	for i, p := range s.policies.list {
		infos[i] = PolicyInfo{Policy: p, Order: i, Associations: serving[p.Association]}
	}
	return infos
}

// SAs lists the associations, by name, interval and age, with their counters of this moment.
func (s *Snapshot) SAs() []SAInfo {
	found := s.associations()
	slices.SortFunc(found, func(a, b *SA) int {
		return cmp.Or(cmp.Compare(a.params.Association, b.params.Association),
			cmp.Compare(a.params.Interval, b.params.Interval), cmp.Compare(a.order, b.order))
	})
	infos := make([]SAInfo, len(found))
	for i, a := range found {
		infos[i] = a.Info()
	}
	return infos
}

// associations returns each association once, in no order.
func (s *Snapshot) associations() []*SA {
	var found []*SA
	for _, part := range s.inbound {
		for k, a := range part {
			if k.destination == a.params.Destinations[0].As16() {
				found = append(found, a)
			}
		}
	}
	return found
}

// newPolicies indexes a list of valid policies.
func newPolicies(list []Policy) *policies {
	p := &policies{list: list, places: make(map[string][]int32)}
	selectors := make([]Selector, len(list))
	var outbound []int32
	for i := range list {
		selectors[i] = list[i].Selector
		if list[i].Direction != Inbound {
			outbound = append(outbound, int32(i))
		}
		if name := list[i].Association; name != "" {
			p.places[name] = append(p.places[name], int32(i))
		}
	}
	p.outbound = newTable(selectors, outbound)
	p.twins = twins(list, outbound)
	return p
}

// twins finds, among the outbound policies at places, protecting ones whose selector an earlier one has.
func twins(list []Policy, places []int32) map[int32][]int32 {
	first := make(map[Selector]int32, len(places))
	found := make(map[int32][]int32)
	for _, place := range places {
		p := &list[place]
		if p.Action != Protect {
			continue
		}
		if earlier, known := first[p.Selector]; known {
			found[earlier] = append(found[earlier], place)
		} else {
			first[p.Selector] = place
		}
	}
	return found
}

// inboundTable indexes what the policies of an association select of inbound packets.
func (p *policies) inboundTable(association string) *table {
	var selectors []Selector
	var all []int32
	for _, place := range p.places[association] {
		if s, ok := p.list[place].inboundSelector(); ok {
			all = append(all, int32(len(selectors)))
			selectors = append(selectors, s)
		}
	}
	return newTable(selectors, all)
}

// withPolicies returns a snapshot with other policies and the same associations.
func (s *Snapshot) withPolicies(p *policies, senders func(association string) []*SA) *Snapshot {
	next := *s
	next.policies = p
	next.chunks = make([]*chunk, (len(p.list)+chunkLen-1)/chunkLen)
	for i := range next.chunks {
		next.chunks[i] = new(chunk)
	}
	for i := range p.list {
		policy := &p.list[i]
		next.chunks[i/chunkLen][i%chunkLen] = Entry{policy, senders(policy.Association)}
	}
	return &next
}

// change collects copies of what differs from the snapshot before.
type change struct {
	next   *Snapshot
	cloned [shards]bool
}

func (s *Snapshot) change() *change {
	next := *s
	return &change{next: &next}
}

// put sets the association of a key; nil removes it.
func (c *change) put(k inboundKey, s *SA) {
	part := k.shard()
	if !c.cloned[part] {
		clone := make(map[inboundKey]*SA, len(c.next.inbound[part])+1)
		for key, a := range c.next.inbound[part] {
			clone[key] = a
		}
		c.next.inbound[part], c.cloned[part] = clone, true
	}
	if s == nil {
		delete(c.next.inbound[part], k)
		return
	}
	c.next.inbound[part][k] = s
}

// setSenders sets which associations send for the policies of an association's name.
func (c *change) setSenders(association string, senders []*SA) {
	places := c.next.policies.places[association]
	if len(places) == 0 {
		return
	}
	c.next.chunks = slices.Clone(c.next.chunks)
	last := int32(-1)
	for _, place := range places {
		if i := place / chunkLen; i != last {
			clone := *c.next.chunks[i]
			c.next.chunks[i], last = &clone, i
		}
		c.next.chunks[last][place%chunkLen].senders = senders
	}
}
