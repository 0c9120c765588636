package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"usher/cmd/usher/control"
)

func (a *app) joinCommand() *cobra.Command {
	var send, receive bool
	var wait time.Duration
	c := &cobra.Command{
		Use:   "join TITLE|ID …",
		Short: "Take part in events, now and at each later occurrence",
		Long: "join takes part in events, by title or id. It waits until the first key is\n" +
			"there, or says until when the agent waits for it. A join is remembered: the\n" +
			"agent goes on by itself after a restart, and at the next occurrence.",
		Args:              someTitles,
		ValidArgsFunction: a.completeTitles(func(e control.Event) bool { return !e.Joined }),
		RunE: func(c *cobra.Command, args []string) error {
			if send && receive {
				return usagef("--send and --receive exclude each other")
			}
			if wait < 0 {
				return usagef("--wait is negative")
			}
			q := &control.JoinRequest{Events: args, WaitMS: wait.Milliseconds()}
			switch {
			case send:
				q.Role = "send"
			case receive:
				q.Role = "receive"
			}
			return a.join(c.Context(), q)
		},
	}
	c.Flags().BoolVar(&send, "send", false, "send, whatever the ticket server says you are")
	c.Flags().BoolVar(&receive, "receive", false, "receive, whatever the ticket server says you are")
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for the first key (0: not at all)")
	return c
}

func (a *app) join(ctx context.Context, q *control.JoinRequest) error {
	var order []string
	last := map[string]control.Event{}
	err := a.client().Join(ctx, q, func(e control.Event) {
		before, known := last[e.ID]
		if !known {
			order = append(order, e.ID)
		}
		last[e.ID] = e
		if !a.json && (!known || before.State != e.State || before.Detail != e.Detail) {
			if s := progress(e, time.Now()); s != "" {
				fmt.Fprintln(a.err, s)
			}
		}
	})
	if errors.Is(err, context.Canceled) && len(order) > 0 {
		return errors.New("no longer waiting; the agent goes on by itself (usher status)")
	}
	if err != nil {
		return err
	}
	result := control.Events{Events: []control.Event{}}
	failed := false
	for _, id := range order {
		e := last[id]
		result.Events = append(result.Events, e)
		s := control.JoinState(e.State)
		failed = failed || s == control.JoinRefused || s == control.JoinWithheld || s == control.JoinEnded
	}
	if err := a.print(result, func() {
		for _, e := range result.Events {
			printJoined(a.out, e, time.Now())
		}
	}); err != nil {
		return err
	}
	if failed {
		return &quietError{status: exitFailed}
	}
	return nil
}

// progress is the line that tells of a change while join waits.
func progress(e control.Event, now time.Time) string {
	if control.JoinState(e.State) != control.JoinWaiting {
		return ""
	}
	return fmt.Sprintf("%s: %s", printable(e.Title), detail(e, now))
}

// detail is the sentence on an event's state, with its instants as one reads
// them, and what comes when where the sentence names no instant itself: the next
// attempt at a first key, or the end of the key at hand.
func detail(e control.Event, now time.Time) string {
	timed := false
	s := instants.ReplaceAllStringFunc(printable(e.Detail), func(text string) string {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return text
		}
		timed = true
		return moment(t, now)
	})
	if s == "" {
		s = "waits for its key"
	}
	switch {
	case timed || e.Until == nil:
	case control.JoinState(e.State) == control.JoinWaiting:
		s += "; next attempt at " + moment(*e.Until, now)
	default:
		s += "; the key at hand lasts until " + moment(*e.Until, now)
	}
	return s
}

// instants are how the agent writes times within a sentence.
var instants = regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// printJoined tells what a join did.
func printJoined(out io.Writer, e control.Event, now time.Time) {
	title := printable(e.Title)
	switch control.JoinState(e.State) {
	case control.JoinKeyed:
		what := "you receive"
		if e.Role == "send" {
			what = "you send"
		}
		fmt.Fprintf(out, "%s: joined, the key is there; %s", title, what)
		if e.End != nil {
			fmt.Fprintf(out, " until %s", moment(*e.End, now))
		}
		fmt.Fprintln(out)
	case control.JoinWaiting:
		fmt.Fprintf(out, "%s: joined, no key yet: %s; the agent goes on by itself\n", title, detail(e, now))
	case control.JoinEnded:
		fmt.Fprintf(out, "%s: %s\n", title, orElse(e.Detail, "it has ended, and does not come again"))
		return
	default:
		fmt.Fprintf(out, "%s: refused: %s\n", title, orElse(e.Detail, "the server gave no reason"))
		return
	}
	if e.Role != "send" && len(e.Senders) > 0 {
		fmt.Fprintf(out, "  from    %s\n", strings.Join(e.Senders, ", "))
	}
	for _, f := range e.Flows {
		fmt.Fprintf(out, "  group   %s, %s port %s\n", f.Destination, f.Protocol, f.Ports)
		for _, u := range f.URLs {
			if e.Role == "send" {
				fmt.Fprintf(out, "  send to %s\n", u)
			} else {
				fmt.Fprintf(out, "  play    %s\n", u)
			}
		}
	}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (a *app) leaveCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "leave TITLE|ID …",
		Short:             "Take part no longer",
		Args:              someTitles,
		ValidArgsFunction: a.completeTitles(func(e control.Event) bool { return e.Joined }),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := a.client().Leave(c.Context(), &control.LeaveRequest{Events: args})
			if err != nil {
				return err
			}
			return a.print(list, func() {
				for _, e := range list.Events {
					fmt.Fprintf(a.out, "%s: left", printable(e.Title))
					if e.Program {
						fmt.Fprint(a.out, "; a program on this host has joined its group, and receives it until it leaves")
					}
					fmt.Fprintln(a.out)
				}
			})
		},
	}
}
