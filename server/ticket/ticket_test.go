package ticket_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/server/group"
	"usher/server/store"
	"usher/server/store/sqlite"
	"usher/server/ticket"
)

// moment is a clock that the test moves.
type moment struct {
	mu  sync.Mutex
	now time.Time
}

func (m *moment) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *moment) Set(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = t
}

// rig is a ticket role on loopback with a store and a CA of its own.
type rig struct {
	t     *testing.T
	dir   string
	clock *moment
	store store.Store
	auth  *ticket.Authority
	role  *ticket.Server
	url   string
	stop  func()
	logs  *logBuffer
}

// logBuffer may be read while the role still writes.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newRig(t *testing.T) *rig { return newRigAt(t, time.Now()) }

func newRigAt(t *testing.T, now time.Time) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), clock: &moment{now: now}, logs: new(logBuffer), stop: func() {}}
	s, err := sqlite.Open(t.Context(), filepath.Join(r.dir, "usher.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) //nolint:errcheck // the test is over
	r.store = s
	if r.auth, err = ticket.CreateAuthority(r.dir, r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	r.start()
	return r
}

// start makes the role anew over the same files, as a restart does.
func (r *rig) start() {
	r.t.Helper()
	leaf, err := ticket.NewLeaf(r.dir, "tls-ticket", []string{"127.0.0.1"}, r.auth.Certificate(), r.auth, r.clock.Now)
	if err != nil {
		r.t.Fatal(err)
	}
	r.role, err = ticket.New(ticket.Config{Store: r.store, Dir: r.dir, Authority: r.auth, Certificate: leaf.Certificate,
		Validity: 24 * time.Hour, Log: slog.New(slog.NewTextHandler(r.logs, nil)), Now: r.clock.Now})
	if err != nil {
		r.t.Fatal(err)
	}
	r.stop()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.role.Serve(ctx, listener) }()
	r.url = "https://" + listener.Addr().String()
	t := r.t
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(r.stop)
}

func (r *rig) update(f func(tx store.Tx) error) {
	r.t.Helper()
	if _, err := r.store.Update(r.t.Context(), f); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) addGroup(name string, parents ...string) store.Group {
	r.t.Helper()
	var g store.Group
	r.update(func(tx store.Tx) (err error) {
		if g, err = tx.AddGroup(r.t.Context(), name); err != nil {
			return err
		}
		for _, p := range parents {
			if err := group.Link(r.t.Context(), tx, p, name); err != nil {
				return err
			}
		}
		return nil
	})
	return g
}

func (r *rig) addClient(name, password string, groups ...store.Group) store.Client {
	r.t.Helper()
	hash, err := ticket.HashPassword(password)
	if err != nil {
		r.t.Fatal(err)
	}
	var numbers []uint32
	for _, g := range groups {
		numbers = append(numbers, g.Number)
	}
	var c store.Client
	r.update(func(tx store.Tx) (err error) {
		c, err = tx.AddClient(r.t.Context(), name, hash, numbers)
		return err
	})
	return c
}

func (r *rig) addEvent(title string, g store.Group) store.Event {
	r.t.Helper()
	e := store.Event{
		ID: derive.NewEventID(), Group: g.Number, Title: title, Senders: []netip.Addr{netip.MustParseAddr("10.0.0.2")},
		Flows:      []store.Flow{{Protocol: "udp", Destination: netip.MustParseAddr("232.1.2.3"), FirstPort: 5004, LastPort: 5005}},
		Time:       store.TimeExpression{Start: "20261125T200000Z", Duration: "PT1H"},
		TTL:        16,
		KeyServers: []string{"https://127.0.0.1:7441"}, InitialMS: 300_000, FirstMS: 5000, IntervalMS: 5000, WindowMS: 5000,
		Ahead: 1, Transform: derive.TransformAES256GCM, Spread: "fixed", Revocation: "withhold", Method: wire.RefreshPull,
	}
	r.update(func(tx store.Tx) error { return tx.AddEvent(r.t.Context(), e) })
	return e
}

// device is one client's machine.
type device struct {
	rig  *rig
	key  *ecdsa.PrivateKey
	cert []byte
}

func (r *rig) device() *device {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	return &device{rig: r, key: key}
}

func (d *device) csr() []byte {
	d.rig.t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, d.key)
	if err != nil {
		d.rig.t.Fatal(err)
	}
	return csr
}

