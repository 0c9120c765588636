package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/keyclient/clock"
	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/server"
	"usher/server/store"
	"usher/server/ticket"
)

// newServer sets a server up on free ports of loopback.
func newServer(t *testing.T, roles ...string) server.Config {
	t.Helper()
	c := server.DefaultConfig()
	c.Hosts, c.State = []string{"127.0.0.1"}, filepath.Join(t.TempDir(), "state")
	c.Ticket.Listen, c.Key.Listen = "127.0.0.1:0", "127.0.0.1:0"
	if err := server.Setup(t.Context(), c, "", time.Now()); err != nil {
		t.Fatal(err)
	}
	c.Database = filepath.Join(c.State, "usher.db")
	if len(roles) > 0 {
		c.Roles = roles
	}
	return c
}

// logBuffer may be read while the server still writes.
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

// running is a server at work.
type running struct {
	ticket, key string // URLs
	logs        *logBuffer
	stop        func()
}

func start(t *testing.T, c server.Config) *running {
	t.Helper()
	r := &running{logs: new(logBuffer)}
	s, err := server.New(t.Context(), c, server.Options{Log: slog.New(slog.NewTextHandler(r.logs, nil)), Clock: clock.System()})
	if err != nil {
		t.Fatal(err)
	}
	at := s.Addresses()
	if a := at[server.RoleTicket]; a != nil {
		r.ticket = "https://" + a.String()
	}
	if a := at[server.RoleKey]; a != nil {
		r.key = "https://" + a.String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// device is a client's machine.
type device struct {
	key  *ecdsa.PrivateKey
	cert []byte
	ca   *x509.Certificate
}

func (d *device) request(t *testing.T, method, url string, body any) (int, []byte) {
	t.Helper()
	config := &tls.Config{RootCAs: ticket.Pool(d.ca)}
	if d.cert != nil {
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{d.cert}, PrivateKey: d.key}}
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, data
}

func logIn(t *testing.T, c server.Config, url, name, password string) *device {
	t.Helper()
	ca, err := ticket.ReadCA(c.State)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{ca: ca}
	if d.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, d.key)
	if err != nil {
		t.Fatal(err)
	}
	status, data := d.request(t, http.MethodPost, url+wire.PathLogin, wire.LoginRequest{Name: name, Password: password, CSR: csr})
	var a wire.LoginAnswer
	if err := wire.DecodeStrict(data, &a); status != http.StatusOK || err != nil {
		t.Fatalf("login: %d %s", status, data)
	}
	d.cert = a.Certificate
	return d
}

// enrol asks for a key of the event that begins at startS, with the client's
// own ticket, and answers the problem's code, "" for a grant.
func (d *device) enrol(t *testing.T, r *running, id derive.EventID, startS int64, role wire.Role) string {
	t.Helper()
	status, data := d.request(t, http.MethodGet, r.ticket+wire.PathTickets, nil)
	var tickets wire.TicketsAnswer
	if err := wire.DecodeStrict(data, &tickets); status != http.StatusOK || err != nil {
		t.Fatalf("tickets: %d %s", status, data)
	}
	req := wire.EnrolRequest{Versions: []int{1}, Event: id, StartS: startS, Role: role}
	if role == wire.RoleSend {
		req.Queues = 1
	}
	rand.Read(req.Nonce[:]) //nolint:errcheck // never fails
	for _, tk := range tickets.Tickets {
		for _, entry := range tk.Entries {
			if e, err := wire.ParseEntry(entry); err == nil && e.ID == id {
				req.Entry, req.Certificate = entry, tk.Certificate
			}
		}
	}
	if req.Entry == nil {
		return "no ticket"
	}
	status, data = d.request(t, http.MethodPost, r.key+wire.PathEnrol, req)
	if status == http.StatusOK {
		if _, err := wire.ParseGrant(data); err != nil {
			t.Fatalf("grant: %v", err)
		}
		return ""
	}
	var p wire.Problem
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatalf("enrol: %d %s", status, data)
	}
	return p.Code
}

