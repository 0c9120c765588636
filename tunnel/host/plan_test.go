package host_test

import (
	"errors"
	"net/netip"
	"testing"

	"usher/tunnel/host"
)

func TestValidate(t *testing.T) {
	change := func(f func(*host.Flow)) host.Plan {
		one := flow()
		f(&one)
		return plan(one)
	}
	for _, c := range []struct {
		name string
		plan host.Plan
		want error
	}{
		{"nothing protected", plan(), nil},
		{"one flow", plan(flow()), nil},
		{"any source", change(func(f *host.Flow) { f.Source = netip.Addr{} }), nil},
		{"every port", change(func(f *host.Flow) { f.FirstPort, f.LastPort = 0, 65535 }), nil},
		{"tcp", change(func(f *host.Flow) { f.Protocol = "tcp" }), host.ErrNotInThisVersion},
		{"no protocol", change(func(f *host.Flow) { f.Protocol = "" }), host.ErrNotInThisVersion},
		{"unicast", change(func(f *host.Flow) { f.Destination = netip.MustParseAddr("10.0.0.1") }), host.ErrNotInThisVersion},
		{"IPv6", change(func(f *host.Flow) { f.Destination = netip.MustParseAddr("ff3e::8000:1") }), host.ErrNotInThisVersion},
		{"no destination", change(func(f *host.Flow) { f.Destination = netip.Addr{} }), host.ErrPlan},
		{"the link's own groups", change(func(f *host.Flow) { f.Destination = netip.MustParseAddr("224.0.0.22") }), host.ErrPlan},
		{"ports backwards", change(func(f *host.Flow) { f.FirstPort = 6000 }), host.ErrPlan},
		{"IPv6 source", change(func(f *host.Flow) { f.Source = netip.MustParseAddr("2001:db8::1") }), host.ErrPlan},
		{"multicast source", change(func(f *host.Flow) { f.Source = group }), host.ErrPlan},
		{"the tunnel's port", change(func(f *host.Flow) { f.FirstPort, f.LastPort = 4500, 4500 }), host.ErrESPPort},
		{"another tunnel's port", host.Plan{Port: 5004, Flows: []host.Flow{flow()}}, host.ErrESPPort},
		{"long name", host.Plan{TUN: "sixteen-letters!"}, host.ErrPlan},
		{"name as path", host.Plan{TUN: "../all"}, host.ErrPlan},
		{"name of all", host.Plan{TUN: "all"}, host.ErrPlan},
		{"itself", host.Plan{RealInterface: "usher0"}, host.ErrPlan},
		{"MTU", host.Plan{MTU: 100}, host.ErrPlan},
		{"address", host.Plan{TUNAddress: netip.MustParsePrefix("10.0.0.1/24")}, host.ErrPlan},
	} {
		if err := c.plan.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if c.want != nil {
			if err := host.Apply(t.Context(), c.plan); !errors.Is(err, c.want) {
				t.Errorf("%s: Apply says %v", c.name, err)
			}
		}
	}
}

// TestTunnelMTU checks the formula by what it stands for: the largest inner
// packet whose outer packet fits, padded to four bytes with a trailer of two.
func TestTunnelMTU(t *testing.T) {
	outer := func(inner int) int {
		const ipv4, udp, spiSequenceIV, trailer, icv = 20, 8, 16, 2, 16
		return ipv4 + udp + spiSequenceIV + (inner+trailer+3)/4*4 + icv
	}
	for _, real := range []int{576, 1280, 1400, 1492, 1496, 1500, 1501, 1502, 1503, 9000} {
		got := host.TunnelMTU(real)
		if outer(got) > real || outer(got+1) <= real {
			t.Errorf("real MTU %d: %d, which makes %d; one more makes %d", real, got, outer(got), outer(got+1))
		}
	}
	if got := host.TunnelMTU(1500); got != 1438 {
		t.Errorf("for Ethernet: %d", got)
	}
}
