// Command demo runs a live event in a lab of network namespaces and counts, by
// what ffmpeg, tcpdump and tshark wrote down, what each host saw of it.
//
//	demo [--json FILE] [--out DIR] [--keep] [--bin DIR]
//
// It drives the product by its commands alone, as a person would, and asks it for
// one figure only: which keys bob holds right after he was suspended. It ends with
// a table, a picture for each host, and exit status 0 if everything held that it
// claims. It must never touch anything outside its lab.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"usher/scripts/lab"
)

// errNotHeld says that the demo ran and that something it claims did not hold.
var errNotHeld = errors.New("not everything held")

// options are the command line.
type options struct {
	json string // file for the figures, "" for none
	out  string // folder for pictures, logs and captures
	bin  string // folder with usher and usher-server, "" to build them
	keep bool   // leave the lab up
}

func main() {
	var o options
	flag.StringVar(&o.json, "json", "", "write the figures to `FILE`")
	flag.StringVar(&o.out, "out", defaultOut(), "folder for pictures, logs and captures")
	flag.StringVar(&o.bin, "bin", "", "folder with the programs (they are built if not given)")
	flag.BoolVar(&o.keep, "keep", false, "leave the lab up, and say how to enter it")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, o, os.Stdout)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything was removed")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run plays the event once and writes what came of it.
func run(ctx context.Context, o options, out io.Writer) error {
	figures, err := play(ctx, o, out)
	if err != nil {
		return err
	}
	printTable(out, figures)
	if o.json != "" {
		text, err := json.MarshalIndent(figures, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return fmt.Errorf("figures: %w", err)
		}
	}
	if !figures.held() {
		return fmt.Errorf("%w; logs and captures are in %s", errNotHeld, o.out)
	}
	return nil
}

// play lays out the lab, runs the event in it, and counts. The lab is gone when it
// returns, unless it is to be kept.
func play(ctx context.Context, o options, out io.Writer) (_ *Figures, err error) {
	if missing := lab.Missing(); missing != "" {
		return nil, fmt.Errorf("this machine lacks %s", missing)
	}
	if err := prepareOut(o.out); err != nil {
		return nil, err
	}
	defer func() {
		if ctx.Err() != nil {
			err = errors.Join(err, os.RemoveAll(o.out))
		}
	}()
	bin := o.bin
	if bin == "" {
		if bin, err = build(ctx, out, o.out); err != nil {
			return nil, err
		}
	}
	if o.keep {
		if err := lab.Sweep(labPrefix, true); err != nil {
			return nil, err
		}
	}
	l, err := lab.New(labPrefix)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()

	s, err := newShow(l, out, o.out, bin)
	if err != nil {
		return nil, err
	}
	record, err := s.play(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w (logs: %s)", err, o.out)
	}
	wire, figures, err := count(ctx, record, o.out)
	if err != nil {
		return nil, fmt.Errorf("%w (captures: %s)", err, o.out)
	}
	if err := drawAll(ctx, out, wire, o.out); err != nil {
		return nil, err
	}
	if o.keep && ctx.Err() == nil {
		if err := l.Keep(); err != nil {
			return nil, err
		}
		fmt.Fprintln(out, "the lab stays up; a shell in each host:")
		for _, host := range l.Hosts() {
			fmt.Fprintf(out, "  %-8s %s\n", host.Name(), l.EnterCommand(host))
		}
		fmt.Fprintln(out, "the next demo removes it")
	}
	return figures, ctx.Err()
}

// marker is a file that says that a folder is the demo's own, to be emptied.
const marker = ".usher-demo"

// errNotOurs says that the folder for pictures holds something else.
var errNotOurs = errors.New("is not empty and no earlier demo's")

// defaultOut is a folder that nobody else can write to.
func defaultOut() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "."
	}
	return filepath.Join(cache, "usher", "demo-output")
}

// prepareOut makes an empty folder. It empties one that an earlier demo left, and
// touches no other.
func prepareOut(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	case len(entries) > 0:
		if _, err := os.Lstat(filepath.Join(dir, marker)); err != nil {
			return fmt.Errorf("folder %s %w: name another one with --out", dir, errNotOurs)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, marker), nil, 0o644)
}

// build compiles the two programs into a folder below dir.
func build(ctx context.Context, out io.Writer, dir string) (string, error) {
	bin := filepath.Join(dir, "bin")
	fmt.Fprintln(out, "builds usher and usher-server")
	command := exec.CommandContext(ctx, "go", "build", "-o", bin+"/", "usher/cmd/usher", "usher/cmd/usher-server")
	if text, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, text)
	}
	return bin, nil
}
