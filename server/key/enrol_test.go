package key

import (
	"errors"
	"slices"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server/store"
)

// TestEventEndToEnd: two members enrol, one in the initial period and one late,
// refresh in every window, and hold the same key of every interval; each is
// under the number that its record says, from its initiation on.
func TestEventEndToEnd(t *testing.T) {
	l := newLab(t)
	alice, carol := l.addClient("alice", "viewers"), l.addClient("carol", "others")
	e := l.addEvent(l.newEvent(10 * time.Second))
	l.start()
	base := l.serve()
	a, c := l.viewer(base, alice), l.viewer(base, carol)

	l.goTo(5 * time.Second)
	g, b := a.mustEnrol(l.ask(e, wire.RoleReceive))
	if got := intervals(b); !slices.Equal(got, []uint32{0}) {
		t.Errorf("in the initial period: keys of %v", got)
	}
	if want := derive.OccurrenceTag(e.ID, uint64(startOf(t, e)), 0); g.Tag != want {
		t.Errorf("tag %v, want %v", g.Tag, want)
	}
	if g.Number != alice || g.SenderIDs != nil || g.Kind != wire.KindGroup || g.Transform != derive.TransformAES256GCM {
		t.Errorf("grant %+v", g)
	}
	if want := (wire.Selector{Senders: e.Senders, Flows: []wire.Flow{{Protocol: "udp", Destination: e.Flows[0].Destination, Ports: "5004-5005"}}}); !g.Selector.Equal(want) {
		t.Errorf("selector %v, want %v", g.Selector, want)
	}
	if s := g.Schedule; s.StartS != startOf(t, e) || s.EndS != s.StartS+40 || s.MarginMS != 1250 || s.GraceMS != 2000 || s.LingerMS != 5000 || s.Spread != "fixed" {
		t.Errorf("schedule %+v", s)
	}
	if g.StaleS != 3600 || g.ReenrolMS != 60_000 || g.GatherUS != 200 || g.QuotaBytes != 1<<40 {
		t.Errorf("grant %+v", g)
	}

	for i := range uint32(8) {
		// In the middle of interval i its successor's window is open.
		l.goTo(10*time.Second + time.Duration(i)*5*time.Second + 2500*time.Millisecond)
		if i == 3 {
			if _, b := c.mustEnrol(l.ask(e, wire.RoleReceive)); !slices.Equal(intervals(b), []uint32{3, 4}) {
				t.Errorf("late join: keys of %v", intervals(b))
			}
		}
		b := a.refresh(1)
		if i == 7 {
			if b.Status != uint8(schedule.StatusNotYet) || len(b.Records) != 0 || b.WindowLastsMS != 0 {
				t.Errorf("in the last interval: %v, next window lasts %d", schedule.Status(b.Status), b.WindowLastsMS)
			}
			break
		}
		if b.Status != 0 || len(b.Records) != 1 {
			t.Fatalf("interval %d: %v with keys of %v", i, schedule.Status(b.Status), intervals(b))
		}
		r := b.Records[0]
		if begins := (startOf(t, e) + 5 + int64(i)*5) * 1000; r.Interval != i+1 || r.InitiationMS != begins || r.LifetimeMS != 5000 || r.SPI != derive.SPI(g.Tag, i+1) {
			t.Errorf("record %+v", r)
		}
		if i > 3 {
			c.refresh(1)
		}
		if b.ServerTimeUS != uint64(l.server.clock.now().us()) {
			t.Errorf("server's time %d", b.ServerTimeUS)
		}
	}
	seen := map[string]bool{}
	for i, key := range a.keys {
		if i >= 3 && c.keys[i] != key {
			t.Errorf("interval %d: two members hold two keys", i)
		}
		if i < 3 && c.keys[i] != "" {
			t.Errorf("late comer holds the key of interval %d", i)
		}
		if seen[key] {
			t.Errorf("interval %d: a key for the second time", i)
		}
		seen[key] = true
	}
	if len(a.keys) != 8 {
		t.Errorf("%d keys, want 8", len(a.keys))
	}

	l.goTo(50 * time.Second)
	if b := a.refresh(1); b.Status != uint8(schedule.StatusEnded) {
		t.Errorf("after the end: %v", schedule.Status(b.Status))
	}
	if _, _, err := c.enrol(l.ask(e, wire.RoleReceive)); !isProblem(err, 410, wire.CodeEnded) {
		t.Errorf("enrolment after the end: %v", err)
	}
}

