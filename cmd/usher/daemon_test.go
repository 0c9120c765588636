package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"usher/scripts/lab"
)

// TestPrepare: no core file, no debugger; two processors at least.
func TestPrepare(t *testing.T) {
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	defer unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) //nolint:errcheck // the test's own process
	if err := prepare(); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || n != 0 {
		t.Errorf("dumpable %d %v", n, err)
	}
	if n := runtime.GOMAXPROCS(0); n < 2 {
		t.Errorf("GOMAXPROCS %d", n)
	}
}

// TestJournal: the journal is written to only where stderr is connected to it,
// not where the variable was inherited.
func TestJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]bool{
		fmt.Sprintf("%d:%d", st.Dev, st.Ino):   true,
		fmt.Sprintf("%d:%d", st.Dev, st.Ino+1): false,
		"":                                     false,
		"1":                                    false,
		"a:b":                                  false,
		"9:9:9 x":                              false,
	} {
		if got := isJournal(f, stream); got != want {
			t.Errorf("%q: %v", stream, got)
		}
	}
	if a := journalKey(nil, slog.String("client_number", "1")); a.Key != "CLIENT_NUMBER" {
		t.Errorf("key %s", a.Key)
	}
	var b bytes.Buffer
	logger(&b, slog.LevelInfo).Debug("not seen")
	logger(&b, slog.LevelDebug).Debug("seen", "a_key", 1)
	if got := b.String(); strings.Contains(got, "not seen") || !strings.Contains(got, "a_key=1") {
		t.Errorf("logged %s", got)
	}
}

// TestReadiness: systemd is told when all stands, and when the agent ends.
func TestReadiness(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	s, _ := pair(t, l, bin, "")
	name := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	s.start()
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 256)
		n, err := socket.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Fatalf("got %q %v, want %s", buf[:n], err, want)
		}
		if want == "READY=1" {
			// Guard and route stand by now.
			if out, err := s.Run(t.Context(), "ip", "route", "show", "dev", "usher0"); err != nil || !strings.Contains(out, "232.1.2.3") {
				t.Errorf("routes at readiness: %s %v", out, err)
			}
			if err := s.cmd.Cancel(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the agent ends with %v", err)
	}
	// What it set up stays.
	if out, err := s.Run(t.Context(), "ip", "route", "show", "dev", "usher0"); err != nil || !strings.Contains(out, "232.1.2.3") {
		t.Errorf("routes after the end: %s %v", out, err)
	}
}
