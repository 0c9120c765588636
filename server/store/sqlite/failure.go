package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"usher/server/store"
)

// explain turns what SQLite says into one line with the file's name and what
// to do about it. Errors that are not SQLite's pass unchanged.
func (s *Store) explain(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok || errors.Is(err, store.ErrNewerSchema) {
		return err
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_FULL:
		return s.full(err)
	case lib.SQLITE_IOERR, lib.SQLITE_CANTOPEN:
		if s.noSpace() { // a growing WAL index fails so
			return s.full(err)
		}
		return fmt.Errorf("store: %s cannot be read or written: %w", s.file, err)
	case lib.SQLITE_READONLY:
		return fmt.Errorf("%w: %s: run as the user that owns it, on a file system mounted for writing (%w)", store.ErrReadOnly, s.file, err)
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		return fmt.Errorf("%w: %s: restore it from a backup (%w)", store.ErrCorrupt, s.file, err)
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		return fmt.Errorf("%w: %s: another process held it for over %s; try again (%w)", store.ErrBusy, s.file, busyTimeout, err)
	}
	return fmt.Errorf("store: %s: %w", s.file, err)
}

func (s *Store) full(err error) error {
	return fmt.Errorf("%w: %s: free space on its file system and try again; nothing of this change was kept (%w)", store.ErrFull, s.file, err)
}

// noSpace tells whether the file system under the database has no block left.
func (s *Store) noSpace() bool {
	var st unix.Statfs_t
	return unix.Statfs(s.file, &st) == nil && st.Bavail == 0
}

// isReadOnly tells whether a file could not be opened because its file system
// is mounted read-only.
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

// isConstraint tells whether a statement failed at a constraint of this kind
// (an extended result code).
func isConstraint(err error, code int) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == code
}

// taken turns a broken UNIQUE or PRIMARY KEY into ErrExists and a broken
// foreign key into ErrNotFound, with the words given.
func taken(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	switch {
	case err == nil:
		return nil
	case isConstraint(err, lib.SQLITE_CONSTRAINT_UNIQUE), isConstraint(err, lib.SQLITE_CONSTRAINT_PRIMARYKEY):
		return fmt.Errorf("%w: %s", store.ErrExists, what)
	case isConstraint(err, lib.SQLITE_CONSTRAINT_FOREIGNKEY):
		return fmt.Errorf("%w: what it refers to: %s", store.ErrNotFound, what)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// found turns no row into ErrNotFound, with the words given.
func found(err error, format string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: %s", store.ErrNotFound, fmt.Sprintf(format, args...))
	}
	return err
}
