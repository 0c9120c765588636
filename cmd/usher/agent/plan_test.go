package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"usher/cmd/usher/agent/config"
	"usher/keyclient"
	"usher/keyclient/wire"
	"usher/tunnel/host"
	"usher/tunnel/underlay"
)

var (
	sender = netip.MustParseAddr("10.77.0.2")
	group  = netip.MustParseAddr("232.1.2.3")
)

func entry(title string, destination string, first, last uint16) keyclient.Entry {
	return keyclient.Entry{Title: title, Senders: []netip.Addr{sender},
		Flows: []keyclient.Flow{{Protocol: "udp", Destination: netip.MustParseAddr(destination), FirstPort: first, LastPort: last}}}
}

func owning(own netip.Addr) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return a == own }
}

func emptyConfig(t *testing.T) *config.Config {
	t.Helper()
	c, err := config.Parse("f", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPlanOfTickets: every entry of a held ticket is guarded and routed, joined
// or not; only joined ones are received. What cannot be protected is named, and
// takes nothing with it.
func TestPlanOfTickets(t *testing.T) {
	match, feed := entry("Match", "232.1.2.3", 5004, 5004), entry("Feed", "232.1.2.4", 5000, 5010)
	entries := []keyclient.Entry{match, feed, entry("Local", "224.0.0.9", 5004, 5004), entry("Port", "232.1.2.5", 4500, 4500), entry("Six", "ff3e::1", 5004, 5004)}
	events := []keyclient.Event{
		{Entry: match, Joined: true, Role: wire.RoleReceive, State: keyclient.StateWaiting},
		{Entry: feed, Joined: true, Role: wire.RoleSend, State: keyclient.StateKeyed},
		{Entry: entry("Over", "232.1.2.9", 1, 2), Joined: true, Role: wire.RoleReceive, State: keyclient.StateEnded},
	}
	n := plan(emptyConfig(t), entries, events, owning(sender))
	var flows []string
	for _, f := range n.plan.Flows {
		flows = append(flows, f.String())
	}
	if want := []string{"udp 232.1.2.3:5004 from 10.77.0.2", "udp 232.1.2.4:5000-5010 from 10.77.0.2"}; !slices.Equal(flows, want) {
		t.Errorf("flows %q, want %q", flows, want)
	}
	if !slices.Equal(n.plan.OwnSources, []netip.Addr{sender}) {
		t.Errorf("own sources %v", n.plan.OwnSources)
	}
	if !slices.Equal(n.receives, []subscription{{group, sender}}) {
		t.Errorf("receives %v", n.receives)
	}
	if len(n.problems) != 3 {
		t.Fatalf("problems %+v", n.problems)
	}
	for i, name := range []string{"Local", "Port", "Six"} {
		if !strings.Contains(n.problems[i].Text, name) {
			t.Errorf("problem %d does not name %s: %s", i, name, n.problems[i].Text)
		}
	}
	if n := plan(emptyConfig(t), entries, events, owning(group)); len(n.plan.OwnSources) != 0 {
		t.Errorf("a host without the sender's address: own sources %v", n.plan.OwnSources)
	}
	if n := plan(emptyConfig(t), nil, nil, owning(sender)); !n.empty() {
		t.Errorf("nothing to protect, but %v", n.plan.Flows)
	}
}

func TestMemberships(t *testing.T) {
	n := need{receives: []subscription{{group, sender}, {group, netip.Addr{}}}}
	choices := []host.Choice{
		{Group: group, Source: sender, Interface: host.Interface{Name: "eth1", Index: 3}},
		{Group: group, Err: host.ErrNoInterface},
	}
	want, missing := n.memberships(choices, host.TUNState{Present: true, Index: 9})
	if !slices.Equal(want, []underlay.Membership{{Group: group, Source: sender, Interface: 3}, {Group: group, Source: sender, Interface: 9}, {Group: group, Interface: 9}}) {
		t.Errorf("memberships %v", want)
	}
	if !slices.Equal(missing, []subscription{{group: group}}) {
		t.Errorf("missing %v", missing)
	}
	if want, _ := n.memberships(nil, host.TUNState{}); len(want) != 0 {
		t.Errorf("without interfaces: %v", want)
	}
}

func TestPick(t *testing.T) {
	bad := host.Choice{Err: host.ErrNoInterface}
	a := host.Choice{Source: netip.MustParseAddr("10.0.0.1"), Interface: host.Interface{Name: "a", MTU: 9000, Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.1.1/24")}}}
	b := host.Choice{Source: sender, Interface: host.Interface{Name: "b", MTU: 1400, Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.9/24"), netip.MustParsePrefix("10.77.0.2/24")}}}
	if c := pick([]host.Choice{bad, a, b}, nil); c == nil || c.Interface.Name != "a" || addressOf(c).String() != "10.1.1.1" {
		t.Errorf("the first that works: %+v", c)
	}
	if c := pick([]host.Choice{bad, a, b}, []netip.Addr{sender}); c == nil || c.Interface.Name != "b" || addressOf(c) != sender {
		t.Errorf("the one that is sent by: %+v", c)
	}
	if c := pick([]host.Choice{bad}, nil); c != nil {
		t.Errorf("none works: %+v", c)
	}
	if got := tunMTU([]host.Choice{bad, a, b}, &a); got != host.TunnelMTU(1400) {
		t.Errorf("MTU %d", got)
	}
	if got := tunMTU(nil, nil); got != host.TunnelMTU(1500) {
		t.Errorf("MTU without an interface %d", got)
	}
}

func TestPlainErrors(t *testing.T) {
	for text, want := range map[string]string{
		"keyclient: no such event":                        "no such event",
		"agent: open: device: in use: sa: x":              "open: in use: x",
		"refused by the server: 403":                      "refused by the server: 403",
		"keyclient: refused by the server: wire: bad: 10": "refused by the server: bad: 10",
	} {
		if got := plain(errText(text)); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

type errText string

func (e errText) Error() string { return string(e) }
