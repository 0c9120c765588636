package device

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// tunPath is the device that makes TUNs.
const tunPath = "/dev/net/tun"

// Limits of the MTU: what IPv4 demands of every link (RFC 791), and what a
// TUN takes.
const (
	minMTU = 68
	maxMTU = 65535
)

// queueLength is how many packets (a super-packet counts once) the kernel
// holds for a reader that is busy: 50 ms of 40,000 packets a second.
const queueLength = 2048

// TUN is a kernel TUN; it implements Device.
type TUN struct {
	name    string
	lock    *os.File
	library tun.Device
	file    *os.File
	fd      int
	wake    int            // eventfd; becomes readable for good with Wake
	poll    [2]unix.PollFd // Wait's; the TUN and the eventfd
	drained sync.WaitGroup // the goroutine that empties the library's event channel
	closed  bool
}

// Open makes the persistent TUN name, or attaches to the one that an earlier
// agent left, sets its offloads and MTU anew (both outlive their owner), and
// holds it until Close by a lock file in lockDir. Addresses, routes and the
// link's being up are the business of package host.
//
// Errors wrap ErrInUse (naming the holder), ErrNotOurs, ErrNoTUN,
// ErrPermission, ErrName or ErrMTU. Kernels without UDP segmentation on a TUN
// (before 6.2) work; they see no UDP super-packets.
func Open(name string, mtu int, lockDir string) (*TUN, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if mtu < minMTU || mtu > maxMTU {
		return nil, fmt.Errorf("%w: %d for %s is not between %d and %d", ErrMTU, mtu, name, minMTU, maxMTU)
	}
	lock, err := takeLock(lockDir, name)
	if err != nil {
		return nil, err
	}
	t, err := attach(name, mtu)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	t.lock = lock
	return t, nil
}

// attach does all of Open but the lock.
func attach(name string, mtu int) (*TUN, error) {
	// A second process attaches to a multi-queue TUN in silence and takes a
	// share of its packets. The lock file does not see one that keeps its
	// locks elsewhere; the carrier, which a reader brings, does.
	if carrier(name) {
		return nil, fmt.Errorf("%w: another process is attached to %s (see `ip -d link show %s`)", ErrInUse, name, name)
	}
	fd, err := openQueue(name)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return nil, errors.Join(fmt.Errorf("device: make %s persistent: %w", name, err), unix.Close(fd))
	}
	awaitRunning(name)
	// The settings wait for the kernel's lock on interfaces, and with it for
	// the end of what awaitRunning saw begin.
	for _, set := range []struct {
		what    string
		request uint
		value   uint32
	}{
		// The library sets the MTU too, but closes a descriptor twice where
		// that fails: it is set here first, where it can fail cleanly.
		{"MTU", unix.SIOCSIFMTU, uint32(mtu)},
		{"queue length", unix.SIOCSIFTXQLEN, queueLength},
	} {
		if err := setInterface(name, set.request, set.value); err != nil {
			return nil, errors.Join(fmt.Errorf("device: set the %s of %s to %d: %w", set.what, name, set.value, err), unix.Close(fd))
		}
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("device: eventfd: %w", err), unix.Close(fd))
	}

	// The order of the next three steps keeps the descriptor out of the Go
	// runtime's poller: os.NewFile would register one that is nonblocking.
	file := os.NewFile(uintptr(fd), tunPath)
	library, err := tun.CreateTUNFromFile(file, mtu)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("device: set up %s: %w", name, err), unix.Close(wake), file.Close())
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("device: make %s nonblocking: %w", name, err), unix.Close(wake), library.Close())
	}

	t := &TUN{
		name:    name,
		library: library,
		file:    file,
		fd:      fd,
		wake:    wake,
		poll: [2]unix.PollFd{
			{Fd: int32(fd), Events: unix.POLLIN},
			{Fd: int32(wake), Events: unix.POLLIN},
		},
	}
	// The library reports link and MTU changes on a short channel, and its
	// listeners block, also in Close, when nobody reads it.
	t.drained.Go(func() {
		for range library.Events() {
		}
	})
	return t, nil
}

// openQueue opens a queue of the TUN name, which it makes if need be.
func openQueue(name string) (int, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, fmt.Errorf("%w: %s: %w (load the kernel module tun, or give the container the device)", ErrNoTUN, tunPath, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("%w: %s: %w (run as root, or with CAP_NET_ADMIN)", ErrPermission, tunPath, err)
	case err != nil:
		return -1, fmt.Errorf("device: open %s: %w", tunPath, err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("%w: %q", ErrName, name), unix.Close(fd))
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	if err == nil {
		return fd, nil
	}
	switch {
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: make interface %s: %w (run as root, or with CAP_NET_ADMIN)", ErrPermission, name, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EBUSY):
		err = fmt.Errorf("%w: %s %s (remove it with `ip link del %s`, or set another name)", ErrNotOurs, name, kind(name), name)
	default:
		err = fmt.Errorf("device: make interface %s: %w", name, err)
	}
	return -1, errors.Join(err, unix.Close(fd))
}

// Name is the interface's name.
func (t *TUN) Name() string { return t.name }

// MTU asks the kernel for the interface's MTU.
func (t *TUN) MTU() (int, error) { return t.library.MTU() }

// Read implements Device. A RawSyscall is right for it, since it never sleeps.
func (t *TUN) Read(buf []byte) (int, error) {
	if len(buf) < HeaderLen {
		return 0, ErrShort
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(t.fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, ErrAgain
		case unix.EBADFD, unix.EBADF:
			return 0, ErrClosed
		default:
			return 0, errno
		}
	}
}

// Wait implements Device.
func (t *TUN) Wait() bool {
	for {
		_, err := unix.Poll(t.poll[:], -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false
		}
		return t.poll[1].Revents == 0
	}
}

// Wake implements Device.
func (t *TUN) Wake() { _, _ = unix.Write(t.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// Write implements Device by the library, which merges packets of a flow.
func (t *TUN) Write(bufs [][]byte, offset int) (int, error) {
	written, err := t.library.Write(bufs, offset)
	if err == nil {
		return 0, nil
	}
	if errors.Is(err, os.ErrClosed) {
		return len(bufs), ErrClosed
	}
	refused, last := refusals(err)
	if written == 0 {
		refused = len(bufs)
	}
	return refused, last
}

// refusals counts the errors that the library joined, one for each failed
// write, and returns the last.
func refusals(err error) (int, error) {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return 1, err
	}
	count := 0
	for _, e := range joined.Unwrap() {
		n, last := refusals(e)
		count += n
		err = last
	}
	return count, err
}

// Close implements Device. The interface stays.
func (t *TUN) Close() error {
	if t.closed {
		return nil
	}
	t.closed = true
	err := t.library.Close()
	t.drained.Wait()
	return errors.Join(err, unix.Close(t.wake), t.lock.Close())
}
