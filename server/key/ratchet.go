package key

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"usher/keyclient/derive"
	"usher/server/store"
)

// The ratchet is the one secret of a host that ages away: M of the epoch, from
// which the keys E of this and every later epoch derive, and of no earlier one.
// What is sealed under E of a past epoch is gone, in every copy of the database
// (docs/keying.md §3).
//
// Its file has two slots, each in a page of its own, so that a torn write of one
// cannot touch the other:
//
//	   0  slot A, 96 bytes, zeros up to 4096
//	4096  slot B, likewise
//	slot: 0  "usherrat" 8 | version 4 (1)
//	     12  nonce 12 | sealed 56 | tag 16, under the static master key,
//	         associated data = slot bytes 0…11
//	sealed: 0  epoch 8 | 8 M 32 | 40 sequence number 8, random bits 8 of the last
//	        change read or written
//
// A state is written in place to slot B, synced, then to slot A, synced: at
// every moment one slot is whole, and once both are written the old M is gone.
const (
	slotSize    = 4096
	slotUsed    = 12 + 12 + ratchetPlain + 16
	slotA       = 0 * slotSize
	slotB       = 1 * slotSize
	ratchetSize = 2 * slotSize

	ratchetPlain   = 8 + 32 + 16
	ratchetVersion = 1
)

const ratchetMagic = "usherrat"

const (
	epochLength = 60 * time.Second
	// epochLinger is how long after its end a host leaves an epoch.
	epochLinger = 2 * time.Second
	// maxLeap is how many epochs the ratchet advances at a start without being
	// told to: one wrong clock at boot must not destroy all keys.
	maxLeap = uint64(24 * time.Hour / epochLength)
)

// epochAt is the epoch that a host is in at an instant (ms).
func epochAt(nowMS int64) uint64 {
	return uint64(max(0, nowMS-epochLinger.Milliseconds()) / epochLength.Milliseconds())
}

// slotFile is what the ratchet needs of a file; tests cut the writes short.
type slotFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// ratchet may be used by several goroutines.
type ratchet struct {
	aead cipher.AEAD // under the static master key

	mu    sync.Mutex
	file  slotFile       // guarded by mu
	epoch uint64         // guarded by mu
	m     *derive.Secret // guarded by mu; M of epoch
	mark  store.Mark     // guarded by mu; newest change read or written
	noted uint64         // guarded by mu; sequence number that the file has
}

// openRatchet takes the slot that opens and is newer, and overwrites the other.
// It closes the file where it fails.
func openRatchet(file slotFile, master *derive.Secret) (*ratchet, error) {
	r := &ratchet{aead: derive.NewAEAD(master), file: file}
	for _, at := range []int64{slotA, slotB} {
		var slot [slotUsed]byte
		if _, err := file.ReadAt(slot[:], at); err != nil {
			continue // a short file has a slot less
		}
		epoch, m, mark, ok := r.openSlot(slot[:])
		switch {
		case !ok:
		case r.m == nil || epoch > r.epoch || epoch == r.epoch && mark.Seq > r.mark.Seq:
			r.m.Wipe()
			r.epoch, r.m, r.mark = epoch, m, mark
		default:
			m.Wipe()
		}
	}
	if r.m == nil {
		file.Close() //nolint:errcheck // the error below says more
		return nil, ErrRatchet
	}
	if err := r.write(r.epoch, r.m, r.mark); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// advance turns the ratchet to an epoch, one step after the other, and forgets
// what was. An epoch that is not later changes nothing. Where the file cannot
// be written the ratchet stays, in memory too: the file is what counts.
func (r *ratchet) advance(to uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if to <= r.epoch {
		return nil
	}
	m := stepEpochs(r.m, r.epoch, to)
	if err := r.write(to, m, r.mark); err != nil {
		m.Wipe()
		return err
	}
	r.m.Wipe()
	r.epoch, r.m = to, m
	return nil
}

// note keeps the newest change that this host read or wrote. It returns after
// the file has it, so that a host that fails together with its database still
// sees that the last changes are missing (docs/keying.md §6).
func (r *ratchet) note(mark store.Mark) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if mark.Seq <= r.noted {
		return nil
	}
	if mark.Seq < r.mark.Seq {
		mark = r.mark
	}
	if err := r.write(r.epoch, r.m, mark); err != nil {
		return err
	}
	r.mark = mark
	return nil
}

