package sa_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"usher/sa"
)

func TestSelectorMatches(t *testing.T) {
	full := eventPolicy().Selector
	for _, tc := range []struct {
		name   string
		change func(s *sa.Selector, t *sa.Tuple)
		want   bool
	}{
		{"as it is", func(*sa.Selector, *sa.Tuple) {}, true},
		{"another port", func(_ *sa.Selector, p *sa.Tuple) { p.DestinationPort = 5005 }, false},
		{"another protocol", func(_ *sa.Selector, p *sa.Tuple) { p.Protocol = 6 }, false},
		{"another group", func(_ *sa.Selector, p *sa.Tuple) { p.Destination = netip.MustParseAddr("232.1.2.4") }, false},
		{"another source", func(_ *sa.Selector, p *sa.Tuple) { p.Source = viewer }, false},
		{"any source", func(s *sa.Selector, p *sa.Tuple) { s.Source, p.Source = netip.Prefix{}, viewer }, true},
		{"no ports where one is asked", func(_ *sa.Selector, p *sa.Tuple) { p.HasPorts, p.SourcePort, p.DestinationPort = false, 0, 0 }, false},
		{"no ports where none is asked", func(s *sa.Selector, p *sa.Tuple) { p.HasPorts, s.DestinationPorts = false, sa.AnyPort }, true},
		{"zero range is any", func(s *sa.Selector, p *sa.Tuple) { s.DestinationPorts, p.DestinationPort = sa.PortRange{}, 9 }, true},
		{"first of a range", func(s *sa.Selector, _ *sa.Tuple) { s.DestinationPorts = sa.PortRange{First: 5004, Last: 5010} }, true},
		{"last of a range", func(s *sa.Selector, _ *sa.Tuple) { s.DestinationPorts = sa.PortRange{First: 5000, Last: 5004} }, true},
		{"beyond a range", func(s *sa.Selector, _ *sa.Tuple) { s.DestinationPorts = sa.PortRange{First: 5000, Last: 5003} }, false},
		{"source port", func(s *sa.Selector, _ *sa.Tuple) { s.SourcePorts = sa.Port(40000) }, true},
		{"another source port", func(s *sa.Selector, _ *sa.Tuple) { s.SourcePorts = sa.Port(40001) }, false},
		{"any protocol", func(s *sa.Selector, p *sa.Tuple) { s.Protocol, p.Protocol, s.DestinationPorts = 0, 1, sa.AnyPort }, true},
		{"prefix", func(s *sa.Selector, _ *sa.Tuple) { s.Destination = netip.MustParsePrefix("232.0.0.0/8") }, true},
	} {
		s, p := full, stream
		tc.change(&s, &p)
		if got := s.Matches(p); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
		db := sa.NewDB()
		policy := eventPolicy()
		policy.Selector = s
		setPolicies(t, db, sa.OriginTicket, policy)
		if got := db.Snapshot().Outbound(p) != nil; got != tc.want {
			t.Errorf("%s: looked up %v, want %v", tc.name, got, tc.want)
		}
		// The other way: what came under the key must be what its policies select.
		// A flow to a group is not turned round.
		if got := install(t, db, params(1)).Matches(p); got != tc.want {
			t.Errorf("%s: inbound %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestBadPolicies(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*sa.Policy)
	}{
		{"no association", func(p *sa.Policy) { p.Association = "" }},
		{"association of a bypass", func(p *sa.Policy) { p.Action = sa.Bypass }},
		{"unknown action", func(p *sa.Policy) { p.Action = 9 }},
		{"unknown direction", func(p *sa.Policy) { p.Direction = 9 }},
		{"unmasked prefix", func(p *sa.Policy) { p.Destination = netip.PrefixFrom(group, 8) }},
		{"IPv4-mapped prefix", func(p *sa.Policy) { p.Destination = netip.MustParsePrefix("::ffff:232.1.2.3/128") }},
		{"two families", func(p *sa.Policy) { p.Source = netip.MustParsePrefix("2001:db8::1/128") }},
		{"ports of ICMP", func(p *sa.Policy) { p.Protocol = 1 }},
		{"ports of any protocol", func(p *sa.Policy) { p.Protocol = 0 }},
		{"empty range", func(p *sa.Policy) { p.DestinationPorts = sa.PortRange{First: 2, Last: 1} }},
	} {
		db := sa.NewDB()
		setPolicies(t, db, sa.OriginTicket, eventPolicy())
		bad := eventPolicy()
		bad.Name = "the-bad-one"
		tc.change(&bad)
		err := db.SetPolicies(sa.OriginTicket, []sa.Policy{bad})
		if !errors.Is(err, sa.ErrBadPolicy) || !strings.Contains(err.Error(), "the-bad-one") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if e := db.Snapshot().Outbound(stream); e == nil || e.Name != "event" {
			t.Errorf("%s: a refused list changed the database", tc.name)
		}
	}
	if err := sa.NewDB().SetPolicies(7, nil); !errors.Is(err, sa.ErrBadPolicy) {
		t.Errorf("unknown origin: %v", err)
	}
}

// TestOrder has RFC 4301 §4.4.1: the first policy that matches decides, and manual ones come first.
func TestOrder(t *testing.T) {
	policy := func(name string, change func(*sa.Policy)) sa.Policy {
		p := eventPolicy()
		p.Name = name
		change(&p)
		return p
	}
	prefix := policy("prefix", func(p *sa.Policy) {
		p.Selector = sa.Selector{Destination: netip.MustParsePrefix("232.0.0.0/8")}
	})
	anyProtocol := policy("any-protocol", func(p *sa.Policy) { p.Selector = sa.Selector{Destination: host(group)} })
	ports := policy("ports", func(p *sa.Policy) { p.DestinationPorts = sa.PortRange{First: 5000, Last: 5010} })
	exact := policy("exact", func(*sa.Policy) {})
	inbound := policy("inbound", func(p *sa.Policy) { p.Direction = sa.Inbound })

	all := []sa.Policy{prefix, anyProtocol, ports, exact}
	for first := range all {
		list := append([]sa.Policy{inbound, all[first]}, all...)
		db := sa.NewDB()
		setPolicies(t, db, sa.OriginTicket, list...)
		if got := db.Snapshot().Outbound(stream); got == nil || got.Name != all[first].Name {
			t.Errorf("%s first: found %v", all[first].Name, got)
		}
		manual := policy("manual", func(p *sa.Policy) { p.Action, p.Association = sa.Bypass, "" })
		setPolicies(t, db, sa.OriginManual, manual)
		if got := db.Snapshot().Outbound(stream); got.Name != "manual" || got.Origin != sa.OriginManual || got.Action != sa.Bypass {
			t.Errorf("beside a manual policy: found %v", got.Policy)
		}
		setPolicies(t, db, sa.OriginManual)
		if got := db.Snapshot().Outbound(stream); got.Name != all[first].Name {
			t.Errorf("after the manual policy: found %v", got.Policy)
		}
	}
}

// TestLookupAgainstOracle compares the index with a walk through the list.
func TestLookupAgainstOracle(t *testing.T) {
	addresses := []netip.Addr{group, netip.MustParseAddr("232.1.2.4"), sender, netip.MustParseAddr("2001:db8::7")}
	prefixes := []netip.Prefix{{}, host(group), host(addresses[1]), host(sender), host(addresses[3]),
		netip.MustParsePrefix("232.1.0.0/16"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8::/32")}
	ranges := []sa.PortRange{sa.AnyPort, {}, sa.Port(5004), sa.Port(5005), {First: 5000, Last: 5004}}
	rapid.Check(t, func(t *rapid.T) {
		var list []sa.Policy
		for i := range rapid.IntRange(0, 200).Draw(t, "policies") {
			p := sa.Policy{Name: fmt.Sprint(i), Association: "a", Selector: sa.Selector{
				Destination: rapid.SampledFrom(prefixes).Draw(t, "destination"),
				Protocol:    rapid.SampledFrom([]uint8{0, 6, 17}).Draw(t, "protocol"),
			}, Direction: rapid.SampledFrom([]sa.Direction{sa.Both, sa.Outbound, sa.Inbound}).Draw(t, "direction")}
			if p.Protocol != 0 {
				p.DestinationPorts = rapid.SampledFrom(ranges).Draw(t, "ports")
				p.SourcePorts = rapid.SampledFrom(ranges).Draw(t, "source ports")
			}
			list = append(list, p)
		}
		db := sa.NewDB()
		if err := db.SetPolicies(sa.OriginTicket, list); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			p := sa.Tuple{
				Source: sender, Destination: rapid.SampledFrom(addresses).Draw(t, "to"),
				Protocol: rapid.SampledFrom([]uint8{1, 6, 17}).Draw(t, "is"),
				HasPorts: rapid.Bool().Draw(t, "has ports"),
			}
			if p.HasPorts {
				p.SourcePort = rapid.SampledFrom([]uint16{0, 5004}).Draw(t, "from port")
				p.DestinationPort = rapid.SampledFrom([]uint16{0, 5000, 5004, 5005}).Draw(t, "to port")
			}
			want := ""
			for i := range list {
				if list[i].Direction != sa.Inbound && list[i].Matches(p) {
					want = list[i].Name
					break
				}
			}
			got := ""
			if e := db.Snapshot().Outbound(p); e != nil {
				got = e.Name
			}
			if got != want {
				t.Fatalf("%+v: policy %q, want %q", p, got, want)
			}
		}
	})
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		sa.AnyPort.String(): "any", sa.Port(5004).String(): "5004", sa.PortRange{First: 1, Last: 9}.String(): "1-9",
		sa.Protect.String(): "protect", sa.Bypass.String(): "bypass", sa.Discard.String(): "discard",
		sa.Both.String(): "both", sa.Outbound.String(): "out", sa.Inbound.String(): "in",
		sa.OriginTicket.String(): "ticket", sa.OriginManual.String(): "manual",
		sa.BySender.String(): "sender", sa.BySequence.String(): "sequence", sa.None.String(): "none",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
