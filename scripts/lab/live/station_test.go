package live

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"usher/scripts/lab"
)

// station is a host with an agent, and a client that is registered by its name.
type station struct {
	*lab.Host
	t     *testing.T
	world *world
	agent *process // nil while it does not run
}

// host makes a host without a client, and a TOML that names the server.
func (w *world) host(name, address string) *station {
	w.t.Helper()
	s := &station{Host: w.lab.TestHost(w.t, name, address+"/24"), t: w.t, world: w}
	s.configure("")
	return s
}

// station makes a host with a client of these groups that is logged in.
func (w *world) station(name, address string, groups ...string) *station {
	w.t.Helper()
	w.client(name, groups...)
	s := w.host(name, address)
	s.start()
	s.login()
	return s
}

// on gives the same host to a subtest.
func (s *station) on(t *testing.T) *station {
	c := *s
	c.t = t
	return &c
}

// configure writes the agent's TOML.
func (s *station) configure(more string) {
	s.t.Helper()
	s.write("usher.toml", fmt.Sprintf("server = %q\nca_sha256 = %q\n%s", s.world.ca.URL, s.world.ca.SHA256, more))
}

// write writes a file into the host's /etc/usher.
func (s *station) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.Path("/etc/usher"), name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// start starts the agent and waits until it answers.
func (s *station) start() {
	s.t.Helper()
	s.agent = spawn(s.world.t, s.Host, filepath.Join(s.world.dir, s.Name()+".log"), s.world.program("usher"), "agent")
	eventually(s.t, "the agent of "+s.Name(), func() error {
		if s.agent.ended() {
			s.t.Fatalf("the agent of %s ended: %v: %s", s.Name(), s.agent.err, strings.Join(s.agent.lines(s.t), "\n"))
		}
		if o := s.usher("status", "--json"); o.status != 0 {
			return fmt.Errorf("status %d: %s", o.status, o.stdout)
		}
		return nil
	})
}

// stop ends the agent as systemd does.
func (s *station) stop() {
	s.t.Helper()
	s.agent.end(s.t, syscall.SIGTERM)
}

// login logs the host in under its name.
func (s *station) login() {
	s.t.Helper()
	s.write("password", password(s.Name())+"\n")
	s.must("login", "--name", s.Name(), "--password-file", "/etc/usher/password")
}

// usher runs a command to its end, whatever its end is.
func (s *station) usher(args ...string) outcome {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return ran(s.t, s.Command(ctx, s.world.program("usher"), args...))
}

// must runs a command that has to succeed.
func (s *station) must(args ...string) string {
	s.t.Helper()
	o := s.usher(args...)
	if o.status != 0 {
		s.t.Fatalf("%s: usher %s: exit status %d: %s%s", s.Name(), strings.Join(args, " "), o.status, o.stdout, o.err)
	}
	return o.stdout
}

// ip runs a command of the system's on the host that has to succeed.
func (s *station) shell(name string, args ...string) string {
	s.t.Helper()
	out, err := s.Run(s.t.Context(), name, args...)
	if err != nil {
		s.t.Fatalf("%s: %v", s.Name(), err)
	}
	return out
}

// read runs a command with --json and decodes its answer.
func read[T any](s *station, args ...string) *T {
	s.t.Helper()
	v := new(T)
	text := s.must(append(args, "--json")...)
	if err := json.Unmarshal([]byte(text), v); err != nil {
		s.t.Fatalf("%s: usher %s --json: %v: %s", s.Name(), strings.Join(args, " "), err, text)
	}
	return v
}

func (s *station) status() *statusAnswer {
	s.t.Helper()
	return read[statusAnswer](s, "status")
}

func (s *station) events() *eventsAnswer {
	s.t.Helper()
	return read[eventsAnswer](s, "events")
}

func (s *station) sas() *sasAnswer {
	s.t.Helper()
	return read[sasAnswer](s, "sa")
}

// join joins events and expects keys of all of them.
func (s *station) join(titles ...string) {
	s.t.Helper()
	joined := read[eventsAnswer](s, append([]string{"join"}, titles...)...)
	if len(joined.Events) != len(titles) {
		s.t.Fatalf("%s: usher join %q tells of %d events", s.Name(), titles, len(joined.Events))
	}
	for _, e := range joined.Events {
		if e.State != "keyed" {
			s.t.Fatalf("%s: usher join %q: %s is %s: %s", s.Name(), titles, e.Title, e.State, e.Detail)
		}
	}
}

// refused runs a command that has to fail: with this exit status and code, one
// line on stderr that begins "usher: " (and perhaps a hint), and each of the words
// in it. It returns the line.
func (s *station) refused(status int, code string, words []string, args ...string) string {
	s.t.Helper()
	o := s.usher(args...)
	line, rest, _ := strings.Cut(strings.TrimSuffix(o.err, "\n"), "\n")
	if o.status != status || !strings.HasPrefix(line, "usher: ") || rest != "" && (!strings.HasPrefix(rest, "hint: ") || strings.Contains(rest, "\n")) {
		s.t.Errorf("%s: usher %s: exit status %d, want %d and one line: %q, stdout %q", s.Name(), strings.Join(args, " "), o.status, status, o.err, o.stdout)
	}
	for _, word := range words {
		if !strings.Contains(line, word) {
			s.t.Errorf("%s: usher %s: %q does not name %q", s.Name(), strings.Join(args, " "), line, word)
		}
	}
	var f failure
	j := s.usher(append(args, "--json")...)
	if err := json.Unmarshal([]byte(j.stdout), &f); err != nil || f.Error.Code != code || j.status != status {
		s.t.Errorf("%s: usher %s --json: exit status %d, code %q, want %d and %q: %v: %s", s.Name(), strings.Join(args, " "), j.status, f.Error.Code, status, code, err, j.stdout)
	}
	return line
}

// fails joins an event that is known but not given: exit status 1, state and
// words of the detail. It returns the detail.
func (s *station) fails(state string, words []string, args ...string) string {
	s.t.Helper()
	o := s.usher(append([]string{"join", "--json"}, args...)...)
	var joined eventsAnswer
	if err := json.Unmarshal([]byte(o.stdout), &joined); err != nil || len(joined.Events) != 1 {
		s.t.Fatalf("%s: usher join %q: exit status %d: %s%s", s.Name(), args, o.status, o.stdout, o.err)
	}
	e := joined.Events[0]
	if o.status != 1 || e.State != state {
		s.t.Errorf("%s: usher join %q: exit status %d and state %s (%s), want 1 and %s", s.Name(), args, o.status, e.State, e.Detail, state)
	}
	for _, word := range words {
		if !strings.Contains(e.Detail, word) {
			s.t.Errorf("%s: usher join %q: detail %q does not name %q", s.Name(), args, e.Detail, word)
		}
	}
	return e.Detail
}

// eventsOnceHeld fetches the tickets anew where they lack an event, by asking to
// join one that does not exist, and returns the list that has all of them.
func (s *station) eventsOnceHeld(t *testing.T, titles ...string) *eventsAnswer {
	t.Helper()
	var list *eventsAnswer
	eventually(t, "the events in the tickets of "+s.Name(), func() error {
		list = s.events()
		for _, title := range titles {
			if list.event(title) == nil {
				s.usher("join", "--wait", "0s", "no such title: fetches the tickets")
				return fmt.Errorf("%s is missing", title)
			}
		}
		return nil
	})
	return list
}
