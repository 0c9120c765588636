package reserve

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The record of a file, written as a whole and in place. Integers are big-endian.
//
//	 0  magic 8
//	 8  base: counter of the first packet of all 8
//	16  limit: packets reserved, of all runs 8
//	24  inode that it was written to 8
//	32  wall clock at writing, ns 8
//	40  SHA-256 over bytes 0…39, 32
const recordLen = 72

var magic = [8]byte{'u', 's', 'h', 'r', 's', 'v', '0', '1'}

// touchSlack is how far the file's change time may lie from the time that the record names. A copy, a
// restored backup and a file written over in place all have a change time of their own.
const touchSlack = 200 * time.Millisecond

// file is an open, locked reservation file. Its user serialises calls.
type file struct {
	f     *os.File
	path  string
	base  uint64
	limit uint64
}

// openFile opens and checks an existing file; os.ErrNotExist if there is none.
func openFile(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	opened := &file{f: f, path: path}
	if err := opened.lock(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := opened.load(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return opened, nil
}

// createFile makes a file with nothing reserved. It appears under its name only when it is whole: an
// empty file of that name is a damaged one.
func createFile(path string) (*file, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return nil, err
	}
	created := &file{f: f, path: path, base: randomBase()}
	err = created.lock()
	if err == nil {
		err = created.store(0)
	}
	if err == nil {
		err = os.Link(f.Name(), path) // fails if another process was faster
	}
	err = errors.Join(err, os.Remove(f.Name()))
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return created, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *file) lock() error {
	err := unix.Flock(int(f.f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	}
	return err
}

func (f *file) close() { _ = f.f.Close() }

// load reads the record and refuses one that is not exactly what this file was last given.
func (f *file) load() error {
	b := make([]byte, recordLen+1)
	n, err := f.f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	sum := sha256.Sum256(b[:40])
	if n != recordLen || [8]byte(b[:8]) != magic || !bytes.Equal(b[40:recordLen], sum[:]) {
		return fmt.Errorf("%w; %s", ErrDamaged, advice)
	}
	f.base, f.limit = binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	inode, changed, err := f.stat()
	if err != nil {
		return err
	}
	written := time.Unix(0, int64(binary.BigEndian.Uint64(b[32:])))
	if inode != binary.BigEndian.Uint64(b[24:]) || changed.Sub(written).Abs() > touchSlack {
		return fmt.Errorf("%w at %s, but was written at %s; %s", ErrCopied,
			changed.UTC().Format(time.RFC3339), written.UTC().Format(time.RFC3339), advice)
	}
	return nil
}

// store makes limit durable. What a restart would refuse as touched, because the write was held up or
// the clock was set, is written again.
func (f *file) store(limit uint64) error {
	const tries = 5
	var apart time.Duration
	for range tries {
		now := time.Now()
		if err := f.write(limit, now); err != nil {
			return err
		}
		_, changed, err := f.stat()
		if err != nil {
			return err
		}
		if apart = changed.Sub(now).Abs(); apart <= touchSlack/2 {
			f.limit = limit
			return nil
		}
	}
	return fmt.Errorf("reserve: change time of the file and clock are %s apart; use a local file system", apart)
}

// write replaces the record and syncs it.
func (f *file) write(limit uint64, now time.Time) error {
	inode, _, err := f.stat()
	if err != nil {
		return err
	}
	b := make([]byte, 0, recordLen)
	b = append(b, magic[:]...)
	b = binary.BigEndian.AppendUint64(b, f.base)
	b = binary.BigEndian.AppendUint64(b, limit)
	b = binary.BigEndian.AppendUint64(b, inode)
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixNano()))
	sum := sha256.Sum256(b)
	if _, err := f.f.WriteAt(append(b, sum[:]...), 0); err != nil {
		return err
	}
	return f.f.Sync()
}

func (f *file) stat() (inode uint64, changed time.Time, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.f.Fd()), &st); err != nil {
		return 0, time.Time{}, err
	}
	return st.Ino, time.Unix(st.Ctim.Unix()), nil
}
