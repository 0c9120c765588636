package config

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"usher/sa/esp"
)

// check finds what is wrong beyond types: values that do not exist, values that
// this version lacks, and contradictions.
func (c *Config) check() error {
	k := &checker{c: c}
	k.server()
	k.choice("guard", c.Guard, "group", "exact")
	k.choice("device", c.Device, "wireguard", "water")
	k.choice("clock", c.Clock, "server", "host")
	k.choice("activate", c.Activate, "received", "initiation")
	if c.Offload != "auto" && c.Offload != "off" {
		k.fault("offload", `want "auto" or "off", not %q`, c.Offload)
	}
	if c.Port == 0 {
		k.fault("port", "0 is no port")
	}
	if c.OuterFragments {
		k.fault("outer_fragments", "true is %w", ErrNotInThisVersion)
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		k.fault("mtu", "want %d to %d bytes, or 0 for what fits the real interface, not %d", minMTU, maxMTU, c.MTU)
	}
	if c.Interface == TUN || c.Interface == "lo" {
		k.fault("interface", "want the real interface, not %q", c.Interface)
	}
	if len(c.Interface) > 15 || c.Interface == "." || c.Interface == ".." || strings.ContainsFunc(c.Interface, unfitForName) {
		k.fault("interface", "%q cannot be an interface's name", c.Interface)
	}
	for key, path := range map[string]string{"paths.state": c.Paths.State, "paths.run": c.Paths.Run} {
		if !filepath.IsAbs(path) {
			k.fault(key, "want an absolute path, not %q", path)
		}
	}
	for i := range c.Policies {
		k.policy(i)
	}
	for i := range c.SAs {
		k.sa(i)
	}
	return errors.Join(k.faults...)
}

// unfitForName tells what the kernel takes in no interface's name, and what no
// terminal shows.
func unfitForName(r rune) bool { return r == '/' || r == ':' || r == ' ' || !unicode.IsPrint(r) }

// The bounds of a usable MTU: what IPv4 asks of every host (RFC 791), and what
// an offloaded packet can be.
const (
	minMTU = 576
	maxMTU = 65535
)

type checker struct {
	c      *Config
	faults []error
}

// fault notes a fault. The strict error holds text only, so a sentinel among
// the arguments is joined behind it for errors.Is.
func (k *checker) fault(key, format string, args ...any) {
	text := fmt.Errorf(format, args...)
	k.faults = append(k.faults, &fault{where: k.c.pos.Errorf(key, "%s", text), why: text})
}

// fault is a *strict.Error that also answers errors.Is for its reason.
type fault struct{ where, why error }

func (f *fault) Error() string   { return f.where.Error() }
func (f *fault) Unwrap() []error { return []error{f.where, f.why} }

// choice checks a key that has one value now and others later.
func (k *checker) choice(key, value, now string, later ...string) {
	if value == now {
		return
	}
	for _, l := range later {
		if value == l {
			k.fault(key, "%q is %w; leave the key out", value, ErrNotInThisVersion)
			return
		}
	}
	k.fault(key, "want %q, not %q", now, value)
}

func (k *checker) server() {
	c := k.c
	if c.Server == "" && c.CASHA256 != "" {
		k.fault("ca_sha256", "there is no server that it could be of")
	}
	if c.Server != "" {
		if err := CheckServer(c.Server); err != nil {
			k.fault("server", "%w", err)
		}
		if c.CASHA256 == "" {
			k.fault("server", "ca_sha256 is missing: usher-server init printed it beside the URL")
		}
	}
	if c.CASHA256 != "" {
		if err := CheckFingerprint(c.CASHA256); err != nil {
			k.fault("ca_sha256", "%w", err)
		}
	}
}

// CheckServer tells whether a text can be the ticket server's URL.
func CheckServer(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("want a URL such as \"https://usher.example.net:7440\", not %q", redactURL(s, u))
	}
	if text := u.Port(); text != "" {
		if _, err := port(text); err != nil {
			return fmt.Errorf("%q: there is no port %s", redactURL(s, u), text)
		}
	}
	return nil
}

// redactURL keeps a password that somebody put in a URL out of the error.
func redactURL(s string, u *url.URL) string {
	if u != nil {
		return u.Redacted()
	}
	if strings.Contains(s, "@") {
		return "REDACTED"
	}
	return s
}

// CheckFingerprint tells whether a text can be a CA's SHA-256.
func CheckFingerprint(s string) error {
	if len(s) != 64 || strings.Trim(strings.ToLower(s), "0123456789abcdef") != "" {
		return errors.New("want 64 hex digits, as usher-server init printed them")
	}
	return nil
}

func (k *checker) policy(i int) {
	c, p := k.c, &k.c.Policies[i]
	at := func(key string) string { return fmt.Sprintf("policy[%d].%s", i, key) }
	switch {
	case p.Name == "":
		k.fault(at("name"), "is missing")
	case c.policy(p.Name) != p:
		k.fault(at("name"), "%q stands at line %d, too", p.Name, c.pos.Line(k.nameOf(p.Name)))
	}
	switch p.Action {
	case ActionProtect, ActionDiscard:
	case ActionBypass:
		k.fault(at("action"), "%q is %w", p.Action, ErrNotInThisVersion)
	default:
		k.fault(at("action"), `want "protect" or "discard", not %q`, p.Action)
	}
	switch p.Protocol {
	case "udp":
	case "tcp", "sctp", "any":
		k.fault(at("protocol"), "%q is %w", p.Protocol, ErrNotInThisVersion)
	default:
		k.fault(at("protocol"), `want "udp", not %q`, p.Protocol)
	}
	k.policyDestination(at("destination"), p)
	if p.Source.IsValid() && p.Source.Addr().Is6() {
		k.fault(at("source"), "IPv6 is %w", ErrNotInThisVersion)
	} else if p.Source.IsValid() && p.Source.IsSingleIP() && (p.Source.Addr().IsMulticast() || p.Source.Addr().IsUnspecified() || p.Source.Addr().IsLoopback()) {
		k.fault(at("source"), "%s is no host's address", p.Source.Addr())
	}
	if c.pos.Line(at("ports")) == 0 {
		k.fault(at("ports"), "is missing")
	} else if p.Ports.Contains(c.Port) {
		k.fault(at("ports"), "%s includes %d, the port of protected packets themselves", p.Ports, c.Port)
	}
	if p.TTL == 0 {
		k.fault(at("ttl"), "0 would reach nobody")
	}
	for j := range i {
		if same(&c.Policies[j], p) {
			k.fault(fmt.Sprintf("policy[%d]", i), "names the same packets as %q at line %d, which comes first",
				c.Policies[j].Name, c.pos.Line(fmt.Sprintf("policy[%d]", j)))
		}
	}
}

