package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server/store"
	"usher/server/ticket"
)

// ESPPort is the UDP port of ESP (RFC 3948): no flow may include it, since the
// hosts' own ciphertext would be taken for its cleartext.
const ESPPort = 4500

// EventSpec is what an operator says of a new event. Durations that are zero
// take the interval's length.
type EventSpec struct {
	Title      string
	Group      string
	Senders    []netip.Addr
	Flows      []store.Flow
	Time       store.TimeExpression
	TTL        uint8
	KeyServers []string

	Interval time.Duration
	First    time.Duration // 0: as the others
	Initial  time.Duration
	Window   time.Duration // 0: the interval
	Gather   time.Duration

	Transform   string // "aes-256-gcm"
	Ahead       uint32
	Spread      string // "fixed"
	Revocation  string // "withhold"
	Refresh     string // "pull"
	Preview     uint32 // intervals
	Pool        string // unicast events
	Certificate string // "group"
	Priority    int32
}

// DefaultEventSpec is docs/keying.md §4's defaults, without what each event has
// of its own.
func DefaultEventSpec() EventSpec {
	return EventSpec{
		TTL: 16, Interval: 10 * time.Second, Initial: 5 * time.Minute, Gather: 200 * time.Microsecond,
		Transform: "aes-256-gcm", Ahead: 1, Spread: "fixed", Revocation: "withhold", Refresh: wire.RefreshPull, Certificate: "group",
	}
}

// transforms by name; those without a number here are not in this version.
var transforms = map[string]uint8{
	"aes-256-gcm": derive.TransformAES256GCM, "chacha20-poly1305": derive.TransformChaCha20Poly1305,
	"aes-gmac": 0, "null": 0,
}

// TransformName is the name that an operator knows a transform by.
func TransformName(transform uint8) string {
	for name, number := range transforms {
		if number == transform && number != 0 {
			return name
		}
	}
	return strconv.Itoa(int(transform))
}

// maxGather bounds the delay that gathering adds to each packet.
const maxGather = 10 * time.Millisecond

// ParseFlow reads "udp/232.1.2.3/5004" and "udp/232.1.2.3/5004-5010". ErrEvent.
func ParseFlow(text string) (store.Flow, error) {
	bad := fmt.Errorf(`%w: flow %q: want protocol/address/port, as udp/232.1.2.3/5004 or udp/232.1.2.3/5004-5010`, ErrEvent, text)
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return store.Flow{}, bad
	}
	destination, err := netip.ParseAddr(parts[1])
	if err != nil {
		return store.Flow{}, bad
	}
	first, last, err := wire.Flow{Protocol: parts[0], Destination: destination, Ports: parts[2]}.PortRange()
	if err != nil {
		return store.Flow{}, bad
	}
	return store.Flow{Protocol: parts[0], Destination: destination, FirstPort: first, LastPort: last}, nil
}

// FlowText is what ParseFlow reads.
func FlowText(f store.Flow) string {
	text := fmt.Sprintf("%s/%s/%d", f.Protocol, f.Destination, f.FirstPort)
	if f.LastPort != f.FirstPort {
		text += fmt.Sprintf("-%d", f.LastPort)
	}
	return text
}

// AddEvent checks a spec and stores its event. All that is wrong is said at
// once: ErrEvent, ErrNotInThisVersion; store.ErrNotFound for the group;
// ErrConflict where another event's occurrence is in the way.
func AddEvent(ctx context.Context, tx store.Tx, spec EventSpec, now time.Time) (store.Event, error) {
	group, err := tx.Group(ctx, spec.Group)
	if err != nil {
		return store.Event{}, err
	}
	e, err := spec.event(group.Number)
	if err != nil {
		return store.Event{}, err
	}
	runs, err := coming(e, now)
	if err != nil {
		return store.Event{}, err
	}
	others, err := tx.Events(ctx)
	if err != nil {
		return store.Event{}, err
	}
	// The SPI's first 24 bits come from the id: where they fall on those of an
	// event at the same time and address, another id is drawn (docs/keying.md §1).
	for range 64 {
		e.ID = derive.NewEventID()
		err = collide(e, runs, others, now)
		if !errors.Is(err, errSPI) {
			break
		}
	}
	if err != nil {
		return store.Event{}, err
	}
	if err := tx.AddEvent(ctx, e); err != nil {
		return store.Event{}, err
	}
	return tx.Event(ctx, e.ID)
}

