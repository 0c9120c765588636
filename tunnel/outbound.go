package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"usher/sa"
	"usher/sa/esp"
	"usher/tunnel/device"
	"usher/tunnel/packet"
	"usher/tunnel/underlay"
)

// The way out, in the order of the functions below:
//
//	run      sleep until the device has packets, or nap to let some gather
//	drain    read them all
//	take     headers, checksum, super-packets
//	route    selector → policy → association, once for a flow and wake-up
//	seal     numbers, ESP, in place
//	flush    one system call for a batch
//
// A packet is read to where it is sent from. The send buffer holds the batch,
// and behind it room for one more packet:
//
//	[ESP][ESP][ESP] 6 free | offload header 10 | inner packet …
//	                └────── ESP header 16 ─────┘              pad, trailer, ICV
//
// so that the rest of the ESP header overwrites the offload header, and equal
// packets of one flow lie as UDP_SEGMENT wants them, without a copy.

const (
	// offloadAt is where the offload header begins in the ESP header's room.
	offloadAt = esp.HeaderLen - device.HeaderLen

	// sendBuffer holds a full batch and one more packet, of any length.
	sendBuffer = underlay.MaxBatchBytes + device.MaxPacket + esp.Overhead

	// drainLimit is how many reads follow each other before the clock and the
	// database are looked at anew.
	drainLimit = 128

	// defaultGather is the nap where no association of the drain says.
	defaultGather = 200 * time.Microsecond

	// yieldEvery bounds how long a loop runs without calling the scheduler.
	// The runtime takes the processor from a goroutine that it has not seen
	// yielding for 10 ms, in each of its system calls from then on.
	yieldEvery = int64(5 * time.Millisecond)
)

// outbound is the state of the way out. One goroutine owns it.
type outbound struct {
	t        *Tunnel
	counters *directionCounters

	now      int64         // boot ns, as of the last look
	yielded  int64         // boot ns of the last runtime.Gosched
	snapshot *sa.Snapshot  // as of the last look
	gather   time.Duration // shortest of the associations that sent in this drain
	nap      unix.Timespec

	info packet.Info
	flow flow // the last packet's

	buffer []byte // the batch, then the packet at hand
	super  []byte // a super-packet, while it is cut
	cut    packet.Super

	batch   underlay.Batch
	key     batchKey
	count   int // packets in the batch
	used    int // bytes in the batch
	segment int // length of all but the last
	inner   int // inner bytes in the batch
}

// flow is what route found out for a tuple; good for one drain.
type flow struct {
	valid       bool
	tuple       sa.Tuple
	reason      Reason // if association is nil
	association *sa.SA
	destination netip.Addr
	source      netip.Addr
	ttl         uint8 // 0: the inner packet's
}

// batchKey is what all packets of one batch have in common.
type batchKey struct {
	association *sa.SA
	destination netip.Addr
	source      netip.Addr
	ttl, tos    uint8
}

func newOutbound(t *Tunnel) *outbound {
	return &outbound{
		t:        t,
		counters: &t.counters.out,
		buffer:   make([]byte, sendBuffer),
		super:    make([]byte, device.MaxPacket),
	}
}

// run is the loop. It returns nil once the tunnel stops.
func (o *outbound) run() error {
	var pace pacing
	for !o.t.stopping.Load() {
		o.look()
		got, err := o.drain()
		o.flush()
		if err != nil {
			return err
		}
		if got == drainLimit {
			continue
		}
		if pace.streaming(got) && o.gather > 0 {
			o.nap = unix.NsecToTimespec(int64(o.gather))
			// An interrupted nap is a short one, no error.
			_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &o.nap, nil)
			continue
		}
		o.counters.wakeups.Add(1)
		if !o.t.config.Device.Wait() {
			return nil
		}
	}
	return nil
}

// pacing decides between two drains whether packets come as a stream. While
// they do, the loop naps instead of polling: the next ones gather, and the
// application pays for no wake-up. A lone packet after silence leaves at once.
type pacing struct {
	credit int // drains for which a stream is still believed in
}

// What tells of a stream: so many packets in one drain, and for so many drains
// afterwards one.
const burst, burstCredit = 2, 3

// streaming is told how many packets a drain gave.
func (p *pacing) streaming(got int) bool {
	if got >= burst {
		p.credit = burstCredit
	} else if p.credit > 0 {
		p.credit--
	}
	return p.credit > 0 && got > 0
}

// look reads clock and database, once for a drain: the sender changes its key
// between two batches.
func (o *outbound) look() {
	o.now = o.t.config.BootNS()
	o.snapshot = o.t.config.DB.Snapshot()
	o.flow.valid = false
	o.gather = defaultGather
	if o.now-o.yielded >= yieldEvery {
		runtime.Gosched()
		o.yielded = o.now
	}
}

