package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"usher/scripts/lab"
)

// show is one run of the event: the lab, its processes, and what is noted on the way.
type show struct {
	lab      *lab.Lab
	hosts    map[string]*lab.Host
	dir, bin string
	began    time.Time
	start    time.Time // of the event
	record   *record

	mu  sync.Mutex // guards out
	out io.Writer

	server *process
	agents map[string]*process
}

// record is what the show leaves for counting: files and instants.
type record struct {
	start, end time.Time
	captures   map[string]string // host (or "bridge") → pcap
	sentFrames string            // framecrc of the sender
	decoded    map[string]string // host → framecrc of its player
	thumbnails map[string]string // host → folder of pictures

	mu            sync.Mutex // guards the two below while the show runs
	playerStarted map[string]time.Time
	joined        map[string]time.Time // when `usher join` was called

	bobKilled, bobBack       time.Time
	serversDown, serversBack time.Time
	suspended                time.Time
	bobKeys                  []string // SPIs that bob held, by his agent's word
	keys                     map[string]exportedKey

	senderRanBefore time.Time // ffmpeg's start
	senderExit      int

	ears       map[string]*ear
	outsider   *outsider
	malloryMAC string
	refusal    string // what `usher join` told mallory
	refused    bool
}

// exportedKey is an association of `usher sa --show-keys`.
type exportedKey struct {
	SPI       string `json:"spi"`
	Transform string `json:"transform"`
	Key       string `json:"key"`
}

func newShow(l *lab.Lab, out io.Writer, dir, bin string) (*show, error) {
	s := &show{
		lab: l, out: out, dir: dir, bin: bin, began: time.Now(),
		hosts: map[string]*lab.Host{}, agents: map[string]*process{},
		record: &record{
			captures: map[string]string{}, decoded: map[string]string{}, thumbnails: map[string]string{},
			playerStarted: map[string]time.Time{}, joined: map[string]time.Time{}, keys: map[string]exportedKey{},
			ears: map[string]*ear{},
		},
	}
	for _, name := range hostNames {
		host, err := l.Host(name, addresses[name])
		if err != nil {
			return nil, err
		}
		s.hosts[name] = host
	}
	for _, name := range receivers {
		s.record.decoded[name] = filepath.Join(dir, name+".framecrc")
		s.record.thumbnails[name] = filepath.Join(dir, name+"-frames")
	}
	s.record.captures["mallory"] = filepath.Join(dir, "mallory-eth0.pcap")
	return s, nil
}

// say prints a line of progress with the time since the event's start, or since
// the demo began where there is no event yet.
func (s *show) say(format string, args ...any) {
	since := time.Since(s.began)
	mark := " "
	if !s.start.IsZero() {
		since, mark = time.Since(s.start), "T"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "%s%+6.1f s  %s\n", mark, since.Seconds(), fmt.Sprintf(format, args...))
}

