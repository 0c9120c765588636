package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"usher/server"
	"usher/server/group"
	"usher/server/store"
)

type groupJSON struct {
	Name     string   `json:"name"`
	Number   uint32   `json:"number"`
	Parents  []string `json:"parents"`
	Children []string `json:"children"`
}

func (a *app) groupCommand() *cobra.Command {
	return parent("group", "Groups: who has which events",
		a.groupAdd(),
		a.groupArrow("link PARENT CHILD", "Give the clients of CHILD the events of PARENT, too", group.Link,
			"%[2]s has the events of %[1]s, too.\n"),
		a.groupArrow("unlink PARENT CHILD", "Take the events of PARENT from the clients of CHILD", group.Unlink,
			"%[2]s has the events of %[1]s no more by this way.\n"),
		a.groupList(), a.groupShow())
}

func (a *app) groupAdd() *cobra.Command {
	var parents []string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a group",
		Args:  takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkName("group", args[0]), checkOnce("--parent", parents)); err != nil {
				return err
			}
			var v groupJSON
			err := a.update(cmd.Context(), func(_ server.Config, tx store.Tx) error {
				g, err := tx.AddGroup(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				for _, p := range parents {
					if err := group.Link(cmd.Context(), tx, p, g.Name); err != nil {
						return err
					}
				}
				v, err = describeGroup(cmd.Context(), tx, g)
				return err
			})
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "Made group %s.\n", v.Name) })
		},
	}
	cmd.Flags().StringArrayVar(&parents, "parent", nil, "a group whose events its clients have, too (repeatable)")
	return cmd
}

// checkName refuses a name that lists could not show.
func checkName(what, name string) error {
	if name == "" || len(name) > 100 || strings.TrimSpace(name) != name || !utf8.ValidString(name) || strings.ContainsFunc(name, isControl) {
		return usagef("a %s's name has 1 to 100 printable bytes, without blanks at its ends", what)
	}
	return nil
}

// checkOnce refuses a repeatable flag that says the same twice.
func checkOnce(flag string, values []string) error {
	for i, v := range values {
		if slices.Contains(values[:i], v) {
			return usagef("%s %q is given twice", flag, v)
		}
	}
	return nil
}

func isControl(r rune) bool { return !unicode.IsPrint(r) }

func (a *app) groupArrow(use, short string, change func(ctx context.Context, tx store.Tx, parent, child string) error, done string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: takes("PARENT", "CHILD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.update(cmd.Context(), func(_ server.Config, tx store.Tx) error {
				return change(cmd.Context(), tx, args[0], args[1])
			})
			if err != nil {
				return err
			}
			return a.print(map[string]string{"parent": args[0], "child": args[1]}, func(w io.Writer) { fmt.Fprintf(w, done, args[0], args[1]) })
		},
	}
}

func describeGroup(ctx context.Context, r store.Reader, g store.Group) (groupJSON, error) {
	graph, err := group.Load(ctx, r)
	return groupOf(graph, g), err
}

func groupOf(graph *group.Graph, g store.Group) groupJSON {
	v := groupJSON{Name: g.Name, Number: g.Number, Parents: []string{}, Children: []string{}}
	if graph == nil {
		return v
	}
	for _, p := range graph.Parents(g.Number) {
		v.Parents = append(v.Parents, graph.Name(p))
	}
	for _, c := range graph.Children(g.Number) {
		v.Children = append(v.Children, graph.Name(c))
	}
	return v
}

func (a *app) groupList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the groups", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := []groupJSON{}
			err := a.view(cmd.Context(), func(_ server.Config, r store.Reader) error {
				groups, err := r.Groups(cmd.Context())
				if err != nil {
					return err
				}
				graph, err := group.Load(cmd.Context(), r)
				list = list[:0] // the function may run again
				for _, g := range groups {
					list = append(list, groupOf(graph, g))
				}
				return err
			})
			if err != nil {
				return err
			}
			return a.print(map[string]any{"groups": list}, func(w io.Writer) {
				fmt.Fprintln(w, "GROUP\tPARENTS")
				for _, g := range list {
					fmt.Fprintf(w, "%s\t%s\n", g.Name, orDash(g.Parents))
				}
			})
		},
	}
}

func (a *app) groupShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a group: its place in the graph, its events and clients", Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v := struct {
				groupJSON
				Ancestors []string    `json:"ancestors"`
				Events    []eventJSON `json:"events"`
				Clients   []string    `json:"clients"`
			}{}
			err := a.view(cmd.Context(), func(_ server.Config, r store.Reader) error {
				ctx := cmd.Context()
				g, err := r.Group(ctx, args[0])
				if err != nil {
					return err
				}
				graph, err := group.Load(ctx, r)
				if err != nil {
					return err
				}
				v.groupJSON = groupOf(graph, g)
				v.Ancestors, v.Events, v.Clients = []string{}, []eventJSON{}, []string{}
				for _, n := range graph.WithAncestors(g.Number)[1:] {
					v.Ancestors = append(v.Ancestors, graph.Name(n))
				}
				events, err := group.Events(ctx, r, g.Number)
				if err != nil {
					return err
				}
				for _, e := range events {
					v.Events = append(v.Events, a.eventOf(graph, e))
				}
				clients, err := r.Clients(ctx)
				for _, c := range clients {
					for _, in := range c.Groups {
						if in == g.Number {
							v.Clients = append(v.Clients, c.Name)
						}
					}
				}
				return err
			})
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "group:\t%s\nparents:\t%s\nchildren:\t%s\nancestors:\t%s\nclients:\t%s\n\n", v.Name,
					orDash(v.Parents), orDash(v.Children), orDash(v.Ancestors), orDash(v.Clients))
				a.printEvents(w, v.Events)
			})
		},
	}
}

func orDash(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ", ")
}
