package keyclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"usher/keyclient/wire"
)

// clientURI is the start of the URI name that holds the client's number.
const clientURI = "usher:client:"

// origin is where an identity is from, as server.json holds it.
type origin struct {
	Server   string `json:"server"`
	CASHA256 string `json:"ca_sha256"`
}

// identity is the client's certificate and the key that never leaves this host.
// It is not changed once made.
type identity struct {
	certificate *tls.Certificate // Leaf is set
	number      uint32
}

func (i *identity) notAfter() time.Time { return i.certificate.Leaf.NotAfter }

// valid tells whether the certificate can be used at that time.
func (i *identity) valid(now time.Time) bool {
	return i != nil && now.Before(i.notAfter())
}

// newKey makes a key: P-256, as tokens have it too.
func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("keyclient: make a key: %w", err)
	}
	return key, nil
}

// newCSR asks for a certificate over key. Only its key counts: names are the server's.
func newCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "usher client"}}, key)
	if err != nil {
		return nil, fmt.Errorf("keyclient: make a certificate request: %w", err)
	}
	return csr, nil
}

// newIdentity checks that the certificate is over our key and for a client of
// the pinned CA, and reads its number.
func newIdentity(key *ecdsa.PrivateKey, der []byte, t *trust, now time.Time) (*identity, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("keyclient: client certificate: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("keyclient: client certificate is over another key")
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: t.roots(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, fmt.Errorf("keyclient: client certificate: %w", err)
	}
	for _, u := range leaf.URIs {
		number, isClient := strings.CutPrefix(u.String(), clientURI)
		if !isClient {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			break
		}
		return &identity{
			certificate: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
			number:      uint32(n),
		}, nil
	}
	return nil, fmt.Errorf("keyclient: client certificate names no client (%s…)", clientURI)
}

// loadIdentity reads key and certificate; nil without an error if there is none.
// An expired certificate is an identity, too: status tells when it ended.
func loadIdentity(d stateDir, t *trust) (*identity, error) {
	rawKey, err := d.read(fileKey)
	if err != nil {
		return nil, err
	}
	defer clear(rawKey)
	rawCert, err := d.read(fileCert)
	if err != nil || rawKey == nil || rawCert == nil {
		return nil, err
	}
	keyBlock, _ := pem.Decode(rawKey)
	certBlock, _ := pem.Decode(rawCert)
	if keyBlock == nil || certBlock == nil {
		return nil, fmt.Errorf("%w: %s or %s is no PEM; log in again", ErrState, fileKey, fileCert)
	}
	defer clear(keyBlock.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: not a PKCS #8 key; log in again", ErrState, fileKey)
	}
	key, isECDSA := parsed.(*ecdsa.PrivateKey)
	if !isECDSA {
		return nil, fmt.Errorf("%w: %s: not an ECDSA key; log in again", ErrState, fileKey)
	}
	leaf, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; log in again", ErrState, fileCert, err)
	}
	// As of its own beginning: whether it has ended is asked at each use.
	id, err := newIdentity(key, certBlock.Bytes, t, leaf.NotBefore)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; log in again", ErrState, err)
	}
	return id, nil
}

// saveIdentity writes key, certificate, CA and origin. The certificate comes
// last: without it the rest is no identity.
func saveIdentity(d stateDir, id *identity, t *trust, from origin) error {
	key, err := x509.MarshalPKCS8PrivateKey(id.certificate.PrivateKey)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	defer clear(key)
	where, err := json.Marshal(from)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	defer clear(keyPEM)
	if err := d.write(fileCA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: t.ca.Load().Raw})); err != nil {
		return err
	}
	if err := d.write(fileServer, append(where, '\n')); err != nil {
		return err
	}
	if err := d.write(fileKey, keyPEM); err != nil {
		return err
	}
	return d.write(fileCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.certificate.Certificate[0]}))
}

// noCertificate is what a login shows.
func noCertificate() *tls.Certificate { return nil }

// certify has key certified, at path with the body that ask makes of a CSR.
func certify(ctx context.Context, t *transport, tr *trust, url string, key *ecdsa.PrivateKey, ask func(csr []byte) any) (*identity, *reply, *wire.LoginAnswer, error) {
	csr, err := newCSR(key)
	if err != nil {
		return nil, nil, nil, err
	}
	body, err := json.Marshal(ask(csr))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("keyclient: %w", err)
	}
	defer clear(body) // a login's holds the password
	r, err := t.do(ctx, request{method: http.MethodPost, url: url, contentType: "application/json", body: body, max: wire.MaxLoginMessage})
	if err != nil {
		return nil, nil, nil, err
	}
	answer := new(wire.LoginAnswer)
	if err := wire.DecodeStrict(r.body, answer); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %s: %w", ErrServer, url, err)
	}
	now := time.UnixMicro(int64(answer.ServerTimeUS))
	id, err := newIdentity(key, answer.Certificate, tr, now)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	if id.number != answer.Number {
		return nil, nil, nil, fmt.Errorf("%w: certificate of client %d for client %d", ErrServer, id.number, answer.Number)
	}
	return id, r, answer, nil
}
