package sa

import "math"

// table finds the first of an ordered list of selectors that matches a packet. Selectors of one host
// or group are found by hash, so that the cost does not grow with their number; prefixes stand beside,
// in order. It is immutable.
type table struct {
	selectors []Selector
	byHost    map[hostKey][]int32 // places in selectors, ascending
	prefixes  []int32             // places of selectors whose destination is no single address
	has       [shapes]bool        // which shapes byHost holds, to save a lookup for the others
}

// hostKey is the part of a selector that is found by hash.
type hostKey struct {
	destination [16]byte
	port        uint16 // where shape is onePort
	protocol    uint8
	shape       shape
}

// shape says which of protocol and port a host's selector fixes.
type shape uint8

const (
	onePort     shape = iota // protocol and destination port
	oneProtocol              // protocol, and any or several ports
	anyProtocol              // neither
	shapes      = iota
)

// newTable indexes the selectors at the given places, which ascend.
func newTable(selectors []Selector, places []int32) *table {
	t := &table{selectors: selectors, byHost: make(map[hostKey][]int32)}
	for _, place := range places {
		s := &selectors[place]
		if !s.Destination.IsValid() || !s.Destination.IsSingleIP() {
			t.prefixes = append(t.prefixes, place)
			continue
		}
		k := hostKey{destination: s.Destination.Addr().As16(), protocol: s.Protocol, shape: oneProtocol}
		switch {
		case s.Protocol == 0:
			k.shape = anyProtocol
		case !s.DestinationPorts.IsAny() && s.DestinationPorts.First == s.DestinationPorts.Last:
			k.shape, k.port = onePort, s.DestinationPorts.First
		}
		t.byHost[k] = append(t.byHost[k], place)
		t.has[k.shape] = true
	}
	return t
}

// find returns the place of the first selector that matches.
func (t *table) find(p Tuple) (place int, ok bool) {
	best := int32(math.MaxInt32)
	destination := p.Destination.As16()
	if t.has[onePort] && p.HasPorts {
		best = t.first(t.byHost[hostKey{destination, p.DestinationPort, p.Protocol, onePort}], p, best)
	}
	if t.has[oneProtocol] {
		best = t.first(t.byHost[hostKey{destination, 0, p.Protocol, oneProtocol}], p, best)
	}
	if t.has[anyProtocol] {
		best = t.first(t.byHost[hostKey{destination, 0, 0, anyProtocol}], p, best)
	}
	best = t.first(t.prefixes, p, best)
	return int(best), best != math.MaxInt32
}

// first returns the first of the places before best whose selector matches, or best.
func (t *table) first(places []int32, p Tuple, best int32) int32 {
	for _, place := range places {
		if place >= best {
			break
		}
		if t.selectors[place].Matches(p) {
			return place
		}
	}
	return best
}
