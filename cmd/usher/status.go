package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"usher/cmd/usher/control"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what the agent does, and what is wrong",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.client().Status(c.Context())
			if err != nil {
				return err
			}
			return a.print(s, func() { printStatus(a.out, s, time.Now()) })
		},
	}
}

func printStatus(out io.Writer, s *control.Status, now time.Time) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "agent\t%s (version %s, pid %d, since %s)\n", s.State, s.Version, s.PID, moment(s.Started, now))
	fmt.Fprintf(w, "config\t%s, loaded %s\n", s.Config.Path, moment(s.Config.Loaded, now))
	switch {
	case s.Config.Failed == nil:
	case s.Config.Failed.Equal(s.Config.Loaded):
		fmt.Fprintf(w, "\tbut not all of it: %s\n", s.Config.Error)
	default:
		fmt.Fprintf(w, "\trefused at %s, so the older one runs: %s\n", moment(*s.Config.Failed, now), s.Config.Error)
	}
	printInterface(w, s)
	printServer(w, s, now)
	fmt.Fprintf(w, "traffic\tout %d packets, %d bytes; in %d packets, %d bytes\n",
		s.Traffic.OutPackets, s.Traffic.OutBytes, s.Traffic.InPackets, s.Traffic.InBytes)
	fmt.Fprintf(w, "guard\t%s\n", guardLine(s.Guard))
	fmt.Fprintf(w, "offload\t%s\n", s.Offload)
	w.Flush() //nolint:errcheck // the terminal's end

	var joined []control.Event
	for _, e := range s.Events {
		if e.Joined || e.Program {
			joined = append(joined, e)
		}
	}
	if len(joined) > 0 {
		fmt.Fprintln(out, "\nevents")
		for _, e := range joined {
			fmt.Fprintf(out, "  %s (%s): %s%s\n", printable(e.Title), role(e), orElse(e.State, "joined"), eventDetail(e, now))
		}
	}
	if len(s.Drops) > 0 {
		fmt.Fprintln(out, "\ndropped packets")
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, d := range s.Drops {
			fmt.Fprintf(w, "  %s\t%d\t%s\n", d.Reason, d.Packets, d.Todo)
		}
		w.Flush() //nolint:errcheck // the terminal's end
	}
	if len(s.Problems) > 0 {
		fmt.Fprintln(out, "\nto do")
		for _, p := range s.Problems {
			fmt.Fprintf(out, "  %s\n", p.Text)
			if p.Todo != "" {
				fmt.Fprintf(out, "    hint: %s\n", p.Todo)
			}
		}
	}
}

func eventDetail(e control.Event, now time.Time) string {
	var s strings.Builder
	if e.Interval != nil && control.JoinState(e.State) == control.JoinKeyed {
		fmt.Fprintf(&s, ", interval %d", *e.Interval)
	}
	if e.Program {
		s.WriteString(", joined by a program")
		if e.Joined {
			s.WriteString(" and by usher join")
		}
	}
	if e.Detail != "" || e.Until != nil && control.JoinState(e.State) == control.JoinWaiting {
		s.WriteString(", " + detail(e, now))
	}
	return s.String()
}

func printInterface(w io.Writer, s *control.Status) {
	i := s.Interface
	if s.State == control.StateDown {
		fmt.Fprintln(w, "interface\tnone, and nothing is protected: usher down was typed; sudo usher up")
		return
	}
	if i.Real == "" {
		fmt.Fprintf(w, "interface\tnone: %s\n", orElse(i.Why, "nothing to protect yet"))
		return
	}
	fmt.Fprintf(w, "interface\t%s (%s), %s; protected packets are UDP port %d\n",
		i.Real, strings.Join(i.Addresses, ", "), i.Why, i.Port)
	fmt.Fprintf(w, "\t%s for programs, MTU %d\n", i.TUN, i.MTU)
}

func printServer(w io.Writer, s *control.Status, now time.Time) {
	if s.Server == nil {
		fmt.Fprintln(w, "server\tnone configured")
		return
	}
	line := s.Server.URL
	if s.Server.LoggedIn {
		line += ", logged in as " + printable(s.Server.Client)
	} else {
		line += ", not logged in"
	}
	if s.Server.Contact != nil {
		line += ", answered " + moment(*s.Server.Contact, now)
	}
	fmt.Fprintf(w, "server\t%s\n", line)
	if s.Server.Error != "" {
		fmt.Fprintf(w, "\tlast attempt failed: %s\n", s.Server.Error)
	}
	if s.Clock.Known {
		fmt.Fprintf(w, "clock\tthe server's; this host is %s, known to ±%d ms\n", off(s.Clock.OffsetMS), s.Clock.ErrorMS)
	} else {
		fmt.Fprintf(w, "clock\tthe server's, not known yet\n")
	}
	if c := s.Certificate; c != nil {
		fmt.Fprintf(w, "certificate\t%s, good until %s, renewed by itself\n", c.Subject, moment(c.NotAfter, now))
	}
}

// off says how the host's clock stands to the server's.
func off(offsetMS int64) string {
	switch {
	case offsetMS > 0:
		return fmt.Sprintf("%v behind", time.Duration(offsetMS)*time.Millisecond)
	case offsetMS < 0:
		return fmt.Sprintf("%v ahead", time.Duration(-offsetMS)*time.Millisecond)
	}
	return "right"
}

func guardLine(g control.GuardStatus) string {
	if !g.Active {
		return "not active"
	}
	s := fmt.Sprintf("active; refused %d cleartext packets of programs, %d from the network", g.RefusedOut, g.RefusedIn)
	if g.Restored > 0 {
		s += fmt.Sprintf("; put back %d times what others removed", g.Restored)
	}
	if g.Todo != "" {
		s += "\n\t" + g.Todo
	}
	return s
}
