package keyclient

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
)

// How renewals are spread and repeated.
const (
	firstRetry = 10 * time.Second
	lastRetry  = 15 * time.Minute
	idleRenew  = 24 * time.Hour // nothing to renew: look again then, or when something changes
)

// Login makes a new key, has it certified, and fetches the tickets. An earlier
// identity is replaced only when the server has taken the name and password.
// Errors: ErrNotConfigured, ErrCA, ErrServer, ErrRefused, ErrState.
func (c *Client) Login(ctx context.Context, l Login) (*LoginResult, error) {
	c.changing.Lock()
	defer c.changing.Unlock()
	from := c.loginOrigin(l)
	if from.Server == "" || from.CASHA256 == "" {
		return nil, ErrNotConfigured
	}
	t, err := newTrust(from.CASHA256)
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	// A transport of its own: nobody is asked for a certificate at a login, and
	// the old identity works on until the new one is there.
	fresh := newTransport(&c.cfg, t, c.serverNow, noCertificate)
	defer fresh.close()
	id, r, answer, err := certify(ctx, fresh, t, from.Server+wire.PathLogin, key, func(csr []byte) any {
		return wire.LoginRequest{Name: l.Name, Password: string(l.Password), CSR: csr}
	})
	if err != nil {
		return nil, fmt.Errorf("log in at %s: %w", from.Server, err)
	}
	if err := saveIdentity(c.dir, id, t, from); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if err := c.setServer(from); err != nil {
		c.mu.Unlock()
		return nil, err
	}
	c.trust.ca.Store(t.ca.Load())
	c.identity = id
	c.answered(r.sample(answer.ServerTimeUS, 0))
	c.planRenewal()
	c.held.etag = "" // the tickets are perhaps another client's
	c.renew()
	c.mu.Unlock()
	c.log.Info("logged in", "server", from.Server, "client_number", id.number, "certificate_until", id.notAfter())

	ticketError := c.FetchTickets(ctx)
	return &LoginResult{
		Server: from.Server, CASHA256: from.CASHA256, Subject: id.certificate.Leaf.Subject.CommonName,
		Number: id.number, NotAfter: id.notAfter(), Events: len(c.Entries()), TicketError: ticketError,
	}, nil
}

// loginOrigin is where a login goes: what it names, else what is configured.
func (c *Client) loginOrigin(l Login) origin {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := c.from
	if from.Server == "" {
		from = origin{Server: c.cfg.Server, CASHA256: c.cfg.CASHA256}
	}
	if l.Server != "" {
		from.Server = l.Server
	}
	if l.CASHA256 != "" {
		from.CASHA256 = l.CASHA256
	}
	return from
}

// Logout forgets identity, tickets and joins, wipes the keys and removes the
// policies. It needs no server.
func (c *Client) Logout(context.Context) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	ended := c.joined
	c.joined = make(map[derive.EventID]*membership)
	c.identity, c.renewAt, c.lastError = nil, time.Time{}, ""
	if c.transport != nil {
		c.transport.close()
	}
	policies := c.setTickets(heldTickets{})
	c.renew()
	c.mu.Unlock()
	for _, m := range ended {
		m.stop()
	}
	// The certificate goes first: what is left without it is no identity.
	err := c.dir.remove(fileCert, fileKey, fileTickets, fileJoined, fileServer, fileCA)
	c.log.Info("logged out")
	return errors.Join(policies, err)
}

// planRenewal draws the instant of the next renewal: at about two thirds of the
// certificate's life, spread so that a login of all does not become a renewal
// of all. mu is held.
func (c *Client) planRenewal() {
	c.renewAt = time.Time{}
	if c.identity == nil {
		return
	}
	leaf := c.identity.certificate.Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	c.renewAt = leaf.NotBefore.Add(life*6/10 + time.Duration(c.cfg.Rand.Int64N(int64(life/7)+1)))
}

// renewLoop keeps the certificate alive, with nobody logged in.
func (c *Client) renewLoop(ctx context.Context) {
	backoff := firstRetry
	for {
		wake := c.renewals()
		wait, due := c.untilRenewal()
		if due {
			err := c.renewCertificate(ctx)
			if err == nil {
				backoff = firstRetry
				continue
			}
			if ctx.Err() != nil {
				return
			}
			c.mu.Lock()
			c.fail("renew certificate", err)
			c.mu.Unlock()
			wait, backoff = c.jitter(backoff), min(2*backoff, lastRetry)
			wake = nil // our own failure is no reason to hurry
		}
		if !sleep(ctx, wait, wake) {
			return
		}
	}
}

// untilRenewal tells whether the certificate is to be renewed now, or in how
// long to look again.
func (c *Client) untilRenewal() (wait time.Duration, due bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.wall()
	if c.identity == nil || !c.identity.valid(now) {
		return idleRenew, false
	}
	wait = min(c.renewAt.Sub(now), idleRenew)
	return wait, wait <= 0
}

func (c *Client) renewCertificate(ctx context.Context) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	t, from, err := c.connection()
	if err != nil {
		return err
	}
	c.mu.Lock()
	old, tr := c.identity, c.trust
	c.mu.Unlock()
	key, isECDSA := old.certificate.PrivateKey.(*ecdsa.PrivateKey)
	if !isECDSA {
		return fmt.Errorf("%w: the key is not ECDSA", ErrState)
	}
	id, r, answer, err := certify(ctx, t, tr, from.Server+wire.PathRenew, key, func(csr []byte) any {
		return wire.RenewRequest{CSR: csr}
	})
	if err != nil {
		return fmt.Errorf("renew at %s: %w", from.Server, err)
	}
	if err := saveIdentity(c.dir, id, tr, from); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.identity = id
	c.answered(r.sample(answer.ServerTimeUS, 0))
	c.planRenewal()
	t.close() // idle connections still show the old certificate
	c.renew()
	c.log.Info("certificate renewed", "client_number", id.number, "certificate_until", id.notAfter())
	return nil
}
