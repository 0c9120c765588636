package keyclient

import (
	"slices"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
)

// newFollowed makes a membership that programs want: they receive, and nothing
// that they do makes this host a sender.
func newFollowed(id derive.EventID, bootNS int64) *membership {
	m := newMembership(id, wire.RoleReceive)
	m.joined, m.followed, m.begun = false, true, bootNS
	return m
}

// firstTry is how long what is followed may take until its first key is there, in
// boot ns. After that it waits: for its occurrence, or in vain.
const firstTry = int64(2 * time.Second)

// promising tells whether a join may take over what is followed as it is: it has a
// key, or is about to. Else it begins anew, so that the server is asked at once.
// Client.mu is held.
func (m *membership) promising(bootNS int64) bool {
	for _, v := range m.views {
		if v.keys > 0 {
			return true
		}
	}
	return bootNS-m.begun < firstTry
}

// Follow makes ids the whole of what programs of this host want to receive. Each
// event is kept keyed as if it was joined, but is not remembered; one that is
// joined, too, keeps its role and outlives the programs. What no ticket has, and
// what this version refuses, is left out. It does not wait for keys, nor until
// those of what ends are wiped.
func (c *Client) Follow(ids []derive.EventID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := false
	for _, id := range ids {
		m := c.joined[id]
		switch e := c.held.find(id); {
		case m != nil && m.followed:
		case m != nil:
			m.followed, changed = true, true
		case e != nil && e.view.Refused == nil:
			c.joined[id], changed = newFollowed(id, c.cfg.Clock.BootNS()), true
		}
	}
	for id, m := range c.joined {
		if !m.followed || slices.Contains(ids, id) {
			continue
		}
		changed = true
		m.followed = false
		if !m.joined {
			delete(c.joined, id) // its own loop stops it, and wipes its keys
		}
	}
	if changed {
		c.renew()
	}
}
