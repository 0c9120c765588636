package live

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/scripts/lab"
)

// patience is how long a test waits for what should come soon: long enough for a
// busy machine, since nothing is asserted about how long it took.
const patience = 20 * time.Second

// process is a program that runs in a host, with all it says in one file.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	err  error         // of Wait, once done is closed
}

// spawn starts a program. It ends with the test at the latest, and what it said
// is shown where the test failed.
func spawn(t *testing.T, h *lab.Host, logFile, name string, args ...string) *process {
	t.Helper()
	p, err := spawned(h.Command(t.Context(), name, args...), logFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-p.done
	})
	return p
}

func spawned(cmd *exec.Cmd, logFile string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: cmd, log: logFile, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// end sends a signal and waits until the program has ended.
func (p *process) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s did not end by %s", p.log, signal)
	}
}

// ended tells whether the program has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// lines is what the program has said so far.
func (p *process) lines(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// showLogs prints the logs in a folder where the test failed.
func showLogs(t *testing.T, dir string) {
	if !t.Failed() {
		return
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		const most = 6000
		if len(text) > most {
			text = append([]byte("…"), text[len(text)-most:]...)
		}
		t.Logf("%s:\n%s", filepath.Base(file), bytes.TrimSpace(text))
	}
}

// outcome is what a command that ran to its end left.
type outcome struct {
	status      int
	stdout, err string
}

// ran runs a command to its end, whatever its end is.
func ran(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%v: %v", cmd.Args, err)
	} else if ok && exit.ExitCode() < 0 {
		t.Fatalf("%v: %v: %s", cmd.Args, err, stderr.String())
	}
	return outcome{status: cmd.ProcessState.ExitCode(), stdout: stdout.String(), err: stderr.String()}
}

// eventually waits for what should come soon.
func eventually(t *testing.T, what string, look func() error) {
	t.Helper()
	if err := lab.Within(patience, what, look); err != nil {
		t.Fatal(err)
	}
}
