package reserve

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// maxPackets is how many packets a file can number: ESP's sequence numbers from 1 on.
const maxPackets = 1<<32 - 1

// retryAfter is how long a run waits after a block could not be written.
const retryAfter = time.Second

// run is the reservation of one association: the blocks that it got, which adjoin.
type run struct {
	store    *Store
	file     *file
	first    uint64        // packets of all runs before
	reserved atomic.Uint64 // packets of this run that are durable
	busy     atomic.Bool   // an extension is under way, or waits to be tried again
	ended    atomic.Bool   // another run has taken over the file
	failing  sync.Once     // tells of the first failure only
}

// First returns the numbers of the run's first packet.
func (r *run) First() (sequence uint32, counter uint64) {
	return uint32(r.first + 1), r.file.base + r.first
}

// Reserved returns how many packets of this run are durably reserved.
func (r *run) Reserved() uint64 { return r.reserved.Load() }

// Extend has another block written by another goroutine. It returns at once.
func (r *run) Extend() {
	if r.ended.Load() || !r.busy.CompareAndSwap(false, true) {
		return
	}
	s := r.store
	if !s.mu.TryLock() { // the next packet asks again
		r.busy.Store(false)
		return
	}
	defer s.mu.Unlock()
	if !s.closed() {
		s.work.Go(r.extend)
	}
}

// start reserves the first block. The store's mu is held.
func (r *run) start() error {
	r.first = r.file.limit
	return r.grow()
}

// extend reserves a block, and after a failure holds off the next try.
func (r *run) extend() {
	defer r.busy.Store(false)
	r.store.mu.Lock()
	var err error
	if !r.ended.Load() {
		err = r.grow()
	}
	r.store.mu.Unlock()
	if err == nil {
		return
	}
	r.failing.Do(func() {
		r.store.log.Warn("numbers of a manual association cannot be reserved, it stops when the last block is used up",
			"file", r.file.path, "error", err)
	})
	timer := time.NewTimer(retryAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.store.done:
	}
}

// grow makes one more block durable. The store's mu is held.
func (r *run) grow() error {
	limit := min(r.file.limit+Block, maxPackets)
	if limit == r.file.limit {
		return fmt.Errorf("%w; %s", ErrUsedUp, advice)
	}
	if err := r.file.store(limit); err != nil {
		return err
	}
	r.reserved.Store(limit - r.first)
	return nil
}
