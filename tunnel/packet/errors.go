package packet

import "errors"

// What the functions fail with. They are returned unwrapped, so that the
// packet path allocates nothing.
var (
	// ErrNotIP: neither IPv4 nor IPv6.
	ErrNotIP = errors.New("packet: not an IP packet")
	// ErrMalformed: headers that contradict the packet's length.
	ErrMalformed = errors.New("packet: malformed header")
	// ErrCongestion: marked CE for a sender that does not know ECN.
	ErrCongestion = errors.New("packet: congestion mark on a packet without ECN")
)
