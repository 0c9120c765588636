package key

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"

	"usher/keyclient/derive"
)

const masterKeyLen = 32

// CreateMasterKey writes a new static master key, mode 0600. An existing file is
// left alone: the error wraps fs.ErrExist.
func CreateMasterKey(path string) error {
	k := derive.RandomSecret()
	defer k.Wipe()
	return createFile(path, k.Bytes())
}

// readMasterKey refuses a file that others can read: whoever holds master key,
// ratchet and database opens what is live (docs/keying.md §12).
func readMasterKey(path string) (*derive.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; restore it, or "+newKeys, ErrMasterKey, err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMasterKey, err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %v; it must be a file of mode 0600", ErrMasterKey, path, mode)
	}
	if info.Size() != masterKeyLen {
		return nil, fmt.Errorf("%w: %s has %d bytes, not %d", ErrMasterKey, path, info.Size(), masterKeyLen)
	}
	var b [masterKeyLen]byte
	defer clear(b[:])
	if _, err := io.ReadFull(f, b[:]); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMasterKey, path, err)
	}
	return derive.NewSecret(b[:])
}

// randomNonce is what each sealing under a lasting key takes.
func randomNonce() (nonce [12]byte) {
	rand.Read(nonce[:]) //nolint:errcheck // never fails: the runtime ends the process instead
	return nonce
}
