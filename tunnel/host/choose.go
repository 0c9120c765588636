package host

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// ChooseInterface picks the real interface that carries the group from the
// source (the zero Addr: any), and says why it is that one. In this order:
//
//  1. the configured one ("": none is);
//  2. the one that holds the source's address: this host is the sender, and
//     the kernel sends multicast by the interface of its source address;
//  3. the one to which a route of its own leads for the group;
//  4. the one to which a route of its own leads for the source (the network of
//     an interface is such a route): that is where a router would expect the
//     stream from;
//  5. the one of the default route.
//
// A default route is nobody's statement about multicast, so it comes last. The
// tunnel's own interface never counts. An interface that is down can be chosen;
// Interface.Up tells. The error wraps ErrNoInterface and says what to do.
func ChooseInterface(configured string, group, source netip.Addr) (Interface, string, error) {
	var choice Choice
	err := withHandle(func(h *netlink.Handle) error {
		s, err := takeSnapshot(h)
		if err == nil {
			choice = s.choose(DefaultTUN, configured, group, source)
		}
		return err
	})
	if err != nil {
		return Interface{}, "", err
	}
	return choice.Interface, choice.Why, choice.Err
}

// Owner tells which real interface holds addr, and false when none does: then
// this host is not the sender of what comes from there.
func Owner(addr netip.Addr) (Interface, bool, error) {
	var found Interface
	var ok bool
	err := withHandle(func(h *netlink.Handle) error {
		s, err := takeSnapshot(h)
		if err != nil {
			return err
		}
		if l := s.owner(DefaultTUN, addr); l != nil {
			found, ok = s.describe(l), true
		}
		return nil
	})
	return found, ok, err
}

func (s *snapshot) choose(tun, configured string, group, source netip.Addr) Choice {
	c := Choice{Group: group, Source: source}
	take := func(l netlink.Link, format string, args ...any) Choice {
		c.Interface, c.Why = s.describe(l), fmt.Sprintf(format, args...)
		if !c.Interface.Up {
			c.Why += "; it is down"
		}
		return c
	}
	if configured != "" {
		if l := s.link(configured); l != nil && configured != tun {
			return take(l, "configured")
		}
		c.Err = fmt.Errorf("%w: %q is configured, but this host has %s: correct \"interface\" in the configuration, "+
			"or leave it out", ErrNoInterface, configured, s.names(tun))
		return c
	}
	excluded := func(l netlink.Link) bool {
		return l.Attrs().Name == tun || l.Attrs().Flags&net.FlagLoopback != 0 ||
			slices.Contains(s.addrs[l.Attrs().Index], DefaultTUNAddress)
	}
	if source.IsValid() {
		if l := s.owner(tun, source); l != nil {
			return take(l, "it holds the sender's address %s", source)
		}
	}
	var fallback netlink.Link
	for _, to := range []struct {
		addr netip.Addr
		what string
	}{{group, "group"}, {source, "sender"}} {
		if !to.addr.IsValid() {
			continue
		}
		l, bits := s.via(to.addr, excluded)
		if l != nil && bits > 0 {
			return take(l, "the route to the %s %s leads there", to.what, to.addr)
		}
		if fallback == nil {
			fallback = l
		}
	}
	if fallback == nil {
		// Without group and source this is the host's default route.
		fallback, _ = s.via(netip.IPv4Unspecified(), excluded)
	}
	if fallback != nil {
		return take(fallback, "the default route leads there")
	}
	wanted := "a default route"
	if group.IsValid() {
		wanted = "a route to the group " + group.String()
	}
	if source.IsValid() {
		wanted += " or its sender " + source.String()
	}
	c.Err = fmt.Errorf("%w: none is configured, and this host lacks %s (it has the interfaces %s): set \"interface\" in "+
		"the configuration, or add the route", ErrNoInterface, wanted, s.names(tun))
	return c
}

// names lists the host's interfaces for an error.
func (s *snapshot) names(tun string) string {
	var names []string
	for _, l := range s.links {
		if l.Attrs().Name != tun {
			names = append(names, l.Attrs().Name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// choices are the choices for every group and source of the plan, in its
// order; for a plan without flows, the one for the host.
func (s *snapshot) choices(p Plan) []Choice {
	type pair struct{ group, source netip.Addr }
	seen := map[pair]bool{}
	var all []Choice
	for _, f := range p.Flows {
		if key := (pair{f.Destination, f.Source}); !seen[key] {
			seen[key] = true
			all = append(all, s.choose(p.TUN, p.RealInterface, f.Destination, f.Source))
		}
	}
	if len(all) == 0 {
		all = append(all, s.choose(p.TUN, p.RealInterface, netip.Addr{}, netip.Addr{}))
	}
	return all
}
