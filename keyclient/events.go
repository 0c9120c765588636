package keyclient

import (
	"net/netip"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
)

// shownOccurrences is how many of an event's occurrences are listed.
const shownOccurrences = 3

// Entries returns every event of the held tickets once, by title and id: what
// routes, guard and memberships are made of.
func (c *Client) Entries() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Entry, 0, len(c.held.entries))
	for i := range c.held.entries {
		out = append(out, c.held.entries[i].view)
	}
	return out
}

// Events returns the entries with what this client does about each.
func (c *Client) Events() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events(func(derive.EventID) bool { return true })
}

// events is Events of those entries that are wanted. mu is held.
func (c *Client) events(wanted func(derive.EventID) bool) []Event {
	now := c.wall()
	own, _ := c.cfg.OwnAddresses()
	out := make([]Event, 0, len(c.held.entries))
	for i := range c.held.entries {
		if e := &c.held.entries[i]; wanted(e.entry.ID) {
			out = append(out, c.eventOf(e, now, own))
		}
	}
	for id, m := range c.joined {
		if c.held.find(id) == nil { // joined, but no ticket has it any more
			out = append(out, m.addTo(Event{Entry: Entry{ID: id, Title: id.String()}, Role: m.role, Current: -1}))
		}
	}
	return out
}

func (c *Client) eventOf(e *heldEntry, now time.Time, own []netip.Addr) Event {
	ev := Event{Entry: e.view, Role: c.usualRole(&e.view, own), State: StateNotJoined, Current: -1}
	if next, err := e.occurrences(now); err == nil {
		ev.Next = next
	} else {
		ev.Detail = err.Error()
	}
	if m := c.joined[e.entry.ID]; m != nil {
		return m.addTo(ev)
	}
	return ev
}

// Joined returns the events that are joined or followed.
func (c *Client) Joined() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events(func(id derive.EventID) bool { return c.joined[id] != nil })
}

// Status never waits for the network.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{
		Server: c.from.Server, LoggedIn: c.identity.valid(c.wall()),
		LastContact: c.contact, LastError: c.lastError, RenewAt: c.renewAt,
		Events: c.events(func(derive.EventID) bool { return true }),
	}
	if s.Server == "" {
		s.Server = c.cfg.Server
	}
	if c.identity != nil {
		s.Number, s.Subject, s.NotAfter = c.identity.number, c.identity.certificate.Leaf.Subject.CommonName, c.identity.notAfter()
	}
	s.ClockOffset, s.ClockError, s.ClockKnown = c.bestClock()
	return s
}

// bestClock is the server's clock less the host's by whichever server is known
// best. mu is held.
func (c *Client) bestClock() (offset, bound time.Duration, known bool) {
	boot, wall := c.cfg.Clock.BootNS(), c.cfg.Clock.Wall().UnixNano()
	consider := func(o *schedule.Offset) {
		ns, e, ok := o.NowNS(boot)
		if ok && (!known || time.Duration(e) < bound) {
			offset, bound, known = time.Duration(ns-wall), time.Duration(e), true
		}
	}
	consider(&c.offset)
	for _, m := range c.joined {
		for _, v := range m.views {
			consider(&v.offset)
		}
	}
	return offset, bound, known
}

// timeExpression is the entry's, in the terms of package schedule.
func timeExpression(e *wire.Entry) schedule.TimeExpression {
	return schedule.TimeExpression{
		Start: e.Time.Start, Zone: e.Time.Zone, Duration: e.Time.Duration, Rule: e.Time.Rule, Except: e.Time.Except,
	}
}

// timingOf is the timing of an occurrence as the entry has it; the grant's
// takes its place.
func timingOf(e *wire.Entry, o schedule.Occurrence) schedule.Timing {
	t := schedule.Timing{
		StartMS: o.Start.UnixMilli(), FirstMS: e.FirstMS, IntervalMS: e.IntervalMS,
		InitialMS: e.InitialMS, WindowMS: e.WindowMS, Ahead: 1,
	}
	if !o.End.IsZero() {
		t.EndMS = o.End.UnixMilli()
	}
	return t
}