// do sends a request over a connection of its own.
func (d *device) do(method, path string, body any, header http.Header) (*http.Response, []byte, error) {
	d.rig.t.Helper()
	config := &tls.Config{RootCAs: ticket.Pool(d.rig.auth.Certificate()), Time: d.rig.clock.Now}
	if d.cert != nil {
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{d.cert}, PrivateKey: d.key}}
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			d.rig.t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(d.rig.t.Context(), method, d.rig.url+path, content)
	if err != nil {
		d.rig.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	data, err := io.ReadAll(res.Body)
	return res, data, err
}

// login must work.
func (d *device) login(name, password string) wire.LoginAnswer {
	d.rig.t.Helper()
	res, data, err := d.do(http.MethodPost, wire.PathLogin, wire.LoginRequest{Name: name, Password: password, CSR: d.csr()}, nil)
	if err != nil || res.StatusCode != http.StatusOK {
		d.rig.t.Fatalf("login: %v %s", err, data)
	}
	var a wire.LoginAnswer
	if err := wire.DecodeStrict(data, &a); err != nil {
		d.rig.t.Fatal(err)
	}
	d.cert = a.Certificate
	return a
}

// tickets must work.
func (d *device) tickets() (wire.TicketsAnswer, string) {
	d.rig.t.Helper()
	res, data, err := d.do(http.MethodGet, wire.PathTickets, nil, nil)
	if err != nil || res.StatusCode != http.StatusOK {
		d.rig.t.Fatalf("tickets: %v %s", err, data)
	}
	var a wire.TicketsAnswer
	if err := wire.DecodeStrict(data, &a); err != nil {
		d.rig.t.Fatal(err)
	}
	return a, res.Header.Get("ETag")
}

// shutOut asks for tickets and tells whether there was no way to them: no
// handshake, or 401 (a TLS client keeps back what the server's CA did not sign).
func (d *device) shutOut() bool {
	d.rig.t.Helper()
	res, _, err := d.do(http.MethodGet, wire.PathTickets, nil, nil)
	return err != nil || res.StatusCode == http.StatusUnauthorized
}

// refused must be answered by a problem.
func (d *device) refused(status int, code, method, path string, body any) {
	d.rig.t.Helper()
	res, data, err := d.do(method, path, body, nil)
	if err != nil {
		d.rig.t.Fatal(err)
	}
	var p wire.Problem
	if res.StatusCode != status || res.Header.Get("Content-Type") != wire.ContentTypeProblem {
		d.rig.t.Fatalf("%s %s: %s %s", method, path, res.Status, data)
	}
	if err := json.Unmarshal(data, &p); err != nil || p.Code != code || p.Status != status || p.Detail == "" {
		d.rig.t.Errorf("%s %s: %+v, %v", method, path, p, err)
	}
}

func TestLogin(t *testing.T) {
	r := newRig(t)
	r.addClient("bob", "other")
	alice := r.addClient("alice", "secret-of-alice")
	d := r.device()
	a := d.login("alice", "secret-of-alice")
	if a.Number != alice.Number || a.ServerTimeUS != uint64(r.clock.Now().UnixMicro()) {
		t.Errorf("answer %+v", a)
	}
	cert, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	now := r.clock.Now()
	if n, err := ticket.ClientNumber(cert); n != alice.Number || err != nil || cert.Subject.CommonName != "client 2" || cert.URIs[0].String() != "usher:client:2" {
		t.Errorf("certificate of %v %v: %d, %v", cert.Subject, cert.URIs, n, err)
	}
	if life := cert.NotAfter.Sub(now); life > 24*time.Hour || life < 23*time.Hour || now.Sub(cert.NotBefore) < 5*time.Minute {
		t.Errorf("lives from %s to %s", cert.NotBefore, cert.NotAfter)
	}
	if !d.key.PublicKey.Equal(cert.PublicKey) {
		t.Error("the certificate is over another key")
	}
	if logs := r.logs.String(); strings.Contains(logs, "secret-of-alice") || !strings.Contains(logs, "client logged in") || !strings.Contains(logs, "name=alice") {
		t.Errorf("log: %s", logs)
	}
}

