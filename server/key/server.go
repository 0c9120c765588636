package key

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"usher/keyclient/clock"
	"usher/server/store"
)

// Config is what the key role is given. Fields without a default must be set.
type Config struct {
	Store store.Store
	Clock clock.Clock
	Log   *slog.Logger

	// MasterKeyFile holds 32 bytes, mode 0600, and never changes; RatchetFile is
	// rewritten in place every minute. Both stay out of backups (docs/keying.md §3).
	MasterKeyFile string
	RatchetFile   string
	// Advance lets the ratchet go on by more than 24 h at the start: for a host
	// that was off for that long.
	Advance bool

	// Roots are the CAs whose client certificates and ticket signers count.
	Roots *x509.CertPool
	// Certificate is the role's own TLS certificate, asked for at each handshake.
	Certificate func() (*tls.Certificate, error)

	// RefreshAddresses go into grants: where datagrams may be sent. Empty: HTTPS only.
	RefreshAddresses []string

	// Stale is how old the knowledge of the store may be (default 1 h).
	Stale time.Duration
	// Poll is how often the store is asked for changes (default 200 ms, at most 500 ms).
	Poll time.Duration
	// Handshakes bounds the TLS handshakes under way (default 64), Connections
	// the open connections (default 4096). Above them a connection is closed at once.
	Handshakes  int
	Connections int
}

// Server is the key role of one replica. Its methods may be called from any
// goroutine; Run is called once.
type Server struct{}

// New opens ratchet and store, forgets what is over, and loads what is live.
// ctx bounds that loading.
func New(ctx context.Context, c Config) (*Server, error) {
	return nil, errors.New("key: not written yet")
}

// Run follows the store and keeps the keys until ctx ends.
func (s *Server) Run(ctx context.Context) error { return nil }

// Follow reads what changed in the store, once, and publishes it. Run does the
// same at each Poll; it is for who cannot wait that long.
func (s *Server) Follow(ctx context.Context) error { return nil }

// Serve answers on a listener until ctx ends, with TLS, bounds and time limits.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error { return nil }

// Handler answers POST /v1/enrol and /v1/refresh. It needs the connection's TLS
// state, so no proxy may end TLS in front of it (docs/keying.md §4).
func (s *Server) Handler() http.Handler { return nil }

// TLSConfig is the role's side of mutual TLS 1.3.
func (s *Server) TLSConfig() *tls.Config { return nil }

// Close releases and wipes what New took. Call it after Run and Serve have returned.
func (s *Server) Close() error { return nil }
