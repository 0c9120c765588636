package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"
	slogjournal "github.com/systemd/slog-journal"

	"usher/keyclient/clock"
	"usher/server"
)

func (a *app) runCommand() *cobra.Command {
	var advance, newKeys bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Serve tickets and keys until interrupted",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := a.load()
			if err != nil {
				return err
			}
			if err := server.Harden(); err != nil {
				return err
			}
			log, err := a.logger(c.LogLevel)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			s, err := server.New(ctx, c, server.Options{Log: log, Clock: clock.System(), Advance: advance, NewKeys: newKeys})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			notify(log, daemon.SdNotifyReady)
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				select {
				case <-ctx.Done():
					notify(log, daemon.SdNotifyStopping)
				case <-stop:
				}
			}()
			return s.Run(ctx)
		},
	}
	cmd.Flags().BoolVar(&advance, "advance", false, "start although the clock is more than a day ahead of the key ratchet (after a long pause)")
	cmd.Flags().BoolVar(&newKeys, "new-keys", false, "make ratchet and master key anew where they are lost, as after a restore from a backup: occurrences that have keys already get no further ones")
	return cmd
}

// notify tells systemd where the service stands; without systemd it does nothing.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "error", err)
	}
}

// logger writes to the journal where standard error is the journal, else text.
func (a *app) logger(level slog.Level) (*slog.Logger, error) {
	if toJournal, err := journal.StderrIsJournalStream(); err == nil && toJournal && a.err == io.Writer(os.Stderr) {
		h, err := slogjournal.NewHandler(&slogjournal.Options{Level: level, ReplaceAttr: upper, ReplaceGroup: strings.ToUpper})
		if err != nil {
			return nil, fmt.Errorf("log to the journal: %w", err)
		}
		return slog.New(h), nil
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level})), nil
}

// upper spells a key as the journal wants its fields.
func upper(_ []string, at slog.Attr) slog.Attr {
	at.Key = strings.ToUpper(at.Key)
	return at
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  takes(),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{version(), runtime.Version()}
			return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "usher-server %s (%s)\n", v.Version, v.Go) })
		},
	}
}

// version is what the build says of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}
