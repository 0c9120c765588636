package lab

import "errors"

var (
	// ErrMissing says that this machine cannot hold a lab; its text lists
	// everything that is lacking (see [Missing]).
	ErrMissing = errors.New("lab: this machine cannot hold a lab")
	// ErrName is a prefix, host or bridge name that is empty, taken, too long
	// for an interface name, or not made of lower-case letters, digits and '-'.
	ErrName = errors.New("lab: unusable name")
	// ErrClosed is returned by every method of a lab after Close.
	ErrClosed = errors.New("lab: closed")
	// ErrTimeout is wrapped by [WaitFor] when the deadline passed first.
	ErrTimeout = errors.New("lab: gave up waiting")
	// ErrCapture is a capture that did not start, or lost packets.
	ErrCapture = errors.New("lab: capture failed")
)
