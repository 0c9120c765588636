package host

import (
	"fmt"
	"net/netip"
)

// Interface is a real interface of this host.
type Interface struct {
	Name    string
	Index   int
	MTU     int
	Addrs   []netip.Prefix // IPv4 addresses, in the kernel's order
	Up      bool           // set up by the administrator
	Carrier bool           // and has a link
}

// Choice is the real interface for one flow, and why it is that one.
type Choice struct {
	Group     netip.Addr
	Source    netip.Addr // the zero Addr: any
	Interface Interface
	Why       string
	Err       error // nil, or wraps ErrNoInterface
}

// TUNState is what is there of the tunnel's interface.
type TUNState struct {
	Present bool
	Index   int // a new one after the interface was made anew
	Up      bool
	MTU     int
}

// Count is packets and bytes.
type Count struct{ Packets, Bytes uint64 }

// GuardStatus is what the guard holds and what it refused since it was first
// installed; the figures survive restarts of the agent and changes of the plan.
type GuardStatus struct {
	Present    bool
	Elements   int   // group and port pairs, and port ranges
	RefusedOut Count // programs that sent a protected flow by a real interface
	RefusedIn  Count // cleartext of a protected flow from the network
}

// Advice tells a user what the figures mean and what to do, one sentence or two
// for each; nothing where there is nothing to tell.
func (g GuardStatus) Advice() []string {
	var text []string
	if n := g.RefusedOut.Packets; n > 0 {
		text = append(text, fmt.Sprintf("%d packets of a protected event were refused because the sending program chose "+
			"another interface than the tunnel's; it saw \"operation not permitted\". Let it send without naming an "+
			"interface or local address, unconnected and unbound (ffmpeg: no localaddr=, no connect=1).", n))
	}
	if n := g.RefusedIn.Packets; n > 0 {
		text = append(text, fmt.Sprintf("%d packets in the clear to a protected event's group came from the network and were "+
			"refused. Either a sender has no agent running, or somebody forges: look at the sources with "+
			"tcpdump on the real interface.", n))
	}
	return text
}

// Part is one kind of thing that the keeper puts back.
type Part string

// The parts of a host's set-up.
const (
	PartGuard   Part = "guard"
	PartLink    Part = "link" // usher0 was down
	PartMTU     Part = "mtu"
	PartAddress Part = "address"
	PartRoute   Part = "route"
	PartSetting Part = "setting" // a sysctl
)

// Status is the state of a [Keeper] as `usher status` shows it.
type Status struct {
	Choices  []Choice        // one for each group and source; without flows one for the host
	TUN      TUNState        // as seen last
	Guard    GuardStatus     // read at the call
	Restored map[Part]uint64 // what other programs removed and the keeper put back
	Problems []string        // what does not stand, or will not work, one sentence each with what to do
}

// Change is what a keeper reports when the ground moved.
type Change struct {
	Choices []Choice // all of them, as in Status
	// Rejoin lists the indexes of real interfaces that lost their link and have
	// it again: the switch may have forgotten the memberships, so a report must
	// be forced (leave and join).
	Rejoin []int
	TUN    TUNState
}
