package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"usher/server"
	"usher/server/group"
	"usher/server/store"
	"usher/server/ticket"
)

type clientJSON struct {
	Name      string    `json:"name"`
	Number    uint32    `json:"number"`
	Groups    []string  `json:"groups"`
	Suspended bool      `json:"suspended"`
	Created   time.Time `json:"created"`
}

func (a *app) clientCommand() *cobra.Command {
	return parent("client", "Clients: who may log in",
		a.clientAdd(), a.clientList(), a.clientPassword(),
		a.membership("join CLIENT GROUP", "Put a client into a group", store.Tx.Join, "%s is in group %s.\n"),
		a.membership("leave CLIENT GROUP", "Take a client out of a group", store.Tx.Leave, "%s is no longer in group %s.\n"),
		a.clientSuspend(), a.clientRestore())
}

func describeClient(graph *group.Graph, c store.Client) clientJSON {
	v := clientJSON{Name: c.Name, Number: c.Number, Groups: []string{}, Suspended: c.Suspended, Created: c.Created}
	for _, g := range c.Groups {
		v.Groups = append(v.Groups, graph.Name(g))
	}
	return v
}

func (a *app) clientAdd() *cobra.Command {
	var groups []string
	var passwordFile string
	cmd := &cobra.Command{
		Use:   "add NAME --group GROUP",
		Short: "Register a client",
		Long: "add registers a client with a login name and a password, which is asked\n" +
			"for, or read from a file (- is standard input), up to its first line's end.",
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkName("client", args[0]), checkOnce("--group", groups)); err != nil {
				return err
			}
			hash, err := a.newPassword(args[0], passwordFile)
			if err != nil {
				return err
			}
			var v clientJSON
			err = a.update(cmd.Context(), func(_ server.Config, tx store.Tx) error {
				var numbers []uint32
				for _, name := range groups {
					g, err := tx.Group(cmd.Context(), name)
					if err != nil {
						return err
					}
					numbers = append(numbers, g.Number)
				}
				c, err := tx.AddClient(cmd.Context(), args[0], hash, numbers)
				if err != nil {
					return err
				}
				graph, err := group.Load(cmd.Context(), tx)
				if err != nil {
					return err
				}
				v = describeClient(graph, c)
				return nil
			})
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "Registered %s as client %d, groups: %s.\n", v.Name, v.Number, orDash(v.Groups))
			})
		},
	}
	cmd.Flags().StringArrayVar(&groups, "group", nil, "a group that the client is in (repeatable)")
	passwordFlag(cmd, &passwordFile)
	return cmd
}

func passwordFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "password-file", "", "file with the password (- is standard input); without it, a prompt")
}

// newPassword reads a password and hashes it.
func (a *app) newPassword(name, file string) (string, error) {
	password, err := a.readPassword(name, file)
	if err != nil {
		return "", err
	}
	return ticket.HashPassword(password)
}

// maxPasswordFile bounds what is read; a password has at most 1024 bytes.
const maxPasswordFile = 4096

func (a *app) readPassword(name, file string) (string, error) {
	if file == "" {
		return a.askPassword(name)
	}
	in := a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxPasswordFile))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

func (a *app) askPassword(name string) (string, error) {
	fd := int(a.in.Fd())
	if !term.IsTerminal(fd) {
		return "", usagef("there is no terminal to ask for the password on: give --password-file FILE, or --password-file - for standard input")
	}
	var said [2]string
	for i, question := range []string{"Password of " + name + ": ", "Once more: "} {
		fmt.Fprint(a.err, question)
		text, err := term.ReadPassword(fd)
		fmt.Fprintln(a.err)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		said[i] = string(text)
	}
	if said[0] != said[1] {
		return "", errors.New("the two passwords differ: nothing was changed")
	}
	return said[0], nil
}

