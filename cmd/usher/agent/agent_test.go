package agent_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/cmd/usher/agent"
	"usher/cmd/usher/agent/agenttest"
	"usher/cmd/usher/control"
	"usher/keyclient/clock"
	"usher/scripts/lab"
	"usher/tunnel/host"
	"usher/tunnel/underlay"
	"usher/tunnel/underlay/underlaytest"
)

const patience = 20 * time.Second

// running is an agent that runs on a machine in memory.
type running struct {
	t       *testing.T
	machine *agenttest.Machine
	client  *control.Client
	config  string
	reload  chan os.Signal
	stop    func()
}

// start runs an agent with that configuration until the test ends.
func start(t *testing.T, m *agenttest.Machine, config string) *running {
	t.Helper()
	dir := t.TempDir()
	r := &running{t: t, machine: m, config: filepath.Join(dir, "usher.toml"), reload: make(chan os.Signal, 1)}
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte(strings.Repeat("5a", 36)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.write(config)
	socket := filepath.Join(dir, "agent.sock")
	r.client = control.NewClient(socket)
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan struct{})
	go func() {
		done <- agent.Run(ctx, agent.Options{
			Config: r.config, Socket: socket, Log: slog.New(slog.DiscardHandler), Clock: clock.System(),
			Machine: m, Reload: r.reload, Ready: func() { close(ready) },
		})
	}()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(r.stop)
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	}
	return r
}

func (r *running) write(config string) {
	r.t.Helper()
	dir := filepath.Dir(r.config)
	text := strings.ReplaceAll(config, "KEY", filepath.Join(dir, "key")) + fmt.Sprintf("\n[paths]\nstate = %q\nrun = %q\n", dir+"/state", dir)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) status() *control.Status {
	r.t.Helper()
	s, err := r.client.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *running) eventually(what string, look func() error) {
	r.t.Helper()
	if err := lab.Within(patience, what, look); err != nil {
		r.t.Fatal(err)
	}
}

func machine(n *underlaytest.Network, address string) *agenttest.Machine {
	return agenttest.New(n, netip.MustParsePrefix(address))
}

func manual(direction string) string {
	s := `
[[policy]]
name = "studio"
source = "10.77.0.2"
destination = "232.1.2.3"
ports = "5004"
[[sa]]
policy = "studio"
spi = 0x1000
key_file = "KEY"
direction = "` + direction + "\"\n"
	if direction != "receive" {
		s += "sender_id = 1\n"
	}
	return s
}

