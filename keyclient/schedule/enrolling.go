package schedule

import "net/http"

// Times of docs/keying.md §§4-6 that concern enrolments.
const (
	defaultReenrolMS = 60_000
	maxReenrolMS     = 24 * 3600 * 1000
	minRetryMS       = 1000
	maxRetryMS       = 60_000
	// betweenGrantsMS: nobody enrols again within 10 s, whatever happens.
	betweenGrantsMS = 10_000
	// enrolTimeoutMS ends an enrolment that its driver has forgotten.
	enrolTimeoutMS = 120_000
	// maxToldMS caps a Retry-After.
	maxToldMS = 3600 * 1000

	senderEnrolmentMS    = 3600 * 1000
	maxSenderEnrolmentMS = 24 * 3600 * 1000
)

// join is the row "out: join, boot".
func (s *step) join() {
	if s.m.timing.Over(s.now) {
		s.rest(StateEnded, false)
		return
	}
	s.m.state = StateEnrolling
	s.planEnrol(s.firstInstant(s.now), "first")
}

// firstInstant is the instant of the first enrolment, for one who is there
// from `from` on: at random in what is left of the initial keying period (but
// for its last margin, so that the key is there in time), during a preview in
// what is left until T_p − margin, later at once.
func (s *step) firstInstant(from int64) int64 {
	t := s.m.timing
	from = max(from, t.BeginsMS())
	initialEnds, previewEnds := t.StartMS, t.T(t.Preview)-t.MarginMS()
	switch {
	case t.Preview == 0 && from < previewEnds:
		return s.draw(from, previewEnds)
	case from < initialEnds:
		return s.draw(from, initialEnds)
	default:
		return s.draw(from, previewEnds)
	}
}

func (s *step) planEnrol(atMS int64, why string) {
	s.m.enrolAtMS, s.m.enrolWhy = atMS, why
}

// enrolDue sends an enrolment whose instant has come, and gives up one that
// was never reported on.
func (s *step) enrolDue() {
	m := &s.m
	if m.enrolBusy && s.now >= m.enrolTimeoutMS {
		s.enrolLater(0)
	}
	if m.enrolBusy || m.enrolAtMS == 0 || s.now < m.enrolAtMS {
		return
	}
	m.enrolBusy, m.enrolTimeoutMS, m.enrolAtMS = true, s.now+enrolTimeoutMS, 0
	s.do(Enrol{Address: m.enrolAddress, Why: m.enrolWhy})
}

// enrolled takes a grant: the row "enrolling: answer".
func (s *step) enrolled(ev Enrolled) {
	m := &s.m
	if !ev.Status.CarriesCookie() {
		// No grant is without one; its driver should have refused it.
		if m.enrolBusy {
			s.enrolLater(0)
		}
		return
	}
	m.enrolBusy, m.enrolAtMS, m.enrolFailures = false, 0, 0
	m.grantedMS = s.now
	if ev.Timing != (Timing{}) {
		m.timing = ev.Timing
	}
	m.spread, m.placed = ev.Spread, false
	m.reenrolMS = defaultReenrolMS
	if ev.ReenrolMS > 0 {
		m.reenrolMS = min(ev.ReenrolMS, maxReenrolMS)
	}
	m.addresses = max(ev.Addresses, 1)
	m.edition = ev.Edition
	m.pulledUntilMS, m.datagramAsking = 0, false
	m.askAtMS, m.tries, m.state = 0, 0, StateEnrolling
	s.outcome(ev.Outcome)
	if m.role == RoleSend && m.cookied() {
		s.planSenderRenewal(ev.UntilMS)
	}
}

// planSenderRenewal enrols a sender anew before its enrolment ends: after 1 h
// (at least 2 intervals, at most 24 h; docs/keying.md §6). At a random instant,
// and well ahead, so that there is time for repetitions.
func (s *step) planSenderRenewal(untilMS int64) {
	length := untilMS - s.now
	if untilMS == 0 {
		length = min(max(senderEnrolmentMS, 2*s.m.timing.IntervalMS), maxSenderEnrolmentMS)
	}
	at := s.draw(s.now+length-length/8, s.now+length-length/16)
	s.planEnrol(max(at, s.now+betweenGrantsMS), "renewal")
}

