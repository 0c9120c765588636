package host_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"usher/scripts/lab"
	"usher/tunnel/host"
)

// ownFlow is a plan of a host that sends the event itself.
func ownFlow() host.Plan {
	p := plan(flow())
	p.OwnSources = []netip.Addr{sender}
	return p
}

// stands reports what of the plan's set-up is missing on the host.
func stands(p host.Plan, mtu int) error {
	link, err := netlink.LinkByName(tunName)
	if err != nil {
		return err
	}
	if link.Attrs().MTU != mtu || link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s has MTU %d (want %d), flags %v", tunName, link.Attrs().MTU, mtu, link.Attrs().Flags)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "169.254.77.1/32" {
		return fmt.Errorf("addresses %v: %w", addrs, err)
	}
	for path, want := range map[string]string{"ipv4/conf/usher0/rp_filter": "2", "ipv6/conf/usher0/disable_ipv6": "1"} {
		if got, err := os.ReadFile("/proc/sys/net/" + path); err != nil || strings.TrimSpace(string(got)) != want {
			return fmt.Errorf("%s is %q: %w", path, got, err)
		}
	}
	for _, f := range p.Flows {
		got, err := netlink.RouteGet(f.Destination.AsSlice())
		if err != nil || len(got) != 1 || got[0].LinkIndex != link.Attrs().Index {
			return fmt.Errorf("route to %s: %v: %w", f.Destination, got, err)
		}
		src, _ := netip.AddrFromSlice(got[0].Src)
		if slices.Contains(p.OwnSources, f.Source) && src.Unmap() != f.Source {
			return fmt.Errorf("route to %s has source %s", f.Destination, src)
		}
		// A program that is not steered is refused, not let out in the clear.
		if err := sendByEth0(f.FirstPort); f.Destination == group && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("the guard does not refuse: %w", err)
		}
	}
	return nil
}

func TestApply(t *testing.T) {
	n := newNetwork(t)
	p := ownFlow()
	inside(t, n.alice, func() error {
		if err := host.Apply(t.Context(), p); !errors.Is(err, host.ErrNoTUN) {
			t.Errorf("without a TUN: %v", err)
		}
		if err := sendByEth0(5004); !errors.Is(err, unix.EPERM) {
			t.Errorf("without a TUN the guard does not stand: %v", err)
		}
		return nil
	})
	makeTUN(t, n.alice)
	show := func() string {
		return run(t, n.alice, "nft -a -s list ruleset; ip -4 route show table all; ip addr show "+tunName)
	}
	apply := func() {
		inside(t, n.alice, func() error {
			return errors.Join(host.Apply(t.Context(), p), stands(p, 1438))
		})
	}
	apply()
	first := show()
	apply()
	if again := show(); again != first {
		t.Errorf("the second time changed something:\n%s\n%s", first, again)
	}
	if !strings.Contains(first, "232.1.2.3 dev usher0 proto 117 scope link src 10.77.0.11") {
		t.Errorf("routes: %s", first)
	}

	// Another plan: one group goes, another comes, received only.
	other := flow()
	other.Destination, other.Source = netip.MustParseAddr("239.1.1.1"), netip.MustParseAddr("10.77.0.66")
	p = plan(other)
	apply()
	if now := show(); strings.Contains(now, "232.1.2.3") {
		t.Errorf("the old group is still there:\n%s", now)
	}
}

