package keyclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
)

// fetchPeriod is how often tickets are asked for when nothing else asks.
const fetchPeriod = 5 * time.Minute

// firstFetch is about how long after its start an agent with cached tickets asks.
const firstFetch = 4 * time.Second

// heldTickets is what this client holds. It is replaced as a whole.
type heldTickets struct {
	etag    string
	tickets []heldTicket
	sends   []derive.EventID
	entries []heldEntry // each event once, by title and id
}

type heldTicket struct {
	ticket  wire.Ticket
	claims  *wire.TicketClaims
	entries []*wire.Entry
}

// heldEntry is an event with one ticket that has it, to be shown at enrolment.
type heldEntry struct {
	view        Entry
	entry       *wire.Entry
	raw         []byte
	certificate string
	upcoming    upcoming // of the entry
}

// savedTickets is tickets.json.
type savedTickets struct {
	ETag    string           `json:"etag"`
	Tickets []wire.Ticket    `json:"tickets"`
	Sends   []derive.EventID `json:"sends"`
}

func (h *heldTickets) save(d stateDir) error {
	out := savedTickets{ETag: h.etag, Sends: h.sends}
	for _, t := range h.tickets {
		out.Tickets = append(out.Tickets, t.ticket)
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	return d.write(fileTickets, raw)
}

// loadTickets reads the cache. Signatures are checked, validity is not: the
// selectors of an expired ticket stay in force (docs/design.md §3). A ticket
// that does not verify is left out and told.
func loadTickets(d stateDir, t *trust) (heldTickets, error) {
	raw, err := d.read(fileTickets)
	if err != nil || raw == nil {
		return heldTickets{}, err
	}
	var saved savedTickets
	if err := json.Unmarshal(raw, &saved); err != nil {
		return heldTickets{}, fmt.Errorf("%w: %s: %w", ErrState, fileTickets, err)
	}
	held := heldTickets{etag: saved.ETag, sends: saved.Sends}
	var bad error
	for _, one := range saved.Tickets {
		entries, claims, err := one.VerifyHeld(t.roots())
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("%s: group %q: %w", fileTickets, one.Group, err))
			held.etag = "" // fetch it again, whatever the server's version
			continue
		}
		held.tickets = append(held.tickets, heldTicket{one, claims, entries})
	}
	return held, bad
}

// union lists every event of the tickets once (docs/design.md §5). Of several
// tickets with one event the newest edition counts, then the longest validity.
func (h *heldTickets) union(espPort uint16) {
	at := make(map[derive.EventID]int)
	expires := make(map[derive.EventID]int64)
	h.entries = nil
	for _, t := range h.tickets {
		for i, e := range t.entries {
			old, seen := at[e.ID]
			if !seen {
				at[e.ID] = len(h.entries)
				h.entries = append(h.entries, heldEntry{})
				old = at[e.ID]
			}
			groups := append(h.entries[old].view.Groups, t.ticket.Group)
			if held := h.entries[old].entry; !seen || newerEdition(e, held) || e.Edition == held.Edition && t.claims.Expires > expires[e.ID] {
				h.entries[old] = heldEntry{view: viewEntry(e, espPort), entry: e, raw: t.ticket.Entries[i], certificate: t.ticket.Certificate}
				expires[e.ID] = t.claims.Expires
			}
			h.entries[old].view.Groups = groups
		}
	}
	slices.SortFunc(h.entries, func(a, b heldEntry) int {
		if byTitle := strings.Compare(a.entry.Title, b.entry.Title); byTitle != 0 {
			return byTitle
		}
		return bytes.Compare(a.entry.ID[:], b.entry.ID[:])
	})
}

// newerEdition compares editions as serial numbers: they wrap.
func newerEdition(a, b *wire.Entry) bool { return int16(a.Edition-b.Edition) > 0 }

func (h *heldTickets) find(id derive.EventID) *heldEntry {
	for i := range h.entries {
		if h.entries[i].entry.ID == id {
			return &h.entries[i]
		}
	}
	return nil
}

// setTickets puts tickets and their policies into force. mu is held.
func (c *Client) setTickets(h heldTickets) error {
	h.union(c.cfg.ESPPort)
	// Policies first: at no instant is an event known and not protected.
	if err := c.cfg.DB.SetPolicies(policyOrigin, policiesOf(h.entries)); err != nil {
		return fmt.Errorf("keyclient: policies of the tickets: %w", err)
	}
	c.held = h
	return nil
}

