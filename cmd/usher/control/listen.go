package control

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Lock is held by the one agent of a socket, from before it touches the host
// until it ends, however it ends: the kernel gives the lock back.
type Lock struct {
	socket string
	file   *os.File
}

// Acquire takes the lock that stands beside the socket. While another agent
// holds it, the error wraps [ErrRunning] and names that agent's process id.
func Acquire(socket string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, fmt.Errorf("control: folder of the socket: %w", err)
	}
	f, err := LockFile(socket + ".lock")
	if err != nil {
		return nil, err
	}
	return &Lock{socket: socket, file: f}, nil
}

// LockFile takes the lock of a file, which is made where it is missing, until
// the file is closed. Errors as of [Acquire].
func LockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("control: lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("control: lock %s: %w", name, err)
		}
		holder, _ := io.ReadAll(io.LimitReader(f, 16)) // the pid is a courtesy
		if pid := strings.TrimSpace(string(holder)); pid != "" {
			return nil, fmt.Errorf("%w (pid %s, lock %s)", ErrRunning, pid, name)
		}
		return nil, fmt.Errorf("%w (lock %s)", ErrRunning, name)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control: lock %s: %w", name, err), f.Close())
	}
	return f, nil
}

// Release gives the lock back. The file stays: removing it would let two agents
// hold two locks of one name.
func (l *Lock) Release() error { return l.file.Close() }

// Listen makes the socket, 0660 and of the group usher where the host has that
// group, else of the caller's. What a dead agent left there is replaced; that it
// is dead is known from the lock.
func (l *Lock) Listen() (net.Listener, error) {
	// Made under another name, given its rights, and renamed: it never stands
	// there with rights that are too wide, and the stale one goes in one step.
	making := l.socket + ".new"
	if err := os.Remove(making); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control: socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: making, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control: socket %s: %w", l.socket, err)
	}
	ln.SetUnlinkOnClose(false)
	err = func() error {
		if g, err := user.LookupGroup(Group); err == nil && os.Geteuid() == 0 {
			gid, err := strconv.Atoi(g.Gid)
			if err != nil {
				return fmt.Errorf("control: group %s: %w", Group, err)
			}
			if err := os.Chown(making, 0, gid); err != nil {
				return fmt.Errorf("control: socket: %w", err)
			}
		}
		if err := os.Chmod(making, 0o660); err != nil {
			return fmt.Errorf("control: socket: %w", err)
		}
		if err := os.Rename(making, l.socket); err != nil {
			return fmt.Errorf("control: socket: %w", err)
		}
		return nil
	}()
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}
