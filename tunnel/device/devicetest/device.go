// Package devicetest has a virtual interface in memory, for tests of the
// packet path without root: the test plays the host's applications.
package devicetest

import (
	"sync"

	"usher/tunnel/device"
)

// Device implements device.Device in memory. Make it with New.
type Device struct {
	name string

	// Deliver, if set before the first Write, gets each packet that the
	// tunnel writes, valid during the call only, instead of Received.
	Deliver func(packet []byte)

	// Refuse, if set before the first Write, may refuse a packet.
	Refuse func(packet []byte) error

	mu       sync.Mutex
	changed  *sync.Cond
	queue    [][]byte // guarded by mu: offload header and packet
	received [][]byte // guarded by mu
	woken    bool     // guarded by mu
	closed   bool     // guarded by mu
	removed  bool     // guarded by mu
}

var _ device.Device = (*Device)(nil)

// New makes a device.
func New(name string) *Device {
	d := &Device{name: name}
	d.changed = sync.NewCond(&d.mu)
	return d
}

// Name implements device.Device.
func (d *Device) Name() string { return d.name }

// Send is an application that sends a finished packet.
func (d *Device) Send(packet []byte) { d.SendWith(device.Header{}, packet) }

// SendWith is a kernel that leaves work to the reader.
func (d *Device) SendWith(h device.Header, packet []byte) {
	b := make([]byte, device.HeaderLen+len(packet))
	_ = h.Encode(b) // b is long enough
	copy(b[device.HeaderLen:], packet)
	d.SendRaw(b)
}

// SendRaw queues exactly these bytes for Read. The device keeps b.
func (d *Device) SendRaw(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue = append(d.queue, b)
	d.changed.Broadcast()
}

// Remove is an operator who deletes the interface.
func (d *Device) Remove() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removed = true
	d.changed.Broadcast()
}

// Received takes what the tunnel has written so far.
func (d *Device) Received() [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.received
	d.received = nil
	return all
}

// Read implements device.Device.
func (d *Device) Read(buf []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.removed, d.closed:
		return 0, device.ErrClosed
	case len(d.queue) == 0:
		return 0, device.ErrAgain
	}
	n := copy(buf, d.queue[0])
	d.queue = d.queue[1:]
	return n, nil
}

// Wait implements device.Device.
func (d *Device) Wait() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) == 0 && !d.woken && !d.removed {
		d.changed.Wait()
	}
	return !d.woken
}

// Wake implements device.Device.
func (d *Device) Wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.woken = true
	d.changed.Broadcast()
}

// Write implements device.Device. It merges nothing, but overwrites what a
// real one may overwrite.
func (d *Device) Write(bufs [][]byte, offset int) (refused int, err error) {
	for _, b := range bufs {
		packet := b[offset:]
		clear(b[offset-device.HeaderLen : offset])
		if d.Refuse != nil {
			if e := d.Refuse(packet); e != nil {
				refused, err = refused+1, e
				continue
			}
		}
		if d.Deliver != nil {
			d.Deliver(packet)
			continue
		}
		d.mu.Lock()
		d.received = append(d.received, append([]byte(nil), packet...))
		d.mu.Unlock()
	}
	return refused, err
}

// Close implements device.Device.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}
