package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// Peer is who is at the other end of a connection, as the kernel says.
type Peer struct {
	UID uint32
	PID int32
}

type peerKey struct{}

// Server answers on the socket.
type Server struct {
	backend Backend
	log     *slog.Logger
	http    *http.Server
	peer    func(net.Conn) (Peer, error)
}

// NewServer makes a server that asks b.
func NewServer(b Backend, log *slog.Logger) *Server {
	s := &Server{backend: b, log: log, peer: peerOf}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			p, err := s.peer(c)
			if err != nil {
				return ctx // without a peer every right is refused
			}
			return context.WithValue(ctx, peerKey{}, p)
		},
	}
	return s
}

// Serve answers until ctx ends or the listener fails.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		// A join that waits must not hold the agent's end up.
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := s.http.Shutdown(short); err != nil {
			s.http.Close() //nolint:errcheck // the end is all that is wanted
		}
	})
	defer stop()
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

// Handler is the API without the socket, for tests; the peer is then unknown,
// and what asks for root is refused.
func (s *Server) Handler() http.Handler { return s.http.Handler }

func (s *Server) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/status", answer(s, func(ctx context.Context, _ *http.Request) (any, error) { return s.backend.Status(ctx) }))
	m.HandleFunc("GET /v1/events", answer(s, func(ctx context.Context, _ *http.Request) (any, error) { return s.backend.Events(ctx) }))
	m.HandleFunc("GET /v1/policy", answer(s, func(ctx context.Context, _ *http.Request) (any, error) { return s.backend.Policies(ctx) }))
	m.HandleFunc("GET /v1/sa", answer(s, s.sa))
	m.HandleFunc("POST /v1/login", answer(s, s.login))
	m.HandleFunc("POST /v1/logout", answer(s, rooted("logout", func(ctx context.Context) (any, error) { return s.backend.Logout(ctx) })))
	m.HandleFunc("POST /v1/up", answer(s, rooted("up", func(ctx context.Context) (any, error) { return s.backend.Up(ctx) })))
	m.HandleFunc("POST /v1/down", answer(s, rooted("down", func(ctx context.Context) (any, error) { return s.backend.Down(ctx) })))
	m.HandleFunc("POST /v1/leave", answer(s, s.leave))
	m.HandleFunc("POST /v1/join", s.join)
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, Errorf(CodeNotFound, "the agent has no %s %s", r.Method, r.URL.Path))
	})
	return m
}

// answer turns a function into a handler: its value is the body, its error the
// refusal.
func answer(s *Server, f func(context.Context, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r.Context(), r)
		if err != nil {
			e := AsError(err)
			if e.Code == CodeInternal {
				s.log.Warn("control request failed", "path", r.URL.Path, "error", err)
			}
			writeError(w, e)
			return
		}
		writeJSON(w, http.StatusOK, v)
	}
}

func rooted(what string, f func(context.Context) (any, error)) func(context.Context, *http.Request) (any, error) {
	return func(ctx context.Context, _ *http.Request) (any, error) {
		if err := needRoot(ctx, what); err != nil {
			return nil, err
		}
		return f(ctx)
	}
}

// needRoot is the second gate, behind the socket's own rights.
func needRoot(ctx context.Context, what string) error {
	if p, ok := ctx.Value(peerKey{}).(Peer); ok && p.UID == 0 {
		return nil
	}
	return Errorf(CodeForbidden, "usher %s changes the host or shows keys, and only root may do that", what).
		WithHint("sudo usher " + what)
}

func (s *Server) sa(ctx context.Context, r *http.Request) (any, error) {
	show := false
	switch v := r.URL.Query().Get("show_keys"); v {
	case "", "0":
	case "1":
		show = true
	default:
		return nil, Errorf(CodeBadRequest, "show_keys is 0 or 1, not %q", v)
	}
	if show {
		if err := needRoot(ctx, "sa --show-keys"); err != nil {
			return nil, err
		}
	}
	return s.backend.SAs(ctx, show)
}

