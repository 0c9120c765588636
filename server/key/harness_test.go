package key

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server/group"
	"usher/server/store"
	"usher/server/store/sqlite"
)

// authority is a CA with what it issued.
type authority struct {
	der    []byte
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	signer ed25519.PrivateKey // of tickets
	leaf   []byte             // the signer's certificate
}

func (a *authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := new(authority)
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: testStart.AddDate(-1, 0, 0), NotAfter: testStart.AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if a.der, err = x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key); err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(a.der); err != nil {
		t.Fatal(err)
	}
	_, a.signer, _ = ed25519.GenerateKey(rand.Reader)
	a.leaf = a.issue(t, &x509.Certificate{URIs: []*url.URL{{Scheme: "usher", Opaque: "ticket-signer"}}, KeyUsage: x509.KeyUsageDigitalSignature}, a.signer.Public())
	return a
}

func (a *authority) issue(t *testing.T, template *x509.Certificate, public any) []byte {
	t.Helper()
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	if template.NotBefore.IsZero() {
		template.NotBefore, template.NotAfter = testStart.AddDate(0, -1, 0), testStart.AddDate(1, 0, 0)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// client issues a client's certificate that ends at an instant.
func (a *authority) client(t *testing.T, number uint32, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := a.issue(t, &x509.Certificate{
		Subject:   pkix.Name{CommonName: fmt.Sprintf("client %d", number)},
		URIs:      []*url.URL{{Scheme: "usher", Opaque: fmt.Sprintf("client:%d", number)}},
		NotBefore: testStart.Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key.Public())
	return tls.Certificate{Certificate: [][]byte{der, a.der}, PrivateKey: key}
}

func (a *authority) server(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := a.issue(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public())
	return &tls.Certificate{Certificate: [][]byte{der, a.der}, PrivateKey: key}
}

// ticket signs the entry of an event as it stands.
func (a *authority) ticket(t *testing.T, e store.Event) (entry []byte, jws string) {
	t.Helper()
	w := &wire.Entry{
		ID: e.ID, Title: e.Title, Senders: e.Senders, TTL: e.TTL, KeyServers: e.KeyServers,
		Time:      wire.TimeExpr{Start: e.Time.Start, Zone: e.Time.Zone, Duration: e.Time.Duration, Rule: e.Time.Rule, Except: e.Time.Except},
		InitialMS: e.InitialMS, FirstMS: e.FirstMS, IntervalMS: e.IntervalMS, WindowMS: e.WindowMS,
		Refresh: wire.Refresh{Method: e.Method}, Edition: e.Edition,
	}
	for _, f := range e.Flows {
		w.Flows = append(w.Flows, wire.Flow{Protocol: f.Protocol, Destination: f.Destination, Ports: ports(f)})
	}
	return a.sign(t, w, testStart.Add(24*time.Hour))
}

func (a *authority) sign(t *testing.T, w *wire.Entry, until time.Time) ([]byte, string) {
	t.Helper()
	entry := w.Encode()
	jws, err := wire.SignTicket(a.signer, a.leaf, a.der, wire.TicketClaims{
		Group: "viewers", Entries: []string{wire.HashEntry(entry)},
		NotBefore: testStart.Add(-24 * time.Hour).Unix(), Expires: until.Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return entry, jws
}

// lab is a key role on SQLite with a clock that the test turns.
type lab struct {
	t      *testing.T
	host   *handClock
	ca     *authority
	store  *sqlite.Store
	config Config
	server *Server
	logs   *lockedBuffer
	groups map[string]uint32
}

// lockedBuffer is where a server under test logs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, host: newHandClock(testStart), ca: newAuthority(t), logs: new(lockedBuffer), groups: map[string]uint32{}}
	dir := t.TempDir()
	var err error
	l.store, err = sqlite.Open(t.Context(), filepath.Join(dir, "usher.db"), sqlite.Options{Now: l.host.clock().Wall})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.store.Close() })
	l.config = Config{
		Store: l.store, Clock: l.host.clock(), Log: slog.New(slog.NewTextHandler(l.logs, nil)),
		MasterKeyFile: filepath.Join(dir, "master.key"), RatchetFile: filepath.Join(dir, "ratchet"),
		Roots: l.ca.roots(),
	}
	cert := l.ca.server(t)
	l.config.Certificate = func() (*tls.Certificate, error) { return cert, nil }
	if err := CreateMasterKey(l.config.MasterKeyFile); err != nil {
		t.Fatal(err)
	}
	if err := CreateRatchet(l.config.RatchetFile, l.config.MasterKeyFile, testStart); err != nil {
		t.Fatal(err)
	}
	// Fig 3 in small: events of root reach viewers and others; those of others
	// reach neither.
	l.update(func(tx store.Tx) error {
		for _, name := range []string{"root", "viewers", "others"} {
			g, err := tx.AddGroup(t.Context(), name)
			if err != nil {
				return err
			}
			l.groups[name] = g.Number
		}
		if err := group.Link(t.Context(), tx, "root", "viewers"); err != nil {
			return err
		}
		return group.Link(t.Context(), tx, "root", "others")
	})
	return l
}

// start opens the server; it is closed with the test.
func (l *lab) start() *Server {
	l.t.Helper()
	s, err := New(l.t.Context(), l.config)
	if err != nil {
		l.t.Fatal(err)
	}
	l.server = s
	l.t.Cleanup(func() { s.Close() })
	return s
}

func (l *lab) restart() *Server {
	l.t.Helper()
	if err := l.server.Close(); err != nil {
		l.t.Fatal(err)
	}
	return l.start()
}

func (l *lab) update(f func(store.Tx) error) {
	l.t.Helper()
	if _, err := l.store.Update(l.t.Context(), f); err != nil {
		l.t.Fatal(err)
	}
	if l.server != nil {
		l.turn()
	}
}

func (l *lab) turn() {
	l.t.Helper()
	if err := l.server.Follow(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
}

// pass lets time pass, with Run's rounds in steps of 200 ms.
func (l *lab) pass(d time.Duration) {
	l.t.Helper()
	const step = 200 * time.Millisecond
	for ; d > 0; d -= step {
		l.host.pass(min(d, step))
		l.turn()
	}
}

// goTo lets time pass until so long after testStart.
func (l *lab) goTo(after time.Duration) {
	l.t.Helper()
	l.pass(testStart.Add(after).Sub(l.server.clock.now().time()))
}

// leap is pass with one round at the end only.
func (l *lab) leap(d time.Duration) {
	l.t.Helper()
	l.host.pass(d)
	l.turn()
}

func (l *lab) addClient(name string, groups ...string) uint32 {
	l.t.Helper()
	var numbers []uint32
	for _, g := range groups {
		numbers = append(numbers, l.groups[g])
	}
	var c store.Client
	l.update(func(tx store.Tx) (err error) {
		c, err = tx.AddClient(l.t.Context(), name, "hash", numbers)
		return err
	})
	return c.Number
}

// newEvent is an event of root that starts so long after testStart: 40 s in
// intervals of 5 s.
func (l *lab) newEvent(starts time.Duration) store.Event {
	return store.Event{
		ID: derive.NewEventID(), Group: l.groups["root"], Title: "match",
		Senders: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Flows:   []store.Flow{{Protocol: "udp", Destination: netip.MustParseAddr("232.1.1.1"), FirstPort: 5004, LastPort: 5005}},
		Time:    store.TimeExpression{Start: testStart.Add(starts).UTC().Format("20060102T150405Z"), Duration: "PT40S"},
		TTL:     16, KeyServers: []string{"https://127.0.0.1:7441"},
		InitialMS: 6000, FirstMS: 5000, IntervalMS: 5000, WindowMS: 5000,
		Ahead: 1, Transform: derive.TransformAES256GCM, GatherUS: 200, Spread: "fixed", Revocation: "withhold", Method: "pull",
	}
}

func (l *lab) addEvent(e store.Event) store.Event {
	l.t.Helper()
	l.update(func(tx store.Tx) error { return tx.AddEvent(l.t.Context(), e) })
	return l.event(e.ID)
}

func (l *lab) event(id derive.EventID) (e store.Event) {
	l.t.Helper()
	err := l.store.View(l.t.Context(), func(r store.Reader) (err error) {
		e, err = r.Event(l.t.Context(), id)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return e
}

func (l *lab) associate(e store.Event, number uint32, role store.Role) {
	l.t.Helper()
	l.update(func(tx store.Tx) error {
		return tx.Associate(l.t.Context(), store.Association{Event: e.ID, Client: number, Role: role})
	})
}

func (l *lab) suspend(number uint32) {
	l.t.Helper()
	l.update(func(tx store.Tx) error {
		return tx.Suspend(l.t.Context(), number, store.SourceOperator, "test")
	})
}

func (l *lab) restore(number uint32) {
	l.t.Helper()
	l.update(func(tx store.Tx) error { return tx.Restore(l.t.Context(), number, store.SourceOperator) })
}

// startOf is the start of an event's first occurrence, s.
func startOf(t *testing.T, e store.Event) int64 {
	t.Helper()
	list, err := expression(e).Next(testStart.AddDate(-1, 0, 0), 1)
	if err != nil || len(list) != 1 {
		t.Fatalf("first occurrence: %v, %v", list, err)
	}
	return list[0].Start.Unix()
}

// serve answers on the loopback; the URL is returned.
func (l *lab) serve() string {
	l.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.server.Serve(ctx, listener) }()
	l.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Errorf("serve: %v", err)
		}
	})
	return "https://" + listener.Addr().String()
}

// viewer is a client by HTTPS, as far as the server needs one.
type viewer struct {
	t      *testing.T
	http   *http.Client
	base   string
	number uint32

	tag    derive.Tag
	k      *derive.Secret
	cookie [wire.CookieLen]byte
	n      uint32
	keys   map[uint32]string // interval keys, by interval
}

func (l *lab) viewer(base string, number uint32) *viewer {
	l.t.Helper()
	return l.viewerWith(base, number, &tls.Config{Certificates: []tls.Certificate{l.ca.client(l.t, number, testStart.Add(12*time.Hour))}})
}

func (l *lab) viewerWith(base string, number uint32, config *tls.Config) *viewer {
	config.RootCAs, config.Time = l.ca.roots(), l.host.clock().Wall
	transport := &http.Transport{TLSClientConfig: config}
	l.t.Cleanup(transport.CloseIdleConnections)
	return &viewer{t: l.t, http: &http.Client{Transport: transport, Timeout: 20 * time.Second}, base: base, number: number, keys: map[uint32]string{}}
}

// ask is an enrolment request that the server takes.
func (l *lab) ask(e store.Event, role wire.Role) *wire.EnrolRequest {
	l.t.Helper()
	q := &wire.EnrolRequest{Versions: []int{1}, Event: e.ID, StartS: startOf(l.t, e), Role: role}
	rand.Read(q.Nonce[:])
	q.Entry, q.Certificate = l.ca.ticket(l.t, e)
	if role == wire.RoleSend {
		q.Queues = 1
	}
	return q
}

func (v *viewer) post(path, contentType string, body []byte) (*http.Response, []byte, error) {
	res, err := v.http.Post(v.base+path, contentType, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	return res, answer, err
}

// enrol asks and keeps what a client keeps; a refusal is a *wire.Problem.
func (v *viewer) enrol(q *wire.EnrolRequest) (*wire.Grant, *wire.Body, error) {
	v.t.Helper()
	raw, err := json.Marshal(q)
	if err != nil {
		v.t.Fatal(err)
	}
	res, answer, err := v.post(wire.PathEnrol, "application/json", raw)
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode != http.StatusOK {
		p := new(wire.Problem)
		if err := wire.DecodeStrict(answer, p); err != nil {
			v.t.Fatalf("HTTP %d with %q: %v", res.StatusCode, answer, err)
		}
		if p.Status != res.StatusCode {
			v.t.Errorf("problem says %d, HTTP %d", p.Status, res.StatusCode)
		}
		return nil, nil, p
	}
	g, err := wire.ParseGrant(answer)
	if err != nil {
		v.t.Fatal(err)
	}
	b, err := wire.ParseBody(g.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	exported, err := res.TLS.ExportKeyingMaterial(derive.ExporterLabel, derive.ExporterContext(g.Tag, q.Nonce), 32)
	if err != nil {
		v.t.Fatal(err)
	}
	if v.k, err = derive.NewSecret(exported); err != nil {
		v.t.Fatal(err)
	}
	v.tag = g.Tag
	v.accept(b)
	return g, b, nil
}

func (v *viewer) mustEnrol(q *wire.EnrolRequest) (*wire.Grant, *wire.Body) {
	v.t.Helper()
	g, b, err := v.enrol(q)
	if err != nil {
		v.t.Fatal(err)
	}
	return g, b
}

func (v *viewer) accept(b *wire.Body) {
	for _, r := range b.Records {
		v.keys[r.Interval] = string(r.Key.Bytes())
	}
	if schedule.Status(b.Status).CarriesCookie() {
		v.cookie, v.n = b.Cookie, b.CookieNumber
	}
}

// request builds a refresh request under the client's next step, and what opens
// its answer.
func (v *viewer) request(want uint8) (raw []byte, a, next *derive.Secret) {
	v.t.Helper()
	a, next = derive.Step(v.k, v.tag)
	var id [16]byte
	rand.Read(id[:])
	raw, err := wire.BuildRequest(a, v.tag, v.n, v.cookie, want, id, wire.Report{})
	if err != nil {
		v.t.Fatal(err)
	}
	return raw, a, next
}

// refresh is a whole exchange; the client steps only if the answer opens.
func (v *viewer) refresh(want uint8) *wire.Body {
	v.t.Helper()
	raw, a, next := v.request(want)
	res, answer, err := v.post(wire.PathRefresh, wire.ContentTypeRefresh, raw)
	if err != nil {
		v.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		v.t.Fatalf("refresh: HTTP %d %s", res.StatusCode, answer)
	}
	b, err := wire.OpenAnswer(a, raw, answer)
	if err != nil {
		v.t.Fatal(err)
	}
	v.k = next
	v.accept(b)
	return b
}

func intervals(b *wire.Body) []uint32 {
	var list []uint32
	for _, r := range b.Records {
		list = append(list, r.Interval)
	}
	return list
}
