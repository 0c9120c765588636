package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"usher/configs/strict"
)

// Roles of a server.
const (
	RoleTicket = "ticket"
	RoleKey    = "key"
)

// Defaults of a server.
const (
	DefaultState      = "/var/lib/usher-server"
	DefaultConfigFile = "/etc/usher-server/server.toml"
	DefaultTicketPort = 7440
	DefaultKeyPort    = 7441
)

// Config is server.toml.
type Config struct {
	// Hosts are the names and addresses by which agents reach this server: its
	// certificates are for these, its URLs have the first.
	Hosts []string `toml:"hosts"`
	// Roles of this process; both by default.
	Roles []string `toml:"roles"`
	// State is the folder of the CA, the keys and, unless Database says
	// otherwise, the database.
	State    string `toml:"state"`
	Database string `toml:"database"`
	// LogLevel is debug, info, warn or error.
	LogLevel slog.Level `toml:"log_level"`

	Ticket TicketConfig `toml:"ticket"`
	Key    KeyConfig    `toml:"key"`
}

// TicketConfig is the ticket role's.
type TicketConfig struct {
	Listen string `toml:"listen"`
	// Tickets is how long a ticket is valid; it is renewed at half of it.
	Tickets time.Duration `toml:"tickets"`
	// Certificate is "group": one for a ticket. ("event", one for each entry,
	// is not in this version.)
	Certificate string `toml:"certificate"`
}

// KeyConfig is the key role's.
type KeyConfig struct {
	Listen string `toml:"listen"`
	// Stale is how long the role serves without its store (docs/keying.md §6).
	Stale time.Duration `toml:"stale"`
}

// DefaultConfig is what holds where a file says nothing.
func DefaultConfig() Config {
	return Config{
		Roles: []string{RoleTicket, RoleKey}, State: DefaultState,
		Ticket: TicketConfig{Listen: ":" + strconv.Itoa(DefaultTicketPort), Tickets: 24 * time.Hour, Certificate: "group"},
		Key:    KeyConfig{Listen: ":" + strconv.Itoa(DefaultKeyPort), Stale: time.Hour},
	}
}

// LoadConfig reads a server.toml. What is unknown, of a wrong type or a
// contradiction is refused with file, line and key, all of it at once.
func LoadConfig(file string) (Config, error) {
	c := DefaultConfig()
	positions, err := strict.Load(file, &c)
	if err != nil {
		return Config{}, err
	}
	if c.Database == "" {
		c.Database = filepath.Join(c.State, "usher.db")
	}
	if err := c.check(positions.Errorf); err != nil {
		return Config{}, err
	}
	return c, nil
}

// check joins all contradictions; fault makes the error of one key.
func (c *Config) check(fault func(key, format string, args ...any) error) error {
	var faults []error
	bad := func(key, format string, args ...any) { faults = append(faults, fault(key, format, args...)) }
	if len(c.Hosts) == 0 {
		bad("hosts", `missing: the names and addresses by which agents reach this server, such as ["usher.example.org"]`)
	}
	for i, h := range c.Hosts {
		if !isHost(h) {
			bad(fmt.Sprintf("hosts[%d]", i), "%q is neither a host name nor an address", h)
		}
	}
	if len(c.Roles) == 0 {
		bad("roles", "empty: the process would do nothing")
	}
	for i, r := range c.Roles {
		switch {
		case r == "gateway" || r == "web":
			bad(fmt.Sprintf("roles[%d]", i), "%q is %w", r, ErrNotInThisVersion)
		case r != RoleTicket && r != RoleKey:
			bad(fmt.Sprintf("roles[%d]", i), `%q is no role: "ticket", "key"`, r)
		case slices.Index(c.Roles, r) != i:
			bad(fmt.Sprintf("roles[%d]", i), "%q stands there twice", r)
		}
	}
	for _, p := range []struct{ key, path string }{{"state", c.State}, {"database", c.Database}} {
		if !filepath.IsAbs(p.path) {
			bad(p.key, "%q is no absolute path", p.path)
		}
	}
	ports := map[string]string{}
	for _, l := range []struct{ key, address string }{{"ticket.listen", c.Ticket.Listen}, {"key.listen", c.Key.Listen}} {
		port, err := listenPort(l.address)
		switch {
		case err != nil:
			bad(l.key, `%q is no address to listen on, such as ":7440" or "10.0.0.1:7440"`, l.address)
		case port != "0" && ports[port] != "":
			bad(l.key, "%s has port %s, too: each role has a port of its own", ports[port], port)
		default:
			ports[port] = l.key
		}
	}
	if c.Ticket.Tickets < time.Hour || c.Ticket.Tickets > 31*24*time.Hour {
		bad("ticket.tickets", "%s: from 1h to 744h (31 days)", c.Ticket.Tickets)
	}
	switch c.Ticket.Certificate {
	case "group":
	case "event":
		bad("ticket.certificate", `"event" is %w`, ErrNotInThisVersion)
	default:
		bad("ticket.certificate", `%q: "group" is known`, c.Ticket.Certificate)
	}
	if c.Key.Stale < 10*time.Second || c.Key.Stale > 24*time.Hour {
		bad("key.stale", "%s: from 10s to 24h", c.Key.Stale)
	}
	return errors.Join(faults...)
}

func listenPort(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if host != "" && net.ParseIP(host) == nil {
		return "", fmt.Errorf("%q is no address", host)
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return port, err
}

func isHost(h string) bool {
	if net.ParseIP(h) != nil {
		return true
	}
	u, err := url.Parse("https://" + h)
	return h != "" && err == nil && u.Host == h && u.Port() == "" && u.User == nil
}

// Has tells whether this process has a role.
func (c *Config) Has(role string) bool { return slices.Contains(c.Roles, role) }

// TicketURL is what an agent's TOML has as server.
func (c *Config) TicketURL() string { return c.url(c.Ticket.Listen) }

// KeyURL is the key server of an event that names none.
func (c *Config) KeyURL() string { return c.url(c.Key.Listen) }

func (c *Config) url(listen string) string {
	if len(c.Hosts) == 0 {
		return ""
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: "https", Host: net.JoinHostPort(c.Hosts[0], port)}).String()
}

// path of a file in the state folder.
func (c *Config) path(name string) string { return filepath.Join(c.State, name) }
