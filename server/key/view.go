package key

import (
	"crypto/cipher"
	"sync/atomic"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/store"
)

// view is all that requests look at, immutable but for counters. Run publishes
// a new one whenever something changes; a request takes the one of the moment
// by acquire, without a lock, and gives it back by release.
type view struct {
	members *members
	events  map[derive.EventID]*event
	byTag   map[derive.Tag]*occurrence
	byStart map[occurrenceStart]*occurrence

	readers atomic.Int64
}

// occurrenceStart names an occurrence as an enrolment does.
type occurrenceStart struct {
	event   derive.EventID
	startMS int64
}

// event is one event with the settings now in force, immutable.
type event struct {
	store.Event
	access *access
}

// occurrence is one run that is live: from an epoch before T₀ − initial until
// its last cookie key is gone. Immutable.
type occurrence struct {
	store.Occurrence
	timing    schedule.Timing
	event     *event
	cancelled bool // the event was deleted, or this run taken out of it
	first     uint32
	keys      []*intervalKeys // of first, first + 1, …
}

// intervalKeys is what the server keeps open of one interval. The interval
// secret itself is not among it: both derive from it, and it is wiped at once.
type intervalKeys struct {
	cookies cipher.AEAD    // under Wₙ
	group   *derive.Secret // Bᵢ
	sealed  atomic.Uint32  // cookies sealed under Wₙ at refreshes
}

// maxSealed bounds the cookies under one Wₙ: nonces are random (docs/keying.md §5.3).
const maxSealed = 1 << 31

func newIntervalKeys(c *derive.Secret, tag derive.Tag, i uint32) *intervalKeys {
	w := derive.CookieKey(c, tag, i)
	defer w.Wipe()
	return &intervalKeys{cookies: derive.NewAEAD(w), group: derive.GroupKey(c, tag, i)}
}

// key returns nil where the interval's keys are gone, or not opened yet.
func (o *occurrence) key(i uint32) *intervalKeys {
	if at := int64(i) - int64(o.first); at >= 0 && at < int64(len(o.keys)) {
		return o.keys[at]
	}
	return nil
}

// newest is the newest interval whose keys are open; ok is false if there is none.
func (o *occurrence) newest() (i uint32, ok bool) {
	return o.first + uint32(len(o.keys)) - 1, len(o.keys) > 0
}

// published is the pointer to the view of the moment.
type published struct {
	current atomic.Pointer[view]
}

// acquire takes the view of the moment. Its keys are not wiped before release.
func (p *published) acquire() *view {
	for {
		v := p.current.Load()
		v.readers.Add(1)
		if p.current.Load() == v {
			return v
		}
		// It was replaced in between, and whoever wipes may not have seen us.
		v.readers.Add(-1)
	}
}

func (v *view) release() { v.readers.Add(-1) }

// retired is a view that was replaced, with the keys that the next one lacks.
type retired struct {
	view    *view
	dropped []*intervalKeys
}

// reap wipes the keys of views that nobody reads any more, oldest first: a key
// dropped later is in all views before.
func reap(queue []retired) []retired {
	for len(queue) > 0 && queue[0].view.readers.Load() == 0 {
		for _, k := range queue[0].dropped {
			k.group.Wipe()
			k.cookies = nil
		}
		queue = queue[1:]
	}
	return queue
}
