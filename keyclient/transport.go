package keyclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"
	"unicode"

	"usher/keyclient/clock"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
)

// How long one request may take, and how long an idle connection is kept.
const (
	requestTimeout = 15 * time.Second
	idleTimeout    = 90 * time.Second
)

// transport speaks HTTPS with the servers of one identity.
type transport struct {
	http  *http.Client
	clock clock.Clock
}

// newTransport makes a transport that trusts t as of now(), and shows certificate.
func newTransport(c *Config, t *trust, now func() time.Time, certificate func() *tls.Certificate) *transport {
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	d := &tlsDialer{trust: t, now: now, dial: dial, certificate: certificate}
	return &transport{clock: c.Clock, http: &http.Client{
		Transport: &http.Transport{
			Proxy:               nil, // no proxy: K₀ comes out of this very TLS connection
			DialTLSContext:      d.dialTLS,
			IdleConnTimeout:     idleTimeout,
			MaxIdleConnsPerHost: 4,
			MaxConnsPerHost:     64,
		},
		Timeout: requestTimeout,
		// A redirect would carry a password or a cookie to who knows whom.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (t *transport) close() { t.http.CloseIdleConnections() }

// request is one question to a server.
type request struct {
	method, url string
	contentType string
	body        []byte
	etag        string // If-None-Match
	max         int    // cap on the answer's body
}

// reply is what came back: a status below 400.
type reply struct {
	status       int
	etag         string
	contentType  string
	body         []byte
	tls          *tls.ConnectionState
	t1NS, t4NS   int64 // boot ns: sent, received
	retryAfterMS int64
}

// sample turns a reply with a server's time into a reading of its clock.
func (r *reply) sample(serverUS uint64, elapsedUS uint32) schedule.Sample {
	return schedule.Sample{T1BootNS: r.t1NS, T4BootNS: r.t4NS, ServerUS: serverUS, ElapsedUS: elapsedUS}
}

// refusal is an answer with an error status.
type refusal struct {
	problem      *wire.Problem
	retryAfterMS int64 // 0: none given
}

func (r *refusal) Error() string   { return r.problem.Error() }
func (r *refusal) Unwrap() []error { return []error{ErrRefused, r.problem} }

// do sends q. The error wraps ErrServer where there was no answer or none that
// can be used, or is a *refusal.
func (t *transport) do(ctx context.Context, q request) (*reply, error) {
	out := new(reply)
	// T1 is when the connection is there, so that a handshake does not widen
	// the bound of the server's clock; T4 when the answer begins to arrive.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { out.t1NS = t.clock.BootNS() },
		GotFirstResponseByte: func() { out.t4NS = t.clock.BootNS() },
	})
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	r, err := http.NewRequestWithContext(ctx, q.method, q.url, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	if q.contentType != "" {
		r.Header.Set("Content-Type", q.contentType)
	}
	if q.etag != "" {
		r.Header.Set("If-None-Match", q.etag)
	}
	resp, err := t.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end or given up
	out.status, out.tls = resp.StatusCode, resp.TLS
	out.etag, out.contentType = resp.Header.Get("ETag"), resp.Header.Get("Content-Type")
	if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		out.retryAfterMS = int64(seconds) * 1000
	}
	limit := q.max
	if resp.StatusCode >= 400 {
		limit = wire.MaxProblem
	}
	out.body, err = io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrServer, q.url, err)
	}
	if resp.StatusCode >= 400 {
		return nil, &refusal{problem: readProblem(out), retryAfterMS: out.retryAfterMS}
	}
	if len(out.body) > limit {
		return nil, fmt.Errorf("%w: %s: answer of more than %d bytes", ErrServer, q.url, limit)
	}
	if resp.StatusCode >= 300 && resp.StatusCode != http.StatusNotModified {
		return nil, fmt.Errorf("%w: %s: HTTP %d", ErrServer, q.url, resp.StatusCode)
	}
	return out, nil
}

// readProblem reads what the server says of an error; whatever it is, the HTTP
// status counts. Its words are shown to people: what does not print is taken out.
func readProblem(r *reply) *wire.Problem {
	p := new(wire.Problem)
	if len(r.body) > wire.MaxProblem || wire.DecodeStrict(r.body, p) != nil {
		p = &wire.Problem{Code: "http", Detail: http.StatusText(r.status)}
	}
	p.Status = r.status
	p.Code, p.Detail = strings.Map(printing, p.Code), strings.Map(printing, p.Detail)
	return p
}

// printing keeps a text from talking to a terminal, and in one line.
func printing(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}
