// Package host makes the machine around the tunnel fit for it, and keeps it
// so: the nftables guard that refuses cleartext of protected flows, the
// address, MTU and settings of usher0, and a route to usher0 for each group.
//
// A [Plan] says what shall stand. [Apply] brings it about once, guard first;
// [Guard] does only that, for the boot before usher0 exists. A [Keeper] does
// the same and then watches netlink: what another program removes is back
// within a second, and is counted. Everything outlives the process, whether it
// stops or crashes; [Down] takes it away.
//
// [ChooseInterface] tells which real interface carries a group, and why; the
// keeper follows that choice and reports changes, so that memberships move.
//
// The order is what keeps cleartext in (docs/design.md §3): the guard stands
// before usher0 does and goes after it; a change of the plan is one nftables
// transaction, so that there is no moment without.
//
// The package works by netlink and /proc/sys only, on the network namespace of
// the calling thread. It must never run ip, nft or any other program, never
// touch a table, route or address that is not its own, and never install a
// guard that holds less than the plan without saying so.
package host
