// Package checks holds the rules of this repository that a test can enforce:
// which way imports go, that every package says its purpose, which folders there
// are, and that docs/coverage.md names tests that exist. It has no code outside
// its tests, and must never be imported.
package checks
