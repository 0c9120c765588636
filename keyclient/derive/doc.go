// Package derive is the key schedule of the keying protocol: tags, SPIs and
// every key that follows from an interval secret (docs/keying.md §1 and §2).
//
// It is pure. The same input gives the same output on every host and replica;
// the only functions that read anything are [RandomSecret] and [NewEventID],
// which read the system's random numbers. Clients, key servers and tests use
// the same functions, so that there is one place where a label is written.
//
// Start with [OccurrenceTag], then [GroupKey] and [TrafficKey].
//
// The package must never keep a secret, print one, or know of networks, clocks
// and files. A [Secret] shows itself as REDACTED wherever it is formatted.
package derive
