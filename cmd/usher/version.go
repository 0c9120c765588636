package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"usher/cmd/usher/agent"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{agent.Version(), runtime.Version()}
			return a.print(v, func() { fmt.Fprintf(a.out, "usher %s (%s)\n", v.Version, v.Go) })
		},
	}
}
