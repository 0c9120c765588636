package sa

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"usher/sa/esp"
)

// SA is one security association: a key with its numbers, windows and lifetime. One goroutine sends
// and one receives by it; everything that others read or set is atomic. It never prints its key.
type SA struct {
	_       [0]func() // incomparable
	params  Params    // Material and Reservation are nil
	cipher  *esp.Cipher
	send    sender
	receive receiver

	sendSpan   atomic.Pointer[span]
	acceptSpan atomic.Pointer[span]
	dead       atomic.Bool // removed, or dropped for failed integrity checks
	material   *Material   // nil unless Params.KeepMaterial

	// Set once, by [DB.Install].
	family *family
	order  uint64
	notify func()
}

// span is a half-open time on the boot clock; until 0 is unbounded.
type span struct{ from, until int64 }

func (s *span) contains(bootNS int64) bool {
	return s.from <= bootNS && (s.until == 0 || bootNS < s.until)
}

// NewSA makes an association. It copies nothing of p.Material but into the cipher (and the copy that
// KeepMaterial asks for). Errors: [ErrBadParams]; of package esp [esp.ErrNotInThisVersion],
// [esp.ErrUnknownTransform], [esp.ErrMaterialLength].
func NewSA(p Params) (*SA, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	cipher, err := esp.New(p.Transform, p.Material)
	if err != nil {
		return nil, err
	}
	s := &SA{cipher: cipher, notify: func() {}}
	if p.KeepMaterial {
		s.material = newMaterial(p.Material)
	}
	s.send.init(&p)
	s.receive.init()
	p.Material, p.Reservation = nil, nil
	p.Destinations = unmapped(p.Destinations)
	s.params = p
	s.SetSendSpan(p.SendFrom, p.SendUntil)
	s.SetAcceptSpan(p.AcceptFrom, p.AcceptUntil)
	return s, nil
}

// unmapped returns the addresses without IPv4-mapped forms and without repetitions.
func unmapped(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// SetSendSpan sets, in one step, from when on and until when the association sends (boot ns; until
// excluded, 0: unbounded). A sender calls it for each new sample of the clock (docs/keying.md §6); with
// from = [Never] the association is silent.
func (s *SA) SetSendSpan(from, until int64) { s.sendSpan.Store(&span{from, until}) }

// SetAcceptSpan sets, in one step, from when on and until when the association accepts packets (boot
// ns; until excluded, 0: unbounded).
func (s *SA) SetAcceptSpan(from, until int64) { s.acceptSpan.Store(&span{from, until}) }

// Sends reports whether the association may send at this instant.
func (s *SA) Sends(bootNS int64) bool {
	return s.params.Direction != Inbound && !s.dead.Load() && s.sendSpan.Load().contains(bootNS)
}

// Accepts reports whether the association takes packets at this instant.
func (s *SA) Accepts(bootNS int64) bool {
	return s.params.Direction != Outbound && !s.dead.Load() && s.acceptSpan.Load().contains(bootNS)
}

// over reports whether the association will never be of use again. A sender's send bounds move with
// each sample of its clock, so that they decide only where nothing else does.
func (s *SA) over(bootNS int64) bool {
	if s.dead.Load() {
		return true
	}
	until := s.acceptSpan.Load().until
	if until == 0 && s.params.Direction == Outbound {
		until = s.sendSpan.Load().until
	}
	return until != 0 && bootNS >= until
}

// wipe ends the association and drops its key. A Seal or Open under way in another goroutine ends
// with the key with which it began.
func (s *SA) wipe() {
	s.dead.Store(true)
	s.cipher.Wipe()
	s.material.wipe()
}

// Association returns the name by which policies find it.
func (s *SA) Association() string { return s.params.Association }

// SPI returns the security parameters index.
func (s *SA) SPI() uint32 { return s.params.SPI }

// Destinations returns the outer destinations by which inbound packets find it; read only.
func (s *SA) Destinations() []netip.Addr { return s.params.Destinations }

// Direction returns in which direction it works.
func (s *SA) Direction() Direction { return s.params.Direction }

// SenderID returns the upper 16 bits of the IVs that it sends.
func (s *SA) SenderID() uint16 { return s.params.SenderID }

// Interval returns the number of its interval.
func (s *SA) Interval() uint32 { return s.params.Interval }

// Gather returns how long a sender waits for more packets of a batch.
func (s *SA) Gather() time.Duration { return s.params.Gather }

// TTL returns the TTL of outer packets, 0 if the policy or the inner packet says.
func (s *SA) TTL() uint8 { return s.params.TTL }

// Source returns the outer source address, the zero address if the inner packet says.
func (s *SA) Source() netip.Addr { return s.params.Source }

const redacted = "REDACTED"

// String names the association without its key.
func (s *SA) String() string { return s.Info().String() }
