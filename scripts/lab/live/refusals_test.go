package live

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRefusals: what a user may not do, or does wrongly, ends in one clear line and
// an exit status that is not 0.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.manage("group", "add", "Left", "--parent", everybody)
	w.manage("group", "add", "Right", "--parent", everybody)
	studio, viewer := w.station("studio", "10.77.0.2", "Left"), w.station("viewer", "10.77.0.11", "Left")
	stranger, nobody := w.station("stranger", "10.77.0.12", "Right"), w.host("nobody", "10.77.0.13")
	nobody.start()
	news := w.add(event{title: "News", group: "Left", sender: studio, flows: []string{"udp/232.1.2.3/5004"}})
	first := w.add(event{title: "Twin", sender: studio, group: "Left", flows: []string{"udp/232.1.2.4/5004"}})
	second := w.add(event{title: "Twin", sender: studio, group: "Left", flows: []string{"udp/232.1.2.5/5004"}})
	studio.join("News")
	viewer.join("News")

	t.Run("no_ticket", func(t *testing.T) {
		nobody.on(t).refused(5, "not_logged_in", []string{"not logged in"}, "join", "News")
	})
	t.Run("unknown_title", func(t *testing.T) {
		viewer.on(t).refused(1, "no_such_event", []string{`"Olds"`}, "join", "Olds")
		// All or none: what is known beside it is not joined either.
		viewer.on(t).refused(1, "no_such_event", []string{`"Olds"`}, "join", first, "Olds")
		for _, e := range viewer.on(t).events().Events {
			if e.ID == first && e.Joined {
				t.Error("half of a refused join was done")
			}
		}
	})
	t.Run("one_title_two_events", func(t *testing.T) {
		s := viewer.on(t)
		s.refused(1, "ambiguous", []string{"Twin", first, second}, "join", "Twin")
		s.join(second)
		for _, e := range s.events().Events {
			if e.Title == "Twin" && e.Joined != (e.ID == second) {
				t.Errorf("joined by id %s: %+v", second, e)
			}
		}
	})
	t.Run("another_branch", func(t *testing.T) {
		s := stranger.on(t)
		if e := s.events().event("News"); e != nil {
			t.Errorf("the ticket of another branch has %+v", e)
		}
		s.refused(1, "no_such_event", []string{"News"}, "join", "News")
		s.refused(1, "no_such_event", []string{news}, "join", news)
	})
	t.Run("forced_request", func(t *testing.T) {
		// The stranger's agent is given the other branch's ticket, and cannot
		// reach the ticket server to be given its own.
		s := stranger.on(t)
		s.swapTickets(func(file string) {
			text, err := os.ReadFile(ticketsOf(viewer))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
		})
		stranger.agent = s.agent
		s.fails("refused", []string{"group"}, "News")
		if held := s.sas(); len(held.SAs) > 0 {
			t.Errorf("it holds %+v", held.SAs)
		}
		s.unblock()
	})
	t.Run("receiver_asks_to_send", func(t *testing.T) {
		viewer.on(t).refused(1, "host", []string{"10.77.0.2", "10.77.0.11"}, "join", first, "--send")
		// One that has the address, but is not registered as the sender.
		w.add(event{title: "Guest", group: "Left", address: "10.77.0.11", flows: []string{"udp/232.1.2.6/5004"}})
		viewer.on(t).fails("refused", []string{"not registered to send"}, "Guest")
		for _, sa := range viewer.sas().SAs {
			if sa.Title == "Guest" {
				t.Errorf("it holds %+v", sa)
			}
		}
	})
	t.Run("sender_without_the_address", func(t *testing.T) {
		w.add(event{title: "Elsewhere", group: "Left", sender: studio, address: "10.77.0.99", flows: []string{"udp/232.1.2.7/5004"}})
		studio.on(t).refused(1, "host", []string{"10.77.0.99", "10.77.0.2", "eth0"}, "join", "Elsewhere")
	})
	t.Run("another_ca", func(t *testing.T) {
		s := nobody.on(t)
		s.write("password", password("viewer")+"\n")
		other := strings.Repeat("0", 64)
		s.refused(1, "server", []string{"ca_sha256", other}, "login", w.ca.URL, "--ca-sha256", other, "--name", "viewer", "--password-file", "/etc/usher/password")
		if st := s.status(); st.Server.LoggedIn {
			t.Error("it is logged in")
		}
	})
	t.Run("wrong_password", func(t *testing.T) {
		s := nobody.on(t)
		s.write("password", "not the password\n")
		s.refused(1, "server", []string{"name or password is wrong"}, "login", "--name", "viewer", "--password-file", "/etc/usher/password")
		s.refused(1, "server", []string{"name or password is wrong"}, "login", "--name", "who is that", "--password-file", "/etc/usher/password")
	})
	t.Run("suspended", func(t *testing.T) {
		w.manage("client", "suspend", "viewer")
		eventually(t, "the suspension", func() error {
			s := viewer.on(t)
			s.usher("leave", first)
			o := s.usher("join", "--wait", "4s", "--json", first)
			if o.status != 1 || !strings.Contains(o.stdout, "suspended") {
				return &joinError{o}
			}
			return nil
		})
		w.manage("client", "restore", "viewer")
		eventually(t, "the end of the suspension", func() error {
			s := viewer.on(t)
			s.usher("leave", first)
			if o := s.usher("join", "--wait", "4s", "--json", first); o.status != 0 {
				return &joinError{o}
			}
			return nil
		})
	})
	t.Run("forged_ticket", func(t *testing.T) {
		s := viewer.on(t)
		s.swapTickets(func(file string) {
			editTickets(t, file, func(k *tickets) {
				entry := []byte(k.Tickets[0].Entries[0])
				entry[len(entry)/2] ^= 1
				k.Tickets[0].Entries[0] = string(entry)
			})
		})
		viewer.agent = s.agent
		named := func(line string) bool {
			return strings.Contains(line, "tickets.json") && strings.Contains(line, "Left")
		}
		if said := s.agent.lines(t); !slices.ContainsFunc(said, named) {
			t.Errorf("the log does not name the forged ticket: %q", said)
		}
		s.refused(1, "no_such_event", []string{"News"}, "join", "News")
		s.unblock()
		s.join("News") // the daemon runs on, and fetches a good one
	})
	t.Run("expired_ticket", func(t *testing.T) {
		s := viewer.on(t)
		s.swapTickets(func(file string) {
			editTickets(t, file, func(k *tickets) { k.Tickets[0].Certificate = expired(t, w, k.Tickets[0].Certificate) })
		})
		viewer.agent = s.agent
		s.fails("refused", []string{"expired"}, "News")
		s.unblock()
		s.usher("join", "--wait", "0s", "no such title: fetches the tickets")
		eventually(t, "keys by a new ticket", func() error {
			if e := s.events().event("News"); e.State != "keyed" {
				return &stateError{*e}
			}
			return nil
		})
	})
}

