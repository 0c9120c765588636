// Package wishes finds out which multicast groups programs of this host want: on
// which interface, of which sources, less what the agent itself has joined.
//
// Entry points: [Reader.Read] takes what the kernel counts, [State.Observe] makes
// wishes of it, and [State.Wants] answers. Two things tell that it is time to read
// again before the next tick: what the kernel reports on the TUN ([Inbox]) and its
// announcements on netlink ([Watch]). Neither is complete. While the agent is joined
// on the TUN itself, or on the real interface, joins of others make no report and no
// announcement there; so the counts are what is believed, and the reports answer one
// question only that counts leave open.
//
// The package must never join anything: it does not know what a ticket allows.
package wishes