// TestEndToEnd: what a command writes into the store, the running roles act on:
// a new event is in the next ticket and keyed, a suspension withholds keys, and
// a restart forgets none of it.
func TestEndToEnd(t *testing.T) {
	c := newServer(t)
	run := start(t, c)
	s, err := server.OpenStore(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	hash, err := ticket.HashPassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now().Add(time.Hour).Truncate(time.Second)
	v := spec()
	v.Initial, v.KeyServers = 2*time.Hour, []string{run.key}
	v.Time = store.TimeExpression{Start: begin.UTC().Format("20060102T150405Z"), Duration: "PT1H"}
	var e store.Event
	update(t, s, func(tx store.Tx) error {
		g, err := tx.AddGroup(t.Context(), "news")
		if err != nil {
			return err
		}
		for _, name := range []string{"alice", "studio"} {
			if _, err := tx.AddClient(t.Context(), name, hash, []uint32{g.Number}); err != nil {
				return err
			}
		}
		if e, err = server.AddEvent(t.Context(), tx, v, time.Now()); err != nil {
			return err
		}
		return server.Associate(t.Context(), tx, e, "studio", store.RoleSend)
	})
	alice, studio := logIn(t, c, run.ticket, "alice", "secret"), logIn(t, c, run.ticket, "studio", "secret")
	within(t, "alice's first key", "", func() string { return alice.enrol(t, run, e.ID, begin.Unix(), wire.RoleReceive) })
	if code := studio.enrol(t, run, e.ID, begin.Unix(), wire.RoleSend); code != "" {
		t.Errorf("the sender is refused: %s", code)
	}
	if code := alice.enrol(t, run, e.ID, begin.Unix(), wire.RoleSend); code != wire.CodeNotASender {
		t.Errorf("a receiver asks for a sender's grant: %q", code)
	}
	update(t, s, func(tx store.Tx) error { return tx.Suspend(t.Context(), 1, store.SourceOperator, "") })
	within(t, "the suspension", wire.CodeWithheld, func() string { return alice.enrol(t, run, e.ID, begin.Unix(), wire.RoleReceive) })
	run.stop()

	run = start(t, c)
	alice = logIn(t, c, run.ticket, "alice", "secret")
	within(t, "the suspension after a restart", wire.CodeWithheld, func() string { return alice.enrol(t, run, e.ID, begin.Unix(), wire.RoleReceive) })
	update(t, s, func(tx store.Tx) error { return tx.Restore(t.Context(), 1, store.SourceOperator) })
	within(t, "the restored client's key", "", func() string { return alice.enrol(t, run, e.ID, begin.Unix(), wire.RoleReceive) })
	update(t, s, func(tx store.Tx) error { return tx.Leave(t.Context(), 1, e.Group) })
	if code := alice.enrol(t, run, e.ID, begin.Unix(), wire.RoleReceive); code != "no ticket" {
		t.Errorf("out of the group: %q", code)
	}
	run.stop()
	if logs := run.logs.String(); !strings.Contains(logs, "server stopped") || strings.Contains(logs, "secret") {
		t.Errorf("log: %s", logs)
	}
}

// within polls until the answer is the one awaited.
func within(t *testing.T, what, want string, ask func() string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		got := ask()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still %q, want %q", what, got, want)
		}
		<-tick.C
	}
}

// TestRolesApart: each role in a process of its own, on one state folder.
func TestRolesApart(t *testing.T) {
	c := newServer(t)
	tickets, keys := c, c
	tickets.Roles, keys.Roles = []string{server.RoleTicket}, []string{server.RoleKey}
	a, b := start(t, tickets), start(t, keys)
	if a.key != "" || b.ticket != "" || a.ticket == "" || b.key == "" {
		t.Errorf("ticket process at %q, %q, key process at %q, %q", a.ticket, a.key, b.ticket, b.key)
	}
	b.stop()
	// A key host without the CA's key serves on as long as its certificate lives.
	if err := os.Remove(filepath.Join(c.State, "ca.key")); err != nil {
		t.Fatal(err)
	}
	start(t, keys).stop()
	a.stop()
	if _, err := server.New(t.Context(), tickets, server.Options{Log: slog.New(slog.DiscardHandler), Clock: clock.System()}); !errors.Is(err, ticket.ErrNoCA) {
		t.Errorf("a ticket role without a CA: %v", err)
	}
}

