package sa

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"usher/sa/esp"
)

// SAInfo is an association as `usher sa` lists it, with its counters of that moment.
type SAInfo struct {
	Association  string        `json:"association"`
	SPI          uint32        `json:"spi"`
	Destinations []netip.Addr  `json:"destinations"`
	Source       netip.Addr    `json:"source"`
	Direction    Direction     `json:"direction"`
	Transform    esp.Transform `json:"transform"`
	SenderID     uint16        `json:"sender_id"`
	Replay       ReplayMode    `json:"replay"`
	Interval     uint32        `json:"interval"`

	Initiation  int64 `json:"initiation_boot_ns"` // instants: boot ns, 0 unbounded
	SendFrom    int64 `json:"send_from_boot_ns"`
	SendUntil   int64 `json:"send_until_boot_ns"`
	AcceptFrom  int64 `json:"accept_from_boot_ns"`
	AcceptUntil int64 `json:"accept_until_boot_ns"`

	Sequence   uint32 `json:"sequence"`    // last one given out, 0: none
	Counter    uint64 `json:"counter"`     // last one given out, 0: none
	PacketsOut uint64 `json:"packets_out"` // sealed
	BytesOut   uint64 `json:"bytes_out"`   // encrypted, with padding
	QuotaBytes uint64 `json:"quota_bytes"` // 0: not bounded
	Soft       bool   `json:"soft"`        // three quarters of packets or bytes are used up (docs/keying.md §10)
	Exhausted  string `json:"exhausted,omitempty"`

	PacketsIn      uint64 `json:"packets_in"` // authentic and new
	BytesIn        uint64 `json:"bytes_in"`   // of inner packets
	Senders        uint64 `json:"senders"`
	BadICV         uint64 `json:"bad_icv"`
	ReplaySeen     uint64 `json:"replay_seen"`
	ReplayOld      uint64 `json:"replay_old"`
	ReplayJump     uint64 `json:"replay_jump"`
	TooManySenders uint64 `json:"too_many_senders"`
	Malformed      uint64 `json:"malformed"` // truncated, or authentic with wrong padding or next header
	Expired        uint64 `json:"expired"`   // came when the association did not accept

	Material *Material `json:"material,omitempty"` // nil unless it was kept; prints REDACTED
}

// String is one line without the key.
func (i SAInfo) String() string {
	return fmt.Sprintf("sa %s spi %08x interval %d %s %s", i.Association, i.SPI, i.Interval, i.Direction, i.Transform)
}

// Info returns the association as a listing shows it.
func (s *SA) Info() SAInfo {
	p, c, r := &s.params, &s.send, &s.receive
	send, accept := s.sendSpan.Load(), s.acceptSpan.Load()
	info := SAInfo{
		Association: p.Association, SPI: p.SPI, Destinations: slices.Clone(p.Destinations), Source: p.Source,
		Direction: p.Direction, Transform: p.Transform, SenderID: p.SenderID, Replay: p.Replay, Interval: p.Interval,
		Initiation: p.Initiation, SendFrom: send.from, SendUntil: send.until,
		AcceptFrom: accept.from, AcceptUntil: accept.until,
		PacketsOut: c.packets.Load(), BytesOut: c.bytes.Load(), QuotaBytes: c.quota,
		PacketsIn: r.packets.Load(), BytesIn: r.bytes.Load(), Senders: r.senders.Load(),
		BadICV: r.badICV.Load(), ReplaySeen: r.seen.Load(), ReplayOld: r.old.Load(), ReplayJump: r.jump.Load(),
		TooManySenders: r.tooMany.Load(), Malformed: r.malformed.Load(), Expired: r.expired.Load(),
		Material: s.material,
	}
	info.Sequence, info.Counter = c.last()
	info.Soft = p.Direction != Inbound && c.nearLimit()
	if err := s.Exhausted(); err != nil {
		info.Exhausted = err.Error()
	}
	return info
}

// Material is a kept copy of an association's key ‖ salt, for `usher sa --show-keys`. It prints as
// REDACTED in every form; only [Material.Reveal] gives the bytes.
type Material struct {
	_     [0]func() // incomparable
	mu    sync.Mutex
	bytes []byte // guarded by mu; nil once wiped
}

func newMaterial(b []byte) *Material { return &Material{bytes: append([]byte(nil), b...)} }

// Reveal returns a copy of key 32 ‖ salt 4, or nil if the association was removed.
func (m *Material) Reveal() []byte {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]byte(nil), m.bytes...)
}

func (m *Material) wipe() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.bytes)
	m.bytes = nil
}

// String returns REDACTED.
func (m *Material) String() string { return redacted }

// GoString returns REDACTED.
func (m *Material) GoString() string { return redacted }

// Format writes REDACTED for every verb.
func (m *Material) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns REDACTED.
func (m *Material) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns REDACTED, in JSON too.
func (m *Material) MarshalText() ([]byte, error) { return []byte(redacted), nil }
