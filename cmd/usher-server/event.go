package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"usher/server"
	"usher/server/group"
	"usher/server/store"
	"usher/server/ticket"
)

// eventJSON is an event as lists and answers have it.
type eventJSON struct {
	ID         string           `json:"id"`
	Title      string           `json:"title"`
	Group      string           `json:"group"`
	Senders    []string         `json:"senders"`
	Flows      []string         `json:"flows"`
	Time       any              `json:"time"`
	TTL        uint8            `json:"ttl"`
	KeyServers []string         `json:"key_servers"`
	InitialMS  int64            `json:"initial_ms"`
	FirstMS    int64            `json:"first_ms"`
	IntervalMS int64            `json:"interval_ms"`
	WindowMS   int64            `json:"window_ms"`
	GatherUS   uint32           `json:"gather_us"`
	Transform  string           `json:"transform"`
	Ahead      uint32           `json:"ahead"`
	Spread     string           `json:"spread"`
	Revocation string           `json:"revocation"`
	Refresh    string           `json:"refresh"`
	Priority   int32            `json:"priority"`
	Edition    uint16           `json:"edition"`
	Next       []occurrenceJSON `json:"next"`
	SendingBy  []string         `json:"sending_clients,omitempty"`
}

type occurrenceJSON struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// nextShown is how many occurrences an answer lists.
const nextShown = 3

func (a *app) eventOf(graph *group.Graph, e store.Event) eventJSON {
	v := eventJSON{
		ID: e.ID.String(), Title: e.Title, Group: graph.Name(e.Group), Senders: []string{}, Flows: []string{},
		Time: ticket.Entry(e).Time, TTL: e.TTL, KeyServers: e.KeyServers,
		InitialMS: e.InitialMS, FirstMS: e.FirstMS, IntervalMS: e.IntervalMS, WindowMS: e.WindowMS, GatherUS: e.GatherUS,
		Transform: server.TransformName(e.Transform), Ahead: e.Ahead, Spread: e.Spread, Revocation: e.Revocation,
		Refresh: e.Method, Priority: e.Priority, Edition: e.Edition, Next: []occurrenceJSON{},
	}
	for _, s := range e.Senders {
		v.Senders = append(v.Senders, s.String())
	}
	for _, f := range e.Flows {
		v.Flows = append(v.Flows, server.FlowText(f))
	}
	runs, err := server.Next(e, a.now(), nextShown)
	if err != nil {
		return v // a zone that this host does not know: the rest is still worth showing
	}
	for _, r := range runs {
		v.Next = append(v.Next, occurrenceJSON{r.Start.UTC(), r.End.UTC()})
	}
	return v
}

func (a *app) eventCommand() *cobra.Command {
	return parent("event", "Events: what there is to see, when, and who sends it",
		a.eventAdd(), a.eventList(), a.eventShow(), a.eventAssociate(), a.eventEnd(), a.eventDelete())
}

func (a *app) eventList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the events", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := []eventJSON{}
			err := a.view(cmd.Context(), func(_ server.Config, r store.Reader) error {
				graph, err := group.Load(cmd.Context(), r)
				if err != nil {
					return err
				}
				events, err := r.Events(cmd.Context())
				list = list[:0] // the function may run again
				for _, e := range events {
					list = append(list, a.eventOf(graph, e))
				}
				return err
			})
			if err != nil {
				return err
			}
			return a.print(map[string]any{"events": list}, func(w io.Writer) { a.printEvents(w, list) })
		},
	}
}

func (a *app) printEvents(w io.Writer, list []eventJSON) {
	fmt.Fprintln(w, "TITLE\tID\tGROUP\tNEXT")
	for _, e := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.Title, e.ID, e.Group, a.nextOf(e))
	}
}

// nextOf names the occurrence that runs or comes next.
func (a *app) nextOf(e eventJSON) string {
	if len(e.Next) == 0 {
		return "over"
	}
	if n := e.Next[0]; n.Start.After(a.now()) {
		return a.moment(n.Start)
	}
	return "now, until " + a.moment(e.Next[0].End)
}

