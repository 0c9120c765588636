package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
	_ "time/tzdata" // a host without zone files shows the right times all the same
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := execute(ctx, os.Args[1:], system())
	stop()
	os.Exit(status)
}

// host is what the commands take from their surroundings; tests give others.
type host struct {
	in       *os.File
	out, err io.Writer
	getenv   func(string) string
	now      func() time.Time
	zone     *time.Location // the viewer's
}

// system is the real one.
func system() host {
	return host{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, now: time.Now, zone: time.Local}
}

// execute runs one command line, tells of its error, and returns the exit status.
func execute(ctx context.Context, args []string, h host) int {
	app := &app{host: h}
	return app.report(app.run(ctx, args))
}

// run runs one command line.
func (a *app) run(ctx context.Context, args []string) error {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	return root.ExecuteContext(ctx)
}
