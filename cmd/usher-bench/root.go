package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
)

// app is one run of the command line.
type app struct {
	out, err io.Writer
	json     bool
}

// newRoot builds the tree of commands.
func newRoot(out, err io.Writer) *cobra.Command {
	a := &app{out: out, err: err}
	c := &cobra.Command{
		Use:           "usher-bench",
		Short:         "Load a network path and count what arrives",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.SetOut(out)
	c.SetErr(err)
	c.PersistentFlags().BoolVar(&a.json, "json", false, "answer in JSON")
	c.AddCommand(a.sendCommand(), a.sinkCommand(), a.pingCommand(), a.echoCommand(), a.forgeCommand())
	return c
}

func (a *app) sendCommand() *cobra.Command {
	o := sendOptions{size: sizes{1200, 1200}}
	var to addrPorts
	c := &cobra.Command{
		Use:   "send",
		Short: "Send paced, numbered datagrams",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.to = to
			if err := o.check(); err != nil {
				return err
			}
			r, err := send(c.Context(), o)
			if err != nil {
				return err
			}
			return a.print(r)
		},
	}
	f := c.Flags()
	f.Var(&to, "to", "destination, group or host (`ADDRESS:PORT`); given again: a copy of each datagram goes to each")
	f.IntVar(&o.rate, "rate", 1000, "datagrams a second; 0: as fast as the host can")
	f.IntVar(&o.burst, "burst", 1, "datagrams that leave together; 1: evenly spaced")
	f.BoolVar(&o.segment, "segment", false, "hand each burst over by one system call (UDP_SEGMENT)")
	f.Var(&o.size, "size", "bytes of each datagram: `N`, or N-M for mixed sizes")
	f.Uint64Var(&o.count, "count", 0, "end after so many datagrams; 0: by --for alone")
	f.DurationVar(&o.duration, "for", 5*time.Second, "end after this time")
	f.Uint32Var(&o.stream, "stream", 1, "number of the stream, which the sink tells apart")
	f.IntVar(&o.ttl, "ttl", 8, "TTL of multicast datagrams")
	f.BoolVar(&o.noEnd, "no-end", false, "do not tell the sink that the stream is over")
	return c
}

func (a *app) sinkCommand() *cobra.Command {
	o := sinkOptions{}
	var at addrPort
	var source address
	c := &cobra.Command{
		Use:   "sink",
		Short: "Receive a stream of send, and count",
		Long: "sink receives one stream, until send says that it is over, and counts. It says\n" +
			"\"ready\" on standard error once it listens.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.listen, o.source = netip.AddrPort(at), netip.Addr(source)
			r, err := sink(c.Context(), o, a.ready)
			if err != nil {
				return err
			}
			return a.print(r)
		},
	}
	f := c.Flags()
	f.Var(&at, "listen", "group or own address, and port (`ADDRESS:PORT`)")
	f.Var(&source, "source", "the sender's `ADDRESS`, for a source-specific join of a group")
	f.StringVar(&o.iface, "interface", "", "interface of the join; not given: where the routes lead")
	f.Uint32Var(&o.stream, "stream", 1, "number of the stream; others are counted as foreign")
	f.IntVar(&o.buffer, "buffer", 0, "bytes of the socket's buffer, beyond the host's limit too (root); 0: the host's default")
	f.DurationVar(&o.limit, "for", time.Minute, "give up after this time")
	f.DurationVar(&o.idle, "idle", 2*time.Second, "end after so much silence once the stream has begun")
	return c
}

func (a *app) pingCommand() *cobra.Command {
	o := pingOptions{}
	var to, at addrPort
	var source address
	c := &cobra.Command{
		Use:   "ping",
		Short: "Measure the round trip to an echo",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.to, o.listen, o.source = netip.AddrPort(to), netip.AddrPort(at), netip.Addr(source)
			r, err := ping(c.Context(), o)
			if err != nil {
				return err
			}
			return a.print(r)
		},
	}
	f := c.Flags()
	f.Var(&to, "to", "where echo listens (`ADDRESS:PORT`)")
	f.Var(&at, "listen", "where the answers come: a group, or nothing for the sending socket itself (`ADDRESS:PORT`)")
	f.Var(&source, "source", "the echo's `ADDRESS`, for a source-specific join of --listen")
	f.IntVar(&o.count, "count", 50, "how many")
	f.IntVar(&o.size, "size", 64, "bytes of each datagram")
	f.DurationVar(&o.interval, "interval", 20*time.Millisecond, "time between two")
	f.IntVar(&o.ttl, "ttl", 8, "TTL of multicast datagrams")
	return c
}

