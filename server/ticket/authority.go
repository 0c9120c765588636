package ticket

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"usher/keyclient/wire"
)

// Lives of certificates. All begin backdate before they are made: a host whose
// clock is a little behind must not refuse them.
const (
	backdate   = 5 * time.Minute
	caLife     = 10 * 365 * 24 * time.Hour
	signerLife = 365 * 24 * time.Hour
	leafLife   = 24 * time.Hour // of a role's TLS certificate (docs/keying.md §12)
	clientLife = 24 * time.Hour // docs/keying.md §10: an enrolment ends with it
)

// Names of the CA's files in the state folder.
const (
	caKeyFile  = "ca.key"
	caCertFile = "ca.pem"
)

// clientURI begins the URI name that marks a client's certificate; the client
// number follows.
const clientURI = "usher:client:"

// Authority is the server's CA: an ECDSA P-256 key that signs certificates of
// clients (at login), of the roles (for TLS), and of the ticket signer.
type Authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// CreateAuthority makes a CA in a state folder. The error wraps fs.ErrExist if
// there is one: it is never replaced in silence, since every agent pins it.
func CreateAuthority(dir string, now time.Time) (*Authority, error) {
	for _, name := range []string{caKeyFile, caCertFile} {
		if exists(filepath.Join(dir, name)) {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), fs.ErrExist)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial := newSerial()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: fmt.Sprintf("Usher CA %x", serial.Bytes()[:4])},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := writeKey(filepath.Join(dir, caKeyFile), key); err != nil {
		return nil, err
	}
	if err := writeCertificates(filepath.Join(dir, caCertFile), der); err != nil {
		return nil, err
	}
	return OpenAuthority(dir)
}

// OpenAuthority reads the CA of a state folder. ErrNoCA, ErrFile.
func OpenAuthority(dir string) (*Authority, error) {
	cert, err := ReadCA(dir)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, caKeyFile)
	signer, err := readKey(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing: restore it from a backup, or run usher-server init where there never was one", ErrNoCA, name)
	}
	if err != nil {
		return nil, err
	}
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%w: %s is not the key of %s", ErrFile, name, caCertFile)
	}
	return &Authority{key: key, cert: cert}, nil
}

// ReadCA reads the CA's certificate alone, for a host that does not hold its
// key. ErrNoCA, ErrFile.
func ReadCA(dir string) (*x509.Certificate, error) {
	name := filepath.Join(dir, caCertFile)
	certs, err := readCertificates(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing: restore it from a backup, or run usher-server init where there never was one", ErrNoCA, name)
	}
	if err != nil {
		return nil, err
	}
	if !certs[0].IsCA {
		return nil, fmt.Errorf("%w: %s is no CA", ErrFile, name)
	}
	return certs[0], nil
}

// Fingerprint of a certificate: SHA-256 of its DER form, 64 hex digits; of the
// CA it is what an agent's TOML has as ca_sha256.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Pool is a pool of this one certificate.
func Pool(cert *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// Certificate of the CA.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// issue signs a certificate that lives from a little before now, at most as
// long as the CA.
func (a *Authority) issue(template *x509.Certificate, key crypto.PublicKey, now time.Time, life time.Duration) ([]byte, error) {
	template.SerialNumber = newSerial()
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = template.NotBefore.Add(life)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	if !now.Before(template.NotAfter) {
		return nil, fmt.Errorf("ticket: the CA ended on %s: make a new one", a.cert.NotAfter.Format(time.DateOnly))
	}
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
}

// issueClient makes a client's certificate over the key of its request; what
// else the request says does not count. ErrCSR.
func (a *Authority) issueClient(csrDER []byte, number uint32, now time.Time) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: its key must be ECDSA P-256", ErrCSR)
	}
	name := strconv.FormatUint(uint64(number), 10)
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "client " + name}, URIs: []*url.URL{{Scheme: "usher", Opaque: "client:" + name}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key, now, clientLife)
}

// issueServer makes a role's TLS certificate for names and addresses.
func (a *Authority) issueServer(hosts []string, key crypto.PublicKey, now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "usher-server"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return a.issue(template, key, now, leafLife)
}

// issueSigner makes the certificate of the key that signs tickets. Its URI name
// marks it; its key usage keeps it out of TLS.
func (a *Authority) issueSigner(key crypto.PublicKey, now time.Time) ([]byte, error) {
	mark, err := url.Parse(wire.TicketSignerURI)
	if err != nil {
		return nil, err
	}
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "usher ticket signer"}, URIs: []*url.URL{mark},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}, key, now, signerLife)
}

// ClientNumber is the number that a client's certificate names. The chain is
// not looked at. ErrNoClient.
func ClientNumber(cert *x509.Certificate) (uint32, error) {
	for _, u := range cert.URIs {
		digits, ok := strings.CutPrefix(u.String(), clientURI)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
			return 0, fmt.Errorf("%w: %q", ErrNoClient, u)
		}
		return uint32(n), nil
	}
	return 0, ErrNoClient
}

// newSerial draws a positive number of 127 bits.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails: the runtime ends the process instead
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}
