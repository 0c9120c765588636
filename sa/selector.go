package sa

import (
	"fmt"
	"net/netip"
)

// PortRange is a closed range of ports. The zero value is [AnyPort] too: a range that somebody forgot
// to set must not let packets past a policy.
type PortRange struct{ First, Last uint16 }

// AnyPort is every port, and packets that have none.
var AnyPort = PortRange{0, 65535}

// Port returns the range of one port.
func Port(p uint16) PortRange { return PortRange{p, p} }

// IsAny reports whether r restricts nothing.
func (r PortRange) IsAny() bool { return r == AnyPort || r == PortRange{} }

// Contains reports whether p lies in r.
func (r PortRange) Contains(p uint16) bool { return r.IsAny() || r.First <= p && p <= r.Last }

// String returns "any", "5004" or "5000-5010".
func (r PortRange) String() string {
	switch {
	case r.IsAny():
		return "any"
	case r.First == r.Last:
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// MarshalText returns what String does.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Tuple is what a packet shows to the selectors (RFC 4301 §4.4.1.1).
type Tuple struct {
	Source, Destination         netip.Addr
	Protocol                    uint8
	SourcePort, DestinationPort uint16
	HasPorts                    bool // false: the protocol has none, or the packet is a later fragment
}

// Selector says which packets a policy is for (RFC 4301 §4.4.1.1).
type Selector struct {
	Source           netip.Prefix `json:"source"`      // the zero prefix: any
	Destination      netip.Prefix `json:"destination"` // the zero prefix: any
	Protocol         uint8        `json:"protocol"`    // IP protocol number; 0: any
	SourcePorts      PortRange    `json:"source_ports"`
	DestinationPorts PortRange    `json:"destination_ports"`
}

// Matches reports whether the packet is one of the selector's. A packet without ports matches only
// where both port ranges are [AnyPort].
func (s *Selector) Matches(t Tuple) bool {
	if s.Protocol != 0 && s.Protocol != t.Protocol {
		return false
	}
	if t.HasPorts {
		if !s.DestinationPorts.Contains(t.DestinationPort) || !s.SourcePorts.Contains(t.SourcePort) {
			return false
		}
	} else if !s.DestinationPorts.IsAny() || !s.SourcePorts.IsAny() {
		return false
	}
	return (!s.Destination.IsValid() || s.Destination.Contains(t.Destination)) &&
		(!s.Source.IsValid() || s.Source.Contains(t.Source))
}

// swapped returns the selector of the packets that come back.
func (s Selector) swapped() Selector {
	s.Source, s.Destination = s.Destination, s.Source
	s.SourcePorts, s.DestinationPorts = s.DestinationPorts, s.SourcePorts
	return s
}

// isMulticast reports whether the selector's destination is a group or a range of groups.
func (s *Selector) isMulticast() bool {
	return s.Destination.IsValid() && s.Destination.Addr().IsMulticast()
}

// protocolHasPorts lists the protocols whose first four bytes are two ports: TCP, DCCP, UDP, UDP-Lite, SCTP.
func protocolHasPorts(protocol uint8) bool {
	switch protocol {
	case 6, 17, 33, 132, 136:
		return true
	}
	return false
}

func (s *Selector) validate() error {
	for _, p := range [...]netip.Prefix{s.Source, s.Destination} {
		if p.IsValid() && (p != p.Masked() || p.Addr().Is4In6()) {
			return fmt.Errorf("prefix %s must be masked and not IPv4-mapped", p)
		}
	}
	if s.Source.IsValid() && s.Destination.IsValid() && s.Source.Addr().Is4() != s.Destination.Addr().Is4() {
		return fmt.Errorf("source %s and destination %s are of different families", s.Source, s.Destination)
	}
	for _, r := range [...]PortRange{s.SourcePorts, s.DestinationPorts} {
		if r.First > r.Last {
			return fmt.Errorf("port range %d-%d is empty", r.First, r.Last)
		}
		if !r.IsAny() && !protocolHasPorts(s.Protocol) {
			return fmt.Errorf("protocol %d has no ports to select by", s.Protocol)
		}
	}
	return nil
}
