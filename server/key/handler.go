package key

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"usher/keyclient/wire"
)

// Handler answers POST /v1/enrol and /v1/refresh. It needs the connection's TLS
// state, so no proxy may end TLS in front of it (docs/keying.md §4).
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathEnrol, s.serveEnrol)
	mux.HandleFunc("POST "+wire.PathRefresh, s.serveRefresh)
	return mux
}

func (s *Server) serveEnrol(w http.ResponseWriter, r *http.Request) {
	c, ok := s.identify(w, r)
	if !ok {
		return
	}
	raw, ok := s.read(w, r, wire.MaxEnrolRequest)
	if !ok {
		return
	}
	arrived := s.clock.now()
	q, err := wire.ParseEnrolRequest(raw)
	if err != nil {
		s.refuse(w, refuse(http.StatusBadRequest, wire.CodeBadRequest, err.Error()))
		return
	}
	grant, no := s.enrol(r.Context(), c, q, r.TLS, arrived)
	if no != nil && no.perhapsNew() {
		// Who gives up waiting must not break off what others wait for.
		if s.keeper.catchUp(context.WithoutCancel(r.Context()), arrived.boot) == nil {
			grant, no = s.enrol(r.Context(), c, q, r.TLS, arrived)
		}
	}
	if no != nil {
		s.log.Debug("enrolment refused", "client", c.number, "event", q.Event.String(), "code", no.Code)
		s.refuse(w, no)
		return
	}
	defer clear(grant.Body)
	answer, err := json.Marshal(grant)
	if err != nil {
		s.log.Error("grant cannot be written", "tag", grant.Tag.String(), "error", err)
		s.refuse(w, refuse(http.StatusInternalServerError, wire.CodeStore, "the answer cannot be written"))
		return
	}
	defer clear(answer)
	s.counters.enrolled.Add(1)
	s.log.Debug("client enrolled", "client", c.number, "tag", grant.Tag.String(), "role", q.Role.String())
	send(w, "application/json", http.StatusOK, answer)
}

// serveRefresh is the refresh of docs/keying.md §5 with HTTPS in place of a
// datagram. Who asks is in the cookie; the certificate opens the connection.
func (s *Server) serveRefresh(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.identify(w, r); !ok {
		return
	}
	raw, ok := s.read(w, r, wire.MaxDatagram)
	if !ok {
		return
	}
	reply, what, id := s.refresh(raw, s.clock.now())
	s.counters.outcome[what].Add(1)
	switch what {
	case droppedForm:
		s.problem(w, refuse(http.StatusBadRequest, wire.CodeBadRequest, "not a refresh request"))
		return
	case droppedKey:
		s.problem(w, refuse(http.StatusServiceUnavailable, wire.CodeStore, "the key server lacks an interval secret").after(soon))
		return
	case droppedSeal:
		// By datagram a forger would learn from it; here the connection says who asks.
		reply = nakReply(id, wire.NAKRefused)
	case answered, refusedNAK:
	}
	send(w, wire.ContentTypeRefresh, http.StatusOK, reply)
}

func (s *Server) identify(w http.ResponseWriter, r *http.Request) (client, bool) {
	c, err := identify(r.TLS, s.clock.now().time())
	if err != nil {
		s.refuse(w, refuse(http.StatusUnauthorized, wire.CodeBadLogin, err.Error()))
		return client{}, false
	}
	return c, true
}

func (s *Server) read(w http.ResponseWriter, r *http.Request, most int64) ([]byte, bool) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if _, tooBig := errors.AsType[*http.MaxBytesError](err); tooBig {
		s.refuse(w, refuse(http.StatusRequestEntityTooLarge, wire.CodeBadRequest, "the request is too big"))
		return nil, false
	}
	if err != nil {
		s.refuse(w, refuse(http.StatusBadRequest, wire.CodeBadRequest, "the request broke off"))
		return nil, false
	}
	return raw, true
}

func (s *Server) refuse(w http.ResponseWriter, no *refusal) {
	s.counters.refused.Add(1)
	s.problem(w, no)
}

func (s *Server) problem(w http.ResponseWriter, no *refusal) {
	if no.retryAfter > 0 {
		seconds := int64((no.retryAfter + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(min(seconds, math.MaxInt32), 10))
	}
	answer, err := json.Marshal(no.Problem)
	if err != nil {
		answer = nil // the status alone says enough
	}
	send(w, wire.ContentTypeProblem, no.Status, answer)
}

func send(w http.ResponseWriter, contentType string, status int, body []byte) {
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(body) //nolint:errcheck // the client went away
}
