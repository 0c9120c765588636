package keyclient

import (
	"fmt"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
)

// takeGrant reads the answer to an enrolment, refuses what is not for this
// entry and occurrence, and starts the chain of steps from K₀. Errors wrap
// ErrGrant, ErrServer, wire.ErrNotInThisVersion.
func (s *session) takeGrant(nonce [16]byte, r *reply) (schedule.Enrolled, error) {
	var ev schedule.Enrolled
	g, err := wire.ParseGrant(r.body)
	if err != nil {
		return ev, fmt.Errorf("%w: %w", ErrServer, err)
	}
	defer clear(g.Body)
	timing, err := s.checkGrant(g)
	if err != nil {
		return ev, err
	}
	body, err := wire.ParseBody(g.Body)
	if err != nil {
		return ev, fmt.Errorf("%w: %w", ErrServer, err)
	}
	defer body.Wipe()
	if !schedule.Status(body.Status).CarriesCookie() {
		return ev, fmt.Errorf("%w: it brings no cookie (%s)", ErrGrant, schedule.Status(body.Status))
	}
	if r.tls == nil {
		return ev, fmt.Errorf("%w: it came without TLS", ErrGrant)
	}
	exported, err := r.tls.ExportKeyingMaterial(derive.ExporterLabel, derive.ExporterContext(g.Tag, nonce), 32)
	if err != nil {
		return ev, fmt.Errorf("%w: %w", ErrServer, err)
	}
	defer clear(exported)
	k, err := derive.NewSecret(exported)
	if err != nil {
		return ev, fmt.Errorf("%w: %w", ErrServer, err)
	}
	// Records are checked against the new grant; without them it is not taken.
	oldGrant, oldTiming := s.grant, s.timing
	s.grant, s.timing = g, timing
	s.takeTime(r, body)
	outcome, err := s.outcome(body)
	if err != nil {
		s.grant, s.timing = oldGrant, oldTiming
		k.Wipe()
		return ev, err
	}
	if oldGrant != nil && oldGrant.Tag != g.Tag {
		s.dropAll() // a new incarnation: every old key is void
	}
	s.chain.start(g.Tag, k, body)
	s.tries = nil
	spread := schedule.SpreadFixed
	if g.Schedule.Spread == "redraw" {
		spread = schedule.SpreadRedraw
	}
	return schedule.Enrolled{
		Outcome: outcome, Timing: timing, Spread: spread,
		ReenrolMS: g.ReenrolMS, Addresses: len(s.refreshServers()),
	}, nil
}

// checkGrant compares a grant with what was asked and with the held ticket
// (docs/keying.md §4): the association is the server's to give, the selector is
// the ticket's. It returns the occurrence's timing.
func (s *session) checkGrant(g *wire.Grant) (schedule.Timing, error) {
	fail := func(format string, args ...any) (schedule.Timing, error) {
		return schedule.Timing{}, fmt.Errorf("%w: event %q: %w", ErrGrant, s.entry.entry.Title, fmt.Errorf(format, args...))
	}
	p := g.Schedule
	t := schedule.Timing{
		StartMS: p.StartS * 1000, EndMS: p.EndS * 1000, FirstMS: p.FirstMS, IntervalMS: p.IntervalMS,
		InitialMS: p.InitialMS, WindowMS: p.WindowMS, Ahead: p.Ahead, Preview: p.Preview,
	}
	switch {
	case !g.Selector.Equal(s.entry.entry.Selector()):
		return fail("its selector is not the held ticket's")
	case t.StartMS != s.timing.StartMS:
		return fail("it is for the occurrence of %d s, not %d s", p.StartS, s.timing.StartMS/1000)
	case g.Kind != wire.KindGroup || g.Push != nil || p.Preview != 0 || p.EndS == 0:
		return fail("unicast, push, preview, or an event without an end: %w", wire.ErrNotInThisVersion)
	case g.Transform != derive.TransformAES256GCM && g.Transform != derive.TransformChaCha20Poly1305:
		return fail("transform %d: %w", g.Transform, wire.ErrNotInThisVersion)
	case s.role == wire.RoleSend && len(g.SenderIDs) == 0:
		return fail("it has no sender id for a sender")
	}
	if err := t.Validate(); err != nil {
		return fail("%w", err)
	}
	if p.MarginMS != t.MarginMS() || p.GraceMS != schedule.GraceMS {
		return fail("margin %d ms and grace %d ms, not %d and %d", p.MarginMS, p.GraceMS, t.MarginMS(), schedule.GraceMS)
	}
	return t, nil
}

// checkRecord compares a key record with the grant's schedule and derivation.
func (s *session) checkRecord(r wire.Record, interval uint32) error {
	from, to := s.timing.T(interval), s.timing.T(interval+1)
	switch {
	case s.grant == nil || r.Interval != interval || r.Kind != wire.KindGroup || r.Transform != s.grant.Transform:
		return fmt.Errorf("%w: key record of interval %d is not of the grant's kind", ErrGrant, r.Interval)
	case r.SPI != derive.SPI(s.grant.Tag, interval):
		return fmt.Errorf("%w: key record of interval %d has SPI %08x", ErrGrant, r.Interval, r.SPI)
	case to <= from || r.InitiationMS != from || int64(r.LifetimeMS) > to-from || r.LifetimeMS == 0:
		return fmt.Errorf("%w: key record of interval %d lasts from %d for %d ms, the schedule says %d to %d",
			ErrGrant, r.Interval, r.InitiationMS, r.LifetimeMS, from, to)
	}
	return nil
}
