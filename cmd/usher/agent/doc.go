// Package agent is the daemon: it assembles the packet path, the keying and the
// host's set-up, keeps them in step with tickets, configuration and links, and
// answers on the control socket.
//
// [Run] is the entry point. What starts, in this order, so that nothing can
// leave in the clear in between:
//
//	lock         one agent for a socket (cmd/usher/control)
//	keyclient    the cached tickets' policies, and [[policy]] and [[sa]]
//	guard        nftables, address and routes (tunnel/host)
//	device       usher0, then the routes again, now that they can stand
//	underlay     the UDP socket on the real interface, and memberships
//	tunnel       the packet path
//	keying       login, tickets, keys
//
// One goroutine, the loop in loop.go, does all of that, and again whenever
// something changes; commands that change the host are handed to it. Nothing of
// it is taken down when the agent ends: interface, routes and guard stay, and
// the next agent goes on from there. Only "usher down", and a logout that leaves
// nothing to protect, remove them.
//
// The package never lets a failure of one part undo another: without a real
// interface, a port or a server, what can stand stands, and status says what is
// missing and what to do. It never touches a packet.
package agent
