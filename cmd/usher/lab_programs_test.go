package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"usher/cmd/usher/control"
	"usher/scripts/lab"
	"usher/server"
	"usher/server/store"
)

// joining is a way in which programs join: on a socket of that host.
type joining func(s *station, c *net.UDPConn, group, source netip.Addr) error

// joinAny names no interface, as ffmpeg with sources= does.
func joinAny(_ *station, c *net.UDPConn, group, source netip.Addr) error {
	return ipv4.NewPacketConn(c).JoinSourceSpecificGroup(nil, &net.UDPAddr{IP: group.AsSlice()}, &net.UDPAddr{IP: source.AsSlice()})
}

// joinAnySource names neither an interface nor a source.
func joinAnySource(_ *station, c *net.UDPConn, group, _ netip.Addr) error {
	return ipv4.NewPacketConn(c).JoinGroup(nil, &net.UDPAddr{IP: group.AsSlice()})
}

// joinAddress names the real interface by its address, as ffmpeg with localaddr= does.
func joinAddress(s *station, c *net.UDPConn, group, source netip.Addr) error {
	// struct ip_mreq_source of Linux: group, interface, source (ip(7)).
	var request []byte
	for _, a := range []netip.Addr{group, s.Addr(), source} {
		request = append(request, a.AsSlice()...)
	}
	return setOption(c, unix.IP_ADD_SOURCE_MEMBERSHIP, string(request))
}

// joinOn names an interface by its index.
func joinOn(name string) joining {
	return func(_ *station, c *net.UDPConn, group, source netip.Addr) error {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		return ipv4.NewPacketConn(c).JoinSourceSpecificGroup(link, &net.UDPAddr{IP: group.AsSlice()}, &net.UDPAddr{IP: source.AsSlice()})
	}
}

func setOption(c *net.UDPConn, option int, value string) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	return errors.Join(raw.Control(func(fd uintptr) { set = unix.SetsockoptString(int(fd), unix.SOL_IP, option, value) }), set)
}

// watch starts a player that joins in that way. Several may use one port.
func (s *station) watch(group netip.AddrPort, source netip.Addr, join joining) *player {
	s.t.Helper()
	var p player
	if err := s.Do(func() error {
		shared := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			var set error
			err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return errors.Join(err, set)
		}}
		c, err := shared.ListenPacket(context.Background(), "udp4", group.String())
		if err != nil {
			return err
		}
		p.conn = c.(*net.UDPConn)
		return join(s, p.conn, group.Addr(), source)
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.conn.Close() })
	return &p
}

// end ends the program.
func (p *player) end(t *testing.T) {
	t.Helper()
	if err := p.conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// forwards are the lines of the switch's table by which it sends a group to a host.
func forwards(t *testing.T, l *lab.Lab, s *station, group netip.Addr) (lines []string) {
	t.Helper()
	table, err := l.Switch().Run(t.Context(), "bridge", "mdb", "show")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(table) {
		if strings.Contains(line, "port "+s.Port("eth0")+" ") && strings.Contains(line, "grp "+group.String()+" ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// followed waits until the switch sends a group to the host, or no longer does, and
// the agent says why.
func (s *station) followed(l *lab.Lab, title string, group netip.Addr, byCommand, byProgram bool) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s: joined by usher join %v, by a program %v", title, byCommand, byProgram), func() error {
		lines := forwards(s.t, l, s, group)
		for _, e := range read[control.Events](s, "events").Events {
			if e.Title != title {
				continue
			}
			some := byCommand || byProgram
			if e.Joined != byCommand || e.Program != byProgram || e.Role != "receive" || (e.Keys > 0) != some || (len(lines) > 0) != some {
				return fmt.Errorf("%+v, the switch has %q", e, lines)
			}
			return nil
		}
		return errors.New("no such event")
	})
}

// stream sends numbered datagrams until it is stopped; a player that loses none
// gets them in a row.
func stream(t *testing.T, from *net.UDPConn, group netip.AddrPort) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(4 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
			if _, err := from.WriteToUDPAddrPort([]byte(strconv.Itoa(i)), group); err != nil {
				done <- err
				return
			}
		}
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("a sending program got an error: %v", err)
		}
	}
}

