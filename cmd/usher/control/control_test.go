package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/cmd/usher/control"
	"usher/cmd/usher/controltest"
	"usher/scripts/lab"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// serve runs a server with b at a socket of its own, until the test ends.
func serve(t *testing.T, b control.Backend) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "run", "agent.sock")
	lock, err := control.Acquire(socket)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := lock.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.NewServer(b, quiet()).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
	})
	return socket
}

func TestCalls(t *testing.T) {
	lab.NeedRoot(t) // login, logout, up, down and keys ask for uid 0
	start := time.Date(2026, 11, 25, 20, 0, 0, 0, time.UTC)
	e := control.Event{ID: "00112233445566778899aabbccddeeff", Title: "Match", Role: "receive", Start: &start, State: "keyed"}
	f := &controltest.Fake{
		EventsAre: []control.Event{e}, News: []control.Event{{ID: e.ID, State: "waiting"}, e},
		SAsAre:  []control.SA{{SPI: "0x00001000", Key: "secret"}},
		LoginIs: &control.LoginResult{Client: "alice"},
	}
	c, ctx := control.NewClient(serve(t, f)), t.Context()
	if _, err := c.Status(ctx); err != nil {
		t.Error(err)
	}
	if l, err := c.Events(ctx); err != nil || len(l.Events) != 1 || !l.Events[0].Start.Equal(start) {
		t.Errorf("events: %+v %v", l, err)
	}
	if l, err := c.SAs(ctx, false); err != nil || l.SAs[0].Key != "" {
		t.Errorf("sa: %+v %v", l, err)
	}
	if l, err := c.SAs(ctx, true); err != nil || l.SAs[0].Key != "secret" {
		t.Errorf("sa --show-keys: %+v %v", l, err)
	}
	if _, err := c.Policies(ctx); err != nil {
		t.Error(err)
	}
	if r, err := c.Login(ctx, &control.LoginRequest{Name: "alice", Password: []byte("pw")}); err != nil || r.Client != "alice" || string(f.LastLogin().Password) != "pw" {
		t.Errorf("login: %+v %v", r, err)
	}
	var states []string
	if err := c.Join(ctx, &control.JoinRequest{Events: []string{"Match"}, Role: "receive"}, func(e control.Event) { states = append(states, e.State) }); err != nil || !slices.Equal(states, []string{"waiting", "keyed"}) {
		t.Errorf("join: %v %v", states, err)
	}
	if _, err := c.Leave(ctx, &control.LeaveRequest{Events: []string{"Match"}}); err != nil {
		t.Error(err)
	}
	for _, call := range []func(context.Context) (*control.Done, error){c.Logout, c.Up, c.Down} {
		if d, err := call(ctx); err != nil || d.Text == "" {
			t.Errorf("%+v %v", d, err)
		}
	}
	want := []string{"status", "events", "sa", "sa with keys", "policy", "login", "join to receive Match", "leave", "logout", "up", "down"}
	if !slices.Equal(f.Calls(), want) {
		t.Errorf("calls %q, want %q", f.Calls(), want)
	}

	f.JoinErr = control.Errorf(control.CodeServer, "the server is away")
	err := c.Join(ctx, &control.JoinRequest{Events: []string{"Match"}}, func(control.Event) {})
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.CodeServer {
		t.Errorf("a join that fails in the middle: %v", err)
	}
	f.Err = control.Errorf(control.CodeNotLoggedIn, "not logged in").WithHint("usher login")
	if _, err := c.Events(ctx); err == nil || err.Error() != "not logged in" {
		t.Errorf("refusal: %v", err)
	}
	if err := c.Join(ctx, &control.JoinRequest{Events: []string{"Match"}}, func(control.Event) {}); err == nil || err.Error() != "not logged in" {
		t.Errorf("refusal of a join: %v", err)
	}
}

