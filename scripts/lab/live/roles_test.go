package live

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestRolesOnHostsOfTheirOwn: the ticket role and the key role run on two hosts, on
// one database. A second event names two key servers, of which the first is none.
func TestRolesOnHostsOfTheirOwn(t *testing.T) {
	const keysAddress = "10.77.0.9"
	w := bareWorld(t)
	w.server = w.lab.TestHost(t, "tickets", serverAddress+"/24")
	keys := w.lab.TestHost(t, "keys", keysAddress+"/24")
	state := filepath.Join(t.TempDir(), "state")
	w.manage("init", "--address", serverAddress, "--address", keysAddress, "--dir", state)
	w.readCA()
	run := func(role string) *process {
		host, port := w.server, "7440"
		if role == "key" {
			host, port = keys, "7441"
		}
		text := fmt.Sprintf("hosts = [%q, %q]\nroles = [%q]\nstate = %q\n", serverAddress, keysAddress, role, state)
		if err := os.WriteFile(filepath.Join(host.Path("/etc/usher-server"), "server.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p := spawn(t, host, filepath.Join(w.dir, role+".log"), w.program("usher-server"), "run")
		answering(t, host, p, host.Addr().String()+":"+port)
		return p
	}
	ticketRole := run("ticket")
	run("key")
	w.manage("group", "add", everybody)
	studio, viewer := w.station("studio", "10.77.0.2"), w.station("viewer", "10.77.0.11")
	there := "https://" + keysAddress + ":7441"
	w.add(event{title: "One", sender: studio, flows: []string{"udp/232.1.2.3/5004"}, more: []string{"--key-server", there}})
	w.add(event{title: "Two", sender: studio, flows: []string{"udp/232.1.2.4/5004"},
		more: []string{"--key-server", "https://" + serverAddress + ":7441", "--key-server", there}})
	wire := w.sniffBridge()
	asked := w.sniff(keys, "eth0", "tcp", "dst", "port", "7441")

	t.Run("own_hosts", func(t *testing.T) {
		studio, viewer := studio.on(t), viewer.on(t)
		studio.join("One")
		viewer.join("One")
		player := viewer.plays(studio, "232.1.2.3:5004")
		sends := studio.sends('o', 100, "232.1.2.3:5004")
		player.awaits(t, 'o', 0)
		player.awaitsMore(t, sends, 300)
		for _, s := range []*station{studio, viewer} {
			if countRequests(t, asked.File(), s) == 0 {
				t.Errorf("%s asked the key role for nothing", s.Name())
			}
		}
	})
	t.Run("second_key_server", func(t *testing.T) {
		studio, viewer := studio.on(t), viewer.on(t)
		studio.join("Two")
		viewer.join("Two")
		player := viewer.plays(studio, "232.1.2.4:5004")
		sends := studio.sends('t', 100, "232.1.2.4:5004")
		player.awaits(t, 't', 0)
		player.awaitsMore(t, sends, 500)
		player.awaits(t, 't', sends.halt(t)-1)
		player.unbroken(t, 't')
		if n := changes(toGroup(seen(t, wire, ""), "232.1.2.4")); n < 2 {
			t.Errorf("the SPI changed %d times, want 2 or more", n)
		}
	})
	t.Run("ticket_role_off", func(t *testing.T) {
		ticketRole.end(t, syscall.SIGTERM)
		at := len(seen(t, wire, ""))
		player := viewer.on(t).plays(studio, "232.1.2.4:5004")
		sends := studio.on(t).sends('u', 100, "232.1.2.4:5004")
		player.awaits(t, 'u', 0)
		player.awaitsMore(t, sends, 600)
		if n := changes(toGroup(seen(t, wire, "")[at:], "232.1.2.4")); n < 2 {
			t.Errorf("without the ticket role the SPI changed %d times, want 2 or more", n)
		}
		player.awaits(t, 'u', sends.halt(t)-1)
		player.unbroken(t, 'u')
	})
	if err := wire.Stop(); err != nil {
		t.Error(err)
	}
	seen(t, wire, "")
}
