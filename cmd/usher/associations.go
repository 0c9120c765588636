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

func (a *app) saCommand() *cobra.Command {
	var keys bool
	c := &cobra.Command{
		Use:   "sa",
		Short: "List the security associations",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().SAs(c.Context(), keys)
			if err != nil {
				return err
			}
			return a.print(list, func() { printSAs(a.out, list.SAs, time.Now()) })
		},
	}
	c.Flags().BoolVar(&keys, "show-keys", false, "with their keys: root alone, and where show_keys = true stands in the TOML")
	return c
}

func printSAs(out io.Writer, sas []control.SA, now time.Time) {
	if len(sas) == 0 {
		fmt.Fprintln(out, "There is no association: no key is held.")
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SPI\tEVENT\tTO\tDIRECTION\tTRANSFORM\tSENDER\tINTERVAL\tSEND FROM\tACCEPT UNTIL\tOUT\tIN\tBAD\tREPLAYED")
	for _, s := range sas {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%d\t%d\t%d\t%d\n", s.SPI, printable(orElse(s.Title, s.Association)),
			strings.Join(s.Destinations, ","), s.Direction, s.Transform, s.SenderID, s.Interval,
			instant(s.SendFrom, now), instant(s.AcceptUntil, now), s.OutPackets, s.InPackets, s.BadICV, s.ReplayDrops)
		if s.Key != "" {
			fmt.Fprintf(w, "\tkey and salt\t0x%s\n", s.Key)
		}
	}
	w.Flush() //nolint:errcheck // the terminal's end
}

func instant(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	return moment(*t, now)
}

func (a *app) policyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "policy",
		Short: "List the policies, in the order in which they are asked",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Policies(c.Context())
			if err != nil {
				return err
			}
			return a.print(list, func() { printPolicies(a.out, list.Policies) })
		},
	}
}

func printPolicies(out io.Writer, policies []control.Policy) {
	if len(policies) == 0 {
		fmt.Fprintln(out, "There is no policy: nothing is protected.")
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tFROM\tSOURCE\tDESTINATION\tPROTOCOL\tPORTS\tACTION")
	for _, p := range policies {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable(orElse(p.Title, p.Name)), p.Origin,
			p.Source, p.Destination, p.Protocol, p.DestinationPorts, p.Action)
	}
	w.Flush() //nolint:errcheck // the terminal's end
}
