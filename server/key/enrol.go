package key

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strconv"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server/store"
)

const (
	// A sender enrols anew each hour, so that its ids come back.
	senderEnrolment = time.Hour
	longestEnrol    = 24 * time.Hour
	// reenrolLeast and reenrolMember make the time over which clients spread what
	// all of them do at once (docs/keying.md §4).
	reenrolLeast  = time.Minute
	reenrolMember = time.Millisecond
	// keyBytes bounds what all senders encrypt under one key (docs/keying.md §10).
	keyBytes = 1 << 40

	soon = time.Second
)

// refusal of an enrolment: what the client is told, and when to ask again.
type refusal struct {
	wire.Problem
	retryAfter time.Duration
}

func refuse(status int, code, detail string) *refusal {
	return &refusal{Problem: wire.Problem{Status: status, Code: code, Detail: detail}}
}

func (r *refusal) after(d time.Duration) *refusal {
	r.retryAfter = max(d, soon)
	return r
}

// perhapsNew tells that the refusal may come from not having read the store since
// the client, its group or the event was added: the ticket role reads it at each
// request, this one a few times a second.
func (r *refusal) perhapsNew() bool {
	switch r.Code {
	case wire.CodeNoSuchEvent, wire.CodeNotAMember, wire.CodeNotASender:
		return true
	}
	return false
}

// enrol is docs/keying.md §4: it gives an association of selector and keys to a
// client that proved its number by a certificate that ends at c.until. state is
// the connection's, for K₀. The grant holds keys: the caller wipes its body.
func (s *Server) enrol(ctx context.Context, c client, q *wire.EnrolRequest, state *tls.ConnectionState, arrived instant) (*wire.Grant, *refusal) {
	v := s.keeper.acquire()
	defer v.release()
	o, superseded, no := s.admit(v, c, q, arrived)
	if no != nil {
		return nil, no
	}
	newest, ok := o.newest()
	verdict := o.timing.Decide(schedule.Question{NowMS: arrived.ms(), Want: wire.MaxWant, RecordsPerInterval: 1, NewestRow: newest})
	if !ok || verdict.Status != schedule.StatusGiven || o.key(verdict.CookieNumber) == nil {
		return nil, refuse(http.StatusServiceUnavailable, wire.CodeStore, "the keys of this occurrence are not ready").after(soon)
	}
	until := enrolledUntil(c.until, q.Role, o.timing, arrived.time())
	var ids []uint16
	if q.Role == wire.RoleSend {
		if ids, no = s.takeIDs(ctx, o, c.number, q.Queues, until, arrived); no != nil {
			return nil, no
		}
	}
	exported, err := state.ExportKeyingMaterial(derive.ExporterLabel, derive.ExporterContext(o.Tag, q.Nonce), 32)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, wire.CodeBadRequest, "the connection exports no keys")
	}
	defer clear(exported)
	k0, err := derive.NewSecret(exported)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, wire.CodeBadRequest, "the connection exports no keys")
	}
	defer k0.Wipe()

	body := s.body(o, verdict)
	s.sealCookie(body, o, &wire.Cookie{
		Number: c.number, EnrolledUntil: uint32(until.Unix()), First: verdict.FirstAfter,
		Role: q.Role, Edition: o.event.Edition, K: k0,
	}, verdict.CookieNumber, false)
	grant := s.grant(v, o, c.number)
	grant.SenderIDs, grant.NewerTicket = ids, superseded
	s.stamp(body, arrived)
	if grant.Body, err = body.Encode(0); err != nil {
		s.log.Error("answer cannot be encoded", "tag", o.Tag.String(), "error", err)
		return nil, refuse(http.StatusInternalServerError, wire.CodeStore, "the answer cannot be written")
	}
	return grant, nil
}

// admit decides whether a client may enrol, and in which occurrence. superseded
// tells that its ticket is valid but not the newest.
func (s *Server) admit(v *view, c client, q *wire.EnrolRequest, at instant) (o *occurrence, superseded bool, no *refusal) {
	if !at.trusted {
		return nil, false, refuse(http.StatusServiceUnavailable, wire.CodeClock, "the key server does not trust its clock").after(soon)
	}
	if s.stale(at) {
		return nil, false, refuse(http.StatusServiceUnavailable, wire.CodeStore, "the key server has not reached its database for too long").after(soon)
	}
	e := v.events[q.Event]
	if e == nil {
		return nil, false, refuse(http.StatusNotFound, wire.CodeNoSuchEvent, "there is no such event")
	}
	switch e.access.standing(v.members.find(c.number), c.number, q.Role) {
	case suspended:
		return nil, false, refuse(http.StatusForbidden, wire.CodeWithheld, "the client is suspended")
	case notMember:
		return nil, false, refuse(http.StatusForbidden, wire.CodeNotAMember, "the event is of no group of the client's, nor of an ancestor")
	case notSender:
		return nil, false, refuse(http.StatusForbidden, wire.CodeNotASender, "the client is not registered to send this event")
	case allowed:
	}
	entry, _, err := wire.VerifyEntry(q.Entry, q.Certificate, s.config.Roots, at.time())
	switch {
	case errors.Is(err, wire.ErrExpired):
		return nil, false, refuse(http.StatusForbidden, wire.CodeExpiredTicket, "the ticket has expired: fetch a new one")
	case err != nil:
		return nil, false, refuse(http.StatusForbidden, wire.CodeBadTicket, err.Error())
	case entry.ID != q.Event:
		return nil, false, refuse(http.StatusForbidden, wire.CodeBadTicket, "the entry is of another event")
	}
	o, no = s.occurrence(v, e, q.StartS*1000, at.ms())
	// Editions are compared as serial numbers: they wrap.
	return o, int16(e.Edition-entry.Edition) > 0, no
}

