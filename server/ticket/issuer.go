package ticket

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/server/group"
	"usher/server/store"
)

// Issuer makes tickets: one a group, byte-identical for all its clients, from
// the events of the group and all its ancestors (Fig 2, 240–250; Fig 4). It
// keeps what it made until the store's change log names an event, a group or an
// arrow, or a new validity begins.
type Issuer struct {
	signer *signer
	length time.Duration // of a validity

	mu      sync.Mutex
	seen    store.Cursor                // guarded by mu: tickets are as of there
	valid   validity                    // guarded by mu: of tickets
	graph   *group.Graph                // guarded by mu: nil if not loaded
	tickets map[uint32]*issued          // guarded by mu: by group
	entries map[derive.EventID]*encoded // guarded by mu
}

// issued is one ticket with its digest, for the ETag, and its events.
type issued struct {
	ticket wire.Ticket
	digest [sha256.Size]byte
	events map[derive.EventID]bool
}

// encoded is an entry of one edition: each is encoded once, for all groups.
type encoded struct {
	edition uint16
	bytes   []byte
}

// NewIssuer makes an issuer whose tickets are valid for that long; they are
// renewed at half of it.
func NewIssuer(dir string, auth *Authority, length time.Duration) *Issuer {
	return &Issuer{signer: newSigner(dir, auth), length: length}
}

// NewReadOnlyIssuer makes tickets as the running server does, and leaves the
// signing leaf's renewal to it.
func NewReadOnlyIssuer(dir string, auth *Authority, length time.Duration) *Issuer {
	i := NewIssuer(dir, auth, length)
	i.signer.keep = true
	return i
}

// Ticket of a group, as of the snapshot r and the time now.
func (i *Issuer) Ticket(ctx context.Context, r store.Reader, groupNumber uint32, now time.Time) (*wire.Ticket, error) {
	t, err := i.issue(ctx, r, groupNumber, now)
	if err != nil {
		return nil, err
	}
	return &t.ticket, nil
}

func (i *Issuer) issue(ctx context.Context, r store.Reader, groupNumber uint32, now time.Time) (*issued, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refresh(ctx, r, now); err != nil {
		return nil, err
	}
	if t := i.tickets[groupNumber]; t != nil {
		return t, nil
	}
	t, err := i.make(ctx, r, groupNumber, now)
	if err != nil {
		return nil, fmt.Errorf("ticket of group %d: %w", groupNumber, err)
	}
	i.tickets[groupNumber] = t
	return t, nil
}

// refresh forgets what changes or time have overtaken. Called with mu held.
func (i *Issuer) refresh(ctx context.Context, r store.Reader, now time.Time) error {
	if v := validityAt(now, i.length); v != i.valid {
		i.valid, i.graph, i.entries = v, nil, nil
	}
	stale, next, err := i.overtaken(ctx, r)
	if err != nil {
		return err
	}
	i.seen = next
	if stale || i.graph == nil {
		if i.graph, err = group.Load(ctx, r); err != nil {
			return err
		}
		i.tickets = map[uint32]*issued{}
	}
	return nil
}

// changesAtOnce is how many changes one request looks through; a reader further
// behind starts anew.
const changesAtOnce = 1000

// overtaken tells whether something that tickets list has changed.
func (i *Issuer) overtaken(ctx context.Context, r store.Reader) (bool, store.Cursor, error) {
	end, err := r.Horizon(ctx)
	if err != nil || end == i.seen {
		return false, end, err
	}
	changes, next, err := r.Changes(ctx, i.seen, changesAtOnce)
	if errors.Is(err, store.ErrCursorGone) || err == nil && next != end {
		i.entries = nil
		return true, end, nil
	}
	for _, c := range changes {
		switch c.Kind {
		case store.KindEvent, store.KindGroup, store.KindEdge:
			return true, end, err
		}
	}
	return false, end, err
}

// make builds and signs one ticket. Called with mu held.
func (i *Issuer) make(ctx context.Context, r store.Reader, groupNumber uint32, now time.Time) (*issued, error) {
	name := i.graph.Name(groupNumber)
	if name == "" {
		return nil, fmt.Errorf("%w: group %d", store.ErrNotFound, groupNumber)
	}
	events, err := r.EventsOf(ctx, i.graph.WithAncestors(groupNumber))
	if err != nil {
		return nil, err
	}
	t := &issued{ticket: wire.Ticket{Group: name, Entries: [][]byte{}}, events: map[derive.EventID]bool{}}
	for _, e := range events {
		b, err := i.encode(e)
		if err != nil {
			return nil, err
		}
		t.ticket.Entries = append(t.ticket.Entries, b)
		t.events[e.ID] = true
	}
	if t.ticket.Certificate, err = i.signer.sign(name, t.ticket.Entries, i.valid, now); err != nil {
		return nil, err
	}
	t.digest = sha256.Sum256(t.ticket.Encode())
	return t, nil
}

// encode an event's entry, once for each edition. Called with mu held.
func (i *Issuer) encode(e store.Event) ([]byte, error) {
	if known := i.entries[e.ID]; known != nil && known.edition == e.Edition {
		return known.bytes, nil
	}
	entry := Entry(e)
	if err := entry.Validate(); err != nil {
		return nil, err
	}
	b := entry.Encode()
	if i.entries == nil {
		i.entries = map[derive.EventID]*encoded{}
	}
	i.entries[e.ID] = &encoded{edition: e.Edition, bytes: b}
	return b, nil
}
