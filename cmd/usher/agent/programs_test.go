package agent

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"usher/keyclient"
	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/tunnel/host"
	"usher/tunnel/underlay"
)

func TestPrograms(t *testing.T) {
	other, own := netip.MustParseAddr("10.77.0.4"), netip.MustParseAddr("10.77.0.5")
	video, sound := netip.MustParseAddr("232.7.0.1"), netip.MustParseAddr("232.7.0.2")
	link, unicast := netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("10.77.0.9")
	flow := func(d netip.Addr) keyclient.Flow {
		return keyclient.Flow{Protocol: "udp", Destination: d, FirstPort: 5004, LastPort: 5004}
	}
	entries := []keyclient.Entry{
		{ID: derive.EventID{1}, Senders: []netip.Addr{sender, other, own}, Flows: []keyclient.Flow{flow(video), flow(sound), flow(link), flow(unicast)}},
		{ID: derive.EventID{2}, Senders: []netip.Addr{sender}, Flows: []keyclient.Flow{flow(video)}},
		{ID: derive.EventID{3}, Senders: []netip.Addr{sender}, Flows: []keyclient.Flow{flow(video)}, Refused: errors.New("not in this version")},
	}
	any := func(_, _ netip.Addr) (bool, bool) { return true, false }
	for name, c := range map[string]struct {
		wants func(group, source netip.Addr) (bool, bool)
		want  []program
	}{
		"nobody wants anything": {func(_, _ netip.Addr) (bool, bool) { return false, false }, nil},
		"any source, all groups": {any, []program{
			{derive.EventID{1}, video, sender, false}, {derive.EventID{1}, video, other, false},
			{derive.EventID{1}, sound, sender, false}, {derive.EventID{1}, sound, other, false},
			{derive.EventID{2}, video, sender, false},
		}},
		"one source of one group, on the real interface": {
			func(g, s netip.Addr) (bool, bool) { return false, g == sound && s == other },
			[]program{{derive.EventID{1}, sound, other, true}},
		},
		"a source of no ticket": {func(_, s netip.Addr) (bool, bool) { return s == unicast, false }, nil},
	} {
		got := programs(entries, c.wants, owning(own))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := eventsOf(programs(entries, any, owning(own))); !slices.Equal(got, []derive.EventID{{1}, {2}}) {
		t.Errorf("events %v", got)
	}
}

// TestFollow: what programs want is joined outside, on usher0 only for those that
// joined elsewhere, never twice, and not for an event that is over.
func TestFollow(t *testing.T) {
	two := netip.MustParseAddr("232.7.0.2")
	all := []program{
		{derive.EventID{1}, group, sender, false},
		{derive.EventID{2}, two, sender, true}, {derive.EventID{3}, two, sender, true},
		{derive.EventID{4}, netip.MustParseAddr("232.7.0.4"), sender, true},
		{derive.EventID{5}, netip.MustParseAddr("232.7.0.5"), sender, true},
	}
	event := func(id byte, followed bool, state keyclient.State) keyclient.Event {
		return keyclient.Event{Entry: keyclient.Entry{ID: derive.EventID{id}}, Role: wire.RoleReceive, Followed: followed, State: state}
	}
	events := []keyclient.Event{
		event(1, true, keyclient.StateKeyed), event(2, true, keyclient.StateWaiting), event(3, true, keyclient.StateKeyed),
		event(4, true, keyclient.StateEnded), event(5, false, keyclient.StateKeyed),
	}
	eth0 := host.Interface{Name: "eth0", Index: 3}
	choices := []host.Choice{{Group: group, Source: sender, Interface: eth0}, {Group: two, Source: sender, Interface: eth0}}
	var n need
	n.follow(all, events)
	want, missing := n.memberships(choices, host.TUNState{Present: true, Index: 9})
	if !slices.Equal(want, []underlay.Membership{
		{Group: group, Source: sender, Interface: 3}, {Group: two, Source: sender, Interface: 3}, {Group: two, Source: sender, Interface: 9},
	}) || len(missing) != 0 {
		t.Errorf("memberships %v, missing %v", want, missing)
	}
	// What is joined by hand, too, is joined on usher0 as before.
	n.subscribe(group, sender)
	want, _ = n.memberships(choices, host.TUNState{Present: true, Index: 9})
	if !slices.Equal(want[:2], []underlay.Membership{{Group: group, Source: sender, Interface: 3}, {Group: group, Source: sender, Interface: 9}}) || len(want) != 4 {
		t.Errorf("memberships %v", want)
	}
}
