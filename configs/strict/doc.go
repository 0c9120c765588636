// Package strict reads TOML files the way a person wants them read: a key that
// nobody knows, a value of the wrong type and a text that is no TOML are all
// refused, each with file, line and key, and all of them at once.
//
// Decode is the entry point. Load also answers where each key stands, so that
// a program's own checks can name the line, too.
//
// github.com/BurntSushi/toml parses and decodes; it has no position for an
// unknown key and a wrong one within arrays of tables, so lines.go finds these
// in the text. The package must never guess: it takes a key only as it is
// spelt, in the same case.
package strict
