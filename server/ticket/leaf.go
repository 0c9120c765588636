package ticket

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Leaf is one role's TLS certificate with its key, in files NAME.key and
// NAME.pem. It renews itself: at the first handshake in its last half, at a
// start with other host names, and when it ran out while the server was off.
type Leaf struct {
	base  string
	hosts []string
	ca    *x509.Certificate
	auth  *Authority // nil where the CA's key is elsewhere
	now   func() time.Time

	mu   sync.Mutex
	pair *tls.Certificate // guarded by mu
}

// NewLeaf reads or makes the certificate NAME of a state folder, for these
// names and addresses. Without an authority it can only be read. ErrFile.
func NewLeaf(dir, name string, hosts []string, ca *x509.Certificate, auth *Authority, now func() time.Time) (*Leaf, error) {
	l := &Leaf{base: filepath.Join(dir, name), hosts: hosts, ca: ca, auth: auth, now: now}
	if key, cert := readPair(l.base); key != nil && cert.CheckSignatureFrom(ca) == nil && l.serves(cert) {
		l.pair = l.chain(key, cert)
	}
	if _, err := l.Certificate(); err != nil {
		return nil, err
	}
	return l, nil
}

// serves tells whether a certificate is for exactly the leaf's hosts.
func (l *Leaf) serves(cert *x509.Certificate) bool {
	have := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		have = append(have, ip.String())
	}
	var want []string
	for _, h := range l.hosts {
		if ip := net.ParseIP(h); ip != nil {
			h = ip.String()
		}
		want = append(want, h)
	}
	slices.Sort(have)
	slices.Sort(want)
	return slices.Equal(have, slices.Compact(want))
}

// chain is leaf and CA: the client looks for the CA that it pins.
func (l *Leaf) chain(key crypto.Signer, cert *x509.Certificate) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, l.ca.Raw}, PrivateKey: key, Leaf: cert}
}

// Certificate is what the role shows now; it renews it where it is time.
func (l *Leaf) Certificate() (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.pair != nil && now.Before(l.pair.Leaf.NotAfter.Add(-leafLife/2)) && now.After(l.pair.Leaf.NotBefore) {
		return l.pair, nil
	}
	if l.auth == nil {
		if l.pair != nil && now.Before(l.pair.Leaf.NotAfter) {
			return l.pair, nil
		}
		return nil, fmt.Errorf("%w: %s.pem is missing, has ended or is for other hosts, and the CA's key is not here to renew it", ErrFile, l.base)
	}
	pair, err := l.renew(now)
	if err != nil && l.pair != nil && now.Before(l.pair.Leaf.NotAfter) {
		return l.pair, nil // a full disk must not end the service before the certificate does
	}
	if err != nil {
		return nil, err
	}
	l.pair = pair
	return pair, nil
}

func (l *Leaf) renew(now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := l.auth.issueServer(l.hosts, key.Public(), now)
	if err != nil {
		return nil, err
	}
	if err := writeKey(l.base+".key", key); err != nil {
		return nil, err
	}
	if err := writeCertificates(l.base+".pem", der, l.ca.Raw); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return l.chain(key, cert), nil
}
