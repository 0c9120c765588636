package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"usher/cmd/usher/agent/config"
	"usher/cmd/usher/control"
	"usher/keyclient"
	"usher/keyclient/wire"
	"usher/tunnel/host"
	"usher/tunnel/underlay"
)

// need is all that shall stand on the host, worked out from configuration,
// tickets and joins alone.
type need struct {
	plan     host.Plan
	receives []subscription
	follows  []following
	problems []control.Problem
}

// subscription is one (source, group) that the host wants from the network.
type subscription struct{ group, source netip.Addr }

// following is one that programs want. Those that joined on usher0 get it there by
// themselves; for those that joined elsewhere the agent has to join there, too.
type following struct {
	subscription
	elsewhere bool
}

// empty tells that there is nothing to protect.
func (n *need) empty() bool { return len(n.plan.Flows) == 0 }

// plan works out what shall stand. owns tells whether an address is this host's.
func plan(c *config.Config, entries []keyclient.Entry, events []keyclient.Event, owns func(netip.Addr) bool) need {
	n := need{plan: host.Plan{
		TUN: config.TUN, MTU: c.MTU, RealInterface: c.Interface, Port: c.Port, Mark: mark,
	}}
	for i := range c.Policies {
		p := &c.Policies[i]
		f := host.Flow{Protocol: p.Protocol, Destination: p.Destination.Addr(), FirstPort: p.Ports.First, LastPort: p.Ports.Last}
		if p.Source.IsValid() && p.Source.IsSingleIP() {
			f.Source = p.Source.Addr()
		}
		n.add(fmt.Sprintf("policy %q", p.Name), f, owns)
		for j := range c.SAs {
			if c.SAs[j].Policy == p.Name && c.SAs[j].Direction != config.DirectionSend {
				n.subscribe(f.Destination, f.Source)
			}
		}
	}
	for _, e := range entries {
		for _, f := range flowsOf(e) {
			n.add(fmt.Sprintf("event %q", e.Title), f, owns)
		}
	}
	for _, e := range events {
		if !e.Joined || e.Role != wire.RoleReceive || e.State == keyclient.StateEnded {
			continue
		}
		for _, f := range flowsOf(e.Entry) {
			n.subscribe(f.Destination, f.Source)
		}
	}
	return n
}

// flowsOf are an entry's flows, one for each sender.
func flowsOf(e keyclient.Entry) []host.Flow {
	var out []host.Flow
	for _, f := range e.Flows {
		one := host.Flow{Protocol: f.Protocol, Destination: f.Destination, FirstPort: f.FirstPort, LastPort: f.LastPort}
		if len(e.Senders) == 0 {
			out = append(out, one)
		}
		for _, s := range e.Senders {
			one.Source = s
			out = append(out, one)
		}
	}
	return out
}

// add takes a flow into the plan. One that the host cannot guard or steer is
// left out, by name: it must not take the others with it.
func (n *need) add(whose string, f host.Flow, owns func(netip.Addr) bool) {
	if slices.Contains(n.plan.Flows, f) {
		return
	}
	alone := n.plan
	alone.Flows = []host.Flow{f}
	alone.MTU = 0
	alone.RealInterface = ""
	if err := alone.Validate(); err != nil {
		n.problems = append(n.problems, control.Problem{
			Code: "flow", Text: fmt.Sprintf("%s is not protected: %v", whose, err),
			Todo: "do not send or play it on this host; tell who made it",
		})
		return
	}
	n.plan.Flows = append(n.plan.Flows, f)
	if f.Source.IsValid() && owns(f.Source) && !slices.Contains(n.plan.OwnSources, f.Source) {
		n.plan.OwnSources = append(n.plan.OwnSources, f.Source)
	}
}

func (n *need) subscribe(group, source netip.Addr) {
	s := subscription{group: group, source: source}
	if !slices.Contains(n.receives, s) {
		n.receives = append(n.receives, s)
	}
}

// memberships are the joins that the subscriptions need: on the real interface
// of each, so that the network delivers, and on usher0, for programs that joined
// elsewhere (docs/design.md §3, "Membership").
func (n *need) memberships(choices []host.Choice, tun host.TUNState) (want []underlay.Membership, missing []subscription) {
	add := func(s subscription, inside bool) {
		i := slices.IndexFunc(choices, func(c host.Choice) bool { return c.Group == s.group && c.Source == s.source && c.Err == nil })
		if i < 0 {
			missing = append(missing, s)
		} else {
			want = append(want, underlay.Membership{Group: s.group, Source: s.source, Interface: choices[i].Interface.Index})
		}
		if tun.Present && inside {
			want = append(want, underlay.Membership{Group: s.group, Source: s.source, Interface: tun.Index})
		}
	}
	for _, s := range n.receives {
		add(s, true)
	}
	for i, f := range n.follows {
		same := func(o following) bool { return o.subscription == f.subscription }
		if !slices.Contains(n.receives, f.subscription) && !slices.ContainsFunc(n.follows[:i], same) {
			add(f.subscription, f.elsewhere)
		}
	}
	return want, missing
}

// samePlan tells whether two plans ask for the same.
func samePlan(a, b host.Plan) bool {
	return a.TUN == b.TUN && a.TUNAddress == b.TUNAddress && a.MTU == b.MTU && a.RealInterface == b.RealInterface &&
		a.Port == b.Port && a.Mark == b.Mark && slices.Equal(a.Flows, b.Flows) && slices.Equal(a.OwnSources, b.OwnSources)
}