func (a *app) echoCommand() *cobra.Command {
	o := echoOptions{}
	var to, at addrPort
	var source address
	c := &cobra.Command{
		Use:   "echo",
		Short: "Answer ping until interrupted",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.to, o.listen, o.source = netip.AddrPort(to), netip.AddrPort(at), netip.Addr(source)
			return echo(c.Context(), o, a.ready)
		},
	}
	f := c.Flags()
	f.Var(&at, "listen", "group or own address, and port (`ADDRESS:PORT`)")
	f.Var(&source, "source", "the sender's `ADDRESS`, for a source-specific join of --listen")
	f.Var(&to, "to", "where answers go: a group, or nothing for whoever asked (`ADDRESS:PORT`)")
	f.IntVar(&o.ttl, "ttl", 8, "TTL of multicast datagrams")
	return c
}

func (a *app) forgeCommand() *cobra.Command {
	o := forgeOptions{}
	var to addrPort
	var source address
	c := &cobra.Command{
		Use:   "forge",
		Short: "Flood a group's ESP port with forged packets, as an attacker would",
		Long: "forge first listens to the group until it has heard an ESP packet of the\n" +
			"source, as whoever is on the link can, and then sends packets under that\n" +
			"source's address: --kind spi under SPIs that do not exist; --kind association\n" +
			"under the right SPI and sender ids that do not exist; --kind sender with a\n" +
			"header that only the ICV gives away. Only for networks of one's own.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.to, o.source = netip.AddrPort(to), netip.Addr(source)
			r, err := forge(c.Context(), o, a.ready)
			if err != nil {
				return err
			}
			return a.print(r)
		},
	}
	f := c.Flags()
	f.Var(&to, "to", "group and ESP port (`ADDRESS:PORT`)")
	f.Var(&source, "source", "whose `ADDRESS` is forged")
	f.StringVar(&o.iface, "interface", "eth0", "interface to send by")
	f.StringVar(&o.kind, "kind", forgeSPI, "spi, association or sender")
	f.IntVar(&o.rate, "rate", 100_000, "packets a second")
	f.IntVar(&o.size, "size", 1264, "bytes of each ESP packet")
	f.DurationVar(&o.duration, "for", 5*time.Second, "end after this time")
	return c
}

// ready tells whoever started the command that it listens.
func (a *app) ready() { fmt.Fprintln(a.err, "ready") }

// textResult is a result that can be read by a person.
type textResult interface{ text(io.Writer) }

func (a *app) print(r textResult) error {
	if !a.json {
		r.text(a.out)
		return nil
	}
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// addrPort is a flag's value.
type addrPort netip.AddrPort

func (a *addrPort) Type() string { return "address:port" }
func (a *addrPort) String() string {
	if !netip.AddrPort(*a).IsValid() {
		return ""
	}
	return netip.AddrPort(*a).String()
}

func (a *addrPort) Set(s string) error {
	v, err := netip.ParseAddrPort(s)
	if err != nil {
		return err
	}
	*a = addrPort(v)
	return nil
}

// addrPorts is a flag's value, given once or again.
type addrPorts []netip.AddrPort

func (a *addrPorts) Type() string   { return "address:port" }
func (a *addrPorts) String() string { return "" }

func (a *addrPorts) Set(s string) error {
	var one addrPort
	if err := one.Set(s); err != nil {
		return err
	}
	*a = append(*a, netip.AddrPort(one))
	return nil
}

// address is a flag's value.
type address netip.Addr

func (a *address) Type() string { return "address" }
func (a *address) String() string {
	if !netip.Addr(*a).IsValid() {
		return ""
	}
	return netip.Addr(*a).String()
}

func (a *address) Set(s string) error {
	v, err := netip.ParseAddr(s)
	if err != nil {
		return err
	}
	*a = address(v)
	return nil
}

// ended tells whether a loop that does not sleep on ctx should end.
func ended(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}
