package ticket

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/server/store"
)

// codeBusy is the code of 503 for a login beyond the queue.
const codeBusy = "busy"

// Handler answers the role's three requests. It needs the connection's TLS
// state with the client certificate verified where one was shown.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathLogin, s.answer(s.login))
	mux.HandleFunc("POST "+wire.PathRenew, s.answer(s.renew))
	mux.HandleFunc("GET "+wire.PathTickets, s.answer(s.tickets))
	return mux
}

// answer turns an error into a Problem: a *wire.Problem is for the client, all
// else for the log.
func (s *Server) answer(handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := handle(w, r)
		if err == nil {
			return
		}
		p, ok := errors.AsType[*wire.Problem](err)
		if !ok {
			p = &wire.Problem{Status: http.StatusServiceUnavailable, Code: wire.CodeStore, Detail: "the server cannot answer now; try again later"}
			s.log.Error("request failed", "path", r.URL.Path, "error", err)
		}
		if p.Status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "5")
		}
		w.Header().Set("Content-Type", wire.ContentTypeProblem)
		w.WriteHeader(p.Status)
		json.NewEncoder(w).Encode(p) //nolint:errcheck // the client is gone
	}
}

func problem(status int, code, format string, args ...any) error {
	return &wire.Problem{Status: status, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// readBody reads one JSON message within its bound.
func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxLoginMessage))
	if err != nil {
		return problem(http.StatusBadRequest, wire.CodeBadRequest, "the request cannot be read, or is longer than %d bytes", wire.MaxLoginMessage)
	}
	defer clear(data)
	if err := wire.DecodeStrict(data, into); err != nil {
		return problem(http.StatusBadRequest, wire.CodeBadRequest, "%v", err)
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(b) //nolint:errcheck // the client is gone
	return nil
}

// login gives a certificate for name and password (Fig 2, 210–220). A wrong
// password and an unknown name look and cost the same.
func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	var req wire.LoginRequest
	if err := readBody(w, r, &req); err != nil {
		return err
	}
	var cred store.Credential
	err := s.store.View(r.Context(), func(read store.Reader) (err error) {
		cred, err = read.Credential(r.Context(), req.Name)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	ok, err := s.checker.check(r.Context(), req.Password[:min(len(req.Password), maxPassword+1)], cred.PasswordHash)
	if errors.Is(err, ErrBusy) {
		return problem(http.StatusServiceUnavailable, codeBusy, "too many logins at once; try again in a moment")
	}
	if err != nil {
		return fmt.Errorf("login of client %d: %w", cred.Number, err)
	}
	if !ok {
		s.log.Warn("login refused", "remote", r.RemoteAddr)
		return problem(http.StatusUnauthorized, wire.CodeBadLogin, "name or password is wrong")
	}
	if err := s.issueClient(w, req.CSR, cred.Number); err != nil {
		return err
	}
	s.log.Info("client logged in", "client", cred.Number, "name", req.Name, "remote", r.RemoteAddr)
	return nil
}

// renew gives a new certificate for the one that made the connection.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) error {
	client, err := s.client(r)
	if err != nil {
		return err
	}
	var req wire.RenewRequest
	if err := readBody(w, r, &req); err != nil {
		return err
	}
	if err := s.issueClient(w, req.CSR, client.Number); err != nil {
		return err
	}
	s.log.Debug("certificate renewed", "client", client.Number)
	return nil
}

func (s *Server) issueClient(w http.ResponseWriter, csr []byte, number uint32) error {
	now := s.now()
	der, err := s.auth.issueClient(csr, number, now)
	if errors.Is(err, ErrCSR) {
		return problem(http.StatusBadRequest, wire.CodeBadRequest, "%v", err)
	}
	if err != nil {
		return err
	}
	return writeJSON(w, wire.LoginAnswer{Certificate: der, Number: number, ServerTimeUS: uint64(now.UnixMicro())})
}

// client is who the connection's certificate names, looked up anew at each
// request: a kept connection outlives neither certificate nor client.
func (s *Server) client(r *http.Request) (store.Client, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return store.Client{}, problem(http.StatusUnauthorized, wire.CodeBadLogin, "a client certificate is asked for: log in first")
	}
	cert := r.TLS.VerifiedChains[0][0]
	number, err := ClientNumber(cert)
	if err != nil || s.now().After(cert.NotAfter) {
		return store.Client{}, problem(http.StatusUnauthorized, wire.CodeBadLogin, "the client certificate has ended or is none of a client: log in again")
	}
	var c store.Client
	err = s.store.View(r.Context(), func(read store.Reader) (err error) {
		c, err = read.ClientByNumber(r.Context(), number)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return store.Client{}, problem(http.StatusUnauthorized, wire.CodeBadLogin, "client %d is not registered any more", number)
	}
	return c, err
}

// tickets gives the client's tickets, one for each of its groups, and names the
// events that it is registered to send (Fig 2, 240–260).
func (s *Server) tickets(w http.ResponseWriter, r *http.Request) error {
	client, err := s.client(r)
	if err != nil {
		return err
	}
	now := s.now()
	answer := wire.TicketsAnswer{Tickets: []wire.Ticket{}, Sends: []derive.EventID{}, ServerTimeUS: uint64(now.UnixMicro())}
	var etag string
	err = s.store.View(r.Context(), func(read store.Reader) (err error) {
		etag, err = s.collect(r.Context(), read, client.Number, now, &answer)
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag)
	w.Header().Set("Vary", "Authorization")
	if matches(r.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return writeJSON(w, answer)
}

// collect fills the answer of one snapshot and hashes it, the time left out.
func (s *Server) collect(ctx context.Context, read store.Reader, number uint32, now time.Time, answer *wire.TicketsAnswer) (string, error) {
	answer.Tickets, answer.Sends = answer.Tickets[:0], answer.Sends[:0]
	client, err := read.ClientByNumber(ctx, number)
	if err != nil {
		return "", err
	}
	sends, err := read.SendsOf(ctx, number)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	reached := map[derive.EventID]bool{}
	for _, g := range client.Groups {
		t, err := s.issuer.issue(ctx, read, g, now)
		if err != nil {
			return "", err
		}
		answer.Tickets = append(answer.Tickets, t.ticket)
		h.Write(t.digest[:])
		for id := range t.events {
			reached[id] = true
		}
	}
	for _, id := range sends {
		if reached[id] { // an association without a membership opens nothing
			answer.Sends = append(answer.Sends, id)
			h.Write(id[:])
		}
	}
	return `"` + base64.RawURLEncoding.EncodeToString(h.Sum(nil)) + `"`, nil
}

// matches reads If-None-Match (RFC 9110 §13.1.2).
func matches(header, etag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		part = strings.TrimSpace(part)
		if part == "*" || strings.TrimPrefix(part, "W/") == etag {
			return true
		}
	}
	return false
}
