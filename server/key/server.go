package key

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync/atomic"
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

const (
	defaultStale       = time.Hour
	defaultPoll        = 200 * time.Millisecond
	longestPoll        = 500 * time.Millisecond
	defaultHandshakes  = 64
	defaultConnections = 4096
)

func (c *Config) complete() error {
	missing := func(field string) error { return fmt.Errorf("%w: %s is missing", ErrConfig, field) }
	switch {
	case c.Store == nil:
		return missing("Store")
	case c.Clock.Wall == nil || c.Clock.Boot == nil:
		return missing("Clock")
	case c.Log == nil:
		return missing("Log")
	case c.MasterKeyFile == "":
		return missing("MasterKeyFile")
	case c.RatchetFile == "":
		return missing("RatchetFile")
	case c.Roots == nil:
		return missing("Roots")
	case c.Certificate == nil:
		return missing("Certificate")
	case len(c.RefreshAddresses) > 0:
		return fmt.Errorf("%w: RefreshAddresses: refresh by datagram is not in this version", ErrConfig)
	case c.Poll < 0 || c.Poll > longestPoll:
		return fmt.Errorf("%w: Poll is %v, at most %v", ErrConfig, c.Poll, longestPoll)
	case c.Stale < 0 || c.Handshakes < 0 || c.Connections < 0:
		return fmt.Errorf("%w: Stale, Handshakes and Connections cannot be negative", ErrConfig)
	}
	setDefault(&c.Stale, defaultStale)
	setDefault(&c.Poll, defaultPoll)
	setDefault(&c.Handshakes, defaultHandshakes)
	setDefault(&c.Connections, defaultConnections)
	return nil
}

func setDefault[T comparable](field *T, to T) {
	if zero := *new(T); *field == zero {
		*field = to
	}
}

// Server is the key role of one replica. Its methods may be called from any
// goroutine; Run is called once.
type Server struct {
	config   Config
	log      *slog.Logger
	clock    *serverClock
	keeper   *keeper
	senders  *senderIDs
	random   func([]byte) // nonces
	counters counters
}

// New opens ratchet and store, forgets what is over, and loads what is live.
// ctx bounds that loading. Errors wrap those of this package, or are the store's.
//
// A wall clock behind the ratchet is no error: until it is right, every request
// is answered by "clock not trusted".
func New(ctx context.Context, c Config) (*Server, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	master, err := readMasterKey(c.MasterKeyFile)
	if err != nil {
		return nil, err
	}
	defer master.Wipe()
	r, err := openRatchetFile(c.RatchetFile, master)
	if err != nil {
		return nil, err
	}
	s, err := newServer(ctx, c, r)
	if err != nil {
		r.close() //nolint:errcheck // the error at hand says more
		return nil, err
	}
	return s, nil
}

func newServer(ctx context.Context, c Config, r *ratchet) (*Server, error) {
	epoch := r.at()
	floor := time.Duration(epoch) * epochLength
	var ceiling time.Duration
	if !c.Advance {
		ceiling = floor + time.Duration(maxLeap+1)*epochLength + epochLinger
	}
	clk := newServerClock(c.Clock, int64(floor), int64(ceiling))
	if now := clk.now(); ceiling > 0 && now.wallNS >= int64(ceiling) {
		return nil, fmt.Errorf("%w: the clock says %s, the ratchet stands at %s; set the clock right, or start with --advance if the host was off for that long",
			ErrClockAhead, now.time().UTC().Format(time.RFC3339), time.Unix(0, int64(floor)).UTC().Format(time.RFC3339))
	}
	var id [8]byte
	rand.Read(id[:]) //nolint:errcheck // never fails: the runtime ends the process instead
	s := &Server{
		config: c, log: c.Log, clock: clk,
		keeper:  newKeeper(c.Store, r, clk, c.Log),
		senders: &senderIDs{store: c.Store, ratchet: r, owner: hex.EncodeToString(id[:]), held: map[holder]*held{}},
		random:  func(b []byte) { rand.Read(b) }, //nolint:errcheck // as above
	}
	if err := s.keeper.turn(ctx); err != nil {
		return nil, fmt.Errorf("key: load: %w", err)
	}
	return s, nil
}

// Run follows the store and keeps the keys until ctx ends. What goes wrong is
// logged when it begins and when it is over: the role serves on from what it
// has, until that is `stale`.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(s.config.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.keeper.turn(ctx) //nolint:errcheck // logged where it arose
		}
	}
}

// Follow does at once what Run does at each Poll: it reads what changed in the
// store and publishes it. For who has just written and cannot wait.
func (s *Server) Follow(ctx context.Context) error { return s.keeper.turn(ctx) }

// Close releases and wipes what New took. Call it after Run and Serve have returned.
func (s *Server) Close() error { return s.keeper.close() }

// nonce is random, as long as every AEAD here wants it.
func (s *Server) nonce() (n [12]byte) {
	s.random(n[:])
	return n
}

// counters are what happened since the start.
type counters struct {
	status   [8]atomic.Uint64 // refreshes answered, by status
	outcome  [outcomeCount]atomic.Uint64
	enrolled atomic.Uint64
	refused  atomic.Uint64
}

// Stats are counts since the start.
type Stats struct {
	Answered [8]uint64 // refreshes, by status (docs/keying.md §5.2)
	NAKs     uint64    // refreshes of unknown occurrences, cookie numbers, versions
	Dropped  uint64    // refreshes that were malformed, forged, or had no key
	Enrolled uint64
	Refused  uint64 // requests answered by a problem of the client's
}

// Stats reads the counts.
func (s *Server) Stats() Stats {
	var out Stats
	for i := range out.Answered {
		out.Answered[i] = s.counters.status[i].Load()
	}
	out.NAKs = s.counters.outcome[refusedNAK].Load()
	for _, o := range []outcome{droppedForm, droppedSeal, droppedKey} {
		out.Dropped += s.counters.outcome[o].Load()
	}
	out.Enrolled, out.Refused = s.counters.enrolled.Load(), s.counters.refused.Load()
	return out
}
