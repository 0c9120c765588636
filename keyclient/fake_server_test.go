package keyclient_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
)

// Addresses of the fake on the memory network.
const (
	ticketAddress = "192.0.2.1:7440"
	keyAddress    = "192.0.2.1:7441"
	keyAddress2   = "192.0.2.2:7441"
)

// fakeServer is both roles, small and honest, with switches for what a test
// wants to go wrong. Its verdicts are schedule.Decide's, its keys are derived
// from secrets that the test can see.
type fakeServer struct {
	t        *testing.T
	network  *memoryNetwork
	caKey    *ecdsa.PrivateKey
	ca       *x509.Certificate
	signer   ed25519.PrivateKey
	leaf     []byte
	certLife time.Duration

	mu            sync.Mutex
	password      string                    // guarded by mu
	detail        string                    // of problems; guarded by mu
	groups        map[string][]*wire.Entry  // guarded by mu
	sends         []derive.EventID          // guarded by mu
	validity      time.Duration             // of tickets; guarded by mu
	version       int                       // of the tickets, for the ETag; guarded by mu
	suspended     bool                      // guarded by mu
	enrolStatus   int                       // answers enrolments with this; guarded by mu
	edition       uint16                    // in answers; guarded by mu
	changeGrant   func(*wire.Grant)         // guarded by mu
	changeTickets func(*wire.TicketsAnswer) // guarded by mu
	holdTickets   chan struct{}             // holds the next answer up until it is closed; guarded by mu
	clockOff      time.Duration             // the key role's clock less the real one; guarded by mu
	nextSender    uint16                    // guarded by mu
	count         map[string]int            // requests by path and outcome; guarded by mu
	asked         []enrolment               // guarded by mu
}

// enrolment is a request for a first key, as it came.
type enrolment struct {
	at      time.Time // by the key role's clock
	subject string    // of the client's certificate
	request *wire.EnrolRequest
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	f := &fakeServer{
		t: t, network: newMemoryNetwork(), certLife: 24 * time.Hour, password: "correct horse",
		detail: "as the test wants it",
		groups: make(map[string][]*wire.Entry), validity: time.Hour, edition: 1, nextSender: 100, count: make(map[string]int),
	}
	var err error
	if f.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, f.caKey.Public(), f.caKey)
	if err != nil {
		t.Fatal(err)
	}
	if f.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if _, f.signer, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	signer, err := url.Parse(wire.TicketSignerURI)
	if err != nil {
		t.Fatal(err)
	}
	f.leaf = f.issue(&x509.Certificate{URIs: []*url.URL{signer}}, f.signer.Public(), 10000*time.Hour)

	tickets := http.NewServeMux()
	tickets.HandleFunc("POST "+wire.PathLogin, f.login)
	tickets.HandleFunc("POST "+wire.PathRenew, f.renew)
	tickets.HandleFunc("GET "+wire.PathTickets, f.tickets)
	f.serve(ticketAddress, tickets, tls.VerifyClientCertIfGiven)
	keys := http.NewServeMux()
	keys.HandleFunc("POST "+wire.PathEnrol, f.enrol)
	keys.HandleFunc("POST "+wire.PathRefresh, f.refresh)
	f.serve(keyAddress, keys, tls.RequireAndVerifyClientCert)
	f.serve(keyAddress2, keys, tls.RequireAndVerifyClientCert)
	return f
}

func (f *fakeServer) issue(c *x509.Certificate, public crypto.PublicKey, life time.Duration) []byte {
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-5*time.Minute), time.Now().Add(life)
	c.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, c, f.ca, public, f.caKey)
	if err != nil {
		f.t.Error(err)
	}
	return der
}

