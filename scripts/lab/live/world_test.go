package live

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/scripts/lab"
)

// Where things are in every lab.
const (
	serverAddress = "10.77.0.1"
	espPort       = 4500
	everybody     = "Everybody" // the group of clients that are not told another
)

// authority is what `usher-server ca --json` prints, and a TOML needs.
type authority struct {
	URL    string `json:"url"`
	SHA256 string `json:"ca_sha256"`
}

// world is a lab with a management server.
type world struct {
	t      *testing.T
	lab    *lab.Lab
	bin    string
	dir    string // logs and captures
	server *lab.Host
	run    *process // usher-server run; nil while it does not
	ca     authority
}

// newWorld makes a lab with a server that runs, and the group [everybody].
func newWorld(t *testing.T) *world {
	t.Helper()
	w := bareWorld(t)
	w.server = w.lab.TestHost(t, "server", serverAddress+"/24")
	w.manage("init", "--address", serverAddress)
	w.startServer()
	w.manage("group", "add", everybody)
	w.readCA()
	return w
}

// bareWorld makes a lab without any host.
func bareWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, lab: lab.ForTest(t), bin: build(t), dir: t.TempDir()}
	t.Cleanup(func() { showLogs(t, w.dir) })
	return w
}

func (w *world) readCA() {
	w.t.Helper()
	if err := json.Unmarshal([]byte(w.manage("ca", "--json")), &w.ca); err != nil || w.ca.URL == "" || w.ca.SHA256 == "" {
		w.t.Fatalf("usher-server ca --json: %+v, %v", w.ca, err)
	}
}

// program is the path of one of the two programs.
func (w *world) program(name string) string { return filepath.Join(w.bin, name) }

// manage runs a command of the management server that has to succeed.
func (w *world) manage(args ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	out, err := w.server.Run(ctx, w.program("usher-server"), args...)
	if err != nil {
		w.t.Fatalf("usher-server %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// startServer runs both roles and waits until they answer.
func (w *world) startServer() {
	w.t.Helper()
	w.run = spawn(w.t, w.server, filepath.Join(w.dir, "server.log"), w.program("usher-server"), "run")
	answering(w.t, w.server, w.run, serverAddress+":7440", serverAddress+":7441")
}

// stopServer ends both roles.
func (w *world) stopServer() {
	w.t.Helper()
	w.run.end(w.t, syscall.SIGTERM)
	w.run = nil
}

// answering waits until a server accepts connections at its addresses.
func answering(t *testing.T, h *lab.Host, p *process, addresses ...string) {
	t.Helper()
	eventually(t, "the server's roles", func() error {
		if p.ended() {
			t.Fatalf("usher-server ended: %v", p.err)
		}
		return h.Do(func() error {
			for _, address := range addresses {
				conn, err := net.DialTimeout("tcp", address, time.Second)
				if err != nil {
					return err
				}
				conn.Close()
			}
			return nil
		})
	})
}

// client registers a client in groups, in [everybody] if none is named.
func (w *world) client(name string, groups ...string) {
	w.t.Helper()
	if len(groups) == 0 {
		groups = []string{everybody}
	}
	file := filepath.Join(w.server.Path("/etc/usher-server"), name+".password")
	if err := os.WriteFile(file, []byte(password(name)+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	args := []string{"client", "add", name, "--password-file", "/etc/usher-server/" + name + ".password"}
	for _, group := range groups {
		args = append(args, "--group", group)
	}
	w.manage(args...)
}

// password is a client's; nothing but the lab ever sees it.
func password(client string) string { return "the lab's password of " + client }

// event is one event as a test wants it. Zero values have defaults.
type event struct {
	title     string
	group     string   // of clients; everybody
	sender    *station // who sends, and whose address the entry has
	address   string   // instead of the sender's own
	flows     []string // udp/ADDRESS/PORTS
	in        time.Duration
	lasts     time.Duration // 2 min
	interval  time.Duration // 2 s
	initial   time.Duration // 3 s
	transform string
	more      []string // further flags
}

// add creates an event, associates its sender, and returns its id.
func (w *world) add(e event) string {
	w.t.Helper()
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&e.in, 2*time.Second)
	set(&e.lasts, 2*time.Minute)
	set(&e.interval, 2*time.Second)
	set(&e.initial, 3*time.Second)
	if e.group == "" {
		e.group = everybody
	}
	if e.address == "" {
		e.address = e.sender.Addr().String()
	}
	start := time.Now().Add(e.in + time.Second - 1).Truncate(time.Second)
	args := []string{"event", "add", e.title, "--group", e.group, "--sender", e.address,
		"--duration", e.lasts.String(), "--interval", e.interval.String(), "--initial", e.initial.String(), "--ttl", "4"}
	if !slices.Contains(e.more, "--start") {
		args = append(args, "--start", start.UTC().Format(time.RFC3339))
	}
	for _, flow := range e.flows {
		args = append(args, "--flow", flow)
	}
	if e.transform != "" {
		args = append(args, "--transform", e.transform)
	}
	var added struct {
		ID string `json:"id"`
	}
	text := w.manage(append(append(args, e.more...), "--json")...)
	if err := json.Unmarshal([]byte(text), &added); err != nil || added.ID == "" {
		w.t.Fatalf("usher-server event add --json: %v: %s", err, text)
	}
	if e.sender != nil {
		w.manage("event", "associate", added.ID, e.sender.Name(), "--role", "send")
	}
	return added.ID
}

// sniff captures what an interface sees into a file, until stop or the test's end.
func (w *world) sniff(h *lab.Host, iface string, filter ...string) *lab.Capture {
	w.t.Helper()
	file, err := os.CreateTemp(w.dir, h.Name()+"-*.pcap")
	if err != nil {
		w.t.Fatal(err)
	}
	file.Close()
	c, err := w.lab.Capture(w.t.Context(), h, iface, file.Name(), filter...)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// sniffBridge captures all UDP on the wire.
func (w *world) sniffBridge() *lab.Capture { return w.sniff(w.lab.Switch(), lab.DefaultBridge, "udp") }

// sniffAll captures what passes the switch, between two hosts, too: tcpdump makes
// the bridge take a copy of everything.
func (w *world) sniffAll(filter string) *lab.Capture {
	return w.sniff(w.lab.Switch(), lab.DefaultBridge, filter)
}

// spiText is an SPI as the commands print it.
func spiText(payload []byte) string { return fmt.Sprintf("0x%x", payload[:4]) }
