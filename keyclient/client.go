package keyclient

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"usher/keyclient/clock"
	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/sa"
)

// Config is what a [Client] works with. StateDir, Clock, DB and Log are needed.
type Config struct {
	StateDir string // identity.key, identity.pem, ca.pem, tickets/, joined.json; made 0700 if missing
	Server   string // URL of the ticket role, "" until a login names one
	CASHA256 string // 64 hex digits: SHA-256 of the CA's certificate, "" until a login names one
	Clock    clock.Clock
	DB       *sa.DB
	Log      *slog.Logger
	// OwnAddresses returns the addresses of the real interface, and its name
	// for messages. nil: none.
	OwnAddresses func() (addresses []netip.Addr, interfaceName string)
	ESPPort      uint16 // 0: 4500
	KeepMaterial bool   // SAs keep their key for `usher sa --show-keys`
	// Rand draws the instants of requests; nil: the runtime's. It is used by
	// several goroutines at once.
	Rand schedule.Rand
	// Dial makes TCP connections; nil: the host's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const defaultESPPort = 4500

// Client is the client's side of keying of one host.
type Client struct {
	cfg Config
	dir stateDir
	log *slog.Logger

	changing sync.Mutex    // held by Login, Logout and renewal: one identity at a time
	fetching chan struct{} // holds one while tickets are fetched

	mu        sync.Mutex
	from      origin                         // guarded by mu
	trust     *trust                         // guarded by mu; nil if nothing is configured
	transport *transport                     // guarded by mu; nil if nothing is configured
	identity  *identity                      // guarded by mu; nil if not logged in
	held      heldTickets                    // guarded by mu
	joined    map[derive.EventID]*membership // guarded by mu
	offset    schedule.Offset                // guarded by mu; the ticket server's clock
	renewAt   time.Time                      // guarded by mu
	contact   time.Time                      // guarded by mu; last answer of the ticket server
	lastError string                         // guarded by mu
	changed   chan struct{}                  // guarded by mu; closed at each change of the view
	renewed   chan struct{}                  // guarded by mu; closed when tickets, identity, joins or addresses change
}

// systemRand is the runtime's generator, which any goroutine may use.
type systemRand struct{}

func (systemRand) Int64N(n int64) int64 { return rand.Int64N(n) }

// New loads identity, tickets and joins from the state folder, and puts the
// policies of held tickets into force, expired or not. Nothing is sent yet.
// Errors: ErrState, ErrNotConfigured for a fingerprint that is none.
func New(cfg Config) (*Client, error) {
	if cfg.ESPPort == 0 {
		cfg.ESPPort = defaultESPPort
	}
	if cfg.Rand == nil {
		cfg.Rand = systemRand{}
	}
	if cfg.OwnAddresses == nil {
		cfg.OwnAddresses = func() ([]netip.Addr, string) { return nil, "" }
	}
	c := &Client{
		cfg: cfg, dir: stateDir(cfg.StateDir), log: cfg.Log,
		joined:  make(map[derive.EventID]*membership),
		changed: make(chan struct{}), renewed: make(chan struct{}), fetching: make(chan struct{}, 1),
	}
	if err := c.dir.prepare(); err != nil {
		return nil, err
	}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// load reads the state folder. What cannot be used is logged and told by the
// status; a host with a broken file must still come up, and protect what it knows.
func (c *Client) load() error {
	from, err := c.loadOrigin()
	if err != nil {
		return err
	}
	if from.Server == "" || from.CASHA256 == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.setServer(from); err != nil {
		return err
	}
	rawCA, err := c.dir.read(fileCA)
	if err != nil {
		return err
	}
	c.trust.load(rawCA)
	if c.identity, err = loadIdentity(c.dir, c.trust); err != nil {
		c.fail("load identity", err)
	}
	c.planRenewal()
	held, err := loadTickets(c.dir, c.trust)
	if err != nil {
		c.fail("load cached tickets", err)
	}
	if err := c.setTickets(held); err != nil {
		c.fail("set policies of cached tickets", err)
	}
	joins, err := loadJoins(c.dir)
	if err != nil {
		c.fail("load joins", err)
	}
	for _, j := range joins {
		c.joined[j.Event] = newMembership(j.Event, j.Role)
	}
	return nil
}

// loadOrigin prefers the configuration to what the last login used.
func (c *Client) loadOrigin() (origin, error) {
	if c.cfg.Server != "" && c.cfg.CASHA256 != "" {
		return origin{Server: c.cfg.Server, CASHA256: c.cfg.CASHA256}, nil
	}
	raw, err := c.dir.read(fileServer)
	if err != nil || raw == nil {
		return origin{}, err
	}
	var from origin
	if err := json.Unmarshal(raw, &from); err != nil {
		return origin{}, fmt.Errorf("%w: %s: %w", ErrState, fileServer, err)
	}
	return from, nil
}

// setServer points the client at a server. mu is held.
func (c *Client) setServer(from origin) error {
	t, err := newTrust(from.CASHA256)
	if err != nil {
		return err
	}
	if c.transport != nil {
		c.transport.close()
	}
	c.from, c.trust = from, t
	c.transport = newTransport(&c.cfg, t, c.serverNow, c.certificate)
	return nil
}

// certificate is what connections show: nil if there is none.
func (c *Client) certificate() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.identity == nil {
		return nil
	}
	return c.identity.certificate
}

// connection returns what is needed to ask a server by certificate.
func (c *Client) connection() (*transport, origin, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.transport == nil:
		return nil, origin{}, ErrNotConfigured
	case c.identity == nil:
		return nil, origin{}, ErrNotLoggedIn
	case !c.identity.valid(c.wall()):
		return nil, origin{}, fmt.Errorf("%w: the certificate ended at %s", ErrNotLoggedIn, c.identity.notAfter().Format(time.RFC3339))
	}
	return c.transport, c.from, nil
}

