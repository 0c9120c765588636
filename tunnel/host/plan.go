package host

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultTUN is the tunnel's interface where a plan names none.
const DefaultTUN = "usher0"

// DefaultTUNAddress is the address that usher0 always has: without an IPv4
// address reverse path filter 2 drops what it should pass (docs/design.md §3).
var DefaultTUNAddress = netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, 77, 1}), 32)

// DefaultPort is the UDP port of the ciphertext (RFC 3948 §2).
const DefaultPort = 4500

// Plan is what shall stand on this host. The zero value of a field means its
// default. Plans are values: who passed one may not change its slices.
type Plan struct {
	TUN           string       // the tunnel's interface; DefaultTUN
	TUNAddress    netip.Prefix // its address; DefaultTUNAddress
	MTU           int          // its MTU; 0: TunnelMTU of the smallest real interface in use
	RealInterface string       // the configured real interface; "": ChooseInterface decides
	Flows         []Flow       // what is protected
	OwnSources    []netip.Addr // senders' addresses that are this host's: routes prefer them
	Port          uint16       // UDP port of the ciphertext; DefaultPort
	Mark          uint32       // firewall mark of the tunnel's own packets (unused by this version's guard)
}

// Flow is one protected multicast flow, as an entry of a ticket or a [[policy]]
// names it.
type Flow struct {
	Protocol    string     // "udp"
	Destination netip.Addr // the group
	FirstPort   uint16     // destination ports, both ends included; 0 to 65535: any
	LastPort    uint16
	Source      netip.Addr // the sender; the zero Addr: any
}

// String is the flow as an operator would write it: "udp 232.1.2.3:5004-5010
// from 10.0.0.1".
func (f Flow) String() string {
	s := fmt.Sprintf("%s %s:%d", f.Protocol, f.Destination, f.FirstPort)
	if f.LastPort != f.FirstPort {
		s += fmt.Sprintf("-%d", f.LastPort)
	}
	if f.Source.IsValid() {
		s += " from " + f.Source.String()
	}
	return s
}

// TunnelMTU is the largest inner packet that fits into one outer packet of mtu
// bytes without fragments: 60 bytes of outer IPv4, UDP, SPI, sequence number,
// IV and ICV, and ESP's padding to four bytes with its two-byte trailer.
func TunnelMTU(mtu int) int {
	return (mtu-60)&^3 - 2
}

// withDefaults fills what the plan leaves open.
func (p Plan) withDefaults() Plan {
	if p.TUN == "" {
		p.TUN = DefaultTUN
	}
	if !p.TUNAddress.IsValid() {
		p.TUNAddress = DefaultTUNAddress
	}
	if p.Port == 0 {
		p.Port = DefaultPort
	}
	return p
}

// Validate reports the first thing in the plan that cannot be applied. The
// error wraps ErrPlan, ErrNotInThisVersion or ErrESPPort.
func (p Plan) Validate() error {
	p = p.withDefaults()
	if err := checkName(p.TUN); err != nil {
		return err
	}
	if p.RealInterface != "" {
		if err := checkName(p.RealInterface); err != nil {
			return err
		}
	}
	if p.RealInterface == p.TUN {
		return fmt.Errorf("%w: the real interface cannot be %s itself", ErrPlan, p.TUN)
	}
	if a := p.TUNAddress; !a.Addr().Is4() || a.Bits() != 32 {
		return fmt.Errorf("%w: address %s of %s: want an IPv4 address with /32", ErrPlan, a, p.TUN)
	}
	if p.MTU != 0 && (p.MTU < 576 || p.MTU > 65535) {
		return fmt.Errorf("%w: MTU %d: want 576 to 65535", ErrPlan, p.MTU)
	}
	for _, f := range p.Flows {
		if err := f.validate(p.Port); err != nil {
			return err
		}
	}
	return nil
}

func (f Flow) validate(espPort uint16) error {
	switch {
	case !f.Destination.IsValid():
		return fmt.Errorf("%w: a flow without destination", ErrPlan)
	case f.Protocol != "udp":
		return fmt.Errorf("%w: flow %s: protocol %q (want udp)", ErrNotInThisVersion, f, f.Protocol)
	case !f.Destination.Is4():
		return fmt.Errorf("%w: flow %s: IPv6", ErrNotInThisVersion, f)
	case !f.Destination.IsMulticast():
		return fmt.Errorf("%w: flow %s: unicast", ErrNotInThisVersion, f)
	case f.Destination.IsLinkLocalMulticast():
		// 224.0.0.0/24 belongs to the link's own protocols, IGMP among them.
		return fmt.Errorf("%w: flow %s: 224.0.0.0/24 cannot be protected", ErrPlan, f)
	case f.FirstPort > f.LastPort:
		return fmt.Errorf("%w: flow %s: ports run backwards", ErrPlan, f)
	case f.FirstPort == espPort && f.LastPort == espPort:
		return fmt.Errorf("%w: flow %s: port %d carries the ciphertext", ErrESPPort, f, espPort)
	case f.Source.IsValid() && (!f.Source.Is4() || f.Source.IsMulticast()):
		return fmt.Errorf("%w: flow %s: want an IPv4 unicast source", ErrPlan, f)
	}
	return nil
}

// checkName refuses what the kernel would not take as an interface name, and
// what would lead elsewhere in /proc/sys.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." ||
		name == "all" || name == "default" || strings.ContainsAny(name, "/: \t\n%") {
		return fmt.Errorf("%w: interface name %q", ErrPlan, name)
	}
	return nil
}
