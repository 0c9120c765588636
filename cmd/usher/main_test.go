package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"usher/cmd/usher/agent"
	"usher/cmd/usher/agent/agenttest"
	"usher/cmd/usher/control"
	"usher/cmd/usher/controltest"
	"usher/scripts/lab"
	"usher/tunnel/underlay/underlaytest"
)

// TestMain makes this test binary be the commands of the scripts, too: under
// the name usher it is usher.
func TestMain(m *testing.M) {
	// Under the race detector each process sleeps a second at its end.
	if err := os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0")); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	testscript.Main(m, map[string]func(){
		"usher":       main,
		"fakeagent":   fakeAgent,
		"memoryagent": memoryAgent,
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("USHER_SOCKET", e.WorkDir+"/agent.sock")
			e.Setenv("USHER_CONFIG", e.WorkDir+"/usher.toml")
			e.Setenv("TZ", "Europe/Berlin")
			e.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":      exits,
			"eventually": eventually,
			"killed":     killed,
			"waitfor":    waitFor,
			"expand":     expand,
		},
	})
}

// exits runs a command and compares its exit status: exits 3 usher status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND …")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// eventually repeats a command until it succeeds and its output holds a text:
// eventually TEXT usher status.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually TEXT COMMAND …")
	}
	ts.Check(lab.Within(20*time.Second, args[0], func() error {
		if err := ts.Exec(args[1], args[2:]...); err != nil {
			return err
		}
		if out := ts.ReadFile("stdout"); !strings.Contains(out, args[0]) {
			return fmt.Errorf("got %s", out)
		}
		return nil
	}))
}

// waitFor waits for a file: waitfor agent.sock.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfor FILE")
	}
	ts.Check(lab.Within(20*time.Second, args[0], func() error {
		_, err := os.Stat(ts.MkAbs(args[0]))
		return err
	}))
}

// expand replaces $WORK in files by the script's folder: expand FILE ….
func expand(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		text := strings.ReplaceAll(ts.ReadFile(name), "$WORK", ts.Getenv("WORK"))
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// gone returns nil when a process has ended, reaped or not.
func gone(pid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	if _, state, _ := strings.Cut(string(text), ") "); strings.HasPrefix(state, "Z") {
		// The first thread may be gone while others still hold files and locks.
		if threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)); err != nil || len(threads) <= 1 {
			return nil
		}
	}
	return fmt.Errorf("process %d runs", pid)
}

// killed sends a signal to the process whose id stands in a file, and waits for
// its end where the signal ends it: killed KILL agent.pid.
func killed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: killed KILL|HUP|TERM PIDFILE")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	sig := map[string]syscall.Signal{"KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}[args[0]]
	ts.Check(syscall.Kill(pid, sig))
	if sig == syscall.SIGHUP {
		return
	}
	ts.Check(lab.Within(20*time.Second, "its end", func() error { return gone(pid) }))
}

// fakeAgent serves a controltest.Fake, as the JSON file in its first argument
// says, until it is interrupted.
func fakeAgent() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := serveFake(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func serveFake(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var f struct {
		controltest.Fake
		Refuse *control.Error
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	if f.Refuse != nil {
		f.Err = f.Refuse
	}
	lock, err := control.Acquire(os.Getenv("USHER_SOCKET"))
	if err != nil {
		return err
	}
	ln, err := lock.Listen()
	if err != nil {
		return err
	}
	return control.NewServer(&f.Fake, slog.New(slog.DiscardHandler)).Serve(ctx, ln)
}

// memoryAgent is "usher agent" on a machine in memory: no root, no TUN.
func memoryAgent() {
	h := system()
	h.agent = func(ctx context.Context, o agent.Options) error {
		o.Machine = agenttest.New(underlaytest.NewNetwork(), netip.MustParsePrefix("10.77.0.2/24"))
		if err := os.WriteFile("agent.pid", []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			return err
		}
		return agent.Run(ctx, o)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, append([]string{"agent"}, os.Args[1:]...), h))
}
