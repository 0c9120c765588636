package key

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

var errCertificate = errors.New("client certificate refused")

// clientURI begins the URI name of a client's certificate: "usher:client:41".
const clientURI = "usher:client:"

// client is what a certificate proves.
type client struct {
	number uint32
	until  time.Time // the certificate's end
}

// TLSConfig is the role's side of mutual TLS 1.3. There are no session tickets:
// a resumed connection would skip the look at the certificate (docs/keying.md §4).
func (s *Server) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              s.config.Roots,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
		Time:                   func() time.Time { return s.clock.now().time() },
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.config.Certificate() },
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := identify(&state, s.clock.now().time())
			return err
		},
	}
}

// identify reads the client out of a connection. It is asked at the handshake
// and again at each request: a certificate may end in between.
func identify(state *tls.ConnectionState, now time.Time) (client, error) {
	switch {
	case state == nil || len(state.PeerCertificates) == 0:
		return client{}, fmt.Errorf("%w: there is none", errCertificate)
	case state.DidResume:
		return client{}, fmt.Errorf("%w: the session was resumed", errCertificate)
	case state.Version != tls.VersionTLS13:
		return client{}, fmt.Errorf("%w: not TLS 1.3", errCertificate)
	case !slices.ContainsFunc(state.VerifiedChains, func(chain []*x509.Certificate) bool { return validAt(chain, now) }):
		return client{}, fmt.Errorf("%w: it has ended, has not begun, or is of another CA", errCertificate)
	}
	leaf := state.PeerCertificates[0]
	if leaf.IsCA || len(leaf.URIs) != 1 {
		return client{}, fmt.Errorf("%w: it names no client", errCertificate)
	}
	text, isClient := strings.CutPrefix(leaf.URIs[0].String(), clientURI)
	number, err := strconv.ParseUint(text, 10, 32)
	if !isClient || err != nil || strconv.FormatUint(number, 10) != text {
		return client{}, fmt.Errorf("%w: it names no client", errCertificate)
	}
	return client{number: uint32(number), until: leaf.NotAfter}, nil
}

func validAt(chain []*x509.Certificate, now time.Time) bool {
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		return now.Before(c.NotBefore) || now.After(c.NotAfter)
	})
}
