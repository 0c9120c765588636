package keyclient

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Names under the state folder.
const (
	fileKey      = "identity.key"         // the client's key, PKCS #8 PEM, 0600
	fileCert     = "identity.pem"         // its certificate
	fileCA       = "ca.pem"               // the pinned CA
	fileServer   = "server.json"          // where that identity is from
	fileTickets  = "tickets/tickets.json" // all held tickets in one file: replaced as one
	fileJoined   = "joined.json"          // events to key by themselves
	maxStateFile = 128 << 20              // nothing of ours is bigger
)

// stateDir is the folder in which the client remembers what outlives it. No
// traffic key and no step secret ever goes there.
type stateDir string

// prepare makes the folder, for its owner alone.
func (d stateDir) prepare() error {
	if err := os.MkdirAll(filepath.Join(string(d), "tickets"), 0o700); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	return nil
}

// read returns a file's content, nil and no error if it is not there.
func (d stateDir) read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxStateFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if len(b) > maxStateFile {
		return nil, fmt.Errorf("%w: %s is bigger than %d bytes", ErrState, name, maxStateFile)
	}
	return b, nil
}

// write replaces a file in one step, so that a crash leaves the old one or the
// new one, and the new one on the disk.
func (d stateDir) write(name string, content []byte) (err error) {
	path := filepath.Join(string(d), name)
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrState, err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone already once it was renamed
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// remove takes files away; those that are not there are no error.
func (d stateDir) remove(names ...string) error {
	var all error
	for _, name := range names {
		if err := os.Remove(filepath.Join(string(d), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, fmt.Errorf("%w: %w", ErrState, err))
		}
	}
	return all
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // only synced
	return d.Sync()
}
