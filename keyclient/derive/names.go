package derive

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// EventID names an event. It is random and never reused.
type EventID [16]byte

// NewEventID draws an event id.
func NewEventID() EventID {
	var e EventID
	rand.Read(e[:]) //nolint:errcheck // never fails: the runtime ends the process instead
	return e
}

// ParseEventID reads the 32 hex digits, in lower case, that [EventID.String] writes.
func ParseEventID(s string) (EventID, error) {
	var e EventID
	if err := decodeLowerHex(e[:], s); err != nil {
		return EventID{}, fmt.Errorf("%w: got %q", ErrEventID, s)
	}
	return e, nil
}

// String returns 32 hex digits.
func (e EventID) String() string { return hex.EncodeToString(e[:]) }

// MarshalText writes 32 hex digits.
func (e EventID) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads 32 hex digits.
func (e *EventID) UnmarshalText(b []byte) error {
	p, err := ParseEventID(string(b))
	if err != nil {
		return err
	}
	*e = p
	return nil
}

// Tag names one occurrence of an event with its incarnation (docs/keying.md §1).
type Tag [8]byte

// OccurrenceTag is the first 8 bytes of SHA-256 over event, start (seconds of
// Unix time, UTC) and incarnation (docs/keying.md §1).
func OccurrenceTag(e EventID, startS uint64, incarnation uint32) Tag {
	h := append([]byte("usher1 occurrence"), e[:]...)
	h = binary.BigEndian.AppendUint64(h, startS)
	h = binary.BigEndian.AppendUint32(h, incarnation)
	sum := sha256.Sum256(h)
	return Tag(sum[:8])
}

// String returns 16 hex digits.
func (t Tag) String() string { return hex.EncodeToString(t[:]) }

// MarshalText writes 16 hex digits.
func (t Tag) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads 16 hex digits.
func (t *Tag) UnmarshalText(b []byte) error {
	var p Tag
	if err := decodeLowerHex(p[:], string(b)); err != nil {
		return fmt.Errorf("%w: got %q", ErrTag, b)
	}
	*t = p
	return nil
}

// SPIPrefix is S, the first three bytes of every SPI of the occurrence
// (docs/keying.md §2). It is never zero: SPIs below 256 are IANA's.
func SPIPrefix(t Tag) [3]byte {
	sum := sha256.Sum256(append([]byte("usher1 spi"), t[:]...))
	s := [3]byte(sum[:3])
	if s == [3]byte{} {
		s[2] = 1
	}
	return s
}

// SPI of an interval: S, then the interval's lowest byte (docs/keying.md §2).
// Neighbouring intervals never collide; group SAs are still told apart by
// (SPI, destination), never by the SPI alone.
func SPI(t Tag, interval uint32) uint32 {
	s := SPIPrefix(t)
	return uint32(s[0])<<24 | uint32(s[1])<<16 | uint32(s[2])<<8 | interval&0xff
}

// decodeLowerHex fills dst from exactly as many hex digits. One spelling only:
// an id is also compared as text.
func decodeLowerHex(dst []byte, s string) error {
	if len(s) != 2*len(dst) || strings.ContainsAny(s, "ABCDEF") {
		return hex.ErrLength
	}
	_, err := hex.Decode(dst, []byte(s))
	return err
}
