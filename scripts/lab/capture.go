package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// captureStart is how long tcpdump may take until it listens.
const captureStart = 10 * time.Second

var droppedLine = regexp.MustCompile(`(?m)^(\d+) packets? dropped by kernel`)

var errGrowing = errors.New("lab: the capture still grows")

// Capture is a running tcpdump. Each packet is in the file as soon as it was
// seen, so that the file can be read while the capture runs.
type Capture struct {
	file     string
	cmd      *exec.Cmd
	ended    chan struct{}
	stopOnce sync.Once
	stopErr  error

	mu        sync.Mutex // guards complaint
	complaint strings.Builder
}

// snapLength is how much of a packet is kept: all of it. The kernel's buffer has a
// slot of that size for each packet, so it holds a second of a fast stream only
// where packets cannot be longer than a wire's.
func snapLength(h *Host) string {
	if h == h.lab.swch {
		return "9216"
	}
	return "0"
}

func startCapture(ctx context.Context, h *Host, iface, file string, filter []string) (*Capture, error) {
	// -Z root: Debian's tcpdump else gives up root and may not write the file.
	// --immediate-mode: it else hands over packets once a second.
	args := append([]string{"-i", iface, "-w", file, "-U", "--immediate-mode", "-n", "-s", snapLength(h), "-B", "16384", "-Z", "root", "--"}, filter...)
	c := &Capture{file: file, cmd: h.Command(ctx, "tcpdump", args...), ended: make(chan struct{})}
	// An interrupt of the terminal must not end the capture before the lab does.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCapture, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCapture, err)
	}
	listening := make(chan struct{})
	go c.read(stderr, listening)
	timeout := time.NewTimer(captureStart)
	defer timeout.Stop()
	select {
	case <-listening:
		return c, nil
	case <-c.ended:
	case <-timeout.C:
	}
	_ = c.Stop() // what matters is why it did not start
	return nil, fmt.Errorf("%w: tcpdump on %s of %s did not start: %s", ErrCapture, iface, h.name, c.text())
}

// read collects what tcpdump says and closes listening at its first word of
// success; it ends with the process.
func (c *Capture) read(from io.Reader, listening chan struct{}) {
	defer close(c.ended)
	said := false
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		c.mu.Lock()
		c.complaint.WriteString(lines.Text() + "\n")
		c.mu.Unlock()
		if !said && strings.Contains(lines.Text(), "listening on") {
			said = true
			close(listening)
		}
	}
	_ = c.cmd.Wait() // tcpdump's status says nothing that its text does not
}

func (c *Capture) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimSpace(c.complaint.String())
}

// File is the pcap file.
func (c *Capture) File() string { return c.file }

// Stop ends the capture and waits until the file is whole. The error wraps
// [ErrCapture] when the kernel dropped packets that the capture should have
// seen: such a file proves nothing. Calling it again returns the same.
func (c *Capture) Stop() error {
	c.stopOnce.Do(func() { c.stopErr = c.stop() })
	return c.stopErr
}

// settle waits until the file has not grown for a while: at a signal tcpdump
// leaves unread what the kernel has already caught. On a busy link it waits no
// longer than the limit; the last packets are nobody's claim there.
func (c *Capture) settle() {
	const rounds, limit = 6, 2 * time.Second
	size, calm := int64(-1), 0
	_ = Within(limit, "a calm capture", func() error {
		info, err := os.Stat(c.file)
		if err != nil {
			return nil
		}
		if info.Size() != size {
			size, calm = info.Size(), 0
		}
		if calm++; calm < rounds {
			return errGrowing
		}
		return nil
	})
}

func (c *Capture) stop() error {
	c.settle()
	if err := c.cmd.Process.Signal(unix.SIGINT); err != nil {
		<-c.ended // it had ended already; what it said tells why
	}
	timeout := time.NewTimer(captureStart)
	defer timeout.Stop()
	select {
	case <-c.ended:
	case <-timeout.C:
		_ = c.cmd.Process.Kill()
		<-c.ended
		return fmt.Errorf("%w: tcpdump did not end: %s", ErrCapture, c.text())
	}
	found := droppedLine.FindStringSubmatch(c.text())
	if found == nil {
		return fmt.Errorf("%w: tcpdump ended without its figures: %s", ErrCapture, c.text())
	}
	if n, err := strconv.Atoi(found[1]); err != nil || n > 0 {
		return errors.Join(fmt.Errorf("%w: %s packets were not written to %s", ErrCapture, found[1], c.file), err)
	}
	return nil
}
