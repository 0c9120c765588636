// Package sa holds what the packet path decides by (RFC 4301 §4.4, Fig 12): ordered policies with
// their selectors (the SPD) and security associations with their keys, counters, replay windows and
// lifetimes (the SAD). A [DB] is written by whoever keys (a ticket, a grant, a manual table) and read
// by the packet path through [DB.Snapshot]: an immutable [Snapshot] behind one atomic pointer, looked
// up without a lock and without allocating.
//
// The packet path is
//
//	entry := snapshot.Outbound(tuple)      which policy
//	assoc := entry.SA(bootNS)              which association sends now
//	seq, iv, ok := assoc.Next()            numbers that never repeat
//	assoc.Seal(buf, n, seq, iv, next)
//
//	assoc := snapshot.Inbound(spi, destination)
//	inner, next, err := assoc.Open(packet, bootNS)   lifetime, replay, ICV, replay again
//	assoc.Matches(tuple)                             inner header against the policies
//
// The package is pure state: it must never do I/O and has no clock. Instants are nanoseconds of
// CLOCK_BOOTTIME ("boot ns"), given by the caller. It must never log or print a key.
package sa
