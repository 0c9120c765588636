package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"usher/cmd/usher/control"
)

// DefaultConfig is where the agent's TOML stands unless told otherwise.
const DefaultConfig = "/etc/usher/usher.toml"

// app is one run of the command line.
type app struct {
	host
	socket string
	config string
	json   bool
}

// root builds the tree of commands.
func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "usher",
		Short: "Take part in protected events",
		Long: "usher joins protected events: live streams whose packets leave this host\n" +
			"encrypted, and reach its programs in the clear. A daemon does the work\n" +
			"(usher agent); these commands ask it.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q", args[0])
			}
			return c.Help()
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%s", err) })
	f := c.PersistentFlags()
	f.StringVar(&a.socket, "socket", a.env("USHER_SOCKET", control.DefaultSocket), "the agent's socket (USHER_SOCKET)")
	f.StringVar(&a.config, "config", a.env("USHER_CONFIG", DefaultConfig), "the agent's TOML (USHER_CONFIG)")
	f.BoolVar(&a.json, "json", false, "answer in JSON")
	c.AddCommand(a.loginCommand(), a.logoutCommand(), a.eventsCommand(), a.joinCommand(), a.leaveCommand(),
		a.statusCommand(), a.saCommand(), a.policyCommand(), a.upCommand(), a.downCommand(),
		a.agentCommand(), a.configCommand(), a.versionCommand())
	return c
}

func (a *app) env(name, otherwise string) string {
	if v := a.getenv(name); v != "" {
		return v
	}
	return otherwise
}

func (a *app) client() *control.Client { return control.NewClient(a.socket) }

// print writes v as JSON where asked for, else lets text write it.
func (a *app) print(v any, text func()) error {
	if !a.json {
		text()
		return nil
	}
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// noArgs is cobra.NoArgs with a sentence of ours.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, not %q", c.CommandPath(), args[0])
	}
	return nil
}

// someTitles asks for at least one title or id.
func someTitles(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("%s takes the title or the id of at least one event (usher events lists them)", c.CommandPath())
	}
	return nil
}

// completeTitles offers the titles of held tickets that keep passes.
func (a *app) completeTitles(keep func(control.Event) bool) cobra.CompletionFunc {
	return func(c *cobra.Command, given []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
		defer cancel()
		list, err := a.client().Events(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, e := range list.Events {
			if keep(e) && strings.HasPrefix(strings.ToLower(e.Title), strings.ToLower(prefix)) && !contains(given, e) {
				out = append(out, cobra.CompletionWithDesc(e.Title, role(e)))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func contains(given []string, e control.Event) bool {
	for _, g := range given {
		if g == e.Title || g == e.ID {
			return true
		}
	}
	return false
}