// number is that of the next datagram of a stream.
func (p *player) number(t *testing.T) int {
	t.Helper()
	b, err := p.next(patience)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestProgramsJoin: what an ordinary program joins, in whatever way, is received
// where a ticket allows it, for as long as some program or usher join wants it.
func TestProgramsJoin(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	m := newManagement(t, l)
	m.people("News", "left", "right")
	left := m.newMember(l, bin, "left", "10.77.0.2/24")
	m.event("Match", "News", "232.1.2.3", left.Addr(), soon(2*time.Second), time.Hour, "left")
	match := netip.MustParseAddrPort("232.1.2.3:5004")
	right := m.newMember(l, bin, "right", "10.77.0.3/24")
	left.must("login", "--name", "left", "--password-file", "/etc/usher/password")

	// A program that watches on the sender's own host makes it no sender.
	local := left.watch(match, left.Addr(), joinAny)
	right.followed(l, "Match", match.Addr(), false, false)
	program := left.program()
	if e := left.onlyEvent(); e.Joined || e.Program || e.Keys > 0 {
		t.Errorf("a viewer on the sender's host made of it %+v", e)
	}
	local.end(t)
	left.must("join", "Match")
	defer stream(t, program, match)()

	for name, join := range map[string]joining{
		"any interface": joinAny, "any source": joinAnySource, "address": joinAddress, "index": joinOn("eth0"), "usher0": joinOn("usher0"),
	} {
		t.Run(name, func(t *testing.T) {
			right, begun := right.on(t), time.Now()
			p := right.watch(match, left.Addr(), join)
			before := p.number(t)
			right.followed(l, "Match", match.Addr(), false, true)
			if lines := forwards(t, l, right, match.Addr()); len(lines) == 0 || !strings.Contains(strings.Join(lines, "\n"), "src "+left.Addr().String()) {
				t.Errorf("the switch has %q, want a line for the source", lines)
			}
			if out := right.must("status"); !strings.Contains(out, "Match (you receive): keyed") || !strings.Contains(out, "joined by a program") {
				t.Errorf("status says %s", out)
			}
			if n := p.number(t); n <= before {
				t.Errorf("number %d after %d", n, before)
			}
			playing, ending := time.Since(begun), time.Now()
			p.end(t)
			right.followed(l, "Match", match.Addr(), false, false)
			t.Logf("played and seen after %v, left after %v", playing, time.Since(ending))
		})
	}
	t.Run("two programs", func(t *testing.T) {
		right := right.on(t)
		stays, elsewhere, inside := right.watch(match, left.Addr(), joinAny), right.watch(match, left.Addr(), joinOn("eth0")), right.watch(match, left.Addr(), joinAnySource)
		want := stays.number(t)
		elsewhere.number(t)
		inside.number(t)
		// Each of the others quits; what stays gets every datagram meanwhile.
		quits := map[int]*player{want + 200: elsewhere, want + 700: inside}
		for end := want + 1500; want < end; {
			want++
			if got := stays.number(t); got != want {
				t.Fatalf("number %d, want %d", got, want)
			}
			if p := quits[want]; p != nil {
				p.end(t)
			}
		}
		right.followed(l, "Match", match.Addr(), false, true)
		stays.end(t)
		right.followed(l, "Match", match.Addr(), false, false)
	})
	t.Run("join and program", func(t *testing.T) {
		right := right.on(t)
		p := right.watch(match, left.Addr(), joinAny)
		right.followed(l, "Match", match.Addr(), false, true)
		right.must("join", "Match")
		right.followed(l, "Match", match.Addr(), true, true)
		want := p.number(t)
		if out := right.must("leave", "Match"); !strings.Contains(out, "Match: left; a program on this host") {
			t.Errorf("leave says %s", out)
		}
		right.followed(l, "Match", match.Addr(), false, true)
		right.must("join", "Match")
		for range 500 {
			want++
			if got := p.number(t); got != want {
				t.Fatalf("number %d, want %d", got, want)
			}
		}
		// While the agent is joined on usher0 itself, the program's leave makes no report.
		p.end(t)
		right.followed(l, "Match", match.Addr(), true, false)
		right.must("leave", "Match")
		right.followed(l, "Match", match.Addr(), false, false)
	})
	t.Run("no ticket", func(t *testing.T) {
		right := right.on(t)
		other := netip.MustParseAddrPort("232.9.9.9:5004")
		right.watch(other, left.Addr(), joinOn("usher0"))
		right.watch(match, netip.MustParseAddr("10.77.0.99"), joinAny)
		right.watch(netip.MustParseAddrPort("224.0.0.251:5353"), left.Addr(), joinOn("usher0"))
		p := right.watch(match, left.Addr(), joinAny)
		right.followed(l, "Match", match.Addr(), false, true)
		if lines := forwards(t, l, right, other.Addr()); len(lines) > 0 {
			t.Errorf("a group of no ticket is joined outside: %q", lines)
		}
		if lines := strings.Join(forwards(t, l, right, match.Addr()), "\n"); strings.Contains(lines, "10.77.0.99") {
			t.Errorf("a source of no ticket is joined outside: %s", lines)
		}
		held, err := right.Run(t.Context(), "cat", "/proc/net/igmp")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(held, "FB0000E0") != 1 {
			t.Errorf("a group of the link is mirrored:\n%s", held)
		}
		p.end(t)
		right.followed(l, "Match", match.Addr(), false, false)
	})

	// A new agent finds what programs joined under the one before.
	p := right.watch(match, left.Addr(), joinAny)
	p.number(t)
	right.kill()
	right.start()
	right.followed(l, "Match", match.Addr(), false, true)
	for last, n := p.number(t), 0; n < last+500; n = p.number(t) {
		continue // until one of two seconds later
	}
	p.end(t)
	right.followed(l, "Match", match.Addr(), false, false)
}

// on gives the station to a subtest, which starts and kills no agent there.
func (s *station) on(t *testing.T) *station { return &station{Host: s.Host, t: t, bin: s.bin} }

// onlyEvent is the one event of the host's tickets.
func (s *station) onlyEvent() control.Event {
	s.t.Helper()
	all := read[control.Events](s, "events").Events
	if len(all) != 1 {
		s.t.Fatalf("events %+v", all)
	}
	return all[0]
}

// TestProgramsRefusedEvent: what this host cannot be keyed for is not joined
// outside either.
func TestProgramsRefusedEvent(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	m := newManagement(t, l)
	m.people("News", "left", "right")
	left, good := netip.MustParseAddr("10.77.0.2"), netip.MustParseAddrPort("232.1.2.4:5004")
	m.event("Good", "News", "232.1.2.4", left, soon(2*time.Second), time.Hour, "left")
	m.flows("Bad", "News", left, soon(2*time.Second), "udp/232.1.2.3/6000")
	right := m.newMember(l, bin, "right", "10.77.0.3/24")
	config, err := os.ReadFile(right.Path("/etc/usher/usher.toml"))
	if err != nil {
		t.Fatal(err)
	}
	right.write("usher.toml", "port = 6000\n"+string(config))
	right.kill()
	right.start()
	bad, c := netip.MustParseAddr("232.1.2.3"), right.program() // the port itself is the agent's
	if err := right.Do(func() error { return joinOn("usher0")(right, c, bad, left) }); err != nil {
		t.Fatal(err)
	}
	right.watch(good, left, joinAny)
	right.followed(l, "Good", good.Addr(), false, true)
	for _, e := range read[control.Events](right, "events").Events {
		if e.Title == "Bad" && (e.Refused == "" || e.Program || e.Keys > 0) {
			t.Errorf("%+v", e)
		}
	}
	if lines := forwards(t, l, right, bad); len(lines) > 0 {
		t.Errorf("the switch has %q", lines)
	}
}

// flows adds an event of several flows that nobody sends.
func (m *management) flows(title, group string, source netip.Addr, start time.Time, flows ...string) {
	m.t.Helper()
	spec := server.DefaultEventSpec()
	spec.Title, spec.Group, spec.Senders = title, group, []netip.Addr{source}
	for _, text := range flows {
		f, err := server.ParseFlow(text)
		if err != nil {
			m.t.Fatal(err)
		}
		spec.Flows = append(spec.Flows, f)
	}
	spec.KeyServers = []string{m.config.KeyURL()}
	spec.Initial = 2 * time.Second
	spec.Time = store.TimeExpression{Start: start.UTC().Format("20060102T150405Z"), Duration: "PT1H"}
	m.update(func(ctx context.Context, tx store.Tx) error {
		_, err := server.AddEvent(ctx, tx, spec, time.Now())
		return err
	})
}

// TestProgramsOlderQuerier: where the network asks by IGMPv2, the host falls back
// to it by itself, and programs' joins and leaves are followed all the same.
func TestProgramsOlderQuerier(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	for _, args := range [][]string{
		{"link", "set", lab.DefaultBridge, "down"},
		{"link", "set", lab.DefaultBridge, "type", "bridge", "mcast_igmp_version", "2"},
		{"link", "set", lab.DefaultBridge, "up"},
	} {
		if _, err := l.Switch().Run(t.Context(), "ip", args...); err != nil {
			t.Fatal(err)
		}
	}
	m := newManagement(t, l)
	m.people("News", "left", "right")
	left := m.newMember(l, bin, "left", "10.77.0.2/24")
	m.event("Match", "News", "232.1.2.3", left.Addr(), soon(2*time.Second), time.Hour, "left")
	match := netip.MustParseAddrPort("232.1.2.3:5004")
	right := m.newMember(l, bin, "right", "10.77.0.3/24")
	left.must("login", "--name", "left", "--password-file", "/etc/usher/password")
	left.must("join", "Match")
	right.eventually("the fall back to IGMPv2", func() error {
		text, err := right.Run(t.Context(), "cat", "/proc/net/igmp")
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if strings.Contains(line, "eth0") && strings.Contains(line, "V2") {
				return nil
			}
		}
		return errors.New(text)
	})
	defer stream(t, left.program(), match)()
	for _, join := range []joining{joinAny, joinOn("eth0")} {
		p := right.watch(match, left.Addr(), join)
		p.number(t)
		right.followed(l, "Match", match.Addr(), false, true)
		right.must("join", "Match")
		p.end(t)
		right.followed(l, "Match", match.Addr(), true, false)
		right.must("leave", "Match")
		right.followed(l, "Match", match.Addr(), false, false)
	}
}

