package reserve_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/cmd/usher/agent/reserve"
	"usher/sa"
	"usher/sa/esp"
)

var material = bytes.Repeat([]byte("key!"), esp.MaterialLen/4)

func open(t *testing.T, dir string) *reserve.Store {
	t.Helper()
	s := reserve.Open(dir, slog.New(slog.DiscardHandler))
	t.Cleanup(s.Close)
	return s
}

func take(t *testing.T, s *reserve.Store) sa.Reservation {
	t.Helper()
	r, err := s.Take(material, 7)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// onlyFile returns the path of the one file in dir.
func onlyFile(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("directory has %d entries, %v; want 1", len(entries), err)
	}
	return filepath.Join(dir, entries[0].Name())
}

// reach waits until r has reserved n packets.
func reach(t *testing.T, r sa.Reservation, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); r.Reserved() < n; {
		if time.Now().After(deadline) {
			t.Fatalf("reserved %d, want %d", r.Reserved(), n)
		}
		r.Extend()
		<-time.After(time.Millisecond)
	}
}

func TestFirstRunAndNext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "reserved")
	store := open(t, dir)
	first := take(t, store)
	seq, counter := first.First()
	if seq != 1 || counter < 1 || counter > 1<<48-1<<32 || first.Reserved() != reserve.Block {
		t.Errorf("first run: %d, %d, %d", seq, counter, first.Reserved())
	}
	reach(t, first, 2*reserve.Block)
	store.Close()

	second := take(t, open(t, dir))
	// An extension that was asked for last may have been granted twice.
	nextSeq, nextCounter := second.First()
	if skipped := uint64(nextSeq - seq); skipped < 2*reserve.Block || skipped%reserve.Block != 0 || nextCounter != counter+skipped {
		t.Errorf("second run starts at %d, %d after %d, %d", nextSeq, nextCounter, seq, counter)
	}
	if info, err := os.Stat(onlyFile(t, dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info.Mode(), err)
	}
	content, err := os.ReadFile(onlyFile(t, dir))
	if err != nil || bytes.Contains(content, material[:4]) || strings.Contains(onlyFile(t, dir), "6b657921") {
		t.Error("the file tells the key")
	}
}

// TestNoNumberTwice kills and restarts a sender, sometimes by taking the file again in one process.
func TestNoNumberTwice(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[uint64]bool{}
	store := open(t, dir)
	var before *sa.SA
	for restart := range 12 {
		s := newSender(t, take(t, store))
		for range random.IntN(2000) {
			for _, sender := range []*sa.SA{s, before} {
				if sender == nil {
					continue
				}
				seq, iv, ok := sender.Next()
				if !ok || iv>>48 != 7 {
					t.Fatalf("restart %d: %d, %x, %v", restart, seq, iv, ok)
				}
				if seen[iv] || seen[uint64(seq)] {
					t.Fatalf("restart %d: number %d or %x came twice", restart, seq, iv)
				}
				seen[iv], seen[uint64(seq)] = true, true
			}
		}
		before = s
		if restart%2 == 0 {
			store.Close()
			store = open(t, dir)
			before = nil
		}
	}
}

