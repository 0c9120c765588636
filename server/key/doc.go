// Package key is the key role of one replica (Fig 5): it keeps the interval
// secrets of live occurrences, knows who may have them, and gives them out over
// HTTPS, at enrolment and at each refresh. docs/keying.md is its specification.
//
// [New] opens the host's ratchet file and loads the store; [Server.Run] keeps
// time: it follows the store's change log, makes interval secrets ahead, turns
// the ratchet and forgets. [Server.Serve] answers clients; who has a server of
// its own takes [Server.Handler] and [Server.TLSConfig]. [CreateMasterKey] and
// [CreateRatchet] make the host's files once.
//
// How it hangs together: one goroutine (Run) owns what changes and publishes an
// immutable view (view.go); requests read the view of the moment, without a
// lock. refresh.go is a function from bytes to bytes, in the order of
// docs/keying.md §5.3; enrol.go is §4; the rest is one file a concept.
//
// The package must never write anything for a refresh, keep a secret beyond its
// interval, hand out what is not durable, or believe a clock that stepped.
package key
