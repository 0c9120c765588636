package key

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/store"
)

// clientBlocks is how many blocks one client may hold at once: 1/16 of the range.
const clientBlocks = store.BlockCount / 16

// senderIDs gives out sender ids, each once as long as anybody could still use
// it: two senders with one id under one key would repeat nonces, and GCM breaks
// (docs/keying.md §6).
//
// A block of 16 is taken for one client by one durable transaction. So each
// client's share is counted in the store, and no restart makes it grow; what
// this process held before a restart is wasted until it expires.
type senderIDs struct {
	store   store.Store
	ratchet *ratchet
	owner   string // this process, for good

	mu   sync.Mutex
	held map[holder]*held // guarded by mu
}

type holder struct {
	tag    derive.Tag
	client uint32
}

type held struct {
	block store.Block
	next  uint16 // ids of the block given out
}

// take gives out `queues` ids. freeMS is when they may be given out again. The
// error wraps store.ErrSenderIDs where the range or the client's share is used
// up; then nothing was taken.
func (s *senderIDs) take(ctx context.Context, who holder, queues int, nowMS, freeMS int64) ([]uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, h := range s.held {
		if h.block.ExpiresMS <= nowMS { // the store may have given it to another
			delete(s.held, other)
		}
	}
	old := s.held[who]
	ids, now, mark, err := s.write(ctx, who, old, queues, nowMS, freeMS)
	if old != nil && errors.Is(err, store.ErrNotFound) {
		delete(s.held, who) // the block is not ours any more
		ids, now, mark, err = s.write(ctx, who, nil, queues, nowMS, freeMS)
	}
	if err != nil {
		return nil, err
	}
	s.held[who] = now
	// Also the ratchet file must know before the ids are used. If it cannot, they
	// are wasted.
	if err := s.ratchet.note(mark); err != nil {
		return nil, err
	}
	return ids, nil
}

// write takes the ids out of the block that is held and, for the rest, a new one.
func (s *senderIDs) write(ctx context.Context, who holder, old *held, queues int, nowMS, freeMS int64) (ids []uint16, now *held, mark store.Mark, err error) {
	mark, err = s.store.Update(ctx, func(tx store.Tx) error {
		ids, now = nil, nil
		if old != nil && old.next < store.BlockSize {
			block := old.block
			if freeMS > block.ExpiresMS {
				if err := tx.ExtendBlock(ctx, who.tag, block.Index, s.owner, freeMS); err != nil {
					return err
				}
				block.ExpiresMS = freeMS
			}
			now = &held{block: block, next: old.next}
			ids = now.draw(ids, queues)
		}
		if len(ids) == queues {
			return nil
		}
		block, err := tx.TakeBlock(ctx, store.BlockRequest{
			Tag: who.tag, Owner: s.owner, Client: who.client, NowMS: nowMS, ExpiresMS: freeMS,
			LastIndex: store.BlockCount - 1, ClientLimit: clientBlocks,
		})
		if err != nil {
			return err
		}
		now = &held{block: block}
		ids = now.draw(ids, queues)
		return nil
	})
	if err != nil {
		return nil, nil, mark, fmt.Errorf("sender ids of client %d: %w", who.client, err)
	}
	return ids, now, mark, nil
}

func (h *held) draw(ids []uint16, want int) []uint16 {
	for ; len(ids) < want && h.next < store.BlockSize; h.next++ {
		ids = append(ids, h.block.First()+h.next)
	}
	return ids
}

// freeAgainMS is when a sender id is free that was given for an enrolment until
// untilMS: when that and all intervals whose keys it could bring are over.
func freeAgainMS(t schedule.Timing, untilMS int64) int64 {
	last := t.Current(untilMS)
	for t.Givable(last+1, untilMS) {
		last++
	}
	return max(untilMS, t.T(last+1)) + schedule.LingerMS
}
