package strict

import (
	"fmt"
	"strconv"
	"strings"
)

// scan finds the line of each key of a text that is known to be good TOML
// (v1.0.0). Paths are those of join, with an index for each element of an
// array, be it made by [[table]] or in brackets: "policy[1].ports[0]".
func scan(text string) map[string]int {
	s := scanner{text: text, line: 1, lines: map[string]int{}, count: map[string]int{}}
	s.document()
	return s.lines
}

type scanner struct {
	text  string
	at    int
	line  int
	lines map[string]int
	count map[string]int // elements so far of an array of tables
}

// join adds a key to a path, quoted where TOML would ask for it.
func join(path, key string) string {
	bare := key != "" && strings.IndexFunc(key, func(r rune) bool { return !isBare(r) }) < 0
	if !bare {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func isBare(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

func (s *scanner) document() {
	table := ""
	for {
		s.blank(true)
		switch {
		case s.at >= len(s.text):
			return
		case strings.HasPrefix(s.text[s.at:], "[["):
			s.at += 2
			line := s.line
			table = s.element(s.keys())
			s.mark(table, line)
			s.skipLine()
		case s.text[s.at] == '[':
			s.at++
			line := s.line
			table = ""
			for _, key := range s.keys() {
				table = s.current(join(table, key))
				s.mark(table, line)
			}
			s.skipLine()
		default:
			s.pair(table)
		}
	}
}

// mark keeps the first line of a path: a table that is opened twice, by its
// parts, stands where it is named first.
func (s *scanner) mark(path string, line int) {
	if _, ok := s.lines[path]; !ok {
		s.lines[path] = line
	}
}

// element starts a new element of an array of tables.
func (s *scanner) element(keys []string) string {
	path := ""
	for i, key := range keys {
		path = join(path, key)
		if i < len(keys)-1 {
			path = s.current(path)
		}
	}
	n := s.count[path]
	s.count[path] = n + 1
	s.mark(path, s.line)
	return fmt.Sprintf("%s[%d]", path, n)
}

// current is the path, or its newest element if it is an array of tables.
func (s *scanner) current(path string) string {
	if n := s.count[path]; n > 0 {
		return fmt.Sprintf("%s[%d]", path, n-1)
	}
	return path
}

// pair reads key = value within a table.
func (s *scanner) pair(table string) {
	line, start := s.line, s.at
	path := table
	for _, key := range s.keys() {
		path = join(path, key)
		s.mark(path, line)
	}
	if s.at < len(s.text) && s.text[s.at] == '=' {
		s.at++
	}
	s.value(path)
	if s.at == start { // not TOML after all: never stand still
		s.at++
	}
}

// keys reads a dotted key.
func (s *scanner) keys() []string {
	var keys []string
	for {
		s.blank(false)
		keys = append(keys, s.key())
		s.blank(false)
		if s.at >= len(s.text) || s.text[s.at] != '.' {
			return keys
		}
		s.at++
	}
}

func (s *scanner) key() string {
	if s.at < len(s.text) && (s.text[s.at] == '"' || s.text[s.at] == '\'') {
		start := s.at
		s.str()
		quoted := s.text[start:s.at]
		if plain, err := strconv.Unquote(quoted); err == nil && quoted[0] == '"' {
			return plain
		}
		return strings.Trim(quoted, string(quoted[0]))
	}
	start := s.at
	for s.at < len(s.text) && isBare(rune(s.text[s.at])) {
		s.at++
	}
	return s.text[start:s.at]
}

// value passes over one value and marks what is in it.
func (s *scanner) value(path string) {
	s.blank(true)
	if s.at >= len(s.text) {
		return
	}
	switch s.text[s.at] {
	case '"', '\'':
		s.str()
	case '[':
		s.at++
		for i := 0; s.more(']'); i++ {
			item := fmt.Sprintf("%s[%d]", path, i)
			s.mark(item, s.line)
			s.value(item)
		}
	case '{':
		s.at++
		for s.more('}') {
			s.pair(path)
		}
	default:
		for s.at < len(s.text) && !strings.ContainsRune(",]}#\r\n", rune(s.text[s.at])) {
			s.at++
		}
	}
}

// more passes over separators and tells whether a further element comes; it
// passes over the closing bracket.
func (s *scanner) more(closing byte) bool {
	for {
		s.blank(true)
		if s.at >= len(s.text) {
			return false
		}
		switch s.text[s.at] {
		case ',':
			s.at++
		case closing:
			s.at++
			return false
		case ']', '}': // of somebody else: not TOML
			return false
		default:
			return true
		}
	}
}

// str passes over a string of any of the four kinds.
func (s *scanner) str() {
	quote := s.text[s.at]
	triple := strings.Repeat(string(quote), 3)
	multi := strings.HasPrefix(s.text[s.at:], triple)
	s.at++
	if multi {
		s.at += 2
	}
	for s.at < len(s.text) {
		c := s.text[s.at]
		switch {
		case c == '\\' && quote == '"':
			s.at++
			if s.at < len(s.text) && s.text[s.at] == '\n' {
				s.line++
			}
		case c == '\n' && !multi: // not TOML
			return
		case c == '\n':
			s.line++
		case c == quote && !multi:
			s.at++
			return
		case c == quote && strings.HasPrefix(s.text[s.at:], triple):
			s.at += 3
			for s.at < len(s.text) && s.text[s.at] == quote { // up to two more belong to it
				s.at++
			}
			return
		}
		s.at++
	}
	s.at = min(s.at, len(s.text))
}

// blank passes over white space and, where lines may end, newlines and comments.
func (s *scanner) blank(lines bool) {
	for s.at < len(s.text) {
		switch c := s.text[s.at]; {
		case c == ' ' || c == '\t' || c == '\r':
			s.at++
		case lines && c == '\n':
			s.line++
			s.at++
		case lines && c == '#':
			s.skipLine()
		default:
			return
		}
	}
}

// skipLine passes over the rest of a line, not its end.
func (s *scanner) skipLine() {
	for s.at < len(s.text) && s.text[s.at] != '\n' {
		s.at++
	}
}
