package checks_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	coverageRow  = regexp.MustCompile(`^\| *((?:F\d+|DC)-\d+) *\|(.*)\|(.*)\|$`)
	coverageTest = regexp.MustCompile("`([a-z0-9_/-]+)\\.(Test[A-Za-z0-9_]+)(/[^`]+)?`")
)

// testFunctions returns the test functions of a folder.
func testFunctions(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range parsed.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok && function.Recv == nil {
				found[function.Name.Name] = true
			}
		}
	}
	return found
}

// TestCoverageNamesRealTests holds docs/coverage.md against the test functions
// that there are. That each of them ran and passed is held by scripts/testrun,
// which sees the run.
func TestCoverageNamesRealTests(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/coverage.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for number, line := range strings.Split(string(text), "\n") {
		row := coverageRow.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		rows++
		where := fmt.Sprintf("docs/coverage.md:%d: %s", number+1, row[1])
		if strings.TrimSpace(row[2]) == "" {
			t.Errorf("%s does not say what stands", where)
		}
		tests := coverageTest.FindAllStringSubmatch(row[3], -1)
		if len(tests) == 0 {
			t.Errorf("%s names no test", where)
		}
		for _, test := range tests {
			if !testFunctions(t, test[1])[test[2]] {
				t.Errorf("%s: there is no %s in %s", where, test[2], test[1])
			}
		}
	}
	if rows < 75 {
		t.Errorf("docs/coverage.md has %d rows, the first version brings more", rows)
	}
}
