package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"usher/cmd/usher/agent"
	"usher/cmd/usher/agent/config"
	"usher/cmd/usher/control"
)

func (a *app) upCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "up",
		Short: "Load the configuration, and set interface, routes and guard up",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.done(a.client().Up(c.Context()))
		},
	}
}

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove interface, routes and guard: nothing is protected any more",
		Long: "down removes what the agent set up on this host, until usher up or the next\n" +
			"start of the agent. As root it works without an agent, too.",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := a.client().Down(c.Context())
			if !errors.Is(err, control.ErrNoAgent) {
				return a.done(d, err)
			}
			return a.done(a.down(a.socket))
		},
	}
}

// downer removes what an agent that is gone left on this host.
type downer func(socket string) (*control.Done, error)

// removeFromHost is the real downer.
func removeFromHost(socket string) (*control.Done, error) {
	if os.Geteuid() != 0 {
		return nil, control.Errorf(control.CodeForbidden, "no agent is running, and without it only root may remove what it left").
			WithHint("sudo usher down")
	}
	// An agent that is just starting must not find its interface gone.
	lock, err := control.Acquire(socket)
	if err != nil {
		return nil, err
	}
	defer lock.Release() //nolint:errcheck // the process ends
	if err := agent.Remove(); err != nil {
		return nil, fmt.Errorf("remove what the agent left: %w", err)
	}
	return &control.Done{Text: "Down: " + config.TUN + ", routes and guard are removed; no agent is running."}, nil
}

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Work on the agent's TOML", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(&cobra.Command{
		Use:   "check [FILE]",
		Short: "Tell whether the agent would take a TOML, with file, line and key of each fault",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one file, not %d", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			file := a.config
			if len(args) == 1 {
				file = args[0]
			}
			return a.checkConfig(file)
		},
	})
	return c
}

func (a *app) checkConfig(file string) error {
	conf, err := config.Load(file)
	if err == nil {
		var keys []*config.Key
		keys, err = conf.ReadKeys()
		for _, k := range keys {
			k.Wipe()
		}
	}
	if errors.Is(err, config.ErrNotInThisVersion) {
		return control.Errorf(control.CodeNotInThisVersion, "%v", err)
	}
	if err != nil {
		return control.Errorf(control.CodeConfig, "%v", err)
	}
	result := struct {
		File     string `json:"file"`
		Policies int    `json:"policies"`
		SAs      int    `json:"sas"`
	}{file, len(conf.Policies), len(conf.SAs)}
	return a.print(result, func() {
		fmt.Fprintf(a.out, "%s is good: %d [[policy]], %d [[sa]].\n", file, result.Policies, result.SAs)
	})
}
