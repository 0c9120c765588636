package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"usher/sa"
	"usher/tunnel/device"
	"usher/tunnel/underlay"
)

// Hooks are what the packet path tells to others. A nil one is not called.
// They are called by the loops themselves and must not block: a hook that has
// work to do hands it to a goroutine of its own, and drops it if that is busy.
type Hooks struct {
	// ControlIn gets a datagram of the ESP port that is no ESP: what follows
	// the four zero bytes (RFC 3948 §2.2), and its sender. payload is valid
	// during the call only.
	ControlIn func(payload []byte, from netip.AddrPort)

	// UnknownSPI is told of each packet for which there is no association.
	UnknownSPI func(spi uint32, source, destination netip.Addr)

	// GroupReport gets what the kernel itself sends into the device about groups
	// that programs have joined there: an IGMP message, behind its IP header.
	// message is valid during the call only.
	GroupReport func(message []byte)
}

// Config is what New needs. Port, Log and Hooks may be left out.
type Config struct {
	Device   device.Device // the virtual interface
	Underlay underlay.Conn // the real one
	DB       *sa.DB        // policies and associations
	BootNS   func() int64  // now, nanoseconds of CLOCK_BOOTTIME
	Port     uint16        // UDP port to send to; 0 is underlay.DefaultPort
	Log      *slog.Logger  // nil: nothing is logged
	Hooks    Hooks
}

// What New and Run may fail with, beside errors of device and socket.
var (
	// ErrConfig: a Config that lacks something.
	ErrConfig = errors.New("tunnel: incomplete configuration")
	// ErrRan: Run was called a second time.
	ErrRan = errors.New("tunnel: ran already")
	// ErrWoken: the device or the socket stopped waiting, and nobody asked.
	ErrWoken = errors.New("tunnel: device or socket waits no more")
)

// Tunnel is the packet path between a device and an underlay.
type Tunnel struct {
	config   Config
	counters Counters
	ran      atomic.Bool
	stopping atomic.Bool // the loops look at it between two drains
}

// New makes a tunnel; Run makes it work. It returns ErrConfig.
func New(c Config) (*Tunnel, error) {
	switch {
	case c.Device == nil:
		return nil, fmt.Errorf("%w: no device", ErrConfig)
	case c.Underlay == nil:
		return nil, fmt.Errorf("%w: no underlay", ErrConfig)
	case c.DB == nil:
		return nil, fmt.Errorf("%w: no database of associations", ErrConfig)
	case c.BootNS == nil:
		return nil, fmt.Errorf("%w: no clock", ErrConfig)
	}
	if c.Port == 0 {
		c.Port = underlay.DefaultPort
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Tunnel{config: c}, nil
}

// Run moves packets until its context ends, which is no error, or until the device or
// the socket fails (device.ErrClosed when somebody removed the interface). It
// closes neither, but wakes both for good: they serve no second tunnel.
func (t *Tunnel) Run(parent context.Context) error {
	if t.ran.Swap(true) {
		return ErrRan
	}
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	release := context.AfterFunc(ctx, t.stop)
	defer release()

	var loops sync.WaitGroup
	for _, loop := range []func() error{newOutbound(t).run, newInbound(t).run} {
		loops.Go(func() {
			err := loop()
			if err == nil && !t.stopping.Load() {
				err = ErrWoken
			}
			cancel(err) // the other loop alone is of no use
		})
	}
	loops.Go(func() { t.report(ctx) })
	loops.Wait()
	if parent.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// stop ends both loops.
func (t *Tunnel) stop() {
	t.stopping.Store(true)
	t.config.Device.Wake()
	t.config.Underlay.Wake()
}

// Counters are the tunnel's counters, live.
func (t *Tunnel) Counters() *Counters { return &t.counters }
