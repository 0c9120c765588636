package main

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	"usher/server"
	"usher/server/group"
	"usher/server/store"
)

// eventFlags are the flags of event add, as typed.
type eventFlags struct {
	spec    server.EventSpec
	title   string
	senders []string
	flows   []string
	time    eventTime
}

func (a *app) eventAdd() *cobra.Command {
	v := eventFlags{spec: server.DefaultEventSpec()}
	cmd := &cobra.Command{
		Use:   "add TITLE --group GROUP --sender ADDRESS --flow udp/GROUP/PORT --start TIME --duration TIME",
		Short: "Add an event",
		Long: "add puts an event into a group: its clients, and those of all groups\n" +
			"beneath, get it with their next ticket. Who sends it is said by\n" +
			"usher-server event associate TITLE CLIENT --role send.",
		Example: "  usher-server event add \"Evening News\" --group Subscribers --sender 192.0.2.10 \\\n" +
			"      --flow udp/232.1.2.3/5004 --start 2026-11-25T20:00:00 --zone Europe/Berlin \\\n" +
			"      --duration 30m --rrule daily",
		Args: func(cmd *cobra.Command, args []string) error {
			if v.title == "" && len(args) == 1 {
				v.title = args[0]
				return nil
			}
			if v.title == "" || len(args) > 0 {
				return usagef("%s takes one TITLE", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return a.addEvent(cmd, v) },
	}
	v.register(cmd)
	return cmd
}

func (v *eventFlags) register(cmd *cobra.Command) {
	f, s := cmd.Flags(), &v.spec
	f.StringVar(&v.title, "title", "", "the title, instead of the argument")
	f.StringVar(&s.Group, "group", "", "the group that has the event")
	f.StringArrayVar(&v.senders, "sender", nil, "address of the sending host (repeatable)")
	f.StringArrayVar(&v.flows, "flow", nil, "protocol/destination/port or range, as udp/232.1.2.3/5004-5006 (repeatable)")
	f.StringVar(&v.time.start, "start", "", "first start: 2026-11-25T20:00:00+01:00, +8s, or with --zone without an offset")
	f.StringVar(&v.time.duration, "duration", "", "length of one occurrence: 90m, or P1D for a day by the calendar")
	f.StringVar(&v.time.zone, "zone", "", "time zone in which it recurs, as Europe/Berlin (default UTC)")
	f.StringVar(&v.time.rule, "rrule", "", "daily, weekly, or an RRULE of RFC 5545 (default: once)")
	f.StringArrayVar(&v.time.except, "exdate", nil, "start of an occurrence that does not take place (repeatable)")
	f.DurationVar(&s.Interval, "interval", s.Interval, "life of one key, 1s to 168h: a suspended client is dark after two of them at most")
	f.DurationVar(&s.First, "first", 0, "length of the first interval (default: as the others)")
	f.DurationVar(&s.Initial, "initial", s.Initial, "initial keying period: how long before the start keys are to be had")
	f.DurationVar(&s.Window, "window", 0, "in what time before an interval its key may be fetched (default: an interval)")
	f.StringVar(&s.Transform, "transform", s.Transform, "aes-256-gcm or chacha20-poly1305")
	f.Uint8Var(&s.TTL, "ttl", s.TTL, "TTL of the packets on the network")
	f.DurationVar(&s.Gather, "gather", s.Gather, "how long the sender may wait for further packets to send at once")
	f.StringArrayVar(&s.KeyServers, "key-server", nil, "URL of the key server (repeatable; default: this one)")
	f.Int32Var(&s.Priority, "priority", 0, "priority, for clients to sort by")
	f.Uint32Var(&s.Ahead, "ahead", s.Ahead, "keys that may be fetched ahead")
	f.StringVar(&s.Spread, "spread", s.Spread, "how clients spread their requests: fixed")
	f.StringVar(&s.Revocation, "revocation", s.Revocation, "what a suspended client is answered: withhold")
	f.StringVar(&s.Refresh, "refresh", s.Refresh, "how keys are refreshed: pull")
	f.StringVar(&s.Certificate, "certificate", s.Certificate, "what a ticket's certificate is for: group")
	f.Uint32Var(&s.Preview, "preview", 0, "intervals at the beginning that anybody may watch")
	f.StringVar(&s.Pool, "pool", "", "inner addresses of a unicast event")
	for _, name := range []string{"ahead", "spread", "revocation", "refresh", "certificate", "preview", "pool"} {
		f.Lookup(name).Hidden = true // their one value is the default yet; others are not in this version
	}
}

func (a *app) addEvent(cmd *cobra.Command, v eventFlags) error {
	ctx := cmd.Context()
	for _, need := range []struct {
		flag string
		have bool
	}{{"group", v.spec.Group != ""}, {"sender", len(v.senders) > 0}, {"flow", len(v.flows) > 0}, {"start", v.time.start != ""}} {
		if !need.have {
			return usagef("%s: --%s is missing", cmd.CommandPath(), need.flag)
		}
	}
	s := v.spec
	s.Title = v.title
	for _, text := range v.senders {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return usagef("--sender %q is no address", text)
		}
		s.Senders = append(s.Senders, address)
	}
	for _, text := range v.flows {
		f, err := server.ParseFlow(text)
		if err != nil {
			return err
		}
		s.Flows = append(s.Flows, f)
	}
	var err error
	if s.Time, err = v.time.expression(a.now()); err != nil {
		return err
	}
	var made eventJSON
	err = a.update(ctx, func(c server.Config, tx store.Tx) error {
		spec := s // the function may run again
		if len(spec.KeyServers) == 0 {
			spec.KeyServers = []string{c.KeyURL()}
		}
		e, err := server.AddEvent(ctx, tx, spec, a.now())
		if err != nil {
			return err
		}
		graph, err := group.Load(ctx, tx)
		made = a.eventOf(graph, e)
		return err
	})
	if err != nil {
		return err
	}
	return a.print(made, func(w io.Writer) {
		fmt.Fprintf(w, "Added event %q to group %s.\nid:\t%s\nnext:\t%s\n", made.Title, made.Group, made.ID, a.nextOf(made))
	})
}
