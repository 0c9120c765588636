package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"usher/scripts/lab"
	"usher/tunnel/host"
)

// TestKeeperRestores removes by hand, one after the other, everything that was
// set up; each time it is back, and counted.
func TestKeeperRestores(t *testing.T) {
	n := newNetwork(t)
	makeTUN(t, n.alice)
	p := ownFlow()
	k := keep(t, n.alice, p, nil)
	eventually(t, n.alice, "the set-up", func() error { return stands(p, 1438) })
	for _, c := range []struct {
		remove string
		part   host.Part
	}{
		{"ip route del 232.1.2.3", host.PartRoute},
		{"ip route replace 232.1.2.3/32 dev eth0", host.PartRoute},
		{"ip route prepend 232.1.2.3/32 dev eth0 proto static", host.PartRoute},
		{"ip addr flush dev usher0", host.PartAddress},
		{"ip addr flush dev usher0", host.PartRoute},
		{"ip link set usher0 down", host.PartLink},
		{"ip link set usher0 mtu 1000", host.PartMTU},
		{"sysctl -qw net.ipv4.conf.usher0.rp_filter=1", host.PartSetting},
		{"nft delete table inet usher", host.PartGuard},
		{"nft flush ruleset", host.PartGuard},
		{"nft flush set inet usher ports", host.PartGuard},
		{"nft flush chain inet usher in", host.PartGuard},
		{"nft delete rule inet usher out handle $(nft -a list chain inet usher out | sed -n 's/.*ports.*# handle //p')", host.PartGuard},
		{"nft add element inet usher ports '{ 232.1.2.9 . 7 }'", host.PartGuard},
	} {
		before := k.Status().Restored[c.part]
		run(t, n.alice, c.remove)
		eventually(t, n.alice, "the set-up after "+c.remove, func() error {
			if k.Status().Restored[c.part] == before {
				return fmt.Errorf("no %s restored", c.part)
			}
			return stands(p, 1438)
		})
	}
	if out := run(t, n.alice, "nft list ruleset"); strings.Contains(out, "232.1.2.9") {
		t.Errorf("the guard holds what the plan does not want: %s", out)
	}
}

