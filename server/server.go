package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"usher/keyclient/clock"
	"usher/server/key"
	"usher/server/store"
	"usher/server/ticket"
)

// pollEvery is how often the key role looks at the change log: a suspension is
// seen within 500 ms.
const pollEvery = 200 * time.Millisecond

// Options are what does not come from server.toml.
type Options struct {
	Log   *slog.Logger
	Clock clock.Clock
	// Advance lets the ratchet go on by more than 24 h (docs/keying.md §3).
	Advance bool
	// NewKeys makes a ratchet, and a master key, where they are missing.
	NewKeys bool
}

// Server is the roles of one process, their listeners open.
type Server struct {
	log    *slog.Logger
	clock  clock.Clock
	store  store.Store
	ca     *x509.Certificate
	ticket *ticket.Server // nil: not this process's
	key    *key.Server    // nil: not this process's

	ticketListener net.Listener
	keyListener    net.Listener
}

// New opens store, keys and listeners. ErrNotSetUp, the store's and the roles'
// errors, or one that names the address that is taken.
func New(ctx context.Context, c Config, o Options) (_ *Server, err error) {
	s := &Server{log: o.Log, clock: o.Clock}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.store, err = OpenStore(ctx, c); err != nil {
		return nil, err
	}
	if s.ca, err = ticket.ReadCA(c.State); err != nil {
		return nil, err
	}
	auth, err := ticket.OpenAuthority(c.State)
	if errors.Is(err, ticket.ErrNoCA) && !c.Has(RoleTicket) {
		auth, err = nil, nil // a key role elsewhere lives on the certificate that it was given
	}
	if err != nil {
		return nil, err
	}
	if c.Has(RoleTicket) {
		if err := s.openTicket(c, auth); err != nil {
			return nil, err
		}
	}
	if c.Has(RoleKey) {
		if o.NewKeys {
			if err := s.newKeys(c); err != nil {
				return nil, err
			}
		}
		if err := s.openKey(ctx, c, auth, o.Advance); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Server) leaf(c Config, name string, auth *ticket.Authority) (func() (*tls.Certificate, error), error) {
	leaf, err := ticket.NewLeaf(c.State, name, c.Hosts, s.ca, auth, s.clock.Wall)
	if err != nil {
		return nil, err
	}
	return leaf.Certificate, nil
}

func (s *Server) openTicket(c Config, auth *ticket.Authority) error {
	certificate, err := s.leaf(c, "tls-ticket", auth)
	if err != nil {
		return err
	}
	s.ticket, err = ticket.New(ticket.Config{
		Store: s.store, Dir: c.State, Authority: auth, Certificate: certificate, Validity: c.Ticket.Tickets,
		Log: s.log.With("role", RoleTicket), Now: s.clock.Wall,
	})
	if err != nil {
		return err
	}
	s.ticketListener, err = listen(RoleTicket, c.Ticket.Listen)
	return err
}

func (s *Server) openKey(ctx context.Context, c Config, auth *ticket.Authority, advance bool) error {
	certificate, err := s.leaf(c, "tls-key", auth)
	if err != nil {
		return err
	}
	s.key, err = key.New(ctx, key.Config{
		Store: s.store, Clock: s.clock, Log: s.log.With("role", RoleKey),
		MasterKeyFile: c.path(masterKeyFile), RatchetFile: c.path(ratchetFile), Advance: advance,
		Roots: ticket.Pool(s.ca), Certificate: certificate, Stale: c.Key.Stale, Poll: pollEvery,
	})
	if err != nil {
		return err
	}
	s.keyListener, err = listen(RoleKey, c.Key.Listen)
	return err
}

// newKeys makes what a backup must not hold. A ratchet that is there is never
// replaced: the interval secrets of all that runs would be lost with it.
func (s *Server) newKeys(c Config) error {
	if _, err := os.Lstat(c.path(ratchetFile)); err == nil {
		return fmt.Errorf("%w: %s exists: new keys are for a server that has lost it", ErrSetUp, c.path(ratchetFile))
	}
	if err := key.CreateMasterKey(c.path(masterKeyFile)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return key.CreateRatchet(c.path(ratchetFile), c.path(masterKeyFile), s.clock.Wall())
}

// listen opens a role's port; what fails is said in words.
func listen(role, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("role %s: %s is in use by another program; end it, or set %s.listen (%w)", role, address, role, err)
	}
	if err != nil {
		return nil, fmt.Errorf("role %s: cannot listen on %s; see %s.listen (%w)", role, address, role, err)
	}
	return l, nil
}

// Addresses are where the roles listen, by role.
func (s *Server) Addresses() map[string]net.Addr {
	at := map[string]net.Addr{}
	if s.ticketListener != nil {
		at[RoleTicket] = s.ticketListener.Addr()
	}
	if s.keyListener != nil {
		at[RoleKey] = s.keyListener.Addr()
	}
	return at
}

// Run serves until ctx ends; requests under way are then given a few seconds.
// The first role that fails ends the others. Call Close after it.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if s.ticket != nil {
		s.log.Info("ticket role serves", "address", s.ticketListener.Addr().String())
		group.Go(func() error { return s.ticket.Serve(ctx, s.ticketListener) })
	}
	if s.key != nil {
		s.log.Info("key role serves", "address", s.keyListener.Addr().String())
		group.Go(func() error { return s.key.Run(ctx) })
		group.Go(func() error { return s.key.Serve(ctx, s.keyListener) })
	}
	group.Go(func() error {
		s.watchCA(ctx)
		return nil
	})
	err := group.Wait()
	s.log.Info("server stopped")
	return err
}

// watchCA says once a day that the CA is old: when it ends, no certificate can
// be renewed, and every agent needs a new ca_sha256.
func (s *Server) watchCA(ctx context.Context) {
	day := time.NewTicker(24 * time.Hour)
	defer day.Stop()
	for {
		life := s.ca.NotAfter.Sub(s.ca.NotBefore)
		if s.clock.Wall().After(s.ca.NotBefore.Add(life / 5 * 4)) {
			s.log.Warn("ca is near its end", "ends", s.ca.NotAfter.Format(time.DateOnly))
		}
		select {
		case <-day.C:
		case <-ctx.Done():
			return
		}
	}
}

// Close releases what New took; it may be called after Run, or instead of it.
func (s *Server) Close() error {
	var errs []error
	for _, l := range []net.Listener{s.ticketListener, s.keyListener} {
		if l != nil {
			l.Close() //nolint:errcheck // Run closed it
		}
	}
	if s.key != nil {
		errs = append(errs, s.key.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	return errors.Join(errs...)
}