func isProblem(err error, status int, code string) bool {
	p, is := errors.AsType[*wire.Problem](err)
	return is && p.Status == status && p.Code == code
}

// TestEnrolRefused: each refusal has its status and code.
func TestEnrolRefused(t *testing.T) {
	l := newLab(t)
	member, sender, outsider := l.addClient("member", "viewers"), l.addClient("sender", "root"), l.addClient("outsider", "others")
	e := l.newEvent(10 * time.Second)
	e.Group = l.groups["viewers"]
	e = l.addEvent(e)
	inRoot := l.addEvent(func() store.Event {
		e := l.newEvent(10 * time.Second)
		e.Flows[0].Destination = e.Flows[0].Destination.Next()
		return e
	}())
	past := l.addEvent(l.newEvent(-time.Hour))
	later := l.addEvent(l.newEvent(time.Hour))
	l.associate(inRoot, sender, store.RoleSend)
	l.associate(e, sender, store.RoleSend)
	l.start()
	base := l.serve()
	l.goTo(8 * time.Second)

	suspended := l.addClient("suspended", "viewers")
	l.suspend(suspended)
	foreign := newAuthority(t)

	for name, c := range map[string]struct {
		who    uint32
		event  store.Event
		role   wire.Role
		change func(*wire.EnrolRequest)
		status int
		code   string
	}{
		"suspended":                  {who: suspended, event: e, status: 403, code: wire.CodeWithheld},
		"group beside":               {who: outsider, event: e, status: 403, code: wire.CodeNotAMember},
		"group above":                {who: sender, event: e, status: 403, code: wire.CodeNotAMember},
		"unknown client":             {who: 4711, event: e, status: 403, code: wire.CodeNotAMember},
		"sender without membership":  {who: sender, event: e, role: wire.RoleSend, status: 403, code: wire.CodeNotAMember},
		"receiver as sender":         {who: member, event: inRoot, role: wire.RoleSend, status: 403, code: wire.CodeNotASender},
		"ended":                      {who: member, event: past, status: 410, code: wire.CodeEnded},
		"initial period not begun":   {who: member, event: later, status: 425, code: wire.CodeNotYet},
		"no such event":              {who: member, event: e, change: func(q *wire.EnrolRequest) { q.Event[3]++ }, status: 404, code: wire.CodeNoSuchEvent},
		"no such occurrence":         {who: member, event: e, change: func(q *wire.EnrolRequest) { q.StartS++ }, status: 404, code: wire.CodeNoSuchEvent},
		"occurrence in the far past": {who: member, event: e, change: func(q *wire.EnrolRequest) { q.StartS = 1 }, status: 404, code: wire.CodeNoSuchEvent},
		"occurrence beyond time":     {who: member, event: e, change: func(q *wire.EnrolRequest) { q.StartS = 1<<62 - 1 }, status: 404, code: wire.CodeNoSuchEvent},
		"entry of another event": {who: member, event: inRoot, change: func(q *wire.EnrolRequest) {
			q.Entry, q.Certificate = l.ca.ticket(t, e)
		}, status: 403, code: wire.CodeBadTicket},
		"entry with one bit changed": {who: member, event: e, change: func(q *wire.EnrolRequest) { q.Entry[20] ^= 1 }, status: 403, code: wire.CodeBadTicket},
		"entry moved to another ticket": {who: member, event: e, change: func(q *wire.EnrolRequest) {
			_, q.Certificate = l.ca.ticket(t, inRoot)
		}, status: 403, code: wire.CodeBadTicket},
		"another server's ticket": {who: member, event: e, change: func(q *wire.EnrolRequest) {
			q.Entry, q.Certificate = foreign.ticket(t, e)
		}, status: 403, code: wire.CodeBadTicket},
		"expired ticket": {who: member, event: e, change: func(q *wire.EnrolRequest) {
			entry, err := wire.ParseEntry(q.Entry)
			if err != nil {
				t.Fatal(err)
			}
			q.Entry, q.Certificate = l.ca.sign(t, entry, testStart)
		}, status: 403, code: wire.CodeExpiredTicket},
		"no certificate": {who: member, event: e, change: func(q *wire.EnrolRequest) { q.Certificate = "x" }, status: 403, code: wire.CodeBadTicket},
		"version":        {who: member, event: e, change: func(q *wire.EnrolRequest) { q.Versions = []int{2} }, status: 400, code: wire.CodeBadRequest},
		"queues":         {who: sender, event: inRoot, role: wire.RoleSend, change: func(q *wire.EnrolRequest) { q.Queues = 17 }, status: 400, code: wire.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			q := l.ask(c.event, c.role)
			if c.change != nil {
				c.change(q)
			}
			g, _, err := l.viewer(base, c.who).enrol(q)
			if !isProblem(err, c.status, c.code) {
				t.Errorf("%v, %v; want %d %s", g, err, c.status, c.code)
			}
		})
	}
	for name, c := range map[string]struct {
		who   uint32
		event store.Event
		role  wire.Role
	}{
		"member":             {member, e, wire.RoleReceive},
		"event of ancestor":  {member, inRoot, wire.RoleReceive},
		"ancestor, other":    {outsider, inRoot, wire.RoleReceive},
		"sender":             {sender, inRoot, wire.RoleSend},
		"sender as receiver": {sender, inRoot, wire.RoleReceive},
	} {
		t.Run(name, func(t *testing.T) {
			l.viewer(base, c.who).mustEnrol(l.ask(c.event, c.role))
		})
	}
	if s := l.server.Stats(); s.Enrolled != 5 || s.Refused != 20 {
		t.Errorf("counted %+v", s)
	}
}

