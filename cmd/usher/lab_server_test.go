package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/cmd/usher/control"
	"usher/keyclient/clock"
	"usher/scripts/lab"
	"usher/server"
	"usher/server/store"
	"usher/server/ticket"
)

// management is a server in a host of a lab, run by the test itself.
type management struct {
	t      *testing.T
	host   *lab.Host
	config server.Config
	ca     string // fingerprint
	stop   func()
}

// newManagement sets a server up and starts it.
func newManagement(t *testing.T, l *lab.Lab) *management {
	t.Helper()
	m := &management{t: t, host: l.TestHost(t, "server", "10.77.0.1/24"), config: server.DefaultConfig()}
	m.config.Hosts = []string{"10.77.0.1"}
	m.config.State = m.host.Path("/var/lib/usher-server")
	m.config.Database = filepath.Join(m.config.State, "usher.db")
	if err := server.Setup(t.Context(), m.config, "", time.Now()); err != nil {
		t.Fatal(err)
	}
	ca, err := ticket.ReadCA(m.config.State)
	if err != nil {
		t.Fatal(err)
	}
	m.ca = ticket.Fingerprint(ca)
	m.start()
	return m
}

// start runs the server until stop, or the end of the test.
func (m *management) start() {
	m.t.Helper()
	var s *server.Server
	if err := m.host.Do(func() (err error) {
		s, err = server.New(context.Background(), m.config, server.Options{Log: slog.New(slog.DiscardHandler), Clock: clock.System()})
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- errors.Join(s.Run(ctx), s.Close()) }()
	stopped := false
	m.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("server: %v", err)
		}
	}
	m.t.Cleanup(m.stop)
}

// update changes the store as the server's own commands do.
func (m *management) update(change func(ctx context.Context, tx store.Tx) error) {
	m.t.Helper()
	ctx := m.t.Context()
	s, err := server.OpenStore(ctx, m.config)
	if err != nil {
		m.t.Fatal(err)
	}
	_, err = s.Update(ctx, func(tx store.Tx) error { return change(ctx, tx) })
	if err := errors.Join(err, s.Close()); err != nil {
		m.t.Fatal(err)
	}
}

// password is everybody's.
const password = "correct horse battery staple"

// people adds a group and clients in it.
func (m *management) people(group string, names ...string) {
	m.t.Helper()
	hash, err := ticket.HashPassword(password)
	if err != nil {
		m.t.Fatal(err)
	}
	m.update(func(ctx context.Context, tx store.Tx) error {
		g, err := tx.AddGroup(ctx, group)
		if err != nil {
			return err
		}
		for _, name := range names {
			if _, err := tx.AddClient(ctx, name, hash, []uint32{g.Number}); err != nil {
				return err
			}
		}
		return nil
	})
}

// event adds an event of one group and sender that starts at an instant.
func (m *management) event(title, group, destination string, source netip.Addr, start time.Time, duration time.Duration, sender string) {
	m.t.Helper()
	flow, err := server.ParseFlow("udp/" + destination + "/5004")
	if err != nil {
		m.t.Fatal(err)
	}
	spec := server.DefaultEventSpec()
	spec.Title, spec.Group, spec.Senders, spec.Flows = title, group, []netip.Addr{source}, []store.Flow{flow}
	spec.KeyServers = []string{m.config.KeyURL()}
	spec.Interval, spec.Initial = 2*time.Second, 2*time.Second
	spec.Time = store.TimeExpression{Start: start.UTC().Format("20060102T150405Z"), Duration: fmt.Sprintf("PT%dS", int(duration.Seconds()))}
	m.update(func(ctx context.Context, tx store.Tx) error {
		e, err := server.AddEvent(ctx, tx, spec, time.Now())
		if err != nil {
			return err
		}
		return server.Associate(ctx, tx, e, sender, store.RoleSend)
	})
}

// newMember makes a host with an agent that is logged in.
func (m *management) newMember(l *lab.Lab, bin, name, cidr string) *station {
	m.t.Helper()
	s := newStation(m.t, l, bin, name, cidr, "follow_programs = true\n")
	s.write("password", password+"\n")
	s.start()
	out := s.must("login", m.config.TicketURL(), "--ca-sha256", m.ca, "--name", name, "--password-file", "/etc/usher/password")
	if !strings.Contains(out, "Logged in at "+m.config.TicketURL()) || !strings.Contains(out, "Wrote server and ca_sha256 to /etc/usher/usher.toml") {
		m.t.Errorf("login says %s", out)
	}
	return s
}

