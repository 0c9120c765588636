package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"usher/scripts/lab"
)

// process is something that runs in a host, with its output in a file.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait, once done is closed
}

// spawn starts a program in a host. It ends with ctx, with the lab, or by stop.
func (s *show) spawn(ctx context.Context, host, logFile, name string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(s.dir, logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: s.hosts[host].Command(ctx, name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// The terminal's interrupt is for the demo, which then ends all of it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s on %s: %w", filepath.Base(name), host, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// end sends a signal and waits until the process has ended.
func (p *process) end(ctx context.Context, signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.wait(ctx)
}

func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ports of the management server's roles.
var serverPorts = []string{"7440", "7441"}

// answering waits until both roles accept connections.
func (s *show) answering(ctx context.Context) error {
	address, _, _ := net.ParseCIDR(addresses["server"])
	return lab.Within(10*time.Second, "the server's two roles", func() error {
		select {
		case <-s.server.done:
			return fmt.Errorf("usher-server ended: %w; see server.log", s.server.err)
		default:
		}
		return s.hosts["server"].Do(func() error {
			for _, port := range serverPorts {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(address.String(), port))
				if err != nil {
					return err
				}
				conn.Close()
			}
			return nil
		})
	})
}
