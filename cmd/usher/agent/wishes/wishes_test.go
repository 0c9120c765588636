package wishes_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"usher/cmd/usher/agent/wishes"
	"usher/tunnel/underlay"
)

// The interfaces of the recorded texts.
const (
	tun  = 2
	eth0 = 4
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// recorded reads the texts of a host (Linux 6.18) where sockets had joined, on
// usher0: (192.0.2.7,232.1.2.3) twice, (192.0.2.8,232.1.2.3), (*,232.1.2.5),
// (192.0.2.7,232.1.2.5), (*,224.0.0.251); on an interface with a long name: one
// socket 192.0.2.7 and .8 of 232.1.2.4, one any but 192.0.2.9 of 239.1.2.3.
func recorded(t testing.TB) (groups, sources []byte) {
	t.Helper()
	groups, err := os.ReadFile(filepath.Join("testdata", "igmp"))
	sources, err2 := os.ReadFile(filepath.Join("testdata", "mcfilter"))
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return groups, sources
}

func parse(t testing.TB, groups, sources []byte) wishes.Snapshot {
	t.Helper()
	s, err := wishes.Parse(groups, sources)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParse(t *testing.T) {
	s := parse(t, first(recorded(t)), second(recorded(t)))
	if !s.Marked || s.Names[eth0] != "eth0-long-name" || s.Names[tun] != "usher0" || len(s.Groups) != 10 {
		t.Errorf("%+v", s)
	}
	c := s.Groups[wishes.Place{Interface: tun, Group: addr("232.1.2.3")}]
	want := map[netip.Addr]wishes.SourceCount{addr("192.0.2.7"): {Include: 2}, addr("192.0.2.8"): {Include: 1}}
	if c.Sockets != 3 || !maps.Equal(c.Sources, want) {
		t.Errorf("%+v", c)
	}
	if c := s.Groups[wishes.Place{Interface: eth0, Group: addr("239.1.2.3")}]; c.Sockets != 1 || c.Sources[addr("192.0.2.9")].Exclude != 1 {
		t.Errorf("%+v", c)
	}
}

func first(a, _ []byte) []byte  { return a }
func second(_, b []byte) []byte { return b }

func TestParseRefuses(t *testing.T) {
	groups, sources := recorded(t)
	for name, c := range map[string][2]string{
		"group before an interface": {"title\n\t\t\t\t010000E0     1 0:00000000\t\t0\n", ""},
		"no colon":                  {"title\n1\tlo 1 V3\n", ""},
		"no index":                  {"title\nx\tlo        :     1      V3\n", ""},
		"group is no number":        {"title\n1\tlo        :     1      V3\n\t\t\t\t0100000G     1 0:0\t\t0\n", ""},
		"users are no number":       {"title\n1\tlo        :     1      V3\n\t\t\t\t010000E0     x 0:0\t\t0\n", ""},
		"five fields":               {"", "title\n  1     lo 0xe00000fe 0x7f000001      1\n"},
		"group without 0x":          {"", "title\n  1     lo e00000fe 0x7f000001      1      0\n"},
		"negative count":            {"", "title\n  1     lo 0xe00000fe 0x7f000001     -1      0\n"},
	} {
		s, err := wishes.Parse([]byte(c[0]), []byte(c[1]))
		if !errors.Is(err, wishes.ErrFormat) || s.Groups != nil || !strings.Contains(err.Error(), "/proc/net/") {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	if _, err := wishes.Parse(sources, groups); err == nil {
		t.Error("the files may be exchanged")
	}
}

// own makes what the agent holds: its sockets each hold one of these.
func own(held ...underlay.Membership) wishes.Own {
	sockets := map[underlay.Membership]int{}
	for _, m := range held {
		sockets[underlay.Membership{Group: m.Group, Interface: m.Interface}]++
	}
	return wishes.OwnOf(held, sockets)
}

func membership(group, source string, index int) underlay.Membership {
	return underlay.Membership{Group: addr(group), Source: addr(source), Interface: index}
}

func TestWants(t *testing.T) {
	all := parse(t, first(recorded(t)), second(recorded(t)))
	for name, c := range map[string]struct {
		own  wishes.Own
		want string // of group, source: inside, elsewhere
	}{
		"232.1.2.3 192.0.2.7":   {want: "true false"},
		"232.1.2.3 192.0.2.8":   {want: "true false"},
		"232.1.2.3 192.0.2.6":   {want: "false false"}, // three sockets, three sources counted: none wants any
		"232.1.2.4 192.0.2.7":   {want: "false true"},
		"232.1.2.4 192.0.2.6":   {want: "false false"},
		"232.1.2.5 192.0.2.6":   {want: "true false"}, // any
		"239.1.2.3 192.0.2.6":   {want: "false true"}, // any
		"239.1.2.3 192.0.2.9":   {want: "false false"},
		"239.9.9.9 192.0.2.9":   {want: "false false"},
		"224.0.0.251 1.2.3.4":   {want: "false false"}, // of the link
		"224.0.0.254 127.0.0.1": {want: "false false"}, // the marker
		// What the agent holds itself is nobody's wish; one more is.
		"232.1.2.3 192.0.2.8 ": {own: own(membership("232.1.2.3", "192.0.2.8", tun)), want: "false false"},
		"232.1.2.3 192.0.2.7 ": {own: own(membership("232.1.2.3", "192.0.2.7", tun)), want: "true false"},
		"232.1.2.5 192.0.2.7 ": {own: own(membership("232.1.2.5", "192.0.2.7", tun)), want: "true false"}, // by any
	} {
		s := wishes.NewState("usher0")
		s.Observe(all, true, c.own)
		f := strings.Fields(name)
		inside, elsewhere := s.Wants(addr(f[0]), addr(f[1]))
		if got := fmt.Sprint(inside, elsewhere); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

// host is texts made up: sockets and source counts of groups on interfaces.
func host(t testing.TB, lines ...string) wishes.Snapshot {
	t.Helper()
	groups, sources := "title\n", "title\n"
	for _, l := range lines {
		var name, group string
		var index, users int
		if _, err := fmt.Sscan(l, &index, &name, &group, &users); err != nil {
			t.Fatal(err)
		}
		g := addr(group).As4()
		groups += fmt.Sprintf("%d\t%-10s:     1      V3\n\t\t\t\t%02X%02X%02X%02X %5d 0:00000000\t\t0\n", index, name, g[3], g[2], g[1], g[0], users)
		for _, s := range strings.Fields(l)[4:] { // source:include:exclude
			var include, exclude int
			at, counts, _ := strings.Cut(s, ":")
			if _, err := fmt.Sscanf(counts, "%d:%d", &include, &exclude); err != nil {
				t.Fatal(err)
			}
			sources += fmt.Sprintf("%3d %6.6s 0x%x 0x%x %6d %6d\n", index, name, g, addr(at).As4(), include, exclude)
		}
	}
	return parse(t, []byte(groups), []byte(sources))
}

// TestAgentJoinedToo: while the agent is joined at the same place, what is left
// over its own count is a program's.
func TestAgentJoinedToo(t *testing.T) {
	s := wishes.NewState("usher0")
	group, source := addr("232.1.2.3"), addr("10.77.0.2")
	mine := own(membership("232.1.2.3", "10.77.0.2", 7), membership("232.1.2.3", "10.77.0.2", 2))
	for _, c := range []struct {
		snapshot wishes.Snapshot
		want     [2]bool
	}{
		{host(t, "2 eth0 232.1.2.3 1 10.77.0.2:1:0", "7 usher0 232.1.2.3 1 10.77.0.2:1:0"), [2]bool{false, false}},
		{host(t, "2 eth0 232.1.2.3 1 10.77.0.2:1:0", "7 usher0 232.1.2.3 2 10.77.0.2:2:0"), [2]bool{true, false}},
		{host(t, "2 eth0 232.1.2.3 2 10.77.0.2:2:0", "7 usher0 232.1.2.3 2 10.77.0.2:2:0"), [2]bool{true, true}},
		{host(t, "2 eth0 232.1.2.3 2 10.77.0.2:1:0", "7 usher0 232.1.2.3 1 10.77.0.2:1:0"), [2]bool{false, true}},
		{host(t, "2 eth0 232.1.2.3 1", "7 usher0 232.1.2.3 1"), [2]bool{false, false}}, // sources do not show
		{host(t, "2 eth0 232.1.2.3 2", "7 usher0 232.1.2.3 1"), [2]bool{false, true}},
		{host(t), [2]bool{false, false}}, // both interfaces are gone
	} {
		s.Observe(c.snapshot, true, mine)
		if inside, elsewhere := s.Wants(group, source); [2]bool{inside, elsewhere} != c.want {
			t.Errorf("%+v: %v %v, want %v", c.snapshot.Groups, inside, elsewhere, c.want)
		}
	}
}

// TestUnsettled: from counts that moved while they were read, nobody leaves.
func TestUnsettled(t *testing.T) {
	s := wishes.NewState("usher0")
	wants := func(group string) bool {
		inside, _ := s.Wants(addr(group), addr("10.77.0.2"))
		return inside
	}
	s.Observe(host(t, "7 usher0 232.1.2.3 1 10.77.0.2:1:0"), true, wishes.Own{})
	s.Observe(host(t, "7 usher0 232.1.2.4 1 10.77.0.2:1:0"), false, wishes.Own{})
	if !wants("232.1.2.3") || !wants("232.1.2.4") {
		t.Error("a join was missed, or a leave believed")
	}
	s.Observe(host(t, "7 usher0 232.1.2.4 1 10.77.0.2:1:0"), true, wishes.Own{})
	if wants("232.1.2.3") || !wants("232.1.2.4") {
		t.Error("a leave was missed")
	}
}

func message(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReports: where counts leave open whether somebody wants any source, the last
// report tells.
func TestReports(t *testing.T) {
	open := host(t, "7 usher0 239.1.2.3 2 10.77.0.2:1:0 10.77.0.3:1:0")
	s := wishes.NewState("usher0")
	wanted := func() bool {
		s.Observe(open, true, wishes.Own{})
		inside, _ := s.Wants(addr("239.1.2.3"), addr("10.77.0.4"))
		return inside
	}
	if wanted() {
		t.Error("taken for any without a report")
	}
	toExclude, toInclude := message(t, "2200 e8f9 0000 0001 04000000 ef010203"), message(t, "2200 e9f9 0000 0001 03000000 ef010203")
	if !s.Report(toExclude) || !wanted() {
		t.Error("any source was reported")
	}
	if !s.Report(toInclude) || wanted() {
		t.Error("any source was left")
	}
	s.Report(toExclude)
	if s.ReportsLost(); wanted() {
		t.Error("lost reports are believed")
	}
	s.Report(toExclude)
	open = host(t, "9 usher0 239.1.2.3 2 10.77.0.2:1:0 10.77.0.3:1:0")
	if wanted() {
		t.Error("reports of an interface that is gone are believed")
	}
	for text, want := range map[string]bool{
		"1600 f8fa ef010203": true, "1700 f7fa ef010203": true, "1200 fcfa ef010203": true,
		"1600 0904 e00000fb":                    false, // of the link
		"2200 f8fe 0000 0001 04000000 e00000fb": false,
		"1100 eeff 00000000":                    false, // a query
		"1600 f8fb ef010203":                    false, // damaged
		"":                                      false,
	} {
		if got := s.Report(message(t, text)); got != want {
			t.Errorf("report %s: %v", text, got)
		}
	}
}

// TestRead: a snapshot is one that was seen twice.
func TestRead(t *testing.T) {
	groups, sources := recorded(t)
	lacks := []byte(strings.Replace(string(groups), "\t\t\t\t030201E8     3 0:00000000\t\t0\n", "", 1))
	if len(lacks) == len(groups) {
		t.Fatal("the recorded text has changed")
	}
	reads := 0
	reader := wishes.Reader{ReadFile: func(name string) ([]byte, error) {
		if strings.HasSuffix(name, "mcfilter") {
			return sources, nil
		}
		if reads++; reads == 1 {
			return lacks, nil
		}
		return groups, nil
	}}
	s, settled, err := reader.Read()
	if err != nil || !settled || s.Groups[wishes.Place{Interface: tun, Group: addr("232.1.2.3")}].Sockets != 3 || reads != 3 {
		t.Errorf("%+v, %v, %v after %d reads", s, settled, err, reads)
	}
	reader.ReadFile = func(name string) ([]byte, error) {
		if strings.HasSuffix(name, "mcfilter") {
			return sources, nil
		}
		if reads++; reads%2 == 0 {
			return lacks, nil
		}
		return groups, nil
	}
	if _, settled, err := reader.Read(); err != nil || settled {
		t.Errorf("settled %v, %v, though no two are equal", settled, err)
	}
	reader.ReadFile = func(string) ([]byte, error) { return nil, os.ErrPermission }
	if _, _, err := reader.Read(); !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v", err)
	}
}

func TestInbox(t *testing.T) {
	wake := make(chan struct{}, 1)
	box := wishes.NewInbox(wake)
	big := make([]byte, 9000)
	put := func() {
		box.Put([]byte("one"))
		box.Put([]byte("two"))
		box.Put(big)
		box.Put(big) // finds no room
	}
	if n := testing.AllocsPerRun(100, put); n != 0 {
		t.Errorf("%v allocations", n)
	}
	box.Take(func([]byte) {})
	for range 3 { // the room is used again
		put()
		var got []string
		if lost := box.Take(func(m []byte) { got = append(got, fmt.Sprint(len(m))) }); !lost || strings.Join(got, " ") != "3 3 9000" {
			t.Errorf("%v, lost %v", got, lost)
		}
		if lost := box.Take(func([]byte) { t.Error("told twice") }); lost {
			t.Error("lost twice")
		}
	}
	if len(wake) != 1 {
		t.Error("nobody was woken")
	}
}

// FuzzParse: whatever the kernel's files hold, it is understood whole or refused.
func FuzzParse(f *testing.F) {
	groups, sources := recorded(f)
	seeds := 0
	for n := 0; n < len(groups); n += 9 {
		f.Add(groups[:n], sources)
		f.Add(groups, sources[:min(n, len(sources))])
		seeds += 2
	}
	if seeds < 80 {
		f.Fatalf("%d seeds: the corpus is gone", seeds)
	}
	f.Fuzz(func(t *testing.T, groups, sources []byte) {
		s, err := wishes.Parse(groups, sources)
		if err != nil {
			if s.Groups != nil {
				t.Fatalf("%v with %+v", err, s)
			}
			return
		}
		state := wishes.NewState("usher0")
		state.Observe(s, true, wishes.Own{})
		for at, c := range s.Groups {
			for source, n := range c.Sources {
				inside, elsewhere := state.Wants(at.Group, source)
				if want := n.Include > 0 && wishes.Mirrored(at.Group); want && !inside && !elsewhere {
					t.Fatalf("%v includes %v, which nobody wants: %+v", at, source, s)
				}
				if !wishes.Mirrored(at.Group) && (inside || elsewhere) {
					t.Fatalf("%v is mirrored", at)
				}
			}
		}
	})
}
