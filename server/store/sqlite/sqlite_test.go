package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"usher/server/store"
	"usher/server/store/sqlite"
	"usher/server/store/storetest"
)

func open(t *testing.T, file string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), file, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (a, b store.Store) {
		file := filepath.Join(t.TempDir(), "a strange % name?.db")
		return open(t, file), open(t, file)
	})
}

func addGroup(ctx context.Context, s store.Store, name string) error {
	_, err := s.Update(ctx, func(tx store.Tx) error {
		_, err := tx.AddGroup(ctx, name)
		return err
	})
	return err
}

func TestDurablePragmas(t *testing.T) {
	file := filepath.Join(t.TempDir(), "usher.db")
	s := open(t, file)
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1"} {
		if got := s.Pragma(t, pragma); got != want {
			t.Errorf("%s is %s, want %s", pragma, got, want)
		}
	}
	for _, name := range []string{file, file + "-wal"} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// TestReopen: what was committed is there after a restart, and the second
// start changes nothing.
func TestReopen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "usher.db")
	s, err := sqlite.Open(t.Context(), file, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(addGroup(t.Context(), s, "g"), s.Close()); err != nil {
		t.Fatal(err)
	}
	err = open(t, file).View(t.Context(), func(r store.Reader) error {
		_, err := r.Group(t.Context(), "g")
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestNewerSchema(t *testing.T) {
	file := filepath.Join(t.TempDir(), "usher.db")
	s, err := sqlite.Open(t.Context(), file, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = sqlite.Open(t.Context(), file, sqlite.Options{})
	if !errors.Is(err, store.ErrNewerSchema) || s != nil {
		t.Fatalf("a database of schema 9999: %v", err)
	}
	if !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "9999") {
		t.Errorf("the error names neither file nor schema: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "usher.db")
	if err := os.WriteFile(file, []byte(strings.Repeat("no database at all. ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := sqlite.Open(t.Context(), file, sqlite.Options{})
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), file) {
		t.Errorf("a file of text: %v", err)
	}
}

// TestDamagedPage: a database whose middle was overwritten is told apart from
// an empty one, and the process goes on.
func TestDamagedPage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "usher.db")
	s, err := sqlite.Open(t.Context(), file, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if err := addGroup(t.Context(), s, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < len(data); i++ {
		data[i] = 0xaa
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err = sqlite.Open(t.Context(), file, sqlite.Options{})
	if err == nil {
		defer s.Close() //nolint:errcheck // it is damaged
		err = addGroup(t.Context(), s, "d")
	}
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("an overwritten database: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if _, err := sqlite.Open(t.Context(), filepath.Join(dir, "none", "usher.db"), sqlite.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	file := filepath.Join(dir, "usher.db")
	s := open(t, file)
	s.Pragma(t, "query_only = 1")
	if err := addGroup(t.Context(), s, "g"); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), file) {
		t.Errorf("a database that cannot be written: %v", err)
	}
}
