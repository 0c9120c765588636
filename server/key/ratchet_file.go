package key

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"usher/keyclient/derive"
	"usher/server/store"
)

// newKeys is what to do where the files are lost, as after a restore from a
// backup, in which they must not be.
const newKeys = "`usher-server run --new-keys` makes a new one, under which occurrences that have keys already get no further ones"

// CreateRatchet writes a new ratchet with a random M whose first epoch is that
// of now. An existing file is left alone: the error wraps fs.ErrExist. Rows that
// were sealed under another ratchet do not open under it.
func CreateRatchet(path, masterKeyFile string, now time.Time) error {
	master, err := readMasterKey(masterKeyFile)
	if err != nil {
		return err
	}
	defer master.Wipe()
	m := derive.RandomSecret()
	defer m.Wipe()
	r := &ratchet{aead: derive.NewAEAD(master)}
	slot := r.sealSlot(epochAt(now.UnixMilli()), m, store.Mark{})
	content := make([]byte, ratchetSize)
	copy(content[slotA:], slot[:])
	copy(content[slotB:], slot[:])
	return createFile(path, content)
}

// openRatchetFile opens the host's ratchet for this process alone: two that
// turn one ratchet would undo each other's marks.
func openRatchetFile(path string, master *derive.Secret) (*ratchet, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s; "+newKeys, ErrNoRatchet, path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrRatchet, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close() //nolint:errcheck // nothing was written
		return nil, fmt.Errorf("%w: %s: %w", ErrRatchetInUse, path, err)
	}
	r, err := openRatchet(f, master)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; it belongs to this master key, or another is needed", path, err)
	}
	return r, nil
}

// createFile makes a file that only its owner reads, whole and on disk, or none.
func createFile(path string, content []byte) error {
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone already where all went well
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// Link, not Rename: of two that create at once, one loses instead of
	// overwriting what the other may be using already.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
