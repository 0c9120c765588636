package device

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// checkName tells whether the kernel takes name for an interface.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n%") {
		return fmt.Errorf("%w: %q (1 to %d characters, no blank, slash, colon or percent sign)", ErrName, name, unix.IFNAMSIZ-1)
	}
	return nil
}

// withSocket runs f on a socket, which is what ioctls on interfaces go by.
func withSocket(f func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("device: socket: %w", err)
	}
	return errors.Join(f(fd), unix.Close(fd))
}

// setInterface does an ioctl that sets one number of an interface.
func setInterface(name string, request uint, value uint32) error {
	return withSocket(func(fd int) error {
		ifreq, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		ifreq.SetUint32(value)
		return unix.IoctlIfreq(fd, request, ifreq)
	})
}

// exists tells whether there is an interface of that name.
func exists(name string) bool {
	return withSocket(func(fd int) error {
		ifreq, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifreq)
	}) == nil
}

// kind says in words what the interface is, for an error.
func kind(name string) string {
	words := "is not a TUN"
	_ = withSocket(func(fd int) error {
		info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
		if err != nil {
			return err
		}
		driver, bus := unix.ByteSliceToString(info.Driver[:]), unix.ByteSliceToString(info.Bus_info[:])
		switch {
		case driver == "tun" && bus == "tun":
			words = "is a TUN with a single queue, made or held by another program"
		case driver == "tun":
			words = "is a TAP, not a TUN"
		case driver != "":
			words = fmt.Sprintf("is not a TUN but of driver %q", driver)
		}
		return nil
	})
	return words
}

// carrier tells whether a process is attached to the TUN: it is then up and
// has a carrier. The ioctl reads the carrier itself; the flags of the
// interface follow it with up to a second's delay.
func carrier(name string) bool {
	value := struct{ command, data uint32 }{command: unix.ETHTOOL_GLINK}
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], name)
	ifreq.data = unsafe.Pointer(&value)
	err := withSocket(func(fd int) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq))); errno != 0 {
			return errno
		}
		return nil
	})
	runtime.KeepAlive(&value)
	return err == nil && value.data != 0 && isTUN(name)
}

// isTUN tells whether the interface is a TUN, of whatever number of queues.
func isTUN(name string) bool {
	found := false
	_ = withSocket(func(fd int) error {
		info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
		if err != nil {
			return err
		}
		found = unix.ByteSliceToString(info.Driver[:]) == "tun" && unix.ByteSliceToString(info.Bus_info[:]) == "tun"
		return nil
	})
	return found
}

// What awaitRunning takes at most, and how often it looks.
const (
	runningWithin = time.Second
	runningEvery  = 2 * time.Millisecond
)

// awaitRunning waits until an interface that is up is also running. A TUN
// without a reader has no carrier, and the kernel throws away what is sent to
// it until it has noticed, some milliseconds after the attach, that there is a
// reader again: who says "ready" earlier loses packets. An interface that is
// down, as a new one is, has nothing to wait for. Where the kernel takes
// longer, packets are lost and nothing else.
func awaitRunning(name string) {
	ticker := time.NewTicker(runningEvery)
	defer ticker.Stop()
	for began := time.Now(); time.Since(began) < runningWithin; <-ticker.C {
		if flags := interfaceFlags(name); flags&unix.IFF_UP == 0 || flags&unix.IFF_RUNNING != 0 {
			return
		}
	}
}

// interfaceFlags reads IFF_…, 0 where that fails.
func interfaceFlags(name string) (flags uint16) {
	_ = withSocket(func(fd int) error {
		ifreq, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifreq); err != nil {
			return err
		}
		flags = ifreq.Uint16()
		return nil
	})
	return flags
}

// Remove deletes the persistent TUN name, with its addresses and routes. It
// is nil if there is none, ErrInUse while a process is attached (an agent
// that still runs), and ErrNotOurs if the interface is something else.
func Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if !exists(name) {
		return nil
	}
	if carrier(name) {
		return fmt.Errorf("%w: a process is attached to %s: stop the agent first", ErrInUse, name)
	}
	fd, err := openQueue(name)
	if err != nil {
		return err
	}
	// Without persistence it goes with its last descriptor.
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0); err != nil {
		return errors.Join(fmt.Errorf("device: remove %s: %w", name, err), unix.Close(fd))
	}
	return unix.Close(fd)
}
