package derive

import "errors"

// Errors of this package.
var (
	// ErrLength is returned where a secret does not have exactly 32 bytes.
	ErrLength = errors.New("derive: a secret has 32 bytes")
	// ErrEventID is returned for a text that is no event id.
	ErrEventID = errors.New("derive: an event id is 32 hex digits in lower case")
	// ErrTag is returned for a text that is no occurrence tag.
	ErrTag = errors.New("derive: a tag is 16 hex digits in lower case")
)
