package wire

import "encoding/binary"

// NAK codes (docs/keying.md §5.3).
const (
	NAKUnknownTag   uint8 = 1
	NAKCookieNumber uint8 = 2 // the cookie key of that number is not held
	NAKVersion      uint8 = 3
	NAKRefused      uint8 = 4 // by HTTPS only: cookie or report did not open
)

// NAK tells a client that its request leads nowhere. By datagram it is a hint,
// since nothing authenticates it; by HTTPS the connection does
// (docs/keying.md §5.3).
//
//	 0  type 1 | version 1 | length 2 (24)
//	 4  request id 16
//	20  code 1 | highest version 1 | zero 2
type NAK struct {
	ID             [16]byte
	Code           uint8
	HighestVersion uint8
}

const nakLen = 24

// BuildNAK writes a NAK to the request with that id.
func BuildNAK(id [16]byte, code uint8) [nakLen]byte {
	var b [nakLen]byte
	appendHeader(b[:0], typeNAK, nakLen)
	copy(b[4:], id[:])
	b[20], b[21] = code, Version
	return b
}

// ParseNAK reads a NAK. The error wraps ErrDrop.
func ParseNAK(b []byte) (*NAK, error) {
	switch {
	case len(b) != nakLen:
		return nil, drop("NAK of %d bytes", len(b))
	case b[0] != typeNAK || b[1] != Version || binary.BigEndian.Uint16(b[2:]) != nakLen:
		return nil, drop("no NAK")
	case b[20] < NAKUnknownTag || b[20] > NAKRefused:
		return nil, drop("unknown NAK code %d", b[20])
	case b[21] == 0 || b[22] != 0 || b[23] != 0:
		return nil, drop("NAK of unknown form")
	}
	return &NAK{ID: [16]byte(b[4:]), Code: b[20], HighestVersion: b[21]}, nil
}
