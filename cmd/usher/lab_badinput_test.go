package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"usher/cmd/usher/control"
	"usher/scripts/lab"
)

// problem looks for a text among the problems that status shows.
func (s *station) problem(text string) func() error {
	return func() error {
		st := read[control.Status](s, "status")
		for _, p := range st.Problems {
			if strings.Contains(p.Text+" "+p.Todo, text) {
				return nil
			}
		}
		return errors.New("problems: " + strings.Join(texts(st.Problems), "; "))
	}
}

func texts(problems []control.Problem) []string {
	var out []string
	for _, p := range problems {
		out = append(out, p.Text)
	}
	return out
}

// well looks for a running agent without problems.
func (s *station) well() error {
	st := read[control.Status](s, "status")
	if st.State != control.StateRunning || len(st.Problems) > 0 {
		return errors.New(string(st.State) + ": " + strings.Join(texts(st.Problems), "; "))
	}
	return nil
}

// pair makes two hosts of which left sends to right by manual keys; the
// receiver's configuration is extra's, in front of the usual one.
func pair(t *testing.T, l *lab.Lab, bin, extra string) (left, right *station) {
	t.Helper()
	left = newStation(t, l, bin, "left", "10.77.0.2/24", manualTOML("send", "receive"))
	right = newStation(t, l, bin, "right", "10.77.0.3/24", extra+manualTOML("receive", "send"))
	for _, s := range []*station{left, right} {
		s.write("left.key", key1+"\n")
		s.write("right.key", key2+"\n")
	}
	return left, right
}

var streamGroup = netip.MustParseAddrPort("232.1.2.3:5004")

// TestNoSuchInterface: the agent stays, says what is missing, keeps cleartext
// in, and goes on when the interface comes.
func TestNoSuchInterface(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	left, right := pair(t, l, bin, "interface = \"lan7\"\n")
	left.start()
	right.start()
	right.eventually("the problem", right.problem("lan7"))
	st := read[control.Status](right, "status")
	if st.State != control.StateFailed || !st.Guard.Active {
		t.Errorf("state %s, guard %+v", st.State, st.Guard)
	}
	// Programs may start before: they lose packets, and get no error.
	program := right.program()
	if _, err := program.WriteToUDPAddrPort([]byte("early"), netip.MustParseAddrPort("232.1.2.4:5004")); err != nil {
		t.Errorf("a program that sends meanwhile: %v", err)
	}
	for _, args := range [][]string{{"link", "set", "eth0", "down"}, {"link", "set", "eth0", "name", "lan7"}, {"link", "set", "lan7", "up"}} {
		if _, err := right.Run(t.Context(), "ip", args...); err != nil {
			t.Fatal(err)
		}
	}
	right.eventually("a running agent", right.well)
	flood(t, left.program(), streamGroup, right.play(streamGroup, left.Addr()))
}

// TestPortTaken: another program has the ESP port. The agent names it, stays,
// and takes the port when it is free.
func TestPortTaken(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	left, right := pair(t, l, bin, "")
	var other *net.UDPConn
	if err := right.Do(func() (err error) {
		other, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 4500})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	left.start()
	right.start()
	right.eventually("the problem", right.problem("4500"))
	if st := read[control.Status](right, "status"); st.State != control.StateFailed || !st.Guard.Active {
		t.Errorf("state %s, guard %+v", st.State, st.Guard)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	right.eventually("a running agent", right.well)
	flood(t, left.program(), streamGroup, right.play(streamGroup, left.Addr()))
}

// TestWithoutIPv6: a host on which IPv6 is switched off plays.
func TestWithoutIPv6(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	left, right := pair(t, l, bin, "")
	for _, s := range []*station{left, right} {
		if _, err := s.Run(t.Context(), "sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"); err != nil {
			t.Fatal(err)
		}
		s.start()
		if err := s.well(); err != nil {
			t.Error(err)
		}
	}
	flood(t, left.program(), streamGroup, right.play(streamGroup, left.Addr()))
}

// TestLinks: what happens to links and addresses while a stream plays. After
// each of it the stream goes on by itself.
func TestLinks(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	left, right := pair(t, l, bin, "")
	left.start()
	right.start()
	program, viewer := left.program(), right.play(streamGroup, left.Addr())
	flood(t, program, streamGroup, viewer)
	for _, tt := range []struct {
		name string
		ip   [][]string
	}{
		{"usher0 removed", [][]string{{"link", "del", "usher0"}}},
		{"usher0 down", [][]string{{"link", "set", "usher0", "down"}}},
		{"cable out and in", [][]string{{"link", "set", "eth0", "down"}, {"link", "set", "eth0", "up"}}},
		{"address removed and added", [][]string{{"addr", "flush", "dev", "eth0"}, {"addr", "add", "10.77.0.3/24", "dev", "eth0"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, args := range tt.ip {
				if _, err := right.Run(t.Context(), "ip", args...); err != nil {
					t.Fatal(err)
				}
			}
			right.eventually("a running agent", right.well)
			flood(t, program, streamGroup, viewer)
		})
	}
	// The sender's usher0, too: its program notices nothing but losses.
	if _, err := left.Run(t.Context(), "ip", "link", "del", "usher0"); err != nil {
		t.Fatal(err)
	}
	left.eventually("a running agent", left.well)
	flood(t, program, streamGroup, viewer)
}

// TestNoRight: who may not open the socket is told so, whatever the command.
func TestNoRight(t *testing.T) {
	lab.NeedRoot(t)
	bin := binary(t)
	dir, err := os.MkdirTemp("", "usher-right-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // a temporary folder
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := dir + "/agent.sock"
	lock, err := control.Acquire(socket)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := lock.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	defer lock.Release() //nolint:errcheck // the test is over
	for _, args := range [][]string{{"status"}, {"events"}, {"join", "x"}, {"leave", "x"}, {"sa"}, {"policy"}, {"up"}, {"down"}, {"logout"}, {"login", "--name", "a", "--password-file", "/dev/null"}} {
		cmd := exec.CommandContext(context.Background(), bin, append([]string{"--socket", socket}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok || e.ExitCode() != exitNoRight {
			t.Errorf("%v: %v", args, err)
		}
		if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); len(lines) != 2 ||
			!strings.HasPrefix(lines[0], "usher: you may not talk to the agent") || !strings.HasPrefix(lines[1], "hint: ") {
			t.Errorf("%v says %s", args, out)
		}
	}
}