// readEvent reads one event, named by its title or id, with who sends it.
func (a *app) readEvent(ctx context.Context, name string) (v eventJSON, err error) {
	err = a.view(ctx, func(_ server.Config, r store.Reader) error {
		e, err := server.FindEvent(ctx, r, name)
		if err != nil {
			return err
		}
		graph, err := group.Load(ctx, r)
		if err != nil {
			return err
		}
		v = a.eventOf(graph, e)
		associations, err := r.Associations(ctx, e.ID)
		if err != nil {
			return err
		}
		for _, as := range associations {
			if as.Role != store.RoleSend {
				continue
			}
			c, err := r.ClientByNumber(ctx, as.Client)
			if err != nil {
				return err
			}
			v.SendingBy = append(v.SendingBy, c.Name)
		}
		return nil
	})
	return v, err
}

func (a *app) eventShow() *cobra.Command {
	return &cobra.Command{
		Use: "show EVENT", Short: "Show an event", Args: takes("EVENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.readEvent(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "title:\t%s\nid:\t%s\ngroup:\t%s\nsenders:\t%s\nflows:\t%s\nsent by:\t%s\n",
					v.Title, v.ID, v.Group, orDash(v.Senders), orDash(v.Flows), orDash(v.SendingBy))
				fmt.Fprintf(w, "interval:\t%s\ninitial:\t%s\ntransform:\t%s\nttl:\t%d\nkey servers:\t%s\nedition:\t%d\nnext:\t%s\n",
					milliseconds(v.IntervalMS), milliseconds(v.InitialMS), v.Transform, v.TTL, orDash(v.KeyServers), v.Edition, a.nextOf(v))
				for _, n := range v.Next[min(1, len(v.Next)):] {
					fmt.Fprintf(w, "\t%s\n", a.moment(n.Start))
				}
			})
		},
	}
}

func milliseconds(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

func (a *app) eventAssociate() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "associate EVENT CLIENT --role send|receive",
		Short: "Say whether a client may send an event",
		Long: "associate sets the role of a client in an event. Without any, a client\n" +
			"that has the event receives it.",
		Args: takes("EVENT", "CLIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			roles := map[string]store.Role{"send": store.RoleSend, "receive": store.RoleReceive}
			r, ok := roles[role]
			if !ok {
				return usagef("%s: --role is send or receive", cmd.CommandPath())
			}
			err := a.update(cmd.Context(), func(_ server.Config, tx store.Tx) error {
				e, err := server.FindEvent(cmd.Context(), tx, args[0])
				if err != nil {
					return err
				}
				return server.Associate(cmd.Context(), tx, e, args[1], r)
			})
			if err != nil {
				return err
			}
			return a.print(map[string]string{"event": args[0], "client": args[1], "role": role}, func(w io.Writer) {
				fmt.Fprintf(w, "%s may %s %q.\n", args[1], role, args[0])
			})
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "send or receive")
	return cmd
}

func (a *app) eventEnd() *cobra.Command {
	return &cobra.Command{
		Use: "end EVENT", Short: "End the occurrence that runs now", Args: takes("EVENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var end time.Time
			err := a.update(cmd.Context(), func(_ server.Config, tx store.Tx) error {
				e, err := server.FindEvent(cmd.Context(), tx, args[0])
				if err != nil {
					return err
				}
				end, err = server.EndEvent(cmd.Context(), tx, e, a.now())
				return err
			})
			if err != nil {
				return err
			}
			return a.print(map[string]any{"event": args[0], "end": end.UTC()}, func(w io.Writer) {
				fmt.Fprintf(w, "%q ends at %s.\n", args[0], a.moment(end))
			})
		},
	}
}

func (a *app) eventDelete() *cobra.Command {
	return &cobra.Command{
		Use:   "delete EVENT",
		Short: "Remove an event, also while it runs",
		Long: "delete removes an event with its keys. Its receivers are dark at the end\n" +
			"of the last interval whose key they hold. With their next ticket its\n" +
			"addresses are no longer protected on their hosts: stop the encoder first.",
		Args: takes("EVENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var gone eventJSON
			err := a.update(cmd.Context(), func(_ server.Config, tx store.Tx) error {
				e, err := server.FindEvent(cmd.Context(), tx, args[0])
				if err != nil {
					return err
				}
				graph, err := group.Load(cmd.Context(), tx)
				if err != nil {
					return err
				}
				gone = a.eventOf(graph, e)
				return tx.DeleteEvent(cmd.Context(), e.ID)
			})
			if err != nil {
				return err
			}
			return a.print(gone, func(w io.Writer) { fmt.Fprintf(w, "Removed event %q (%s).\n", gone.Title, gone.ID) })
		},
	}
}