// TestRights: without a peer of uid 0 nothing changes the host or shows keys.
func TestRights(t *testing.T) {
	f := &controltest.Fake{}
	h := control.NewServer(f, quiet()).Handler() // no socket, so no peer
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/v1/status", "", 200},
		{"GET", "/v1/events", "", 200},
		{"GET", "/v1/sa", "", 200},
		{"GET", "/v1/policy", "", 200},
		{"POST", "/v1/join", `{"events":["a"],"wait_ms":0}`, 200},
		{"POST", "/v1/leave", `{"events":["a"]}`, 200},
		{"GET", "/v1/sa?show_keys=1", "", 403},
		{"POST", "/v1/login", `{"name":"a","password":"cHc="}`, 403},
		{"POST", "/v1/logout", "", 403},
		{"POST", "/v1/up", "", 403},
		{"POST", "/v1/down", "", 403},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body)))
		if w.Code != tt.want {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, w.Code, w.Body)
		}
		if w.Code == 403 && !strings.Contains(w.Body.String(), "only root") {
			t.Errorf("%s: %s", tt.path, w.Body)
		}
	}
	for _, c := range f.Calls() {
		if slices.Contains([]string{"sa with keys", "login", "logout", "up", "down"}, c) {
			t.Errorf("%s reached the backend", c)
		}
	}
}

func TestBadRequests(t *testing.T) {
	f := &controltest.Fake{}
	h := control.NewServer(f, quiet()).Handler()
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/", "", 404},
		{"GET", "/v2/status", "", 404},
		{"DELETE", "/v1/status", "", 404},
		{"GET", "/v1/sa?show_keys=yes", "", 400},
		{"POST", "/v1/join", "", 400},
		{"POST", "/v1/join", "{}", 400},
		{"POST", "/v1/join", `{"events":[""]}`, 400},
		{"POST", "/v1/join", `{"events":["a"],"role":"both"}`, 400},
		{"POST", "/v1/join", `{"events":["a"],"wait_ms":-1}`, 400},
		{"POST", "/v1/join", `{"events":["a"],"nonsense":1}`, 400},
		{"POST", "/v1/join", `{"events":["a"]} {}`, 400},
		{"POST", "/v1/join", `{"events":` + strings.Repeat("[", 10000), 400},
		{"POST", "/v1/join", `{"events":["` + strings.Repeat("a", control.MaxBody) + `"]}`, 400},
		{"POST", "/v1/join", `{"events":[` + strings.Repeat(`"a",`, control.MaxTitles) + `"a"]}`, 400},
		{"POST", "/v1/leave", `{"events":[]}`, 400},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body)))
		if w.Code != tt.want {
			t.Errorf("%s %s %.40s: %d %s", tt.method, tt.path, tt.body, w.Code, w.Body)
		}
	}
	if n := len(f.Calls()); n != 0 {
		t.Errorf("%d calls reached the backend: %q", n, f.Calls())
	}
}

func TestSocketFile(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	lock, err := control.Acquire(socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Acquire(socket); !errors.Is(err, control.ErrRunning) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("a second agent: %v", err)
	}
	ln, err := lock.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", info.Mode(), err)
	}

	// An agent dies: its socket stays, nobody answers, and the next one replaces it.
	if err := errors.Join(ln.Close(), lock.Release()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Fatalf("the stale socket: %v", err)
	}
	if _, err := control.NewClient(socket).Status(t.Context()); !errors.Is(err, control.ErrNoAgent) {
		t.Errorf("a stale socket: %v", err)
	}
	lock, err = control.Acquire(socket)
	if err != nil {
		t.Fatalf("after a death: %v", err)
	}
	ln, err = lock.Listen()
	if err != nil {
		t.Fatalf("after a death: %v", err)
	}
	if err := errors.Join(ln.Close(), lock.Release()); err != nil {
		t.Fatal(err)
	}
	if _, err := control.NewClient(filepath.Join(t.TempDir(), "none")).Status(t.Context()); !errors.Is(err, control.ErrNoAgent) {
		t.Errorf("no socket: %v", err)
	}
	if _, err := control.Acquire("/proc/none/agent.sock"); err == nil {
		t.Error("a folder that cannot be made was made")
	}
}

