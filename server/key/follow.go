package key

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/group"
	"usher/server/store"
)

// changesAtOnce bounds what one snapshot is asked for.
const changesAtOnce = 1000

// news is what one look at the store brought: whole things as they stand now,
// never differences, so that reading one twice does no harm.
type news struct {
	all    bool // everything was read: what is not here is gone
	cursor store.Cursor
	mark   store.Mark // of the newest change read

	graph        bool // edges are set
	edges        []store.Edge
	members      []store.Member
	goneMembers  []uint32
	events       []store.Event
	goneEvents   []derive.EventID
	associations map[derive.EventID][]store.Association
	occurrences  []store.Occurrence
	goneRuns     []derive.Tag
	rows         map[derive.Tag][]store.Row
}

// follow reads what changed in the store since the last time, from one snapshot,
// and takes it in. Nothing is taken in where reading fails in the middle.
func (k *keeper) follow(ctx context.Context) error {
	began := k.clock.host.Boot()
	for more := true; more; {
		var n *news
		err := k.store.View(ctx, func(r store.Reader) (err error) {
			if !k.loaded {
				n, err = k.readAll(ctx, r)
				return err
			}
			n, more, err = k.readChanges(ctx, r)
			return err
		})
		switch {
		case errors.Is(err, store.ErrCursorGone):
			k.log.Warn("change log does not reach back, loading everything anew", "cursor", uint64(k.cursor))
			k.loaded = false
			continue
		case err != nil:
			return err
		case n.all:
			more = false
		}
		k.take(n)
	}
	k.confirmed.Store(int64(began))
	return nil
}

