package schedule

// Bounds of the time between two tries of a refresh (docs/keying.md §5.4).
const (
	baseRetryMS  = 500
	limitRetryMS = 8000
	maxWant      = 8
	// lostTries may be the network's: more in a row, and the server was away.
	lostTries = 2
)

// askDue sends a try whose instant has come: the rows "keyed: its instant" and
// "asking: silence".
func (s *step) askDue() {
	m := &s.m
	if !m.cookied() || m.askAtMS == 0 || s.now < m.askAtMS {
		return
	}
	if m.state != StateAsking {
		m.state, m.tries = StateAsking, 0
		i := m.lacking(s.now)
		m.httpsFromMS = s.draw(m.timing.T(i)-2*m.timing.MarginMS(), m.timing.T(i))
		m.datagramAsking = false
	}
	m.tries++
	if m.tries > 1 {
		m.address++
		m.placed = false // after a failure the instant is drawn anew
		m.away = m.tries > lostTries
	}
	m.askAtMS = s.now + s.retryMS(m.tries-1)
	s.do(Refresh{Want: s.want(), Address: m.address, Transport: s.transport(), Try: m.tries})
}

// transport: HTTPS from a random instant of the last 2 × margin on, and at
// once for a client whose datagrams were never answered.
func (s *step) transport() Transport {
	m := &s.m
	deaf := m.datagramSent && !m.datagramHeard && !m.datagramAsking
	if !m.options.Datagrams || deaf || s.now >= m.httpsFromMS {
		return TransportHTTPS
	}
	m.datagramSent, m.datagramAsking = true, true
	return TransportDatagram
}

// want is how many keys there are to be had, by this clock, at least 1.
func (s *step) want() uint8 {
	count := uint8(0)
	for i := s.m.lacking(s.now); count < maxWant && s.m.timing.Givable(i, s.now); i++ {
		count++
	}
	return max(count, 1)
}

// baseMS and limitMS are the shortest and the longest time between two tries.
func (s *step) baseMS() int64  { return min(baseRetryMS, s.m.timing.shorter()/32) }
func (s *step) limitMS() int64 { return min(limitRetryMS, s.m.timing.shorter()/16) }

// retryMS is the time until the next try after so many failed ones: doubled,
// ± 25 %, and in the last 2 × margin before Tᵢ at least every margin ÷ 4.
func (s *step) retryMS(failed int) int64 {
	wait := s.jitter(doubled(s.baseMS(), failed, s.limitMS()))
	margin := s.m.timing.MarginMS()
	begins := s.m.timing.T(s.m.lacking(s.now))
	if s.now < begins {
		quarter := margin / 4
		urgent := max(s.now, begins-2*margin) + s.draw(quarter-quarter/4, quarter+1)
		wait = min(wait, urgent-s.now)
	}
	return max(wait, 1)
}

// marginPull is when a key that is lacking will be pulled for, if nothing else
// asks for it in time: Tᵢ − margin, or at once, but not twice in one interval.
func (s *step) marginPull() (atMS int64, ok bool) {
	m := &s.m
	i := m.lacking(s.now)
	begins := m.timing.T(i)
	if m.state != StateKeyed || !m.timing.exists(i) || m.askAtMS != 0 && m.askAtMS <= max(begins, s.now) {
		return 0, false
	}
	return max(begins-m.timing.MarginMS(), m.pulledUntilMS), true
}

// pullInMargin is the row "keyed: Tᵢ − margin without i": at a random instant
// of the margin.
func (s *step) pullInMargin() {
	at, ok := s.marginPull()
	if !ok || !s.m.cookied() || s.now < at {
		return
	}
	t := s.m.timing
	s.m.pulledUntilMS = t.StartMS
	if s.now >= t.StartMS {
		s.m.pulledUntilMS = t.endMS(t.running(s.now))
	}
	s.m.askAtMS = s.draw(s.now, max(at, s.now)+t.MarginMS())
}

// unanswered takes the end of a try without an answer. It never makes the next
// one earlier; a server that tells a later time is heeded, but not into the
// margin: who is about to lose its key goes first.
func (s *step) unanswered(ev Unanswered) {
	m := &s.m
	if m.state != StateAsking || ev.RetryAfterMS <= 0 {
		return
	}
	told := s.now + min(ev.RetryAfterMS, maxToldMS)
	latest := m.timing.T(m.lacking(s.now)) - 2*m.timing.MarginMS()
	m.askAtMS = max(m.askAtMS, min(told, latest))
}

// answered takes an answer that was accepted.
func (s *step) answered(ev Answered) {
	m := &s.m
	if !m.cookied() {
		return // from before the cookie was given up
	}
	if ev.Transport == TransportDatagram {
		m.datagramHeard = true
	}
	switch ev.Status {
	case StatusEnded:
		s.rest(StateEnded, false)
		return
	case StatusEnrolAgain:
		s.enrolAgain("status 4")
		return
	}
	if ev.Edition != m.edition {
		m.edition = ev.Edition
		s.do(FetchTicket{Edition: ev.Edition})
	}
	s.outcome(ev.Outcome)
}