// TestNotAnAgent: whatever answers at the socket, the client says so and ends.
func TestNotAnAgent(t *testing.T) {
	for name, answer := range map[string]string{
		"garbage":   "\x00\x01\x02garbage\n\n",
		"html":      "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
		"an error":  "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
		"truncated": "HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n{\"version\":",
	} {
		socket := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, answer) //nolint:errcheck // a bad server on purpose
				c.Close()
			}
		}()
		if _, err := control.NewClient(socket).Status(t.Context()); !errors.Is(err, control.ErrAnswer) && !errors.Is(err, control.ErrNoAgent) {
			t.Errorf("%s: %v", name, err)
		}
		if err := control.NewClient(socket).Join(t.Context(), &control.JoinRequest{}, func(control.Event) {}); err == nil {
			t.Errorf("%s: a join succeeded", name)
		}
		ln.Close()
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	r := control.LoginRequest{Name: "alice", Password: []byte("hunter2")}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%d"} {
		if s := fmt.Sprintf(format, r); strings.Contains(s, "hunter2") || strings.Contains(s, "104 117") {
			t.Errorf("%s prints %s", format, s)
		}
	}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "request", r)
	if strings.Contains(b.String(), "hunter2") || !strings.Contains(b.String(), "alice") {
		t.Errorf("logged %s", b.String())
	}
	r.Wipe()
	if string(r.Password) == "hunter2" {
		t.Error("the password was not wiped")
	}
}

// FuzzRequest: garbage to every path; the answer is JSON, never a crash, and
// never what only root may do.
func FuzzRequest(f *testing.F) {
	paths := []string{"/v1/status", "/v1/events", "/v1/sa", "/v1/policy", "/v1/login", "/v1/logout", "/v1/join", "/v1/leave", "/v1/up", "/v1/down", "/"}
	bodies := []string{"", "{}", "null", "[]", `{"events":["a"]}`, `{"events":null,"wait_ms":1e99}`, `{"name":"a","password":"!"}`, "\xff\xfe"}
	seeds := 0
	for i := range paths {
		for _, b := range bodies {
			f.Add(uint8(i), i%2 == 0, "show_keys=1", b)
			seeds++
		}
	}
	if seeds < 50 {
		f.Fatal("seeds are missing")
	}
	fake := &controltest.Fake{}
	h := control.NewServer(fake, quiet()).Handler()
	f.Fuzz(func(t *testing.T, path uint8, post bool, query, body string) {
		r := &http.Request{Method: "GET", Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}}
		if post {
			r.Method = "POST"
		}
		u := *httptest.NewRequest("GET", paths[int(path)%len(paths)], nil).URL
		u.RawQuery = query
		r.URL = &u
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(t.Context()))
		if w.Code >= 500 {
			t.Errorf("%s %s?%s %q: %d", r.Method, u.Path, query, body, w.Code)
		}
		if slices.Contains(fake.Calls(), "sa with keys") {
			t.Error("keys were shown to nobody")
		}
	})
}

// FuzzSocket: garbage instead of HTTP at the socket itself; the agent answers
// the next one.
func FuzzSocket(f *testing.F) {
	seeds := []string{"", "\x00", "GET / HTTP/1.1\r\n\r\n", "GET /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
		"POST /v1/join HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET " + strings.Repeat("a", 20000), "\x16\x03\x01\x02\x00\x01"}
	if len(seeds) < 8 {
		f.Fatal("seeds are missing")
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	socket := filepath.Join(f.TempDir(), "agent.sock")
	lock, err := control.Acquire(socket)
	if err != nil {
		f.Fatal(err)
	}
	ln, err := lock.Listen()
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go control.NewServer(&controltest.Fake{}, quiet()).Serve(ctx, ln) //nolint:errcheck // ends with the test
	client := control.NewClient(socket)
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(raw)                   //nolint:errcheck // it may have hung up
		c.(*net.UnixConn).CloseWrite() //nolint:errcheck // likewise
		io.Copy(io.Discard, c)         //nolint:errcheck // likewise
		c.Close()
		if _, err := client.Status(t.Context()); err != nil {
			t.Errorf("after %q: %v", raw, err)
		}
	})
}
