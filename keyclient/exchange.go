package keyclient

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
)

// stepChain is the client's half of a cookie: Kⱼ, and what is derived from it
// for the request at hand (docs/keying.md §2).
type stepChain struct {
	tag     derive.Tag
	n       uint32
	cookie  [wire.CookieLen]byte
	a, next *derive.Secret // Aⱼ and Kⱼ₊₁; nil without a cookie
}

// start takes Kⱼ, and wipes it: Aⱼ and Kⱼ₊₁ are all that is needed of it.
func (s *stepChain) start(tag derive.Tag, k *derive.Secret, b *wire.Body) {
	s.a.Wipe()
	s.next.Wipe()
	s.tag, s.n, s.cookie = tag, b.CookieNumber, b.Cookie
	s.a, s.next = derive.Step(k, tag)
	k.Wipe()
}

// accept takes the step that an accepted answer asks for.
func (s *stepChain) accept(b *wire.Body) {
	next := s.next
	s.next = nil
	s.start(s.tag, next, b)
}

func (s *stepChain) wipe() {
	s.a.Wipe()
	s.next.Wipe()
	*s = stepChain{}
}

// try is one refresh request under way.
type try struct {
	id      [16]byte
	request []byte
}

// traffic is what a report counts.
type traffic struct{ received, badICV uint64 }

// enrol asks for a grant (docs/keying.md §4). Exactly one event comes of it.
func (s *session) enrol(ctx context.Context, a schedule.Enrol) {
	t, _, err := s.c.connection()
	if err != nil {
		s.failedEnrol(ctx, err)
		return
	}
	q := wire.EnrolRequest{
		Versions: []int{wire.Version}, Event: s.entry.entry.ID, StartS: s.timing.StartMS / 1000,
		Role: s.role, Entry: s.entry.raw, Certificate: s.entry.certificate,
	}
	if s.role == wire.RoleSend {
		q.Queues = 1
	}
	rand.Read(q.Nonce[:]) //nolint:errcheck // never fails: the runtime ends the process instead
	body, err := json.Marshal(q)
	if err != nil {
		s.failedEnrol(ctx, err)
		return
	}
	servers := s.entry.entry.KeyServers
	server := servers[int(a.Address)%len(servers)]
	s.c.log.Debug("enrol", "event", q.Event, "server", server, "why", a.Why)
	s.spawn(func() {
		r, err := t.do(ctx, request{method: http.MethodPost, url: server + wire.PathEnrol, contentType: "application/json", body: body, max: wire.MaxGrant})
		s.later(ctx, func() { s.enrolled(ctx, q.Nonce, r, err) })
	})
}

// enrolled handles what an enrolment brought.
func (s *session) enrolled(ctx context.Context, nonce [16]byte, r *reply, err error) {
	if no, is := errors.AsType[*refusal](err); is {
		s.detail = no.problem.Error()
		if no.problem.Code == wire.CodeExpiredTicket || no.problem.Code == wire.CodeBadTicket {
			s.fetchTicket(ctx)
		}
		s.step(ctx, schedule.EnrolRefused{Code: no.problem.Status, RetryAfterMS: no.retryAfterMS})
		return
	}
	if err != nil {
		s.failedEnrol(ctx, err)
		return
	}
	defer clear(r.body)
	ev, err := s.takeGrant(nonce, r)
	if err != nil {
		s.failedEnrol(ctx, err)
		return
	}
	s.detail = ""
	if s.grant.NewerTicket {
		s.fetchTicket(ctx)
	}
	s.step(ctx, ev)
}

func (s *session) failedEnrol(ctx context.Context, err error) {
	s.detail = err.Error()
	s.c.log.Warn("enrolment failed", "event", s.entry.entry.ID, "error", err)
	// Through the queue: a step must not be taken inside a step.
	s.spawn(func() { s.later(ctx, func() { s.step(ctx, schedule.EnrolFailed{}) }) })
}

// refresh sends one try (docs/keying.md §5): the cookie held, under a new id.
func (s *session) refresh(ctx context.Context, a schedule.Refresh) {
	t, _, err := s.c.connection()
	if err == nil && s.chain.a == nil {
		err = errors.New("keyclient: no cookie is held")
	}
	var one *try
	if err == nil {
		one, err = s.newTry(a.Want)
	}
	if err != nil {
		s.detail = err.Error()
		s.spawn(func() { s.later(ctx, func() { s.step(ctx, schedule.Unanswered{}) }) })
		return
	}
	servers := s.refreshServers()
	server := servers[int(a.Address)%len(servers)]
	s.c.log.Debug("refresh", "event", s.entry.entry.ID, "server", server, "want", a.Want, "try", a.Try)
	s.spawn(func() {
		r, err := t.do(ctx, request{method: http.MethodPost, url: server + wire.PathRefresh, contentType: wire.ContentTypeRefresh, body: one.request, max: wire.MaxDatagram})
		s.later(ctx, func() { s.refreshed(ctx, one, r, err) })
	})
}

