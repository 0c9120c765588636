package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// The kinds of forged packets.
const (
	forgeSPI         = "spi"         // under an SPI that does not exist
	forgeAssociation = "association" // the right SPI, a sender id that does not exist
	forgeSender      = "sender"      // all right but the ICV
)

// Of an ESP packet, what forge knows (RFC 4303 §2, and the IV of
// docs/design.md §3): SPI 4, sequence 4, sender id 2, counter 6.
const espHeaderLen = 16

type forgeOptions struct {
	to       netip.AddrPort
	source   netip.Addr
	iface    string
	kind     string
	rate     int
	size     int
	duration time.Duration
}

// Forged is what forge did.
type Forged struct {
	Kind    string  `json:"kind"`
	Sent    uint64  `json:"sent"`
	Refused uint64  `json:"refused"`
	Rate    float64 `json:"rate"`  // packets a second
	Heard   uint64  `json:"heard"` // packets of the source that it took headers from
}

func (f *Forged) text(w io.Writer) {
	fmt.Fprintf(w, "forged %d of kind %s, %.0f a second; refused %d\n", f.Sent, f.Kind, f.Rate, f.Refused)
}

// forge floods. ready is called once it has heard a packet to imitate.
func forge(ctx context.Context, o forgeOptions, ready func()) (*Forged, error) {
	if !o.to.IsValid() || !o.to.Addr().Is4() || !o.to.Addr().IsMulticast() || !o.source.Is4() {
		return nil, errors.New("forge needs --to with an IPv4 group, and --source")
	}
	if o.kind != forgeSPI && o.kind != forgeAssociation && o.kind != forgeSender {
		return nil, fmt.Errorf("--kind is %s, %s or %s", forgeSPI, forgeAssociation, forgeSender)
	}
	if o.size < espHeaderLen+16 || o.size > 1472 || o.rate < 1 {
		return nil, errors.New("--size is 32 to 1472, --rate 1 or more")
	}
	prepareThread()
	clock, err := newMonotonic()
	if err != nil {
		return nil, err
	}
	ear, err := listener(o.to, o.source, o.iface, 0)
	if err != nil {
		return nil, err
	}
	defer ear.close()
	out, err := spoofer(o)
	if err != nil {
		return nil, err
	}
	defer out.close()
	f := &forger{forgeOptions: o, ear: ear, out: out, clock: clock, packets: make([]byte, forgeBurst*o.size), buf: make([]byte, maxSize+1)}
	for !f.heard() {
		if ended(ctx) {
			return nil, errors.New("heard no packet of the source")
		}
		if err := ear.wait(200); err != nil {
			return nil, err
		}
	}
	ready()
	f.run(ctx)
	return &f.result, nil
}

// spoofer opens a socket that sends under an address that the host has not.
func spoofer(o forgeOptions) (socket, error) {
	s, err := sender(o.to.Addr(), 8)
	if err != nil {
		return s, err
	}
	i, err := net.InterfaceByName(o.iface)
	if err == nil {
		err = unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(i.Index)})
	}
	if err == nil {
		// Else its own packets would come back, and pass for the source's.
		err = unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0)
	}
	if err == nil {
		err = unix.SetsockoptInt(s.fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	}
	if err == nil {
		err = unix.Bind(s.fd, sockaddr(netip.AddrPortFrom(o.source, o.to.Port())))
	}
	if err != nil {
		s.close()
		return socket{}, fmt.Errorf("forge the source %s (needs root): %w", o.source, err)
	}
	return s, nil
}

type forger struct {
	forgeOptions
	ear, out socket
	clock    monotonic
	packets  []byte // a burst
	buf      []byte
	header   [espHeaderLen]byte // the newest that was heard
	result   Forged
}

// heard takes the headers of what has come, and tells whether there was any.
func (f *forger) heard() bool {
	some := false
	for {
		n, ok, err := f.ear.receive(f.buf)
		if err != nil || !ok {
			return some
		}
		if n < espHeaderLen+16 {
			continue
		}
		copy(f.header[:], f.buf)
		f.result.Heard++
		some = true
	}
}

// forgeBurst is how many packets leave at once: a flood is not evenly spaced.
// They are handed over by one system call, and on a link that cuts them (a
// wire does) they arrive one by one.
const forgeBurst = 20

func (f *forger) run(ctx context.Context) {
	f.result.Kind = f.kind
	for i := range f.packets {
		f.packets[i] = byte(i * 37)
	}
	p := newPacer(f.clock, f.rate, forgeBurst)
	target := sockaddr(f.to)
	super := segmentMessage(f.size)
	begin := f.clock.now()
	var number uint64
	for !ended(ctx) {
		now := p.wait()
		if now-begin >= int64(f.duration) {
			break
		}
		f.heard()
		for i := range forgeBurst {
			number++
			f.imitate(f.packets[i*f.size:], number)
		}
		if err := unix.Sendmsg(f.out.fd, f.packets, super, target, 0); err != nil {
			f.result.Refused += forgeBurst
			continue
		}
		f.result.Sent += forgeBurst
	}
	f.result.Rate = float64(f.result.Sent) / (float64(f.clock.now()-begin) / 1e9)
}

// imitate writes the header of a packet.
func (f *forger) imitate(b []byte, number uint64) {
	copy(b, f.header[:])
	mixed := uint32(number * 2654435761) // Knuth's multiplicative hash
	switch f.kind {
	case forgeSPI:
		binary.BigEndian.PutUint32(b, 0x100|mixed)
	case forgeAssociation:
		binary.BigEndian.PutUint16(b[8:], uint16(mixed>>16)|0x8000)
	case forgeSender:
		// Ahead of what was sent, and within any window.
		counter := binary.BigEndian.Uint64(b[8:]) + 1 + number%64
		binary.BigEndian.PutUint64(b[8:], counter)
	}
	binary.BigEndian.PutUint32(b[4:], mixed)
}
