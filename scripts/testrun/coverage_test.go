package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnproven(t *testing.T) {
	table := filepath.Join(t.TempDir(), "coverage.md")
	text := "| id | what | test |\n" +
		"| F1-01 | stands | `sa.TestPasses` |\n" +
		"| F1-02 | stands | `sa.TestSkipped`, `sa.TestPasses` |\n" +
		"| F1-03 | stands | `sa.TestMissing/with_part` |\n" +
		"| F1-04 | stands | nothing |\n" +
		"| DC-01 | stands | `keyclient/wire.TestFails` |\n"
	if err := os.WriteFile(table, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newResults()
	r.outcome["usher/sa.TestPasses"] = "pass"
	r.outcome["usher/sa.TestSkipped"] = "skip"
	r.outcome["usher/keyclient/wire.TestFails"] = "fail"
	got, err := r.unproven(table)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		":3: F1-02: usher/sa.TestSkipped: skip",
		":4: F1-03: there is no test usher/sa.TestMissing/with_part",
		":5: F1-04 names no test",
		":6: DC-01: usher/keyclient/wire.TestFails: fail",
	}
	if len(got) != len(want) {
		t.Fatalf("got %d lines, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasSuffix(got[i], want[i]) {
			t.Errorf("line %d: got %q, want it to end in %q", i, got[i], want[i])
		}
	}
}

func TestResultsRead(t *testing.T) {
	stream := `{"Action":"output","Package":"usher/x","Test":"TestB","Output":"    x_test.go:9: lacks root\n"}
{"Action":"skip","Package":"usher/x","Test":"TestB"}
{"Action":"pass","Package":"usher/x","Test":"TestA"}
{"Action":"output","Package":"usher/x","Test":"TestC","Output":"    x_test.go:12: wrong\n"}
{"Action":"fail","Package":"usher/x","Test":"TestC"}
{"Action":"fail","Package":"usher/x","Elapsed":1.5}
`
	var out strings.Builder
	r := newResults()
	if err := r.read(strings.NewReader(stream), &out); err != nil {
		t.Fatal(err)
	}
	if r.report(&out) {
		t.Error("a run with a failed test was reported as a success")
	}
	if r.passed != 1 || r.failed != 1 || len(r.skipped) != 1 {
		t.Errorf("got %d passed, %d failed, %d skipped; want one of each", r.passed, r.failed, len(r.skipped))
	}
	for _, want := range []string{"FAIL  usher/x", "x_test.go:12: wrong", "not run: lacks root\n  usher/x.TestB\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
}

func TestSplit(t *testing.T) {
	together, apart, err := split([]string{"-race", "usher/sa", "usher/sa/esp", "usher/scripts/testrun"}, "/sa/esp$")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(together, " "), "-race usher/sa usher/scripts/testrun"; got != want {
		t.Errorf("together: %s, want %s", got, want)
	}
	if got, want := strings.Join(apart, " "), "-race -p=1 usher/sa/esp"; got != want {
		t.Errorf("alone: %s, want %s", got, want)
	}
	if _, apart, err := split([]string{"usher/sa"}, "^$"); err != nil || apart != nil {
		t.Errorf("nothing alone: %v, %v", apart, err)
	}
}
