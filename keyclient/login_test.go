package keyclient_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/keyclient"
	"usher/keyclient/wire"
	"usher/sa"
)

func TestLoginHoldsTicketsAndProtects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", time.Hour)
		other := entry("other", time.Hour)
		other.Flows[0].Ports = "4000-5000" // includes ESP's port
		push := entry("push", time.Hour)
		push.Refresh = wire.Refresh{Method: wire.RefreshPush, Group: group, Sources: []netip.Addr{senderAddr}, Port: 9}
		f.set(func() {
			f.groups["g1"] = []*wire.Entry{live, other}
			f.groups["g2"] = []*wire.Entry{live, push}
		})
		h := newHost(t, f, receiverAddr)
		if s := h.Status(); s.LoggedIn || len(s.Events) != 0 {
			t.Errorf("before the login: %+v", s)
		}
		if _, err := h.Join(t.Context(), []string{"live"}, nil); !errors.Is(err, keyclient.ErrNotLoggedIn) {
			t.Errorf("join before the login: %v", err)
		}
		changed := h.Changed()
		h.login()
		select {
		case <-changed:
		default:
			t.Error("no news of the login")
		}
		s := h.Status()
		if !s.LoggedIn || s.Number != 7 || s.LastError != "" || !s.ClockKnown || s.ClockError > 2*time.Millisecond || len(s.Events) != 3 {
			t.Errorf("after the login: %+v", s)
		}
		e := h.event("live")
		if len(e.Groups) != 2 || e.Role != wire.RoleReceive || e.Joined || e.State != keyclient.StateNotJoined || len(e.Next) != 1 || e.Current != -1 {
			t.Errorf("live: %+v", e)
		}
		// Protected from the ticket on, with no key at all (docs/design.md §3).
		out := h.db.Snapshot().Outbound(sa.Tuple{Source: senderAddr, Destination: group, Protocol: 17, SourcePort: 1, DestinationPort: 5004, HasPorts: true})
		if out == nil || out.Action != sa.Protect || out.SA(h.clock.BootNS()) != nil {
			t.Errorf("live's flow is not protected: %+v", out)
		}
		// ESP's own port is left out, the ports beside it are not.
		for port, protected := range map[uint16]bool{4499: true, 4500: false, 4501: true} {
			got := h.db.Snapshot().Outbound(sa.Tuple{Source: senderAddr, Destination: group, Protocol: 17, SourcePort: 1, DestinationPort: port, HasPorts: true})
			if (got != nil) != protected {
				t.Errorf("port %d protected: %v", port, got != nil)
			}
		}
		for name, want := range map[string]error{
			"other": wire.ErrESPPort, "push": wire.ErrNotInThisVersion, "nothing": keyclient.ErrNoSuchEvent,
			"00000000000000000000000000000000": keyclient.ErrNoSuchEvent,
		} {
			if ids, err := h.Join(t.Context(), []string{"live", name}, nil); !errors.Is(err, want) || ids != nil {
				t.Errorf("join %s: %v", name, err)
			}
		}
		if len(h.Joined()) != 0 {
			t.Error("a refused join has joined something")
		}
		modes(t, h.dir)
	})
}

// modes looks that nobody else can read the state folder.
func modes(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !d.IsDir() {
			files++
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
		}
		return nil
	})
	if err != nil || files < 4 {
		t.Errorf("%d files, %v", files, err)
	}
}

func TestTicketsThatAreNotTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", time.Hour)
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, receiverAddr)
		h.login()
		f.set(func() {
			f.groups["g2"] = []*wire.Entry{entry("second", time.Hour)}
			f.changeTickets = func(a *wire.TicketsAnswer) {
				for i := range a.Tickets {
					if a.Tickets[i].Group == "g1" {
						a.Tickets[i].Entries[0] = entry("forged", time.Hour).Encode()
					}
				}
			}
		})
		if err := h.FetchTickets(t.Context()); !errors.Is(err, wire.ErrEntryNotListed) {
			t.Errorf("%v", err)
		}
		// The good one is taken, the group of the bad one stays as it was.
		if len(h.Entries()) != 2 || h.Entries()[0].Title != "live" || h.Entries()[1].Title != "second" {
			t.Errorf("%+v", h.Entries())
		}
		if s := h.Status(); !strings.Contains(s.LastError, "g1") {
			t.Errorf("status says %q", s.LastError)
		}
		// A removed event loses its policies only with a ticket that lacks it.
		f.set(func() { f.changeTickets, f.groups = nil, map[string][]*wire.Entry{"g1": nil} })
		if err := h.FetchTickets(t.Context()); err != nil {
			t.Error(err)
		}
		if len(h.Entries()) != 0 || len(h.db.Snapshot().Policies()) != 0 {
			t.Errorf("%+v", h.Entries())
		}
	})
}

// An answer that was held up on its way must not undo a newer one: the selectors
// of what that one brought would be gone until the next fetch.
func TestOldAnswerDoesNotUndoANewerOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		f.set(func() { f.groups["g1"] = []*wire.Entry{entry("live", time.Hour)} })
		h := newHost(t, f, receiverAddr)
		h.login()
		held, first := make(chan struct{}), make(chan error)
		f.set(func() { f.version++; f.holdTickets = held })
		go func() { first <- h.FetchTickets(t.Context()) }()
		synctest.Wait()
		f.set(func() {
			f.version++
			f.groups["g2"] = []*wire.Entry{entry("second", time.Hour)}
		})
		second := make(chan error, 1)
		go func() { second <- h.FetchTickets(t.Context()) }()
		synctest.Wait()
		close(held)
		if err := errors.Join(<-first, <-second); err != nil {
			t.Error(err)
		}
		if len(h.Entries()) != 2 || len(h.db.Snapshot().Policies()) != 2 {
			t.Errorf("%+v", h.Entries())
		}
	})
}

