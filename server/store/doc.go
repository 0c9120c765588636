// Package store says what the management server remembers: groups, clients,
// events, associations, suspensions, and the key role's rows (occurrences,
// sealed interval secrets, blocks of sender ids), with a change log over all
// of it. The comment of [Store] is the contract; server/store/sqlite keeps it
// on one file, and server/store/storetest is the suite that every backend must
// pass.
//
// The package imports keyclient/derive for the types of tags and event ids and
// nothing else of this module. It must never hold a secret in the clear: what
// it stores of an interval secret is sealed under a key that it does not know
// (docs/keying.md §3), what it stores of a password is an argon2id string.
package store