func newSender(t *testing.T, r sa.Reservation) *sa.SA {
	t.Helper()
	s, err := sa.NewSA(sa.Params{
		Association: "manual", SPI: 0x1000, Destinations: []netip.Addr{netip.MustParseAddr("239.1.2.3")},
		Direction: sa.Outbound, Transform: esp.AES256GCM, Material: material, SenderID: 7, Reservation: r,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeysAndSendersApart(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	take(t, store)
	for _, other := range []struct {
		material []byte
		id       uint16
	}{{material, 8}, {bytes.ToUpper(material), 7}} {
		r, err := store.Take(other.material, other.id)
		if err != nil {
			t.Fatal(err)
		}
		if seq, _ := r.First(); seq != 1 {
			t.Errorf("another sender starts at %d", seq)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

func TestTakenTwice(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	first := take(t, store)
	if _, err := open(t, dir).Take(material, 7); !errors.Is(err, reserve.ErrInUse) {
		t.Errorf("by another process: %v", err)
	}
	second := take(t, store)
	for range 10 {
		first.Extend()
	}
	reach(t, second, 2*reserve.Block)
	if first.Reserved() != reserve.Block {
		t.Errorf("the first reservation grew to %d beside the second", first.Reserved())
	}
}

// rewrite changes the content of a reservation file in place; what it returns is written.
func rewrite(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	take(t, store)
	store.Close()
	path := onlyFile(t, dir)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, content []byte) {
		t.Helper()
		rewrite(t, path, func([]byte) []byte { return content })
		r, err := open(t, dir).Take(material, 7)
		if !errors.Is(err, reserve.ErrDamaged) || r != nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		refused("byte changed", bad)
	}
	for n := range good {
		refused("truncated", good[:n])
	}
	refused("longer", append(bytes.Clone(good), 0))
}

// TestCopiesAreRefused has files whose content is right, but not here or not any more.
func TestCopiesAreRefused(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	take(t, store)
	store.Close()
	path := onlyFile(t, dir)

	// A backup put back in place: the record is older than the file's last change.
	rewrite(t, path, func(b []byte) []byte {
		binary.BigEndian.PutUint64(b[32:], uint64(time.Now().Add(-time.Minute).UnixNano()))
		sum := sha256.Sum256(b[:40])
		return append(b[:40], sum[:]...)
	})
	if _, err := open(t, dir).Take(material, 7); !errors.Is(err, reserve.ErrCopied) {
		t.Errorf("restored in place: %v", err)
	}

	// A copy of another inode, at once.
	rewrite(t, path, func(b []byte) []byte {
		binary.BigEndian.PutUint64(b[32:], uint64(time.Now().UnixNano()))
		sum := sha256.Sum256(b[:40])
		return append(b[:40], sum[:]...)
	})
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".copy", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".copy", path); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir).Take(material, 7); !errors.Is(err, reserve.ErrCopied) {
		t.Errorf("copy: %v", err)
	}

	// A link to a file elsewhere.
	if err := errors.Join(os.Rename(path, path+".moved"), os.Symlink(path+".moved", path)); err != nil {
		t.Fatal(err)
	}
	if r, err := open(t, dir).Take(material, 7); err == nil || r != nil {
		t.Error("a symbolic link is followed")
	}
}

// TestDiskFails: the block that is there is used up, then nothing is sent; one line tells.
func TestDiskFails(t *testing.T) {
	var log bytes.Buffer
	store := reserve.Open(t.TempDir(), slog.New(slog.NewTextHandler(&log, nil)))
	defer store.Close()
	r := take(t, store)
	s := newSender(t, r)
	reserve.Break(r)
	sent := 0
	for range reserve.Block + 10 {
		if _, _, ok := s.Next(); ok {
			sent++
		}
	}
	if sent != reserve.Block || !errors.Is(s.Exhausted(), sa.ErrNotReserved) {
		t.Errorf("sent %d: %v", sent, s.Exhausted())
	}
	store.Close()
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "cannot be reserved") {
		t.Errorf("log: %s", log.String())
	}
	if _, err := store.Take(material, 7); !errors.Is(err, reserve.ErrClosed) {
		t.Errorf("taken after Close: %v", err)
	}
	store.Close()
}

func TestUsedUp(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	r := take(t, store)
	reserve.SetLimit(r, 1<<32-1-10)
	last := take(t, store)
	if seq, _ := last.First(); seq != 1<<32-10 || last.Reserved() != 10 {
		t.Errorf("last run: %d, %d", seq, last.Reserved())
	}
	if _, err := store.Take(material, 7); !errors.Is(err, reserve.ErrUsedUp) {
		t.Errorf("beyond the last: %v", err)
	}
	store.Close()
	if _, err := open(t, dir).Take(material, 7); !errors.Is(err, reserve.ErrUsedUp) {
		t.Errorf("after a restart: %v", err)
	}
}

func TestNoPlaceForFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a-file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := open(t, dir).Take(material, 7); err == nil || r != nil {
		t.Error("takes numbers without a directory")
	}
}
