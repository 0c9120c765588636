package device

import "errors"

// What Open, Read and Write may fail with.
var (
	// ErrAgain: nothing to read now. Returned unwrapped, so that the packet
	// path allocates nothing.
	ErrAgain = errors.New("device: nothing to read")
	// ErrClosed: the interface was removed under us, or the device closed.
	ErrClosed = errors.New("device: the interface is gone")
	// ErrShort: fewer bytes than an offload header.
	ErrShort = errors.New("device: shorter than an offload header")
	// ErrInUse: another process holds the interface.
	ErrInUse = errors.New("device: in use by another agent")
	// ErrNotOurs: an interface of that name exists and cannot be used.
	ErrNotOurs = errors.New("device: an interface of another kind has this name")
	// ErrNoTUN: the machine has no TUN device.
	ErrNoTUN = errors.New("device: no TUN support")
	// ErrPermission: the process may not make interfaces.
	ErrPermission = errors.New("device: no permission")
	// ErrName: not a name for an interface.
	ErrName = errors.New("device: not an interface name")
	// ErrMTU: not a usable MTU.
	ErrMTU = errors.New("device: not a usable MTU")
)
