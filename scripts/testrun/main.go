// Command testrun runs "go test -json" and prints what a person wants to know of
// it: a line a package as it ends, the whole output of what failed, what could
// not be run and why, and the totals. With -coverage it then holds the tests that
// docs/coverage.md names against those that passed.
//
//	go run ./scripts/testrun [-coverage FILE] [-alone REGEXP] -- [go test flags] PACKAGE…
//
// Packages whose path matches -alone run after the others, one at a time: they play
// in real time and want the machine for themselves. It never decides what is
// tested: flags and packages go to "go test" as they are.
// Exit status 1 if a test failed, if a named test did not pass, or, where CI=true,
// if a test was skipped.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// errFailed says that the run is not a success; everything has been printed.
var errFailed = errors.New("tests failed")

func main() {
	coverage := flag.String("coverage", "", "hold the tests that this table names against those that passed")
	alone := flag.String("alone", "^$", "run packages whose path matches `REGEXP` after the others, one at a time")
	flag.Parse()
	err := run(os.Stdout, *coverage, *alone, flag.Args(), os.Getenv("CI") == "true")
	if err != nil {
		if !errors.Is(err, errFailed) {
			fmt.Fprintln(os.Stderr, "testrun:", err)
		}
		os.Exit(1)
	}
}

func run(out io.Writer, coverage, alone string, args []string, ci bool) error {
	together, apart, err := split(args, alone)
	if err != nil {
		return err
	}
	results := newResults()
	ok := true
	for _, part := range [][]string{together, apart} {
		if part == nil {
			continue
		}
		passed, err := results.test(part, out)
		if err != nil {
			return err
		}
		ok = ok && passed
	}

	passed := results.report(out)
	failed := !ok || !passed
	if ci && len(results.skipped) > 0 {
		fmt.Fprintln(out, "a test that was not run has failed, since CI=true")
		failed = true
	}
	if coverage != "" {
		unproven, err := results.unproven(coverage)
		if err != nil {
			return err
		}
		for _, line := range unproven {
			fmt.Fprintln(out, line)
		}
		if len(unproven) > 0 {
			failed = true
		}
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", results.passed, results.failed, len(results.skipped))
	if failed {
		return errFailed
	}
	return nil
}

// split divides the packages among args into those that run together and those
// that run one at a time, each with all flags; nil where there are none.
func split(args []string, alone string) (together, apart []string, err error) {
	pattern, err := regexp.Compile(alone)
	if err != nil {
		return nil, nil, fmt.Errorf("-alone: %w", err)
	}
	var flags, patterns []string
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			flags = append(flags, arg)
		} else {
			patterns = append(patterns, arg)
		}
	}
	list := exec.Command("go", append([]string{"list"}, patterns...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go list: %w", err)
	}
	together, apart = slices.Clone(flags), append(slices.Clone(flags), "-p=1")
	for _, name := range strings.Fields(string(out)) {
		if pattern.MatchString(name) {
			apart = append(apart, name)
		} else {
			together = append(together, name)
		}
	}
	if len(together) == len(flags) {
		together = nil
	}
	if len(apart) == len(flags)+1 {
		apart = nil
	}
	return together, apart, nil
}

// test runs go test once, and adds what it says to r; it returns whether go test
// said that all passed.
func (r *results) test(args []string, out io.Writer) (bool, error) {
	command := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := command.Start(); err != nil {
		return false, err
	}
	if err := r.read(stdout, out); err != nil {
		return false, fmt.Errorf("output of go test: %w", err)
	}
	return command.Wait() == nil, nil
}

// event is a line of "go test -json" (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64
}

// results is what one run of go test said.
type results struct {
	outcome map[string]string   // "package.Test" → pass, fail, skip
	output  map[string][]string // of tests and packages ("" after the dot) that have not passed yet
	skipped []string
	failing []string
	passed  int
	failed  int
}

func newResults() *results {
	return &results{outcome: map[string]string{}, output: map[string][]string{}}
}

// read takes in the stream and prints a line for each package that ends.
func (r *results) read(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				// Not an event: go itself has something to say.
				fmt.Fprint(out, string(line))
			} else {
				r.take(e, out)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *results) take(e event, out io.Writer) {
	name := e.Package + "." + e.Test
	switch e.Action {
	case "output":
		r.output[name] = append(r.output[name], e.Output)
	case "build-output":
		fmt.Fprint(out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e, out)
			return
		}
		r.outcome[name] = e.Action
		switch e.Action {
		case "pass":
			r.passed++
			delete(r.output, name)
		case "fail":
			r.failed++
			r.failing = append(r.failing, name)
		case "skip":
			r.skipped = append(r.skipped, name)
		}
	}
}

func (r *results) endPackage(e event, out io.Writer) {
	switch e.Action {
	case "fail":
		fmt.Fprintf(out, "FAIL  %-40s %6.1f s\n", e.Package, e.Elapsed)
		r.failing = append(r.failing, e.Package+".")
	case "pass":
		fmt.Fprintf(out, "ok    %-40s %6.1f s\n", e.Package, e.Elapsed)
		delete(r.output, e.Package+".")
	}
}

// report prints what failed, with its output, and what was not run; it returns
// whether nothing failed.
func (r *results) report(out io.Writer) bool {
	for _, name := range r.failing {
		fmt.Fprintf(out, "\n--- %s\n%s", name, strings.Join(r.output[name], ""))
	}
	r.reportSkipped(out)
	return len(r.failing) == 0
}

// reportSkipped prints what was not run, under each reason once.
func (r *results) reportSkipped(out io.Writer) {
	var reasons []string
	names := map[string][]string{}
	for _, name := range r.skipped {
		why := reason(r.output[name])
		if names[why] == nil {
			reasons = append(reasons, why)
		}
		names[why] = append(names[why], name)
	}
	for _, why := range reasons {
		fmt.Fprintf(out, "\nnot run: %s\n", why)
		for _, name := range names[why] {
			fmt.Fprintf(out, "  %s\n", name)
		}
	}
}

// place is where in a file a test gave its reason.
var place = regexp.MustCompile(`^[a-z0-9_]+\.go:\d+: `)

// reason is the line that a skipped test gave.
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return place.ReplaceAllString(line, "")
		}
	}
	return "no reason given"
}
