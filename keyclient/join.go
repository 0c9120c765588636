package keyclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
)

// savedJoins is joined.json: a choice of events outlives the command, the agent
// and the machine (docs/design.md §5).
type savedJoins struct {
	Joined []savedJoin `json:"joined"`
}

type savedJoin struct {
	Event derive.EventID `json:"event"`
	Role  wire.Role      `json:"role"`
}

func loadJoins(d stateDir) ([]savedJoin, error) {
	raw, err := d.read(fileJoined)
	if err != nil || raw == nil {
		return nil, err
	}
	var saved savedJoins
	if err := json.Unmarshal(raw, &saved); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrState, fileJoined, err)
	}
	return saved.Joined, nil
}

// saveJoins remembers what is joined. mu is held.
func (c *Client) saveJoins() error {
	saved := savedJoins{Joined: []savedJoin{}}
	for id, m := range c.joined {
		if m.joined {
			saved.Joined = append(saved.Joined, savedJoin{Event: id, Role: m.role})
		}
	}
	slices.SortFunc(saved.Joined, func(a, b savedJoin) int { return slices.Compare(a.Event[:], b.Event[:]) })
	raw, err := json.MarshalIndent(saved, "", "  ")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	return c.dir.write(fileJoined, append(raw, '\n'))
}

// Join joins the events of these titles or ids: all of them, or none and an
// error. role nil takes what each [Event.Role] says. Joins are remembered; it
// does not wait for keys: watch Changed and Events. Tickets are fetched once if
// a name is unknown. Errors: ErrNoSuchEvent, ErrAmbiguous, ErrNotOwnAddress,
// wire.ErrNotInThisVersion, wire.ErrESPPort, ErrState.
func (c *Client) Join(ctx context.Context, names []string, role *wire.Role) ([]derive.EventID, error) {
	if _, err := c.resolve(names); errors.Is(err, ErrNoSuchEvent) {
		// The event may be newer than the tickets. What the fetch gets is told
		// by the second look, or by its own error where that says more.
		if fetching := c.FetchTickets(ctx); fetching != nil {
			return nil, fmt.Errorf("%w (tickets could not be fetched: %w)", err, fetching)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ids, err := c.resolveHeld(names)
	if err != nil {
		return nil, err
	}
	roles := make([]wire.Role, len(ids))
	var refused error
	for i, id := range ids {
		roles[i], err = c.joinable(c.held.find(id), role)
		refused = errors.Join(refused, err)
	}
	if refused != nil {
		return nil, refused
	}
	before := make(map[derive.EventID]*membership, len(c.joined))
	for id, m := range c.joined {
		before[id] = m
	}
	var marked []*membership
	for i, id := range ids {
		switch m := c.joined[id]; {
		case m != nil && m.role == roles[i] && m.joined:
		case m != nil && m.role == roles[i] && m.promising(c.cfg.Clock.BootNS()):
			m.joined = true
			marked = append(marked, m)
		default: // also where a program waits in vain: who joins wants it asked now
			c.joined[id] = newMembership(id, roles[i])
			c.joined[id].followed = m != nil && m.followed
		}
	}
	if err := c.saveJoins(); err != nil {
		c.joined = before
		for _, m := range marked {
			m.joined = false
		}
		return nil, err
	}
	c.renew()
	return ids, nil
}

// joinable decides the role of a join, or says why there can be none. mu is held.
func (c *Client) joinable(e *heldEntry, asked *wire.Role) (wire.Role, error) {
	if e.view.Refused != nil {
		return 0, e.view.Refused
	}
	own, _ := c.cfg.OwnAddresses()
	role := c.usualRole(&e.view, own)
	if asked != nil {
		role = *asked
	}
	if role == wire.RoleSend {
		return role, c.ownsSender(&e.view)
	}
	return role, nil
}

// usualRole is what a join takes that does not name one: a sending client knows
// itself by its own address in the entry (docs/design.md §5), or is told by the
// server that it is to be one. own are this host's addresses. mu is held.
func (c *Client) usualRole(e *Entry, own []netip.Addr) wire.Role {
	if slices.Contains(c.held.sends, e.ID) || sentFrom(e, own) {
		return wire.RoleSend
	}
	return wire.RoleReceive
}

// ownsSender is nil if one of the entry's senders is an address of this host:
// inner and outer source are the same address, so no other can send.
func (c *Client) ownsSender(e *Entry) error {
	own, name := c.cfg.OwnAddresses()
	if sentFrom(e, own) {
		return nil
	}
	if name == "" {
		name = "(none)"
	}
	return fmt.Errorf("%w: event %q is sent from %s, interface %s has %s; set the address, name another interface, or join to receive",
		ErrNotOwnAddress, e.Title, addressList(e.Senders), name, addressList(own))
}

// sentFrom tells whether one of the addresses is that of a sender.
func sentFrom(e *Entry, addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return slices.Contains(e.Senders, a.Unmap()) })
}

