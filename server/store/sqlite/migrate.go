package sqlite

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"usher/server/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate raises the schema to this version's. Another process that does the
// same at the same time is not an error: what counts is the version after it.
func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.writer, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	sources := p.ListSources()
	newest := sources[len(sources)-1].Version
	have, err := s.version(ctx)
	if err != nil {
		return err
	}
	if have < newest {
		_, upErr := p.Up(ctx)
		if have, err = s.version(ctx); err != nil || have < newest {
			return s.explain(errors.Join(upErr, err))
		}
	}
	if have > newest {
		return fmt.Errorf("%w: %s has schema %d, this version knows up to %d: install the newer version, or restore a backup of before", store.ErrNewerSchema, s.file, have, newest)
	}
	return nil
}

// version is the newest migration that the file has had, 0 for an empty one.
func (s *Store) version(ctx context.Context) (int64, error) {
	var tables int
	err := s.writer.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE name = 'goose_db_version'`).Scan(&tables)
	if err != nil || tables == 0 {
		return 0, s.explain(err)
	}
	var v int64
	err = s.writer.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&v)
	return v, s.explain(err)
}