func TestLoginRefused(t *testing.T) {
	r := newRig(t)
	r.addClient("alice", "right")
	d := r.device()
	otherKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	forged := d.csr()
	forged[len(forged)-1] ^= 1
	const bad, unauthorized = http.StatusBadRequest, http.StatusUnauthorized
	for _, tt := range []struct {
		name   string
		status int
		code   string
		body   any
	}{
		{"wrong password", unauthorized, wire.CodeBadLogin, wire.LoginRequest{Name: "alice", Password: "wrong", CSR: d.csr()}},
		{"unknown name", unauthorized, wire.CodeBadLogin, wire.LoginRequest{Name: "mallory", Password: "right", CSR: d.csr()}},
		{"other case", unauthorized, wire.CodeBadLogin, wire.LoginRequest{Name: "Alice", Password: "right", CSR: d.csr()}},
		{"no password", unauthorized, wire.CodeBadLogin, wire.LoginRequest{Name: "alice", CSR: d.csr()}},
		{"long password", unauthorized, wire.CodeBadLogin, wire.LoginRequest{Name: "alice", Password: strings.Repeat("x", 5000), CSR: d.csr()}},
		{"other curve", bad, wire.CodeBadRequest, wire.LoginRequest{Name: "alice", Password: "right", CSR: p384}},
		{"forged request", bad, wire.CodeBadRequest, wire.LoginRequest{Name: "alice", Password: "right", CSR: forged}},
		{"no request", bad, wire.CodeBadRequest, wire.LoginRequest{Name: "alice", Password: "right"}},
		{"garbage", bad, wire.CodeBadRequest, "garbage"},
		{"unknown field", bad, wire.CodeBadRequest, `{"name":"alice","password":"right","csr":"","admin":true}`},
		{"twice", bad, wire.CodeBadRequest, `{"name":"bob","name":"alice","password":"right","csr":""}`},
		{"too long", bad, wire.CodeBadRequest, `{"name":"` + strings.Repeat("x", wire.MaxLoginMessage) + `"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.rig.t = t
			d.refused(tt.status, tt.code, http.MethodPost, wire.PathLogin, tt.body)
		})
	}
	r.t = t
	d.refused(unauthorized, wire.CodeBadLogin, http.MethodPost, wire.PathRenew, wire.RenewRequest{CSR: d.csr()})
	d.refused(unauthorized, wire.CodeBadLogin, http.MethodGet, wire.PathTickets, nil)
	if logs := r.logs.String(); strings.Contains(logs, "right") || strings.Contains(logs, "wrong") {
		t.Errorf("a password is in the log: %s", logs)
	}
	d.login("alice", "right") // the role serves on
}

func TestRenew(t *testing.T) {
	r := newRig(t)
	r.addClient("alice", "x")
	d := r.device()
	first := d.login("alice", "x")
	r.clock.Set(r.clock.Now().Add(23 * time.Hour))
	r.start() // its TLS certificate has run out, too
	res, data, err := d.do(http.MethodPost, wire.PathRenew, wire.RenewRequest{CSR: d.csr()}, nil)
	var a wire.LoginAnswer
	if err != nil || res.StatusCode != http.StatusOK || wire.DecodeStrict(data, &a) != nil || a.Number != first.Number {
		t.Fatalf("renew: %v %s", err, data)
	}
	old := r.device()
	old.key, old.cert = d.key, first.Certificate
	d.cert = a.Certificate
	r.clock.Set(r.clock.Now().Add(2 * time.Hour))
	d.tickets()
	if !old.shutOut() {
		t.Error("a certificate that has ended was taken")
	}
}

// TestOtherCertificates: who shows what our CA did not make for clients gets
// nothing.
func TestOtherCertificates(t *testing.T) {
	r := newRig(t)
	r.addClient("alice", "x")
	other := newRig(t)
	other.addClient("alice", "x")
	stranger := other.device()
	stranger.login("alice", "x")
	d := r.device()
	d.key, d.cert = stranger.key, stranger.cert
	if !d.shutOut() {
		t.Error("a certificate of another CA was taken")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(r.dir, "tls-ticket.pem"), filepath.Join(r.dir, "tls-ticket.key"))
	if err != nil {
		t.Fatal(err)
	}
	d.key, d.cert = pair.PrivateKey.(*ecdsa.PrivateKey), pair.Certificate[0]
	if !d.shutOut() {
		t.Error("the server's own certificate was taken for a client's")
	}
}

// TestTickets: one a group, the events of the group and all its ancestors once
// each, byte-identical for all clients and at all times of one validity; what
// the store gains is in the next ticket.
func TestTickets(t *testing.T) {
	r := newRigAt(t, time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC))
	root, left := r.addGroup("root"), r.addGroup("left", "root")
	right := r.addGroup("right", "root")
	leaf := r.addGroup("leaf", "left", "right")
	e1, e2, e3 := r.addEvent("at the root", root), r.addEvent("left", left), r.addEvent("leaf", leaf)
	r.addEvent("right", right)
	alice := r.addClient("alice", "a", leaf, left)
	r.addClient("bob", "b", leaf)
	r.update(func(tx store.Tx) error {
		return errors.Join(
			tx.Associate(t.Context(), store.Association{Event: e2.ID, Client: alice.Number, Role: store.RoleSend}),
			tx.Suspend(t.Context(), alice.Number, store.SourceOperator, "a suspended client logs in all the same"))
	})
	a, b := r.device(), r.device()
	a.login("alice", "a")
	b.login("bob", "b")
	of, etag := a.tickets()
	if len(of.Tickets) != 2 || of.Tickets[0].Group != "left" || of.Tickets[1].Group != "leaf" {
		t.Fatalf("alice has %+v", of.Tickets)
	}
	if len(of.Sends) != 1 || of.Sends[0] != e2.ID {
		t.Errorf("alice sends %v", of.Sends)
	}
	roots := ticket.Pool(r.auth.Certificate())
	if got := titles(t, of.Tickets[1], roots, r.clock.Now()); got != "at the root|left|leaf|right" {
		t.Errorf("leaf's ticket lists %s", got)
	}
	if got := titles(t, of.Tickets[0], roots, r.clock.Now()); got != "at the root|left" {
		t.Errorf("left's ticket lists %s", got)
	}
	first := of.Tickets[1].Encode()
	r.clock.Set(r.clock.Now().Add(7 * time.Hour))
	r.start()
	ofBob, etagBob := b.tickets()
	if len(ofBob.Tickets) != 1 || !bytes.Equal(ofBob.Tickets[0].Encode(), first) || len(ofBob.Sends) != 0 {
		t.Error("bob's ticket, hours later and after a restart, is another one")
	}
	if again, etag2 := a.tickets(); etag2 != etag || len(again.Tickets) != 2 || etag == etagBob {
		t.Errorf("ETags %s, %s, bob's %s", etag, etag2, etagBob)
	}
	res, data, err := a.do(http.MethodGet, wire.PathTickets, nil, http.Header{"If-None-Match": {`"x", W/` + etag}})
	if err != nil || res.StatusCode != http.StatusNotModified || len(data) != 0 {
		t.Errorf("unchanged: %v %v", res, err)
	}

	r.update(func(tx store.Tx) error { return tx.DeleteEvent(t.Context(), e1.ID) })
	e3.Title = "renamed"
	r.update(func(tx store.Tx) error { return tx.UpdateEvent(t.Context(), e3) })
	ofBob, _ = b.tickets()
	if got := titles(t, ofBob.Tickets[0], roots, r.clock.Now()); got != "left|renamed|right" {
		t.Errorf("after the change bob's ticket lists %s", got)
	}
	r.update(func(tx store.Tx) error { return group.Unlink(t.Context(), tx, "right", "leaf") })
	ofBob, _ = b.tickets()
	if got := titles(t, ofBob.Tickets[0], roots, r.clock.Now()); got != "left|renamed" {
		t.Errorf("after the arrow went bob's ticket lists %s", got)
	}
	unchanged := ofBob.Tickets[0].Certificate
	r.clock.Set(time.Date(2026, 11, 25, 12, 0, 1, 0, time.UTC))
	ofBob, _ = b.tickets()
	if ofBob.Tickets[0].Certificate == unchanged {
		t.Error("the validity was not renewed at noon")
	}
	_, claims, err := ofBob.Tickets[0].Verify(roots, r.clock.Now())
	if err != nil || claims.Expires != time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC).Unix() {
		t.Errorf("claims %+v, %v", claims, err)
	}
	r.update(func(tx store.Tx) error { return tx.Leave(t.Context(), alice.Number, left.Number) })
	r.update(func(tx store.Tx) error { return tx.Leave(t.Context(), alice.Number, leaf.Number) })
	if of, _ := a.tickets(); len(of.Tickets) != 0 || len(of.Sends) != 0 {
		t.Errorf("out of all groups alice has %+v", of)
	}
}

// titles verifies a ticket and lists what is in it.
func titles(t *testing.T, tk wire.Ticket, roots *x509.CertPool, now time.Time) string {
	t.Helper()
	entries, claims, err := tk.Verify(roots, now)
	if err != nil || claims.Group != tk.Group {
		t.Fatalf("ticket of %s: %v", tk.Group, err)
	}
	var list []string
	for _, e := range entries {
		if err := e.Unsupported(); err != nil {
			t.Error(err)
		}
		list = append(list, e.Title)
	}
	return strings.Join(list, "|")
}

// TestSignerRenewed: the signing leaf changes in its last third, and only as a
// validity begins; what the old one signed stays good.
func TestSignerRenewed(t *testing.T) {
	r := newRig(t)
	g := r.addGroup("g")
	r.addEvent("e", g)
	r.addClient("alice", "a", g)
	issuer := ticket.NewIssuer(r.dir, r.auth, 24*time.Hour)
	get := func(now time.Time) (tk *wire.Ticket) {
		t.Helper()
		err := r.store.View(t.Context(), func(read store.Reader) (err error) {
			tk, err = issuer.Ticket(t.Context(), read, g.Number, now)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := tk.Verify(ticket.Pool(r.auth.Certificate()), now); err != nil {
			t.Fatalf("%s: %v", now, err)
		}
		return tk
	}
	start := r.clock.Now()
	get(start)
	pem := func() string {
		b, err := os.ReadFile(filepath.Join(r.dir, "ticket.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := pem()
	get(start.Add(200 * 24 * time.Hour))
	if pem() != first {
		t.Error("renewed in the middle of its life")
	}
	late := start.Add(300 * 24 * time.Hour)
	a := get(late)
	if pem() == first {
		t.Error("not renewed near its end")
	}
	second := pem()
	issuer = ticket.NewIssuer(r.dir, r.auth, 24*time.Hour)
	if b := get(late.Add(time.Second)); b.Certificate != a.Certificate || pem() != second {
		t.Error("a restart changed the ticket within its validity")
	}
	for week := range 3 * 52 { // the server is asked once a week for three years
		get(late.Add(time.Duration(week) * 7 * 24 * time.Hour))
	}
	get(start) // and its clock is put right
}

func TestAuthority(t *testing.T) {
	dir := t.TempDir()
	if _, err := ticket.OpenAuthority(dir); !errors.Is(err, ticket.ErrNoCA) {
		t.Errorf("an empty folder: %v", err)
	}
	a, err := ticket.CreateAuthority(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ticket.CreateAuthority(dir, time.Now()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second CA in one folder: %v", err)
	}
	again, err := ticket.OpenAuthority(dir)
	if err != nil || ticket.Fingerprint(again.Certificate()) != ticket.Fingerprint(a.Certificate()) {
		t.Errorf("read back: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("rights of the CA's key: %v, %v", info.Mode(), err)
	}
	other := t.TempDir()
	if _, err := ticket.CreateAuthority(other, time.Now()); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(other, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"another CA's key": key, "garbage": []byte("x"), "a cut key": key[:60]} {
		if err := os.WriteFile(filepath.Join(dir, "ca.key"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ticket.OpenAuthority(dir); !errors.Is(err, ticket.ErrFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSignerOnly: of all that the CA signs, only the ticket signer's leaf may
// sign tickets.
func TestSignerOnly(t *testing.T) {
	r := newRig(t)
	r.addClient("alice", "a")
	d := r.device()
	d.login("alice", "a")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := r.clock.Now()
	jws, err := wire.SignTicket(key, d.cert, r.auth.Certificate().Raw, wire.TicketClaims{Group: "g", Entries: []string{}, NotBefore: now.Unix(), Expires: now.Unix() + 60})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.VerifyCertificate(jws, ticket.Pool(r.auth.Certificate()), now); !errors.Is(err, wire.ErrNotTicketSigner) {
		t.Errorf("a client signed a ticket: %v", err)
	}
}

func TestLeaf(t *testing.T) {
	dir := t.TempDir()
	clock := &moment{now: time.Now()}
	auth, err := ticket.CreateAuthority(dir, clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca := auth.Certificate()
	open := func(auth *ticket.Authority, hosts ...string) (*tls.Certificate, error) {
		l, err := ticket.NewLeaf(dir, "tls-key", hosts, ca, auth, clock.Now)
		if err != nil {
			return nil, err
		}
		return l.Certificate()
	}
	first, err := open(auth, "10.0.0.1", "usher.example.net", "fd00::1")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"10.0.0.1", "usher.example.net", "fd00::1"} {
		if _, err := first.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: ticket.Pool(ca)}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if len(first.Certificate) != 2 || !bytes.Equal(first.Certificate[1], ca.Raw) {
		t.Error("the chain lacks the CA")
	}
	same := func(c *tls.Certificate) bool { return c != nil && bytes.Equal(c.Certificate[0], first.Certificate[0]) }
	if again, err := open(auth, "fd00:0::1", "usher.example.net", "10.0.0.1"); err != nil || !same(again) {
		t.Errorf("after a restart: %v", err)
	}
	if kept, err := open(nil, "10.0.0.1", "usher.example.net", "fd00::1"); err != nil || !same(kept) {
		t.Errorf("without the CA's key: %v", err)
	}
	if _, err := open(nil, "10.0.0.9"); !errors.Is(err, ticket.ErrFile) {
		t.Errorf("for other hosts without the CA's key: %v", err)
	}
	if moved, err := open(auth, "10.0.0.9"); err != nil || same(moved) {
		t.Errorf("for other hosts: %v", err)
	}
	l, err := ticket.NewLeaf(dir, "tls-key", []string{"10.0.0.9"}, ca, auth, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	before, err := l.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	clock.Set(clock.Now().Add(13 * time.Hour))
	after, err := l.Certificate()
	if err != nil || bytes.Equal(before.Certificate[0], after.Certificate[0]) || !after.Leaf.NotAfter.After(before.Leaf.NotAfter) {
		t.Errorf("in its last half it was not renewed: %v", err)
	}
	clock.Set(clock.Now().Add(100 * 24 * time.Hour)) // the server was off
	if _, err := open(nil, "10.0.0.9"); !errors.Is(err, ticket.ErrFile) {
		t.Errorf("an ended one was taken: %v", err)
	}
	if c, err := open(auth, "10.0.0.9"); err != nil || !clock.Now().Before(c.Leaf.NotAfter) {
		t.Errorf("after a long pause: %v", err)
	}
	clock.Set(clock.Now().Add(11 * 365 * 24 * time.Hour))
	if _, err := open(auth, "10.0.0.9"); err == nil || !strings.Contains(err.Error(), "CA ended") {
		t.Errorf("after the CA's end: %v", err)
	}
}
