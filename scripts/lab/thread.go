package lab

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// errExited is what a call returns whose function ended its goroutine
// (t.FailNow does) instead of returning.
var errExited = errors.New("lab: the function ended its goroutine instead of returning")

// onThread runs f on a goroutine locked to a thread that is not the process's
// first: /proc/self shows that one's namespaces, and it cannot end. The thread
// goes back to the pool only if f says that it is clean again.
func onThread(f func() (clean bool, err error)) error {
	done := make(chan error, 1)
	var body func()
	body = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine occupies the first thread, the next one
			// cannot be given it.
			again := make(chan struct{})
			go func() { defer close(again); body() }()
			<-again
			runtime.UnlockOSThread()
			return
		}
		result := errExited
		defer func() { done <- result }()
		clean, err := f()
		result = err
		if clean {
			runtime.UnlockOSThread()
		}
	}
	go body()
	return <-done
}

// onThrowawayThread runs f on a thread that ends with it, whatever f did to its
// namespaces.
func onThrowawayThread(f func() error) error {
	return onThread(func() (bool, error) { return false, f() })
}

// inNetwork runs f on a thread inside the network namespace of process pid and
// brings the thread back; where that fails the thread is given up, never put
// back into the pool with a foreign network.
func inNetwork(pid int, f func() error) error {
	return onThread(func() (clean bool, err error) {
		own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return true, fmt.Errorf("lab: open own network namespace: %w", err)
		}
		defer unix.Close(own)
		there, err := openNamespace(pid, "net")
		if err != nil {
			return true, err
		}
		defer unix.Close(there)
		if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("lab: enter network namespace: %w", err)
		}
		err = f()
		if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil {
			return false, errors.Join(err, fmt.Errorf("lab: leave network namespace: %w", back))
		}
		return true, err
	})
}

func openNamespace(pid int, kind string) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("lab: open %s namespace of process %d: %w", kind, pid, err)
	}
	return fd, nil
}