func (k *keeper) readAll(ctx context.Context, r store.Reader) (*news, error) {
	n := &news{all: true, graph: true, associations: map[derive.EventID][]store.Association{}, rows: map[derive.Tag][]store.Row{}}
	var err error
	if n.cursor, err = r.Horizon(ctx); err != nil {
		return nil, err
	}
	if n.mark, err = r.Last(ctx); err != nil {
		return nil, err
	}
	if n.edges, err = r.Edges(ctx); err != nil {
		return nil, err
	}
	err = r.Members(ctx, func(m store.Member) error {
		n.members = append(n.members, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if n.events, err = r.Events(ctx); err != nil {
		return nil, err
	}
	for _, e := range n.events {
		if n.associations[e.ID], err = r.Associations(ctx, e.ID); err != nil {
			return nil, err
		}
	}
	nowMS := k.clock.now().ms()
	if n.occurrences, err = r.Occurrences(ctx, nowMS-schedule.LingerMS); err != nil {
		return nil, err
	}
	for _, o := range n.occurrences {
		if n.rows[o.Tag], err = r.Rows(ctx, o.Tag, lowestNeeded(timingOf(o), nowMS)); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// readChanges reads the next changes of the log and, once each, the things that
// they are about; more tells that the log goes on.
func (k *keeper) readChanges(ctx context.Context, r store.Reader) (n *news, more bool, err error) {
	changes, cursor, err := r.Changes(ctx, k.cursor, changesAtOnce)
	if err != nil {
		return nil, false, err
	}
	n = &news{cursor: cursor, associations: map[derive.EventID][]store.Association{}, rows: map[derive.Tag][]store.Row{}}
	type thing struct {
		kind store.Kind
		key  string
	}
	seen := map[thing]bool{}
	for _, c := range changes {
		n.mark = c.Mark
		t := thing{c.Kind, c.Key}
		if c.Kind == store.KindEdge {
			t.key = "" // all arrows are read at once
		}
		if seen[t] {
			continue
		}
		seen[t] = true
		if err := k.readThing(ctx, r, n, c); err != nil {
			return nil, false, fmt.Errorf("change %d (%s %s): %w", c.Seq, c.Kind, c.Key, err)
		}
	}
	return n, len(changes) == changesAtOnce, nil
}

func (k *keeper) readThing(ctx context.Context, r store.Reader, n *news, c store.Change) (err error) {
	switch c.Kind {
	case store.KindEdge:
		n.graph = true
		n.edges, err = r.Edges(ctx)
		return err
	case store.KindMember:
		number, err := strconv.ParseUint(c.Key, 10, 32)
		if err != nil {
			return err
		}
		m, err := r.Member(ctx, uint32(number))
		if errors.Is(err, store.ErrNotFound) {
			n.goneMembers = append(n.goneMembers, uint32(number))
			return nil
		}
		n.members = append(n.members, m)
		return err
	case store.KindEvent, store.KindAssociation:
		return k.readEvent(ctx, r, n, c.Key)
	case store.KindOccurrence, store.KindRows:
		return k.readRun(ctx, r, n, c.Key)
	case store.KindGroup, store.KindBlock:
		return nil // groups are known by number; blocks belong to who took them
	}
	k.log.Debug("change of unknown kind", "kind", string(c.Kind))
	return nil
}

func (k *keeper) readEvent(ctx context.Context, r store.Reader, n *news, key string) error {
	id, err := derive.ParseEventID(key)
	if err != nil {
		return err
	}
	if _, read := n.associations[id]; read {
		return nil
	}
	e, err := r.Event(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		n.goneEvents = append(n.goneEvents, id)
		return nil
	}
	if err != nil {
		return err
	}
	n.events = append(n.events, e)
	n.associations[id], err = r.Associations(ctx, id)
	return err
}

func (k *keeper) readRun(ctx context.Context, r store.Reader, n *news, key string) error {
	var tag derive.Tag
	if err := tag.UnmarshalText([]byte(key)); err != nil {
		return err
	}
	if _, read := n.rows[tag]; read {
		return nil
	}
	o, err := r.Occurrence(ctx, tag)
	if errors.Is(err, store.ErrNotFound) {
		n.goneRuns = append(n.goneRuns, tag)
		return nil
	}
	if err != nil {
		return err
	}
	n.occurrences = append(n.occurrences, o)
	n.rows[tag], err = r.Rows(ctx, tag, lowestNeeded(timingOf(o), k.clock.now().ms()))
	return err
}

// take makes what was read the state.
func (k *keeper) take(n *news) {
	if n.all {
		k.reset()
	}
	k.cursor, k.loaded = n.cursor, true
	k.ratchet.seen(n.mark)
	if len(n.members)+len(n.goneMembers) > 0 {
		k.members, k.changed = k.members.with(n.members, n.goneMembers), true
	}
	if n.graph {
		k.graph = group.New(nil, n.edges)
		clear(k.reach)
	}
	for _, e := range n.events {
		k.takeEvent(e, sendersOf(n.associations[e.ID]))
	}
	for _, id := range n.goneEvents {
		delete(k.events, id)
		delete(k.due, id)
		delete(k.refused, id)
		k.changed = true
	}
	if n.graph {
		k.regraph()
	}
	for _, o := range n.occurrences {
		k.takeRun(o, n.rows[o.Tag])
	}
	for _, tag := range n.goneRuns {
		if run := k.runs[tag]; run != nil {
			run.gone, k.changed = true, true
		}
	}
	if len(n.events)+len(n.goneEvents)+len(n.occurrences) > 0 {
		k.cancel()
	}
}

// takeEvent takes an event's settings in and has its time expression looked at.
func (k *keeper) takeEvent(e store.Event, senders map[uint32]struct{}) {
	groups := k.reachOf(e.Group)
	k.events[e.ID] = &event{Event: e, access: &access{groups: groups, senders: senders}}
	k.due[e.ID] = 0
	k.changed = true
}

// regraph gives each event the groups that reach it now.
func (k *keeper) regraph() {
	for id, e := range k.events {
		now := &access{groups: k.reachOf(e.Group), senders: e.access.senders}
		if !accessEqual(e.access, now) {
			k.events[id] = &event{Event: e.Event, access: now}
			k.changed = true
		}
	}
}

func (k *keeper) reachOf(number uint32) groupSet {
	set, known := k.reach[number]
	if !known {
		set = reach(k.graph, number)
		k.reach[number] = set
	}
	return set
}