// TestEnrolAtOnce: what was added a moment ago, and is in a ticket already, is not
// refused because the role has not looked at the store since.
func TestEnrolAtOnce(t *testing.T) {
	l := newLab(t)
	l.start()
	base := l.serve()
	l.goTo(time.Second)
	l.host.pass(time.Millisecond)
	e := l.newEvent(2 * time.Second)
	var sender store.Client
	if _, err := l.store.Update(t.Context(), func(tx store.Tx) (err error) {
		if sender, err = tx.AddClient(t.Context(), "new", "hash", []uint32{l.groups["viewers"]}); err != nil {
			return err
		}
		if err = tx.AddEvent(t.Context(), e); err != nil {
			return err
		}
		return tx.Associate(t.Context(), store.Association{Event: e.ID, Client: sender.Number, Role: store.RoleSend})
	}); err != nil {
		t.Fatal(err)
	}
	l.viewer(base, sender.Number).mustEnrol(l.ask(l.event(e.ID), wire.RoleSend))

	// A client that comes to be one while the event runs.
	var late store.Client
	if _, err := l.store.Update(t.Context(), func(tx store.Tx) (err error) {
		late, err = tx.AddClient(t.Context(), "late", "hash", []uint32{l.groups["viewers"]})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	l.viewer(base, late.Number).mustEnrol(l.ask(l.event(e.ID), wire.RoleReceive))
}

// TestRetryAfter: who comes early is told when to come back.
func TestRetryAfter(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	e := l.addEvent(l.newEvent(10 * time.Second))
	l.start()
	base := l.serve()
	raw, _ := l.ask(e, wire.RoleReceive).MarshalJSON()
	res, answer, err := l.viewer(base, alice).post(wire.PathEnrol, "application/json", raw)
	if err != nil || res.StatusCode != 425 || res.Header.Get("Retry-After") != "4" {
		t.Errorf("%v %s, Retry-After %q, %v", res.Status, answer, res.Header.Get("Retry-After"), err)
	}
	if got := res.Header.Get("Content-Type"); got != wire.ContentTypeProblem {
		t.Errorf("content type %q", got)
	}
	l.goTo(4 * time.Second)
	l.viewer(base, alice).mustEnrol(l.ask(e, wire.RoleReceive))
}

// TestNewerTicket: a superseded ticket that is still valid opens, and is told so.
func TestNewerTicket(t *testing.T) {
	l := newLab(t)
	alice := l.addClient("alice", "viewers")
	old := l.addEvent(l.newEvent(5 * time.Second))
	l.start()
	base := l.serve()
	v := l.viewer(base, alice)
	if g, _ := v.mustEnrol(l.ask(old, wire.RoleReceive)); g.NewerTicket {
		t.Error("the newest ticket is called superseded")
	}
	now := old
	now.Title = "final"
	l.update(func(tx store.Tx) error { return tx.UpdateEvent(t.Context(), now) })
	now = l.event(old.ID)
	if g, b := v.mustEnrol(l.ask(old, wire.RoleReceive)); !g.NewerTicket || b.Edition != now.Edition {
		t.Errorf("newer ticket: %v; edition %d, want %d", g.NewerTicket, b.Edition, now.Edition)
	}
	if g, _ := v.mustEnrol(l.ask(now, wire.RoleReceive)); g.NewerTicket {
		t.Error("the newest ticket is called superseded")
	}
	if b := v.refresh(0); b.Edition != now.Edition {
		t.Errorf("refresh says edition %d, want %d", b.Edition, now.Edition)
	}
}

// TestEnrolledUntil: receivers to the end of their certificate, senders for an
// hour or two intervals, nobody for more than 24 h.
func TestEnrolledUntil(t *testing.T) {
	minute := schedule.Timing{FirstMS: 60_000, IntervalMS: 60_000}
	hours := schedule.Timing{FirstMS: 60_000, IntervalMS: 3 * 3_600_000}
	week := schedule.Timing{FirstMS: 60_000, IntervalMS: 7 * 24 * 3_600_000}
	for name, c := range map[string]struct {
		certificate time.Duration
		role        wire.Role
		timing      schedule.Timing
		want        time.Duration
	}{
		"receiver":                  {12 * time.Hour, wire.RoleReceive, minute, 12 * time.Hour},
		"receiver, fraction":        {12*time.Hour + 500*time.Millisecond, wire.RoleReceive, minute, 12 * time.Hour},
		"receiver, long":            {48 * time.Hour, wire.RoleReceive, minute, 24 * time.Hour},
		"sender":                    {12 * time.Hour, wire.RoleSend, minute, time.Hour},
		"sender, long intervals":    {12 * time.Hour, wire.RoleSend, hours, 6 * time.Hour},
		"sender, intervals of days": {48 * time.Hour, wire.RoleSend, week, 24 * time.Hour},
		"sender, certificate ends":  {10 * time.Minute, wire.RoleSend, minute, 10 * time.Minute},
	} {
		got := enrolledUntil(testStart.Add(c.certificate), c.role, c.timing, testStart)
		if got.Sub(testStart) != c.want {
			t.Errorf("%s: %v, want %v", name, got.Sub(testStart), c.want)
		}
	}
}

// TestReenrolNeeded: a cookie's enrolment ends, and no answer extends it.
func TestReenrolNeeded(t *testing.T) {
	l := newLab(t)
	sender := l.addClient("sender", "root")
	e := l.newEvent(5 * time.Second)
	e.Time.Duration, e.InitialMS = "PT3H", 0
	e.FirstMS, e.IntervalMS, e.WindowMS = 60_000, 60_000, 60_000
	e = l.addEvent(e)
	l.associate(e, sender, store.RoleSend)
	l.start()
	base := l.serve()
	l.goTo(5 * time.Second)
	v := l.viewer(base, sender)
	v.mustEnrol(l.ask(e, wire.RoleSend))
	for minute := range 61 {
		b := v.refresh(1)
		if want := schedule.StatusEnrolAgain; (minute == 60) != (b.Status == uint8(want)) {
			t.Fatalf("minute %d: %v", minute, schedule.Status(b.Status))
		}
		l.leap(time.Minute)
	}
}
