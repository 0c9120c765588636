package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// environment names the variable that every holder, and every command of a lab
// that inherits its environment, carries: the lab's folder.
const environment = "USHER_LAB"

// keepMark is the file that marks a lab as kept.
const keepMark = "keep"

// killAfter is how long a process has to end after SIGTERM.
const killAfter = 2 * time.Second

// baseDir is where the folders of all labs of this machine live. It is refused
// if somebody other than the caller made it, since /tmp is everybody's.
func baseDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "usher-lab")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("lab: make %s: %w", dir, err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("lab: look at %s: %w", dir, err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() {
		return "", fmt.Errorf("lab: %s is not a folder of this user: remove it", dir)
	}
	return dir, nil
}

// Sweep removes the labs named prefix whose process is gone, and where kept is
// true also those that were kept. New calls it without; a script that keeps its
// lab offers it with.
func Sweep(prefix string, kept bool) error {
	base, err := baseDir()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(base)
	if err != nil {
		return fmt.Errorf("lab: list labs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		// PREFIX.PID.STARTED.RANDOM
		part := strings.Split(e.Name(), ".")
		if len(part) != 4 || part[0] != prefix {
			continue
		}
		dir := filepath.Join(base, e.Name())
		_, err := os.Lstat(filepath.Join(dir, keepMark))
		isKept := err == nil
		if isKept && !kept || !isKept && alive(part[1], part[2]) {
			continue
		}
		errs = append(errs, remove(dir))
	}
	return errors.Join(errs...)
}

// alive reports whether process pid still is the one that started then: pids
// are used again.
func alive(pid, started string) bool {
	n, err := strconv.Atoi(pid)
	return err == nil && startTime(n) == started
}

// startTime is field 22 of /proc/PID/stat (clock ticks since boot), or "" for
// a process that is gone.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name in parentheses may hold blanks and parentheses itself.
	field := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(field) < 20 || field[0] == "Z" {
		return ""
	}
	return field[19]
}

// remove ends every process of the lab in dir and deletes the folder. With the
// last process its namespaces go, and all that was in them.
func remove(dir string) error {
	if err := killAll(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("lab: remove %s: %w", dir, err)
	}
	return nil
}

// killAll ends the processes of the lab in dir: first by SIGTERM, then by
// SIGKILL, the holders last, since they are what the others are found by.
func killAll(dir string) error {
	deadline := time.Now().Add(killAfter)
	for _, round := range []struct {
		signal  unix.Signal
		holders bool
	}{{unix.SIGTERM, false}, {unix.SIGKILL, false}, {unix.SIGKILL, true}} {
		for pid, isHolder := range processesOf(dir) {
			if isHolder == round.holders {
				// ESRCH: it ended by itself meanwhile, which is what is wanted.
				_ = unix.Kill(pid, round.signal)
			}
		}
		if round.signal == unix.SIGKILL {
			deadline = time.Now().Add(killAfter)
		}
		// What outlives SIGTERM is met again in the next round.
		err := Within(time.Until(deadline), "the end of the lab's processes", func() error {
			left := 0
			for _, isHolder := range processesOf(dir) {
				if isHolder == round.holders {
					left++
				}
			}
			if left > 0 {
				return fmt.Errorf("%d still run", left)
			}
			return nil
		})
		if err != nil && round.signal == unix.SIGKILL {
			return fmt.Errorf("lab: clean up %s: %w", dir, err)
		}
	}
	return nil
}

// processesOf finds the processes of the lab in dir: those with the folder in
// their environment, and those inside a network namespace of such a process.
// The value tells holders apart. The caller itself and whatever shares the
// caller's own network is never among the second kind.
func processesOf(dir string) map[int]bool {
	found := map[int]bool{}
	networks := map[string]bool{}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil
	}
	pids := allPIDs()
	for _, pid := range pids {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !bytes.Contains(append([]byte{0}, env...), []byte("\x00"+environment+"="+dir+"\x00")) {
			continue
		}
		holder := bytes.Contains(env, []byte(holderMark+"\x00"))
		found[pid] = holder
		if net, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && holder && net != own {
			networks[net] = true
		}
	}
	for _, pid := range pids {
		net, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if _, known := found[pid]; err == nil && networks[net] && !known {
			found[pid] = false
		}
	}
	delete(found, os.Getpid())
	return found
}

func allPIDs() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && startTime(pid) != "" {
			pids = append(pids, pid)
		}
	}
	return pids
}
