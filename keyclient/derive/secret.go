package derive

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "REDACTED"

// Secret is 32 uniform bytes. It is used by pointer only, cannot be compared
// with ==, and shows itself as REDACTED in every text, log and JSON.
type Secret struct {
	_ [0]func() // makes the type incomparable: == would leak by its timing
	b [32]byte
}

// NewSecret copies 32 bytes into a secret. The caller may then clear b.
func NewSecret(b []byte) (*Secret, error) {
	if len(b) != 32 {
		return nil, fmt.Errorf("%w: got %d", ErrLength, len(b))
	}
	s := new(Secret)
	copy(s.b[:], b)
	return s, nil
}

// RandomSecret makes a secret of the system's random numbers.
func RandomSecret() *Secret {
	s := new(Secret)
	rand.Read(s.b[:]) //nolint:errcheck // never fails: the runtime ends the process instead
	return s
}

// Bytes returns the secret's own bytes, not a copy: they change with [Secret.Wipe].
func (s *Secret) Bytes() []byte { return s.b[:] }

// Equal compares in constant time.
func (s *Secret) Equal(o *Secret) bool {
	return subtle.ConstantTimeCompare(s.b[:], o.b[:]) == 1
}

// Wipe overwrites the secret with zeros. A nil secret is left alone.
// Go cannot promise erasure of copies in registers and stacks (docs/keying.md §3).
func (s *Secret) Wipe() {
	if s != nil {
		clear(s.b[:])
	}
}

// String returns REDACTED.
func (s *Secret) String() string { return redacted }

// GoString returns REDACTED.
func (s *Secret) GoString() string { return redacted }

// Format writes REDACTED for every verb.
func (s *Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) } //nolint:errcheck // fmt reports it

// LogValue returns REDACTED.
func (s *Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON returns the string REDACTED: a secret never travels as JSON by accident.
func (s *Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText returns REDACTED.
func (s *Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