// renew enrols under the living cookie at a random instant of reenrol
// (docs/keying.md §5.3).
func (s *step) renew() {
	m := &s.m
	if !m.cookied() || m.enrolBusy {
		return
	}
	at := max(s.draw(s.now, s.now+m.reenrolMS), m.grantedMS+betweenGrantsMS)
	s.planEnrol(earliest(m.enrolAtMS, at), "renewal")
}

// enrolRefused takes a refusal by HTTP status (docs/keying.md §4). A renewal
// that is refused leaves the state as it is: the living cookie goes on.
func (s *step) enrolRefused(ev EnrolRefused) {
	m := &s.m
	if !m.enrolBusy {
		return
	}
	switch ev.Code {
	case http.StatusGone:
		if !m.cookied() {
			s.rest(StateEnded, false)
			return
		}
		m.enrolBusy = false // the refresh will be told as well
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		m.enrolBusy = false
		if t := m.timing; s.now < t.StartMS-2*t.IntervalMS {
			// Long before the start: it may still bring every key.
			s.planEnrol(s.now+s.jitter(t.IntervalMS), "refused before")
		} else {
			s.planEnrol(s.onceAnInterval(), "refused before")
		}
		if !m.cookied() {
			m.state = StateRefused
		}
		s.do(Refused{Status: StatusWithheld, Code: ev.Code, HeldUntilMS: m.heldUntilMS()})
	case http.StatusTooEarly:
		s.enrolLater(ev.RetryAfterMS)
		// Told the same instant as everybody: draw again in what is left.
		m.enrolAtMS = max(m.enrolAtMS, s.firstInstant(m.enrolAtMS))
	default:
		s.enrolLater(ev.RetryAfterMS)
	}
}

// enrolLater is the row "enrolling: 425, 503, silence": waits as told (0: not
// told) or 1 … 60 s doubled, then the next address.
func (s *step) enrolLater(toldMS int64) {
	m := &s.m
	wait := doubled(minRetryMS, int(m.enrolFailures), maxRetryMS)
	wait = min(s.draw(wait, wait+wait/4+1), maxRetryMS)
	if toldMS > 0 {
		told := min(toldMS, maxToldMS)
		wait = s.draw(told, told+told/4+1)
	}
	m.enrolBusy = false
	m.enrolFailures = min(m.enrolFailures, 30) + 1
	m.enrolAddress++
	m.placed = false
	s.planEnrol(s.now+wait, "retry")
}

// cookieOver notices that n has ended (docs/keying.md §5.4).
func (s *step) cookieOver() {
	if s.m.cookied() && s.now >= s.m.timing.endMS(s.m.cookieNumber) {
		s.enrolAgain("cookie over")
	}
}

// enrolAgain gives up the cookie. Who holds the current key spreads itself over
// reenrol, but not into the margin of the first key it lacks; who holds none
// and found the server away spreads itself too, for so do all others; anyone
// else enrols at once. Nobody twice within 10 s. Why: what is not authenticated
// forces no TLS, and an outage ends in no million handshakes at once.
func (s *step) enrolAgain(why string) {
	m := &s.m
	m.hasCookie, m.askAtMS, m.tries, m.placed = false, 0, 0, false
	m.state = StateEnrolling
	if m.enrolBusy {
		return // a renewal is under way: it brings a cookie
	}
	spread := int64(0)
	switch {
	case m.holdsCurrent(s.now):
		spread = m.reenrolMS
		if lacks := m.held.Last + 1; m.timing.exists(lacks) {
			spread = min(spread, m.timing.T(lacks)-m.timing.MarginMS()-s.now)
		} else if m.role == RoleReceive {
			m.state, m.enrolAtMS = StateKeyed, 0 // it has the last key there is
			return
		}
	case m.away:
		spread = m.reenrolMS
	}
	at := s.draw(s.now, s.now+spread)
	if m.grantedMS != 0 {
		at = max(at, m.grantedMS+betweenGrantsMS)
	}
	s.planEnrol(at, why)
}

// onceAnInterval is the instant of the next try of one who was refused: in the
// next interval, at random in that part of it in which others ask, too. 0 if
// there is no further interval.
func (s *step) onceAnInterval() int64 {
	t := s.m.timing
	next := uint32(0)
	if s.now >= t.StartMS {
		next = t.running(s.now) + 1
	}
	if !t.exists(next) {
		return 0
	}
	from, to := t.T(next), t.endMS(next)-t.MarginMS()
	if t.exists(next + 1) {
		from = max(from, t.endMS(next)-t.WindowMS)
	}
	return s.draw(from, to)
}