func addressList(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "no address"
	}
	text := ""
	for i, a := range addrs {
		if i > 0 {
			text += ", "
		}
		text += a.String()
	}
	return text
}

// Leave ends the joins of these titles or ids and wipes their keys, but for what
// is followed, too: that goes on as a receiver's. The policies stay. Errors:
// ErrNoSuchEvent, ErrAmbiguous, ErrState.
func (c *Client) Leave(_ context.Context, names []string) ([]derive.EventID, error) {
	c.mu.Lock()
	ids, err := c.resolveJoined(names)
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	var ended []*membership
	for _, id := range ids {
		switch m := c.joined[id]; {
		case m == nil:
		case m.followed && m.role == wire.RoleReceive:
			m.joined = false
		default:
			ended = append(ended, m)
			delete(c.joined, id)
			if m.followed {
				c.joined[id] = newFollowed(id, c.cfg.Clock.BootNS())
			}
		}
	}
	saving := c.saveJoins()
	c.renew()
	c.mu.Unlock()
	for _, m := range ended {
		m.stop() // returns when its keys are wiped
	}
	return ids, saving
}

func (c *Client) resolve(names []string) ([]derive.EventID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resolveHeld(names)
}

// resolveHeld finds each name among held entries, by id or by title. mu is held.
func (c *Client) resolveHeld(names []string) ([]derive.EventID, error) {
	var out []derive.EventID
	var bad error
	for _, name := range names {
		id, err := c.resolveOne(name)
		if err != nil {
			bad = errors.Join(bad, err)
			continue
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	if bad != nil {
		return nil, bad
	}
	return out, nil
}

func (c *Client) resolveOne(name string) (derive.EventID, error) {
	if id, err := derive.ParseEventID(name); err == nil {
		if c.held.find(id) != nil {
			return id, nil
		}
		return id, fmt.Errorf("%w: %s", ErrNoSuchEvent, name)
	}
	var ids []derive.EventID
	for _, e := range c.held.entries {
		if e.entry.Title == name {
			ids = append(ids, e.entry.ID)
		}
	}
	switch len(ids) {
	case 0:
		return derive.EventID{}, fmt.Errorf("%w: %q", ErrNoSuchEvent, name)
	case 1:
		return ids[0], nil
	}
	return derive.EventID{}, &AmbiguousError{Title: name, IDs: ids}
}

// resolveJoined also finds joined events that no ticket has any more, and of
// several with one title the joined one. mu is held.
func (c *Client) resolveJoined(names []string) ([]derive.EventID, error) {
	var out []derive.EventID
	var bad error
	for _, name := range names {
		id, err := c.resolveOne(name)
		if ambiguous, is := errors.AsType[*AmbiguousError](err); is {
			var joined []derive.EventID
			for _, one := range ambiguous.IDs {
				if m := c.joined[one]; m != nil && m.joined {
					joined = append(joined, one)
				}
			}
			if len(joined) == 1 {
				id, err = joined[0], nil
			}
		}
		if err != nil && c.joined[id] == nil {
			bad = errors.Join(bad, err)
			continue
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	if bad != nil {
		return nil, bad
	}
	return out, nil
}