// TestProgramsAreSteered: what an ordinary program sends goes into the tunnel,
// with an agent or without, and never to the network.
func TestProgramsAreSteered(t *testing.T) {
	n := newNetwork(t)
	makeTUN(t, n.alice)
	inside(t, n.alice, func() error { return host.Apply(t.Context(), ownFlow()) })
	file := n.Dir() + "/wire.pcap"
	capture, err := n.Capture(t.Context(), n.Switch(), lab.DefaultBridge, file, "udp")
	if err != nil {
		t.Fatal(err)
	}
	inside(t, n.alice, func() error {
		conn, err := net.ListenPacket("udp4", ":0")
		if err != nil {
			return err
		}
		defer conn.Close()
		for _, port := range []int{5004, 9} {
			// Port 9 goes by the route, too, but unprotected: only the agent
			// could send it on.
			if _, err := conn.WriteTo([]byte("clear"), &net.UDPAddr{IP: group.AsSlice(), Port: port}); err != nil {
				return fmt.Errorf("an unbound program gets an error: %w", err)
			}
		}
		_, err = conn.WriteTo([]byte("unicast"), &net.UDPAddr{IP: mallory.AsSlice(), Port: 5004})
		return err
	})
	if err := capture.Stop(); err != nil {
		t.Fatal(err)
	}
	out := run(t, n.alice, "tcpdump -nr "+file+" 2>/dev/null")
	if strings.Count(out, "\n") != 1 || !strings.Contains(out, "10.77.0.66.5004: UDP") {
		t.Errorf("on the wire: %s", out)
	}
}

func TestRouteBesideForeignOne(t *testing.T) {
	n := newNetwork(t)
	makeTUN(t, n.alice)
	run(t, n.alice, "ip route add 232.1.2.3/32 dev eth0 proto static")
	inside(t, n.alice, func() error {
		return errors.Join(host.Apply(t.Context(), ownFlow()), stands(ownFlow(), 1438))
	})
	inside(t, n.alice, func() error { return host.Down("") })
	if out := run(t, n.alice, "ip route show 232.1.2.3"); !strings.HasPrefix(out, "232.1.2.3 dev eth0 proto static") {
		t.Errorf("another's route is gone: %q", out)
	}
}