// drain reads packets until there are none, or drainLimit of them.
func (o *outbound) drain() (got int, err error) {
	for ; got < drainLimit; got++ {
		room := o.buffer[o.used+offloadAt:]
		n, err := o.t.config.Device.Read(room)
		if err != nil {
			if errors.Is(err, device.ErrAgain) {
				return got, nil
			}
			return got, fmt.Errorf("tunnel: read from %s: %w", o.t.config.Device.Name(), err)
		}
		o.take(room[:n])
	}
	return got, nil
}

// take handles one packet or super-packet, with its offload header in front.
func (o *outbound) take(b []byte) {
	offload, err := device.ParseHeader(b)
	if err != nil {
		o.counters.drop(NotIP)
		return
	}
	inner := b[device.HeaderLen:]
	if err := packet.Parse(inner, &o.info); err != nil {
		o.counters.drop(parseReason(err))
		return
	}
	inner = inner[:o.info.Length]
	if offload.Kind != device.KindNone {
		o.takeSuper(inner, int(offload.SegmentSize))
		return
	}
	f, reason := o.route(inner)
	if f == nil {
		o.counters.drop(reason)
		return
	}
	if offload.NeedsChecksum {
		if err := packet.CompleteChecksum(inner, int(offload.ChecksumStart), int(offload.ChecksumOffset)); err != nil {
			o.counters.drop(Malformed)
			return
		}
	}
	if !o.fit(f, len(inner)) {
		return
	}
	if at := o.buffer[o.used+esp.HeaderLen:]; &at[0] != &inner[0] {
		copy(at, inner) // a flush has moved the place to write to
	}
	o.seal(f, len(inner))
}

// takeSuper cuts a super-packet and handles each of its packets.
func (o *outbound) takeSuper(inner []byte, segment int) {
	f, reason := o.route(inner)
	if err := o.cut.Init(inner, &o.info, segment); err != nil {
		if f != nil {
			reason = Malformed
		}
		o.counters.drop(reason)
		return
	}
	if f == nil {
		o.counters.drops[reason].Add(uint64(o.cut.Remaining()))
		return
	}
	// What is cut is written where it lies.
	inner = o.super[:copy(o.super, inner)]
	if err := o.cut.Init(inner, &o.info, segment); err != nil {
		o.counters.drop(Malformed)
		return
	}
	for {
		n := o.cut.NextLen()
		if n == 0 {
			return
		}
		if f.association == nil { // it ended at an earlier one
			o.counters.drops[f.reason].Add(uint64(o.cut.Remaining()))
			return
		}
		if !o.fit(f, n) {
			o.counters.drops[TooBig].Add(uint64(o.cut.Remaining() - 1))
			return // the others are as large
		}
		o.cut.Next(o.buffer[o.used+esp.HeaderLen:])
		o.seal(f, n)
	}
}

// route finds policy and association of the packet in o.info. It returns nil
// and the reason where there is none.
func (o *outbound) route(inner []byte) (*flow, Reason) {
	switch packet.Kernel(inner, &o.info) {
	case packet.IGMP:
		if hook := o.t.config.Hooks.GroupReport; hook != nil && !o.info.Fragment {
			hook(inner[o.info.HeaderLen:o.info.Length])
		}
		return nil, IGMP
	case packet.MLD:
		return nil, MLD
	case packet.RouterSolicitation:
		return nil, RouterSolicitation
	}
	switch {
	case o.info.Version == 6:
		return nil, IPv6
	case o.info.Fragment:
		return nil, Fragment
	}
	tuple := tupleOf(&o.info)
	f := &o.flow
	if !f.valid || f.tuple != tuple {
		*f = flow{valid: true, tuple: tuple}
		o.decide(f)
	}
	if f.association == nil {
		return nil, f.reason
	}
	return f, 0
}

// decide fills in what the database has for the flow's tuple: the outcomes of
// Fig 12.
func (o *outbound) decide(f *flow) {
	entry, association := o.snapshot.Sending(f.tuple, o.now)
	if entry == nil {
		f.reason = NoSelector
		return
	}
	switch entry.Action {
	case sa.Protect:
	case sa.Discard:
		f.reason = Discarded
		return
	default: // bypass: not in this version, and refused where policies are set
		f.reason = NoSelector
		return
	}
	if association == nil || len(association.Destinations()) == 0 {
		f.reason = NoSA
		return
	}
	f.association = association
	// A group keeps its address (RFC 5374 §3.1); else it is the tunnel's end.
	f.destination = f.tuple.Destination
	if d := association.Destinations(); !slices.Contains(d, f.destination) {
		f.destination = d[0]
	}
	f.source = association.Source()
	if !f.source.IsValid() {
		f.source = f.tuple.Source
	}
	f.ttl = association.TTL()
	if f.ttl == 0 && entry.TTLSet {
		f.ttl = entry.TTL
	}
	o.gather = min(o.gather, association.Gather())
}