func (f *fakeServer) serve(address string, h http.Handler, auth tls.ClientAuthType) {
	f.t.Helper()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		f.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	der := f.issue(&x509.Certificate{IPAddresses: []net.IP{net.ParseIP(host)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, key.Public(), 1000*time.Hour)
	roots := x509.NewCertPool()
	roots.AddCert(f.ca)
	listener := f.network.listen(f.t, address)
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	serving.Go(func() {
		err := srv.Serve(tls.NewListener(listener, &tls.Config{
			MinVersion: tls.VersionTLS13, ClientAuth: auth, ClientCAs: roots, SessionTicketsDisabled: true,
			Certificates: []tls.Certificate{{Certificate: [][]byte{der, f.ca.Raw}, PrivateKey: key}},
		}))
		if !errors.Is(err, http.ErrServerClosed) {
			f.t.Error(err)
		}
	})
	f.t.Cleanup(func() {
		srv.Close()      //nolint:errcheck // the end is all that is wanted
		listener.Close() //nolint:errcheck // as above
		serving.Wait()
	})
}

func (f *fakeServer) fingerprint() string {
	sum := sha256.Sum256(f.ca.Raw)
	return hex.EncodeToString(sum[:])
}

// set changes the fake's switches.
func (f *fakeServer) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.version++
}

func (f *fakeServer) counted(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[what]
}

// enrolments are the requests for first keys so far.
func (f *fakeServer) enrolments() []enrolment {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// tally counts; mu is held.
func (f *fakeServer) tally(what string) { f.count[what]++ }

func (f *fakeServer) problem(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", wire.ContentTypeProblem)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(wire.Problem{Status: status, Code: code, Detail: f.detail}) //nolint:errcheck // the client's business
}

func (f *fakeServer) json(w http.ResponseWriter, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		f.t.Error(err)
	}
	w.Write(raw) //nolint:errcheck // the client's business
}

func (f *fakeServer) login(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var q wire.LoginRequest
	raw, _ := io.ReadAll(r.Body)
	if err := wire.DecodeStrict(raw, &q); err != nil || q.Password != f.password {
		f.problem(w, http.StatusUnauthorized, wire.CodeBadLogin)
		return
	}
	f.tally("login")
	f.certify(w, q.CSR)
}

func (f *fakeServer) renew(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var q wire.RenewRequest
	raw, _ := io.ReadAll(r.Body)
	if err := wire.DecodeStrict(raw, &q); err != nil || len(r.TLS.PeerCertificates) == 0 {
		f.problem(w, http.StatusUnauthorized, wire.CodeBadLogin)
		return
	}
	f.tally("renew")
	f.certify(w, q.CSR)
}

func (f *fakeServer) certify(w http.ResponseWriter, raw []byte) {
	csr, err := x509.ParseCertificateRequest(raw)
	if err != nil || csr.CheckSignature() != nil {
		f.problem(w, http.StatusBadRequest, wire.CodeBadRequest)
		return
	}
	uri, err := url.Parse("usher:client:7")
	if err != nil {
		f.t.Error(err)
	}
	der := f.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "client 7"}, URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, csr.PublicKey, f.certLife)
	f.json(w, wire.LoginAnswer{Certificate: der, Number: 7, ServerTimeUS: uint64(time.Now().UnixMicro())})
}

func (f *fakeServer) tickets(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(r.TLS.PeerCertificates) == 0 {
		f.problem(w, http.StatusUnauthorized, wire.CodeBadLogin)
		return
	}
	// Renewed at fixed times only, so that the bytes stay equal between them.
	etag := strconv.Quote(fmt.Sprint(f.version, "-", time.Now().Truncate(f.validity/2).Unix()))
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		f.tally("tickets unchanged")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	f.tally("tickets")
	answer := wire.TicketsAnswer{Sends: f.sends, ServerTimeUS: uint64(time.Now().UnixMicro())}
	for group, entries := range f.groups {
		answer.Tickets = append(answer.Tickets, f.ticket(group, entries))
	}
	if f.changeTickets != nil {
		f.changeTickets(&answer)
	}
	if held := f.holdTickets; held != nil {
		f.holdTickets = nil
		f.mu.Unlock()
		<-held
		f.mu.Lock()
	}
	f.json(w, answer)
}

func (f *fakeServer) ticket(group string, entries []*wire.Entry) wire.Ticket {
	out := wire.Ticket{Group: group}
	claims := wire.TicketClaims{Group: group, NotBefore: time.Now().Truncate(f.validity / 2).Unix(), Expires: time.Now().Truncate(f.validity / 2).Add(f.validity).Unix()}
	for _, e := range entries {
		raw := e.Encode()
		out.Entries = append(out.Entries, raw)
		claims.Entries = append(claims.Entries, wire.HashEntry(raw))
	}
	var err error
	if out.Certificate, err = wire.SignTicket(f.signer, f.leaf, f.ca.Raw, claims); err != nil {
		f.t.Error(err)
	}
	return out
}

