package key

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server/store"
)

// TestTLSRefused is attack test 27: who comes without a certificate, with one
// that has ended, of another CA, of another kind, with TLS 1.2 or a resumed
// session gets no connection.
func TestTLSRefused(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	e := l.addEvent(l.newEvent(5 * time.Second))
	l.start()
	base := l.serve()
	good := l.ca.client(t, alice, testStart.Add(12*time.Hour))
	foreign := newAuthority(t).client(t, alice, testStart.Add(12*time.Hour))
	odd := func(template *x509.Certificate) tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{l.ca.issue(t, template, key.Public())}, PrivateKey: key}
	}
	auth := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for name, config := range map[string]*tls.Config{
		"no certificate":       {},
		"expired":              {Certificates: []tls.Certificate{l.ca.client(t, alice, testStart.Add(-time.Second))}},
		"another CA's":         {Certificates: []tls.Certificate{foreign}},
		"server's certificate": {Certificates: []tls.Certificate{*l.ca.server(t)}},
		"ticket signer's":      {Certificates: []tls.Certificate{{Certificate: [][]byte{l.ca.leaf}, PrivateKey: l.ca.signer}}},
		"the CA itself":        {Certificates: []tls.Certificate{{Certificate: [][]byte{l.ca.der}, PrivateKey: l.ca.key}}},
		"without a number":     {Certificates: []tls.Certificate{odd(&x509.Certificate{Subject: pkix.Name{CommonName: "client 1"}, ExtKeyUsage: auth})}},
		"with two numbers": {Certificates: []tls.Certificate{odd(&x509.Certificate{ExtKeyUsage: auth,
			URIs: []*url.URL{{Scheme: "usher", Opaque: "client:1"}, {Scheme: "usher", Opaque: "client:2"}}})}},
		"with a crooked number": {Certificates: []tls.Certificate{odd(&x509.Certificate{ExtKeyUsage: auth, URIs: []*url.URL{{Scheme: "usher", Opaque: "client:01"}}})}},
		"TLS 1.2":               {Certificates: []tls.Certificate{good}, MaxVersion: tls.VersionTLS12},
	} {
		if _, _, err := l.viewerWith(base, alice, config).enrol(l.ask(e, wire.RoleReceive)); err == nil {
			t.Errorf("%s: enrolled", name)
		} else if isProblem(err, 400, wire.CodeBadRequest) {
			t.Errorf("%s: got as far as HTTP: %v", name, err)
		}
	}

	// The cache stays empty: there are no tickets to resume with.
	cache := &countingCache{}
	v := l.viewerWith(base, alice, &tls.Config{Certificates: []tls.Certificate{good}, ClientSessionCache: cache})
	v.mustEnrol(l.ask(e, wire.RoleReceive))
	v.http.CloseIdleConnections()
	v.mustEnrol(l.ask(e, wire.RoleReceive))
	if cache.put != 0 || cache.got == 0 {
		t.Errorf("%d session tickets handed out; asked for %d times", cache.put, cache.got)
	}
	resumed := tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true, PeerCertificates: []*x509.Certificate{{}}}
	if _, err := identify(&resumed, testStart); err == nil || !strings.Contains(err.Error(), "resumed") {
		t.Errorf("resumed: %v", err)
	}
	if _, err := identify(nil, testStart); err == nil {
		t.Error("identified without TLS")
	}
}

type countingCache struct{ put, got int }

func (c *countingCache) Get(string) (*tls.ClientSessionState, bool) { c.got++; return nil, false }
func (c *countingCache) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.put++
	}
}

// TestMidConnection is the rest of attack test 27: on one kept connection a
// client is suspended, restored, and its certificate ends; each counts at the
// next request.
func TestMidConnection(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	e := l.newEvent(5 * time.Second)
	e.Time.Duration = "PT2H"
	e = l.addEvent(e)
	l.start()
	base := l.serve()
	dials := 0
	v := l.viewerWith(base, alice, &tls.Config{Certificates: []tls.Certificate{l.ca.client(t, alice, testStart.Add(time.Minute))}})
	v.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials++
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	v.mustEnrol(l.ask(e, wire.RoleReceive))
	l.suspend(alice)
	if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); !isProblem(err, 403, wire.CodeWithheld) {
		t.Errorf("enrolment of a suspended client: %v", err)
	}
	l.goTo(8 * time.Second)
	if b := v.refresh(1); b.Status != uint8(schedule.StatusWithheld) || len(b.Records) != 0 {
		t.Errorf("refresh of a suspended client: %v", schedule.Status(b.Status))
	}
	l.restore(alice)
	l.goTo(13 * time.Second)
	if b := v.refresh(1); b.Status != 0 || len(b.Records) != 1 {
		t.Errorf("refresh of a restored client: %v", schedule.Status(b.Status))
	}
	if dials != 1 {
		t.Fatalf("%d connections; the test is about one", dials)
	}
	l.goTo(61 * time.Second)
	raw, _, _ := v.request(1)
	for path, body := range map[string][]byte{wire.PathRefresh: raw, wire.PathEnrol: []byte("{}")} {
		res, answer, err := v.post(path, "application/octet-stream", body)
		if err != nil || res.StatusCode != http.StatusUnauthorized || dials != 1 {
			t.Errorf("%s after the certificate's end, on connection %d: %v, %s, %v", path, dials, res, answer, err)
		}
	}
	v.http.CloseIdleConnections()
	if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); err == nil || isProblem(err, 401, wire.CodeBadLogin) {
		t.Errorf("a new connection with an ended certificate: %v", err)
	}
}

