package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/scripts/lab"
)

const patience = 10 * time.Second

func TestHostsReachEachOtherAndNothingElse(t *testing.T) {
	l := lab.ForTest(t)
	alice := l.TestHost(t, "alice", "10.77.0.11/24")
	bob := l.TestHost(t, "bob", "10.77.0.12/24")

	file := filepath.Join(l.Dir(), "bridge.pcap")
	capture, err := l.Capture(t.Context(), l.Switch(), lab.DefaultBridge, file, "udp port 7")
	if err != nil {
		t.Fatal(err)
	}
	var server net.PacketConn
	if err := bob.Do(func() error {
		server, err = net.ListenPacket("udp4", "10.77.0.12:7")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := alice.Do(func() error {
		client, err := net.Dial("udp4", "10.77.0.12:7")
		if err != nil {
			return err
		}
		defer client.Close()
		_, err = client.Write([]byte("here"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := server.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, from, err := server.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "here" || !strings.HasPrefix(from.String(), alice.Addr().String()+":") {
		t.Fatalf("bob got %q from %v, %v", buf[:n], from, err)
	}
	if err := capture.Stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tcpdump", "-nr", file).Output(); err != nil || strings.Count(string(out), "10.77.0.12.7: UDP") != 1 {
		t.Errorf("the capture holds %q, %v", out, err)
	}
	if _, err := net.InterfaceByName(alice.Port("eth0")); err == nil {
		t.Error("a port of the switch is in the machine's own network")
	}
}

func TestHostHasFoldersOfItsOwn(t *testing.T) {
	l := lab.ForTest(t)
	alice, bob := l.TestHost(t, "alice", ""), l.TestHost(t, "bob", "")
	for _, dir := range []string{"/run/usher", "/etc/usher", "/var/lib/usher", "/var/lib/usher-server"} {
		file := dir + "/whose"
		if _, err := alice.Run(t.Context(), "sh", "-c", "echo alice > "+file); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(alice.Path(file)); err != nil || string(got) != "alice\n" {
			t.Errorf("from outside %s reads %q, %v", file, got, err)
		}
		if out, err := bob.Run(t.Context(), "cat", file); err == nil {
			t.Errorf("bob reads alice's %s: %q", file, out)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s is on the machine itself", file)
		}
	}
	if out, err := alice.Run(t.Context(), "cat", "/etc/passwd"); err != nil || !strings.HasPrefix(out, "root:") {
		t.Errorf("the machine's /etc/passwd is not there: %q, %v", out, err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := alice.Run(t.Context(), "pwd"); err != nil || strings.TrimSpace(out) != here {
		t.Errorf("a command starts in %q, %v; want %s", out, err, here)
	}
	if out, err := alice.Run(t.Context(), "ls", "/sys/class/net"); err != nil || out != "eth0\nlo\n" {
		t.Errorf("/sys shows the interfaces %q, %v", out, err)
	}
}

// TestSnoopingKeepsGroupFromOthers is what the demo's outsider rests on: the
// switch knows group and source, and gives the stream to who asked only.
func TestSnoopingKeepsGroupFromOthers(t *testing.T) {
	l := lab.ForTest(t)
	alice, bob := l.TestHost(t, "alice", "10.77.0.11/24"), l.TestHost(t, "bob", "10.77.0.12/24")
	carol := l.TestHost(t, "carol", "10.77.0.13/24")
	group := net.IPv4(232, 1, 2, 3)
	var member *net.UDPConn
	if err := alice.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		member, err = net.ListenMulticastUDP("udp4", ifi, &net.UDPAddr{IP: group, Port: 5004})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	err := lab.Within(patience, "alice's group at the switch", func() error {
		out, err := l.Switch().Run(t.Context(), "bridge", "mdb", "show")
		if err == nil && !strings.Contains(out, "port p-alice grp 232.1.2.3") {
			err = fmt.Errorf("mdb: %s", out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	out, err := l.Switch().Run(t.Context(), "ip", "-d", "link", "show", "br0")
	if err != nil || !strings.Contains(out, "mcast_igmp_version 3") || !strings.Contains(out, "mcast_querier 1") {
		t.Errorf("bridge: %s, %v", out, err)
	}
	// A new bridge floods for a second; by the kernel's defaults it were ten.
	if err := lab.Within(5*time.Second, "a switch that does not flood", func() error {
		capture, err := l.Capture(t.Context(), bob, "eth0", filepath.Join(l.Dir(), "bob.pcap"), "udp port 5004")
		if err != nil {
			return err
		}
		if err := carol.Do(func() error {
			conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: carol.Addr().AsSlice()}, &net.UDPAddr{IP: group, Port: 5004})
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("for alice"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := capture.Stop(); err != nil {
			return err
		}
		if out, err := exec.Command("tcpdump", "-nr", capture.File()).Output(); err != nil || len(out) > 0 {
			return errors.Join(fmt.Errorf("bob is given %q", out), err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 16)
	if err := member.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := member.Read(buf); err != nil || string(buf[:n]) != "for alice" {
		t.Errorf("alice got %q, %v", buf[:n], err)
	}
}

func TestDoBringsThreadBack(t *testing.T) {
	l := lab.ForTest(t)
	alice := l.TestHost(t, "alice", "10.77.0.11/24")
	names := func() string {
		ifs, err := net.Interfaces()
		return fmt.Sprint(ifs, err)
	}
	outside := names()
	failure := errors.New("this one")
	for range 50 {
		if err := alice.Do(func() error {
			if names() == outside {
				t.Error("inside, the interfaces are the machine's")
			}
			return failure
		}); !errors.Is(err, failure) {
			t.Fatalf("Do returned %v", err)
		}
		if names() != outside {
			t.Fatal("outside, the interfaces are not the machine's")
		}
	}
}

func TestCloseEndsWhatRunsInside(t *testing.T) {
	lab.NeedRoot(t)
	l, err := lab.New("test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	alice := l.TestHost(t, "alice", "10.77.0.11/24")
	// A process that hides its environment and does not hear SIGTERM.
	cmd := alice.Command(context.Background(), "env", "-i", "sh", "-c", `trap "" TERM; echo up; while :; do read x; done`)
	cmd.Stdin, err = os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process ended with %v", err)
	}
	if _, err := os.Stat(l.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	if _, err := l.Host("bob", ""); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("a closed lab makes a host: %v", err)
	}
}

// TestMain lets the test binary play the program that is killed.
func TestMain(m *testing.M) {
	if prefix := os.Getenv("LAB_TEST_CRASH"); prefix != "" {
		os.Exit(crash(prefix))
	}
	os.Exit(m.Run())
}

func crash(prefix string) int {
	l, err := lab.New(prefix)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer l.CloseOnSignal()()
	h, err := l.Host("alice", "10.77.0.11/24")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(l.Dir(), h.PID())
	select {}
}

func TestLeftovers(t *testing.T) {
	lab.NeedRoot(t)
	for _, c := range []struct {
		name   string
		signal os.Signal
		left   bool
	}{
		{"interrupted", os.Interrupt, false},
		{"killed", os.Kill, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			prefix := fmt.Sprintf("t%d", os.Getpid())
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "LAB_TEST_CRASH="+prefix)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var dir string
			var holder int
			if _, err := fmt.Fscan(out, &dir, &holder); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // ended by the signal
			exists := func() bool {
				_, dirErr := os.Stat(dir)
				_, holderErr := os.Stat(fmt.Sprintf("/proc/%d/ns/net", holder))
				return dirErr == nil || holderErr == nil
			}
			if exists() != c.left {
				t.Errorf("left behind: %v, want %v", exists(), c.left)
			}
			next, err := lab.New(prefix)
			if err != nil {
				t.Fatal(err)
			}
			if exists() {
				t.Error("the next lab did not clear the leftovers")
			}
			if err := next.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKeep(t *testing.T) {
	lab.NeedRoot(t)
	prefix := fmt.Sprintf("k%d", os.Getpid())
	l, err := lab.New(prefix)
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Sweep(prefix, true)
	alice := l.TestHost(t, "alice", "10.77.0.11/24")
	if err := errors.Join(l.Keep(), l.Close(), lab.Sweep(prefix, false)); err != nil {
		t.Fatal(err)
	}
	enter := strings.TrimPrefix(l.EnterCommand(alice), "sudo ")
	out, err := exec.Command("sh", "-c", enter+" ip -br addr show dev eth0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.77.0.11/24") {
		t.Errorf("%s: %s, %v", enter, out, err)
	}
	if err := lab.Sweep(prefix, true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the kept lab is still there: %v", err)
	}
}

func TestNames(t *testing.T) {
	l := lab.ForTest(t)
	l.TestHost(t, "alice", "")
	for _, name := range []string{"", "alice", "switch", "Bob", "a.b", "../x", "far-too-long-a-name"} {
		if _, err := l.Host(name, ""); !errors.Is(err, lab.ErrName) {
			t.Errorf("host %q: %v", name, err)
		}
	}
}

func TestWithinTellsWhatWasSeenLast(t *testing.T) {
	last := errors.New("still 3 of 4")
	err := lab.Within(time.Millisecond, "four of them", func() error { return last })
	if !errors.Is(err, lab.ErrTimeout) || !errors.Is(err, last) {
		t.Errorf("got %v", err)
	}
}
