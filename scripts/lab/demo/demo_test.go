package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"usher/scripts/lab"
)

// TestDemo runs the whole demo once. Each claim that it makes is a subtest, so that
// docs/coverage.md can name it.
func TestDemo(t *testing.T) {
	lab.NeedRoot(t)
	out := t.TempDir()
	figures, err := play(t.Context(), options{out: out}, testWriter{t})
	if err != nil {
		showLogs(t, out)
		t.Fatal(err)
	}
	if len(figures.Claims) < 10 {
		t.Fatalf("the demo made %d claims, want all of them", len(figures.Claims))
	}
	for _, claim := range figures.Claims {
		t.Run(claim.Name, func(t *testing.T) {
			t.Logf("%s: %s", claim.Text, claim.Seen)
			if !claim.Held {
				t.Error("did not hold")
			}
		})
	}
	if t.Failed() {
		showLogs(t, out)
	}
	t.Run("a_picture_for_each_host", func(t *testing.T) {
		for _, name := range []string{"sender", "alice", "bob", "carol", "mallory"} {
			text, err := os.ReadFile(filepath.Join(out, name+".svg"))
			if err != nil {
				t.Error(err)
			} else if !strings.Contains(string(text), "</svg>") || len(text) < 5000 {
				t.Errorf("%s.svg has %d bytes: there is nothing in it", name, len(text))
			}
		}
	})
}

func TestOutFolderOfOthersIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(file, []byte("three years"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := prepareOut(dir); !errors.Is(err, errNotOurs) {
		t.Errorf("a folder with a thesis: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	ours := filepath.Join(t.TempDir(), "new", "folder")
	for range 2 {
		if err := prepareOut(ours); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(ours, "old.svg"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// showLogs prints what the programs said, for a failure on a machine that nobody
// can look at.
func showLogs(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		const most = 8000
		t.Logf("%s:\n%s", filepath.Base(file), text[max(0, len(text)-most):])
	}
}

// testWriter is the progress of a demo in a test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// TestInterruptRemovesEverything interrupts a demo in the middle of its stream.
func TestInterruptRemovesEverything(t *testing.T) {
	lab.NeedRoot(t)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "usher/scripts/lab/demo", "usher/cmd/usher", "usher/cmd/usher-server")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	out := filepath.Join(dir, "out")
	command := exec.CommandContext(t.Context(), filepath.Join(dir, "demo"), "--bin", dir, "--out", out)
	progress, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(progress)
	interrupted := false
	for lines.Scan() {
		if strings.Contains(lines.Text(), "ffmpeg starts") {
			interrupted = true
			if err := command.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := command.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 || !interrupted {
		t.Errorf("interrupted %v, ended with %v; want exit status 130", interrupted, err)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pictures and logs are still there: %v", err)
	}
	// Whatever ran in the lab had the folder of the programs in its command line.
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		line, err := os.ReadFile(process)
		if err == nil && strings.Contains(string(line), dir) {
			t.Errorf("still running: %s", strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
}
