package config

import "errors"

// Sentinels of this package.
var (
	// ErrNotInThisVersion says that a value is known, but not done yet.
	ErrNotInThisVersion = errors.New("not in this version")
	// ErrKey says that a key file cannot be used; the text never holds its content.
	ErrKey = errors.New("config: key file")
)
