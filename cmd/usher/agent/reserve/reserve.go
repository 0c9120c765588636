// Package reserve keeps the packet numbers of manually keyed senders on disk, so that no sequence
// number and no counter comes twice under one key, whatever happens to the agent (docs/design.md §3,
// manual keying). Numbers are reserved in blocks of 2²⁰, written in place and synced before the first
// of them is used; after a restart a sender goes on behind the last block.
//
// [Open] gives a [Store], one a directory; [Store.Take] gives an [sa.Reservation] for one key and sender
// id, to be passed on in sa.Params. It must never give out numbers that are not durably reserved: a file
// that is damaged, copied, restored from a backup or in use by another process is refused, and so is
// sending by it.
//
// Limits, for the manual: a snapshot of the whole machine brings back file and inode alike, and a clone
// of a running machine shares its memory; neither can be told from here. A file that is deleted starts
// again at sequence number 1, but at a counter drawn at random, so that nonces do not repeat.
package reserve

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"usher/sa"
)

// Block is how many packets one write covers.
const Block = 1 << 20

// The errors of [Store.Take].
var (
	// ErrInUse means that another process holds the file.
	ErrInUse = errors.New("reserve: numbers of this key are in use by another process")
	// ErrDamaged means that the file's content is not what was written.
	ErrDamaged = errors.New("reserve: file is damaged")
	// ErrCopied means that the file is a copy, was restored, or was touched by another program.
	ErrCopied = errors.New("reserve: file was copied, restored or touched")
	// ErrUsedUp means that all 2³² − 1 sequence numbers of the key are reserved.
	ErrUsedUp = errors.New("reserve: all sequence numbers of this key are used up")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("reserve: store is closed")
)

// advice ends the errors that only a person can resolve.
const advice = "give the [[sa]] a new key on all its hosts"

// Store is a directory of reservations.
type Store struct {
	dir  string
	log  *slog.Logger
	done chan struct{}  // closed by Close
	work sync.WaitGroup // extensions under way

	mu   sync.Mutex
	runs map[string]*run // guarded by mu: the newest of each file
}

// Open returns the store of a directory, which is made (mode 0700) when it is first needed.
func Open(dir string, log *slog.Logger) *Store {
	return &Store{dir: dir, log: log, done: make(chan struct{}), runs: make(map[string]*run)}
}

// Take reserves a block for a key (key ‖ salt) and sender id, and returns the reservation of one
// association. Taken again, the reservation before gets no more blocks, so that the two share no
// number. Errors: [ErrInUse], [ErrDamaged], [ErrCopied], [ErrUsedUp], [ErrClosed], and those of the file
// system. The file's name is a hash: neither it nor the content tells the key.
func (s *Store) Take(material []byte, senderID uint16) (sa.Reservation, error) {
	name := fileName(material, senderID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed() {
		return nil, ErrClosed
	}
	f, err := s.file(name)
	if err != nil {
		return nil, fmt.Errorf("take numbers of %s: %w", filepath.Join(s.dir, name), err)
	}
	r := &run{store: s, file: f}
	if err := r.start(); err != nil {
		if s.runs[name] == nil {
			f.close()
		}
		return nil, fmt.Errorf("take numbers of %s: %w", filepath.Join(s.dir, name), err)
	}
	if before := s.runs[name]; before != nil {
		before.ended.Store(true)
	}
	s.runs[name] = r
	return r, nil
}

// Close ends all reservations: numbers that are reserved may still be used, no more are added.
func (s *Store) Close() {
	s.mu.Lock()
	if !s.closed() {
		close(s.done)
	}
	s.mu.Unlock()
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runs {
		r.file.close()
	}
	clear(s.runs)
}

func (s *Store) closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// file returns the open file of that name; it is opened, or made, for the first run. s.mu is held.
func (s *Store) file(name string) (*file, error) {
	if r := s.runs[name]; r != nil {
		return r.file, nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, name)
	f, err := openFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return createFile(path)
	}
	return f, err
}

func fileName(material []byte, senderID uint16) string {
	h := sha256.New()
	h.Write([]byte("usher reserve"))
	h.Write(material)
	h.Write(binary.BigEndian.AppendUint16(nil, senderID))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// randomBase draws the counter of a new file's first packet: with 48 bits and at most 2³² packets a
// file, a key whose file was lost hardly ever meets its old counters.
func randomBase() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return 1 + binary.BigEndian.Uint64(b[:])%(1<<48-1<<32)
}
