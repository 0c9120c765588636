package config

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"usher/configs/strict"
	"usher/sa/esp"
)

// TUN is the name of the virtual interface.
const TUN = "usher0"

// Config is the agent's TOML. Zero values of optional keys are replaced by
// their defaults when it is read.
type Config struct {
	Server    string `toml:"server"`    // https URL of the ticket server
	CASHA256  string `toml:"ca_sha256"` // SHA-256 of its CA certificate, 64 hex digits
	Interface string `toml:"interface"` // real interface; "" follows the routes
	Port      uint16 `toml:"port"`      // UDP port of ESP; default 4500
	MTU       int    `toml:"mtu"`       // of usher0, bytes; 0: the real interface's less the overhead
	ShowKeys  bool   `toml:"show_keys"` // usher sa --show-keys may show keys to root
	// FollowPrograms keys what programs of this host join, as usher join does, for
	// as long as they want it. Off by default: what is received is what was joined.
	FollowPrograms bool   `toml:"follow_programs"`
	Guard          string `toml:"guard"`   // "group"
	Device         string `toml:"device"`  // "wireguard"
	Offload        string `toml:"offload"` // "auto" or "off"
	OuterFragments bool   `toml:"outer_fragments"`
	Clock          string `toml:"clock"`    // "server"
	Activate       string `toml:"activate"` // "received"
	Paths          Paths  `toml:"paths"`

	Policies []Policy `toml:"policy"` // manual, in order
	SAs      []SA     `toml:"sa"`     // manual

	file    string
	pos     *strict.Positions
	missing bool
}

// Paths are where the agent keeps things.
type Paths struct {
	State string `toml:"state"` // identity, tickets, joins, reservations
	Run   string `toml:"run"`   // locks
}

// Action is what a manual policy does with its packets.
type Action string

// The actions; bypass is not in this version.
const (
	ActionProtect Action = "protect"
	ActionBypass  Action = "bypass"
	ActionDiscard Action = "discard"
)

// Policy is one [[policy]].
type Policy struct {
	Name        string `toml:"name"`
	Source      Prefix `toml:"source"`      // not given: any
	Destination Prefix `toml:"destination"` // an IPv4 group, in this version
	Protocol    string `toml:"protocol"`    // "udp"
	Ports       Ports  `toml:"ports"`       // destination ports
	Action      Action `toml:"action"`      // default "protect"
	TTL         uint8  `toml:"ttl"`         // of outer packets; default 64
}

// Direction is what a manual association is used for.
type Direction string

// The directions.
const (
	DirectionSend    Direction = "send"
	DirectionReceive Direction = "receive"
	DirectionBoth    Direction = "both"
)

// Sends tells whether packets leave under the association.
func (d Direction) Sends() bool { return d == DirectionSend || d == DirectionBoth }

// Replay is how replayed packets are told (docs/design.md §3, "Replay").
type Replay string

// The replay modes.
const (
	ReplaySender   Replay = "sender"
	ReplaySequence Replay = "sequence"
	ReplayNone     Replay = "none"
)

// SA is one [[sa]].
type SA struct {
	Policy      string        `toml:"policy"`      // name of the [[policy]] that it serves
	SPI         uint32        `toml:"spi"`         // 256 and up (RFC 4303 §2.1)
	Destination netip.Addr    `toml:"destination"` // default: its policy's
	Direction   Direction     `toml:"direction"`   // what this host does with it
	Transform   esp.Transform `toml:"transform"`   // default aes-256-gcm
	KeyFile     string        `toml:"key_file"`    // 72 hex digits: key 32 ‖ salt 4
	Key         *Key          `toml:"key"`         // the same, in the TOML; key_file is better
	SenderID    *uint16       `toml:"sender_id"`   // unique among the senders of one key
	Replay      Replay        `toml:"replay"`      // default "sender"
	Gather      time.Duration `toml:"gather"`      // how long a sender collects a batch; default 200 µs
}

// Load reads and checks a file. The error joins one *strict.Error for each
// fault, in no more words than fit a line each; there is no Config beside an
// error. Key files are not read: see [Config.ReadKeys].
func Load(file string) (*Config, error) {
	c := &Config{}
	pos, err := strict.Load(file, c)
	return finish(c, file, pos, err)
}

