// Package underlaytest has a network in memory, for tests of the packet path
// without root: several hosts, groups, and a wire on which the test may lose,
// change, double and inject datagrams.
package underlaytest

import (
	"net/netip"
	"slices"
	"sync"

	"usher/tunnel/underlay"
)

// Network is a wire to which all its hosts are attached.
type Network struct {
	mu    sync.Mutex
	hosts []*Conn                        // guarded by mu
	wire  func(datagram []byte) [][]byte // guarded by mu
	tap   func(*underlay.Batch, []byte)  // guarded by mu
}

// NewNetwork makes a wire that delivers everything.
func NewNetwork() *Network { return &Network{} }

// Wire makes the wire do something else with each datagram than to deliver it:
// f returns what arrives instead, nothing for a loss. It may change datagram.
func (n *Network) Wire(f func(datagram []byte) [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wire = f
}

// Tap shows each datagram that is sent, with the batch that it was part of.
// Both are valid during the call only.
func (n *Network) Tap(f func(batch *underlay.Batch, datagram []byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tap = f
}

// Host attaches a host with that address.
func (n *Network) Host(address netip.Addr) *Conn {
	c := &Conn{network: n, address: address, index: 1}
	c.changed = sync.NewCond(&c.mu)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts = append(n.hosts, c)
	return c
}

// Inject puts a datagram on the wire as if somebody at from had sent it.
func (n *Network) Inject(datagram []byte, from netip.AddrPort, to netip.Addr, tos uint8) {
	n.mu.Lock()
	hosts := slices.Clone(n.hosts)
	n.mu.Unlock()
	for _, h := range hosts {
		h.arrive(arrival{append([]byte(nil), datagram...), len(datagram), from, to, tos})
	}
}

// deliver carries a batch to all but its sender.
func (n *Network) deliver(sender *Conn, b *underlay.Batch) {
	n.mu.Lock()
	hosts, wire, tap := n.hosts, n.wire, n.tap
	n.mu.Unlock()
	if tap != nil || wire != nil {
		n.deliverEach(sender, b, hosts, wire, tap)
		return
	}
	size := b.SegmentSize
	if size <= 0 {
		size = len(b.Data)
	}
	for _, h := range hosts {
		if h != sender {
			h.arrive(arrival{append([]byte(nil), b.Data...), size, sender.from(b), b.Destination.Addr(), b.TOS})
		}
	}
}

// deliverEach does so datagram by datagram.
func (n *Network) deliverEach(sender *Conn, b *underlay.Batch, hosts []*Conn, wire func([]byte) [][]byte, tap func(*underlay.Batch, []byte)) {
	rest := b.Data
	for range b.Segments() {
		one := rest
		if b.SegmentSize > 0 && len(one) > b.SegmentSize {
			one = one[:b.SegmentSize]
		}
		rest = rest[len(one):]
		if tap != nil {
			tap(b, one)
		}
		arriving := [][]byte{one}
		if wire != nil {
			arriving = wire(append([]byte(nil), one...))
		}
		for _, a := range arriving {
			for _, h := range hosts {
				if h != sender {
					h.arrive(arrival{append([]byte(nil), a...), len(a), sender.from(b), b.Destination.Addr(), b.TOS})
				}
			}
		}
	}
}

// arrival is what one receive gives.
type arrival struct {
	data        []byte
	size        int
	source      netip.AddrPort
	destination netip.Addr
	tos         uint8
}

// Conn is a host's socket on the network; it implements underlay.Conn.
type Conn struct {
	network *Network

	// Refuse, if set before the first Send, may refuse a datagram.
	Refuse func(datagram []byte) error

	mu      sync.Mutex
	changed *sync.Cond
	address netip.Addr   // guarded by mu
	index   int          // guarded by mu
	groups  []netip.Addr // guarded by mu
	queue   []arrival    // guarded by mu
	woken   bool         // guarded by mu
	closed  bool         // guarded by mu
}

var _ underlay.Conn = (*Conn)(nil)

// Join makes the host receive a group.
func (c *Conn) Join(group netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups = append(c.groups, group)
}

// Leave makes the host receive a group no more.
func (c *Conn) Leave(group netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups = slices.DeleteFunc(c.groups, func(g netip.Addr) bool { return g == group })
}

// from is the source that a batch shows.
func (c *Conn) from(b *underlay.Batch) netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	source := b.Source
	if !source.IsValid() {
		source = c.address
	}
	return netip.AddrPortFrom(source, underlay.DefaultPort)
}

// arrive queues what is for this host.
func (c *Conn) arrive(a arrival) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || (a.destination != c.address && !slices.Contains(c.groups, a.destination)) {
		return
	}
	c.queue = append(c.queue, a)
	c.changed.Broadcast()
}

// Send implements underlay.Conn.
func (c *Conn) Send(b *underlay.Batch) (refused int, err error) {
	if c.Refuse == nil {
		c.network.deliver(c, b)
		return 0, nil
	}
	// As a real socket that has to send one by one.
	rest := b.Data
	for range b.Segments() {
		one := *b
		one.Data, one.SegmentSize = rest, 0
		if b.SegmentSize > 0 && len(rest) > b.SegmentSize {
			one.Data = rest[:b.SegmentSize]
		}
		rest = rest[len(one.Data):]
		if e := c.Refuse(one.Data); e != nil {
			refused, err = refused+1, e
			continue
		}
		c.network.deliver(c, &one)
	}
	return refused, err
}

// Receive implements underlay.Conn.
func (c *Conn) Receive(m *underlay.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return underlay.ErrClosed
	case len(c.queue) == 0:
		return underlay.ErrAgain
	}
	a := c.queue[0]
	c.queue = c.queue[1:]
	m.Data = m.Buffer[:copy(m.Buffer, a.data)]
	m.SegmentSize = min(a.size, len(m.Data))
	m.Source, m.Destination, m.Interface, m.TOS = a.source, a.destination, c.index, a.tos
	return nil
}

// Wait implements underlay.Conn.
func (c *Conn) Wait() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) == 0 && !c.woken && !c.closed {
		c.changed.Wait()
	}
	return !c.woken
}

// Wake implements underlay.Conn.
func (c *Conn) Wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.woken = true
	c.changed.Broadcast()
}

// SetInterface implements underlay.Conn.
func (c *Conn) SetInterface(index int, address netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index, c.address = index, address
}

// Close implements underlay.Conn.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed.Broadcast()
	return nil
}
