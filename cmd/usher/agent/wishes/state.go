package wishes

import (
	"net/netip"

	"usher/tunnel/packet"
	"usher/tunnel/underlay"
)

// Own is what the agent itself has joined, as it shows in the kernel's counts.
type Own struct {
	sockets map[Place]int
	sources map[Place]map[netip.Addr]bool
}

// OwnOf makes it of what underlay.Memberships tells: the list of memberships, and
// how many sockets hold each group.
func OwnOf(list []underlay.Membership, sockets map[underlay.Membership]int) Own {
	o := Own{sockets: map[Place]int{}, sources: map[Place]map[netip.Addr]bool{}}
	for m, n := range sockets {
		o.sockets[Place{m.Interface, m.Group}] = n
	}
	for _, m := range list {
		at := Place{m.Interface, m.Group}
		if o.sources[at] == nil {
			o.sources[at] = map[netip.Addr]bool{}
		}
		o.sources[at][m.Source] = true
	}
	return o
}

// wish is what programs want of a group on one interface.
type wish struct {
	any     bool // of any source, but for those that all exclude
	include map[netip.Addr]bool
	exclude map[netip.Addr]bool
}

// wants tells whether the wish takes a source.
func (w *wish) wants(source netip.Addr) bool {
	return w.include[source] || w.any && !w.exclude[source]
}

// maxReported bounds how many groups are remembered from reports.
const maxReported = 4096

// State is what programs of this host want. It is made by [NewState] and belongs
// to one goroutine.
type State struct {
	tun      string
	index    int                      // of tun, 0 while it holds no group
	reported map[netip.Addr]bool      // groups on tun that some socket there holds for any source
	wishes   map[netip.Addr][]located // by group
}

// located is a wish and its interface.
type located struct {
	index int
	wish
}

// NewState makes an empty one. tun is the name of the interface whose reports
// [State.Report] gets.
func NewState(tun string) *State {
	return &State{tun: tun, reported: map[netip.Addr]bool{}, wishes: map[netip.Addr][]located{}}
}

// Mirrored tells whether a group is one that may be joined outside for a program:
// those of the link are not, whatever a ticket says (RFC 5771 §4).
func Mirrored(group netip.Addr) bool {
	return group.Is4() && group.IsMulticast() && !group.IsLinkLocalMulticast()
}

// Report takes an IGMP message that the kernel wrote into the TUN, and tells
// whether somebody joined or left there, so that the counts should be read again.
// Messages of version 3 also tell whether a group is held for any source.
func (s *State) Report(message []byte) bool {
	m, err := packet.ParseIGMP(message)
	if err != nil {
		return false
	}
	if m.Type != packet.IGMPv3Report {
		return m.Type != packet.IGMPQuery && Mirrored(m.Group)
	}
	news := false
	for _, r := range m.Records {
		if !Mirrored(r.Group) {
			continue
		}
		news = true
		switch r.Type {
		case packet.IsExclude, packet.ChangeToExclude:
			if len(s.reported) >= maxReported {
				clear(s.reported)
			}
			s.reported[r.Group] = true
		case packet.IsInclude, packet.ChangeToInclude:
			delete(s.reported, r.Group)
		}
	}
	return news
}

// ReportsLost tells that reports were missed, so that what they said is unknown.
func (s *State) ReportsLost() { clear(s.reported) }

// Observe makes wishes of a snapshot, less what is the agent's own. From one that
// is not settled it takes no leave: what was wanted before still is.
func (s *State) Observe(snapshot Snapshot, settled bool, own Own) {
	index := 0
	for i, name := range snapshot.Names {
		if name == s.tun {
			index = i
		}
	}
	if index != s.index && index != 0 {
		if s.index != 0 {
			clear(s.reported) // it was made anew
		}
		s.index = index
	}
	before := s.wishes
	s.wishes = map[netip.Addr][]located{}
	for at, c := range snapshot.Groups {
		if !Mirrored(at.Group) {
			continue
		}
		if w, some := s.foreign(at, c, own); some {
			s.wishes[at.Group] = append(s.wishes[at.Group], located{at.Interface, w})
		}
	}
	if !settled {
		for group, all := range before {
			s.wishes[group] = append(s.wishes[group], all...)
		}
	}
}

// foreign is what others than the agent want at a place. A socket names sources
// or wants any, and of each kind it counts once; so the sockets that are more than
// all counts of sources together want any. Where sockets name several sources
// each, counts alone leave open whether there is one that wants any beside them:
// the last report says it for the TUN, and elsewhere there is none.
func (s *State) foreign(at Place, c Counts, own Own) (wish, bool) {
	w := wish{include: map[netip.Addr]bool{}, exclude: map[netip.Addr]bool{}}
	sockets := max(0, c.Sockets-own.sockets[at])
	sum, most := 0, 0
	for source, n := range c.Sources {
		include := n.Include
		if own.sources[at][source] {
			include--
		}
		if include > 0 {
			w.include[source] = true
			sum += include
			most = max(most, include)
		}
		w.any = w.any || n.Exclude > 0
	}
	w.any = w.any || sockets > sum || sockets > most && at.Interface == s.index && s.reported[at.Group]
	for source, n := range c.Sources {
		if n.Exclude > 0 && n.Exclude >= sockets-most {
			w.exclude[source] = true // by all that want any other
		}
	}
	return w, w.any || len(w.include) > 0
}

// Wants tells whether a program wants what source sends to group: on the TUN, and
// on any other interface of the host.
func (s *State) Wants(group, source netip.Addr) (inside, elsewhere bool) {
	for _, l := range s.wishes[group] {
		if !l.wants(source) {
			continue
		}
		if l.index == s.index {
			inside = true
		} else {
			elsewhere = true
		}
	}
	return inside, elsewhere
}
