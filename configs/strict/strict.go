package strict

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

// Error is one thing that is wrong in a file.
type Error struct {
	File    string // as the caller named it
	Line    int    // from 1; of the table where the key itself does not stand there, 0 at the top
	Key     string // "policy[1].destination"; "" for a text that is no TOML
	Problem string // one clause, lower case

	cause error // what Errorf wrapped
}

// Unwrap is what was wrapped by %w in [Positions.Errorf].
func (e *Error) Unwrap() error { return e.cause }

// Error is "file:line: key: problem", without what may be a part of a key.
func (e *Error) Error() string {
	where := e.File
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	if e.Key == "" {
		return where + ": " + withoutKeys(e.Problem)
	}
	return where + ": " + withoutKeys(e.Key) + ": " + withoutKeys(e.Problem)
}

// withoutKeys takes out what looks like key material. The TOML library quotes what
// it could not read, as a key that somebody forgot to quote.
func withoutKeys(text string) string { return longHex.ReplaceAllString(text, "REDACTED") }

// longHex is longer than any number that a file of ours may hold.
var longHex = regexp.MustCompile(`(0x)?[0-9a-fA-F]{12,}`)

// Decode reads a TOML file into a pointer to a struct with toml tags. Every
// key must be a field, every value must fit it. The error joins one *Error for
// each fault, in the order of the text; the struct is untouched then.
func Decode(file string, into any) error {
	_, err := Load(file, into)
	return err
}

// Load is Decode, and tells where the keys stand.
func Load(file string, into any) (*Positions, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return Parse(file, data, into)
}

// Parse is Load for a text that is in memory; name is what errors call it.
func Parse(name string, data []byte, into any) (*Positions, error) {
	var tree map[string]any
	if _, err := toml.Decode(string(data), &tree); err != nil {
		return nil, syntaxError(name, err)
	}
	pos := &Positions{file: name, lines: scan(string(data))}
	if err := pos.check(tree, into); err != nil {
		return nil, err
	}
	if _, err := toml.Decode(string(data), into); err != nil {
		return nil, syntaxError(name, err)
	}
	return pos, nil
}

// syntaxError gives the library's error our form.
func syntaxError(name string, err error) error {
	if p, ok := errors.AsType[toml.ParseError](err); ok {
		problem := p.Message
		if problem == "" { // a value that its own type refused
			problem = p.Error()
		}
		return &Error{File: name, Line: p.Position.Line, Problem: problem}
	}
	return &Error{File: name, Problem: err.Error()}
}

// Positions knows the line of each key of a file that was read.
type Positions struct {
	file  string
	lines map[string]int
}

// Line is where a key stands ("policy[1].destination"), 0 if it does not. The
// line of "policy[1]" is that of its header.
func (p *Positions) Line(key string) int { return p.lines[key] }

// Errorf makes the error of a program's own check of a key; %w wraps, as with
// fmt.Errorf. A key that is missing is told with the line of its table, and a
// long value is cut: an error is one line.
func (p *Positions) Errorf(key, format string, args ...any) error {
	problem := fmt.Errorf(format, args...)
	return &Error{File: p.file, Line: p.nearest(key), Key: key, Problem: cut(problem.Error()), cause: errors.Unwrap(problem)}
}

// nearest is the line of a key, or of the innermost table around it that stands
// in the file.
func (p *Positions) nearest(key string) int {
	for {
		if line := p.lines[key]; line > 0 {
			return line
		}
		i := strings.LastIndexByte(key, '.')
		if i < 0 {
			return 0
		}
		key = key[:i]
	}
}

// maxProblem bounds an error's text, in bytes: no sentence of ours is as long,
// but a value of the file may be.
const maxProblem = 400

// cut shortens a text in its middle.
func cut(s string) string {
	if len(s) <= maxProblem {
		return s
	}
	return strings.ToValidUTF8(s[:maxProblem/2], "") + " … " + strings.ToValidUTF8(s[len(s)-maxProblem/2:], "")
}
