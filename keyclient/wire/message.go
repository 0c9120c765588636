package wire

import (
	"encoding/binary"
	"fmt"
)

// Sizes and versions of the binary messages (docs/keying.md §5).
const (
	Version     = 1    // of every binary message, and of the enrolment's list
	MinRequest  = 208  // a request for one key; a shorter datagram gets no answer at all
	MaxDatagram = 1232 // request and answer: IPv6's least MTU less its headers
	MaxWant     = 8    // key records in one answer
	CookieLen   = 76   // nonce 12, sealed 48, tag 16
)

// Message types. 4 to 8, push and unicast keying, are not in this version.
const (
	typeRequest = 1
	typeAnswer  = 2
	typeNAK     = 3
)

// Role is what a client is in an event: it receives, or it sends (and receives).
type Role uint8

// Roles, as the cookie carries them (docs/keying.md §5.1).
const (
	RoleReceive Role = 0
	RoleSend    Role = 1
)

// String returns "receive" or "send".
func (r Role) String() string {
	switch r {
	case RoleReceive:
		return "receive"
	case RoleSend:
		return "send"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// MarshalText writes "receive" or "send".
func (r Role) MarshalText() ([]byte, error) {
	if r > RoleSend {
		return nil, fmt.Errorf("%w: no %v", ErrEncode, r)
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads "receive" or "send".
func (r *Role) UnmarshalText(b []byte) error {
	switch string(b) {
	case "receive":
		*r = RoleReceive
	case "send":
		*r = RoleSend
	default:
		return fmt.Errorf(`role %q: it is "receive" or "send"`, b)
	}
	return nil
}

// appendHeader writes what every message starts with: type 1, version 1,
// length 2 of the whole message.
func appendHeader(b []byte, kind uint8, length int) []byte {
	return binary.BigEndian.AppendUint16(append(b, kind, Version), uint16(length))
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
