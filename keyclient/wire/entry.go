package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"usher/keyclient/derive"
)

// Entry is one event's part of a ticket (docs/design.md §5, Fig 4). Its bytes
// are what the ticket's certificate lists by hash, so they are kept as they came.
type Entry struct {
	ID         derive.EventID `json:"id"`
	Title      string         `json:"title"`
	Senders    []netip.Addr   `json:"senders"`
	Flows      []Flow         `json:"flows"`
	Time       TimeExpr       `json:"time"`
	TTL        uint8          `json:"ttl"`         // of outer packets
	KeyServers []string       `json:"key_servers"` // https://host:port, in the order to try
	InitialMS  int64          `json:"initial_ms"`  // initial keying period
	FirstMS    int64          `json:"first_ms"`    // length of interval 0
	IntervalMS int64          `json:"interval_ms"` // length of the others
	WindowMS   int64          `json:"window_ms"`
	Preview    *Preview       `json:"preview,omitempty"`
	Refresh    Refresh        `json:"refresh"`
	Priority   int            `json:"priority"` // its group's
	Edition    uint16         `json:"edition"`  // grows with each change of the event's settings
}

// Flow is what an event's packets are addressed to.
type Flow struct {
	Protocol    string     `json:"protocol"` // "udp"
	Destination netip.Addr `json:"destination"`
	Ports       string     `json:"ports"` // "5004" or "5000-5010"
}

// TimeExpr says when an event takes place, in the terms of RFC 5545.
type TimeExpr struct {
	Start    string   `json:"dtstart"`  // local time, or UTC with a Z
	Zone     string   `json:"tzid"`     // IANA name; "" is UTC
	Duration string   `json:"duration"` // "" is without end
	Rule     string   `json:"rrule,omitempty"`
	Except   []string `json:"exdate,omitempty"`
}

// Preview is the part at an occurrence's beginning that is in the clear but
// authenticated (docs/keying.md §9).
type Preview struct {
	Count  uint32         // intervals
	Secret *derive.Secret // a ticket with one is itself secret
}

// Refresh is how an event's keys are renewed.
type Refresh struct {
	Method       string       `json:"method"` // "pull" or "push"
	Group        netip.Addr   `json:"group,omitzero"`
	Sources      []netip.Addr `json:"sources,omitempty"` // at most four
	Port         uint16       `json:"port,omitempty"`
	GenerationMS int64        `json:"generation_ms,omitempty"` // 0: the whole event
}

// Refresh methods.
const (
	RefreshPull = "pull"
	RefreshPush = "push"
)

// Limits of an entry.
const (
	maxTitle      = 200 // bytes
	maxSenders    = 16
	maxFlows      = 64
	maxKeyServers = 16
	maxExceptions = 1024
	maxSources    = 4
)

type previewJSON struct {
	Count  uint32 `json:"count"`
	Secret Bytes  `json:"secret"`
}

// MarshalJSON writes count and secret; this is where it travels.
func (p Preview) MarshalJSON() ([]byte, error) {
	return json.Marshal(previewJSON{p.Count, p.Secret.Bytes()})
}

// UnmarshalJSON reads count and secret.
func (p *Preview) UnmarshalJSON(b []byte) error {
	var j previewJSON
	if err := DecodeStrict(b, &j); err != nil {
		return err
	}
	defer clear(j.Secret)
	secret, err := derive.NewSecret(j.Secret)
	if err != nil {
		return fmt.Errorf("preview: %w", err)
	}
	p.Count, p.Secret = j.Count, secret
	return nil
}

// Encode writes the entry: equal entries have equal bytes. It returns nil for
// an entry that [Entry.Validate] refuses because it cannot be written at all.
func (e *Entry) Encode() []byte {
	b, err := encodeJSON(e)
	if err != nil {
		return nil
	}
	return b
}

// ParseEntry reads an entry and validates it. The error wraps ErrTooBig,
// ErrJSON or ErrEntry. What this version cannot do is told by
// [Entry.Unsupported], not here: such an entry is still protected.
func ParseEntry(b []byte) (*Entry, error) {
	if len(b) > MaxEntry {
		return nil, fmt.Errorf("%w: entry of %d bytes, at most %d", ErrTooBig, len(b), MaxEntry)
	}
	e := new(Entry)
	if err := DecodeStrict(b, e); err != nil {
		return nil, fmt.Errorf("entry: %w", err)
	}
	if err := e.Validate(); err != nil {
		return nil, err
	}
	return e, nil
}

