package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"usher/cmd/usher/agent/config"
)

// examples is the folder of what the product ships.
const examples = "../../../../configs/"

// TestAgentExamples: every example of the agent's TOML loads, also with each of
// its commented settings switched on, and the keys that it names can be read.
func TestAgentExamples(t *testing.T) {
	files, err := filepath.Glob(examples + "usher*.toml")
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, file := range files {
		if strings.HasPrefix(filepath.Base(file), "usher-server") {
			continue
		}
		loaded++
		t.Run(filepath.Base(file), func(t *testing.T) {
			if _, err := config.Load(file); err != nil {
				t.Error(err)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all := setting.ReplaceAll(text, []byte("$1$2"))
			if string(all) == string(text) {
				t.Error("no commented setting was found")
			}
			key := filepath.Join(t.TempDir(), "studio.key")
			if err := os.WriteFile(key, []byte(strings.Repeat("5a", config.KeyLen)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := config.Parse(file, []byte(strings.ReplaceAll(string(all), "/etc/usher/studio.key", key)))
			if err != nil {
				t.Fatalf("with all settings: %v", err)
			}
			if _, err := c.ReadKeys(); err != nil {
				t.Error(err)
			}
		})
	}
	if loaded < 2 {
		t.Errorf("only %d examples were found", loaded)
	}
}

// setting is a setting that is commented out: no blank behind the #.
var setting = regexp.MustCompile(`(?m)^#([a-z_]+)([ \t]*=)`)

// TestAgentUnit: the unit has what the product's promises rest on.
func TestAgentUnit(t *testing.T) {
	text, err := os.ReadFile(examples + "usher-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"Type=notify", "TimerSlackNSec=1us", "LimitCORE=0", "MemorySwapMax=0",
		"NoNewPrivileges=yes", "ProtectSystem=strict", "Before=network-pre.target", "RuntimeDirectoryPreserve=yes"} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("%s is missing", line)
		}
	}
}
