package checks_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the top folder of the repository, as tests of this package see it.
const root = "../.."

func TestEveryPackageSaysItsPurpose(t *testing.T) {
	for _, p := range listPackages(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: its package comment does not begin with %q: %q", p.ImportPath, want, p.Doc)
		}
	}
}

func TestTopFolder(t *testing.T) {
	// coverage DC-03, and docs/design.md §2.
	for _, name := range []string{
		"go.mod", "cmd", "tunnel", "sa", "keyclient", "server", "configs", "scripts", "README.md",
		"docs", ".ci", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".golangci.yml",
		"cmd/usher", "cmd/usher-server", "cmd/usher/agent", "cmd/usher/control",
		"tunnel/device", "tunnel/underlay", "tunnel/packet", "tunnel/host",
		"sa/esp", "sa/replay", "keyclient/wire", "keyclient/derive", "keyclient/schedule",
		"server/group", "server/ticket", "server/key", "server/store",
		"scripts/demo", "scripts/test", "scripts/lab", "docs/decisions", "docs/coverage.md",
	} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func TestNoFolderNamedForNothing(t *testing.T) {
	for _, p := range listPackages(t) {
		switch name := filepath.Base(p.ImportPath); name {
		case "util", "utils", "common", "helpers", "helper", "misc", "types":
			t.Errorf("%s: a package is named for what it does", p.ImportPath)
		}
	}
}

func TestFilesStayReadable(t *testing.T) {
	const longest = 600
	for _, p := range listPackages(t) {
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if lines := strings.Count(string(text), "\n"); lines > longest {
				t.Errorf("%s has %d lines, more than %d: is it one concept?", file, lines, longest)
			}
		}
	}
}
