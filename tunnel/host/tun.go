package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sysctlRoot holds the settings of the calling thread's network namespace.
const sysctlRoot = "/proc/sys/net"

// applyTUN sets address, MTU (0: as it is) and state of the tunnel's interface.
// It returns the parts that had to be put in place.
func (s *snapshot) applyTUN(h *netlink.Handle, p Plan, link netlink.Link, mtu int) (done []Part, err error) {
	var errs []error
	if !slices.Contains(s.addrs[link.Attrs().Index], p.TUNAddress) {
		// Of link scope: the kernel then does not take it as source address
		// of what leaves by another interface.
		err := h.AddrAdd(link, &netlink.Addr{IPNet: toIPNet(p.TUNAddress), Scope: unix.RT_SCOPE_LINK})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("host: give %s the address %s: %w", p.TUN, p.TUNAddress, err))
		} else {
			done = append(done, PartAddress)
		}
	}
	if mtu != 0 && link.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			errs = append(errs, fmt.Errorf("host: set MTU %d of %s: %w", mtu, p.TUN, err))
		} else {
			done = append(done, PartMTU)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			errs = append(errs, fmt.Errorf("host: set %s up: %w", p.TUN, err))
		} else {
			done = append(done, PartLink)
		}
	}
	return done, errors.Join(errs...)
}

// wantedMTU is the plan's MTU, or what fits through the smallest real interface
// in use; 0 while none is known.
func wantedMTU(p Plan, choices []Choice) int {
	if p.MTU != 0 {
		return p.MTU
	}
	smallest := 0
	for _, c := range choices {
		if c.Err == nil && (smallest == 0 || c.Interface.MTU < smallest) {
			smallest = c.Interface.MTU
		}
	}
	if smallest == 0 {
		return 0
	}
	// 68 is the least that IPv4 takes (RFC 791 §3.2).
	return max(TunnelMTU(smallest), 68)
}

// setting is one sysctl of the tunnel's interface.
type setting struct{ path, value string }

// settings are the sysctls that the tunnel's interface needs: a reverse path
// filter that takes a source by whatever interface its route leads, and no
// IPv6, which this version does not carry (the kernel would send router
// solicitations and reports into the tunnel).
func settings(tun string, reversePath string) []setting {
	v6 := filepath.Join("ipv6/conf", tun)
	return []setting{
		{filepath.Join("ipv4/conf", tun, "rp_filter"), reversePath},
		{filepath.Join(v6, "accept_ra"), "0"},
		{filepath.Join(v6, "autoconf"), "0"},
		{filepath.Join(v6, "disable_ipv6"), "1"},
	}
}

// applySettings writes the sysctls that differ. A host without IPv6 lacks
// those, which is as good.
func applySettings(tun, reversePath string) (changed bool, problems []string) {
	for _, s := range settings(tun, reversePath) {
		path := filepath.Join(sysctlRoot, s.path)
		now, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s.path, "ipv6/") {
			continue
		}
		if err == nil && strings.TrimSpace(string(now)) == s.value {
			continue
		}
		if err == nil {
			err = os.WriteFile(path, []byte(s.value), 0o644)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("cannot set %s to %s (%v): set it by hand.",
				strings.ReplaceAll("net/"+s.path, "/", "."), s.value, err))
			continue
		}
		changed = true
	}
	return changed, problems
}

// reversePath is the filter that the tunnel's interface needs. 2 ("loose")
// passes a sender to which any route leads, and beats a 1 for all interfaces,
// since the larger counts. Without any route only 0 passes, and only where it
// is 0 for all.
func (s *snapshot) reversePath(p Plan) (value string, problems []string) {
	value = "2"
	told := map[netip.Addr]bool{}
	for _, f := range p.Flows {
		if !f.Source.IsValid() || told[f.Source] || s.owner(p.TUN, f.Source) != nil {
			continue
		}
		if l, _ := s.via(f.Source, func(netlink.Link) bool { return false }); l != nil {
			continue
		}
		told[f.Source] = true
		all, err := os.ReadFile(filepath.Join(sysctlRoot, "ipv4/conf/all/rp_filter"))
		if err == nil && strings.TrimSpace(string(all)) == "0" {
			value = "0"
			continue
		}
		problems = append(problems, fmt.Sprintf("no route leads to the sender %s, so the kernel's reverse path filter drops its "+
			"packets: add a route to it (a default route will do), or set net.ipv4.conf.all.rp_filter to 0.", f.Source))
	}
	return value, problems
}
