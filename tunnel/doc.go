// Package tunnel is the packet path (docs/design.md §3, Fig 12, Fig 13): what
// an application sends to a protected destination goes from the virtual
// interface through selector, association and ESP to the real one, and what
// arrives there goes the opposite way.
//
// [New] and [Tunnel.Run] are the entry points. outbound.go and inbound.go are
// the two directions, each read from top to bottom; drop.go has the closed
// list of what may happen to a packet that does not get through.
//
// Each direction is one goroutine that runs every packet to completion, in
// batches. For a packet there is no allocation, no lock, no channel, no log
// line and no hand-over to another goroutine: counters only. Nothing ever
// leaves in the clear: a packet is sealed or dropped.
package tunnel