// until waits for an instant of the script.
func (s *show) until(ctx context.Context, at time.Duration) error {
	timer := time.NewTimer(time.Until(s.start.Add(at)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// usher runs a command of the client on a host and returns its standard output.
func (s *show) usher(ctx context.Context, host string, args ...string) (string, error) {
	return s.hosts[host].Run(ctx, filepath.Join(s.bin, "usher"), args...)
}

// manage runs a command of the management server on its host.
func (s *show) manage(ctx context.Context, args ...string) (string, error) {
	return s.hosts["server"].Run(ctx, filepath.Join(s.bin, "usher-server"), args...)
}

// play runs the script from an empty lab to the end of the event.
func (s *show) play(ctx context.Context) (*record, error) {
	// What is started below ends with this context at the latest.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, step := range []func(context.Context) error{
		s.startServer, s.register, s.startAgents, s.createEvent, s.logIn, s.startCaptures, s.perform,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return s.record, nil
}

// startServer makes CA, keys and database and starts both roles in one process.
func (s *show) startServer(ctx context.Context) error {
	s.say("server: usher-server init, and both roles on SQLite")
	address, _, _ := strings.Cut(addresses["server"], "/")
	if _, err := s.manage(ctx, "init", "--address", address); err != nil {
		return err
	}
	if err := s.runServer(ctx); err != nil {
		return err
	}
	return nil
}

// runServer starts the server's process and waits until it answers.
func (s *show) runServer(ctx context.Context) error {
	var err error
	s.server, err = s.spawn(ctx, "server", "server.log", filepath.Join(s.bin, "usher-server"), "run")
	if err != nil {
		return err
	}
	return s.answering(ctx)
}

// register makes the groups and clients of the demo.
func (s *show) register(ctx context.Context) error {
	s.say("server: groups Everybody → News → Foreign Desk, clients, passwords")
	groups := [][]string{
		{"group", "add", "Everybody"},
		{"group", "add", "News", "--parent", "Everybody"},
		{"group", "add", "Foreign Desk", "--parent", "News"},
	}
	for _, command := range groups {
		if _, err := s.manage(ctx, command...); err != nil {
			return err
		}
	}
	// The event is the group News's: bob is further down the graph.
	memberOf := map[string]string{"sender": "News", "alice": "News", "carol": "News", "bob": "Foreign Desk"}
	for client, group := range memberOf {
		file := s.hosts["server"].Path("/etc/usher-server") + "/" + client + ".password"
		if err := os.WriteFile(file, []byte(password(client)+"\n"), 0o600); err != nil {
			return err
		}
		inside := "/etc/usher-server/" + client + ".password"
		if _, err := s.manage(ctx, "client", "add", client, "--group", group, "--password-file", inside); err != nil {
			return err
		}
	}
	return nil
}

// password is a client's; nothing but the lab ever sees it.
func password(client string) string { return "the demo's password of " + client }

// createEvent adds the event. From here on the minute runs.
func (s *show) createEvent(ctx context.Context) error {
	s.record.start = time.Now().Add(untilStart + time.Second).Truncate(time.Second)
	s.record.end = s.record.start.Add(intervals * interval)
	if _, err := s.manage(ctx, "event", "add", title, "--group", "News",
		"--sender", senderAddress, "--flow", fmt.Sprintf("udp/%s/%d", group, port),
		"--start", s.record.start.UTC().Format(time.RFC3339), "--duration", (intervals * interval).String(),
		"--interval", interval.String(), "--initial", initial.String(), "--ttl", "8",
	); err != nil {
		return err
	}
	if _, err := s.manage(ctx, "event", "associate", title, "sender", "--role", "send"); err != nil {
		return err
	}
	s.start = s.record.start
	s.say("server: event %q for group News: interval %s, initial period %s, %d intervals", title, interval, initial, intervals)
	return nil
}

// startAgents writes a TOML for each client and starts its agent.
func (s *show) startAgents(ctx context.Context) error {
	s.say("an agent on each host, from its TOML")
	text, err := s.manage(ctx, "ca", "--json")
	if err != nil {
		return err
	}
	var ca struct {
		URL    string `json:"url"`
		SHA256 string `json:"ca_sha256"`
	}
	if err := json.Unmarshal([]byte(text), &ca); err != nil {
		return fmt.Errorf("usher-server ca --json: %w", err)
	}
	for _, name := range append([]string{"sender", "mallory"}, receivers...) {
		config := fmt.Sprintf("server = %q\nca_sha256 = %q\n", ca.URL, ca.SHA256)
		if name == "alice" {
			config += "show_keys = true # so that tshark can be shown the keys\n"
		}
		if err := os.WriteFile(s.hosts[name].Path("/etc/usher")+"/usher.toml", []byte(config), 0o600); err != nil {
			return err
		}
		file := s.hosts[name].Path("/etc/usher") + "/password"
		if err := os.WriteFile(file, []byte(password(name)+"\n"), 0o600); err != nil {
			return err
		}
		if err := s.startAgent(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// startAgent starts the agent of a host and waits until it answers.
func (s *show) startAgent(ctx context.Context, name string) error {
	agent, err := s.spawn(ctx, name, name+"-agent.log", filepath.Join(s.bin, "usher"), "agent")
	if err != nil {
		return err
	}
	s.agents[name] = agent
	return lab.Within(10*time.Second, "the agent of "+name, func() error {
		_, err := s.usher(ctx, name, "status", "--json")
		return err
	})
}

// logIn logs every client in; mallory has no account and is refused.
func (s *show) logIn(ctx context.Context) error {
	for _, name := range append([]string{"sender"}, receivers...) {
		if _, err := s.usher(ctx, name, "login", "--name", name, "--password-file", "/etc/usher/password"); err != nil {
			return err
		}
	}
	s.say("sender, alice, bob and carol: usher login")
	_, err := s.usher(ctx, "mallory", "join", title)
	if err == nil {
		return errors.New("mallory joined without a ticket")
	}
	s.record.refused, s.record.refusal = true, said(err)
	s.say("mallory: usher join is refused: %s", s.record.refusal)
	return nil
}

// said is the line that a refused command of the client wrote.
func said(err error) string {
	for line := range strings.Lines(err.Error()) {
		if at := strings.Index(line, "usher: "); at >= 0 {
			return strings.TrimSpace(line[at:])
		}
	}
	return strings.TrimSpace(err.Error())
}

// startCaptures begins to watch the bridge and each host's usher0.
func (s *show) startCaptures(ctx context.Context) error {
	bridge := filepath.Join(s.dir, "bridge.pcap")
	if _, err := s.lab.Capture(ctx, s.lab.Switch(), lab.DefaultBridge, bridge, "udp"); err != nil {
		return err
	}
	s.record.captures["bridge"] = bridge
	for _, name := range append([]string{"sender"}, receivers...) {
		direction := "inbound"
		if name == "sender" {
			direction = "outbound"
		}
		file := filepath.Join(s.dir, name+"-usher0.pcap")
		if _, err := s.lab.Capture(ctx, s.hosts[name], "usher0", file, direction, "and", "udp", "dst", "port", fmt.Sprint(port)); err != nil {
			return err
		}
		s.record.captures[name] = file
	}
	mac, err := s.hosts["mallory"].Run(ctx, "cat", "/sys/class/net/eth0/address")
	if err != nil {
		return err
	}
	s.record.malloryMAC = strings.TrimSpace(mac)
	return nil
}
