package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"usher/server"
	"usher/server/store"
)

// app is one run of the command line.
type app struct {
	host
	config string
	json   bool
}

// root builds the tree of commands.
func (a *app) root() *cobra.Command {
	c := parent("usher-server", "Manage events, clients and their keys",
		a.initCommand(), a.runCommand(), a.caCommand(), a.configCommand(), a.versionCommand(),
		a.groupCommand(), a.clientCommand(), a.eventCommand(), a.ticketCommand())
	c.SilenceUsage, c.SilenceErrors = true, true
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%s", err) })
	f := c.PersistentFlags()
	file := a.getenv("USHER_SERVER_CONFIG")
	if file == "" {
		file = server.DefaultConfigFile
	}
	f.StringVar(&a.config, "config", file, "the server's TOML (USHER_SERVER_CONFIG)")
	f.BoolVar(&a.json, "json", false, "answer in JSON")
	return c
}

// parent is a command that does nothing but hold others.
func parent(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q", c.CommandPath()+" "+args[0])
			}
			return c.Help()
		},
	}
	c.AddCommand(children...)
	return c
}

// takes asks for exactly these arguments.
func takes(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(names) == 0 {
			return usagef("%s takes no argument, not %q", c.CommandPath(), args[0])
		}
		want := ""
		for _, n := range names {
			want += " " + n
		}
		return usagef("%s takes%s", c.CommandPath(), want)
	}
}

// print writes v as JSON where asked for, else lets text write it.
func (a *app) print(v any, text func(io.Writer)) error {
	if !a.json {
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		text(w)
		return w.Flush()
	}
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// load reads the configuration.
func (a *app) load() (server.Config, error) { return server.LoadConfig(a.config) }

// view reads the store in one snapshot.
func (a *app) view(ctx context.Context, read func(server.Config, store.Reader) error) error {
	return a.open(ctx, func(c server.Config, s store.Store) error {
		return s.View(ctx, func(r store.Reader) error { return read(c, r) })
	})
}

// update changes the store in one transaction.
func (a *app) update(ctx context.Context, write func(server.Config, store.Tx) error) error {
	return a.open(ctx, func(c server.Config, s store.Store) error {
		_, err := s.Update(ctx, func(tx store.Tx) error { return write(c, tx) })
		return err
	})
}

func (a *app) open(ctx context.Context, use func(server.Config, store.Store) error) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	s, err := server.OpenStore(ctx, c)
	if err != nil {
		return err
	}
	return errors.Join(use(c, s), s.Close())
}
