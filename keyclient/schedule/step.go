package schedule

import "math"

// Step takes an event at the server's time nowMS (by the driver's [Offset];
// before the first sample by the host's clock) and returns the machine after
// it and what to do. The same arguments and random numbers give the same
// result. A time before that of the step before does no harm.
func (m Machine) Step(ev Event, nowMS int64, rnd Rand) (Machine, []Action) {
	s := &step{m: m, now: nowMS, rnd: rnd}
	s.take(ev)
	if s.m.joined() {
		s.advance()
	}
	if s.m.joined() {
		s.do(Wake{AtMS: max(s.wakeMS(), nowMS+1)})
	}
	return s.m, s.actions
}

// step is one call of [Machine.Step] at work.
type step struct {
	m       Machine
	now     int64
	rnd     Rand
	actions []Action
}

func (s *step) do(a Action) { s.actions = append(s.actions, a) }

// take applies the event; what is merely due is left to advance.
func (s *step) take(ev Event) {
	if _, ok := ev.(Join); ok && s.m.state == StateOut {
		s.join()
		return
	}
	if !s.m.joined() {
		return
	}
	switch ev := ev.(type) {
	case Leave:
		s.rest(StateOut, true)
	case Enrolled:
		s.enrolled(ev)
	case EnrolRefused:
		s.enrolRefused(ev)
	case EnrolFailed:
		if s.m.enrolBusy {
			s.enrolLater(0)
		}
	case Renew:
		s.renew()
	case Answered:
		s.answered(ev)
	case Unanswered:
		s.unanswered(ev)
	case NotAcknowledged:
		// By datagram anyone could have sent it: the next try goes to the
		// next address anyhow (attack 10 of docs/keying.md §13).
		if ev.Transport == TransportHTTPS && s.m.cookied() {
			s.enrolAgain("nak")
		}
	}
}

// advance does all that is due by now. Nothing that it does is due again at
// once, so once through is enough.
func (s *step) advance() {
	if s.m.timing.Over(s.now - s.m.graceMS()) {
		s.rest(StateEnded, false)
		return
	}
	s.drop()
	if s.m.timing.Over(s.now) {
		return // only the grace of the last key is left
	}
	s.cookieOver()
	s.pullInMargin()
	s.askDue()
	s.timeDue()
	s.enrolDue()
}

// rest ends the machine's work; only options and timing are kept.
func (s *step) rest(state State, left bool) {
	m := NewMachine(s.m.timing, s.m.role, s.m.options)
	m.state = state
	s.m = m
	s.do(Over{Left: left})
}

// drop gives up keys whose time is over (docs/keying.md §2).
func (s *step) drop() {
	ended := s.now - s.m.graceMS()
	if !s.m.holds || ended < s.m.timing.endMS(s.m.held.First) {
		return
	}
	through := s.m.held.Last
	if c := s.m.timing.running(ended); c <= through {
		through = c - 1 // not 0: that of held.First is over
		s.m.held.First = c
	} else {
		s.m.holds = false
	}
	s.do(Drop{Through: through})
}

// install notes keys that came.
func (s *step) install(keys Span) {
	m := &s.m
	if m.holds && keys.First <= m.held.Last+1 && keys.First >= m.held.First {
		m.held.Last = max(m.held.Last, keys.Last)
	} else {
		m.holds, m.held = true, keys
	}
	m.first = keys.Last + 1
	s.do(Install{Keys: keys})
}

// wakeMS is when something is due next.
func (s *step) wakeMS() int64 {
	m := &s.m
	wake := int64(0)
	if m.timing.EndMS != 0 {
		wake = m.timing.EndMS + m.graceMS()
	}
	if m.holds {
		wake = earliest(wake, m.timing.endMS(m.held.First)+m.graceMS())
	}
	if m.timing.Over(s.now) {
		return wake // nothing else is done any more
	}
	if m.enrolBusy {
		wake = earliest(wake, m.enrolTimeoutMS)
	} else {
		wake = earliest(wake, m.enrolAtMS)
	}
	if m.cookied() {
		wake = earliest(wake, m.askAtMS)
		wake = earliest(wake, m.timing.endMS(m.cookieNumber))
		if s.asksTime() {
			wake = earliest(wake, m.timeAtMS)
		}
		if pull, ok := s.marginPull(); ok {
			wake = earliest(wake, pull)
		}
	}
	if wake == 0 {
		// An endless occurrence with nothing planned: cannot be, but a
		// machine that never woke again would be worse than one idle step.
		wake = s.now + m.timing.IntervalMS
	}
	return wake
}

// draw is a random instant in [from, to), or from if that is empty.
func (s *step) draw(from, to int64) int64 {
	if to <= from {
		return from
	}
	return from + s.rnd.Int64N(to-from)
}

// jitter is d ± 25 %.
func (s *step) jitter(d int64) int64 { return s.draw(d-d/4, d+d/4+1) }

// doubled is base × 2ⁿ, at most limit.
func doubled(base int64, n int, limit int64) int64 {
	for ; n > 0 && base < limit; n-- {
		base *= 2
	}
	return min(base, limit)
}

// clampKeys brings a run of keys into the occurrence; ok is false if nothing
// of it is there. A driver has checked them; this keeps the machine sane if it
// has not.
func (s *step) clampKeys(o Outcome) (keys Span, ok bool) {
	keys = o.Keys
	if !o.Given || keys.First > keys.Last || !s.m.timing.exists(keys.First) {
		return Span{}, false
	}
	if n, finite := s.m.timing.N(); finite {
		keys.Last = min(keys.Last, n-1)
	}
	keys.Last = min(keys.Last, math.MaxUint32-1)
	// None comes an interval before it may be given, however clocks differ: a
	// machine that took it would take the keys between for given, too.
	tooEarly := s.m.timing.OpensMS(keys.Last) > s.now+s.m.timing.IntervalMS
	return keys, keys.First <= keys.Last && !tooEarly
}