// outcome takes what a grant and an answer have in common: the rows "asking"
// of docs/keying.md §5.5 but for 3 and 4.
func (s *step) outcome(o Outcome) {
	m := &s.m
	m.hasCookie, m.cookieNumber = true, o.CookieNumber
	s.clockRead(o)
	switch o.Status {
	case StatusBusy, StatusClock:
		s.askElsewhere()
		return
	case StatusWithheld, StatusIncomplete:
		s.withheld(o.Status)
		return
	}
	keys, given := s.clampKeys(o)
	if given {
		s.install(keys)
	} else if o.Status == StatusGiven && m.state == StateAsking {
		// An answer to want 0 overtook this asking and voided its tries.
		m.askAtMS = min(m.askAtMS, s.now+s.jitter(s.baseMS()))
		return
	} else if o.Status == StatusGiven && m.state != StateEnrolling && m.state != StateRefused {
		return // the time, which is read by now
	}
	m.state, m.away, m.tries = StateKeyed, false, 0
	s.planAsk(o)
}

// planAsk draws the instant in the window that the server named: at its place,
// which is kept while the spread is fixed and nothing fails.
func (s *step) planAsk(o Outcome) {
	m := &s.m
	m.askAtMS = 0
	lacks := m.lacking(s.now)
	if o.WindowOpensMS == 0 && o.WindowLastsMS == 0 || !m.timing.exists(lacks) {
		return // with keys ahead, the last windows bring nothing new
	}
	if !m.placed || m.spread == SpreadRedraw {
		m.placed, m.place = true, uint32(s.rnd.Int64N(1<<32))
	}
	sent := o.ServerMS
	if sent == 0 {
		sent = s.now
	}
	opens := sent + int64(o.WindowOpensMS)
	closes := opens + int64(o.WindowLastsMS)
	// With keys ahead, the long window before the start is still open when
	// nothing more can be had in it yet.
	opens = max(opens, m.timing.OpensMS(lacks), s.now)
	if closes > opens {
		opens += int64(uint64(closes-opens) * uint64(m.place) >> 32)
	}
	// A server that says "not yet" in an open window is not asked in a loop.
	m.askAtMS = max(opens, s.now+s.baseMS())
}

// askElsewhere is the row "asking: 5, 6": the next address at once, and when
// all were asked, with the pauses of silence.
func (s *step) askElsewhere() {
	m := &s.m
	if m.state == StateKeyed || m.state == StateWithheld {
		return // it was the time that was asked; timeDue repeats that
	}
	if m.state != StateAsking {
		m.state, m.tries = StateAsking, 1
	}
	if m.tries < m.addresses {
		m.askAtMS = s.now
	} else if m.askAtMS <= s.now {
		m.askAtMS = s.now + s.retryMS(m.tries)
	}
}

// withheld is the row "asking: 1, 7". The cookie now begins with the interval
// after the current one.
func (s *step) withheld(status Status) {
	m := &s.m
	m.askAtMS = s.onceAnInterval()
	m.state, m.away, m.tries = StateWithheld, false, 0
	m.first = max(m.timing.Current(s.now)+1, m.first)
	s.do(Refused{Status: status, HeldUntilMS: m.heldUntilMS()})
}

// clockRead notes when a sender's bound e, which every answer renews, passes
// half the tolerance: e grows by 200 ppm. If it is beyond already, the time is
// asked again with the pauses of silence.
func (s *step) clockRead(o Outcome) {
	m := &s.m
	if m.role != RoleSend {
		return
	}
	if spare := m.timing.ToleranceMS()/2 - o.ErrorMS; spare > 0 {
		m.timeAtMS, m.timeTries = s.now+spare*driftDivisor, 0
		return
	}
	m.timeAtMS = s.now + s.jitter(doubled(s.baseMS(), m.timeTries, s.limitMS()))
	m.timeTries++
}

// asksTime reports whether a sender needs the time at all: it has a key, and no
// refresh is under way that brings it anyhow.
func (s *step) asksTime() bool {
	return s.m.role == RoleSend && s.m.timeAtMS != 0 && s.m.holds && s.m.cookied() && s.m.state != StateAsking
}

// timeDue asks the time: want 0 (docs/keying.md §6, "Sender clock").
func (s *step) timeDue() {
	m := &s.m
	if !s.asksTime() || s.now < m.timeAtMS {
		return
	}
	m.timeAtMS = s.now + s.jitter(doubled(s.baseMS(), m.timeTries, s.limitMS()))
	m.timeTries++
	if m.timeTries > 1 {
		m.address++
	}
	s.do(Refresh{Want: 0, Address: m.address, Transport: s.timeTransport(), Try: m.timeTries})
}

// timeTransport is that of the last refresh that was answered: nothing presses.
func (s *step) timeTransport() Transport {
	if s.m.options.Datagrams && s.m.datagramHeard {
		return TransportDatagram
	}
	return TransportHTTPS
}
