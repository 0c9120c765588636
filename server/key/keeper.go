package key

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"usher/keyclient/derive"
	"usher/server/group"
	"usher/server/store"
)

// keeper owns all that changes: it follows store and time, and publishes views.
// Requests never wait for it.
type keeper struct {
	store   store.Store
	ratchet *ratchet
	clock   *serverClock
	log     *slog.Logger

	published
	confirmed atomic.Int64 // time since boot at which the store was last asked, ns

	mu      sync.Mutex
	cursor  store.Cursor                 // guarded by mu, as all below
	loaded  bool                         // the cursor means something
	members *members                     //
	events  map[derive.EventID]*event    //
	graph   *group.Graph                 //
	reach   map[uint32]groupSet          // by group, as far as asked for
	due     map[derive.EventID]int64     // when to look at its time expression again, ms
	refused map[derive.EventID]complaint // what was logged about an event already
	runs    map[derive.Tag]*run

	changed  bool            // the view is out of date
	dropped  []*intervalKeys // since the last view
	retired  []retired
	tidied   uint64        // epoch of the last clean-up
	retryAt  time.Duration // since boot: no writing before
	troubled map[string]bool
}

// complaint is one thing said about one edition of an event.
type complaint struct {
	edition uint16
	text    string
}

func newKeeper(s store.Store, r *ratchet, c *serverClock, log *slog.Logger) *keeper {
	k := &keeper{store: s, ratchet: r, clock: c, log: log, troubled: map[string]bool{}, refused: map[derive.EventID]complaint{}}
	k.runs = map[derive.Tag]*run{}
	k.reset()
	k.current.Store(&view{members: k.members})
	k.confirmed.Store(-1)
	return k
}

// reset forgets what the store said, but not the keys of runs: they are kept if
// the store still has them.
func (k *keeper) reset() {
	k.members = new(members)
	k.events = map[derive.EventID]*event{}
	k.graph = group.New(nil, nil)
	k.reach = map[uint32]groupSet{}
	k.due = map[derive.EventID]int64{}
	for _, r := range k.runs {
		r.gone = true
	}
	k.changed = true
}

// turn is one round of Run: follow the store, turn the ratchet, make what will
// be needed, open and forget keys, publish. The error is the store's.
func (k *keeper) turn(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.round(ctx)
}

// catchUp makes a round unless one began after that instant (since boot): however
// many requests wait for it, two rounds serve all of them.
func (k *keeper) catchUp(ctx context.Context, after time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.confirmed.Load() > int64(after) {
		return nil
	}
	return k.round(ctx)
}

// round is turn. mu is held.
func (k *keeper) round(ctx context.Context) error {
	at := k.clock.tick()
	k.trouble("clock", trustError(at))
	if at.trusted {
		k.trouble("ratchet", k.ratchet.advance(epochAt(at.ms())))
	}
	err := k.follow(ctx)
	if err != nil {
		err = fmt.Errorf("follow the store: %w", err)
	}
	k.trouble("store", err)
	if err == nil && at.trusted && at.boot >= k.retryAt {
		err = k.prepare(ctx, at.ms())
		if err != nil {
			k.retryAt = at.boot + time.Second
			err = fmt.Errorf("make interval secrets: %w", err)
		}
		k.trouble("secrets", err)
	}
	if k.clock.valid.Load() {
		k.openKeys(at.ms())
	}
	k.publish()
	return err
}

var errClock = errors.New("wall clock and time since boot have come apart, or the wall clock is outside what the ratchet allows; set the clock right, or restart to confirm it")

func trustError(at instant) error {
	if at.trusted {
		return nil
	}
	return errClock
}

// trouble logs a failure when it begins and when it is over, not in between.
func (k *keeper) trouble(what string, err error) {
	switch {
	case errors.Is(err, context.Canceled):
	case err != nil && !k.troubled[what]:
		k.troubled[what] = true
		k.log.Error("key role is in trouble", "part", what, "error", err)
	case err == nil && k.troubled[what]:
		delete(k.troubled, what)
		k.log.Info("key role has recovered", "part", what)
	}
}

// prepare writes what will be needed: new occurrences, ends brought forward,
// interval secrets. What was written is used only as the store then has it.
func (k *keeper) prepare(ctx context.Context, nowMS int64) error {
	if p := k.plan(nowMS); len(p.begin)+len(p.end) > 0 {
		err := k.write(ctx, func(tx store.Tx) error { return p.write(ctx, tx) })
		if err != nil {
			for id := range p.looked {
				k.due[id] = 0 // look again
			}
			return err
		}
	}
	var live []*run
	for _, r := range k.runs {
		if !r.gone && !r.cancelled && !r.broken && !r.timing.Over(nowMS) && nowMS >= r.timing.BeginsMS()-horizonMS {
			live = append(live, r)
		}
	}
	if missing := k.missingRows(live, nowMS); len(missing) > 0 {
		rows, err := k.seal(missing)
		if err != nil {
			return err
		}
		if err := k.write(ctx, func(tx store.Tx) error { return tx.InsertRows(ctx, rows) }); err != nil {
			return err
		}
	}
	if epoch := k.ratchet.at(); epoch != k.tidied {
		if err := k.tidy(ctx, nowMS); err != nil {
			return err
		}
		k.tidied = epoch
	}
	return nil
}

// write commits, notes the change in the ratchet file, and reads back.
func (k *keeper) write(ctx context.Context, do func(store.Tx) error) error {
	mark, err := k.store.Update(ctx, do)
	if err != nil {
		return err
	}
	if err := k.ratchet.note(mark); err != nil {
		return err
	}
	return k.follow(ctx)
}

// publish replaces the view if anything changed, and wipes what no request can
// still be using.
func (k *keeper) publish() {
	if k.changed {
		v := &view{
			members: k.members,
			events:  make(map[derive.EventID]*event, len(k.events)),
			byTag:   make(map[derive.Tag]*occurrence, len(k.runs)),
			byStart: make(map[occurrenceStart]*occurrence, len(k.runs)),
		}
		for id, e := range k.events {
			v.events[id] = e
		}
		for tag, r := range k.runs {
			o := r.occurrence(k.eventOf(r))
			v.byTag[tag] = o
			v.byStart[occurrenceStart{r.Event, r.StartMS}] = o
		}
		old := k.current.Swap(v)
		k.retired = append(k.retired, retired{view: old, dropped: k.dropped})
		k.changed, k.dropped = false, nil
	}
	k.retired = reap(k.retired)
}

// eventOf is the run's event, or an empty one if it was deleted: its runs answer
// "ended" until their cookies are gone.
func (k *keeper) eventOf(r *run) *event {
	if e := k.events[r.Event]; e != nil {
		return e
	}
	return &event{Event: store.Event{ID: r.Event}, access: new(access)}
}

// close wipes what is open. No request may be under way.
func (k *keeper) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.runs {
		for i := range r.keys {
			k.drop(r, i)
		}
	}
	k.runs = map[derive.Tag]*run{}
	k.changed = true
	k.publish()
	return k.ratchet.close()
}