// datagram is an IPv4 UDP packet of an application, its UDP checksum left out.
func datagram(source, destination string, port uint16, payload string) []byte {
	p := make([]byte, 28, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 8, 17
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	copy(p[12:], netip.MustParseAddr(source).AsSlice())
	copy(p[16:], netip.MustParseAddr(destination).AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(p[20:], 40000)
	binary.BigEndian.PutUint16(p[22:], port)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	return append(p, payload...)
}

// TestTwoAgents: what one agent's application sends, the other's receives, and
// the network between them sees none of it.
func TestTwoAgents(t *testing.T) {
	n := underlaytest.NewNetwork()
	n.Tap(func(_ *underlay.Batch, d []byte) {
		if bytes.Contains(d, []byte("secret")) {
			t.Error("cleartext is on the wire")
		}
	})
	left, right := start(t, machine(n, "10.77.0.2/24"), manual("send")), start(t, machine(n, "10.77.0.3/24"), manual("receive"))
	want := datagram("10.77.0.2", "232.1.2.3", 5004, "secret")
	right.eventually("the datagram", func() error {
		left.machine.Device().Send(bytes.Clone(want))
		received := right.machine.Device().Received()
		if len(received) == 0 {
			return errors.New("nothing came")
		}
		if !bytes.Equal(received[0], want) {
			t.Fatalf("got %x, want %x", received[0], want)
		}
		return nil
	})
	left.machine.Device().Send(datagram("10.77.0.2", "232.9.9.9", 5004, "secret"))
	left.eventually("the drop", func() error {
		for _, d := range left.status().Drops {
			if d.Reason == "no_selector" && d.Packets > 0 && d.Todo != "" {
				return nil
			}
		}
		return fmt.Errorf("drops %+v", left.status().Drops)
	})
	if s := right.status(); s.Traffic.InPackets == 0 || s.State != control.StateRunning || s.Config.Path != right.config {
		t.Errorf("%+v", s)
	}
	left.stop()
	if left.machine.Plan() == nil {
		t.Error("a stop took the guard down")
	}
}

// TestMove: another interface, and a link that was away: each membership is
// there once, and is renewed only where the network may have forgotten it.
func TestMove(t *testing.T) {
	r := start(t, machine(underlaytest.NewNetwork(), "10.77.0.3/24"), manual("receive"))
	group, source := netip.MustParseAddr("232.1.2.3"), netip.MustParseAddr("10.77.0.2")
	joined := func(index int) func() error {
		return func() error {
			want := map[underlay.Membership]bool{{Group: group, Source: source, Interface: index}: true, {Group: group, Source: source, Interface: agenttest.TUNIndex}: true}
			held := r.machine.Joined()
			for _, m := range held {
				delete(want, m)
			}
			if len(want) > 0 || len(held) != 2 {
				return fmt.Errorf("joined %v", held)
			}
			return nil
		}
	}
	r.eventually("the first join", joined(2))
	if n := r.machine.Renewed(); n != 0 {
		t.Errorf("%d leaves with nothing moved", n)
	}
	eth1 := host.Interface{Name: "eth1", Index: 5, MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix("10.78.0.3/24")}}
	r.machine.Move(eth1)
	r.eventually("the join on the new interface", joined(5))
	if s := r.status(); s.Interface.Real != "eth1" || s.Interface.Why == "" {
		t.Errorf("status %+v", s.Interface)
	}
	r.machine.Move(eth1, 5)
	r.eventually("the renewed join", func() error {
		if r.machine.Renewed() != 1 {
			return fmt.Errorf("%d leaves", r.machine.Renewed())
		}
		return joined(5)()
	})
}

// TestIdle: an agent without login and policies waits, and leaves alone what an
// earlier agent left on the host.
func TestIdle(t *testing.T) {
	m := machine(underlaytest.NewNetwork(), "10.77.0.3/24")
	r := start(t, m, "")
	if s := r.status(); s.State != control.StateIdle || len(s.Problems) > 0 || s.Server != nil {
		t.Errorf("%+v", s)
	}
	if text, err := json.Marshal(r.status()); err != nil || bytes.Contains(text, []byte("null")) {
		t.Errorf("%s, %v: a list that is empty is []", text, err)
	}
	if m.Sets() != 0 || m.Device() != nil {
		t.Error("an idle agent changed the host")
	}
	// Policies come by a reload, and go by the next one; then the host is cleared.
	r.write(manual("receive"))
	r.reload <- os.Interrupt
	r.eventually("a plan", func() error {
		if p := m.Plan(); p == nil || len(p.Flows) != 1 || r.status().State != control.StateRunning {
			return errors.New("none")
		}
		return nil
	})
	r.write("")
	r.reload <- os.Interrupt
	r.eventually("a clear host", func() error {
		if m.Plan() != nil || len(m.Joined()) != 0 || r.status().State != control.StateIdle {
			return errors.New("it is not clear")
		}
		return nil
	})
}

// TestReload: an association that a reload leaves as it is keeps its counters;
// one that it refuses changes nothing.
func TestReload(t *testing.T) {
	n := underlaytest.NewNetwork()
	r := start(t, machine(n, "10.77.0.2/24"), manual("send"))
	sent := func(want uint64) func() error {
		return func() error {
			l, err := r.client.SAs(t.Context(), false)
			if err != nil {
				return err
			}
			if len(l.SAs) != 1 || l.SAs[0].OutPackets != want {
				return fmt.Errorf("%+v", l.SAs)
			}
			return nil
		}
	}
	r.machine.Device().Send(datagram("10.77.0.2", "232.1.2.3", 5004, "x"))
	r.eventually("one packet", sent(1))

	r.write("mtu = 5\n" + manual("send"))
	r.reload <- os.Interrupt
	r.eventually("the refusal", func() error {
		if c := r.status().Config; c.Failed == nil || !strings.Contains(c.Error, ":1: mtu: want 576") {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	r.eventually("one packet still", sent(1))

	r.write("mtu = 1400\n" + manual("send"))
	r.reload <- os.Interrupt
	r.eventually("the reload", func() error {
		if c := r.status().Config; c.Failed != nil {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	r.eventually("the same association", sent(1))
	if p := r.machine.Plan(); p == nil || p.MTU != 1400 {
		t.Errorf("plan %+v", p)
	}
}

// TestFileGone: a reload while the file is away, as between the two steps of an
// editor, lifts nothing.
func TestFileGone(t *testing.T) {
	lab.NeedRoot(t) // only root may say up
	r := start(t, machine(underlaytest.NewNetwork(), "10.77.0.2/24"), manual("send"))
	if err := os.Remove(r.config); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Up(t.Context()); err == nil || !strings.Contains(err.Error(), r.config+" is gone") {
		t.Errorf("up without a file: %v", err)
	}
	if p := r.machine.Plan(); p == nil || len(p.Flows) != 1 || r.status().State != control.StateRunning {
		t.Errorf("plan %+v, %+v", p, r.status())
	}
}

// TestInterfaceGone: up names an interface that does not exist, also where a
// path runs that was opened on another.
func TestInterfaceGone(t *testing.T) {
	lab.NeedRoot(t) // only root may say up
	r := start(t, machine(underlaytest.NewNetwork(), "10.77.0.3/24"), manual("receive"))
	if s := r.status(); s.State != control.StateRunning {
		t.Fatalf("%+v", s)
	}
	r.write("interface = \"nope0\"\n" + manual("receive"))
	if _, err := r.client.Up(t.Context()); err == nil || !strings.Contains(err.Error(), "nope0") {
		t.Errorf("up: %v", err)
	}
	if s := r.status(); s.State != control.StateFailed || len(s.Problems) == 0 || s.Problems[0].Code != "interface" {
		t.Errorf("%+v", s)
	}
	r.write(manual("receive"))
	if _, err := r.client.Up(t.Context()); err != nil {
		t.Error(err)
	}
	if s := r.status(); s.State != control.StateRunning || len(s.Problems) != 0 {
		t.Errorf("%+v", s)
	}
}

// TestStartRefused: a configuration that is wrong at the start ends the agent
// with file, line and key, before it touches the host.
func TestStartRefused(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"u.toml:1: sever: unknown key":          "sever = 1",
		"u.toml:1: guard: \"exact\" is not in ": "guard = \"exact\"",
	} {
		file := filepath.Join(dir, "u.toml")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "KEY", "/none")), 0o600); err != nil {
			t.Fatal(err)
		}
		m := machine(underlaytest.NewNetwork(), "10.77.0.3/24")
		err := agent.Run(t.Context(), agent.Options{Config: file, Socket: filepath.Join(dir, "s"), Log: slog.New(slog.DiscardHandler), Clock: clock.System(), Machine: m})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %s", err, name)
		}
		if m.Sets() != 0 {
			t.Error("it touched the host")
		}
	}
}

// TestMissingKey: a [[sa]] whose key cannot be read costs the agent nothing but
// that key: the policy stands, and its packets are dropped, not sent in the clear.
func TestMissingKey(t *testing.T) {
	m := machine(underlaytest.NewNetwork(), "10.77.0.2/24")
	r := start(t, m, strings.ReplaceAll(manual("send"), "KEY", "/none"))
	if s := r.status(); s.Config.Failed == nil || !strings.Contains(s.Config.Error, "sa[0].key_file: open /none: ") || s.State != control.StateRunning {
		t.Errorf("%+v", s)
	}
	if p := m.Plan(); p == nil || len(p.Flows) != 1 {
		t.Errorf("plan %+v", p)
	}
	m.Device().Send(datagram("10.77.0.2", "232.1.2.3", 5004, "x"))
	r.eventually("the drop", func() error {
		for _, d := range r.status().Drops {
			if d.Reason == "no_sa" {
				return nil
			}
		}
		return fmt.Errorf("drops %+v", r.status().Drops)
	})
}
