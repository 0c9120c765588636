package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"usher/keyclient/wire"
	"usher/server"
	"usher/server/group"
	"usher/server/store"
	"usher/server/ticket"
)

// ticketJSON is a ticket with its entries decoded; what a client gets has their
// very bytes, which "ticket" holds.
type ticketJSON struct {
	Group     string        `json:"group"`
	NotBefore time.Time     `json:"not_before"`
	Expires   time.Time     `json:"expires"`
	Entries   []*wire.Entry `json:"entries"`
	Ticket    *wire.Ticket  `json:"ticket"`
}

func (a *app) ticketCommand() *cobra.Command {
	return parent("ticket", "Tickets: what a group's clients are given", a.ticketShow())
}

func (a *app) ticketShow() *cobra.Command {
	return &cobra.Command{
		Use: "show GROUP", Short: "Show a group's ticket as it is now", Args: takes("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v ticketJSON
			var events []eventJSON
			err := a.view(cmd.Context(), func(c server.Config, r store.Reader) error {
				auth, err := ticket.OpenAuthority(c.State)
				if err != nil {
					return err
				}
				g, err := r.Group(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				v.Ticket, err = ticket.NewReadOnlyIssuer(c.State, auth, c.Ticket.Tickets).Ticket(cmd.Context(), r, g.Number, a.now())
				if err != nil {
					return err
				}
				entries, claims, err := v.Ticket.Verify(ticket.Pool(auth.Certificate()), a.now())
				if err != nil {
					return err
				}
				v.Group, v.Entries = v.Ticket.Group, entries
				v.NotBefore, v.Expires = time.Unix(claims.NotBefore, 0).UTC(), time.Unix(claims.Expires, 0).UTC()
				graph, err := group.Load(cmd.Context(), r)
				if err != nil {
					return err
				}
				list, err := group.Events(cmd.Context(), r, g.Number)
				events = events[:0] // the function may run again
				for _, e := range list {
					events = append(events, a.eventOf(graph, e))
				}
				return err
			})
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "group:\t%s\nvalid:\t%s to %s\n\n", v.Group, a.moment(v.NotBefore), a.moment(v.Expires))
				fmt.Fprintln(w, "TITLE\tSENDER\tFLOWS\tKEY SERVER\tNEXT")
				for _, e := range events {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Title, orDash(e.Senders), orDash(e.Flows), orDash(e.KeyServers), a.nextOf(e))
				}
			})
		},
	}
}