type joinError struct{ outcome }

func (e *joinError) Error() string { return e.stdout + e.err }

type stateError struct{ eventAnswer }

func (e *stateError) Error() string { return e.Title + " is " + e.State + ": " + e.Detail }

// tickets is the agent's cache.
type tickets struct {
	ETag    string   `json:"etag"`
	Tickets []ticket `json:"tickets"`
	Sends   []string `json:"sends"`
}

type ticket struct {
	Group       string   `json:"group"`
	Entries     []string `json:"entries"`
	Certificate string   `json:"certificate"`
}

func ticketsOf(s *station) string {
	return filepath.Join(s.Path("/var/lib/usher"), "tickets", "tickets.json")
}

// swapTickets stops the agent, has its cache edited, cuts it off from the ticket
// server, and starts it again.
func (s *station) swapTickets(edit func(file string)) {
	s.t.Helper()
	s.stop()
	edit(ticketsOf(s))
	s.shell("nft", "add table ip cut; add chain ip cut out { type filter hook output priority 0; }; add rule ip cut out tcp dport 7440 reject with tcp reset")
	s.start()
}

// unblock lets a host reach the ticket server again.
func (s *station) unblock() {
	s.t.Helper()
	s.shell("nft", "delete table ip cut")
}

func editTickets(t *testing.T, file string, edit func(*tickets)) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var k tickets
	if err := json.Unmarshal(text, &k); err != nil || len(k.Tickets) == 0 || len(k.Tickets[0].Entries) == 0 {
		t.Fatalf("%s: %v: %s", file, err, text)
	}
	edit(&k)
	if text, err = json.Marshal(k); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// expired is a ticket's certificate that ended a minute ago, signed by the server's
// own key: all but the time is right.
func expired(t *testing.T, w *world, certificate string) string {
	t.Helper()
	parts := strings.Split(certificate, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Group   string   `json:"group"`
		Entries []string `json:"entries"`
		NBF     int64    `json:"nbf"`
		Exp     int64    `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	claims.Exp = time.Now().Add(-time.Minute).Unix()
	if payload, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(w.server.Path("/var/lib/usher-server"), "ticket.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key.(ed25519.PrivateKey), []byte(signed)))
}
