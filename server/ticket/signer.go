package ticket

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"usher/keyclient/wire"
)

// signer is the key that signs tickets: an Ed25519 leaf of the CA, in files
// ticket.key and ticket.pem. It is renewed in the last third of its life, and
// then only as a new validity of the tickets begins: within one validity a
// ticket's bytes stay equal, whoever asks (docs/design.md §5), also over a
// restart.
type signer struct {
	base string
	auth *Authority
	keep bool // never renew: another process does

	mu   sync.Mutex
	key  ed25519.PrivateKey // guarded by mu
	cert *x509.Certificate  // guarded by mu
}

// CreateSigner makes the first signing leaf of a new server.
func CreateSigner(dir string, auth *Authority, now time.Time) error {
	s := newSigner(dir, auth)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renew(now)
}

func newSigner(dir string, auth *Authority) *signer {
	s := &signer{base: filepath.Join(dir, "ticket"), auth: auth}
	if key, cert := readPair(s.base); key != nil && cert.CheckSignatureFrom(auth.cert) == nil {
		if k, ok := key.(ed25519.PrivateKey); ok {
			s.key, s.cert = k, cert
		}
	}
	return s
}

// sign makes the certificate of a ticket whose validity begins at v.start.
func (s *signer) sign(group string, entries [][]byte, v validity, now time.Time) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if due := s.cert == nil || !v.start.Before(s.cert.NotAfter.Add(-signerLife/3)) || now.Before(s.cert.NotBefore); due && !s.keep { // the last: the clock was ahead once
		if err := s.renew(now); err != nil {
			return "", err
		}
	}
	if s.cert == nil {
		return "", fmt.Errorf("%w: %s.pem is missing: the running server makes it", ErrFile, s.base)
	}
	claims := wire.TicketClaims{Group: group, Entries: make([]string, 0, len(entries)),
		NotBefore: v.start.Add(-backdate).Unix(), Expires: v.end.Unix()}
	// Who verifies looks at the leaf as of the claim's beginning.
	if first := s.cert.NotBefore.Unix(); claims.NotBefore < first {
		claims.NotBefore = first
	}
	for _, e := range entries {
		claims.Entries = append(claims.Entries, wire.HashEntry(e))
	}
	return wire.SignTicket(s.key, s.cert.Raw, s.auth.cert.Raw, claims)
}

func (s *signer) renew(now time.Time) error {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := s.auth.issueSigner(public, now)
	if err != nil {
		return err
	}
	if err := writeKey(s.base+".key", key); err != nil {
		return err
	}
	if err := writeCertificates(s.base+".pem", der, s.auth.cert.Raw); err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	s.key, s.cert = key, cert
	return nil
}

// validity is one span in which tickets have the same bytes, if nothing they
// list changes. Spans begin at fixed times, whatever server is asked and when:
// at each multiple of half their length since 1970.
type validity struct{ start, end time.Time }

func validityAt(now time.Time, length time.Duration) validity {
	half := int64(length / 2 / time.Second)
	start := time.Unix(now.Unix()/half*half, 0).UTC()
	return validity{start: start, end: start.Add(2 * time.Duration(half) * time.Second)}
}
