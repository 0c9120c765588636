// Package underlay is the real interface: one UDP socket that sends and
// receives ESP in UDP (RFC 3948) in batches, and the multicast memberships
// that make the network deliver.
//
// [Open] makes the socket, [NewMemberships] the memberships. The socket is
// alone on its port (an address in use is an error), receives every group
// that is joined anywhere on the host, and tells by IP_PKTINFO which one. A
// batch is one sendmsg with UDP_SEGMENT, a receive one recvmsg with UDP_GRO.
//
// The socket must never come into the Go runtime's poller (package device has
// the reason), which is why it is made by package unix and not by package net.
//
// Package underlaytest has an in-memory network for tests of the packet path.
package underlay
