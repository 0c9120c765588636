package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"usher/cmd/usher/agent/wishes"
	"usher/cmd/usher/control"
	"usher/keyclient"
	"usher/keyclient/derive"
)

// hearEvery is the least time between two readings of what programs have joined,
// however many reports and announcements ask for one. What comes alone is read at
// once; what makes no report is found by the loop's tick.
const hearEvery = 100 * time.Millisecond

// program is one (source, group) of an event that programs of this host want.
type program struct {
	event         derive.EventID
	group, source netip.Addr
	elsewhere     bool // by another interface than usher0
}

// programs are what programs want and a ticket allows: pairs of source and group
// that an entry names, both of them. A program that names no source gets all of the
// entry's. What cannot be joined by hand cannot be joined so either, and nothing
// comes from the network that this host itself sends.
func programs(entries []keyclient.Entry, wants func(group, source netip.Addr) (inside, elsewhere bool), owns func(netip.Addr) bool) []program {
	var out []program
	for i := range entries {
		e := &entries[i]
		if e.Refused != nil {
			continue
		}
		for _, f := range flowsOf(*e) {
			if !f.Source.IsValid() || !wishes.Mirrored(f.Destination) {
				continue
			}
			inside, elsewhere := wants(f.Destination, f.Source)
			p := program{event: e.ID, group: f.Destination, source: f.Source, elsewhere: elsewhere}
			if (inside || elsewhere) && !owns(f.Source) && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// eventsOf are the events of programs, each once.
func eventsOf(all []program) []derive.EventID {
	var ids []derive.EventID
	for _, p := range all {
		if !slices.Contains(ids, p.event) {
			ids = append(ids, p.event)
		}
	}
	return ids
}

// follow takes into the plan what programs receive of events that are keyed for
// them.
func (n *need) follow(all []program, events []keyclient.Event) {
	for _, e := range events {
		if !e.Followed || e.State == keyclient.StateEnded {
			continue
		}
		for _, p := range all {
			if p.event == e.ID {
				n.follows = append(n.follows, following{subscription{group: p.group, source: p.source}, p.elsewhere})
			}
		}
	}
}

// programsMoved reads what programs have joined, and tells whether the host has to
// change for it.
func (a *Agent) programsMoved() bool {
	a.mu.Lock()
	down := a.down
	a.mu.Unlock()
	return !slices.Equal(a.hear(a.keys.Entries(), a.owner(), down), a.heeded)
}

// hear reads what programs have joined, less what the agent joined itself, where the
// configuration has it follow them. Without
// a ticket there is nothing that they could be allowed, and while usher is down
// nothing that they could be given: the kernel is not asked.
func (a *Agent) hear(entries []keyclient.Entry, owns func(netip.Addr) bool, down bool) []program {
	if a.reports.Take(func(m []byte) { a.wishes.Report(m) }) {
		a.wishes.ReportsLost()
	}
	if down || len(entries) == 0 || !a.current().FollowPrograms {
		return nil
	}
	snapshot, settled, err := a.machine.Groups()
	a.unheard = err
	if err == nil {
		members := a.machine.Memberships()
		a.wishes.Observe(snapshot, settled, wishes.OwnOf(members.List(), members.Sockets()))
	}
	return programs(entries, a.wishes.Wants, owns)
}

// heed makes the key client follow what programs want, and returns that.
func (a *Agent) heed(entries []keyclient.Entry, owns func(netip.Addr) bool, down bool) []program {
	all := a.hear(entries, owns, down)
	before, now := eventsOf(a.heeded), eventsOf(all)
	for _, id := range now {
		if !slices.Contains(before, id) {
			a.log.Info("a program joined an event", "event", id)
		}
	}
	for _, id := range before {
		if !slices.Contains(now, id) {
			a.log.Info("no program holds an event any more", "event", id)
		}
	}
	a.heeded = all
	a.keys.Follow(now)
	return all
}

// unheardOf is the problem of a host whose joins cannot be read.
func (a *Agent) unheardOf() []control.Problem {
	if a.unheard == nil {
		return nil
	}
	return []control.Problem{{
		Code: "programs", Text: fmt.Sprintf("what programs join is not seen: %s", plain(a.unheard)),
		Todo: "mount /proc, or join events by usher join",
	}}
}

// listen asks for a reading when the kernel announces a join or leave, until ctx
// ends.
func (a *Agent) listen(ctx context.Context) error {
	if err := a.machine.WatchGroups(ctx, func() { nudge(a.heard) }); err != nil {
		// The tick finds them, a second later at most.
		a.log.Debug("joins are not announced", "error", err)
	}
	<-ctx.Done()
	return nil
}

// nudge leaves a value in c, unless there is one.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
