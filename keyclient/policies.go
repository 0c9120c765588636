package keyclient

import (
	"net/netip"

	"usher/keyclient/wire"
	"usher/sa"
)

const policyOrigin = sa.OriginTicket

// protocols are the IP protocols that an entry may name. Any other is protected
// whole: what this version cannot encrypt must not leave in the clear.
var protocols = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132, "dccp": 33, "udplite": 136}

// viewEntry reads an entry for routes, guard and policies. ESP's own port is
// taken out of its flows: else the host's ciphertext would be cleartext to
// protect, and nothing at all would leave.
func viewEntry(e *wire.Entry, espPort uint16) Entry {
	v := Entry{
		ID: e.ID, Title: e.Title, Senders: e.Senders, TTL: e.TTL,
		KeyServers: e.KeyServers, Priority: e.Priority, Refused: e.Unsupported(),
	}
	if err := e.CheckPorts(espPort); err != nil {
		v.Refused = err
	}
	for _, f := range e.Flows {
		first, last, err := f.PortRange()
		if err != nil {
			continue // ParseEntry has checked it
		}
		for _, r := range withoutPort(first, last, espPort) {
			v.Flows = append(v.Flows, Flow{Protocol: f.Protocol, Destination: f.Destination, FirstPort: r.First, LastPort: r.Last})
		}
	}
	return v
}

// withoutPort is first…last less one port.
func withoutPort(first, last, port uint16) []sa.PortRange {
	if port < first || port > last {
		return []sa.PortRange{{First: first, Last: last}}
	}
	var out []sa.PortRange
	if first < port {
		out = append(out, sa.PortRange{First: first, Last: port - 1})
	}
	if port < last {
		out = append(out, sa.PortRange{First: port + 1, Last: last})
	}
	return out
}

// policiesOf makes a policy for each sender and flow of each entry, joined or
// not, supported or not: without an association it drops (docs/design.md §3).
func policiesOf(entries []heldEntry) []sa.Policy {
	var out []sa.Policy
	for _, e := range entries {
		for _, sender := range e.view.Senders {
			for _, f := range e.view.Flows {
				if sender.Is4() == f.Destination.Is4() {
					out = append(out, policyOf(&e.view, sender, f))
				}
			}
		}
	}
	return out
}

func policyOf(e *Entry, sender netip.Addr, f Flow) sa.Policy {
	p := sa.Policy{
		Name: e.ID.String(), Title: e.Title, Action: sa.Protect, Direction: sa.Both,
		Association: e.ID.String(), TTL: e.TTL, TTLSet: true,
		Selector: sa.Selector{
			Source:      netip.PrefixFrom(sender, sender.BitLen()),
			Destination: netip.PrefixFrom(f.Destination, f.Destination.BitLen()),
			SourcePorts: sa.AnyPort, DestinationPorts: sa.AnyPort,
		},
	}
	if number, known := protocols[f.Protocol]; known {
		p.Protocol = number
		p.DestinationPorts = sa.PortRange{First: f.FirstPort, Last: f.LastPort}
	}
	return p
}