// intervalSecret is Cᵢ.
func intervalSecret(tag derive.Tag, i uint32) *derive.Secret {
	sum := sha256.Sum256(fmt.Append(nil, "secret of ", tag, i))
	s, _ := derive.NewSecret(sum[:])
	return s
}

func (f *fakeServer) find(id derive.EventID) *wire.Entry {
	for _, entries := range f.groups {
		for _, e := range entries {
			if e.ID == id {
				return e
			}
		}
	}
	return nil
}

// timing is the occurrence's; entries of the tests have one, or one a day.
func timing(e *wire.Entry, startS int64) schedule.Timing {
	d, err := time.ParseDuration(durations[e.Time.Duration])
	if err != nil {
		return schedule.Timing{}
	}
	return schedule.Timing{
		StartMS: startS * 1000, EndMS: startS*1000 + d.Milliseconds(), FirstMS: e.FirstMS, IntervalMS: e.IntervalMS,
		InitialMS: e.InitialMS, WindowMS: e.WindowMS, Ahead: 1,
	}
}

// durations are the RFC 5545 durations that tests use, as Go has them.
var durations = map[string]string{"PT1M": "1m", "PT1H": "1h"}

func (f *fakeServer) now() time.Time { return time.Now().Add(f.clockOff) }

func (f *fakeServer) enrol(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	arrived := f.now()
	f.tally("enrol")
	raw, _ := io.ReadAll(r.Body)
	q, err := wire.ParseEnrolRequest(raw)
	if err != nil {
		f.problem(w, http.StatusBadRequest, wire.CodeBadRequest)
		return
	}
	f.asked = append(f.asked, enrolment{arrived, r.TLS.PeerCertificates[0].Subject.CommonName, q})
	roots := x509.NewCertPool()
	roots.AddCert(f.ca)
	if _, _, err := wire.VerifyEntry(q.Entry, q.Certificate, roots, arrived); err != nil {
		f.problem(w, http.StatusForbidden, wire.CodeBadTicket)
		return
	}
	e := f.find(q.Event)
	switch {
	case f.enrolStatus != 0:
		f.problem(w, f.enrolStatus, wire.CodeNotAMember)
		return
	case f.suspended:
		f.problem(w, http.StatusForbidden, wire.CodeWithheld)
		return
	case e == nil:
		f.problem(w, http.StatusNotFound, wire.CodeNoSuchEvent)
		return
	}
	t := timing(e, q.StartS)
	if arrived.UnixMilli() < t.BeginsMS() {
		w.Header().Set("Retry-After", "1")
		f.problem(w, http.StatusTooEarly, wire.CodeNotYet)
		return
	}
	tag := derive.OccurrenceTag(e.ID, uint64(q.StartS), 0)
	exported, err := r.TLS.ExportKeyingMaterial(derive.ExporterLabel, derive.ExporterContext(tag, q.Nonce), 32)
	if err != nil {
		f.t.Error(err)
	}
	k, err := derive.NewSecret(exported)
	if err != nil {
		f.t.Error(err)
	}
	body := f.body(t, tag, &wire.Cookie{Number: 7, EnrolledUntil: uint32(arrived.Add(time.Hour).Unix()), Role: q.Role, Edition: f.edition, K: k}, wire.MaxWant, 0, arrived)
	encoded, err := body.Encode(0)
	if err != nil {
		f.t.Error(err)
	}
	g := wire.Grant{
		Version: 1, Tag: tag, Number: 7, Selector: e.Selector(), Transform: derive.TransformAES256GCM,
		Schedule: wire.GrantSchedule{
			StartS: q.StartS, EndS: t.EndMS / 1000, FirstMS: t.FirstMS, IntervalMS: t.IntervalMS, InitialMS: t.InitialMS,
			WindowMS: t.WindowMS, MarginMS: t.MarginMS(), LingerMS: schedule.LingerMS, GraceMS: schedule.GraceMS, Ahead: 1, Spread: "fixed",
		},
		ReenrolMS: 60000, StaleS: 3600, GatherUS: 200, Body: encoded,
	}
	if q.Role == wire.RoleSend {
		g.SenderIDs = []uint16{f.nextSender}
		f.nextSender++
	}
	if f.changeGrant != nil {
		f.changeGrant(&g)
	}
	f.json(w, g)
}

