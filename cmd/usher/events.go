package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"usher/cmd/usher/control"
)

func (a *app) eventsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "events",
		Short: "List the events of your tickets",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Events(c.Context())
			if err != nil {
				return err
			}
			return a.print(list, func() { printEvents(a.out, list.Events, time.Now()) })
		},
	}
}

func printEvents(out io.Writer, events []control.Event, now time.Time) {
	if len(events) == 0 {
		fmt.Fprintln(out, "Your tickets hold no event.")
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TITLE\tID\tROLE\tNEXT\tJOINED")
	for _, e := range events {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(e.Title), e.ID, role(e), occurrence(e, now), joined(e))
	}
	w.Flush() //nolint:errcheck // the terminal's end
}

// role is how the list names what the viewer does in an event.
func role(e control.Event) string {
	if e.Role == "send" {
		return "you send"
	}
	return "you receive"
}

func joined(e control.Event) string {
	switch {
	case e.Refused != "":
		return e.Refused
	case !e.Joined && !e.Program:
		return "-"
	case !e.Joined:
		return e.State + ", by a program"
	case e.State != "":
		return e.State
	default:
		return "yes"
	}
}

// occurrence names the current or next occurrence in the viewer's zone.
func occurrence(e control.Event, now time.Time) string {
	if e.Start == nil {
		return "none"
	}
	if !e.Start.After(now) {
		if e.End == nil {
			return "now"
		}
		return "now, until " + moment(*e.End, now)
	}
	if e.End == nil {
		return moment(*e.Start, now)
	}
	start, end := e.Start.Local(), e.End.Local()
	if sameDay(start, end) {
		return moment(start, now) + "–" + end.Format("15:04")
	}
	return moment(start, now) + " – " + moment(end, now)
}

// moment writes an instant as one reads it: without what is the same today.
func moment(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	clock := "15:04"
	if t.Second() != 0 || t.Sub(now).Abs() < 10*time.Minute {
		clock = "15:04:05"
	}
	switch {
	case sameDay(t, now):
		return t.Format(clock + " MST")
	case t.Year() == now.Year():
		return t.Format("Mon 2 Jan " + clock + " MST")
	}
	return t.Format("Mon 2 Jan 2006 " + clock + " MST")
}

func sameDay(a, b time.Time) bool {
	ay, am, ad := a.Date()
	by, bm, bd := b.Date()
	return ay == by && am == bm && ad == bd
}

// printable keeps a title from talking to the terminal.
func printable(s string) string {
	out := []rune(s)
	for i, r := range out {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			out[i] = '?'
		}
	}
	return string(out)
}