func TestAddressInUse(t *testing.T) {
	c := newServer(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c.Key.Listen = taken.Addr().String()
	_, err = server.New(t.Context(), c, server.Options{Log: slog.New(slog.DiscardHandler), Clock: clock.System()})
	if err == nil || !strings.Contains(err.Error(), taken.Addr().String()+" is in use") || !strings.Contains(err.Error(), "key.listen") {
		t.Errorf("a port in use: %v", err)
	}
	c.Key.Listen = "127.0.0.1:0"
	start(t, c) // what the failed start took is free again
}

func TestSetupOverwritesNothing(t *testing.T) {
	c := newServer(t)
	before := files(t, c.State)
	if err := server.Setup(t.Context(), c, "", time.Now()); !errors.Is(err, server.ErrSetUp) {
		t.Errorf("a second setup: %v", err)
	}
	other := c
	other.State, other.Database = filepath.Join(t.TempDir(), "other"), ""
	config := filepath.Join(t.TempDir(), "server.toml")
	if err := os.WriteFile(config, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := server.Setup(t.Context(), other, config, time.Now()); !errors.Is(err, server.ErrSetUp) || !strings.Contains(err.Error(), config) {
		t.Errorf("over a configuration: %v", err)
	}
	if text, err := os.ReadFile(config); err != nil || string(text) != "mine" {
		t.Errorf("the configuration is %q now, %v", text, err)
	}
	if after := files(t, c.State); !slices.Equal(before, after) {
		t.Errorf("files %v became %v", before, after)
	}
	// A folder for the configuration that cannot be made: nothing stays behind.
	if err := server.Setup(t.Context(), other, filepath.Join(config, "server.toml"), time.Now()); err == nil {
		t.Error("a configuration beneath a file was written")
	}
	if left := files(t, other.State); len(left) != 0 {
		t.Errorf("a failed setup left %v", left)
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

// TestNewKeys: a server that was restored from a backup lacks ratchet and master
// key; it says how to go on, and goes on. What is there is never replaced.
func TestNewKeys(t *testing.T) {
	c := newServer(t)
	open := func(newKeys bool) error {
		s, err := server.New(t.Context(), c, server.Options{Log: slog.New(slog.DiscardHandler), Clock: clock.System(), NewKeys: newKeys})
		if err != nil {
			return err
		}
		return s.Close()
	}
	if err := open(true); !errors.Is(err, server.ErrSetUp) {
		t.Errorf("over a ratchet that is there: %v", err)
	}
	for _, lost := range [][]string{{"ratchet"}, {"ratchet", "master.key"}} {
		for _, name := range lost {
			if err := os.Remove(filepath.Join(c.State, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := open(false); err == nil || !strings.Contains(err.Error(), "usher-server run --new-keys") {
			t.Errorf("without %v: %v", lost, err)
		}
		if err := open(true); err != nil {
			t.Errorf("new keys instead of %v: %v", lost, err)
		}
		if err := open(false); err != nil {
			t.Errorf("after it: %v", err)
		}
	}
}

// TestDatabaseRefused: a database that does not open stops the server with its
// name and the reason.
func TestDatabaseRefused(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, file string)
		want  error
	}{
		{"damaged", func(t *testing.T, file string) { overwrite(t, file, bytes.Repeat([]byte("no database "), 1000)) }, store.ErrCorrupt},
		{"empty", func(t *testing.T, file string) { overwrite(t, file, nil) }, server.ErrNotSetUp},
		{"newer", func(t *testing.T, file string) {
			db, err := sql.Open("sqlite", "file:"+file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}, store.ErrNewerSchema},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newServer(t)
			tt.spoil(t, c.Database)
			s, err := server.New(t.Context(), c, server.Options{Log: slog.New(slog.DiscardHandler), Clock: clock.System()})
			if s != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), c.Database) {
				t.Errorf("got %v, %v; want %v", s, err, tt.want)
			}
		})
	}
}

func overwrite(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNotSetUp(t *testing.T) {
	c := server.DefaultConfig()
	c.State = t.TempDir()
	c.Database = filepath.Join(c.State, "usher.db")
	if _, err := server.OpenStore(t.Context(), c); !errors.Is(err, server.ErrNotSetUp) {
		t.Errorf("an empty folder: %v", err)
	}
	if left := files(t, c.State); len(left) != 0 {
		t.Errorf("looking made %v", left)
	}
}
