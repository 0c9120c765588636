package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"usher/server"
	"usher/server/ticket"
)

// caJSON is what agents need to know of a server.
type caJSON struct {
	URL    string `json:"url"`
	SHA256 string `json:"ca_sha256"`
	KeyURL string `json:"key_url"`
	Ends   string `json:"ends"` // of the CA, a date
	Config string `json:"config"`
	State  string `json:"state"`
}

func (a *app) initCommand() *cobra.Command {
	c := server.DefaultConfig()
	var ticketPort, keyPort uint16
	cmd := &cobra.Command{
		Use:   "init --address HOST",
		Short: "Make a new server: CA, keys, database and configuration",
		Long: "init makes a new server: a CA, the keys, an empty database and the TOML.\n" +
			"It prints the URL and the CA's fingerprint for the agents' TOML.\n" +
			"It overwrites nothing.",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(c.Hosts) == 0 {
				return usagef("%s: --address is missing: the name or address by which agents reach this server", cmd.CommandPath())
			}
			if ticketPort == 0 || keyPort == 0 {
				return usagef("%s: --ticket-port and --key-port: 0 is no port", cmd.CommandPath())
			}
			var err error
			if c.State, err = filepath.Abs(c.State); err != nil {
				return err
			}
			c.Ticket.Listen, c.Key.Listen = listenOn(ticketPort), listenOn(keyPort)
			if err := server.Setup(cmd.Context(), c, a.config, a.now()); err != nil {
				return err
			}
			return a.printCA(c, "Made a new server.")
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&c.Hosts, "address", nil, "name or address by which agents reach this server (repeatable; the first is in the URL)")
	f.StringVar(&c.State, "dir", c.State, "folder for CA, keys and database")
	f.Uint16Var(&ticketPort, "ticket-port", server.DefaultTicketPort, "port of login and tickets")
	f.Uint16Var(&keyPort, "key-port", server.DefaultKeyPort, "port of keys")
	return cmd
}

func listenOn(port uint16) string { return net.JoinHostPort("", strconv.Itoa(int(port))) }

func (a *app) caCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ca",
		Short: "Print the URL and the CA's fingerprint for the agents' TOML",
		Args:  takes(),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			return a.printCA(c, "")
		},
	}
}

func (a *app) printCA(c server.Config, head string) error {
	cert, err := ticket.ReadCA(c.State)
	if err != nil {
		return err
	}
	v := caJSON{URL: c.TicketURL(), KeyURL: c.KeyURL(), SHA256: ticket.Fingerprint(cert),
		Ends: cert.NotAfter.UTC().Format("2006-01-02"), Config: a.config, State: c.State}
	return a.print(v, func(w io.Writer) {
		if head != "" {
			fmt.Fprintf(w, "%s\n\nconfig:\t%s\nstate:\t%s\nkeys:\t%s\n\nFor the agents' TOML:\n\n", head, v.Config, v.State, v.KeyURL)
		}
		fmt.Fprintf(w, "server = %q\nca_sha256 = %q\n", v.URL, v.SHA256)
		if head != "" {
			fmt.Fprint(w, "\nNext: usher-server run\n")
		}
	})
}

func (a *app) configCommand() *cobra.Command {
	check := &cobra.Command{
		Use:   "check",
		Short: "Check the TOML; name file, line and key of each fault",
		Args:  takes(),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			return a.print(map[string]any{"config": a.config, "ok": true, "roles": c.Roles}, func(w io.Writer) {
				fmt.Fprintf(w, "%s is good.\n", a.config)
			})
		},
	}
	return parent("config", "Look at the configuration", check)
}
