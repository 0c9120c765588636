package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"usher/cmd/usher/agent/config"
)

func TestSetServer(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	for _, tt := range []struct{ name, text, want string }{
		{"no file", "", "server = \"https://a:7440\"\nca_sha256 = \"" + pin + "\"\n"},
		{"replaced", "# mine\nserver = \"https://old\" # x\nca_sha256 = \"" + strings.Repeat("0", 64) + "\"\nmtu = 1400\n",
			"# mine\nserver = \"https://a:7440\"\nca_sha256 = \"" + pin + "\"\nmtu = 1400\n"},
		{"commented example", "# server = \"https://usher.example.net\"\n# ca_sha256 = \"...\"\n\n[paths]\nstate = \"/x\"\n",
			"server = \"https://a:7440\"\nca_sha256 = \"" + pin + "\"\n\n[paths]\nstate = \"/x\"\n"},
		{"before a table", "[paths]\nstate = \"/x\"\n", "server = \"https://a:7440\"\nca_sha256 = \"" + pin + "\"\n[paths]\nstate = \"/x\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "etc", "usher.toml")
			if tt.text != "" {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c, err := config.SetServer(file, "https://a:7440", pin)
			if err != nil {
				t.Fatal(err)
			}
			if c.Server != "https://a:7440" || c.CASHA256 != pin {
				t.Errorf("read back %q %q", c.Server, c.CASHA256)
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if info, _ := os.Stat(file); tt.text != "" && info.Mode().Perm() != 0o600 {
				t.Errorf("mode became %v", info.Mode())
			}
		})
	}

	// What cannot be parsed is left alone.
	file := filepath.Join(t.TempDir(), "usher.toml")
	if err := os.WriteFile(file, []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.SetServer(file, "https://a", pin); err == nil {
		t.Error("a broken file was taken")
	}
	if got, _ := os.ReadFile(file); string(got) != "nonsense = 1\n" {
		t.Errorf("the broken file was changed: %s", got)
	}
}
