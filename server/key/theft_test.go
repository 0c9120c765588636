package key

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/server/store"
)

// TestTheft is attack test 8 in small, with 9 beside it: a thief has the static
// master key, every state of the database that ever was and the ratchet file of
// the instant t. No row of an interval that ended more than 70 s before t opens;
// those of a minute back and of the lead ahead do. With an old copy of the
// ratchet file he opens all from then on, which is why it is in no backup.
func TestTheft(t *testing.T) {
	l := newLab(t)
	e := l.newEvent(10 * time.Second)
	e.Time.Duration = "PT2H"
	e = l.addEvent(e)
	l.start()
	l.leap(0)
	atStart := readFile(t, l.config.RatchetFile)
	stolen := map[uint32]store.Row{} // of every database state
	for range 120 {
		l.leap(5 * time.Second)
		for i, row := range l.rows(l.tagOf(e)) {
			if old, seen := stolen[i]; seen && old != row {
				t.Fatalf("row %d changed", i)
			}
			stolen[i] = row
		}
	}
	now := l.server.clock.now().ms()
	t0 := l.server.keeper.runs[l.tagOf(e)].timing
	opens := func(ratchet []byte) (past, ahead int, oldestMS int64) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "ratchet")
		if err := os.WriteFile(path, ratchet, 0o600); err != nil {
			t.Fatal(err)
		}
		master, err := readMasterKey(l.config.MasterKeyFile)
		if err != nil {
			t.Fatal(err)
		}
		r, err := openRatchetFile(path, master)
		if err != nil {
			t.Fatal(err)
		}
		defer r.close() //nolint:errcheck // a copy of the file
		for i, row := range stolen {
			walk := r.walk()
			sealKey, err := walk.sealKey(row.Epoch)
			if err == nil {
				_, err = openRow(sealKey, &row)
			}
			walk.end()
			switch ends := t0.T(i + 1); {
			case err != nil && ends > now:
				t.Errorf("interval %d is still to come and does not open: %v", i, err)
			case err == nil && ends <= now:
				past++
				oldestMS = max(oldestMS, now-ends)
			case err == nil:
				ahead++
			}
		}
		return past, ahead, oldestMS
	}
	past, ahead, oldest := opens(readFile(t, l.config.RatchetFile))
	if oldest > 70_000 {
		t.Errorf("an interval that ended %d ms ago opens", oldest)
	}
	if past == 0 || ahead < 720 {
		t.Errorf("%d past intervals and %d to come open: the thief of this test cannot open anything", past, ahead)
	}
	past, _, oldest = opens(atStart)
	if oldest < 580_000 || past < 100 {
		t.Errorf("with the ratchet file of the start only %d past intervals open, %d ms back", past, oldest)
	}
	if gone := l.rows(l.tagOf(e)); len(gone) >= len(stolen) {
		t.Errorf("%d of %d rows are still in the database", len(gone), len(stolen))
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (l *lab) rows(tag derive.Tag) map[uint32]store.Row {
	l.t.Helper()
	rows := map[uint32]store.Row{}
	err := l.store.View(l.t.Context(), func(r store.Reader) error {
		list, err := r.Rows(l.t.Context(), tag, 0)
		for _, row := range list {
			rows[row.Interval] = row
		}
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return rows
}

// TestNoSecretOnDisk: neither the database's files nor the ratchet file hold a
// key of any interval, nor M, in the clear.
func TestNoSecretOnDisk(t *testing.T) {
	l, v, _ := enrolled(t)
	l.goTo(23 * time.Second)
	v.refresh(1)
	secrets := [][]byte{l.server.keeper.ratchet.m.Bytes()}
	for _, k := range v.keys {
		secrets = append(secrets, []byte(k))
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(l.config.RatchetFile), "*"))
	if err != nil || len(files) < 4 { // database, its WAL, master key, ratchet
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		content := readFile(t, file)
		for _, s := range secrets {
			if bytes.Contains(content, s) {
				t.Errorf("%s holds a secret", filepath.Base(file))
			}
		}
	}
}