func (s *session) newTry(want uint8) (*try, error) {
	one := new(try)
	rand.Read(one.id[:]) //nolint:errcheck // never fails: the runtime ends the process instead
	one.id[0] &^= 0x80
	now := s.traffic()
	report := wire.Report{
		Received: clamp32(now.received - s.seen.received),
		BadICV:   clamp32(now.badICV - s.seen.badICV),
	}
	var err error
	one.request, err = wire.BuildRequest(s.chain.a, s.chain.tag, s.chain.n, s.chain.cookie, want, one.id, report)
	if err != nil {
		return nil, err
	}
	if len(s.tries) >= maxTries {
		s.tries = slices.Delete(s.tries, 0, 1)
	}
	s.tries = append(s.tries, one)
	return one, nil
}

// refreshServers is where refreshes go: the grant's addresses that this version
// can use, else the entry's key servers.
func (s *session) refreshServers() []string {
	var out []string
	if s.grant != nil {
		for _, a := range s.grant.RefreshAddresses {
			if strings.HasPrefix(a, "https://") {
				out = append(out, strings.TrimSuffix(a, "/"))
			}
		}
	}
	if len(out) == 0 {
		return s.entry.entry.KeyServers
	}
	return out
}

// refreshed handles what a try brought. An answer counts only while its try is
// open: once one was accepted, all others are void (docs/keying.md §5.4).
func (s *session) refreshed(ctx context.Context, one *try, r *reply, err error) {
	at := slices.Index(s.tries, one)
	if at < 0 {
		return
	}
	if err != nil {
		s.tries = slices.Delete(s.tries, at, at+1)
		s.detail = err.Error()
		var after int64
		if no, is := errors.AsType[*refusal](err); is {
			after = no.retryAfterMS
		}
		s.step(ctx, schedule.Unanswered{RetryAfterMS: after})
		return
	}
	defer clear(r.body)
	if nak, err := wire.ParseNAK(r.body); err == nil && nak.ID == one.id {
		s.tries = slices.Delete(s.tries, at, at+1)
		s.c.log.Info("refresh not acknowledged", "event", s.entry.entry.ID, "code", nak.Code)
		s.step(ctx, schedule.NotAcknowledged{Transport: schedule.TransportHTTPS})
		return
	}
	body, err := wire.OpenAnswer(s.chain.a, one.request, r.body)
	if err != nil {
		s.tries = slices.Delete(s.tries, at, at+1)
		s.detail = fmt.Sprintf("%v: the key server's answer cannot be used: %v", ErrServer, err)
		s.step(ctx, schedule.Unanswered{})
		return
	}
	defer body.Wipe()
	s.accept(ctx, r, body)
}

// accept takes an answer that opened.
func (s *session) accept(ctx context.Context, r *reply, body *wire.Body) {
	s.tries = nil
	status := schedule.Status(body.Status)
	if status.CarriesCookie() {
		s.chain.accept(body)
	} else {
		s.chain.wipe()
	}
	s.seen = s.traffic()
	s.takeTime(r, body)
	s.detail = ""
	outcome, err := s.outcome(body)
	if err != nil {
		s.detail = err.Error()
		s.c.log.Warn("keys refused", "event", s.entry.entry.ID, "error", err)
	}
	s.step(ctx, schedule.Answered{Outcome: outcome})
}

// takeTime reads the server's clock out of an answer, unless it says itself
// that the clock is not to be trusted.
func (s *session) takeTime(r *reply, body *wire.Body) {
	if schedule.Status(body.Status) == schedule.StatusClock {
		return
	}
	if s.offset.Add(r.sample(body.ServerTimeUS, body.ElapsedUS)) {
		s.respan()
	}
}

// outcome turns a body into what the machine reads, and keeps the keys for the
// install that it may ask for.
func (s *session) outcome(body *wire.Body) (schedule.Outcome, error) {
	out := schedule.Outcome{
		Status: schedule.Status(body.Status), CookieNumber: body.CookieNumber, Edition: body.Edition,
		ServerMS: int64(body.ServerTimeUS / 1000), WindowOpensMS: body.WindowOpensMS, WindowLastsMS: body.WindowLastsMS,
	}
	if _, e, ok := s.offset.NowMS(s.c.cfg.Clock.BootNS()); ok {
		out.ErrorMS = e
	}
	if out.Status != schedule.StatusGiven || len(body.Records) == 0 {
		return out, nil
	}
	for i, r := range body.Records {
		if err := s.checkRecord(r, body.Records[0].Interval+uint32(i)); err != nil {
			return out, err
		}
	}
	for _, r := range body.Records {
		key, err := derive.NewSecret(r.Key.Bytes())
		if err != nil {
			return out, err
		}
		r.Key = key
		s.fresh[r.Interval] = r
	}
	out.Given = true
	out.Keys = schedule.Span{First: body.Records[0].Interval, Last: body.Records[len(body.Records)-1].Interval}
	return out, nil
}

func clamp32(n uint64) uint32 { return uint32(min(n, 1<<32-1)) }
