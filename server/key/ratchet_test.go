package key

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/server/store"
)

var errCut = errors.New("power cut")

// cutFile is a disk that loses power after so many bytes written.
type cutFile struct {
	content []byte
	left    int // bytes that may still be written; negative: without end
	syncs   int
}

func (f *cutFile) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(f.content).ReadAt(b, at)
}

func (f *cutFile) WriteAt(b []byte, at int64) (int, error) {
	n := len(b)
	if f.left >= 0 {
		n = min(n, f.left)
		f.left -= n
	}
	copy(f.content[at:], b[:n])
	if n < len(b) {
		return n, errCut
	}
	return n, nil
}

func (f *cutFile) Sync() error {
	if f.left == 0 {
		return errCut
	}
	f.syncs++
	return nil
}

func (f *cutFile) Close() error { return nil }

// newRatchetFile is a ratchet at an epoch, in memory.
func newRatchetFile(master, m *derive.Secret, epoch uint64) *cutFile {
	r := &ratchet{aead: derive.NewAEAD(master)}
	slot := r.sealSlot(epoch, m, store.Mark{Seq: 1, Random: 2})
	f := &cutFile{content: make([]byte, ratchetSize), left: -1}
	copy(f.content[slotA:], slot[:])
	copy(f.content[slotB:], slot[:])
	return f
}

