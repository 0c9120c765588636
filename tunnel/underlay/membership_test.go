package underlay_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"usher/scripts/lab"
	"usher/tunnel/underlay"
)

func indexOf(t *testing.T, h *lab.Host, name string) (index int) {
	t.Helper()
	err := h.Do(func() error {
		link, err := net.InterfaceByName(name)
		if err == nil {
			index = link.Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// memberships counts the kernel's (S,G) entries of the host.
func memberships(t *testing.T, h *lab.Host) int {
	t.Helper()
	out, err := h.Run(context.Background(), "cat", "/proc/net/mcfilter")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(out, "0xe8") // groups of 232/8
}

func sockets(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// 200 groups on two interfaces under the kernel's default limits; joining again
// is nothing, leaving frees everything, and a set changes only what differs.
func TestManyGroups(t *testing.T) {
	h := lab.ForTest(t).TestHost(t, "alice", "10.77.0.1/24")
	if _, err := h.Run(context.Background(), "ip", "link", "add", "usher0", "type", "veth", "peer", "name", "nobody"); err != nil {
		t.Fatalf("no second interface: %v", err)
	}
	if _, err := h.Run(context.Background(), "ip", "link", "set", "usher0", "up"); err != nil {
		t.Fatal(err)
	}
	eth0, usher0 := indexOf(t, h, "eth0"), indexOf(t, h, "usher0")
	source := netip.MustParseAddr("10.77.0.9")
	before := sockets(t)
	m := underlay.NewMemberships()
	var want []underlay.Membership
	for i := range 200 {
		want = append(want, underlay.Membership{Group: netip.AddrFrom4([4]byte{232, 5, 0, byte(i)}), Source: source, Interface: []int{eth0, usher0}[i%2]})
	}
	err := h.Do(func() error {
		for range 2 {
			for _, w := range want {
				if err := m.Join(w.Group, w.Source, w.Interface); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := memberships(t, h); n != 200 || len(m.List()) != 200 {
		t.Errorf("%d memberships in the kernel, %d listed", n, len(m.List()))
	}
	if n := sockets(t) - before; n != 10 {
		t.Errorf("%d sockets for 200 groups", n)
	}
	for i := range 50 {
		if err := m.Leave(want[i].Group, want[i].Source, want[i].Interface); err != nil {
			t.Fatal(err)
		}
	}
	if n := memberships(t, h); n != 150 {
		t.Errorf("%d memberships after 50 were left", n)
	}
	if err := h.Do(func() error { return m.Set(want[:120]) }); err != nil {
		t.Fatal(err)
	}
	if n := memberships(t, h); n != 120 || len(m.List()) != 120 {
		t.Errorf("%d memberships in the kernel, %d listed, of a set of 120", n, len(m.List()))
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if n, left := memberships(t, h), sockets(t)-before; n != 0 || left != 0 {
		t.Errorf("%d memberships, %d sockets after Close", n, left)
	}
}

// Several sources of a group, more than one socket may have; and any source
// beside them.
func TestManySources(t *testing.T) {
	h := lab.ForTest(t).TestHost(t, "alice", "10.77.0.1/24")
	eth0 := indexOf(t, h, "eth0")
	m := underlay.NewMemberships()
	defer m.Close()
	err := h.Do(func() error {
		for i := range 25 {
			if err := m.Join(group, netip.AddrFrom4([4]byte{10, 77, 1, byte(i + 1)}), eth0); err != nil {
				return err
			}
		}
		return m.Join(group, netip.Addr{}, eth0)
	})
	if err != nil {
		t.Fatal(err)
	}
	// The kernel takes ten sources for a group and socket, and any source for none
	// that has some: it counts four users, and so does Sockets.
	out, err := h.Run(context.Background(), "cat", "/proc/net/igmp")
	if err != nil {
		t.Fatal(err)
	}
	held := m.Sockets()[underlay.Membership{Group: group, Interface: eth0}]
	if held != 4 || len(m.Sockets()) != 1 || !strings.Contains(out, fmt.Sprintf("%08X     %d ", binary.NativeEndian.Uint32(group.AsSlice()), held)) {
		t.Errorf("%d sockets hold the group, the kernel has\n%s", held, out)
	}
	if err := m.Leave(group, netip.Addr{}, eth0); err != nil {
		t.Error(err)
	}
	if n := memberships(t, h); n != 25 {
		t.Errorf("%d sources in the kernel", n)
	}
}

// What fails says why, and leaves nothing behind.
func TestJoinRefused(t *testing.T) {
	l := lab.ForTest(t)
	h := l.TestHost(t, "alice", "10.77.0.1/24")
	eth0 := indexOf(t, h, "eth0")
	source := netip.MustParseAddr("10.77.0.9")
	before := sockets(t)
	m := underlay.NewMemberships()
	for _, c := range []struct {
		group, source netip.Addr
		index         int
		want          error
		says          string
	}{
		{group, source, 4242, underlay.ErrNoInterface, "4242"},
		{group, source, 0, underlay.ErrNoInterface, "names none"},
		{source, source, eth0, underlay.ErrNotMulticast, "10.77.0.9"},
		{netip.MustParseAddr("ff3e::8000:1"), netip.MustParseAddr("2001:db8::1"), eth0, underlay.ErrFamily, "not in this version"},
		{netip.Addr{}, source, eth0, underlay.ErrNotMulticast, ""},
	} {
		err := h.Do(func() error { return m.Join(c.group, c.source, c.index) })
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("join (%v,%v) on %d: %v", c.source, c.group, c.index, err)
		}
	}
	if sockets(t) != before || len(m.List()) != 0 || memberships(t, h) != 0 {
		t.Error("a failed join left something behind")
	}
	if err := m.Leave(group, source, eth0); err != nil {
		t.Errorf("leave of nothing: %v", err)
	}
	if _, err := h.Run(context.Background(), "sysctl", "-qw", "net.ipv4.igmp_max_memberships=0"); err != nil {
		t.Fatal(err)
	}
	err := h.Do(func() error { return m.Join(group, source, eth0) })
	if !errors.Is(err, underlay.ErrTooManyGroups) || !strings.Contains(err.Error(), "igmp_max_memberships") {
		t.Errorf("beyond the limit: %v", err)
	}
	if sockets(t) != before {
		t.Error("a failed join left a socket behind")
	}
}

// An interface that is gone takes its memberships along, but not their places:
// what follows it finds room, and none is counted twice.
func TestInterfaceGone(t *testing.T) {
	l := lab.ForTest(t)
	h := l.TestHost(t, "alice", "10.77.0.1/24")
	source := netip.MustParseAddr("10.77.0.9")
	m := underlay.NewMemberships()
	defer m.Close()
	for round := range 5 {
		name := fmt.Sprintf("gone%d", round)
		if _, err := h.Run(context.Background(), "ip", "link", "add", name, "type", "veth", "peer", "name", name+"x"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Run(context.Background(), "ip", "link", "set", name, "up"); err != nil {
			t.Fatal(err)
		}
		index := indexOf(t, h, name)
		var want []underlay.Membership
		for i := range 19 {
			want = append(want, underlay.Membership{Group: netip.AddrFrom4([4]byte{232, 6, 0, byte(i)}), Source: source, Interface: index})
		}
		// One that stays keeps the first socket alive.
		want = append(want, underlay.Membership{Group: group, Source: source, Interface: indexOf(t, h, "eth0")})
		if err := h.Do(func() error { return m.Set(want) }); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if n := memberships(t, h); n != 20 {
			t.Errorf("round %d: %d memberships", round, n)
		}
		if _, err := h.Run(context.Background(), "ip", "link", "del", name); err != nil {
			t.Fatal(err)
		}
	}
}
