package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // a host without zone files shows the right times all the same
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], system())
	stop()
	os.Exit(status)
}

// host is what the commands take from their surroundings; tests give others.
type host struct {
	in       *os.File
	out, err io.Writer
	getenv   func(string) string
	agent    agentRunner
	down     downer
}

// system is the real one.
func system() host {
	return host{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, agent: runAgent, down: removeFromHost}
}

// run executes one command line, and returns the exit status.
func run(ctx context.Context, args []string, h host) int {
	app := &app{host: h}
	root := app.root()
	root.SetArgs(args)
	root.SetIn(h.in)
	root.SetOut(h.out)
	root.SetErr(h.err)
	return app.report(root.ExecuteContext(ctx))
}