func sealKeyOf(t *testing.T, r *ratchet, x uint64) *derive.Secret {
	t.Helper()
	walk := r.walk()
	defer walk.end()
	e, err := walk.sealKey(x)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestRatchetAdvances: later keys are the same whichever way one gets there, the
// past is forgotten in memory and in the file.
func TestRatchetAdvances(t *testing.T) {
	master, m := derive.RandomSecret(), derive.RandomSecret()
	old := append([]byte(nil), m.Bytes()...)
	file := newRatchetFile(master, m, 100)
	r, err := openRatchet(file, master)
	if err != nil {
		t.Fatal(err)
	}
	inMemory := r.m
	ahead := sealKeyOf(t, r, 160)
	if err := r.advance(103); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(inMemory.Bytes(), make([]byte, 32)) {
		t.Error("the old value stays in memory")
	}
	if !sealKeyOf(t, r, 160).Equal(ahead) {
		t.Error("the key of a later epoch changed")
	}
	for _, walkTo := range []uint64{100, 102} {
		walk := r.walk()
		if _, err := walk.sealKey(walkTo); !errors.Is(err, ErrForgotten) {
			t.Errorf("epoch %d after 103: %v", walkTo, err)
		}
	}
	if err := r.advance(101); err != nil || r.at() != 103 {
		t.Errorf("advance to the past: %v, epoch %d", err, r.at())
	}

	again, err := openRatchet(file, master)
	if err != nil {
		t.Fatal(err)
	}
	if again.at() != 103 || !sealKeyOf(t, again, 160).Equal(ahead) {
		t.Errorf("reopened at epoch %d, or with another M", again.at())
	}
	if again.mark != (store.Mark{Seq: 1, Random: 2}) {
		t.Errorf("reopened with mark %v", again.mark)
	}
	for name, at := range map[string]int{"A": slotA, "B": slotB} {
		epoch, kept, _, ok := r.openSlot(file.content[at : at+slotUsed])
		if !ok || epoch != 103 || bytes.Equal(kept.Bytes(), old) {
			t.Errorf("slot %s is of epoch %d (opens: %v): the old state can still be read", name, epoch, ok)
		}
	}
}

// TestRatchetPowerCut cuts the writing of a new state at every byte: what is on
// the disk then opens, as the old state or the new one, and goes on from there.
func TestRatchetPowerCut(t *testing.T) {
	master, m := derive.RandomSecret(), derive.RandomSecret()
	want := func() *derive.Secret {
		r, err := openRatchet(newRatchetFile(master, m, 100), master)
		if err != nil {
			t.Fatal(err)
		}
		return sealKeyOf(t, r, 105)
	}()
	var sawOld, sawNew bool
	for cut := range 2*slotUsed + 1 {
		file := newRatchetFile(master, m, 100)
		r, err := openRatchet(file, master)
		if err != nil {
			t.Fatal(err)
		}
		file.left = cut
		if err := r.advance(101); err == nil {
			t.Fatalf("cut after %d bytes: advance knows nothing of it", cut)
		}
		if r.at() != 100 {
			t.Fatalf("cut after %d bytes: in memory the ratchet is at %d, the file may be at 100", cut, r.at())
		}

		file.left = -1
		after, err := openRatchet(file, master)
		if err != nil {
			t.Fatalf("cut after %d bytes: %v", cut, err)
		}
		sawOld = sawOld || after.at() == 100
		sawNew = sawNew || after.at() == 101
		if !sealKeyOf(t, after, 105).Equal(want) {
			t.Fatalf("cut after %d bytes: another M", cut)
		}
		if !bytes.Equal(file.content[slotA:slotA+slotUsed], file.content[slotB:slotB+slotUsed]) {
			t.Fatalf("cut after %d bytes: the start left two states", cut)
		}
	}
	if !sawOld || !sawNew {
		t.Errorf("old state seen: %v, new state seen: %v; the test cuts nothing", sawOld, sawNew)
	}
}

// TestRatchetNote: a mark is in the file before note returns, and never goes back.
func TestRatchetNote(t *testing.T) {
	master := derive.RandomSecret()
	file := newRatchetFile(master, derive.RandomSecret(), 100)
	r, err := openRatchet(file, master)
	if err != nil {
		t.Fatal(err)
	}
	syncs := file.syncs
	for _, mark := range []store.Mark{{Seq: 9, Random: 90}, {Seq: 7, Random: 70}} {
		if err := r.note(mark); err != nil {
			t.Fatal(err)
		}
	}
	if file.syncs != syncs+2 {
		t.Errorf("%d syncs, want one for each slot", file.syncs-syncs)
	}
	if again, err := openRatchet(file, master); err != nil || again.mark != (store.Mark{Seq: 9, Random: 90}) {
		t.Errorf("reopened: %v, %v", again.mark, err)
	}
	file.left = 0
	if err := r.note(store.Mark{Seq: 10}); !errors.Is(err, errCut) {
		t.Errorf("a mark that could not be written: %v", err)
	}
}

// TestRatchetDamaged: a changed byte costs one slot, two cost the file.
func TestRatchetDamaged(t *testing.T) {
	master := derive.RandomSecret()
	for _, at := range []int{slotA, slotB} {
		for i := range slotUsed {
			file := newRatchetFile(master, derive.RandomSecret(), 100)
			file.content[at+i] ^= 1
			if _, err := openRatchet(file, master); err != nil {
				t.Fatalf("byte %d changed: %v", at+i, err)
			}
		}
	}
	file := newRatchetFile(master, derive.RandomSecret(), 100)
	file.content[slotA+30] ^= 1
	file.content[slotB+30] ^= 1
	if _, err := openRatchet(file, master); !errors.Is(err, ErrRatchet) {
		t.Errorf("both slots changed: %v", err)
	}
	if _, err := openRatchet(newRatchetFile(master, derive.RandomSecret(), 1), derive.RandomSecret()); !errors.Is(err, ErrRatchet) {
		t.Errorf("another master key: %v", err)
	}
	if _, err := openRatchet(&cutFile{left: -1}, master); !errors.Is(err, ErrRatchet) {
		t.Errorf("empty file: %v", err)
	}
}

func TestRatchetFiles(t *testing.T) {
	dir := t.TempDir()
	masterFile, ratchetFile := filepath.Join(dir, "master.key"), filepath.Join(dir, "ratchet")
	now := time.Unix(1_800_000_000, 0)
	if err := CreateRatchet(ratchetFile, masterFile, now); !errors.Is(err, ErrMasterKey) {
		t.Errorf("without a master key: %v", err)
	}
	if err := CreateMasterKey(masterFile); err != nil {
		t.Fatal(err)
	}
	if err := CreateRatchet(ratchetFile, masterFile, now); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{masterFile, ratchetFile} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	for name, err := range map[string]error{
		"master key": CreateMasterKey(masterFile),
		"ratchet":    CreateRatchet(ratchetFile, masterFile, now),
	} {
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("a second %s: %v", name, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	master, err := readMasterKey(masterFile)
	if err != nil {
		t.Fatal(err)
	}
	r, err := openRatchetFile(ratchetFile, master)
	if err != nil {
		t.Fatal(err)
	}
	if r.at() != epochAt(now.UnixMilli()) {
		t.Errorf("begins at epoch %d", r.at())
	}
	if _, err := openRatchetFile(ratchetFile, master); !errors.Is(err, ErrRatchetInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	if r, err = openRatchetFile(ratchetFile, master); err != nil {
		t.Errorf("opened after close: %v", err)
	} else if err := r.close(); err != nil {
		t.Error(err)
	}
	if _, err := openRatchetFile(filepath.Join(dir, "none"), master); !errors.Is(err, ErrNoRatchet) {
		t.Errorf("missing: %v", err)
	}

	if err := os.Chmod(masterFile, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := readMasterKey(masterFile); !errors.Is(err, ErrMasterKey) {
		t.Errorf("master key that others may read: %v", err)
	}
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, make([]byte, 31), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readMasterKey(short); !errors.Is(err, ErrMasterKey) {
		t.Errorf("short master key: %v", err)
	}
}

func TestEpochAt(t *testing.T) {
	for ms, want := range map[int64]uint64{0: 0, 61_999: 0, 62_000: 1, 121_999: 1, 122_000: 2} {
		if got := epochAt(ms); got != want {
			t.Errorf("epoch at %d ms is %d, want %d", ms, got, want)
		}
	}
}

var _ io.WriterAt = (*cutFile)(nil)

// TestRatchetKnowsWhatWasRead: with each epoch the file has the newest change
// that the host read, not only those that it wrote.
func TestRatchetKnowsWhatWasRead(t *testing.T) {
	l := newLab(t)
	number := l.addClient("alice", "viewers")
	l.start()
	l.suspend(number)
	want := l.mark()
	l.leap(time.Minute)
	master, err := readMasterKey(l.config.MasterKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	r, err := openRatchet(&cutFile{content: readFile(t, l.config.RatchetFile), left: -1}, master)
	if err != nil {
		t.Fatal(err)
	}
	if r.mark != want || want.Seq == 0 {
		t.Errorf("the file has change %v, want %v", r.mark, want)
	}
}
