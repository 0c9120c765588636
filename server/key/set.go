package key

import (
	"maps"
	"slices"

	"usher/keyclient/wire"
	"usher/server/group"
	"usher/server/store"
)

// The set: which client is in which groups, which groups reach an event, who
// sends it, who is suspended (docs/keying.md §6). One bit for each group and
// event, not for each client and event: a new arrow between two groups then
// changes a few bits, not a million.

// members is the client's half of the set, immutable: pages by client number,
// so that one change copies one page.
type members struct {
	pages []*memberPage
	count int
}

const memberPageSize = 256

type memberPage [memberPageSize]member

type member struct {
	groups    []uint32 // the client's own, without their ancestors
	known     bool
	suspended bool
}

// find returns nil for a client that does not exist (any more).
func (m *members) find(number uint32) *member {
	page := number / memberPageSize
	if int64(page) >= int64(len(m.pages)) || m.pages[page] == nil {
		return nil
	}
	if found := &m.pages[page][number%memberPageSize]; found.known {
		return found
	}
	return nil
}

// with returns the members after some changed and some went.
func (m *members) with(changed []store.Member, gone []uint32) *members {
	edit := memberEdit{members: members{pages: slices.Clone(m.pages), count: m.count}, own: map[uint32]bool{}}
	for _, c := range changed {
		edit.set(c.Number, member{groups: slices.Clone(c.Groups), known: true, suspended: c.Suspended})
	}
	for _, number := range gone {
		edit.set(number, member{})
	}
	return &edit.members
}

// memberEdit copies each page at most once.
type memberEdit struct {
	members
	own map[uint32]bool // pages copied already
}

func (e *memberEdit) set(number uint32, to member) {
	page := number / memberPageSize
	if missing := int(page) + 1 - len(e.pages); missing > 0 {
		e.pages = append(e.pages, make([]*memberPage, missing)...)
	}
	if !e.own[page] {
		fresh := new(memberPage)
		if old := e.pages[page]; old != nil {
			*fresh = *old
		}
		e.pages[page], e.own[page] = fresh, true
	}
	place := &e.pages[page][number%memberPageSize]
	if place.known {
		e.count--
	}
	if to.known {
		e.count++
	}
	*place = to
}

// groupSet is a set of group numbers, which are small and never reused.
type groupSet []uint64

func (g groupSet) has(number uint32) bool {
	word := number / 64
	return int64(word) < int64(len(g)) && g[word]&(1<<(number%64)) != 0
}

func (g *groupSet) add(number uint32) {
	for int64(number/64) >= int64(len(*g)) {
		*g = append(*g, 0)
	}
	(*g)[number/64] |= 1 << (number % 64)
}

// reach is the set of groups whose clients have the events of one group.
func reach(graph *group.Graph, from uint32) groupSet {
	var set groupSet
	for _, g := range graph.WithDescendants(from) {
		set.add(g)
	}
	return set
}

// access is the event's half of the set, immutable.
type access struct {
	groups  groupSet            // that reach the event
	senders map[uint32]struct{} // client numbers
}

// standing is what the set says about a client, an event and a role.
type standing uint8

const (
	allowed standing = iota
	suspended
	notMember
	notSender
)

// standing of m, nil for an unknown client. A sender needs the membership, too:
// an association alone opens nothing.
func (a *access) standing(m *member, number uint32, role wire.Role) standing {
	switch {
	case m == nil:
		return notMember
	case m.suspended:
		return suspended
	case !slices.ContainsFunc(m.groups, a.groups.has):
		return notMember
	case role == wire.RoleSend:
		if _, sends := a.senders[number]; !sends {
			return notSender
		}
	}
	return allowed
}

// sendersOf picks the senders out of an event's associations.
func sendersOf(associations []store.Association) map[uint32]struct{} {
	senders := map[uint32]struct{}{}
	for _, a := range associations {
		if a.Role == store.RoleSend {
			senders[a.Client] = struct{}{}
		}
	}
	return senders
}

// accessEqual spares a new view where a change of the graph changed nothing here.
func accessEqual(a, b *access) bool {
	return a != nil && b != nil && slices.Equal(a.groups, b.groups) && maps.Equal(a.senders, b.senders)
}