// Editions wrap: what comes after the last one is newer than it, as for the server.
func TestEditionsWrap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		before, after := entry("live", time.Hour), entry("live", time.Hour)
		before.Title, before.Edition = "before", 65535
		after.Title, after.Edition = "after", 1
		for _, groups := range []map[string][]*wire.Entry{{"g1": {before}, "g2": {after}}, {"g1": {after}, "g2": {before}}} {
			f.set(func() { f.version++; f.groups = groups })
			h := newHost(t, f, receiverAddr)
			h.login()
			if e := h.Entries(); len(e) != 1 || e[0].Title != "after" || len(e[0].Groups) != 2 {
				t.Errorf("%+v", e)
			}
		}
	})
}

func TestExpiredTicketStaysInForce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 30*time.Hour)
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, receiverAddr)
		h.login()
		f.network.setDown(ticketAddress, true)
		pass(26 * time.Hour) // certificate and ticket have ended
		h.end()
		h.start()
		synctest.Wait()
		if s := h.Status(); s.LoggedIn || len(h.Entries()) != 1 || len(h.db.Snapshot().Policies()) != 1 {
			t.Errorf("%+v, %d policies", s, len(h.db.Snapshot().Policies()))
		}
		// A damaged cache is told, and keeps nothing from starting.
		h.end()
		path := filepath.Join(h.dir, "tickets", "tickets.json")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Replace(raw, []byte(`"entries":["ey`), []byte(`"entries":["ez`), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		h.start()
		if s := h.Status(); s.LastError == "" || len(s.Events) != 0 {
			t.Errorf("damaged cache: %+v", s)
		}
	})
}

func TestLoginRefusals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f, other := newFakeServer(t), newFakeServer(t)
		h := newHost(t, f, receiverAddr)
		_, err := h.Login(t.Context(), keyclient.Login{Name: "alice", Password: []byte("wrong")})
		if p, is := errors.AsType[*wire.Problem](err); !errors.Is(err, keyclient.ErrRefused) || !is || p.Code != wire.CodeBadLogin {
			t.Errorf("wrong password: %v", err)
		}
		_, err = h.Login(t.Context(), keyclient.Login{Name: "alice", Password: []byte("correct horse"), CASHA256: other.fingerprint()})
		if !errors.Is(err, keyclient.ErrCA) {
			t.Errorf("another CA: %v", err)
		}
		_, err = h.Login(t.Context(), keyclient.Login{Name: "alice", Password: []byte("correct horse"), Server: "https://192.0.2.9:7440"})
		if !errors.Is(err, keyclient.ErrServer) {
			t.Errorf("no server: %v", err)
		}
		_, err = h.Login(t.Context(), keyclient.Login{Name: "alice", Password: []byte("correct horse"), CASHA256: "12"})
		if !errors.Is(err, keyclient.ErrNotConfigured) {
			t.Errorf("short fingerprint: %v", err)
		}
		if h.Status().LoggedIn || f.counted("login") != 0 || other.counted("login") != 0 {
			t.Error("logged in after all")
		}
	})
}

// What a server says of a refusal is shown to people: it must not talk to their
// terminal, nor begin a line of a log.
func TestRefusalIsPrintable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		h := newHost(t, f, receiverAddr)
		f.set(func() { f.detail = "no\x1b]0;owned\a\nfake=line\u202egnp" })
		_, err := h.Login(t.Context(), keyclient.Login{Name: "alice", Password: []byte("wrong")})
		p, is := errors.AsType[*wire.Problem](err)
		if !is || p.Detail != "no?]0;owned??fake=line?gnp" {
			t.Errorf("%q", err)
		}
	})
}

func TestLogoutForgetsEverything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 0)
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "live")
		pass(4 * time.Second)
		if len(h.sas()) == 0 {
			t.Fatalf("not keyed: %+v", h.event("live"))
		}
		if err := h.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		snapshot := h.db.Snapshot()
		if len(snapshot.SAs()) != 0 || len(snapshot.Policies()) != 0 || len(h.Events()) != 0 || h.Status().LoggedIn {
			t.Errorf("left: %+v", h.Status())
		}
		err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				t.Errorf("%s is left", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestSeveralEventsOfOneTitle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		one, two := entry("news", time.Hour), entry("news", time.Hour)
		two.ID[15] = 1
		f.set(func() { f.groups["g1"] = []*wire.Entry{one, two} })
		h := newHost(t, f, receiverAddr)
		h.login()
		_, err := h.Join(t.Context(), []string{"news"}, nil)
		if a, is := errors.AsType[*keyclient.AmbiguousError](err); !is || len(a.IDs) != 2 || !strings.Contains(err.Error(), two.ID.String()) {
			t.Errorf("%v", err)
		}
		h.join(nil, two.ID.String())
		if _, err := h.Leave(t.Context(), []string{"news"}); err != nil {
			t.Errorf("the joined one is meant: %v", err)
		}
	})
}
