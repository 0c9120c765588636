package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// validName keeps names short enough for an interface name with a prefix of
// two characters (IFNAMSIZ is 16 with its zero).
var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,11}$`)

// Lab is one network of hosts on one switch. Its methods may be called from
// several goroutines.
type Lab struct {
	dir  string
	swch *Host

	mu       sync.Mutex // guards the fields below
	hosts    map[string]*Host
	captures []*Capture
	keep     bool
	closed   bool
}

// New removes what crashed labs of the same prefix left behind, and makes an
// empty lab: a switch namespace with bridge br0 and no host. The prefix (at
// most twelve of a-z, 0-9, '-') names who made it: "demo", "test", "bench".
// The error wraps [ErrMissing] where the machine cannot do it.
func New(prefix string) (*Lab, error) {
	if lacks := Missing(); lacks != "" {
		return nil, fmt.Errorf("%w: it lacks %s", ErrMissing, lacks)
	}
	if !validName.MatchString(prefix) {
		return nil, fmt.Errorf("%w: prefix %q", ErrName, prefix)
	}
	if err := Sweep(prefix, false); err != nil {
		return nil, err
	}
	base, err := baseDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(base, fmt.Sprintf("%s.%d.%s.*", prefix, os.Getpid(), startTime(os.Getpid())))
	if err != nil {
		return nil, fmt.Errorf("lab: make folder: %w", err)
	}
	l := &Lab{dir: dir, hosts: map[string]*Host{}}
	if l.swch, err = l.newHost("switch"); err == nil {
		err = l.AddBridge(DefaultBridge)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Dir is the lab's folder on the machine. It goes with the lab.
func (l *Lab) Dir() string { return l.dir }

// Switch is the namespace that holds the bridges. It is no host of the
// network: it has no address there, but its commands see every port.
func (l *Lab) Switch() *Host { return l.swch }

// Hosts returns the hosts made so far, without the switch.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	var hosts []*Host
	for _, h := range l.hosts {
		if h != l.swch {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Host adds a host named name with one interface eth0 on bridge br0 and the
// address cidr ("10.77.0.11/24"; "" for none). It has no default route.
func (l *Lab) Host(name, cidr string, opts ...Option) (*Host, error) {
	h, err := l.newHost(name)
	if err != nil {
		return nil, err
	}
	if err := h.Attach("eth0", cidr, opts...); err != nil {
		return nil, err
	}
	return h, nil
}

// Keep leaves the lab up after Close and after the end of this program, until
// [Sweep] is called with kept. [Lab.EnterCommand] tells how to get in.
func (l *Lab) Keep() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if err := os.WriteFile(filepath.Join(l.dir, keepMark), nil, 0o600); err != nil {
		return fmt.Errorf("lab: keep: %w", err)
	}
	l.keep = true
	return nil
}

// EnterCommand is the shell command that opens a shell inside host.
func (l *Lab) EnterCommand(h *Host) string {
	return fmt.Sprintf("sudo nsenter --net=/proc/%[1]d/ns/net --mount=/proc/%[1]d/ns/mnt", h.PID())
}

// CloseOnSignal closes the lab at SIGINT, SIGTERM or SIGHUP and then lets the
// signal do its work. Call stop before an orderly Close.
func (l *Lab) CloseOnSignal() (stop func()) {
	got := make(chan os.Signal, 1)
	end := make(chan struct{})
	signal.Notify(got, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		select {
		case <-end:
		case s := <-got:
			err := l.Close()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			signal.Reset(s)
			if number, ok := s.(syscall.Signal); ok {
				_ = unix.Kill(os.Getpid(), number)
			}
		}
	}()
	return sync.OnceFunc(func() { signal.Stop(got); close(end) })
}

// Close ends the captures, every process in the lab, its namespaces and its
// folder; a kept lab stays as it is but for the captures. Calling it again
// does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	captures, hosts, keep := l.captures, l.hosts, l.keep
	l.mu.Unlock()

	var errs []error
	for _, c := range captures {
		// Whether packets were lost is for the one who reads the capture.
		if err := c.Stop(); err != nil && !errors.Is(err, ErrCapture) {
			errs = append(errs, err)
		}
	}
	if keep {
		return errors.Join(errs...)
	}
	errs = append(errs, remove(l.dir))
	for _, h := range hosts {
		<-h.holderDone
	}
	return errors.Join(errs...)
}

// Capture writes what iface of host h sees into the pcap file, filtered by an
// expression of tcpdump's ("" for all), and returns when it listens. It ends by
// [Capture.Stop], with ctx, or with the lab.
func (l *Lab) Capture(ctx context.Context, h *Host, iface, file string, filter ...string) (*Capture, error) {
	c, err := startCapture(ctx, h, iface, file, filter)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.captures = append(l.captures, c)
	return c, nil
}

// run runs a command and returns an error that holds what it wrote.
func run(cmd *exec.Cmd) (string, error) {
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("lab: %s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}
