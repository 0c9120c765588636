package underlay

import "errors"

// What Open, Send, Receive and Join may fail with.
var (
	// ErrAgain: nothing to receive now. Returned unwrapped.
	ErrAgain = errors.New("underlay: nothing to receive")
	// ErrClosed: the socket is closed.
	ErrClosed = errors.New("underlay: closed")
	// ErrPortInUse: another program has the port.
	ErrPortInUse = errors.New("underlay: port in use")
	// ErrNoInterface: there is no such interface.
	ErrNoInterface = errors.New("underlay: no such interface")
	// ErrPermission: a socket option needs CAP_NET_ADMIN.
	ErrPermission = errors.New("underlay: no permission")
	// ErrTooManyGroups: the kernel's limits on memberships are reached.
	ErrTooManyGroups = errors.New("underlay: too many multicast groups")
	// ErrTooBig: a datagram is larger than the interface's MTU. Returned unwrapped.
	ErrTooBig = errors.New("underlay: larger than the interface's MTU")
	// ErrRefused: the network refused a datagram.
	ErrRefused = errors.New("underlay: send refused")
	// ErrNotMulticast: a membership of something that is no group.
	ErrNotMulticast = errors.New("underlay: not an IPv4 multicast group")
	// ErrFamily: IPv6, which is not in this version.
	ErrFamily = errors.New("underlay: IPv6 is not in this version")
)