func (k *checker) nameOf(policy string) string {
	for i := range k.c.Policies {
		if k.c.Policies[i].Name == policy {
			return fmt.Sprintf("policy[%d].name", i)
		}
	}
	return ""
}

func same(a, b *Policy) bool {
	return a.Source == b.Source && a.Destination == b.Destination && a.Protocol == b.Protocol && a.Ports == b.Ports
}

func (k *checker) policyDestination(key string, p *Policy) {
	d := p.Destination
	switch {
	case !d.IsValid():
		k.fault(key, "is missing")
	case d.Addr().Is6():
		k.fault(key, "IPv6 is %w", ErrNotInThisVersion)
	case !d.Addr().IsMulticast():
		k.fault(key, "a unicast destination is %w: want a group, 224.0.0.0 to 239.255.255.255", ErrNotInThisVersion)
	case !d.IsSingleIP():
		k.fault(key, "a range of groups is %w: want one group for each policy", ErrNotInThisVersion)
	case d.Addr().IsLinkLocalMulticast():
		k.fault(key, "%s is the network's own (224.0.0.0/24), and never protected", d.Addr())
	}
}

func (k *checker) sa(i int) {
	c, s := k.c, &k.c.SAs[i]
	at := func(key string) string { return fmt.Sprintf("sa[%d].%s", i, key) }
	p := c.policy(s.Policy)
	switch {
	case s.Policy == "":
		k.fault(at("policy"), "is missing: an association without a policy is never used")
	case p == nil:
		k.fault(at("policy"), "there is no [[policy]] named %q", s.Policy)
	case p.Action != ActionProtect:
		k.fault(at("policy"), "%q does not protect (action %q), so it takes no association", s.Policy, p.Action)
	case s.Destination.IsValid() && p.Destination.IsValid() && !p.Destination.Contains(s.Destination):
		k.fault(at("destination"), "%s is not the destination of policy %q, %s", s.Destination, s.Policy, p.Destination)
	}
	if s.SPI < 256 {
		k.fault(at("spi"), "want 256 or more (RFC 4303 §2.1), not %d", s.SPI)
	}
	if err := s.Transform.Check(); err != nil {
		if errors.Is(err, esp.ErrNotInThisVersion) {
			err = ErrNotInThisVersion
		}
		k.fault(at("transform"), "%s: %w", s.Transform, err)
	}
	switch s.Direction {
	case DirectionSend, DirectionReceive, DirectionBoth:
	case "":
		k.fault(at("direction"), `is missing: "send", "receive" or "both"`)
	default:
		k.fault(at("direction"), `want "send", "receive" or "both", not %q`, s.Direction)
	}
	switch s.Replay {
	case ReplaySender, ReplaySequence, ReplayNone:
	default:
		k.fault(at("replay"), `want "sender", "sequence" or "none", not %q`, s.Replay)
	}
	switch {
	case s.KeyFile == "" && s.Key == nil:
		k.fault(at("key_file"), "is missing")
	case s.KeyFile != "" && s.Key != nil:
		k.fault(at("key"), "key_file is there, too: want one of them")
	case s.KeyFile != "" && !filepath.IsAbs(s.KeyFile):
		k.fault(at("key_file"), "want an absolute path, not %q", s.KeyFile)
	}
	if s.Direction.Sends() && s.SenderID == nil {
		k.fault(at("sender_id"), "is missing: two senders of one key need two numbers, or they betray each other's packets")
	}
	for _, key := range []string{at("sender_id"), at("gather")} {
		if s.Direction == DirectionReceive && c.pos.Line(key) > 0 {
			k.fault(key, "is for what sends, and this association receives: leave the key out")
		}
	}
	if s.Gather < 0 || s.Gather > maxGather {
		k.fault(at("gather"), "want 0 to %v, not %v", maxGather, s.Gather)
	}
	for j := range i {
		o := &c.SAs[j]
		if o.SPI == s.SPI && o.Destination == s.Destination {
			k.fault(at("spi"), "0x%08x to %s stands at line %d, too", s.SPI, s.Destination, c.pos.Line(fmt.Sprintf("sa[%d]", j)))
		}
		if o.Policy == s.Policy && o.Direction.Sends() && s.Direction.Sends() {
			k.fault(at("direction"), "policy %q sends under the association of line %d already", s.Policy, c.pos.Line(fmt.Sprintf("sa[%d]", j)))
		}
	}
}

// cut splits a range of ports.
func cut(s string) (first, last string, isRange bool) { return strings.Cut(s, "-") }

func port(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' || (len(s) > 1 && s[0] == '0') {
		return 0, fmt.Errorf("%w, not %q", errPorts, s)
	}
	return uint16(n), nil
}
