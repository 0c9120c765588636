// Package lab lays out a small network on one machine: hosts, each a network
// namespace with a mount namespace of its own, on one bridge that behaves like
// a switch with IGMPv3 snooping and a querier. The demo and every test that
// needs real sockets, a TUN or the kernel's multicast run in it.
//
//	lab, err := lab.New("demo")           // leftovers of crashed labs go first
//	defer lab.Close()                     // processes, namespaces, folders
//	alice, err := lab.Host("alice", "10.77.0.11/24")
//	cmd := alice.Command(ctx, "usher", "status")
//	err = alice.Do(func() error { … })    // Go code in alice's network
//	cap, err := lab.Capture(ctx, lab.Switch(), "br0", file, "udp")
//
// A test starts with [ForTest], which skips or fails where the machine cannot
// do it; a script prints [Missing].
//
// Nothing is made in the machine's own network: the bridge lives in a
// namespace too, and both ends of each veth pair are born inside. Each host has
// its own /run (empty but for /run/usher), /etc/usher, /etc/usher-server,
// /var/lib/usher and /var/lib/usher-server, which the machine sees as
// [Host.Path]; the rest of the file system is shared.
//
// A namespace lives as long as its holder, a sleeping process that carries the
// lab's folder in its environment. That is how a later lab finds what a killed
// one left behind, and why nsenter works on a lab that was kept ([Lab.Keep]).
//
// The package must never kill a process that is not inside one of its own
// namespaces or started by it, and never touch an interface outside them.
package lab
