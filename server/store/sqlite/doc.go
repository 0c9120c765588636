// Package sqlite keeps the store on one SQLite file: the default, with nothing
// to set up. Open is the entry point; the contract is that of [store.Store].
//
// One connection writes, each transaction begun with the write lock; a pool of
// others reads. Commits reach the disk (WAL with synchronous=FULL) before
// Update returns. Several processes may open the file at once: usher-server's
// commands do so while the server runs.
//
// The package must never open a file of a newer schema, and never leave half a
// transaction behind, whatever the disk does.
package sqlite
