package underlay_test

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"usher/scripts/lab"
	"usher/tunnel/underlay"
)

// Without the right to set the socket's options the error says so.
func TestNoPermission(t *testing.T) {
	lab.NeedRoot(t)
	result := make(chan error)
	go func() {
		// The thread gives up root by itself, and ends with its goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			result <- errno
			return
		}
		_, err := underlay.Open(underlay.Config{Port: 45001})
		result <- err
	}()
	if err := <-result; !errors.Is(err, underlay.ErrPermission) {
		t.Errorf("without rights: %v", err)
	}
}
