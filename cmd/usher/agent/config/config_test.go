package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/cmd/usher/agent/config"
	"usher/sa/esp"
)

const manual = `
[[policy]]
name = "studio"
source = "10.77.0.2"
destination = "232.1.2.3"
ports = "5004"

[[sa]]
policy = "studio"
spi = 0x1000
direction = "send"
sender_id = 1
key_file = "/etc/usher/studio.key"
`

func TestDefaults(t *testing.T) {
	c, err := config.Parse("f", []byte(manual))
	if err != nil {
		t.Fatal(err)
	}
	s := c.SAs[0]
	if c.Port != 4500 || c.Guard != "group" || c.ShowKeys || c.Paths.State != "/var/lib/usher" ||
		s.Transform != esp.AES256GCM || s.Replay != config.ReplaySender || s.Destination.String() != "232.1.2.3" ||
		s.Gather != 200*time.Microsecond || c.Policies[0].Action != config.ActionProtect || c.Policies[0].TTL != 64 {
		t.Errorf("defaults: %+v", c)
	}
	if _, err := config.Parse("f", nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

// TestRefused: each contradiction is named with file, line and key.
func TestRefused(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "sever = \"x\"", "f:1: sever: unknown key"},
		{"wrong type", "port = \"x\"", "f:1: port: want a whole number"},
		{"server without pin", "server = \"https://a:7440\"", "f:1: server: ca_sha256 is missing"},
		{"pin without server", "ca_sha256 = \"" + pin + "\"", "f:1: ca_sha256: there is no server"},
		{"server by http", "server = \"http://a\"\nca_sha256 = \"" + pin + "\"", "f:1: server: want a URL"},
		{"short pin", "server = \"https://a\"\nca_sha256 = \"ab\"", "f:2: ca_sha256: want 64 hex digits"},
		{"guard", "\nguard = \"exact\"", `f:2: guard: "exact" is not in this version`},
		{"guard unknown", "guard = \"none\"", `f:1: guard: want "group"`},
		{"device", "device = \"water\"", "f:1: device: \"water\" is not in this version"},
		{"clock", "clock = \"host\"", "not in this version"},
		{"activate", "activate = \"initiation\"", "not in this version"},
		{"outer fragments", "outer_fragments = true", "f:1: outer_fragments: true is not in this version"},
		{"offload", "offload = \"on\"", `f:1: offload: want "auto" or "off"`},
		{"mtu", "mtu = 5", "f:1: mtu: want 576"},
		{"the TUN as interface", "interface = \"usher0\"", "f:1: interface: want the real interface"},
		{"relative path", "[paths]\nstate = \"x\"", "f:2: paths.state: want an absolute path"},
		{"bypass", edit(manual, "ports = \"5004\"", "ports = \"5004\"\naction = \"bypass\""), `f:7: policy[0].action: "bypass" is not in this version`},
		{"tcp", edit(manual, "ports = \"5004\"", "ports = \"5004\"\nprotocol = \"tcp\""), "f:7: policy[0].protocol: \"tcp\" is not in this version"},
		{"IPv6", edit(manual, "232.1.2.3", "ff3e::1"), "f:5: policy[0].destination: IPv6 is not in this version"},
		{"unicast", edit(manual, "232.1.2.3", "10.1.2.3"), "f:5: policy[0].destination: a unicast destination is not in this version"},
		{"range of groups", edit(manual, "232.1.2.3", "232.1.2.0/24"), "not in this version"},
		{"the network's own group", edit(manual, "232.1.2.3", "224.0.0.1"), "never protected"},
		{"a group as source", edit(manual, "10.77.0.2", "232.9.9.9"), "f:4: policy[0].source: 232.9.9.9 is no host's address"},
		{"bits behind the prefix", edit(manual, "10.77.0.2", "10.77.0.2/16"), "f:4: policy[0].source: 10.77.0.2/16 has bits"},
		{"the ESP port", edit(manual, "\"5004\"", "\"4000-5000\""), "f:6: policy[0].ports: 4000-5000 includes 4500"},
		{"another ESP port", "port = 5004\n" + manual, "f:7: policy[0].ports: 5004 includes 5004"},
		{"no ports", edit(manual, "ports = \"5004\"\n", ""), "f:2: policy[0].ports: is missing"},
		{"ports the wrong way", edit(manual, "\"5004\"", "\"5005-5004\""), "f:6: policy[0].ports: the range 5005-5004 ends"},
		{"port 0", edit(manual, "\"5004\"", "\"0\""), "f:6: policy[0].ports: want ports"},
		{"ttl 0", edit(manual, "ports = \"5004\"", "ports = \"5004\"\nttl = 0"), "f:7: policy[0].ttl: 0 would reach nobody"},
		{"port 0 for ESP", "port = 0", "f:1: port: 0 is no port"},
		{"SA without policy", edit(manual, "policy = \"studio\"", "policy = \"other\""), `f:9: sa[0].policy: there is no [[policy]] named "other"`},
		{"SA of no policy", edit(manual, "policy = \"studio\"\n", ""), "f:8: sa[0].policy: is missing"},
		{"SA of a discard policy", edit(manual, "ports = \"5004\"", "ports = \"5004\"\naction = \"discard\""), "does not protect"},
		{"SA elsewhere", edit(manual, "spi = 0x1000", "spi = 0x1000\ndestination = \"232.9.9.9\""), "f:11: sa[0].destination: 232.9.9.9 is not the destination"},
		{"reserved SPI", edit(manual, "0x1000", "255"), "f:10: sa[0].spi: want 256 or more"},
		{"no direction", edit(manual, "direction = \"send\"\n", ""), "f:8: sa[0].direction: is missing"},
		{"GMAC", edit(manual, "sender_id", "transform = \"aes-gmac\"\nsender_id"), "f:12: sa[0].transform: "},
		{"unknown transform", edit(manual, "sender_id", "transform = \"rot13\"\nsender_id"), "f:12: sa[0].transform: "},
		{"replay", edit(manual, "sender_id", "replay = \"no\"\nsender_id"), `f:12: sa[0].replay: want "sender"`},
		{"no sender id", edit(manual, "sender_id = 1\n", ""), "f:8: sa[0].sender_id: is missing"},
		{"no key", edit(manual, "key_file = \"/etc/usher/studio.key\"\n", ""), "f:8: sa[0].key_file: is missing"},
		{"two keys", manual + "key = \"" + strings.Repeat("00", 36) + "\"\n", "f:14: sa[0].key: key_file is there, too"},
		{"bad key", edit(manual, "key_file = \"/etc/usher/studio.key\"", "key = \"c0ffee\""), "f:13: sa[0].key: want 72 hex digits"},
		{"same SPI twice", manual + "[[sa]]\npolicy = \"studio\"\nspi = 0x1000\ndirection = \"receive\"\nkey_file = \"/k\"\n", "f:16: sa[1].spi: 0x00001000 to 232.1.2.3 stands at line 8, too"},
		{"a receiver's sender id", edit(manual, "\"send\"", "\"receive\""), "f:12: sa[0].sender_id: is for what sends"},
		{"a receiver's gather", edit(edit(manual, "\"send\"", "\"receive\""), "sender_id = 1", "gather = \"1ms\""), "f:12: sa[0].gather: is for what sends"},
		{"loopback as source", edit(manual, "10.77.0.2", "127.0.0.1"), "f:4: policy[0].source: 127.0.0.1 is no host's address"},
		{"control character in a name", "interface = \"a\\u0000b\"", `f:1: interface: "a\x00b" cannot be`},
		{"a URL's port", "server = \"https://s:99999\"\nca_sha256 = \"" + strings.Repeat("0", 64) + "\"", `f:1: server: "https://s:99999": there is no port 99999`},
		{"two senders", manual + "[[sa]]\npolicy = \"studio\"\nspi = 0x1001\nsender_id = 2\ndirection = \"both\"\nkey_file = \"/k\"\n", "f:18: sa[1].direction: policy \"studio\" sends"},
		{"name twice", manual + "[[policy]]\nname = \"studio\"\ndestination = \"232.1.2.4\"\nports = \"5\"\n", "f:15: policy[1].name: \"studio\" stands at line 3, too"},
		{"same packets", manual + "[[policy]]\nname = \"b\"\nsource = \"10.77.0.2\"\ndestination = \"232.1.2.3\"\nports = \"5004\"\n", "f:14: policy[1]: names the same packets as \"studio\" at line 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := config.Parse("f", []byte(tt.text))
			if err == nil {
				t.Fatalf("accepted: %+v", c)
			}
			if c != nil {
				t.Error("there is a result beside the error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "c0ffee") {
				t.Errorf("the error quotes the key: %v", err)
			}
		})
	}
	_, err := config.Parse("f", []byte("guard = \"exact\"\nclock = \"host\""))
	if !errors.Is(err, config.ErrNotInThisVersion) || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("two faults: %v", err)
	}
}