func TestIPv6SwitchedOff(t *testing.T) {
	n := newNetwork(t)
	run(t, n.alice, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	makeTUN(t, n.alice)
	inside(t, n.alice, func() error {
		return errors.Join(host.Apply(t.Context(), ownFlow()), stands(ownFlow(), 1438), host.Down(""))
	})
}

func TestDown(t *testing.T) {
	n := newNetwork(t)
	makeTUN(t, n.alice)
	before := run(t, n.alice, "ip -4 route show table all | grep -v usher0; ip -br link show dev eth0")
	inside(t, n.alice, func() error {
		return errors.Join(host.Apply(t.Context(), ownFlow()), host.Down(tunName), host.Down(tunName))
	})
	after := run(t, n.alice, "ip -4 route show table all; ip -br link show dev eth0")
	if after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if left := run(t, n.alice, "nft list ruleset; ip -br link | grep usher || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}

	run(t, n.alice, "ip link add usher0 type bridge")
	inside(t, n.alice, func() error {
		if err := host.Down(tunName); !errors.Is(err, host.ErrNotTUN) {
			t.Errorf("down of a bridge: %v", err)
		}
		if err := host.Apply(t.Context(), ownFlow()); !errors.Is(err, host.ErrNotTUN) {
			t.Errorf("apply on a bridge: %v", err)
		}
		return nil
	})
	run(t, n.alice, "ip link show usher0")
}

// TestReversePath: without any route to the sender only filter 0 passes, and
// only where it is 0 for all interfaces.
func TestReversePath(t *testing.T) {
	n := newNetwork(t)
	makeTUN(t, n.alice)
	run(t, n.alice, "ip route del default")
	far := flow()
	far.Source = netip.MustParseAddr("192.0.2.9")
	for _, c := range []struct{ all, want, problem string }{
		{"0", "0", ""},
		{"1", "2", "no route leads to the sender 192.0.2.9"},
	} {
		run(t, n.alice, "sysctl -qw net.ipv4.conf.all.rp_filter="+c.all)
		k := host.New(quiet)
		var status host.Status
		inside(t, n.alice, func() error {
			err := k.Set(t.Context(), plan(far))
			status = k.Status()
			return err
		})
		got := run(t, n.alice, "cat /proc/sys/net/ipv4/conf/usher0/rp_filter")
		told := strings.Join(status.Problems, " ")
		if strings.TrimSpace(got) != c.want || (c.problem == "") != (told == "") || !strings.Contains(told, c.problem) {
			t.Errorf("all=%s: rp_filter %s, problems %q", c.all, got, told)
		}
	}
}

func TestChooseInterface(t *testing.T) {
	n := newNetwork(t)
	a := n.alice
	if err := n.AddBridge("br1"); err != nil {
		t.Fatal(err)
	}
	if err := a.Attach("eth1", "10.78.0.11/24", lab.OnBridge("br1"), lab.MTU(1400)); err != nil {
		t.Fatal(err)
	}
	run(t, a, "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up")
	makeTUN(t, a)
	inside(t, a, func() error { return host.Apply(t.Context(), ownFlow()) })

	none, far := netip.Addr{}, netip.MustParseAddr("192.0.2.9")
	near1, far2 := netip.MustParseAddr("10.78.0.50"), netip.MustParseAddr("203.0.113.7")
	run(t, a, "ip route add 203.0.113.0/24 via 10.78.0.1")
	for _, c := range []struct {
		name, prepare, configured string
		group, source             netip.Addr
		want, why                 string
	}{
		{"own address", "", "", group, sender, "eth0", "it holds the sender's address 10.77.0.11"},
		{"configured beats all", "", "eth1", group, sender, "eth1", "configured"},
		{"default route", "", "", group, far, "eth0", "the default route leads there"},
		{"no source", "", "", group, none, "eth0", "the default route leads there"},
		{"sender on a network of this host", "", "", group, near1, "eth1", "the route to the sender 10.78.0.50 leads there"},
		{"sender behind a router", "", "", group, far2, "eth1", "the route to the sender 203.0.113.7 leads there"},
		{"route for multicast", "ip route add 224.0.0.0/4 dev eth1", "", group, far, "eth1", "the route to the group 232.1.2.3 leads there"},
		{"failover", "ip route replace 224.0.0.0/4 dev eth0", "", group, near1, "eth0", "the route to the group 232.1.2.3 leads there"},
		{"configured but down", "ip link set eth1 down", "eth1", group, far, "eth1", "configured; it is down"},
	} {
		if c.prepare != "" {
			run(t, a, c.prepare)
		}
		inside(t, a, func() error {
			got, why, err := host.ChooseInterface(c.configured, c.group, c.source)
			if err != nil || got.Name != c.want || why != c.why || got.Index == 0 || got.MTU == 0 {
				t.Errorf("%s: %+v, %q, %v; want %s, %q", c.name, got, why, err, c.want, c.why)
			}
			return nil
		})
	}
	run(t, a, "ip route del 224.0.0.0/4; ip route del default")
	inside(t, a, func() error {
		if _, _, err := host.ChooseInterface("eth9", group, none); !errors.Is(err, host.ErrNoInterface) ||
			!strings.Contains(err.Error(), `"eth9"`) || !strings.Contains(err.Error(), "docker0") || strings.Contains(err.Error(), "usher0") {
			t.Errorf("an interface that does not exist: %v", err)
		}
		if got, _, err := host.ChooseInterface("", group, far); !errors.Is(err, host.ErrNoInterface) || !strings.Contains(err.Error(), "192.0.2.9") {
			t.Errorf("no route: %v, %v", got, err)
		}
		if i, ok, err := host.Owner(sender); err != nil || !ok || i.Name != "eth0" || len(i.Addrs) != 1 {
			t.Errorf("owner of %s: %+v, %v, %v", sender, i, ok, err)
		}
		if _, ok, err := host.Owner(host.DefaultTUNAddress.Addr()); err != nil || ok {
			t.Errorf("the tunnel's own address has a real owner: %v, %v", ok, err)
		}
		return nil
	})
}
