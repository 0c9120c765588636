package host

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"
)

// TestGuardElements: whatever the flows, the elements hold exactly their ports
// less the tunnel's, and no two of them overlap, which the kernel refuses.
func TestGuardElements(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A small space of ports, so that they meet.
		port := rapid.Uint16Range(0, 40)
		groups := []netip.Addr{netip.MustParseAddr("232.0.0.1"), netip.MustParseAddr("232.0.0.2")}
		var p Plan
		p.Port = rapid.SampledFrom([]uint16{0, 7, 40, 4500}).Draw(t, "port")
		p = p.withDefaults()
		want := map[netip.Addr]map[uint16]bool{groups[0]: {}, groups[1]: {}}
		for range rapid.IntRange(0, 8).Draw(t, "flows") {
			a, b := port.Draw(t, "a"), port.Draw(t, "b")
			f := Flow{Protocol: "udp", Destination: rapid.SampledFrom(groups).Draw(t, "group"), FirstPort: min(a, b), LastPort: max(a, b)}
			p.Flows = append(p.Flows, f)
			for n := f.FirstPort; n <= f.LastPort; n++ {
				if n != p.Port {
					want[f.Destination][n] = true
				}
			}
		}
		ports, ranges := guardElements(p)
		for e := range ranges {
			if e.first == e.last {
				t.Fatalf("a range of one port: %v", e)
			}
		}
		for e := range ports {
			if e.first != e.last {
				t.Fatalf("a port that is a range: %v", e)
			}
			ranges[e] = true
		}
		for e := range ranges {
			ours := want[netip.AddrFrom4(e.group)]
			for n := e.first; n <= e.last; n++ {
				if !ours[n] {
					t.Fatalf("port %d of %v is not wanted, or is in two elements: %v", n, e.group, ranges)
				}
				delete(ours, n)
			}
		}
		if len(want[groups[0]])+len(want[groups[1]]) != 0 {
			t.Fatalf("ports without an element: %v", want)
		}
	})
}

func TestDumpTriesAgain(t *testing.T) {
	calls := 0
	got, err := dump(func() (int, error) {
		if calls++; calls < 3 {
			return 1, netlink.ErrDumpInterrupted
		}
		return 2, nil
	})
	if got != 2 || err != nil || calls != 3 {
		t.Errorf("after %d calls: %d, %v", calls, got, err)
	}
	if got, err := dump(func() (int, error) { return 1, netlink.ErrDumpInterrupted }); got != 0 || !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("partial for ever: %d, %v", got, err)
	}
	other := errors.New("other")
	if _, err := dump(func() (int, error) { calls++; return 1, other }); !errors.Is(err, other) || calls != 4 {
		t.Errorf("another error: %v after %d calls", err, calls)
	}
}

func TestSummary(t *testing.T) {
	if got := summary([]string{"a", "b", "a"}); got != "a, b" {
		t.Errorf("got %q", got)
	}
	many := slices.Repeat([]string{"x"}, 3)
	for c := 'a'; c < 'l'; c++ {
		many = append(many, string(c))
	}
	if got := summary(many); got != "x, a, b, c, d, e, f, g, and 4 more" {
		t.Errorf("got %q", got)
	}
}
