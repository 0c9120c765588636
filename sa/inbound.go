package sa

import (
	"sync/atomic"

	"usher/sa/replay"
)

// MaxSenders is how many senders one association remembers (docs/design.md §3).
const MaxSenders = 4096

// receiver is what a receiving association remembers. The windows belong to the goroutine that
// receives; the counters are read by others.
type receiver struct {
	windows map[uint16]*window

	packets, bytes                              atomic.Uint64 // accepted: packets, and bytes of what they held
	badICV, seen, old, jump, tooMany, malformed atomic.Uint64
	senders                                     atomic.Uint64
	failedLimit                                 uint64 // failed integrity checks after which the key is dropped
}

type window struct {
	replay.Window
	lastNS int64 // when the last packet of the sender was accepted, boot ns
}

func (r *receiver) init(p *Params) {
	r.windows = make(map[uint16]*window)
	r.failedLimit = maxFailedOpens
}

const maxFailedOpens = 1 << 36

// Open takes one inbound packet through the association, in place: it accepts at this instant, its
// number is new and no jump, it authenticates, then its window is made and committed. It returns what
// [esp.Cipher.Open] returns. Errors, each counted: [ErrExpired], [ErrReplaySeen], [ErrReplayOld],
// [ErrReplayJump], [ErrTooManySenders], and those of package esp. The selector check comes next:
// [SA.Matches]. For one goroutine at a time.
func (s *SA) Open(pkt []byte, bootNS int64) (inner []byte, nextHeader uint8, err error) {
	return nil, 0, ErrExpired
}

// Matches reports whether an inner packet is one of those that the policies of the association select
// (RFC 4301 §5.2 step 4).
func (s *SA) Matches(t Tuple) bool { return false }