// event makes an event of a spec and joins everything that is wrong with it.
func (s EventSpec) event(group uint32) (store.Event, error) {
	given := s
	if s.First == 0 {
		s.First = s.Interval
	}
	if s.Window == 0 {
		s.Window = s.Interval
	}
	transform, known := transforms[s.Transform]
	if !known {
		return store.Event{}, fmt.Errorf("%w: transform %q: aes-256-gcm or chacha20-poly1305", ErrEvent, s.Transform)
	}
	if err := s.unsupported(transform); err != nil {
		return store.Event{}, err
	}
	if err := given.bounds(); err != nil {
		return store.Event{}, err
	}
	e := store.Event{
		ID: derive.NewEventID(), Group: group, Title: s.Title, Senders: s.Senders, Flows: s.Flows, Time: s.Time, TTL: s.TTL,
		KeyServers: s.KeyServers, InitialMS: s.Initial.Milliseconds(), FirstMS: s.First.Milliseconds(),
		IntervalMS: s.Interval.Milliseconds(), WindowMS: s.Window.Milliseconds(), Ahead: s.Ahead, Transform: transform,
		GatherUS: uint32(s.Gather.Microseconds()), Spread: s.Spread, Revocation: s.Revocation, Method: s.Refresh,
		Priority: s.Priority, Edition: 1,
	}
	entry := ticket.Entry(e)
	if err := entry.Validate(); err != nil {
		return store.Event{}, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	if err := entry.CheckPorts(ESPPort); err != nil {
		return store.Event{}, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	if err := entry.Unsupported(); err != nil {
		return store.Event{}, err
	}
	return e, nil
}

// unsupported names all that this version cannot do.
func (s EventSpec) unsupported(transform uint8) error {
	var lacks []error
	lack := func(format string, args ...any) {
		lacks = append(lacks, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrNotInThisVersion))
	}
	if transform == 0 {
		lack("transform %s", s.Transform)
	}
	if s.Preview != 0 {
		lack("preview")
	}
	if s.Pool != "" {
		lack("pool (unicast events)")
	}
	if len(s.Senders) > 1 {
		lack("several senders")
	}
	for _, f := range s.Flows {
		if f.Destination.IsMulticast() && f.Destination.Is4() && !ssm.Contains(f.Destination) {
			lack("flow to %s: multicast outside %s", f.Destination, ssm)
		}
	}
	if s.Time.Duration == "" {
		lack("an event without an end (--duration)")
	}
	if s.Ahead > 1 {
		lack("ahead beyond 1")
	}
	if s.Window != s.Interval {
		lack("a window other than the interval")
	}
	for _, v := range []struct{ name, value, can string }{
		{"spread", s.Spread, "fixed"}, {"revocation", s.Revocation, "withhold"}, {"refresh", s.Refresh, wire.RefreshPull}, {"certificate", s.Certificate, "group"},
	} {
		if v.value != v.can {
			lack("%s = %q", v.name, v.value)
		}
	}
	return errors.Join(lacks...)
}

// ssm is where a join names group and source (RFC 4607).
var ssm = netip.MustParsePrefix("232.0.0.0/8")

// The longest interval and initial keying period (package schedule holds them,
// too, but knows neither the operator's words nor which of them he gave).
const longest = 7 * 24 * time.Hour

// bounds checks what entry and timing do not, and durations as they were given:
// a fault is named by the setting that has it, not by those that follow it.
func (s EventSpec) bounds() error {
	var faults []error
	bad := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: "+format, append([]any{ErrEvent}, args...)...))
	}
	within := func(name string, d, least time.Duration, from string) {
		switch {
		case d < least || d > longest:
			bad("%s %s is outside %s to 7 days", name, d, from)
		case d%time.Millisecond != 0:
			bad("%s %s is no whole number of milliseconds", name, d)
		}
	}
	within("interval", s.Interval, time.Second, "1 s")
	if s.First != 0 {
		within("first", s.First, time.Second, "1 s")
	}
	within("initial", s.Initial, 0, "0")
	if s.Gather < 0 || s.Gather > maxGather || s.Gather%time.Microsecond != 0 {
		bad("gather %s: from 0 to %s, in whole microseconds", s.Gather, maxGather)
	}
	if err := checkTitle(s.Title); err != nil {
		bad("%w", err)
	}
	for _, a := range s.Senders {
		if a.IsLoopback() || a.Is4() && a.As4()[0] >= 240 {
			bad("sender %s is no host's address on a network", a)
		}
	}
	for i, f := range s.Flows {
		for _, g := range s.Flows[:i] {
			if f.Protocol == g.Protocol && f.Destination == g.Destination && f.FirstPort <= g.LastPort && g.FirstPort <= f.LastPort {
				bad("flow %s has ports of flow %s: name each port once", FlowText(f), FlowText(g))
			}
		}
	}
	return errors.Join(faults...)
}

// checkTitle refuses what nobody could type into usher join as it is listed: the
// entry's own check leaves blanks and ids.
func checkTitle(title string) error {
	if !utf8.ValidString(title) || strings.TrimSpace(title) != title {
		return fmt.Errorf("title %q: 1 to 200 bytes, printable, without blanks at its ends", title)
	}
	if _, err := derive.ParseEventID(title); err == nil {
		return fmt.Errorf("title %q reads like an event's id: choose another", title)
	}
	return nil
}

// timing of one run of an event.
func timing(e store.Event, run schedule.Occurrence) schedule.Timing {
	return schedule.Timing{
		StartMS: run.Start.UnixMilli(), EndMS: run.End.UnixMilli(),
		FirstMS: e.FirstMS, IntervalMS: e.IntervalMS, InitialMS: e.InitialMS, WindowMS: e.WindowMS, Ahead: e.Ahead,
	}
}
