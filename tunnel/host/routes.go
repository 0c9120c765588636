package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routes in the kernel's table ("proto 117" in ip
// route): what another put on the tunnel's interface stays.
const routeProtocol = 117

// wantedRoutes are the routes of the plan: for each group the source address
// that programs shall send from, the zero Addr for a group that this host only
// receives.
func (s *snapshot) wantedRoutes(p Plan) (routes map[netip.Addr]netip.Addr, problems []string) {
	routes = map[netip.Addr]netip.Addr{}
	for _, group := range p.groups() {
		routes[group] = netip.Addr{}
	}
	missing := map[netip.Addr]bool{}
	for _, f := range p.Flows {
		if !f.Source.IsValid() || !slices.Contains(p.OwnSources, f.Source) || routes[f.Destination].IsValid() {
			continue
		}
		if s.owner(p.TUN, f.Source) != nil {
			routes[f.Destination] = f.Source
		} else if !missing[f.Source] {
			missing[f.Source] = true
			problems = append(problems, fmt.Sprintf("no interface of this host holds the address %s, from which it shall send "+
				"to %s: add it to the real interface.", f.Source, f.Destination))
		}
	}
	return routes, problems
}

// applyRoutes gives each group its route to the tunnel's interface, in front of
// any other route to the same group, which is left alone, and removes ours that
// are wanted no more. It returns what had to be put in place.
func (s *snapshot) applyRoutes(h *netlink.Handle, p Plan, tun int, wanted map[netip.Addr]netip.Addr) (added []string, err error) {
	have := map[netip.Addr]bool{}
	var errs []error
	for _, r := range s.routes {
		if r.LinkIndex != tun || r.Protocol != routeProtocol || r.Dst == nil {
			continue
		}
		prefix, ok := fromIPNet(r.Dst)
		if !ok {
			continue
		}
		source, _ := netip.AddrFromSlice(r.Src)
		want, isWanted := wanted[prefix.Addr()]
		if prefix.Bits() == 32 && isWanted && source.Unmap() == want.Unmap() && !have[prefix.Addr()] && s.first(r) {
			have[prefix.Addr()] = true
			continue
		}
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("host: remove route to %s: %w", prefix, err))
		}
	}
	for _, group := range p.groups() {
		if have[group] {
			continue
		}
		route := &netlink.Route{
			LinkIndex: tun, Dst: toIPNet(netip.PrefixFrom(group, 32)), Scope: netlink.SCOPE_LINK,
			Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: routeProtocol,
		}
		if src := wanted[group]; src.IsValid() {
			route.Src = src.AsSlice()
		}
		// Neither exclusive nor replacing nor appending: for IPv4 the kernel
		// puts it in front of what is there.
		if err := h.RouteAddEcmp(route); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("host: add route to %s by %s: %w", group, p.TUN, err))
			continue
		}
		added = append(added, group.String())
	}
	return added, errors.Join(errs...)
}

// first reports whether r stands in front of other routes to its destination:
// the kernel lists them in the order in which it takes them.
func (s *snapshot) first(r netlink.Route) bool {
	for _, other := range s.routes {
		if other.Dst != nil && other.Dst.String() == r.Dst.String() && other.Priority == r.Priority && other.Tos == r.Tos {
			return other.LinkIndex == r.LinkIndex && other.Protocol == r.Protocol
		}
	}
	return false
}

// strayGroups are problems of groups whose route stands, but which the kernel
// sends elsewhere all the same: a policy rule of another program does that.
func strayGroups(h *netlink.Handle, p Plan, tun int) []string {
	var problems []string
	for _, group := range p.groups() {
		found, err := h.RouteGet(group.AsSlice())
		if err != nil || len(found) == 0 || found[0].LinkIndex == tun {
			continue
		}
		problems = append(problems, fmt.Sprintf("packets to %s leave by interface %d and not by %s, although its route is there: "+
			"look for a policy rule of another program (ip rule).", group, found[0].LinkIndex, p.TUN))
	}
	return problems
}
