// Package config reads the agent's TOML: typed, strict, and every fault at once
// with file, line and key.
//
// [Load] is the entry point; [Config.ReadKeys] then reads the key files that
// [[sa]] tables name. What the design knows and this version does not do yet
// (docs/design.md §5, "Where a setting lives") is refused with
// [ErrNotInThisVersion], never taken in silence. The package changes nothing on
// the host, asks it nothing but for the files, and puts no key in an error.
package config