// Run renews, fetches and keys until ctx ends; then it wipes all keys and
// leaves the policies in force. It returns nil when ctx ends. It is called once.
func (c *Client) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { c.renewLoop(ctx) })
	running.Go(func() { c.fetchLoop(ctx) })
	running.Go(func() { c.membershipLoop(ctx) })
	running.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil {
		c.transport.close()
	}
	return nil
}

// Changed returns a channel that is closed at the next change of anything that
// Entries, Events, Joined or Status show. Take it before you look.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// notify tells that the view has changed. mu is held.
func (c *Client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// renew tells the client's own loops that tickets, identity, joins or addresses
// have changed. mu is held.
func (c *Client) renew() {
	close(c.renewed)
	c.renewed = make(chan struct{})
	c.notify()
}

func (c *Client) renewals() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewed
}

// AddressesChanged tells that OwnAddresses may return something else: a sender
// that now owns its address need not wait.
func (c *Client) AddressesChanged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renew()
}

// fail notes what went wrong where nobody waits for an error. mu is held.
func (c *Client) fail(work string, err error) {
	c.lastError = err.Error()
	c.log.Warn("keying work failed", "work", work, "error", err)
	c.notify()
}

// answered notes an answer of the ticket server. mu is held.
func (c *Client) answered(s schedule.Sample) {
	c.contact, c.lastError = c.cfg.Clock.Wall(), ""
	c.offset.Add(s)
}

// wall is the time by the ticket server's clock where that is known, else by
// the host's. mu is held.
func (c *Client) wall() time.Time {
	if ns, _, ok := c.offset.NowNS(c.cfg.Clock.BootNS()); ok {
		return time.Unix(0, ns)
	}
	return c.cfg.Clock.Wall()
}

// serverNow is wall for those who do not hold mu.
func (c *Client) serverNow() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall()
}

// jitter spreads d by a quarter to either side.
func (c *Client) jitter(d time.Duration) time.Duration {
	quarter := int64(d / 4)
	if quarter <= 0 {
		return d
	}
	return d - time.Duration(quarter) + time.Duration(c.cfg.Rand.Int64N(2*quarter))
}

// sleep waits for d or until wake is closed; false once ctx has ended.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-wake:
	}
	return ctx.Err() == nil
}
