package live

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/ipv4"
)

// TestHostTrouble: what may be wrong with a host is told in a sentence, each with
// its own exit status or problem, and the agent runs on and recovers.
func TestHostTrouble(t *testing.T) {
	w := newWorld(t)
	studio := w.station("studio", "10.77.0.2")
	w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}})
	studio.join("News")

	t.Run("two_agents", func(t *testing.T) {
		s := studio.on(t)
		o := s.usher("agent")
		if o.status != 1 || !strings.Contains(o.err, "already running") || !strings.Contains(o.err, fmt.Sprint(s.status().PID)) {
			t.Errorf("a second agent: exit status %d: %s", o.status, o.err)
		}
		if s.agent.ended() {
			t.Error("the first agent ended")
		}
	})
	t.Run("no_agent", func(t *testing.T) {
		s := w.host("alone", "10.77.0.20").on(t)
		for _, command := range []string{"status", "events", "sa", "policy", "up"} {
			s.refused(3, "no_agent", []string{"no agent is running"}, command)
		}
		s.refused(3, "no_agent", []string{"no agent is running"}, "join", "News")
	})
	t.Run("no_right", func(t *testing.T) {
		s := studio.on(t)
		as := func(args ...string) outcome {
			args = append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", w.program("usher")}, args...)
			return ran(t, s.Command(t.Context(), "setpriv", args...))
		}
		if o := as("status"); o.status != 4 || !strings.Contains(o.err, "you may not talk to the agent") || !strings.Contains(o.err, "/run/usher/agent.sock") {
			t.Errorf("usher status as nobody: exit status %d: %s", o.status, o.err)
		}
		if o := as("agent"); o.status != 4 || !strings.Contains(o.err, "needs root") {
			t.Errorf("usher agent as nobody: exit status %d: %s", o.status, o.err)
		}
	})
	t.Run("no_such_interface", func(t *testing.T) {
		w.client("odd")
		s := w.host("odd", "10.77.0.21").on(t)
		s.configure("interface = \"eth7\"\n")
		s.start()
		s.login()
		s.usher("join", "--wait", "0s", "News")
		eventually(t, "the problem", func() error {
			for _, p := range s.status().Problems {
				if strings.Contains(p.Text, `"eth7"`) && strings.Contains(p.Text, "eth0") {
					return nil
				}
			}
			return fmt.Errorf("%+v", s.status().Problems)
		})
		s.configure("")
		s.must("up")
		s.plays(studio, "232.1.2.3:5004")
		if p := s.status().Problems; len(p) > 0 || s.status().State != "running" {
			t.Errorf("after the correction: %+v", p)
		}
	})
	t.Run("port_in_use", func(t *testing.T) {
		w.client("taken")
		s := w.host("taken", "10.77.0.22").on(t)
		var other net.PacketConn
		if err := s.Do(func() (err error) {
			other, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", espPort))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		s.start()
		s.login()
		eventually(t, "the problem", func() error {
			st := s.status()
			for _, p := range st.Problems {
				if strings.Contains(p.Text, fmt.Sprint(espPort)) && strings.Contains(p.Text, "in use") && st.State == "failed" {
					return nil
				}
			}
			return fmt.Errorf("%s: %+v", st.State, st.Problems)
		})
		other.Close()
		eventually(t, "the port", func() error {
			if st := s.status(); st.State != "running" {
				return fmt.Errorf("%s: %+v", st.State, st.Problems)
			}
			return nil
		})
	})
	t.Run("ipv6_off", func(t *testing.T) {
		w.client("four")
		s := w.host("four", "10.77.0.23").on(t)
		s.shell("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
		s.start()
		s.login()
		s.join("News")
		player := s.plays(studio, "232.1.2.3:5004")
		sends := studio.on(t).sends('6', 100, "232.1.2.3:5004")
		player.awaits(t, '6', 0)
		player.awaitsMore(t, sends, 50)
		player.awaits(t, '6', sends.halt(t)-1)
		player.unbroken(t, '6')
		if p := s.status().Problems; len(p) > 0 {
			t.Errorf("%+v", p)
		}
	})
}

// TestNothingInTheClear: other programs, the user and the kernel do what they can to
// let an event's packets leave in the clear by the route that the sending host has
// anyway; none does.
func TestNothingInTheClear(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.station("studio", "10.77.0.2"), w.station("viewer", "10.77.0.11")
	mallory := w.host("mallory", "10.77.0.66")
	// Without Usher the kernel would send all multicast by this one.
	studio.shell("ip", "route", "add", "default", "dev", "eth0")
	w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}})
	wire := w.sniffBridge()
	studio.join("News")
	viewer.join("News")
	player := viewer.plays(studio, "232.1.2.3:5004")
	sends := studio.insists('n', 500, "232.1.2.3:5004")
	player.awaits(t, 'n', 0)

	removals := []struct {
		name  string
		args  []string
		check []string // succeeds, and prints this, once all is back
		want  string
	}{
		{"route", []string{"ip", "route", "del", "232.1.2.3"}, []string{"ip", "route", "get", "232.1.2.3"}, "dev usher0"},
		{"guard", []string{"nft", "delete", "table", "inet", "usher"}, []string{"nft", "list", "table", "inet", "usher"}, "232.1.2.3"},
		{"address", []string{"ip", "addr", "flush", "dev", "usher0"}, []string{"ip", "addr", "show", "dev", "usher0"}, "169.254.77.1"},
		{"link_down", []string{"ip", "link", "set", "usher0", "down"}, []string{"ip", "route", "get", "232.1.2.3"}, "dev usher0"},
		{"interface", []string{"ip", "link", "del", "usher0"}, []string{"ip", "route", "get", "232.1.2.3"}, "dev usher0"},
	}
	for _, r := range removals {
		t.Run("removed_"+r.name, func(t *testing.T) {
			s := studio.on(t)
			was := s.status().Guard.Restored
			s.shell(r.args[0], r.args[1:]...)
			eventually(t, "it is back", func() error {
				out, err := s.Run(t.Context(), r.check[0], r.check[1:]...)
				if err == nil && !strings.Contains(out, r.want) {
					err = fmt.Errorf("%s", out)
				}
				return err
			})
			player.awaitsMore(t, sends, 50)
			// A new usher0 is no repair but a new start of the path.
			if now := s.status().Guard.Restored; now <= was && r.name != "interface" {
				t.Errorf("status counts %d repairs, before it were %d", now, was)
			}
			noCleartext(t, wire.File())
		})
	}
	t.Run("killed", func(t *testing.T) {
		s := studio.on(t)
		failed := sends.errors.Load()
		s.agent.end(t, syscall.SIGKILL)
		at, before := sends.sent.Load(), len(seen(t, wire, ""))
		eventually(t, "sent in vain", func() error {
			if n := sends.sent.Load(); n < at+250 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		if n := sends.errors.Load(); n != failed {
			t.Errorf("with the agent dead the application got %d errors", n-failed)
		}
		if n := len(seen(t, wire, "")); n > before {
			t.Errorf("with the agent dead %d packets left", n-before)
		}
		s.start()
		studio.agent = s.agent
		player.awaitsMore(t, sends, 50)
	})
	t.Run("program_names_the_real_interface", func(t *testing.T) {
		s := studio.on(t)
		was := s.status().Guard.RefusedOut
		group := netip.MustParseAddrPort("232.1.2.3:5004")
		const tries = 20
		if err := s.Do(func() error {
			// Bound to the real address, and told to use the real interface.
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: s.Addr().AsSlice()})
			if err != nil {
				return err
			}
			defer c.Close()
			eth0, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			if err := ipv4.NewPacketConn(c).SetMulticastInterface(eth0); err != nil {
				return err
			}
			for n := range tries {
				if _, err := c.WriteToUDPAddrPort(datagram('r', uint32(n)), group); !errors.Is(err, syscall.EPERM) {
					return errors.Join(errors.New("sent by the real interface, and not refused by EPERM"), err)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		guard := s.status().Guard
		if guard.RefusedOut != was+tries || guard.Todo == "" {
			t.Errorf("status counts %d refused after %d, and says %q", guard.RefusedOut, was, guard.Todo)
		}
	})
	t.Run("forged_cleartext", func(t *testing.T) {
		// The other way round: cleartext from the wire, under the sender's address.
		s := viewer.on(t)
		was := s.status().Guard.RefusedIn
		inject := mallory.injector(t)
		const tries = 20
		for n := range tries {
			inject.udp(netip.MustParseAddrPort("10.77.0.2:5004"), netip.MustParseAddrPort("232.1.2.3:5004"), fmt.Appendf(nil, "forged %d", n))
		}
		eventually(t, "the count", func() error {
			if now := s.status().Guard.RefusedIn; now != was+tries {
				return fmt.Errorf("%d after %d", now, was)
			}
			return nil
		})
		player.awaitsMore(t, sends, 50)
		player.mu.Lock()
		defer player.mu.Unlock()
		if player.foreign > 0 {
			t.Errorf("%d foreign datagrams reached the player", player.foreign)
		}
	})
	sends.stop()
	<-sends.done
	t.Run("down", func(t *testing.T) {
		for _, alive := range []bool{true, false} {
			s := viewer.on(t)
			if !alive {
				s.must("up")
				if out := s.shell("ip", "route"); !strings.Contains(out, "usher0") {
					t.Errorf("after usher up there is no route: %s", out)
				}
				s.agent.end(t, syscall.SIGKILL)
			}
			s.must("down")
			if out, err := s.Run(t.Context(), "ip", "link", "show", "usher0"); err == nil {
				t.Errorf("agent alive %t: after usher down: %s", alive, out)
			}
			if out := s.shell("nft", "list", "ruleset"); strings.Contains(out, "usher") {
				t.Errorf("agent alive %t: after usher down: %s", alive, out)
			}
			if out := s.shell("ip", "route", "show", "table", "all"); strings.Contains(out, "232.") || strings.Contains(out, "usher0") {
				t.Errorf("agent alive %t: after usher down: %s", alive, out)
			}
		}
	})
	if err := wire.Stop(); err != nil {
		t.Error(err)
	}
	noCleartext(t, wire.File())
}
