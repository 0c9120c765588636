package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/server"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestExampleConfig: the commented example is good as it is, and with each of
// its settings switched on.
func TestExampleConfig(t *testing.T) {
	text, err := os.ReadFile("../configs/server.toml")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := server.LoadConfig(writeConfig(t, string(text)))
	if err != nil {
		t.Fatal(err)
	}
	want := server.DefaultConfig()
	if plain.State != want.State || plain.Ticket != want.Ticket || plain.Key != want.Key || plain.Database != "/var/lib/usher-server/usher.db" {
		t.Errorf("the example sets more than its hosts: %+v", plain)
	}
	var all strings.Builder
	on := 0
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") && strings.TrimSpace(rest) != "" {
			line = rest
			on++
		}
		all.WriteString(line)
	}
	if on < 8 {
		t.Fatalf("%d settings in the example can be switched on, there are more", on)
	}
	if _, err := server.LoadConfig(writeConfig(t, all.String())); err != nil {
		t.Errorf("with every setting switched on: %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	const ok = "hosts = [\"10.0.0.1\"]\n"
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "server.toml: hosts: missing"},
		{"unknown key", ok + "host = \"x\"\n", ":2: host: unknown key"},
		{"unknown key of a role", ok + "[key]\nstales = \"1h\"\n", ":3: key.stales: unknown key"},
		{"wrong type", "hosts = \"10.0.0.1\"\n", ":1: hosts: want a list"},
		{"bad host", "hosts = [\"10.0.0.1\",\n\"https://a\"]\n", `:2: hosts[1]: "https://a" is neither`},
		{"no such role", ok + "roles = [\"ticket\", \"web2\"]\n", `:2: roles[1]: "web2" is no role`},
		{"later role", ok + "roles = [\"gateway\"]\n", `:2: roles[0]: "gateway" is not in this version`},
		{"role twice", ok + "roles = [\"key\", \"key\"]\n", `:2: roles[1]: "key" stands there twice`},
		{"no role", ok + "roles = []\n", ":2: roles: empty"},
		{"relative state", ok + "state = \"here\"\n", `:2: state: "here" is no absolute path`},
		{"bad address", ok + "[ticket]\nlisten = \"7440\"\n", `:3: ticket.listen: "7440" is no address`},
		{"name to listen on", ok + "[ticket]\nlisten = \"localhost:7440\"\n", ":3: ticket.listen:"},
		{"one port for both", ok + "[key]\nlisten = \":7440\"\n", ":3: key.listen: ticket.listen has port 7440, too"},
		{"short tickets", ok + "[ticket]\ntickets = \"1s\"\n", ":3: ticket.tickets: 1s: from 1h"},
		{"no unit", ok + "[ticket]\ntickets = 24\n", ":3: ticket.tickets: want a duration"},
		{"certificate", ok + "[ticket]\ncertificate = \"event\"\n", `:3: ticket.certificate: "event" is not in this version`},
		{"stale", ok + "[key]\nstale = \"48h\"\n", ":3: key.stale: 48h0m0s: from 10s to 24h"},
		{"level", ok + "log_level = \"loud\"\n", ":2: log_level:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := server.LoadConfig(writeConfig(t, tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q in it", err, tt.want)
			}
			if strings.Contains(tt.want, "not in this version") != errors.Is(err, server.ErrNotInThisVersion) {
				t.Errorf("%v and ErrNotInThisVersion", err)
			}
		})
	}
}

func TestConfigURLs(t *testing.T) {
	c, err := server.LoadConfig(writeConfig(t, "hosts = [\"fd00::1\", \"x\"]\nlog_level = \"debug\"\n[key]\nlisten = \"[fd00::1]:999\"\nstale = \"2m\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.TicketURL() != "https://[fd00::1]:7440" || c.KeyURL() != "https://[fd00::1]:999" || c.Key.Stale != 2*time.Minute {
		t.Errorf("%s, %s, %s", c.TicketURL(), c.KeyURL(), c.Key.Stale)
	}
}
