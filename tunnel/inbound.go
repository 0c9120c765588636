package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"usher/sa"
	"usher/sa/esp"
	"usher/tunnel/device"
	"usher/tunnel/packet"
	"usher/tunnel/underlay"
)

// The way in, in the order of the functions below:
//
//	run       sleep until the socket has datagrams; no gathering: the
//	          sender's batches arrive as such
//	drain     receive them all
//	take      what is it: keepalive, control, ESP
//	open      association → lifetime, replay, ICV → inner packet
//	accept    inner header against the association's selectors, ECN
//	enqueue   hand-over to the device, in batches
//
// Everything happens where the datagram was received: what is decrypted lies
// behind the ESP header, whose room takes the device's offload header.

const (
	// arenaSize holds several receives, whose packets are written in one go.
	arenaSize = 8 * underlay.MaxDatagram

	// writeLimit is how many packets the device gets at once.
	writeLimit = 256

	// leaders is how many packets of one write get a buffer with room to
	// merge the following ones of their flow into.
	leaders = 16
)

// inbound is the state of the way in. One goroutine owns it.
type inbound struct {
	t        *Tunnel
	counters *directionCounters

	now      int64        // boot ns, as of the last look
	yielded  int64        // boot ns of the last runtime.Gosched
	snapshot *sa.Snapshot // as of the last receive

	// The last association that was looked up in snapshot.
	spi         uint32
	destination netip.Addr
	association *sa.SA

	arena   []byte
	used    int // bytes of arena that hold packets not yet written
	message underlay.Message
	info    packet.Info

	write      [][]byte // what the device gets, each with room for its offload header
	writeBytes int
	leaders    [leaders][]byte
	leading    int    // leaders in use
	leader     leader // the packet that following ones may be merged into
}

// leader is what decides whether a packet can follow another one.
type leader struct {
	valid   bool
	header  [24]byte // IPv4 header and ports
	payload int      // longest payload that may follow
	total   int
}

func newInbound(t *Tunnel) *inbound {
	i := &inbound{
		t:        t,
		counters: &t.counters.in,
		arena:    make([]byte, arenaSize),
		write:    make([][]byte, 0, writeLimit),
	}
	for n := range i.leaders {
		i.leaders[n] = make([]byte, device.MergeCapacity)
	}
	return i
}

// run is the loop. It returns nil once the tunnel stops.
func (i *inbound) run() error {
	for !i.t.stopping.Load() {
		i.look()
		got, err := i.drain()
		i.deliver()
		if err != nil {
			return err
		}
		if got == drainLimit {
			continue
		}
		i.counters.wakeups.Add(1)
		if !i.t.config.Underlay.Wait() {
			return nil
		}
	}
	return nil
}

// look reads the clock, once for a drain.
func (i *inbound) look() {
	i.now = i.t.config.BootNS()
	if i.now-i.yielded >= yieldEvery {
		runtime.Gosched()
		i.yielded = i.now
	}
}

// drain receives until there is nothing, or drainLimit times.
func (i *inbound) drain() (got int, err error) {
	for ; got < drainLimit; got++ {
		if len(i.arena)-i.used < underlay.MaxDatagram {
			i.deliver()
		}
		i.message.Buffer = i.arena[i.used:]
		if err := i.t.config.Underlay.Receive(&i.message); err != nil {
			if errors.Is(err, underlay.ErrAgain) {
				return got, nil
			}
			return got, fmt.Errorf("tunnel: receive: %w", err)
		}
		i.datagrams()
	}
	return got, nil
}

// datagrams handles what one receive gave: datagrams of equal length.
func (i *inbound) datagrams() {
	if snapshot := i.t.config.DB.Snapshot(); snapshot != i.snapshot {
		i.snapshot, i.association = snapshot, nil
	}
	data, size := i.message.Data, i.message.SegmentSize
	i.used += len(data)
	if len(data) == 0 {
		i.counters.drop(Short)
		return
	}
	for len(data) > 0 {
		one := data
		if size > 0 && len(one) > size {
			one = data[:size]
		}
		i.take(one)
		data = data[len(one):]
	}
}

// take tells apart what may come on the port (RFC 3948 §2).
func (i *inbound) take(datagram []byte) {
	if len(datagram) == 1 && datagram[0] == 0xff {
		i.counters.drop(Keepalive)
		return
	}
	if len(datagram) < 4 {
		i.counters.drop(Short)
		return
	}
	spi := binary.BigEndian.Uint32(datagram)
	if spi == 0 {
		i.t.counters.control.Add(1)
		if hook := i.t.config.Hooks.ControlIn; hook != nil {
			hook(datagram[4:], i.message.Source)
		}
		return
	}
	i.open(spi, datagram)
}

