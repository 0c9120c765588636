package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	_ "modernc.org/sqlite" // the database/sql driver "sqlite"

	"usher/server/store"
)

// busyTimeout is how long a writer waits for another process's transaction.
const busyTimeout = 5 * time.Second

// Options are what a caller may choose; the zero value is right for programs.
type Options struct {
	// Now dates changes, clients and events; nil is time.Now.
	Now func() time.Time
}

// Store is the store on one file.
type Store struct {
	file    string
	now     func() time.Time
	writer  *sql.DB // one connection
	readers *sql.DB
}

var _ store.Store = (*Store)(nil)

// Open opens the file, makes it (mode 0600) where there is none, and raises its
// schema to this version's. store.ErrNewerSchema: a newer version wrote it;
// ErrCorrupt, ErrReadOnly, ErrFull as they say.
func Open(ctx context.Context, file string, o Options) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	// SQLite would make the file readable by all; its WAL takes after it.
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrPermission) || isReadOnly(err) {
		return nil, fmt.Errorf("%w: %s: run as the user that owns it, on a file system mounted for writing", store.ErrReadOnly, file)
	}
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	s := &Store{file: file, now: o.Now}
	if s.writer, err = sql.Open("sqlite", dsn(file, "immediate", "")); err != nil {
		return nil, s.explain(err)
	}
	s.writer.SetMaxOpenConns(1)
	if s.readers, err = sql.Open("sqlite", dsn(file, "deferred", "query_only(1)")); err != nil {
		return nil, errors.Join(s.explain(err), s.writer.Close())
	}
	s.readers.SetMaxOpenConns(max(4, runtime.GOMAXPROCS(0)))
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// dsn is the driver's name for the file with the pragmas of every connection.
func dsn(file, lock, pragma string) string {
	if abs, err := filepath.Abs(file); err == nil {
		file = abs
	}
	q := url.Values{"_txlock": {lock}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "secure_delete(1)",
	}}
	if pragma != "" {
		q.Add("_pragma", pragma)
	}
	return "file:" + (&url.URL{Path: file}).EscapedPath() + "?" + q.Encode()
}

// View reads one snapshot.
func (s *Store) View(ctx context.Context, read func(store.Reader) error) error {
	t, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return s.explain(err)
	}
	defer t.Rollback() //nolint:errcheck // nothing to lose
	return s.explain(read(&reader{q: t}))
}

// Update reads and writes in one transaction, alone.
func (s *Store) Update(ctx context.Context, write func(store.Tx) error) (store.Mark, error) {
	t, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return store.Mark{}, s.explain(err)
	}
	defer t.Rollback() //nolint:errcheck // after a commit it does nothing
	w := &tx{reader: reader{q: t}, now: s.now()}
	if err := write(w); err != nil {
		return store.Mark{}, s.explain(err)
	}
	if err := t.Commit(); err != nil {
		return store.Mark{}, s.explain(err)
	}
	return w.mark, nil
}

// Close waits for the transactions under way.
func (s *Store) Close() error {
	return errors.Join(s.readers.Close(), s.writer.Close())
}

// reader is one snapshot.
type reader struct{ q *sql.Tx }

// tx is the one transaction that writes.
type tx struct {
	reader
	now  time.Time
	mark store.Mark
}

var (
	_ store.Reader = (*reader)(nil)
	_ store.Tx     = (*tx)(nil)
)

// exec runs a statement and tells how many rows it touched.
func (t *tx) exec(ctx context.Context, query string, args ...any) (int, error) {
	res, err := t.q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	return int(n), err
}

// scanner is a row of either kind.
type scanner interface{ Scan(dest ...any) error }

// collect reads all rows of a query.
func collect[T any](ctx context.Context, r *reader, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	var all []T
	err := r.each(ctx, func(row scanner) error {
		v, err := scan(row)
		all = append(all, v)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// each calls f for each row of a query.
func (r *reader) each(ctx context.Context, f func(scanner) error, query string, args ...any) (err error) {
	rows, err := r.q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func milliseconds(t time.Time) int64 { return t.UnixMilli() }

func fromMilliseconds(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
