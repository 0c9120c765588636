package strict_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"usher/configs/strict"
)

type policy struct {
	Name        string       `toml:"name"`
	Destination netip.Prefix `toml:"destination"`
	Ports       []uint16     `toml:"ports"`
	Match       struct {
		ICV bool `toml:"bad_icv"`
	} `toml:"match"`
}

type config struct {
	Server  string             `toml:"server"`
	TTL     uint8              `toml:"ttl"`
	Poll    time.Duration      `toml:"poll"`
	Ratio   float64            `toml:"ratio"`
	Up      bool               `toml:"up"`
	Path    struct{ A, B int } `toml:"path"`
	Labels  map[string]string  `toml:"labels"`
	Policy  []policy           `toml:"policy"`
	private int
}

func TestDecode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "usher.toml")
	text := "server = \"https://a\"\nttl = 16\npoll = \"200ms\"\nratio = 1\npath.A = 3\nlabels = { x = \"y\" }\n" +
		"[[policy]]\nname = \"one\"\ndestination = \"232.0.0.0/8\"\nports = [5004,\n  5005]\n[policy.match]\nbad_icv = true\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var c config
	pos, err := strict.Load(file, &c)
	if err != nil {
		t.Fatal(err)
	}
	if c.Poll != 200*time.Millisecond || c.Path.A != 3 || len(c.Policy) != 1 || !c.Policy[0].Match.ICV || c.private != 0 {
		t.Errorf("decoded %+v", c)
	}
	for key, line := range map[string]int{
		"server": 1, "path.A": 5, "labels.x": 6, "policy[0]": 7, "policy[0].ports[1]": 11, "policy[0].match.bad_icv": 13, "nothing": 0,
	} {
		if got := pos.Line(key); got != line {
			t.Errorf("line of %s is %d, want %d", key, got, line)
		}
	}
	want := file + ":10: policy[0].ports: empty"
	if got := pos.Errorf("policy[0].ports", "empty").Error(); got != want {
		t.Errorf("Errorf: %q, want %q", got, want)
	}
	if got, want := pos.Errorf("policy[0].missing", "is missing").Error(), file+":7: policy[0].missing: is missing"; got != want {
		t.Errorf("a missing key: %q, want %q", got, want)
	}
	if got := pos.Errorf("server", "want a URL, not %q, but another", strings.Repeat("€", 1000)).Error(); len(got) > 600 ||
		!strings.Contains(got, "want a URL") || !strings.HasSuffix(got, "but another") || !utf8.ValidString(got) {
		t.Errorf("a long value: %q", got)
	}
	if err := pos.Errorf("ttl", "no: %w", os.ErrInvalid); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("%v wraps nothing", err)
	}
}

