package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a listing is repeated that changed under the kernel's
// hands and so may be partial.
const dumpTries = 10

// dump calls list until its result is whole.
func dump[T any](list func() (T, error)) (T, error) {
	for range dumpTries {
		result, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return result, err
		}
	}
	var none T
	return none, netlink.ErrDumpInterrupted
}

// snapshot is the host's IPv4 network as it was at one moment.
type snapshot struct {
	links  []netlink.Link
	addrs  map[int][]netip.Prefix // by interface index
	routes []netlink.Route        // the main table, all interfaces
}

func takeSnapshot(h *netlink.Handle) (*snapshot, error) {
	s := &snapshot{addrs: map[int][]netip.Prefix{}}
	var err error
	if s.links, err = dump(h.LinkList); err != nil {
		return nil, fmt.Errorf("host: list interfaces: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("host: list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := fromIPNet(a.IPNet); ok {
			s.addrs[a.LinkIndex] = append(s.addrs[a.LinkIndex], p)
		}
	}
	s.routes, err = dump(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("host: list routes: %w", err)
	}
	return s, nil
}

// link finds an interface by name, or nil.
func (s *snapshot) link(name string) netlink.Link {
	for _, l := range s.links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

// describe turns a link into what other packages see.
func (s *snapshot) describe(l netlink.Link) Interface {
	a := l.Attrs()
	return Interface{
		Name: a.Name, Index: a.Index, MTU: a.MTU, Addrs: s.addrs[a.Index],
		Up: a.Flags&net.FlagUp != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
	}
}

// owner is the interface other than tun that holds addr, or nil. Where several
// do, it is the one that came last, which is the one the kernel sends by.
func (s *snapshot) owner(tun string, addr netip.Addr) netlink.Link {
	var found netlink.Link
	for _, l := range s.links {
		if l.Attrs().Name == tun {
			continue
		}
		for _, p := range s.addrs[l.Attrs().Index] {
			if p.Addr() == addr {
				found = l
			}
		}
	}
	return found
}

// via is the usable interface, not among the excluded, to which the main
// table's best route to addr leads, with the length of the route's prefix; nil
// if there is none.
func (s *snapshot) via(addr netip.Addr, excluded func(netlink.Link) bool) (netlink.Link, int) {
	var best netlink.Link
	length, metric := -1, 0
	for _, r := range s.routes {
		if r.Type != unix.RTN_UNICAST && r.Type != unix.RTN_MULTICAST {
			continue
		}
		prefix := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if r.Dst != nil {
			var ok bool
			if prefix, ok = fromIPNet(r.Dst); !ok {
				continue
			}
		}
		if !prefix.Contains(addr) || prefix.Bits() < length || prefix.Bits() == length && r.Priority >= metric {
			continue
		}
		index := r.LinkIndex
		if index == 0 && len(r.MultiPath) > 0 {
			index = r.MultiPath[0].LinkIndex
		}
		for _, l := range s.links {
			if l.Attrs().Index == index && l.Attrs().Flags&net.FlagUp != 0 && !excluded(l) {
				best, length, metric = l, prefix.Bits(), r.Priority
			}
		}
	}
	return best, length
}

func fromIPNet(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || !addr.Unmap().Is4() || size != 32 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), bits), true
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(p.Addr().AsSlice()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