// FetchTickets asks the ticket server once, by ETag, and takes what is new.
// Errors: ErrNotConfigured, ErrNotLoggedIn, ErrServer, ErrRefused, and those of
// wire's Ticket.Verify for a ticket that is not taken; the one held before then
// stays in force.
func (c *Client) FetchTickets(ctx context.Context) error {
	err := c.fetchTickets(ctx)
	if err != nil && ctx.Err() == nil {
		c.mu.Lock()
		c.fail("fetch tickets", err)
		c.mu.Unlock()
	}
	return err
}

func (c *Client) fetchTickets(ctx context.Context) error {
	// One at a time: of two answers the older one could come last, and lift what
	// the newer one protects.
	select {
	case c.fetching <- struct{}{}:
		defer func() { <-c.fetching }()
	case <-ctx.Done():
		return ctx.Err()
	}
	t, from, err := c.connection()
	if err != nil {
		return err
	}
	r, err := t.do(ctx, request{method: http.MethodGet, url: from.Server + wire.PathTickets, etag: c.heldETag(), max: wire.MaxTicketsAnswer})
	if err != nil {
		return fmt.Errorf("tickets of %s: %w", from.Server, err)
	}
	if r.status == http.StatusNotModified {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.contact, c.lastError = c.cfg.Clock.Wall(), ""
		c.notify()
		return nil
	}
	answer := new(wire.TicketsAnswer)
	if err := wire.DecodeStrict(r.body, answer); err != nil {
		return fmt.Errorf("%w: tickets of %s: %w", ErrServer, from.Server, err)
	}
	return c.takeTickets(r, answer)
}

// heldETag is "" where what is held is of no use any more: then the answer
// "unchanged" would be of no use either.
func (c *Client) heldETag() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.held.tickets {
		if c.wall().Unix() >= t.claims.Expires {
			return ""
		}
	}
	return c.held.etag
}

// takeTickets verifies an answer and puts it into force. A ticket that does not
// verify leaves its group as it was.
func (c *Client) takeTickets(r *reply, answer *wire.TicketsAnswer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.identity == nil {
		return ErrNotLoggedIn // logged out meanwhile
	}
	c.answered(r.sample(answer.ServerTimeUS, 0))
	next := heldTickets{etag: r.etag, sends: answer.Sends}
	var bad error
	for _, one := range answer.Tickets {
		entries, claims, err := one.Verify(c.trust.roots(), c.wall())
		if err == nil {
			next.tickets = append(next.tickets, heldTicket{one, claims, entries})
			continue
		}
		bad = errors.Join(bad, fmt.Errorf("ticket of group %q: %w", one.Group, err))
		next.etag = ""
		for _, held := range c.held.tickets {
			if held.ticket.Group == one.Group {
				next.tickets = append(next.tickets, held)
			}
		}
	}
	if err := c.setTickets(next); err != nil {
		return errors.Join(bad, err)
	}
	c.renew()
	c.log.Info("tickets taken", "tickets", len(next.tickets), "events", len(c.held.entries))
	return errors.Join(bad, c.held.save(c.dir))
}

// halfOfValidity is half of what is left of the held ticket that ends first: by
// then a newer one is to be had.
func (c *Client) halfOfValidity() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := 2 * fetchPeriod
	for _, t := range c.held.tickets {
		left = min(left, time.Unix(t.claims.Expires, 0).Sub(c.wall()))
	}
	return max(left/2, time.Second)
}

func (c *Client) holdsTickets() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held.tickets) > 0
}

// fetchLoop asks for tickets at spread instants, sooner after a failure.
func (c *Client) fetchLoop(ctx context.Context) {
	backoff := firstRetry
	if c.holdsTickets() && !sleep(ctx, c.jitter(firstFetch), nil) {
		return // after a power cut all agents come up at once
	}
	for {
		wait := c.jitter(fetchPeriod)
		_, _, err := c.connection()
		if err == nil {
			if err = c.FetchTickets(ctx); err == nil {
				wait, backoff = min(wait, c.halfOfValidity()), firstRetry
			} else {
				wait, backoff = c.jitter(backoff), min(2*backoff, fetchPeriod)
			}
		}
		var wake <-chan struct{}
		if err != nil && (errors.Is(err, ErrNotLoggedIn) || errors.Is(err, ErrNotConfigured)) {
			wake = c.renewals() // a login may come
		}
		if !sleep(ctx, wait, wake) {
			return
		}
	}
}