// Validate checks what can be checked without a clock and a zone database: the
// rest of the time expression is package schedule's. The error wraps ErrEntry
// and names the field.
func (e *Entry) Validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w %q (%s): %w", ErrEntry, e.Title, e.ID, fmt.Errorf(format, args...))
	}
	switch {
	case e.ID == derive.EventID{}:
		return fail("id is missing")
	case e.Title == "" || len(e.Title) > maxTitle || strings.ContainsFunc(e.Title, isControl):
		return fail("title: 1 to %d bytes, printable", maxTitle)
	case len(e.Senders) == 0 || len(e.Senders) > maxSenders:
		return fail("senders: 1 to %d, not %d", maxSenders, len(e.Senders))
	case len(e.Flows) == 0 || len(e.Flows) > maxFlows:
		return fail("flows: 1 to %d, not %d", maxFlows, len(e.Flows))
	case e.TTL == 0:
		return fail("ttl is 0: nothing would leave the host")
	case len(e.KeyServers) == 0 || len(e.KeyServers) > maxKeyServers:
		return fail("key_servers: 1 to %d, not %d", maxKeyServers, len(e.KeyServers))
	case e.Time.Start == "" || len(e.Time.Except) > maxExceptions:
		return fail("time: dtstart is missing, or more than %d exdate", maxExceptions)
	case e.InitialMS < 0 || e.FirstMS <= 0 || e.IntervalMS <= 0 || e.WindowMS <= 0:
		return fail("initial_ms, first_ms, interval_ms, window_ms: must be positive")
	case e.Preview != nil && e.Preview.Count == 0:
		return fail("preview of no intervals")
	}
	for _, s := range e.Senders {
		if !isHost(s) {
			return fail("senders: %q is no host's address", s)
		}
	}
	for i, f := range e.Flows {
		if err := f.validate(); err != nil {
			return fail("flow %d: %w", i+1, err)
		}
	}
	for _, k := range e.KeyServers {
		if err := checkServerURL(k); err != nil {
			return fail("key_servers: %w", err)
		}
	}
	if err := e.Refresh.validate(); err != nil {
		return fail("refresh: %w", err)
	}
	return nil
}

func (f Flow) validate() error {
	if f.Protocol == "" || strings.ContainsFunc(f.Protocol, isControl) {
		return errors.New("protocol is missing")
	}
	if !f.Destination.IsValid() || f.Destination.Zone() != "" || f.Destination.Is4In6() || f.Destination.IsUnspecified() {
		return fmt.Errorf("destination %q is no address", f.Destination)
	}
	_, _, err := f.PortRange()
	return err
}

// PortRange returns the first and the last port of the flow, both included.
func (f Flow) PortRange() (first, last uint16, err error) {
	from, to, isRange := strings.Cut(f.Ports, "-")
	if !isRange {
		to = from
	}
	first, err = parsePort(from)
	if err == nil {
		last, err = parsePort(to)
	}
	if err != nil || first > last || isRange && first == last {
		return 0, 0, fmt.Errorf(`ports %q: a port "5004" or a range "5000-5010"`, f.Ports)
	}
	return first, last, nil
}

// parsePort takes decimal digits in their one spelling.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("port %q", s)
	}
	return uint16(n), nil
}

func (r Refresh) validate() error {
	switch r.Method {
	case RefreshPull:
		if r.Group.IsValid() || len(r.Sources) > 0 || r.Port != 0 || r.GenerationMS != 0 {
			return errors.New("method pull has no group, sources, port or generation_ms")
		}
	case RefreshPush:
		if !r.Group.IsMulticast() || len(r.Sources) == 0 || len(r.Sources) > maxSources || r.Port == 0 || r.GenerationMS < 0 {
			return fmt.Errorf("method push needs a multicast group, 1 to %d sources and a port", maxSources)
		}
	default:
		return fmt.Errorf("method %q is neither pull nor push", r.Method)
	}
	return nil
}

// checkServerURL takes https://host[:port] and nothing else: no user, path or query.
func checkServerURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.String() != (&url.URL{Scheme: "https", Host: u.Host}).String() {
		return fmt.Errorf("%q: https://host:port is wanted", s)
	}
	if port := u.Port(); port != "" {
		if _, err := parsePort(port); err != nil {
			return fmt.Errorf("%q: %w does not exist", s, err)
		}
	}
	return nil
}

func isHost(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast()
}

func isControl(r rune) bool { return !unicode.IsPrint(r) }