// TestRefused: each fault is named with its line and key, the first element of
// an array of tables included, which the library alone reports at the last.
func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"unknown key", "server = \"a\"\nsever = \"b\"\n", []string{"f:2: sever: unknown key"}},
		{"other case", "Server = \"a\"\n", []string{`f:1: Server: unknown key ("server" is known)`}},
		{"unknown table", "\n[servers]\na = 1\n", []string{"f:2: servers: unknown key"}},
		{"first array element", "[[policy]]\nname = \"a\"\nbad = 1\n[[policy]]\nname = \"b\"\n", []string{"f:3: policy[0].bad: unknown key"}},
		{"second array element", "[[policy]]\nname = \"a\"\n\n[[policy]]\n# bad = 1\nbad = 1\n", []string{"f:6: policy[1].bad: unknown key"}},
		{"wrong type in the first", "[[policy]]\nname = 7\n[[policy]]\nname = \"b\"\n", []string{"f:2: policy[0].name: want a string, not a whole number"}},
		{"several at once", "ttl = 300\nup = 1\npoll = 5\nratio = \"a\"\n", []string{
			"f:1: ttl: 300 is out of range", "f:2: up: want true or false, not a whole number",
			`f:3: poll: want a duration such as "5s", not a whole number`, "f:4: ratio: want a number, not a string"}},
		{"negative", "ttl = -1\n", []string{"f:1: ttl: -1 is out of range"}},
		{"fraction", "ttl = 1.5\n", []string{"f:1: ttl: want a whole number, not a number with a fraction"}},
		{"bad text value", "[[policy]]\ndestination = \"nonsense\"\n", []string{"f:2: policy[0].destination: "}},
		{"list element", "[[policy]]\nports = [1,\n 2,\n \"3\"]\n", []string{"f:4: policy[0].ports[2]: want a whole number, not a string"}},
		{"table for tables", "[policy]\nname = \"a\"\n", []string{"f:1: policy: want tables [[policy]], not a table"}},
		{"scalar for a table", "path = 1\n", []string{"f:1: path: want a table, not a whole number"}},
		{"inline table", "path = { A = 1, C = 2 }\n", []string{"f:1: path.C: unknown key"}},
		{"after a long string", "server = \"\"\"\na\nb\n\"\"\"\nx = 1\n", []string{"f:5: x: unknown key"}},
		{"after a long literal", "server = '''\n[x]\n'''\nx = 1\n", []string{"f:4: x: unknown key"}},
		{"quoted key", "\"a b\" = 1\n", []string{`f:1: "a b": unknown key`}},
		{"quote in a string", "server = \"a\\\"b # \"\nx = 1 # y = 2\n", []string{"f:2: x: unknown key"}},
		{"map value", "[labels]\na = 1\n", []string{"f:2: labels.a: want a string, not a whole number"}},
		{"double key", "server = \"a\"\nserver = \"b\"\n", []string{"f:2: "}},
		{"syntax", "server = \"a\"\nup = \n", []string{"f:2: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c config
			_, err := strict.Parse("f", []byte(tt.text), &c)
			if err == nil {
				t.Fatal("accepted")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("got %q, want %q", lines, tt.want)
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("got %q, want %q", lines[i], want)
				}
			}
			if _, ok := errors.AsType[*strict.Error](err); !ok {
				t.Errorf("%T is no *strict.Error", err)
			}
			if c.Server != "" || c.Policy != nil {
				t.Errorf("the struct was touched: %+v", c)
			}
		})
	}
}

func TestDecodeMisuse(t *testing.T) {
	if _, err := strict.Parse("f", nil, config{}); err == nil {
		t.Error("a struct that is no pointer was taken")
	}
	if err := strict.Decode(filepath.Join(t.TempDir(), "none"), &config{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	seeds := []string{
		"", "a", "server = \"x\"", "[[policy]]\nname = \"a\"\n[policy.match]\nbad_icv = true",
		"a = [[1,2],[{b=1}]]", "path = {A=1}", "'a'.\"b\".c = '''x'''", "x = \"\\", "[a", "[[a", "a = {", "a = [", "ttl = 1 # c",
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var c config
		pos, err := strict.Parse("f", []byte(text), &c)
		if err != nil && pos != nil {
			t.Error("result beside an error")
		}
		if e, ok := errors.AsType[*strict.Error](err); ok && e.Key != "" && e.Line == 0 {
			t.Errorf("no line for %q in %q", e.Key, text)
		}
	})
}

// A key that somebody forgot to quote is no TOML, and what the parser says of it
// quotes what it has read: no part of a key may reach a log that way.
func TestErrorsQuoteNoKey(t *testing.T) {
	const key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff01020304"
	for _, text := range []string{
		"key = " + key, "key = 0x" + key, "key = " + key[2:], "key = \"" + key, "key = '" + key + "\n'", key + " = 1", "[" + key + "]\nx = 1",
		"key = 12" + strings.Repeat("34567890", 4),
	} {
		var into struct {
			Key string `toml:"key"`
		}
		_, err := strict.Parse("usher.toml", []byte(text), &into)
		if err == nil {
			t.Errorf("%q is taken", text)
			continue
		}
		for _, part := range []string{key[:16], key[16:32], "3456789034567890"} {
			if strings.Contains(err.Error(), part) {
				t.Errorf("%q: %v", text, err)
			}
		}
	}
}
