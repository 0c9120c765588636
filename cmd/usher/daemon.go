package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	slogjournal "github.com/systemd/slog-journal"
	"golang.org/x/sys/unix"

	"usher/cmd/usher/agent"
	"usher/cmd/usher/control"
	"usher/keyclient/clock"
)

// agentRunner runs an agent until ctx ends.
type agentRunner func(ctx context.Context, o agent.Options) error

func (a *app) agentCommand() *cobra.Command {
	var debug bool
	c := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent: the daemon that owns usher0",
		Long: "agent runs in the foreground, or under systemd (configs/usher-agent.service).\n" +
			"Without a login it waits for one. When it ends, interface, routes and guard\n" +
			"stay: usher down removes them. SIGHUP loads the configuration again.",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if debug {
				level = slog.LevelDebug
			}
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			return a.agent(c.Context(), agent.Options{
				Config: a.config, Socket: a.socket, Log: logger(a.err, level), Clock: clock.System(), Reload: reload,
			})
		},
	}
	c.Flags().BoolVar(&debug, "debug", false, "log what a developer wants to know, too")
	return c
}

// runAgent is the real runner: it prepares the process, and tells systemd.
func runAgent(ctx context.Context, o agent.Options) error {
	if os.Geteuid() != 0 {
		return control.Errorf(control.CodeForbidden, "the agent needs root: it makes an interface, routes and firewall rules").WithHint("sudo usher agent")
	}
	if err := prepare(); err != nil {
		return err
	}
	o.Ready = func() { tell(o.Log, daemon.SdNotifyReady) }
	err := agent.Run(ctx, o)
	tell(o.Log, daemon.SdNotifyStopping)
	return err
}

// prepare makes the process fit to hold keys and to carry packets.
func prepare() error {
	// No core file and no debugger of the same user sees a key.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	// One loop a direction: with a single processor one would wait for the other.
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	return nil
}

// tell tells systemd, where it is there.
func tell(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "error", err)
	}
}

// logger writes to the journal where stderr is connected to it, else text.
func logger(stderr io.Writer, level slog.Level) *slog.Logger {
	if f, ok := stderr.(*os.File); ok && isJournal(f, os.Getenv("JOURNAL_STREAM")) {
		h, err := slogjournal.NewHandler(&slogjournal.Options{Level: level, ReplaceAttr: journalKey, ReplaceGroup: upper})
		if err == nil {
			return slog.New(h)
		}
		// The journal's own socket is missing: stderr reaches it, too.
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
}

// isJournal tells whether a file is the stream that systemd connected: the
// variable is inherited by programs whose stderr goes elsewhere.
func isJournal(f *os.File, stream string) bool {
	var device, inode uint64
	if _, err := fmt.Sscanf(stream, "%d:%d", &device, &inode); err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && uint64(st.Dev) == device && st.Ino == inode //nolint:unconvert // its type differs by platform
}

// journalKey gives an attribute a name that the journal takes.
func journalKey(_ []string, a slog.Attr) slog.Attr {
	a.Key = upper(a.Key)
	return a
}

func upper(key string) string { return strings.ToUpper(key) }
