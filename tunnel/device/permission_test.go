package device_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"usher/scripts/lab"
	"usher/tunnel/device"
)

// Without the right to make interfaces the error says so.
func TestNoPermission(t *testing.T) {
	lab.NeedRoot(t)
	locks := filepath.Join(os.TempDir(), filepath.Base(t.TempDir())+"-locks")
	if err := os.Mkdir(locks, 0o777); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(locks)
	if err := os.Chmod(locks, 0o777); err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		// The thread gives up root by itself, and ends with its goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			result <- errno
			return
		}
		_, err := device.Open("usher-test", 1400, locks)
		result <- err
	}()
	if err := <-result; !errors.Is(err, device.ErrPermission) {
		t.Errorf("without rights: %v", err)
	}
}
