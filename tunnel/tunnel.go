package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

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
}

// Config is what New needs. Only Log and Hooks may be left out.
type Config struct {
	Device   device.Device // the virtual interface
	Underlay underlay.Conn // the real one
	DB       *sa.DB        // policies and associations
	BootNS   func() int64  // now, nanoseconds of CLOCK_BOOTTIME
	Port     uint16        // UDP port to send to; 0 is 4500
	Log      *slog.Logger
	Hooks    Hooks
}

// DefaultPort is the port of ESP in UDP (RFC 3948 §2.1).
const DefaultPort = 4500

// ErrConfig is returned by New for an incomplete Config.
var ErrConfig = errors.New("tunnel: incomplete configuration")

// Tunnel is the packet path between a device and an underlay.
type Tunnel struct {
	config   Config
	counters Counters
}

// New makes a tunnel; Run makes it work.
func New(c Config) (*Tunnel, error) {
	if c.Device == nil || c.Underlay == nil || c.DB == nil || c.BootNS == nil {
		return nil, ErrConfig
	}
	return &Tunnel{config: c}, nil
}

// Run moves packets until ctx ends or the device or the socket fails. It
// closes neither. A tunnel runs once.
func (t *Tunnel) Run(ctx context.Context) error { return errors.New("tunnel: not written yet") }

// Counters are the tunnel's counters, live.
func (t *Tunnel) Counters() *Counters { return &t.counters }
