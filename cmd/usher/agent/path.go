package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"usher/sa"
	"usher/tunnel"
	"usher/tunnel/device"
	"usher/tunnel/underlay"
)

// pathSettings are what a packet path is opened with; when one of them changes,
// the path is opened anew.
type pathSettings struct {
	mtu     int
	lockDir string
	port    uint16
	offload bool
}

// path is the packet path while it runs: usher0, the socket, and the two loops.
type path struct {
	settings pathSettings
	device   device.Device
	conn     underlay.Conn
	tunnel   *tunnel.Tunnel
	cancel   context.CancelFunc
	done     chan struct{}
	err      error // why it ended; read after done
}

// openDevice makes usher0, or takes it over.
func openDevice(m Machine, s pathSettings) (device.Device, error) {
	d, err := m.OpenDevice(s.mtu, s.lockDir)
	if err != nil {
		return nil, fmt.Errorf("agent: open the interface for programs: %w", err)
	}
	return d, nil
}

// startPath opens the socket and starts the loops. It takes d over, also when it
// fails. ended is called when the loops end by themselves.
func startPath(m Machine, s pathSettings, d device.Device, db *sa.DB, boot func() int64, log *slog.Logger, hooks tunnel.Hooks, ended func()) (*path, error) {
	conn, err := m.OpenUnderlay(underlay.Config{Port: s.port, Mark: mark, NoOffload: !s.offload})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("agent: open the port of protected packets: %w", err), d.Close())
	}
	t, err := tunnel.New(tunnel.Config{Device: d, Underlay: conn, DB: db, BootNS: boot, Port: s.port, Log: log, Hooks: hooks})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("agent: %w", err), conn.Close(), d.Close())
	}
	// The path ends when it is stopped, not with the context of whoever started it.
	ctx, cancel := context.WithCancel(context.Background())
	p := &path{settings: s, device: d, conn: conn, tunnel: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		p.err = t.Run(ctx)
		close(p.done)
		if ctx.Err() == nil {
			ended()
		}
	}()
	return p, nil
}

// running tells whether the loops still run.
func (p *path) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// leaveBy chooses the real interface.
func (p *path) leaveBy(index int, address netip.Addr) { p.conn.SetInterface(index, address) }

// stop ends the loops and gives usher0 and the socket back; usher0 stays.
func (p *path) stop() error {
	if p == nil {
		return nil
	}
	p.cancel()
	<-p.done
	return errors.Join(p.conn.Close(), p.device.Close())
}
