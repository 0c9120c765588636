package ticket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"usher/server/store"
)

// Bounds of the role. A hash takes 19 MiB, so loginsAtOnce bounds the memory of
// a login flood at 76 MiB.
const (
	loginsAtOnce   = 4
	loginsWaiting  = 256
	maxConnections = 4096
	stopPatience   = 5 * time.Second
)

// Config is what the role needs.
type Config struct {
	Store store.Store
	// Dir is the state folder with the CA's files and the ticket signer's.
	Dir       string
	Authority *Authority
	// Certificate is the role's TLS certificate (Leaf.Certificate).
	Certificate func() (*tls.Certificate, error)
	// Validity is how long a ticket is valid; it is renewed at half of it.
	Validity time.Duration
	Log      *slog.Logger
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time
}

// Server is the ticket role.
type Server struct {
	store       store.Store
	auth        *Authority
	issuer      *Issuer
	checker     *checker
	certificate func() (*tls.Certificate, error)
	log         *slog.Logger
	now         func() time.Time
}

// New makes the role.
func New(c Config) (*Server, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Validity < time.Minute {
		return nil, fmt.Errorf("ticket: a validity of %s: at least a minute", c.Validity)
	}
	checker, err := newChecker(loginsAtOnce, loginsWaiting)
	if err != nil {
		return nil, err
	}
	return &Server{
		store: c.Store, auth: c.Authority, issuer: NewIssuer(c.Dir, c.Authority, c.Validity), checker: checker,
		certificate: c.Certificate, log: c.Log, now: c.Now,
	}, nil
}

// TLSConfig asks for a client certificate and takes none for an answer: login
// needs no other proof than the password. Resumption is off: it would skip the
// look at a certificate that ended since.
func (s *Server) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.certificate()
		},
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: Pool(s.auth.cert),
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
		Time:                   s.now,
	}
}

// Serve answers on a listener until ctx ends; requests under way get a few
// seconds then.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes of strangers
	}
	ended := make(chan error, 1)
	go func() {
		ended <- srv.Serve(tls.NewListener(netutil.LimitListener(listener, maxConnections), s.TLSConfig()))
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
