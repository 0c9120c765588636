package sa_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"usher/sa"
	"usher/sa/esp"
)

func TestNumbersStartAndGoUpTogether(t *testing.T) {
	p := params(1)
	p.CounterStart = 123_456_789
	s := newSA(t, p)
	for i := range uint64(3) {
		seq, iv, ok := s.Next()
		if !ok || seq != uint32(1+i) || iv != 5<<48|(p.CounterStart+i) {
			t.Errorf("packet %d: seq %d, IV %x, %v", i, seq, iv, ok)
		}
	}
	if info := s.Info(); info.Sequence != 3 || info.Counter != p.CounterStart+2 {
		t.Errorf("last numbers: %d, %d", info.Sequence, info.Counter)
	}
	if _, iv, ok := newSA(t, params(1)).Next(); !ok || iv != 5<<48|1 {
		t.Errorf("default start: %x, %v", iv, ok)
	}
}

// TestSequenceEnd has docs/keying.md §10: a report at three quarters, a stop after 2³² − 1 packets.
func TestSequenceEnd(t *testing.T) {
	const last = 1<<32 - 1
	db := sa.NewDB()
	s := install(t, db, params(1))
	changed, cancel := db.Subscribe()
	defer cancel()
	if s.Info().Soft {
		t.Error("reported from the start")
	}
	sa.SetNumbered(s, last-last/4-2)
	for i, want := range []bool{false, true, false} {
		if _, _, ok := s.Next(); !ok {
			t.Fatal("no number at three quarters")
		}
		if told(changed) != want {
			t.Errorf("packet %d about three quarters: told %v, want %v", i, !want, want)
		}
	}
	if !s.Info().Soft || s.Exhausted() != nil {
		t.Errorf("after three quarters: %+v", s.Info())
	}
	sa.SetNumbered(s, last-1)
	if seq, iv, ok := s.Next(); !ok || seq != last || iv != 5<<48|last {
		t.Errorf("last packet: %d, %x, %v", seq, iv, ok)
	}
	for range 3 {
		if _, _, ok := s.Next(); ok {
			t.Error("numbers beyond the last one")
		}
	}
	if !errors.Is(s.Exhausted(), sa.ErrSequenceOver) || !told(changed) || s.Info().Exhausted == "" {
		t.Errorf("at the end: %v", s.Exhausted())
	}
}

func TestCounterEnd(t *testing.T) {
	p := params(1)
	p.CounterStart = 1<<48 - 2
	s := newSA(t, p)
	for i := range 2 {
		if _, iv, ok := s.Next(); !ok || iv>>48 != 5 {
			t.Errorf("packet %d: %x, %v", i, iv, ok)
		}
	}
	if _, iv, ok := s.Next(); ok || !errors.Is(s.Exhausted(), sa.ErrSequenceOver) {
		t.Errorf("counter ran into the sender id: %x, %v", iv, s.Exhausted())
	}
}

func TestQuota(t *testing.T) {
	const packet = 44 // 40 bytes, padding and trailer
	db := sa.NewDB()
	p := params(1)
	p.QuotaBytes = 8*packet + packet/2
	s := install(t, db, p)
	changed, cancel := db.Subscribe()
	defer cancel()
	for i := range 8 {
		seq, iv, ok := s.Next()
		if !ok || s.Seal(make([]byte, 256), 40, seq, iv, esp.NextIPv4) == nil {
			t.Fatalf("packet %d is refused", i)
		}
		if soft := i >= 6; s.Info().Soft != soft || told(changed) != (i == 6) { // 6.4 of 8.5 are three quarters
			t.Errorf("packet %d: soft %v", i, s.Info().Soft)
		}
	}
	seq, iv, ok := s.Next()
	if !ok || s.Seal(make([]byte, 256), 40, seq, iv, esp.NextIPv4) != nil {
		t.Error("the packet that exceeds the quota is sealed")
	}
	if !told(changed) || !errors.Is(s.Exhausted(), sa.ErrQuotaOver) {
		t.Errorf("after the quota: %v", s.Exhausted())
	}
	if _, _, ok := s.Next(); ok {
		t.Error("numbers after the quota")
	}
	if info := s.Info(); info.BytesOut != 8*packet || info.PacketsOut != 8 {
		t.Errorf("counted %d packets, %d bytes", info.PacketsOut, info.BytesOut)
	}
}

