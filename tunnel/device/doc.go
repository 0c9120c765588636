// Package device is the virtual interface, usher0: a persistent multi-queue
// TUN whose offloads are set by golang.zx2c4.com/wireguard/tun.
//
// [Open] makes or finds the interface and holds it for this process by a lock
// file; [Remove] deletes it, for `usher down`. Between the two it outlives
// every agent: routes and addresses stay when a process ends, and programs
// that send meanwhile get no error (docs/design.md §3).
//
// The descriptor must never come into the Go runtime's poller. A TUN that the
// poller knows wakes a thread of the runtime for each packet, even if nobody
// waits for it, which costs half of the speed. Therefore it is opened
// blocking, given to the library as a plain file, and set nonblocking only
// afterwards, behind the runtime's back; waiting is done by poll(2) here. A
// test looks into the runtime's epoll set.
//
// Package devicetest has an in-memory device for tests of the packet path.
package device