// soon is the next whole second that is at least d away.
func soon(d time.Duration) time.Time { return time.Now().Add(d + time.Second).Truncate(time.Second) }

// TestServerKeys: two events from one server, one each way. Agents log in, see
// their events, join, play, are killed and go on by themselves; a suspended
// receiver goes dark and says so.
func TestServerKeys(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	m := newManagement(t, l)
	m.people("News", "left", "right")
	left := m.newMember(l, bin, "left", "10.77.0.2/24")
	right := m.newMember(l, bin, "right", "10.77.0.3/24")
	if out := left.must("events"); !strings.Contains(out, "hold no event") {
		t.Errorf("events: %s", out)
	}
	start := soon(4 * time.Second)
	m.event("Match", "News", "232.1.2.3", left.Addr(), start, 5*time.Minute, "left")
	m.event("Reply", "News", "232.1.2.4", right.Addr(), start, 5*time.Minute, "right")

	// Tickets arrive by themselves, at the latest with the next login.
	for _, s := range []*station{left, right} {
		s.must("login", "--name", s.Name(), "--password-file", "/etc/usher/password")
		s.eventually("two events", func() error {
			if n := len(read[control.Events](s, "events").Events); n != 2 {
				return fmt.Errorf("%d events", n)
			}
			return nil
		})
	}
	if out := left.must("events"); !strings.Contains(out, "you send") || !strings.Contains(out, "you receive") {
		t.Errorf("roles: %s", out)
	}
	// Before a key nothing leaves, and a program that sends runs on.
	program := left.program()
	if _, err := program.WriteToUDPAddrPort([]byte("early"), streamGroup); err != nil {
		t.Errorf("before the first key: %v", err)
	}

	joins := make(chan error, 2)
	for _, s := range []*station{left, right} {
		go func() {
			out, err := s.usher("join", "Match", "Reply")
			if err == nil && strings.Count(out, "joined, the key is there") != 2 {
				err = errors.New(out)
			}
			joins <- err
		}()
	}
	for range 2 {
		if err := <-joins; err != nil {
			t.Fatal(err)
		}
	}
	reply := netip.MustParseAddrPort("232.1.2.4:5004")
	atRight, atLeft, back := right.play(streamGroup, left.Addr()), left.play(reply, right.Addr()), right.program()
	left.eventually("the start", func() error {
		if time.Now().Before(start) {
			return errors.New("not yet")
		}
		return nil
	})
	flood(t, program, streamGroup, atRight)
	flood(t, back, reply, atLeft)

	// A restart, by SIGKILL: the agent keys again with nobody at the keyboard.
	right.kill()
	right.start()
	right.eventually("its keys", right.keyed("Match", "Reply"))
	flood(t, program, streamGroup, atRight)
	left.kill()
	left.start()
	left.eventually("its keys", left.keyed("Match", "Reply"))
	flood(t, program, streamGroup, atRight)

	// The server is away for less than an interval; then right is suspended.
	m.stop()
	m.start()
	flood(t, program, streamGroup, atRight)
	m.update(func(ctx context.Context, tx store.Tx) error {
		c, err := tx.Client(ctx, "right")
		if err != nil {
			return err
		}
		return tx.Suspend(ctx, c.Number, "operator", "test")
	})
	right.eventually("the withheld key", func() error {
		for _, e := range read[control.Events](right, "events").Events {
			if e.Title == "Match" && e.Joined && e.State == "withheld" && e.Keys == 0 {
				return nil
			}
		}
		return errors.New("it is keyed")
	})
	if _, err := right.usher("join", "Match"); err == nil || !strings.Contains(err.Error(), "Match") {
		t.Errorf("a join of a suspended client: %v", err)
	}

	// Leave and logout: what is left is clean.
	if out := left.must("leave", "Reply"); !strings.Contains(out, "Reply: left") {
		t.Errorf("leave: %s", out)
	}
	left.must("logout")
	if st := read[control.Status](left, "status"); st.State != control.StateIdle || st.Guard.Active || len(st.Events) != 0 {
		t.Errorf("after the logout: %+v", st)
	}
	if _, err := left.usher("join", "Match"); err == nil || !strings.Contains(err.Error(), "not logged in") {
		t.Errorf("join after the logout: %v", err)
	}
}

// keyed looks for events that have a key.
func (s *station) keyed(titles ...string) func() error {
	return func() error {
		for _, title := range titles {
			ok := false
			for _, e := range read[control.Status](s, "status").Events {
				ok = ok || e.Title == title && e.State == "keyed"
			}
			if !ok {
				return fmt.Errorf("%s is not keyed", title)
			}
		}
		return nil
	}
}