// fit makes room in the batch for an inner packet of n bytes, and flushes
// what cannot share a batch with it. It drops what no datagram can hold.
func (o *outbound) fit(f *flow, n int) bool {
	sealed := esp.SealedLen(n)
	if sealed > underlay.MaxBatchBytes {
		o.counters.drop(TooBig)
		return false
	}
	key := batchKey{association: f.association, destination: f.destination, source: f.source, ttl: f.ttl, tos: o.info.TOS}
	if key.ttl == 0 {
		key.ttl = o.info.TTL
	}
	if o.count > 0 && (sealed > o.segment || o.count == underlay.MaxSegments ||
		o.used+sealed > underlay.MaxBatchBytes || key != o.key) {
		o.flush()
	}
	o.key = key
	return true
}

// seal makes ESP of the n bytes behind the batch, and adds it to the batch. Where
// the association ended while the drain went on (a busy host may have put the loop
// aside), the one that follows it takes over.
func (o *outbound) seal(f *flow, n int) {
	sealed := o.sealUnder(f, n)
	if sealed == nil && o.succeed(f, n) {
		sealed = o.sealUnder(f, n)
	}
	if sealed == nil {
		if f.association != nil {
			f.association, f.reason = nil, Exhausted
		}
		o.counters.drop(f.reason)
		return
	}
	if o.count == 0 {
		o.segment = len(sealed)
	}
	o.count++
	o.used += len(sealed)
	o.inner += n
	if len(sealed) < o.segment {
		o.flush() // only the last of a batch may be shorter
	}
}

// sealUnder makes ESP under the flow's association, nil if that sends no more: a
// key ends at its instant, also in the middle of a drain that was held up.
func (o *outbound) sealUnder(f *flow, n int) []byte {
	if !f.association.Sends(o.now) {
		return nil
	}
	sequence, iv, ok := f.association.Next()
	if !ok {
		return nil
	}
	return f.association.Seal(o.buffer[o.used:], n, sequence, iv, esp.NextIPv4)
}

// succeed looks at clock and database again, and tells whether another
// association now sends the flow's packets. The n bytes at hand move to where the
// next batch begins.
func (o *outbound) succeed(f *flow, n int) bool {
	inner := o.buffer[o.used+esp.HeaderLen:][:n]
	o.flush()
	copy(o.buffer[esp.HeaderLen:], inner)
	o.now, o.snapshot = o.t.config.BootNS(), o.t.config.DB.Snapshot()
	ended := f.association
	*f = flow{valid: true, tuple: f.tuple}
	o.decide(f)
	return f.association != nil && f.association != ended && o.fit(f, n)
}

// flush sends the batch.
func (o *outbound) flush() {
	if o.count == 0 {
		return
	}
	o.batch = underlay.Batch{
		Data:        o.buffer[:o.used],
		SegmentSize: o.segment,
		Destination: netip.AddrPortFrom(o.key.destination, o.t.config.Port),
		Source:      o.key.source,
		TTL:         o.key.ttl,
		TOS:         o.key.tos,
	}
	refused, err := o.t.config.Underlay.Send(&o.batch)
	o.now = o.t.config.BootNS() // the interface may have kept us waiting
	o.counters.batches.Add(1)
	if refused > 0 {
		reason := SendRefused
		if errors.Is(err, underlay.ErrTooBig) {
			reason = TooBig
		}
		o.counters.drops[reason].Add(uint64(refused))
		o.inner = o.inner / o.count * (o.count - refused)
	}
	o.counters.packets.Add(uint64(o.count - refused))
	o.counters.bytes.Add(uint64(o.inner))
	o.count, o.used, o.segment, o.inner = 0, 0, 0, 0
}

// tupleOf is what a packet shows to the selectors.
func tupleOf(info *packet.Info) sa.Tuple {
	return sa.Tuple{
		Source:          info.Source,
		Destination:     info.Destination,
		Protocol:        info.Protocol,
		SourcePort:      info.SourcePort,
		DestinationPort: info.DestinationPort,
		HasPorts:        info.HasPorts,
	}
}

// parseReason is the reason for what packet.Parse refused.
func parseReason(err error) Reason {
	if errors.Is(err, packet.ErrNotIP) {
		return NotIP
	}
	return Malformed
}
