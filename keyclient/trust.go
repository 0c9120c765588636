package keyclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// trust is the pinned CA: everything a server shows must stand under the one
// certificate whose SHA-256 the configuration holds (docs/design.md §5, first
// trust). The host's own list of authorities has no say.
type trust struct {
	pin [sha256.Size]byte
	ca  atomic.Pointer[x509.Certificate] // nil until a server has shown it
}

// newTrust reads a fingerprint of 64 hex digits.
func newTrust(caSHA256 string) (*trust, error) {
	pin, err := hex.DecodeString(caSHA256)
	if err != nil || len(pin) != sha256.Size {
		return nil, fmt.Errorf("%w: ca_sha256 has 64 hex digits, not %q", ErrNotConfigured, caSHA256)
	}
	return &trust{pin: [sha256.Size]byte(pin)}, nil
}

// load takes the CA out of its PEM file; another CA's is passed over.
func (t *trust) load(raw []byte) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return
	}
	if ca, err := x509.ParseCertificate(block.Bytes); err == nil && t.isPinned(ca) {
		t.ca.Store(ca)
	}
}

func (t *trust) isPinned(c *x509.Certificate) bool {
	sum := sha256.Sum256(c.Raw)
	return bytes.Equal(sum[:], t.pin[:]) && c.IsCA && c.BasicConstraintsValid
}

// roots is the CA as a pool; empty, so that nothing verifies, if it is unknown.
func (t *trust) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	if ca := t.ca.Load(); ca != nil {
		pool.AddCert(ca)
	}
	return pool
}

// verify checks a server's chain for the host name or address that was dialled,
// and remembers the pinned CA that it stands under. A certificate that has ended
// is refused; one that has not begun is taken: this CA signs none ahead of time,
// so that it is the host's clock that is behind, and a host without a battery
// gets the time by the very answer that it asks for.
func (t *trust) verify(chain []*x509.Certificate, host string, now time.Time) error {
	ca := t.ca.Load()
	if i := slices.IndexFunc(chain, t.isPinned); i >= 0 {
		ca = chain[i]
	}
	if len(chain) == 0 || ca == nil {
		return fmt.Errorf("%w: %s shows none with SHA-256 %x; look at server and ca_sha256", ErrCA, host, t.pin)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca)
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	for _, c := range append([]*x509.Certificate{ca}, chain...) {
		if now.Before(c.NotBefore) {
			now = c.NotBefore
		}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, DNSName: host, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCA, host, err)
	}
	t.ca.Store(ca)
	return nil
}

// tlsDialer makes the TLS connections of one http.Transport. TLS 1.3 only, no
// resumption: the server checks the certificate at each connection
// (docs/keying.md §4).
type tlsDialer struct {
	trust *trust
	now   func() time.Time
	dial  func(ctx context.Context, network, address string) (net.Conn, error)
	// certificate is shown where the server asks for one; an empty one if there is none.
	certificate func() *tls.Certificate
}

func (d *tlsDialer) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	raw, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		ServerName:         host,
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it all, by the pinned CA
		VerifyConnection: func(s tls.ConnectionState) error {
			return d.trust.verify(s.PeerCertificates, host, d.now())
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c := d.certificate(); c != nil {
				return c, nil
			}
			return new(tls.Certificate), nil
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close() //nolint:errcheck // the handshake's error says more
		return nil, err
	}
	return conn, nil
}