// TestBodies: what is no request gets 4xx, and the server serves on.
func TestBodies(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	e := l.addEvent(l.newEvent(5 * time.Second))
	l.start()
	base := l.serve()
	v := l.viewer(base, alice)
	for _, c := range []struct {
		path   string
		body   []byte
		status int
	}{
		{wire.PathEnrol, nil, 400},
		{wire.PathEnrol, []byte(`{"versions":[1]} {}`), 400},
		{wire.PathEnrol, []byte(`{"VERSIONS":[1]}`), 400},
		{wire.PathEnrol, bytes.Repeat([]byte("["), 100_000), 400},
		{wire.PathEnrol, make([]byte, wire.MaxEnrolRequest+1), 413},
		{wire.PathRefresh, nil, 400},
		{wire.PathRefresh, make([]byte, 208), 400},
		{wire.PathRefresh, make([]byte, wire.MaxDatagram+1), 413},
		{"/v1/other", nil, 404},
	} {
		res, answer, err := v.post(c.path, "application/json", c.body)
		if err != nil || res.StatusCode != c.status {
			t.Errorf("%s with %d bytes: %v, %s, %v; want %d", c.path, len(c.body), res, answer, err, c.status)
		}
	}
	if res, err := v.http.Get(base + wire.PathEnrol); err != nil || res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v, %v", res, err)
	}
	v.mustEnrol(l.ask(e, wire.RoleReceive))
}

// TestBounds: handshakes that stand still take their places and no more; above
// the bounds a connection is closed at once; a place that is free again is used.
func TestBounds(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	e := l.addEvent(l.newEvent(5 * time.Second))
	l.config.Handshakes, l.config.Connections = 2, 4
	l.start()
	base := l.serve()
	address := strings.TrimPrefix(base, "https://")

	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// closed tells whether the server closes the connection, within a deadline
	// that a slow machine may have too.
	closed := func(c net.Conn, within time.Duration) bool {
		c.SetReadDeadline(time.Now().Add(within)) //nolint:errcheck // a failure shows below
		_, err := c.Read(make([]byte, 1))
		return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	}
	silent := []net.Conn{dial(), dial()}
	if !closed(dial(), 3*time.Second) {
		t.Error("a third handshake is not refused at once")
	}
	for _, c := range silent {
		if closed(c, 10*time.Millisecond) {
			t.Error("a handshake within the bound was refused")
		}
		c.Close()
	}
	// The places come free as soon as the server sees that the peers went.
	deadline := time.Now().Add(5 * time.Second)
	for {
		v := l.viewer(base, alice)
		if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("no connection after the silent ones went: %v", err)
		}
	}
	// Open connections: the one kept above, and three more.
	var kept []*viewer
	for range 3 {
		v := l.viewer(base, alice)
		if _, _, err := v.enrol(l.ask(e, wire.RoleReceive)); err != nil {
			t.Fatalf("connection %d: %v", len(kept)+2, err)
		}
		kept = append(kept, v)
	}
	if !closed(dial(), 3*time.Second) {
		t.Error("a fifth connection is not refused at once")
	}
	kept[0].http.CloseIdleConnections()
	deadline = time.Now().Add(5 * time.Second)
	for closed(dial(), 20*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the place of a closed connection does not come free")
		}
	}
}

// TestRun: the running server sees a suspension by itself, and ends with its
// context.
func TestRun(t *testing.T) {
	l, v, _ := enrolled(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.server.Run(ctx) }()
	if _, err := l.store.Update(t.Context(), func(tx store.Tx) error {
		return tx.Suspend(t.Context(), v.number, store.SourceOperator, "test")
	}); err != nil {
		t.Fatal(err)
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.After(10 * time.Second); v.refresh(0).Status != uint8(schedule.StatusWithheld); {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatal("the suspension is not seen")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestConfig: what is missing or out of range is named.
func TestConfig(t *testing.T) {
	l := newLab(t)
	for field, change := range map[string]func(*Config){
		"Store":            func(c *Config) { c.Store = nil },
		"Clock":            func(c *Config) { c.Clock.Wall = nil },
		"Log":              func(c *Config) { c.Log = nil },
		"MasterKeyFile":    func(c *Config) { c.MasterKeyFile = "" },
		"RatchetFile":      func(c *Config) { c.RatchetFile = "" },
		"Roots":            func(c *Config) { c.Roots = nil },
		"Certificate":      func(c *Config) { c.Certificate = nil },
		"RefreshAddresses": func(c *Config) { c.RefreshAddresses = []string{"127.0.0.1:7441"} },
		"Poll":             func(c *Config) { c.Poll = time.Second },
		"Stale":            func(c *Config) { c.Stale = -1 },
	} {
		c := l.config
		change(&c)
		if _, err := New(t.Context(), c); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	l.start()
	if _, err := New(t.Context(), l.config); !errors.Is(err, ErrRatchetInUse) {
		t.Errorf("two servers on one ratchet: %v", err)
	}
}
