package checks_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// goPackage is the part of "go list -json" that the rules need.
type goPackage struct {
	ImportPath   string
	Name         string
	Doc          string
	Dir          string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// listPackages returns every package of the module.
func listPackages(t *testing.T) []goPackage {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Dir,Imports,TestImports,XTestImports", "usher/...")
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []goPackage
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
}

// importRule says what the packages below From may import of this module.
type importRule struct {
	From    string
	Allowed []string
	Why     string
}

// importRules are docs/design.md §2, most special prefix first; the first that
// fits a package holds for it.
var importRules = []importRule{
	{"cmd/usher/control", nil, "the socket's API is all that commands and agent share; it knows no part of the agent"},
	{"cmd", []string{"cmd", "tunnel", "sa", "keyclient", "server", "configs"}, "commands wire everything, nothing imports them"},
	{"tunnel", []string{"tunnel", "sa"}, "the packet path knows associations, and nothing of keying"},
	{"sa/esp", nil, "a leaf"},
	{"sa/replay", nil, "a leaf"},
	{"sa", []string{"sa/esp", "sa/replay"}, "pure state between packet path and keying"},
	{"keyclient/derive", nil, "a leaf: pure derivations"},
	{"keyclient/clock", nil, "a leaf"},
	{"keyclient/schedule", nil, "a leaf: pure times and states"},
	{"keyclient/wire", []string{"keyclient/derive"}, "messages are shared by client and server"},
	{"keyclient", []string{"sa", "keyclient/wire", "keyclient/derive", "keyclient/schedule", "keyclient/clock"}, "keying meets the packet path in the sa database only"},
	{"server/store", []string{"server/store", "keyclient/derive"}, "a store knows ids, not protocols"},
	{"server/group", []string{"server/store", "keyclient/derive"}, "the graph is read from the store"},
	{"server/key", []string{"server/store", "server/group", "keyclient/wire", "keyclient/derive", "keyclient/schedule", "keyclient/clock"}, "roles share the store, not code"},
	{"server/ticket", []string{"server/store", "server/group", "keyclient/wire", "keyclient/derive", "keyclient/schedule", "keyclient/clock"}, "roles share the store, not code"},
	{"server", []string{"server", "configs", "keyclient/wire", "keyclient/derive", "keyclient/schedule", "keyclient/clock"}, "the server knows no client and no packet path"},
	{"configs", []string{"configs"}, "a leaf"},
	{"scripts/lab/demo", []string{"scripts/lab"}, "the demo drives the product by its commands alone"},
	{"scripts/lab/bench", []string{"scripts/lab"}, "what is measured is what users start"},
	{"scripts", nil, "the lab knows nothing of the product"},
}

func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// forbidden returns the rule that forbids from to import imported, or "".
func forbidden(from, imported string) string {
	for _, rule := range importRules {
		if !within(from, rule.From) {
			continue
		}
		for _, allowed := range rule.Allowed {
			if within(imported, allowed) {
				return ""
			}
		}
		if within(imported, from) {
			return "" // its own subpackages, such as fakes
		}
		return rule.Why
	}
	return "no rule allows it: add " + from + " to importRules"
}

func TestImportsGoOneWay(t *testing.T) {
	packages := listPackages(t)
	if len(packages) < 20 {
		t.Fatalf("go list found %d packages of the module, there are more", len(packages))
	}
	for _, p := range packages {
		from := strings.TrimPrefix(p.ImportPath, "usher/")
		for _, imported := range p.Imports {
			local, ours := strings.CutPrefix(imported, "usher/")
			if !ours {
				continue
			}
			if why := forbidden(from, local); why != "" {
				t.Errorf("%s imports %s: %s", from, local, why)
			}
		}
	}
}

func TestTunnelAndKeyclientNeverMeet(t *testing.T) {
	// The rule proper is that they meet in sa alone; tests of either keep it too.
	for _, p := range listPackages(t) {
		from := strings.TrimPrefix(p.ImportPath, "usher/")
		for _, imported := range append(append(p.Imports, p.TestImports...), p.XTestImports...) {
			local := strings.TrimPrefix(imported, "usher/")
			if within(from, "tunnel") && within(local, "keyclient") || within(from, "keyclient") && within(local, "tunnel") ||
				within(from, "server") && (within(local, "tunnel") || within(local, "sa")) {
				t.Errorf("%s imports %s", from, local)
			}
		}
	}
}

func TestForbiddenFindsAViolation(t *testing.T) {
	for _, c := range []struct {
		from, imported string
		refused        bool
	}{
		{"tunnel", "keyclient", true},
		{"tunnel/host", "sa", false},
		{"keyclient", "tunnel/underlay", true},
		{"sa", "tunnel", true},
		{"server/key", "sa", true},
		{"server", "server/key", false},
		{"server/ticket", "server/key", true},
		{"keyclient/wire", "keyclient/schedule", true},
		{"keyclient", "keyclient/schedule", false},
		{"cmd/usher/agent", "tunnel/host", false},
		{"cmd/usher/control", "keyclient", true},
		{"scripts/lab/demo", "cmd/usher/control", true},
		{"something/new", "sa", true},
	} {
		if got := forbidden(c.from, c.imported) != ""; got != c.refused {
			t.Errorf("%s → %s: refused %v, want %v", c.from, c.imported, got, c.refused)
		}
	}
}

func TestUserChosenLibrariesAreOnTheShippedPath(t *testing.T) {
	// coverage DC-01: what cmd/usher and cmd/usher-server link, not what tests use.
	out, err := exec.Command("go", "list", "-deps", "usher/cmd/usher", "usher/cmd/usher-server").Output()
	if err != nil {
		t.Fatalf("go list -deps: %v", err)
	}
	linked := "\n" + string(out)
	for _, library := range []string{
		"golang.zx2c4.com/wireguard/tun",
		"golang.org/x/net/ipv4",
		"golang.org/x/crypto/chacha20poly1305",
		"golang.org/x/crypto/argon2",
		"github.com/BurntSushi/toml",
	} {
		if !strings.Contains(linked, "\n"+library+"\n") {
			t.Errorf("%s is not linked into the shipped programs", library)
		}
	}
}
