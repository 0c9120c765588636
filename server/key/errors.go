package key

import "errors"

// What [New], [CreateMasterKey] and [CreateRatchet] may answer, wrapped with
// the file or setting and with what to do.
var (
	// ErrConfig: a field of Config is missing or out of range.
	ErrConfig = errors.New("key: bad configuration")
	// ErrMasterKey: the master key file is not 32 bytes that its owner alone can read.
	ErrMasterKey = errors.New("key: bad master key file")
	// ErrNoRatchet: the ratchet file does not exist.
	ErrNoRatchet = errors.New("key: no ratchet file")
	// ErrRatchet: neither slot of the ratchet file opens under the master key.
	ErrRatchet = errors.New("key: ratchet file does not open")
	// ErrRatchetInUse: another process holds the ratchet file.
	ErrRatchetInUse = errors.New("key: ratchet file is in use by another process")
	// ErrClockAhead: the host's clock is more than 24 h ahead of the ratchet at
	// a start. Going on would destroy all keys if the clock is what is wrong.
	ErrClockAhead = errors.New("key: clock is more than 24 h ahead of the ratchet")
	// ErrForgotten: the ratchet has left the epoch that would open this.
	ErrForgotten = errors.New("key: the ratchet has left this epoch")
	// ErrRowNotOpened: a sealed interval secret is not of this host's ratchet, or was altered.
	ErrRowNotOpened = errors.New("key: interval secret does not open")
	// ErrCollision: a live occurrence has this tag, or these SPIs and a destination (docs/keying.md §1).
	ErrCollision = errors.New("key: tag or SPIs are in use by a live occurrence; an incarnation other than 0 is not in this version")
	// ErrEndless: an occurrence without an end.
	ErrEndless = errors.New("key: events without an end are not in this version")
)