// Parse is Load for a text in memory; name is what errors call it.
func Parse(name string, text []byte) (*Config, error) {
	c := &Config{}
	pos, err := strict.Parse(name, text, c)
	return finish(c, name, pos, err)
}

// None is the configuration of a host that has no file yet: all defaults.
func None(file string) *Config {
	c := &Config{file: file, pos: &strict.Positions{}, missing: true}
	c.defaults()
	return c
}

// Missing tells a Config that None made.
func (c *Config) Missing() bool { return c.missing }

func finish(c *Config, file string, pos *strict.Positions, err error) (*Config, error) {
	if err != nil {
		return nil, err
	}
	c.file, c.pos = file, pos
	c.defaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

// defaults fills in what the file leaves out; a value that stands there, be it
// zero, is left to check.
func (c *Config) defaults() {
	def(c, "port", &c.Port, 4500)
	def(c, "guard", &c.Guard, "group")
	def(c, "device", &c.Device, "wireguard")
	def(c, "offload", &c.Offload, "auto")
	def(c, "clock", &c.Clock, "server")
	def(c, "activate", &c.Activate, "received")
	def(c, "paths.state", &c.Paths.State, "/var/lib/usher")
	def(c, "paths.run", &c.Paths.Run, "/run/usher")
	for i := range c.Policies {
		p, at := &c.Policies[i], fmt.Sprintf("policy[%d].", i)
		def(c, at+"protocol", &p.Protocol, "udp")
		def(c, at+"action", &p.Action, ActionProtect)
		def(c, at+"ttl", &p.TTL, 64)
	}
	for i := range c.SAs {
		s, at := &c.SAs[i], fmt.Sprintf("sa[%d].", i)
		def(c, at+"transform", &s.Transform, esp.AES256GCM)
		def(c, at+"replay", &s.Replay, ReplaySender)
		def(c, at+"gather", &s.Gather, 200*time.Microsecond)
		if p := c.policy(s.Policy); p != nil && p.Destination.IsValid() && p.Destination.IsSingleIP() {
			def(c, at+"destination", &s.Destination, p.Destination.Addr())
		}
	}
}

func def[T any](c *Config, key string, v *T, otherwise T) {
	if c.pos.Line(key) == 0 {
		*v = otherwise
	}
}

// File is the name under which the configuration was read.
func (c *Config) File() string { return c.file }

// Policy finds a manual policy by name, nil if there is none.
func (c *Config) Policy(name string) *Policy { return c.policy(name) }

func (c *Config) policy(name string) *Policy {
	for i := range c.Policies {
		if c.Policies[i].Name == name {
			return &c.Policies[i]
		}
	}
	return nil
}

// Errorf names a key of the file in an error: for what shows only when the
// configuration is used.
func (c *Config) Errorf(key, format string, args ...any) error {
	return c.pos.Errorf(key, format, args...)
}

// Prefix is an address or a prefix: "10.1.2.3" means 10.1.2.3/32.
type Prefix struct{ netip.Prefix }

// UnmarshalText reads either form.
func (p *Prefix) UnmarshalText(text []byte) error {
	if a, err := netip.ParseAddr(string(text)); err == nil && a.Zone() == "" {
		p.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	q, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf(`want an address such as "232.1.2.3" or a prefix such as "10.0.0.0/8", not %q`, text)
	}
	if q != q.Masked() {
		return fmt.Errorf("%s has bits behind its length: %s is meant?", q, q.Masked())
	}
	p.Prefix = q
	return nil
}

// Ports is a port, or a range of them.
type Ports struct{ First, Last uint16 }

// errPorts says how ports are written.
var errPorts = errors.New(`want ports such as "5004" or "5000-5010"`)

// UnmarshalText reads "5004" or "5000-5010".
func (p *Ports) UnmarshalText(text []byte) error {
	first, last, isRange := cut(string(text))
	a, err := port(first)
	if err != nil {
		return err
	}
	b := a
	if isRange {
		if b, err = port(last); err != nil {
			return err
		}
	}
	if a > b {
		return fmt.Errorf("the range %s ends before it begins", text)
	}
	*p = Ports{First: a, Last: b}
	return nil
}

// Contains tells whether a port is one of them.
func (p Ports) Contains(port uint16) bool { return p.First <= port && port <= p.Last }

// String writes what UnmarshalText reads.
func (p Ports) String() string {
	if p.First == p.Last {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}