// body makes the verdict, and seals the new cookie.
func (f *fakeServer) body(t schedule.Timing, tag derive.Tag, c *wire.Cookie, want int, refusal schedule.Status, arrived time.Time) *wire.Body {
	newest := t.Current(arrived.UnixMilli()) + t.Lead()
	if n, finite := t.N(); finite {
		newest = min(newest, n-1)
	}
	v := t.Decide(schedule.Question{NowMS: arrived.UnixMilli(), First: c.First, Want: want, RecordsPerInterval: 1, Refusal: refusal, NewestRow: newest})
	b := &wire.Body{Status: uint8(v.Status), Edition: f.edition, WindowOpensMS: v.WindowOpensMS, WindowLastsMS: v.WindowLastsMS, ServerTimeUS: uint64(f.now().UnixMicro())}
	for _, i := range v.Given {
		b.Records = append(b.Records, wire.Record{
			Interval: i, SPI: derive.SPI(tag, i), Transform: derive.TransformAES256GCM,
			InitiationMS: t.T(i), LifetimeMS: uint32(t.T(i+1) - t.T(i)), Key: derive.GroupKey(intervalSecret(tag, i), tag, i),
		})
	}
	if v.Status.CarriesCookie() {
		c.First, b.CookieNumber = v.FirstAfter, v.CookieNumber
		var nonce [12]byte
		rand.Read(nonce[:]) //nolint:errcheck // never fails
		b.Cookie = c.Seal(derive.NewAEAD(derive.CookieKey(intervalSecret(tag, v.CookieNumber), tag, v.CookieNumber)), tag, v.CookieNumber, nonce)
	}
	f.tally("status " + v.Status.String())
	return b
}

func (f *fakeServer) refresh(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	arrived := f.now()
	f.tally("refresh")
	raw, _ := io.ReadAll(r.Body)
	q, err := wire.ParseRequest(raw)
	if err != nil {
		f.t.Errorf("refresh: %v", err)
		return
	}
	nak := func(code uint8) {
		f.tally("NAK")
		b := wire.BuildNAK(q.ID, code)
		w.Write(b[:]) //nolint:errcheck // the client's business
	}
	e, t := f.byTag(q.Tag, arrived)
	if e == nil {
		nak(wire.NAKUnknownTag)
		return
	}
	if t.T(q.N+1)+schedule.LingerMS <= arrived.UnixMilli() {
		nak(wire.NAKCookieNumber)
		return
	}
	cookie, err := wire.OpenCookie(derive.NewAEAD(derive.CookieKey(intervalSecret(q.Tag, q.N), q.Tag, q.N)), q.Tag, q.N, q.Cookie[:])
	if err != nil {
		nak(wire.NAKRefused)
		return
	}
	a, next := derive.Step(cookie.K, q.Tag)
	if _, err := q.OpenReport(a, raw); err != nil {
		nak(wire.NAKRefused)
		return
	}
	var refusal schedule.Status
	if f.suspended {
		refusal = schedule.StatusWithheld
	}
	cookie.K = next
	body := f.body(t, q.Tag, cookie, int(q.Want), refusal, arrived)
	var nonce [12]byte
	rand.Read(nonce[:]) //nolint:errcheck // never fails
	answer, err := wire.BuildAnswer(a, raw, nonce, body)
	if err != nil {
		f.t.Error(err)
	}
	w.Write(answer) //nolint:errcheck // the client's business
}

// byTag finds the occurrence among those that the tests can mean: the entry's
// first, and the days after it.
func (f *fakeServer) byTag(tag derive.Tag, now time.Time) (*wire.Entry, schedule.Timing) {
	for _, entries := range f.groups {
		for _, e := range entries {
			start, err := time.Parse("20060102T150405Z", e.Time.Start)
			if err != nil {
				continue
			}
			for ; start.Before(now.Add(24 * time.Hour)); start = start.Add(24 * time.Hour) {
				if derive.OccurrenceTag(e.ID, uint64(start.Unix()), 0) == tag {
					return e, timing(e, start.Unix())
				}
			}
		}
	}
	return nil, schedule.Timing{}
}
