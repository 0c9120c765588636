package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// holderMark in the environment tells a holder from the lab's other processes.
const holderMark = environment + "_HOLDER=1"

// ownDirs are the folders of which each host has its own; all else but /run is
// the machine's.
var ownDirs = []string{
	"/run/usher", "/etc/usher", "/etc/usher-server", "/var/lib/usher", "/var/lib/usher-server",
}

// Host is one machine of the lab: a network namespace and a mount namespace.
type Host struct {
	lab        *Lab
	name       string
	holder     *os.Process
	holderDone <-chan struct{} // closed when the holder has ended
	addr       netip.Addr
}

// newHost makes the namespaces and folders of a host without any interface.
func (l *Lab) newHost(name string) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if !validName.MatchString(name) || l.hosts[name] != nil {
		return nil, fmt.Errorf("%w: host %q", ErrName, name)
	}
	h := &Host{lab: l, name: name}
	for _, dir := range ownDirs {
		if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
			return nil, fmt.Errorf("lab: folder of host %s: %w", name, err)
		}
	}
	cmd := exec.Command("sleep", "infinity")
	cmd.Env = append(os.Environ(), environment+"="+l.dir, holderMark)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// A session of its own: an interrupt from the terminal must reach
		// the lab's program, not end the namespaces under it.
		Setsid:       true,
		Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("lab: namespaces of host %s: %w", name, err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }() // killed: an error is expected
	h.holder, h.holderDone = cmd.Process, done
	l.hosts[name] = h // from here on Close cleans up
	if err := h.mountOwn(); err != nil {
		return nil, fmt.Errorf("lab: folders of host %s: %w", name, err)
	}
	if _, err := run(h.Command(context.Background(), "ip", "link", "set", "lo", "up")); err != nil {
		return nil, err
	}
	return h, nil
}

// mountOwn gives the host's mount namespace its own folders. /etc and /var/lib
// get an overlay first, so that the mount points need not be made on the
// machine; where there is no overlay they are.
func (h *Host) mountOwn() error {
	return onThrowawayThread(func() error {
		net, err := openNamespace(h.PID(), "net")
		if err != nil {
			return err
		}
		defer unix.Close(net)
		mnt, err := openNamespace(h.PID(), "mnt")
		if err != nil {
			return err
		}
		defer unix.Close(mnt)
		// Working folder and root belong to the thread from here on, else the
		// kernel refuses to move it into another mount namespace.
		if err := errors.Join(unix.Unshare(unix.CLONE_FS),
			unix.Setns(net, unix.CLONE_NEWNET), unix.Setns(mnt, unix.CLONE_NEWNS)); err != nil {
			return fmt.Errorf("enter: %w", err)
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
			return fmt.Errorf("mount /run: %w", err)
		}
		for _, parent := range []string{"/etc", "/var/lib"} {
			if err := overlay(parent); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
		for _, dir := range ownDirs {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("mount point: %w", err)
			}
			if err := unix.Mount(h.Path(dir), dir, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("bind %s: %w", dir, err)
			}
		}
		// /sys/class/net shows the namespace of whoever mounted it. Where that
		// is forbidden (containers) the machine's stays, and nothing here
		// reads it.
		_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		return nil
	})
}

// overlay puts a writable layer, which lives in the host's /run, over dir.
func overlay(dir string) error {
	layer := filepath.Join("/run/.lab", dir)
	upper, work := filepath.Join(layer, "upper"), filepath.Join(layer, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("overlay %s: %w", dir, err)
	}
	return nil
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// PID is the process that holds the namespaces: what nsenter wants.
func (h *Host) PID() int { return h.holder.Pid }

// Addr is the first address that the host was given, or the zero Addr.
func (h *Host) Addr() netip.Addr { return h.addr }

// Path is where the machine sees a file of one of the host's own folders:
// Path("/run/usher/agent.sock"). Other paths are the same inside and outside.
func (h *Host) Path(inside string) string {
	inside = filepath.Clean(inside)
	for _, dir := range ownDirs {
		if rest, ok := strings.CutPrefix(inside, dir); ok && (rest == "" || rest[0] == '/') {
			return filepath.Join(h.lab.dir, h.name, dir, rest)
		}
	}
	return inside
}

// Command prepares a command that runs inside the host, in the caller's
// working folder; the process that Start makes is the command itself, so that
// signals reach it. name is looked up in PATH inside the host. Set cmd.Env only
// with os.Environ() in it, not cmd.Dir. The process is killed when ctx ends,
// and in any case with the lab.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{
		fmt.Sprintf("--net=/proc/%d/ns/net", h.PID()),
		fmt.Sprintf("--mount=/proc/%d/ns/mnt", h.PID()),
	}
	if wd, err := os.Getwd(); err == nil {
		enter = append(enter, "--wdns="+wd)
	}
	enter = append(enter, "--", name)
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = append(os.Environ(), environment+"="+h.lab.dir)
	return cmd
}

// Run runs a command inside the host to its end and returns what it wrote to
// standard output; the error holds what it wrote to standard error.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return run(h.Command(ctx, name, args...))
}

// Do runs f on a thread inside the host's network, and its mounts are the
// machine's. Sockets that f opens stay in the host's network afterwards;
// goroutines that f starts do not run there. /proc/self/net shows the
// machine's network even in f: read /proc/thread-self/net.
func (h *Host) Do(f func() error) error {
	return inNetwork(h.PID(), f)
}