// occurrence finds the run that an enrolment names, if it is under way.
func (s *Server) occurrence(v *view, e *event, startMS, nowMS int64) (*occurrence, *refusal) {
	ended := refuse(http.StatusGone, wire.CodeEnded, "the occurrence has ended")
	o := v.byStart[occurrenceStart{e.ID, startMS}]
	switch {
	case o != nil && (o.cancelled || o.timing.Over(nowMS)):
		return nil, ended
	case o != nil && nowMS < o.timing.BeginsMS():
		return nil, notYet(o.timing.BeginsMS() - nowMS)
	case o != nil:
		return o, nil
	}
	if err := unsupported(e.Event); err != nil {
		return nil, refuse(http.StatusNotImplemented, wire.CodeNotInThisVersion, err.Error())
	}
	planned, found := find(expression(e.Event), startMS)
	switch {
	case !found:
		return nil, refuse(http.StatusNotFound, wire.CodeNoSuchEvent, "the event has no occurrence with this start")
	case planned.End.UnixMilli() <= nowMS:
		return nil, ended
	}
	return nil, notYet(startMS - e.InitialMS - nowMS)
}

func notYet(ms int64) *refusal {
	return refuse(http.StatusTooEarly, wire.CodeNotYet, "the initial keying period has not begun").after(time.Duration(ms) * time.Millisecond)
}

// enrolledUntil is the certificate's end, at most 24 h from now; for a sender
// an hour, or two intervals where that is longer.
func enrolledUntil(certificate time.Time, role wire.Role, t schedule.Timing, now time.Time) time.Time {
	length := longestEnrol
	if role == wire.RoleSend {
		twoIntervals := 2 * time.Duration(max(t.FirstMS, t.IntervalMS)) * time.Millisecond
		length = min(length, max(senderEnrolment, twoIntervals))
	}
	until := now.Add(length)
	if certificate.Before(until) {
		until = certificate
	}
	return until.Truncate(time.Second)
}

func (s *Server) takeIDs(ctx context.Context, o *occurrence, number uint32, queues int, until time.Time, at instant) ([]uint16, *refusal) {
	who := holder{tag: o.Tag, client: number}
	ids, err := s.senders.take(ctx, who, queues, at.ms(), freeAgainMS(o.timing, until.UnixMilli()))
	switch {
	case errors.Is(err, store.ErrSenderIDs):
		return nil, refuse(http.StatusTooManyRequests, wire.CodeSenderIDs, "no sender ids are left for this client").after(time.Minute)
	case err != nil:
		s.log.Warn("sender ids cannot be written", "tag", o.Tag.String(), "client", number, "error", err)
		return nil, refuse(http.StatusServiceUnavailable, wire.CodeStore, "sender ids cannot be written").after(soon)
	}
	return ids, nil
}

// grant is the answer less what differs between two enrolments of one client.
func (s *Server) grant(v *view, o *occurrence, number uint32) *wire.Grant {
	e := o.event
	g := &wire.Grant{
		Version: wire.Version, Tag: o.Tag, Number: number, Kind: wire.KindGroup, Transform: o.Transform,
		Selector: wire.Selector{Senders: e.Senders},
		Schedule: wire.GrantSchedule{
			StartS: o.StartMS / 1000, EndS: o.EndMS / 1000,
			FirstMS: o.FirstMS, IntervalMS: o.IntervalMS, InitialMS: o.InitialMS, WindowMS: o.WindowMS,
			MarginMS: o.timing.MarginMS(), LingerMS: schedule.LingerMS, GraceMS: schedule.GraceMS,
			Ahead: o.Ahead, Spread: e.Spread,
		},
		RefreshAddresses: s.config.RefreshAddresses,
		ReenrolMS:        max(reenrolLeast, time.Duration(v.members.count)*reenrolMember).Milliseconds(),
		StaleS:           int64(s.config.Stale / time.Second),
		GatherUS:         int64(e.GatherUS),
		QuotaBytes:       keyBytes / uint64(max(len(e.access.senders), 1)),
	}
	for _, f := range e.Flows {
		g.Selector.Flows = append(g.Selector.Flows, wire.Flow{Protocol: f.Protocol, Destination: f.Destination, Ports: ports(f)})
	}
	return g
}

// ports is a flow's ports as an entry has them.
func ports(f store.Flow) string {
	first := strconv.Itoa(int(f.FirstPort))
	if f.FirstPort == f.LastPort {
		return first
	}
	return first + "-" + strconv.Itoa(int(f.LastPort))
}