// seen keeps the newest change that was read; the file has it with the next state.
func (r *ratchet) seen(mark store.Mark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if mark.Seq > r.mark.Seq {
		r.mark = mark
	}
}

func (r *ratchet) at() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch
}

// walk begins a walk over the seal keys of this and later epochs.
func (r *ratchet) walk() *epochWalk {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := new(derive.Secret)
	copy(m.Bytes(), r.m.Bytes())
	return &epochWalk{epoch: r.epoch, m: m}
}

func (r *ratchet) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m.Wipe()
	return r.file.Close()
}

// write is called with mu held, or before anybody else has r.
func (r *ratchet) write(epoch uint64, m *derive.Secret, mark store.Mark) error {
	slot := r.sealSlot(epoch, m, mark)
	for _, at := range []int64{slotB, slotA} {
		if _, err := r.file.WriteAt(slot[:], at); err != nil {
			return fmt.Errorf("write the ratchet file: %w", err)
		}
		if err := r.file.Sync(); err != nil {
			return fmt.Errorf("sync the ratchet file: %w", err)
		}
	}
	r.noted = mark.Seq
	return nil
}

func (r *ratchet) sealSlot(epoch uint64, m *derive.Secret, mark store.Mark) (slot [slotUsed]byte) {
	var plain [ratchetPlain]byte
	defer clear(plain[:])
	binary.BigEndian.PutUint64(plain[0:], epoch)
	copy(plain[8:], m.Bytes())
	binary.BigEndian.PutUint64(plain[40:], mark.Seq)
	binary.BigEndian.PutUint64(plain[48:], mark.Random)

	nonce := randomNonce()
	head := binary.BigEndian.AppendUint32(append(slot[:0], ratchetMagic...), ratchetVersion)
	sealed := append(head, nonce[:]...)
	r.aead.Seal(sealed, nonce[:], plain[:], head)
	return slot
}

func (r *ratchet) openSlot(slot []byte) (epoch uint64, m *derive.Secret, mark store.Mark, ok bool) {
	head := binary.BigEndian.AppendUint32([]byte(ratchetMagic), ratchetVersion)
	if string(slot[:12]) != string(head) {
		return 0, nil, store.Mark{}, false
	}
	plain, err := r.aead.Open(nil, slot[12:24], slot[24:slotUsed], head)
	if err != nil {
		return 0, nil, store.Mark{}, false
	}
	defer clear(plain)
	m, err = derive.NewSecret(plain[8:40])
	if err != nil {
		return 0, nil, store.Mark{}, false
	}
	mark = store.Mark{Seq: binary.BigEndian.Uint64(plain[40:]), Random: binary.BigEndian.Uint64(plain[48:])}
	return binary.BigEndian.Uint64(plain[0:]), m, mark, true
}

// epochWalk derives the seal keys of rising epochs, each step once.
type epochWalk struct {
	epoch uint64
	m     *derive.Secret
}

// sealKey is E of epoch x, which the caller wipes. ErrForgotten: the walk has
// passed x, or the ratchet had before it.
func (w *epochWalk) sealKey(x uint64) (*derive.Secret, error) {
	if x < w.epoch {
		return nil, fmt.Errorf("%w: epoch %d, now %d", ErrForgotten, x, w.epoch)
	}
	m := stepEpochs(w.m, w.epoch, x)
	w.m.Wipe()
	w.epoch, w.m = x, m
	return derive.SealKey(m), nil
}

func (w *epochWalk) end() { w.m.Wipe() }

// stepEpochs derives M of epoch `to` from that of `from`; it leaves m alone and
// wipes what lies between.
func stepEpochs(m *derive.Secret, from, to uint64) *derive.Secret {
	out := new(derive.Secret)
	copy(out.Bytes(), m.Bytes())
	for from < to {
		from++
		next := derive.NextEpoch(out, from)
		out.Wipe()
		out = next
	}
	return out
}
