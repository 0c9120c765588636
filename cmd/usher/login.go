package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"usher/cmd/usher/control"
)

// maxPassword bounds what is read of a password, in bytes.
const maxPassword = 1024

func (a *app) loginCommand() *cobra.Command {
	var name, file, ca string
	c := &cobra.Command{
		Use:   "login [URL --ca-sha256 HEX]",
		Short: "Log this host in, and fetch its tickets",
		Long: "login proves to the ticket server who this host's user is, gets a certificate\n" +
			"that the agent renews by itself, and fetches the tickets. URL and fingerprint\n" +
			"(usher-server init prints both) are written to the agent's TOML.",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one URL, not %d arguments", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			q := &control.LoginRequest{Name: name, CASHA256: strings.ToLower(strings.ReplaceAll(ca, ":", ""))}
			defer q.Wipe()
			if len(args) == 1 {
				q.Server = args[0]
			}
			if (q.Server == "") != (ca == "") {
				return usagef("the URL and --ca-sha256 belong together: usher-server init printed both")
			}
			return a.login(c.Context(), q, file)
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "the name to log in with (asked for, if not given)")
	f.StringVar(&file, "password-file", "", "read the password from this file's first line (-: stdin)")
	f.StringVar(&ca, "ca-sha256", "", "SHA-256 of the server's CA certificate, in hex")
	return c
}

func (a *app) login(ctx context.Context, q *control.LoginRequest, file string) error {
	// Asked first, so that nobody types a password for nothing.
	if _, err := a.client().Status(ctx); err != nil {
		return err
	}
	var err error
	if q.Name == "" {
		if q.Name, err = a.askName(); err != nil {
			return err
		}
	}
	if q.Password, err = a.password(file); err != nil {
		return err
	}
	r, err := a.client().Login(ctx, q)
	if err != nil {
		return err
	}
	return a.print(r, func() {
		fmt.Fprintf(a.out, "Logged in at %s as %s; the certificate is good until %s, and renewed by itself.\n",
			r.Server, printable(r.Client), moment(r.Until, time.Now()))
		if r.Wrote != "" {
			fmt.Fprintf(a.out, "Wrote server and ca_sha256 to %s.\n", r.Wrote)
		}
		switch {
		case r.Warning != "":
			fmt.Fprintf(a.err, "usher: %s\n", r.Warning)
		case r.Events == 1:
			fmt.Fprintln(a.out, "Your tickets hold 1 event: usher events")
		default:
			fmt.Fprintf(a.out, "Your tickets hold %d events: usher events\n", r.Events)
		}
	})
}

// errNoTerminal says that there is nobody to ask.
var errNoTerminal = errors.New("there is no terminal to ask for it: give --name and --password-file")

func (a *app) askName() (string, error) {
	if a.in == nil || !term.IsTerminal(int(a.in.Fd())) {
		return "", fmt.Errorf("the name is missing, and %w", errNoTerminal)
	}
	fmt.Fprint(a.err, "Name: ")
	line, err := bufio.NewReader(io.LimitReader(a.in, 256)).ReadString('\n')
	if name := strings.TrimSpace(line); name != "" {
		return name, nil
	}
	if err == nil {
		err = errors.New("it is empty")
	}
	return "", fmt.Errorf("the name: %w", err)
}

// password reads the password from a file, or from the terminal unseen.
func (a *app) password(file string) ([]byte, error) {
	if file != "" {
		return a.passwordFile(file)
	}
	if a.in == nil || !term.IsTerminal(int(a.in.Fd())) {
		return nil, fmt.Errorf("the password is missing, and %w", errNoTerminal)
	}
	fmt.Fprint(a.err, "Password: ")
	p, err := term.ReadPassword(int(a.in.Fd()))
	fmt.Fprintln(a.err)
	if err != nil {
		return nil, fmt.Errorf("the password: %w", err)
	}
	if len(p) == 0 {
		return nil, errors.New("the password is empty")
	}
	return p, nil
}

func (a *app) passwordFile(file string) ([]byte, error) {
	var in io.Reader = a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("the password file: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxPassword+1))
	if err != nil {
		return nil, fmt.Errorf("the password file: %w", err)
	}
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		clear(b[i:])
		b = bytes.TrimSuffix(b[:i], []byte("\r"))
	}
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("the password file %s begins with an empty line", file)
	case len(b) > maxPassword:
		return nil, fmt.Errorf("the first line of the password file %s is longer than %d bytes", file, maxPassword)
	}
	return b, nil
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Forget identity, tickets and joins",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.done(a.client().Logout(c.Context()))
		},
	}
}

// done prints the sentence of a command that has little to tell.
func (a *app) done(d *control.Done, err error) error {
	if err != nil {
		return err
	}
	return a.print(d, func() { fmt.Fprintln(a.out, d.Text) })
}
