package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// namedTest is how docs/coverage.md names a test: `folder.TestName/subtest`.
var namedTest = regexp.MustCompile("`([a-z0-9_/-]+)\\.(Test[A-Za-z0-9_]+(?:/[^`]+)?)`")

// rowID begins a row of the table.
var rowID = regexp.MustCompile(`^\| *((?:F\d+|DC)-\d+) *\|`)

// unproven returns a line for each row of the table at path that names no test,
// and for each named test that did not pass in this run.
func (r *results) unproven(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var lines []string
	for number, row := range strings.Split(string(text), "\n") {
		id := rowID.FindStringSubmatch(row)
		if id == nil {
			continue
		}
		names := namedTest.FindAllStringSubmatch(row, -1)
		if len(names) == 0 {
			lines = append(lines, fmt.Sprintf("%s:%d: %s names no test", path, number+1, id[1]))
		}
		for _, name := range names {
			full := "usher/" + name[1] + "." + name[2]
			switch outcome := r.outcome[full]; outcome {
			case "pass":
			case "":
				lines = append(lines, fmt.Sprintf("%s:%d: %s: there is no test %s", path, number+1, id[1], full))
			default:
				lines = append(lines, fmt.Sprintf("%s:%d: %s: %s: %s", path, number+1, id[1], full, outcome))
			}
		}
	}
	return lines, nil
}
