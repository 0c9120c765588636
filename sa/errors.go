package sa

import "errors"

// The errors of setting up policies and associations.
var (
	// ErrBadPolicy refuses a policy that contradicts itself.
	ErrBadPolicy = errors.New("sa: policy is not valid")
	// ErrBadParams refuses an association that cannot work.
	ErrBadParams = errors.New("sa: association is not valid")
	// ErrSPIInUse refuses a second key under a live (SPI, destination) (docs/keying.md §2).
	ErrSPIInUse = errors.New("sa: SPI is in use for this destination")
	// ErrInstalled refuses an association that was installed or removed before: each [SA] is installed once.
	ErrInstalled = errors.New("sa: association was installed before")
)

// The errors of [SA.Open], beside those of package esp. They are returned as they are, never wrapped:
// the packet path compares them and must not allocate.
var (
	// ErrExpired is a packet for an association that does not accept now: not yet, no more, or dropped.
	ErrExpired = errors.New("sa: association does not accept packets at this time")
	// ErrReplaySeen is a packet whose number was taken before.
	ErrReplaySeen = errors.New("sa: packet was seen before")
	// ErrReplayOld is a packet too far behind the newest of its sender.
	ErrReplayOld = errors.New("sa: packet is older than the replay window")
	// ErrReplayJump is a packet further ahead than a sender can honestly be (docs/keying.md §9).
	ErrReplayJump = errors.New("sa: packet jumps too far ahead")
	// ErrTooManySenders is an authentic packet of yet another sender, beyond [MaxSenders].
	ErrTooManySenders = errors.New("sa: too many senders for one association")
)

// Why an association sends no more: [SA.Exhausted].
var (
	// ErrSequenceOver means that 2³² − 1 packets were sent, or the 48-bit counter is at its end.
	ErrSequenceOver = errors.New("sa: sequence numbers are used up")
	// ErrQuotaOver means that the bytes which this sender may send under this key are used up.
	ErrQuotaOver = errors.New("sa: byte quota is used up")
	// ErrNotReserved means that no more numbers are durably reserved (docs/design.md §3, manual keying).
	ErrNotReserved = errors.New("sa: no numbers are reserved")
	// ErrRemoved means that the association was removed and its key wiped.
	ErrRemoved = errors.New("sa: association is removed")
)