// TestProgramsManyGroups: 200 groups under the kernel's default limits.
func TestProgramsManyGroups(t *testing.T) {
	const groups, perSocket = 200, 20
	l, bin := lab.ForTest(t), binary(t)
	m := newManagement(t, l)
	m.people("News", "right")
	source := netip.MustParseAddr("10.77.0.2")
	var flows []string
	var all []netip.Addr
	for i := range groups {
		g := netip.AddrFrom4([4]byte{232, 5, 0, byte(i + 1)})
		all = append(all, g)
		flows = append(flows, fmt.Sprintf("udp/%s/5004", g))
	}
	start := soon(2 * time.Second)
	for i := 0; i < groups; i += perSocket {
		m.flows(fmt.Sprintf("Bouquet %d", i/perSocket), "News", source, start, flows[i:i+perSocket]...)
	}
	right := m.newMember(l, bin, "right", "10.77.0.3/24")
	joined := func(want int) func() error {
		return func() error {
			table, err := l.Switch().Run(t.Context(), "bridge", "mdb", "show")
			if err != nil {
				return err
			}
			n := 0
			for _, g := range all {
				if strings.Contains(table, "port "+right.Port("eth0")+" grp "+g.String()+" ") {
					n++
				}
			}
			if n != want {
				return fmt.Errorf("the switch has %d groups, want %d", n, want)
			}
			return nil
		}
	}
	var sockets []*net.UDPConn
	for i := 0; i < groups; i += perSocket {
		c := right.program()
		sockets = append(sockets, c)
		if err := right.Do(func() error {
			for _, g := range all[i : i+perSocket] {
				if err := joinAny(right, c, g, source); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	right.eventually("200 groups", joined(groups))
	if st := read[control.Status](right, "status"); len(st.Problems) > 0 {
		t.Errorf("%+v", st.Problems)
	}
	for _, c := range sockets[:5] {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	right.eventually("100 groups", joined(groups/2))
	for _, c := range sockets[5:] {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	right.eventually("no groups", joined(0))
}
