package keyclient

import (
	"net/netip"
	"slices"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/sa"
	"usher/sa/esp"
)

// installed is one interval's association.
type installed struct {
	interval uint32
	sa       *sa.SA
	beginMS  int64 // Tᵢ
	endMS    int64 // Tᵢ₊₁, by the record's lifetime
}

// install makes an association for each fresh key of the span. One that is
// there already stays, with its numbers: after a new enrolment the key of an
// interval is the same, and the old sender id may be used to that interval's end.
func (s *session) install(keys schedule.Span) {
	for _, i := range sortedKeys(s.fresh) {
		if i < keys.First || i > keys.Last || s.keys[i] != nil {
			continue
		}
		r := s.fresh[i]
		if err := s.installOne(r); err != nil {
			s.detail = err.Error()
			s.c.log.Error("association could not be installed", "event", s.entry.entry.ID, "interval", i, "error", err)
			continue
		}
		s.c.log.Info("key installed", "event", s.entry.entry.ID, "interval", i, "begins_ms", r.InitiationMS, "lasts_ms", r.LifetimeMS)
	}
}

func (s *session) installOne(r wire.Record) error {
	material := derive.TrafficKey(r.Key, s.grant.Tag, r.Interval, r.Transform)
	defer clear(material[:])
	one := &installed{interval: r.Interval, beginMS: r.InitiationMS, endMS: r.InitiationMS + int64(r.LifetimeMS)}
	p := sa.Params{
		Association:  s.entry.entry.ID.String(),
		SPI:          r.SPI,
		Destinations: destinations(s.entry.view.Flows),
		Direction:    s.direction(),
		Transform:    esp.Transform(r.Transform),
		Material:     material[:],
		Replay:       sa.BySender,
		Interval:     r.Interval,
		// Accepted from the installation on, make before break: receivers
		// need no clock to begin (docs/keying.md §6).
		AcceptUntil:  s.bootAt(one.endMS + schedule.GraceMS),
		Gather:       time.Duration(s.grant.GatherUS) * time.Microsecond,
		TTL:          s.entry.view.TTL,
		QuotaBytes:   s.grant.QuotaBytes,
		KeepMaterial: s.c.cfg.KeepMaterial,
	}
	boot := s.c.cfg.Clock.BootNS()
	nowNS, eNS, known := s.offset.NowNS(boot)
	if known {
		p.Initiation = s.offset.BootAt(one.beginMS)
		p.InitiationSlack = s.timing.ToleranceMS()*int64(time.Millisecond) + eNS
	}
	if s.role == wire.RoleSend {
		p.SenderID = s.grant.SenderIDs[0]
		p.SendFrom, p.SendUntil = s.sendSpan(r.Interval, boot)
		// The second line (docs/keying.md §6): even a sender id that came
		// twice does not repeat a nonce.
		p.CounterStart = uint64(max((nowNS-one.beginMS*int64(time.Millisecond))/100, 1))
	}
	var err error
	if one.sa, err = sa.NewSA(p); err != nil {
		return err
	}
	if err := s.c.cfg.DB.Install(one.sa); err != nil {
		return err
	}
	s.keys[r.Interval] = one
	return nil
}

// bootAt is the boot time at which the server's clock shows ms. Without any
// answer of it the host's clock must do: an association always has an end.
func (s *session) bootAt(ms int64) int64 {
	if s.offset.Ready() {
		return s.offset.BootAt(ms)
	}
	return s.c.cfg.Clock.BootNS() + (ms-s.nowMS())*int64(time.Millisecond)
}

// direction is what the association is for. A sender hears the others, if the
// event has any.
func (s *session) direction() sa.Direction {
	switch {
	case s.role == wire.RoleReceive:
		return sa.Inbound
	case len(s.entry.view.Senders) > 1:
		return sa.Both
	}
	return sa.Outbound
}

// sendSpan is when a key may be sent under, by today's clock; never if it is
// not known well enough.
func (s *session) sendSpan(interval uint32, bootNS int64) (from, until int64) {
	from, until, ok := s.timing.SendSpan(&s.offset, interval, bootNS)
	if !ok {
		return sa.Never, 0
	}
	return from, until
}

// respan sets all spans anew, by a new sample of the server's clock.
func (s *session) respan() {
	boot := s.c.cfg.Clock.BootNS()
	for i, k := range s.keys {
		k.sa.SetAcceptSpan(0, s.bootAt(k.endMS+schedule.GraceMS))
		if s.role == wire.RoleSend {
			k.sa.SetSendSpan(s.sendSpan(i, boot))
		}
	}
}

// silent tells whether a sender that should be sending now is not.
func (s *session) silent() bool {
	boot := s.c.cfg.Clock.BootNS()
	ms := s.nowMS()
	for _, k := range s.keys {
		if k.beginMS <= ms && ms < k.endMS && k.sa.Sends(boot) {
			return false
		}
	}
	return ms >= s.timing.StartMS && !s.timing.Over(ms)
}

// current is the association of the interval that runs now, nil if it is not held.
func (s *session) current() *installed {
	ms := s.nowMS()
	for _, k := range s.keys {
		if k.beginMS <= ms && ms < k.endMS {
			return k
		}
	}
	return nil
}

// drop removes and wipes the associations of all intervals up to through.
func (s *session) drop(through uint32) {
	s.remove(func(interval uint32) bool { return interval <= through })
}

func (s *session) dropAll() { s.remove(func(uint32) bool { return true }) }

func (s *session) remove(which func(interval uint32) bool) {
	for i, k := range s.keys {
		if !which(i) {
			continue
		}
		// The association is the event's: other occurrences of it may overlap.
		info := k.sa.Info()
		s.c.cfg.DB.Remove(info.Association, func(other sa.SAInfo) bool {
			return other.SPI == info.SPI && other.Interval == info.Interval
		})
		s.gone.received += info.PacketsIn
		s.gone.badICV += info.BadICV
		delete(s.keys, i)
	}
}

// traffic counts what came in under all associations of the occurrence.
func (s *session) traffic() traffic {
	t := s.gone
	for _, k := range s.keys {
		info := k.sa.Info()
		t.received += info.PacketsIn
		t.badICV += info.BadICV
	}
	return t
}

// destinations lists the flows' addresses, each once.
func destinations(flows []Flow) []netip.Addr {
	var out []netip.Addr
	for _, f := range flows {
		if !slices.Contains(out, f.Destination) {
			out = append(out, f.Destination)
		}
	}
	return out
}

func sortedKeys(m map[uint32]wire.Record) []uint32 {
	out := make([]uint32, 0, len(m))
	for i := range m {
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}