// TestKeeperLogsOneLine: a program that removes again and again gets no line
// for each time.
func TestKeeperLogsOneLine(t *testing.T) {
	n := newNetwork(t)
	makeTUN(t, n.alice)
	var text lockedBuffer
	k := host.New(slog.New(slog.NewTextHandler(&text, nil)))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	inside(t, n.alice, func() error { return k.Set(ctx, ownFlow()) })
	go func() { ended <- n.alice.Do(func() error { return k.Run(ctx) }) }()
	for i := range 5 {
		run(t, n.alice, "ip route del 232.1.2.3 dev usher0")
		eventually(t, n.alice, "the route", func() error {
			if got := k.Status().Restored[host.PartRoute]; got != uint64(i+1) {
				return fmt.Errorf("%d routes restored", got)
			}
			return stands(ownFlow(), 1438)
		})
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	lines := strings.Count(text.String(), "put back what another program removed")
	if lines != 1 || !strings.Contains(text.String(), "route to 232.1.2.3") {
		t.Errorf("%d lines:\n%s", lines, text.String())
	}
	// Nothing goes with the keeper.
	inside(t, n.alice, func() error { return stands(ownFlow(), 1438) })
}

// TestKeeperTakesTUNMadeAnew: an agent that comes up after its keeper, or makes
// the interface again.
func TestKeeperTakesTUNMadeAnew(t *testing.T) {
	n := newNetwork(t)
	changes := newChanges()
	p := ownFlow()
	k := keep(t, n.alice, p, changes.add)
	for range 3 {
		inside(t, n.alice, func() error {
			if err := sendByEth0(5004); err == nil {
				return errors.New("without the interface the guard does not stand")
			}
			return nil
		})
		makeTUN(t, n.alice)
		eventually(t, n.alice, "the new interface's set-up", func() error { return stands(p, 1438) })
		var index int
		inside(t, n.alice, func() error {
			link, err := netlink.LinkByName(tunName)
			if err == nil {
				index = link.Attrs().Index
			}
			return err
		})
		changes.wait(t, "the new interface", func(c host.Change) bool { return c.TUN.Present && c.TUN.Index == index })
		run(t, n.alice, "ip link del usher0")
		changes.wait(t, "the end of the interface", func(c host.Change) bool { return !c.TUN.Present })
	}
	if got := k.Status(); got.Restored[host.PartRoute] != 0 || got.TUN.Present || !slices.ContainsFunc(got.Problems, func(s string) bool {
		return strings.Contains(s, "usher0")
	}) {
		t.Errorf("status: %+v", got)
	}
}

// TestKeeperFollowsRealInterface: link down and up, MTU, address late and
// changed, interface renamed, removed and made anew.
func TestKeeperFollowsRealInterface(t *testing.T) {
	n := newNetwork(t)
	makeTUN(t, n.alice)
	changes := newChanges()
	p := ownFlow()
	k := keep(t, n.alice, p, changes.add)
	eventually(t, n.alice, "the set-up", func() error { return stands(p, 1438) })
	eth0 := changes.wait(t, "the first choice", func(c host.Change) bool { return c.Choices[0].Interface.Name == "eth0" })
	index := eth0.Choices[0].Interface.Index

	port := n.alice.Port("eth0")
	run(t, n.Switch(), "ip link set "+port+" down")
	run(t, n.Switch(), "ip link set "+port+" up")
	changes.wait(t, "the link that came back", func(c host.Change) bool {
		return slices.Equal(c.Rejoin, []int{index})
	})

	run(t, n.alice, "ip link set eth0 mtu 1400")
	eventually(t, n.alice, "the tunnel's MTU", func() error { return stands(p, 1338) })

	// Without its address this host is not the sender; the route needs it.
	run(t, n.alice, "ip addr del 10.77.0.11/24 dev eth0")
	changes.wait(t, "the lost address", func(c host.Change) bool { return len(c.Choices[0].Interface.Addrs) == 0 })
	if told := strings.Join(k.Status().Problems, " "); !strings.Contains(told, "no interface of this host holds the address 10.77.0.11") {
		t.Errorf("problems: %s", told)
	}
	run(t, n.alice, "ip addr add 10.77.0.11/24 dev eth0")
	eventually(t, n.alice, "the route's source", func() error { return stands(p, 1338) })
	if told := k.Status().Problems; len(told) != 0 {
		t.Errorf("problems remain: %q", told)
	}

	run(t, n.alice, "ip link set eth0 down; ip link set eth0 name lan0; ip link set lan0 up")
	changes.wait(t, "the new name", func(c host.Change) bool { return c.Choices[0].Interface.Name == "lan0" && c.Choices[0].Interface.Up })

	run(t, n.alice, "ip link del lan0")
	changes.wait(t, "the loss of the interface", func(c host.Change) bool { return errors.Is(c.Choices[0].Err, host.ErrNoInterface) })
	if err := n.alice.Attach("eth0", "10.77.0.11/24"); err != nil {
		t.Fatal(err)
	}
	changes.wait(t, "the interface made anew", func(c host.Change) bool {
		return c.Choices[0].Err == nil && c.Choices[0].Interface.Index != index && c.Choices[0].Interface.Carrier
	})
	eventually(t, n.alice, "the set-up on the new interface", func() error { return stands(p, 1438) })
	for part, times := range k.Status().Restored {
		if part != host.PartRoute && times > 0 {
			t.Errorf("%d times %s counted as removed by another program", times, part)
		}
	}
}

func TestKeeperFollowsRoute(t *testing.T) {
	n := newNetwork(t)
	if err := n.alice.Attach("eth1", "10.78.0.11/24", lab.MTU(1300)); err != nil {
		t.Fatal(err)
	}
	makeTUN(t, n.alice)
	far := flow()
	far.Source = netip.MustParseAddr("192.0.2.9")
	changes := newChanges()
	keep(t, n.alice, plan(far), changes.add)
	changes.wait(t, "the default route", func(c host.Change) bool { return c.Choices[0].Interface.Name == "eth0" })
	run(t, n.alice, "ip route replace default dev eth1")
	got := changes.wait(t, "the other one", func(c host.Change) bool { return c.Choices[0].Interface.Name == "eth1" })
	if got.Choices[0].Why != "the default route leads there" {
		t.Errorf("why: %s", got.Choices[0].Why)
	}
	eventually(t, n.alice, "the MTU", func() error {
		if link, err := netlink.LinkByName(tunName); err != nil || link.Attrs().MTU != host.TunnelMTU(1300) {
			return fmt.Errorf("%v, %w", link, err)
		}
		return nil
	})
}

// TestKeeperSetsPlansWhileRunning: the ticket changes, the guard follows.
func TestKeeperSetsPlansWhileRunning(t *testing.T) {
	n := newNetwork(t)
	makeTUN(t, n.alice)
	k := keep(t, n.alice, plan(), nil)
	for i := range 5 {
		f := flow()
		f.FirstPort, f.LastPort = uint16(6000+i), uint16(6000+i)
		inside(t, n.alice, func() error {
			if err := k.Set(t.Context(), plan(f)); err != nil {
				return err
			}
			if err := sendByEth0(f.FirstPort - 1); err != nil {
				return fmt.Errorf("the last plan's port is still refused: %w", err)
			}
			return stands(plan(f), 1438)
		})
	}
	bad := flow()
	bad.Destination = netip.MustParseAddr("10.0.0.1")
	if err := k.Set(t.Context(), plan(bad)); !errors.Is(err, host.ErrNotInThisVersion) {
		t.Errorf("a unicast flow: %v", err)
	}
	inside(t, n.alice, func() error {
		if got := k.Status(); got.Restored[host.PartGuard] != 0 || got.Guard.Elements != 1 {
			t.Errorf("status: %+v, restored %v", got.Guard, got.Restored)
		}
		return nil
	})
}

// changes collects what a keeper reports.
type changes struct {
	mu  sync.Mutex
	all []host.Change // guarded by mu
}

func newChanges() *changes { return &changes{} }

func (c *changes) add(change host.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, change)
}

// wait returns the first change that is as wanted, and forgets those up to it.
func (c *changes) wait(t *testing.T, what string, wanted func(host.Change) bool) host.Change {
	t.Helper()
	var found host.Change
	err := lab.Within(patience, what, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, change := range c.all {
			if wanted(change) {
				found, c.all = change, c.all[i+1:]
				return nil
			}
		}
		return fmt.Errorf("changes so far: %+v", c.all)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
