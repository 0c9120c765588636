package server

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Harden keeps the process's memory to itself: no core dump, no debugger of the
// same user (docs/keying.md §3). Swap is the operator's: MemorySwapMax=0.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
