package sqlite

import (
	"database/sql"
	"errors"
	"testing"
)

// Pragma runs a pragma on the writing connection and answers its value.
func (s *Store) Pragma(t *testing.T, pragma string) (value string) {
	t.Helper()
	err := s.writer.QueryRow(`PRAGMA ` + pragma).Scan(&value)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		t.Fatal(err)
	}
	return value
}
