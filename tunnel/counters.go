package tunnel

import "sync/atomic"

// Counters are the packet path's counters. The two loops write them without a
// lock; Snapshot may be called at any time.
type Counters struct {
	out, in directionCounters
	control atomic.Uint64
}

// directionCounters are written by one loop only.
type directionCounters struct {
	packets atomic.Uint64
	bytes   atomic.Uint64
	batches atomic.Uint64
	wakeups atomic.Uint64
	drops   [reasonCount]atomic.Uint64
	_       [64]byte // the two loops' counters do not share a cache line
}

// drop counts one packet that did not get through.
func (c *directionCounters) drop(r Reason) { c.drops[r].Add(1) }

// Traffic is one direction's counters at one instant.
type Traffic struct {
	Packets uint64            `json:"packets"` // inner packets passed on
	Bytes   uint64            `json:"bytes"`   // their bytes, headers included
	Batches uint64            `json:"batches"` // system calls that passed them on
	Wakeups uint64            `json:"wakeups"` // times the loop slept for packets
	Drops   map[string]uint64 `json:"drops"`   // by Reason's name; those that are 0 are left out
}

// Snapshot is all counters at one instant.
type Snapshot struct {
	Out     Traffic `json:"out"`     // from applications to the network
	In      Traffic `json:"in"`      // from the network to applications
	Control uint64  `json:"control"` // control datagrams that came on the ESP port
}

// Snapshot reads all counters. They are read one after the other while the
// loops go on, so that sums of them may be off by the packets in flight.
func (c *Counters) Snapshot() Snapshot {
	return Snapshot{Out: c.out.snapshot(), In: c.in.snapshot(), Control: c.control.Load()}
}

func (c *directionCounters) snapshot() Traffic {
	t := Traffic{
		Packets: c.packets.Load(),
		Bytes:   c.bytes.Load(),
		Batches: c.batches.Load(),
		Wakeups: c.wakeups.Load(),
		Drops:   map[string]uint64{},
	}
	for i := range c.drops {
		if n := c.drops[i].Load(); n > 0 {
			t.Drops[Reason(i).String()] = n
		}
	}
	return t
}

// Dropped is how many packets of the direction were dropped under a reason.
func (t Traffic) Dropped(r Reason) uint64 { return t.Drops[r.String()] }
