package store

import "errors"

// What a backend may answer; it wraps each with the thing that was asked for,
// so that the whole error is one line that a person can act on.
var (
	// ErrNotFound: the group, client, event or occurrence does not exist.
	ErrNotFound = errors.New("store: not found")
	// ErrExists: the name, edge or id is taken.
	ErrExists = errors.New("store: exists already")
	// ErrSenderIDs: no block of sender ids is left, or the client holds its
	// share of them (docs/keying.md §6).
	ErrSenderIDs = errors.New("store: no sender ids left")
	// ErrCursorGone: the change log no longer holds the rows after this cursor,
	// or has never reached it. The follower must read everything anew.
	ErrCursorGone = errors.New("store: change log does not reach back to this cursor")
	// ErrNewerSchema: the database was written by a newer version.
	ErrNewerSchema = errors.New("store: database has a newer schema")
	// ErrFull: the file system under the database is full. Nothing of the
	// transaction was kept.
	ErrFull = errors.New("store: no space left under the database")
	// ErrReadOnly: the database cannot be written.
	ErrReadOnly = errors.New("store: database is read-only")
	// ErrCorrupt: the file is not a database, or a damaged one.
	ErrCorrupt = errors.New("store: database is damaged")
	// ErrBusy: another process held the database for longer than a writer waits.
	ErrBusy = errors.New("store: database is busy")
)
