package key

import (
	"errors"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
)

// outcome is what became of a refresh request.
type outcome uint8

const (
	answered     outcome = iota
	refusedNAK           // by a NAK that anybody may be sent
	droppedForm          // step 1
	droppedSeal          // steps 3 and 5: cookie or report; by HTTPS a NAK
	droppedKey           // no key for the new cookie: a secret is missing, or 2³¹ were sealed
	outcomeCount         // not an outcome
)

// maxEnrolment is how far in the future a cookie's enrolment may end: nobody
// who holds a cookie key can seal one for longer (docs/keying.md §5.3, step 7).
const maxEnrolment = 25 * time.Hour

// refresh answers one request, in the order of docs/keying.md §5.3. It is a
// function over bytes, the same for datagrams and HTTPS: it keeps nothing,
// writes nothing, and takes no lock. reply is nil for what is dropped, never
// longer than the request, and holds keys sealed for the client alone. id is
// the request's id, for the NAK that HTTPS sends where a datagram is dropped.
func (s *Server) refresh(request []byte, arrived instant) (reply []byte, what outcome, id [16]byte) {
	// 1. form
	r, err := wire.ParseRequest(request)
	if err != nil {
		if nak, is := errors.AsType[*wire.NAKError](err); is {
			return nakReply(nak.ID, nak.Code), refusedNAK, nak.ID
		}
		return nil, droppedForm, id
	}
	v := s.keeper.acquire()
	defer v.release()

	// 2. tag and number → cipher of Wₙ
	o := v.byTag[r.Tag]
	if o == nil {
		return nakReply(r.ID, wire.NAKUnknownTag), refusedNAK, r.ID
	}
	keys := o.key(r.N)
	if keys == nil {
		return nakReply(r.ID, wire.NAKCookieNumber), refusedNAK, r.ID
	}
	// 3. cookie
	cookie, err := wire.OpenCookie(keys.cookies, r.Tag, r.N, r.Cookie[:])
	if err != nil {
		return nil, droppedSeal, r.ID
	}
	defer cookie.K.Wipe()
	// 4. step
	a, next := derive.Step(cookie.K, r.Tag)
	defer a.Wipe()
	defer next.Wipe()
	// 5. report: only who holds Kⱼ gets further
	if _, err := r.OpenReport(a, request); err != nil {
		return nil, droppedSeal, r.ID
	}
	// 6. to 9.
	newest, _ := o.newest()
	verdict := o.timing.Decide(schedule.Question{
		NowMS: arrived.ms(), First: cookie.First, Want: int(r.Want), RecordsPerInterval: 1,
		Refusal: s.refusal(v, o, cookie, arrived), NewestRow: newest,
	})
	// 10. new cookie, answer
	body := s.body(o, verdict)
	if verdict.Status.CarriesCookie() {
		cookie.K, cookie.First = next, verdict.FirstAfter
		if !s.sealCookie(body, o, cookie, verdict.CookieNumber, true) {
			return nil, droppedKey, r.ID
		}
	}
	if r.PathWanted {
		body.Path = new(wire.Path) // all zero: there is none to give
	}
	s.stamp(body, arrived)
	reply, err = wire.BuildAnswer(a, request, s.nonce(), body)
	if err != nil {
		return nil, droppedKey, r.ID
	}
	s.counters.status[verdict.Status].Add(1)
	return reply, answered, r.ID
}

func nakReply(id [16]byte, code uint8) []byte {
	nak := wire.BuildNAK(id, code)
	return nak[:]
}

// refusal is what clock, set, enrolment and membership say: steps 6 to 8. That
// an occurrence has ended by the time is left to Decide.
func (s *Server) refusal(v *view, o *occurrence, c *wire.Cookie, at instant) schedule.Status {
	until := time.Unix(int64(c.EnrolledUntil), 0)
	switch {
	case !at.trusted:
		return schedule.StatusClock
	case s.stale(at):
		return schedule.StatusBusy
	case o.cancelled:
		return schedule.StatusEnded
	case !until.After(at.time()) || until.After(at.time().Add(maxEnrolment)):
		return schedule.StatusEnrolAgain
	case o.event.access.standing(v.members.find(c.Number), c.Number, c.Role) != allowed:
		return schedule.StatusWithheld
	}
	return schedule.StatusGiven
}

// stale tells that the store has not been heard of for too long: a replica that
// is cut off must not serve a suspended client for ever.
func (s *Server) stale(at instant) bool {
	confirmed := s.keeper.confirmed.Load()
	return confirmed < 0 || at.boot-time.Duration(confirmed) > s.config.Stale
}

// body is the part of an answer that follows from a verdict. Its records alias
// the keys of the view: nobody wipes them.
func (s *Server) body(o *occurrence, verdict schedule.Verdict) *wire.Body {
	b := &wire.Body{
		Status: uint8(verdict.Status), Edition: o.event.Edition,
		WindowOpensMS: verdict.WindowOpensMS, WindowLastsMS: verdict.WindowLastsMS,
	}
	for _, i := range verdict.Given {
		begins := o.timing.T(i)
		b.Records = append(b.Records, wire.Record{
			Interval: i, SPI: derive.SPI(o.Tag, i), Transform: o.Transform, Kind: wire.KindGroup,
			InitiationMS: begins, LifetimeMS: uint32(o.timing.T(i+1) - begins), Key: o.key(i).group,
		})
	}
	return b
}

// sealCookie puts cookie number n into the body. It fails where Wₙ is not held,
// and at a refresh also where it has sealed all it may.
func (s *Server) sealCookie(b *wire.Body, o *occurrence, c *wire.Cookie, n uint32, counted bool) bool {
	keys := o.key(n)
	if keys == nil || counted && keys.sealed.Load() >= maxSealed {
		return false
	}
	if counted {
		keys.sealed.Add(1)
	}
	b.CookieNumber, b.Cookie = n, c.Seal(keys.cookies, o.Tag, n, s.nonce())
	return true
}

// stamp writes the time into the body, as late as possible.
func (s *Server) stamp(b *wire.Body, arrived instant) {
	now := s.clock.now()
	b.ServerTimeUS = uint64(now.us())
	b.ElapsedUS = uint32(min(max(now.boot-arrived.boot, 0).Microseconds(), 1<<32-1))
}