func (s *Server) login(ctx context.Context, r *http.Request) (any, error) {
	if err := needRoot(ctx, "login"); err != nil {
		return nil, err
	}
	var q LoginRequest
	defer q.Wipe()
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if q.Name == "" || len(q.Password) == 0 {
		return nil, Errorf(CodeBadRequest, "a login needs a name and a password")
	}
	return s.backend.Login(ctx, &q)
}

func (s *Server) leave(ctx context.Context, r *http.Request) (any, error) {
	var q LeaveRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if err := checkTitles(q.Events); err != nil {
		return nil, err
	}
	return s.backend.Leave(ctx, &q)
}

// join streams: one line at once for each event, one at each change, a last one.
func (s *Server) join(w http.ResponseWriter, r *http.Request) {
	var q JoinRequest
	if err := decode(r, &q); err != nil {
		writeError(w, AsError(err))
		return
	}
	if err := checkTitles(q.Events); err != nil {
		writeError(w, AsError(err))
		return
	}
	if q.Role != "" && q.Role != "send" && q.Role != "receive" {
		writeError(w, Errorf(CodeBadRequest, "the role is send or receive, not %q", q.Role))
		return
	}
	if q.WaitMS < 0 {
		writeError(w, Errorf(CodeBadRequest, "wait_ms is negative"))
		return
	}
	out := http.NewResponseController(w)
	if err := out.SetReadDeadline(time.Time{}); err != nil {
		s.log.Debug("control read deadline not lifted", "error", err)
	}
	enc := json.NewEncoder(w)
	begun := false
	line := func(l JoinLine) error {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		if err := enc.Encode(l); err != nil {
			return err
		}
		return out.Flush()
	}
	err := s.backend.Join(r.Context(), &q, func(e Event) error { return line(JoinLine{Event: &e}) })
	last := JoinLine{Done: true}
	if err != nil {
		if !begun {
			writeError(w, AsError(err))
			return
		}
		last.Error = AsError(err)
	}
	if err := line(last); err != nil {
		s.log.Debug("control answer not read", "error", err)
	}
}

func checkTitles(titles []string) error {
	if len(titles) == 0 {
		return Errorf(CodeBadRequest, "no event is named")
	}
	if len(titles) > MaxTitles {
		return Errorf(CodeBadRequest, "%d events are named, at most %d at once", len(titles), MaxTitles)
	}
	for _, t := range titles {
		if t == "" {
			return Errorf(CodeBadRequest, "an event's title is empty")
		}
	}
	return nil
}

// decode reads a request's body: one JSON value, no unknown key, no more than
// [MaxBody] bytes.
func decode(r *http.Request, into any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return Errorf(CodeBadRequest, "the request's body cannot be read")
	}
	defer clear(body)
	if len(body) > MaxBody {
		return Errorf(CodeBadRequest, "the request's body is longer than %d bytes", MaxBody)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		// The decoder's text may quote the input, a password among it.
		return Errorf(CodeBadRequest, "the request's body is not what %s takes", r.URL.Path)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Errorf(CodeBadRequest, "the request's body goes on after its value")
	}
	return nil
}

func writeError(w http.ResponseWriter, e *Error) { writeJSON(w, e.Code.status(), e) }

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The connection's end is the only error, and nobody is left to tell.
	json.NewEncoder(w).Encode(v) //nolint:errcheck,errchkjson // see above
}

// peerOf asks the kernel who connected (SO_PEERCRED): the ids at connect time,
// which the peer cannot choose.
func peerOf(c net.Conn) (Peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("%w: %T is no unix connection", ErrAnswer, c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("control: peer: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Peer{}, fmt.Errorf("control: peer: %w", err)
	}
	if credErr != nil {
		return Peer{}, fmt.Errorf("control: peer: %w", credErr)
	}
	return Peer{UID: cred.Uid, PID: cred.Pid}, nil
}