func (a *app) clientPassword() *cobra.Command {
	var passwordFile string
	cmd := &cobra.Command{
		Use: "password NAME", Short: "Give a client a new password", Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			hash, err := a.newPassword(args[0], passwordFile)
			if err != nil {
				return err
			}
			return a.changeClient(cmd.Context(), args[0], "%s has a new password.\n", func(tx store.Tx, c store.Client) error {
				return tx.SetPassword(cmd.Context(), c.Number, hash)
			})
		},
	}
	passwordFlag(cmd, &passwordFile)
	return cmd
}

// changeClient changes one client and says so.
func (a *app) changeClient(ctx context.Context, name, done string, change func(store.Tx, store.Client) error) error {
	var v clientJSON
	err := a.update(ctx, func(_ server.Config, tx store.Tx) error {
		c, err := tx.Client(ctx, name)
		if err != nil {
			return err
		}
		if err := change(tx, c); err != nil {
			return err
		}
		graph, err := group.Load(ctx, tx)
		if err != nil {
			return err
		}
		c, err = tx.Client(ctx, name)
		v = describeClient(graph, c)
		return err
	})
	if err != nil {
		return err
	}
	return a.print(v, func(w io.Writer) { fmt.Fprintf(w, done, v.Name) })
}

func (a *app) membership(use, short string, change func(store.Tx, context.Context, uint32, uint32) error, done string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: takes("CLIENT", "GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeClient(cmd.Context(), args[0], fmt.Sprintf(done, "%s", strings.ReplaceAll(args[1], "%", "%%")), func(tx store.Tx, c store.Client) error {
				g, err := tx.Group(cmd.Context(), args[1])
				if err != nil {
					return err
				}
				err = change(tx, cmd.Context(), c.Number, g.Number)
				switch {
				case errors.Is(err, store.ErrExists):
					return fmt.Errorf("%w: client %q in group %q", store.ErrExists, args[0], args[1])
				case errors.Is(err, store.ErrNotFound):
					return fmt.Errorf("%w: client %q in group %q", store.ErrNotFound, args[0], args[1])
				}
				return err
			})
		},
	}
}

func (a *app) clientSuspend() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "suspend NAME",
		Short: "Give a client no further key",
		Long: "suspend withholds a client's next key, in every event: it goes dark at the\n" +
			"end of the last interval whose key it holds. Login and tickets go on working.",
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeClient(cmd.Context(), args[0], "%s gets no further key.\n", func(tx store.Tx, c store.Client) error {
				return tx.Suspend(cmd.Context(), c.Number, store.SourceOperator, reason)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

func (a *app) clientRestore() *cobra.Command {
	return &cobra.Command{
		Use: "restore NAME", Short: "Lift a suspension", Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeClient(cmd.Context(), args[0], "%s gets keys again.\n", func(tx store.Tx, c store.Client) error {
				err := tx.Restore(cmd.Context(), c.Number, store.SourceOperator)
				if errors.Is(err, store.ErrNotFound) {
					return fmt.Errorf("%w: suspension of client %q by an operator", store.ErrNotFound, args[0])
				}
				return err
			})
		},
	}
}

func (a *app) clientList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the clients", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := []clientJSON{}
			err := a.view(cmd.Context(), func(_ server.Config, r store.Reader) error {
				graph, err := group.Load(cmd.Context(), r)
				if err != nil {
					return err
				}
				clients, err := r.Clients(cmd.Context())
				list = list[:0] // the function may run again
				for _, c := range clients {
					list = append(list, describeClient(graph, c))
				}
				return err
			})
			if err != nil {
				return err
			}
			return a.print(map[string]any{"clients": list}, func(w io.Writer) {
				fmt.Fprintln(w, "NUMBER\tNAME\tGROUPS\tSTATE")
				for _, c := range list {
					state := "-"
					if c.Suspended {
						state = "suspended"
					}
					fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", c.Number, c.Name, orDash(c.Groups), state)
				}
			})
		},
	}
}