func edit(text, old, replacement string) string {
	if !strings.Contains(text, old) {
		panic("the test's text lacks " + old)
	}
	return strings.Replace(text, old, replacement, 1)
}

func TestReadKeys(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := strings.Repeat("0123456789ab", 6)
	load := func(keyFile string) ([]*config.Key, error) {
		c, err := config.Parse("f", []byte(edit(manual, "/etc/usher/studio.key", keyFile)))
		if err != nil {
			t.Fatal(err)
		}
		return c.ReadKeys()
	}
	keys, err := load(write("good", "0x"+good+"\n", 0o600))
	if err != nil || len(keys) != 1 || keys[0].Bytes()[1] != 0x23 {
		t.Fatalf("%v %v", keys, err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		if s := fmt.Sprintf(format, keys[0]); s != "REDACTED" {
			t.Errorf("%s prints %s", format, s)
		}
	}
	for name, file := range map[string]string{
		"missing":   filepath.Join(dir, "none"),
		"open":      write("open", good, 0o640),
		"short":     write("short", good[1:], 0o600),
		"long":      write("long", good+good+good, 0o600),
		"not hex":   write("nothex", "zz"+good[2:], 0o600),
		"a folder":  dir,
		"no key":    write("empty", "", 0o600),
		"a device":  "/dev/zero",
		"two lines": write("two", good+"\n"+good, 0o600),
	} {
		_, err := load(file)
		if err == nil || !strings.Contains(err.Error(), "f:13: sa[0].key_file: ") {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), good[4:20]) {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}

	// The same key with the same sender id under two SPIs: one nonce twice.
	file := write("same", good, 0o600)
	twice := edit(manual, "/etc/usher/studio.key", file) + "[[policy]]\nname = \"b\"\ndestination = \"232.1.2.4\"\nports = \"5004\"\n" +
		"[[sa]]\npolicy = \"b\"\nspi = 0x1001\ndirection = \"both\"\nsender_id = 1\nkey_file = \"" + file + "\"\n"
	c, err := config.Parse("f", []byte(twice))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadKeys(); err == nil || !strings.Contains(err.Error(), "sa[1].sender_id: the association of line 8") {
		t.Errorf("one nonce twice: %v", err)
	}
	c, err = config.Parse("f", []byte(strings.Replace(twice, "both\"\nsender_id = 1", "both\"\nsender_id = 2", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadKeys(); err != nil {
		t.Errorf("two sender ids under one key: %v", err)
	}

	// A key in a TOML that everybody reads.
	inline := write("usher.toml", edit(manual, "key_file = \"/etc/usher/studio.key\"", "key = \""+good+"\""), 0o644)
	c, err = config.Load(inline)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadKeys(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("key in an open file: %v", err)
	}
	if err := os.Chmod(inline, 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := c.ReadKeys(); err != nil || len(keys) != 1 {
		t.Errorf("key in the TOML: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	seeds := []string{"", manual, "server = \"https://a\"\nca_sha256 = \"" + strings.Repeat("0", 64) + "\"\n",
		"[[sa]]\n[[policy]]\n", "[[sa]]\nkey = \"00\"\ndestination = \"\"\n", "port = -1", "[paths]\nrun = \"\""}
	if len(seeds) < 5 {
		f.Fatal("seeds are missing")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.Parse("f", []byte(text))
		if err != nil && c != nil {
			t.Error("a result beside an error")
		}
		if err == nil {
			c.ReadKeys() //nolint:errcheck // it must not crash
		}
	})
}
