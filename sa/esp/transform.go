package esp

import "fmt"

// Transform is an ESP transform by the number that IANA gave it (docs/keying.md §2).
type Transform uint8

// The transforms that docs/design.md §3 names. Only AES256GCM and ChaCha20Poly1305 are in this version.
const (
	NULL             Transform = 11 // RFC 2410: packaging only
	AES256GCM        Transform = 20 // RFC 4106, ICV of 16 bytes
	AESGMAC          Transform = 21 // RFC 4543: integrity only
	ChaCha20Poly1305 Transform = 28 // RFC 7634
)

// String returns the name that configuration and listings use.
func (t Transform) String() string {
	switch t {
	case NULL:
		return "null"
	case AES256GCM:
		return "aes-256-gcm"
	case AESGMAC:
		return "aes-gmac"
	case ChaCha20Poly1305:
		return "chacha20-poly1305"
	}
	return fmt.Sprintf("transform-%d", uint8(t))
}

// MarshalText returns the name of the transform.
func (t Transform) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText is [ParseTransform].
func (t *Transform) UnmarshalText(text []byte) error {
	parsed, err := ParseTransform(string(text))
	if err != nil {
		return err
	}
	*t = parsed
	return nil
}

// Check returns nil for a transform that this version can do, else an error that wraps
// [ErrNotInThisVersion] or [ErrUnknownTransform].
func (t Transform) Check() error {
	switch t {
	case AES256GCM, ChaCha20Poly1305:
		return nil
	case NULL, AESGMAC:
		return fmt.Errorf("%w: %s (%d); use aes-256-gcm or chacha20-poly1305", ErrNotInThisVersion, t, uint8(t))
	}
	return fmt.Errorf("%w: number %d", ErrUnknownTransform, uint8(t))
}

// ParseTransform returns the transform of that name. A name that this version knows and cannot do
// yields its transform and an error that wraps [ErrNotInThisVersion].
func ParseTransform(name string) (Transform, error) {
	for _, t := range [...]Transform{AES256GCM, ChaCha20Poly1305, AESGMAC, NULL} {
		if name == t.String() {
			return t, t.Check()
		}
	}
	return 0, fmt.Errorf("%w: %q; use aes-256-gcm or chacha20-poly1305", ErrUnknownTransform, name)
}
