package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"usher/scripts/lab"
)

// process is a program that runs in a host of the lab.
type process struct {
	name string
	cmd  *exec.Cmd
	out  bytes.Buffer
	err  watchedBuffer
	done chan struct{} // closed when it has ended
	end  error         // how; valid once done is closed
}

// watchedBuffer keeps the beginning of what was written, and tells when a line "ready"
// came.
type watchedBuffer struct {
	mu    sync.Mutex
	text  []byte        // guarded by mu
	ready chan struct{} // closed at the line
}

const keptText = 1 << 20

func (w *watchedBuffer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.text) < keptText {
		w.text = append(w.text, b...)
	}
	select {
	case <-w.ready:
	default:
		if strings.HasPrefix(string(w.text), "ready\n") || bytes.Contains(w.text, []byte("\nready\n")) {
			close(w.ready)
		}
	}
	return len(b), nil
}

func (w *watchedBuffer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(string(w.text))
}

// startOn is start, on some processors alone, as taskset takes them; "" is all.
func startOn(ctx context.Context, processors string, h *lab.Host, name string, args ...string) (*process, error) {
	if processors == "" {
		return start(ctx, h, name, args...)
	}
	return start(ctx, h, "taskset", append([]string{"--cpu-list", processors, name}, args...)...)
}

// start starts a program in a host. It is killed when ctx ends.
func start(ctx context.Context, h *lab.Host, name string, args ...string) (*process, error) {
	p := &process{name: h.Name() + ": " + filepath.Base(name), done: make(chan struct{})}
	p.err.ready = make(chan struct{})
	p.cmd = h.Command(ctx, name, args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.WaitDelay = 3 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	go func() { defer close(p.done); p.end = p.cmd.Wait() }()
	return p, nil
}

// ready waits until the program said that it is.
func (p *process) ready(ctx context.Context) error {
	select {
	case <-p.err.ready:
		return nil
	case <-p.done:
		return p.failure("ended instead of getting ready")
	case <-time.After(10 * time.Second):
		return p.failure("did not get ready")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *process) failure(what string) error {
	return fmt.Errorf("%s %s: %s", p.name, what, p.err.String())
}

// wait waits for the program's orderly end.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.end != nil {
		return fmt.Errorf("%s: %w: %s", p.name, p.end, p.err.String())
	}
	return nil
}

// stop ends the program, politely first.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// alive returns an error if a daemon has ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		return p.failure("ended")
	default:
		return nil
	}
}

// whileAlive is a context that also ends, with the reason as its cause, when one
// of the daemons does: what is awaited of it will not come.
func whileAlive(parent context.Context, daemons []*process) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	for _, d := range daemons {
		go func() {
			select {
			case <-d.done:
				cancel(d.failure("ended"))
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// awaited is lab.WaitFor, but where the time is over in the middle of a look it
// tells what the look before said, or which daemon's end ended it.
func awaited(ctx context.Context, what string, look func() error) error {
	var last error
	err := lab.WaitFor(ctx, what, func() error {
		err := look()
		if ctx.Err() == nil {
			last = err
		}
		return err
	})
	if err == nil || ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return cause
	}
	if last != nil {
		return fmt.Errorf("waited in vain for %s: %w", what, last)
	}
	return err
}

// cpu is the processor time of all threads so far, as the scheduler accounts it.
// Threads that ended are not in it: daemons in Go keep theirs.
func (p *process) cpu() (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		return 0, errors.Join(err, fmt.Errorf("%s: no thread to be seen", p.name))
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // ended this moment
		}
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// rss is the resident memory, in MiB.
func (p *process) rss() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kib); n == 1 {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("%s: its status does not tell the resident memory", p.name)
}

// answer runs a program of ours to its end and decodes its JSON.
func answer[T any](ctx context.Context, h *lab.Host, name string, args ...string) (*T, error) {
	p, err := start(ctx, h, name, append(args, "--json")...)
	if err != nil {
		return nil, err
	}
	return answerOf[T](ctx, p)
}

// answerOf waits for a program that was started with --json.
func answerOf[T any](ctx context.Context, p *process) (*T, error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	v := new(T)
	if err := json.Unmarshal(p.out.Bytes(), v); err != nil {
		return nil, fmt.Errorf("%s: its answer: %w", p.name, err)
	}
	return v, nil
}