// open finds the association and decrypts in place.
func (i *inbound) open(spi uint32, datagram []byte) {
	if i.association == nil || spi != i.spi || i.message.Destination != i.destination {
		i.spi, i.destination = spi, i.message.Destination
		i.association = i.snapshot.Inbound(spi, i.destination)
	}
	if i.association == nil {
		i.counters.drop(UnknownSPI)
		if hook := i.t.config.Hooks.UnknownSPI; hook != nil {
			hook(spi, i.message.Source.Addr(), i.message.Destination)
		}
		return
	}
	inner, next, err := i.association.Open(datagram, i.now)
	if err != nil {
		i.counters.drop(openReason(err))
		return
	}
	switch next {
	case esp.NextIPv4:
		i.accept(inner, datagram)
	case esp.NextIPv6:
		i.counters.drop(IPv6)
	case esp.NextDummy:
		i.counters.drop(Dummy)
	default:
		i.counters.drop(NextHeader)
	}
}

// accept checks an authentic inner packet: that it is one, that the
// association may carry it (RFC 4301 §5.2 step 4), and its congestion mark.
func (i *inbound) accept(inner, datagram []byte) {
	if err := packet.Parse(inner, &i.info); err != nil {
		i.counters.drop(parseReason(err))
		return
	}
	switch {
	case i.info.Version != 4:
		i.counters.drop(Malformed) // ESP's next header said IPv4
		return
	case i.info.Fragment:
		i.counters.drop(Fragment)
		return
	case !i.association.Matches(tupleOf(&i.info)):
		i.counters.drop(SelectorMismatch)
		return
	}
	if err := packet.CombineECN(inner, i.message.TOS); err != nil {
		i.counters.drop(Congestion)
		return
	}
	// Behind the packet's own end is padding against traffic analysis
	// (RFC 4303 §2.7).
	i.enqueue(datagram[offloadAt : esp.HeaderLen+i.info.Length : esp.HeaderLen+i.info.Length])
}

// enqueue adds a packet, with room for its offload header in front, to what
// the device gets next.
func (i *inbound) enqueue(b []byte) {
	if len(i.write) == writeLimit {
		i.deliverQueued()
	}
	length := len(b) - device.HeaderLen
	if !i.follows(b[device.HeaderLen:]) && i.leading < leaders {
		// The device merges into a buffer with room, which a datagram among
		// others has not.
		own := i.leaders[i.leading]
		i.leading++
		b = own[:copy(own, b)]
	}
	i.write = append(i.write, b)
	i.writeBytes += length
}

// follows tells whether the device can merge the packet into the leader, and
// makes it the new leader if not.
func (i *inbound) follows(b []byte) bool {
	l := &i.leader
	headers := int(i.info.HeaderLen)
	payload := len(b) - headers - 8
	if i.info.Protocol != packet.ProtocolUDP || headers != 20 || payload <= 0 {
		l.valid = false
		return false
	}
	same := l.valid && payload <= l.payload && l.total+payload <= device.MergeCapacity-2*device.HeaderLen &&
		b[1] == l.header[1] && b[8] == l.header[8] && b[6]>>5 == l.header[6]>>5 &&
		[12]byte(b[12:24]) == [12]byte(l.header[12:24])
	if same {
		l.total += payload
		if payload < l.payload {
			l.valid = false // nothing may follow a shorter one
		}
		return true
	}
	l.valid = true
	copy(l.header[:], b)
	l.payload = payload
	l.total = len(b)
	return false
}

// deliver hands everything to the device, and makes the arena free.
func (i *inbound) deliver() {
	i.deliverQueued()
	i.used = 0
}

// deliverQueued hands everything to the device.
func (i *inbound) deliverQueued() {
	i.leading = 0
	i.leader.valid = false
	if len(i.write) == 0 {
		return
	}
	count := len(i.write)
	refused, _ := i.t.config.Device.Write(i.write, device.HeaderLen)
	refused = min(refused, count)
	i.counters.batches.Add(1)
	i.counters.packets.Add(uint64(count - refused))
	i.counters.drops[DeviceRefused].Add(uint64(refused))
	i.counters.bytes.Add(uint64(i.writeBytes / count * (count - refused)))
	if refused == 0 {
		i.counters.bytes.Add(uint64(i.writeBytes % count))
	}
	i.write, i.writeBytes = i.write[:0], 0
}

// openReason is the reason for what an association refused.
func openReason(err error) Reason {
	switch {
	case errors.Is(err, esp.ErrBadICV):
		return BadICV
	case errors.Is(err, sa.ErrReplaySeen):
		return ReplaySeen
	case errors.Is(err, sa.ErrReplayOld):
		return ReplayOld
	case errors.Is(err, sa.ErrReplayJump):
		return ReplayJump
	case errors.Is(err, sa.ErrTooManySenders):
		return TooManySenders
	case errors.Is(err, esp.ErrShort):
		return Short
	case errors.Is(err, esp.ErrBadPadding):
		return BadPadding
	case errors.Is(err, esp.ErrBadNextHeader):
		return NextHeader
	}
	return Expired // sa.ErrExpired, esp.ErrWiped
}
