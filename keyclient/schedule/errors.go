package schedule

import "errors"

var (
	// ErrTiming marks a [Timing] that contradicts itself or a limit of
	// docs/keying.md §§1 and 10.
	ErrTiming = errors.New("schedule: bad timing")
	// ErrTimeExpression marks a [TimeExpression] that is no RFC 5545 text,
	// contradicts itself, or asks for more than the caps allow.
	ErrTimeExpression = errors.New("schedule: bad time expression")
	// ErrUnknownZone marks a time zone that IANA's data does not name.
	ErrUnknownZone = errors.New("schedule: unknown time zone")
	// ErrNotInThisVersion marks what is well formed and not built yet.
	ErrNotInThisVersion = errors.New("schedule: not in this version")
)
