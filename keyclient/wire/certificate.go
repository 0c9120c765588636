package wire

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The certificate of a ticket (Fig 4) is a JWS in compact form (RFC 7515), alg
// EdDSA over Ed25519 (RFC 8037). Its protected header holds exactly
//
//	{"alg": "EdDSA", "typ": "usher-ticket", "x5c": [leaf, CA]}
//
// and its payload is [TicketClaims]. Any other header member (crit, jku, jwk,
// x5u, kid …) is refused: nothing outside our CA has a say in which key counts.
const (
	ticketType = "usher-ticket"
	ticketAlg  = jose.EdDSA

	// TicketSignerURI is the URI name in the leaf that may sign tickets. A
	// client's certificate, of the same CA, does not carry it.
	TicketSignerURI = "usher:ticket-signer"

	maxHeader = 16 << 10
	maxChain  = 4
)

// TicketClaims is what a ticket's certificate says.
type TicketClaims struct {
	Group     string   `json:"group"`
	Entries   []string `json:"entries"` // HashEntry of each, in the ticket's order
	NotBefore int64    `json:"nbf"`     // Unix time, s
	Expires   int64    `json:"exp"`     // Unix time, s; not valid any more from then on
}

// SignTicket signs claims by key, whose leaf certificate (DER) the CA issued.
// Ed25519 has no randomness: equal claims give equal bytes on every replica.
func SignTicket(key ed25519.PrivateKey, leafDER []byte, caDER []byte, claims TicketClaims) (string, error) {
	if claims.Entries == nil {
		claims.Entries = []string{} // a group without events; null is refused
	}
	payload, err := encodeJSON(claims)
	if err != nil {
		return "", err
	}
	chain := []string{base64.StdEncoding.EncodeToString(leafDER), base64.StdEncoding.EncodeToString(caDER)}
	options := (&jose.SignerOptions{}).WithType(ticketType).WithHeader("x5c", chain)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: ticketAlg, Key: key}, options)
	if err != nil {
		return "", fmt.Errorf("sign ticket of group %q: %w", claims.Group, err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign ticket of group %q: %w", claims.Group, err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("sign ticket of group %q: %w", claims.Group, err)
	}
	if len(compact) > MaxCertificate {
		return "", fmt.Errorf("%w: certificate of group %q has %d bytes", ErrTooBig, claims.Group, len(compact))
	}
	return compact, nil
}

// VerifyCertificate checks form, chain, signature and validity. The error wraps
// ErrTooBig, ErrMalformed, ErrOtherServer, ErrNotTicketSigner, ErrBadSignature,
// ErrNotYetValid or ErrExpired.
func VerifyCertificate(jws string, roots *x509.CertPool, now time.Time) (*TicketClaims, error) {
	claims, err := verifySignature(jws, roots)
	if err != nil {
		return nil, err
	}
	switch {
	case now.Unix() < claims.NotBefore:
		return nil, fmt.Errorf("%w: from %s on", ErrNotYetValid, time.Unix(claims.NotBefore, 0).UTC().Format(time.RFC3339))
	case now.Unix() >= claims.Expires:
		return nil, fmt.Errorf("%w: at %s", ErrExpired, time.Unix(claims.Expires, 0).UTC().Format(time.RFC3339))
	}
	return claims, nil
}

type ticketHeader struct {
	Alg string   `json:"alg"`
	Typ string   `json:"typ"`
	X5C []string `json:"x5c"`
}

// verifySignature checks all but the validity in time. The chain is looked at
// as of the beginning of the claims' validity: a leaf that ran out since takes
// nothing from what it signed before.
func verifySignature(jws string, roots *x509.CertPool) (*TicketClaims, error) {
	if len(jws) > MaxCertificate {
		return nil, fmt.Errorf("%w: certificate of %d bytes, at most %d", ErrTooBig, len(jws), MaxCertificate)
	}
	chain, claims, err := splitJWS(jws)
	if err != nil {
		return nil, err
	}
	leaf, err := verifyChain(chain, roots, time.Unix(claims.NotBefore, 0))
	if err != nil {
		return nil, err
	}
	key, isEd25519 := leaf.PublicKey.(ed25519.PublicKey)
	if !isEd25519 {
		return nil, fmt.Errorf("%w: its key is not Ed25519", ErrNotTicketSigner)
	}
	parsed, err := jose.ParseSignedCompact(jws, []jose.SignatureAlgorithm{ticketAlg})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := parsed.Verify(key); err != nil {
		return nil, ErrBadSignature
	}
	return claims, nil
}

// splitJWS reads header and payload, not trusted yet. Every part must be in
// canonical base64url: else a bit could be changed that no decoder sees.
func splitJWS(jws string) ([]*x509.Certificate, *TicketClaims, error) {
	parts := strings.Split(jws, ".")
	if len(parts) != 3 {
		return nil, nil, fmt.Errorf("%w: %d parts, not 3", ErrMalformed, len(parts))
	}
	var raw [3][]byte
	for i, p := range parts {
		b, err := decodeBase64URL(p)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: part %d: %w", ErrMalformed, i+1, err)
		}
		raw[i] = b
	}
	if len(raw[0]) > maxHeader {
		return nil, nil, fmt.Errorf("%w: header of %d bytes", ErrTooBig, len(raw[0]))
	}
	if len(raw[2]) != ed25519.SignatureSize {
		return nil, nil, fmt.Errorf("%w: signature of %d bytes", ErrMalformed, len(raw[2]))
	}
	var header ticketHeader
	if err := DecodeStrict(raw[0], &header); err != nil {
		return nil, nil, fmt.Errorf("%w: header: %w", ErrMalformed, err)
	}
	if header.Alg != string(ticketAlg) || header.Typ != ticketType {
		return nil, nil, fmt.Errorf("%w: alg %q and typ %q, not %q and %q", ErrMalformed, header.Alg, header.Typ, ticketAlg, ticketType)
	}
	chain, err := parseChain(header.X5C)
	if err != nil {
		return nil, nil, err
	}
	claims := new(TicketClaims)
	if err := DecodeStrict(raw[1], claims); err != nil {
		return nil, nil, fmt.Errorf("%w: payload: %w", ErrMalformed, err)
	}
	if claims.Group == "" || claims.NotBefore <= 0 || claims.Expires <= claims.NotBefore {
		return nil, nil, fmt.Errorf("%w: group or validity is missing", ErrMalformed)
	}
	return chain, claims, nil
}

func parseChain(x5c []string) ([]*x509.Certificate, error) {
	if len(x5c) == 0 || len(x5c) > maxChain {
		return nil, fmt.Errorf("%w: x5c of %d certificates, not 1 to %d", ErrMalformed, len(x5c), maxChain)
	}
	chain := make([]*x509.Certificate, 0, len(x5c))
	for i, text := range x5c {
		der, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("%w: x5c %d: %w", ErrMalformed, i+1, err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: x5c %d: %w", ErrMalformed, i+1, err)
		}
		chain = append(chain, c)
	}
	return chain, nil
}

// verifyChain returns the leaf if it stands under roots and may sign tickets.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, at time.Time) (*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	leaf := chain[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		if invalid, is := errors.AsType[x509.CertificateInvalidError](err); is && invalid.Reason == x509.Expired {
			return nil, fmt.Errorf("%w: %w", ErrNotTicketSigner, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrOtherServer, err)
	}
	if leaf.IsCA || !slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == TicketSignerURI }) {
		return nil, fmt.Errorf("%w: %s", ErrNotTicketSigner, leaf.Subject)
	}
	return leaf, nil
}
