package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
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