// TestNumbersOfSeveralQueues: no number twice, whoever asks.
func TestNumbersOfSeveralQueues(t *testing.T) {
	const queues, each = 4, 5000
	s := newSA(t, params(1))
	var seen [queues*each + 1]atomic.Bool
	var wg sync.WaitGroup
	for range queues {
		wg.Go(func() {
			for range each {
				seq, iv, ok := s.Next()
				if !ok || uint64(seq) != iv&(1<<48-1) || seen[seq].Swap(true) {
					t.Errorf("number %d, %x: %v, or twice", seq, iv, ok)
					return
				}
			}
		})
	}
	wg.Wait()
}

// blocks is a reservation in blocks of n, granted when the test says so.
type blocks struct {
	sequence uint32
	counter  uint64
	reserved atomic.Uint64
	asked    atomic.Int64
}

func (b *blocks) First() (uint32, uint64) { return b.sequence, b.counter }
func (b *blocks) Reserved() uint64        { return b.reserved.Load() }
func (b *blocks) Extend()                 { b.asked.Add(1) }

func TestReservation(t *testing.T) {
	const block = 1 << 20
	r := &blocks{sequence: 3*block + 1, counter: 1<<40 + 3*block}
	p := params(1)
	p.Reservation = r
	s := newSA(t, p)
	if _, _, ok := s.Next(); ok || !errors.Is(s.Exhausted(), sa.ErrNotReserved) || r.asked.Load() == 0 {
		t.Fatalf("sends without a reservation: %v", s.Exhausted())
	}
	r.reserved.Store(block)
	r.asked.Store(0)
	if seq, iv, ok := s.Next(); !ok || seq != 3*block+1 || iv != 5<<48|(1<<40+3*block) {
		t.Fatalf("first numbers: %d, %x, %v", seq, iv, ok)
	}
	if r.asked.Load() != 0 {
		t.Error("asks for more with a whole block ahead")
	}
	for range block/2 - 1 {
		s.Next()
	}
	s.Next()
	if r.asked.Load() == 0 {
		t.Error("does not ask for more with half a block ahead")
	}
	sa.SetNumbered(s, block-1)
	if _, _, ok := s.Next(); !ok {
		t.Error("last reserved number is refused")
	}
	if _, _, ok := s.Next(); ok {
		t.Error("sends beyond the reservation")
	}
	r.reserved.Store(2 * block)
	if seq, _, ok := s.Next(); !ok || seq != 4*block+1 || s.Exhausted() != nil {
		t.Errorf("after the extension: %d, %v; no number may be lost", seq, s.Exhausted())
	}
}

func TestReservationAtTheEnd(t *testing.T) {
	r := &blocks{sequence: 1<<32 - 1, counter: 1<<48 - 1}
	r.reserved.Store(1 << 20)
	p := params(1)
	p.Reservation = r
	s := newSA(t, p)
	if seq, iv, ok := s.Next(); !ok || seq != 1<<32-1 || iv != 5<<48|(1<<48-1) {
		t.Errorf("last numbers: %d, %x, %v", seq, iv, ok)
	}
	if _, _, ok := s.Next(); ok {
		t.Error("sequence number wraps")
	}
	r.counter = 1 << 48
	if _, _, ok := newSA(t, p).Next(); ok {
		t.Error("counter of 49 bits")
	}
}

func TestInboundOnlyDoesNotSend(t *testing.T) {
	p := params(1)
	p.Direction = sa.Inbound
	s := newSA(t, p)
	if _, _, ok := s.Next(); ok || s.Sends(1) {
		t.Error("an inbound association sends")
	}
	if s.Exhausted() != nil || s.Info().Soft {
		t.Errorf("an inbound association is exhausted: %v", s.Exhausted())
	}
}

// told takes the value of a subscription, if there is one.
func told(changed <-chan struct{}) bool {
	select {
	case <-changed:
		return true
	default:
		return false
	}
}
