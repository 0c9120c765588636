package key

import (
	"bytes"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server/store"
)

// exchange is one refresh through the core, without HTTP.
func (l *lab) exchange(raw []byte) ([]byte, outcome) {
	reply, what, _ := l.server.refresh(raw, l.server.clock.now())
	return reply, what
}

// enrolled is a member of an event in its interval 1, without HTTP in the way
// of what follows.
func enrolled(t *testing.T) (*lab, *viewer, store.Event) {
	t.Helper()
	l := newLab(t)
	number := l.addClient("alice", "viewers")
	e := l.addEvent(l.newEvent(10 * time.Second))
	l.start()
	v := l.viewer(l.serve(), number)
	l.goTo(16 * time.Second)
	v.mustEnrol(l.ask(e, wire.RoleReceive))
	l.goTo(21 * time.Second) // interval 2; 3 may be given
	return l, v, e
}

// TestRefreshVectors puts the published exchanges through the server's own step:
// cookie keys, interval keys, time and nonces are the vector's, the rest is
// what this server decides.
func TestRefreshVectors(t *testing.T) {
	type vector struct {
		What, Name, Why, Expect string
		Tag                     hexBytes
		N                       uint32
		W, K, A                 hexBytes
		PathAsked               *uint32 `json:"path_asked"`
		Request, Body, Answer   hexBytes
		AnswerNonce             hexBytes `json:"answer_nonce"`
		NewW                    hexBytes `json:"new_W"`
		NewPlain                hexBytes `json:"new_cookie_plaintext"`
		Datagram, NAK           hexBytes
		Step                    int
	}
	all := vectors[vector](t, "refresh.json")
	first := slices.IndexFunc(all, func(v vector) bool { return v.What == "exchange" })
	tag, w := derive.Tag(all[first].Tag), all[first].W.secret(t)

	given := map[string]bool{"given, one key": true, "given, one key, longer than needed": true, "want 0 asks the time": true,
		"8 keys": false, "withheld": true, "not yet": true, "ended": true, "enrol again": true, "busy": true, "clock": true}
	tried, bad := 0, 0
	for _, v := range all {
		switch {
		case v.What == "exchange" && given[v.Name]:
			tried++
			t.Run(v.Name, func(t *testing.T) {
				exchangeVector(t, tag, w, v.Name, v.Request, v.Answer, v.Body, v.A, v.NewW, v.AnswerNonce)
			})
		case v.What == "bad request":
			bad++
			t.Run(v.Why, func(t *testing.T) {
				s := vectorServer(t, tag, w, nil)
				reply, what, _ := s.refresh(v.Datagram, s.clock.now())
				switch {
				case len(v.NAK) > 0:
					if what != refusedNAK || !bytes.Equal(reply, v.NAK) {
						t.Errorf("outcome %d, reply %x; want NAK %x", what, reply, v.NAK)
					}
				case reply != nil:
					t.Errorf("reply %x; it is to be dropped at step %d", reply, v.Step)
				case v.Step == 1 && what != droppedForm, v.Step > 1 && what != droppedSeal:
					t.Errorf("outcome %d; it is to be dropped at step %d", what, v.Step)
				}
			})
		}
	}
	if tried != 9 || bad < 30 {
		t.Errorf("%d exchanges and %d bad requests tried", tried, bad)
	}
}

const vectorClient = 41 // of the vectors' cookies

// vectorServer is a server with one occurrence, whose cookie key 12 is w: 20
// intervals of 10 s from 1,800,000,000 s on, as the vectors' records have it.
func vectorServer(t testing.TB, tag derive.Tag, w, next *derive.Secret) *Server {
	t.Helper()
	host := newHandClock(testStart)
	s := &Server{clock: newServerClock(host.clock(), 0, 0), config: Config{Stale: time.Hour}, random: func(b []byte) { rand.Read(b) }}
	s.keeper = newKeeper(nil, nil, s.clock, nil)
	s.keeper.confirmed.Store(int64(host.clock().Boot()))
	e := &event{access: &access{groups: groupSet{2}}}
	e.Edition = 3
	o := &occurrence{event: e, first: 12, keys: []*intervalKeys{{cookies: derive.NewAEAD(w), group: derive.RandomSecret()}}}
	if next != nil {
		o.keys = append(o.keys, &intervalKeys{cookies: derive.NewAEAD(next), group: derive.RandomSecret()})
	}
	o.Tag, o.Transform = tag, derive.TransformAES256GCM
	o.timing = schedule.Timing{StartMS: testStart.UnixMilli(), EndMS: testStart.UnixMilli() + 200_000,
		FirstMS: 10_000, IntervalMS: 10_000, InitialMS: 300_000, WindowMS: 10_000, Ahead: 1}
	m := new(members).with([]store.Member{{Number: vectorClient, Groups: []uint32{1}}}, nil)
	s.keeper.current.Store(&view{members: m, byTag: map[derive.Tag]*occurrence{tag: o}})
	return s
}

func exchangeVector(t *testing.T, tag derive.Tag, w *derive.Secret, name string, request, answer, body, a, newW, nonce hexBytes) {
	want, err := wire.OpenAnswer(a.secret(t), request, answer)
	if err != nil {
		t.Fatal(err)
	}
	var next *derive.Secret
	if len(newW) > 0 && want.CookieNumber == 13 {
		next = newW.secret(t)
	}
	s := vectorServer(t, tag, w, next)
	v := s.keeper.current.Load()
	for _, r := range want.Records {
		if k := v.byTag[tag].key(r.Interval); k != nil {
			k.group = r.Key
		}
	}
	// The server's clock stands at the instant of sending, as the request's
	// arrival does, less what the vector says it took.
	at := instant{trusted: true, wallNS: int64(want.ServerTimeUS) * 1000, boot: time.Hour}
	arrived := at
	arrived.boot -= time.Duration(want.ElapsedUS) * time.Microsecond
	s.clock.host.Boot = func() time.Duration { return at.boot }
	s.clock.offset.Store(at.wallNS - int64(at.boot))
	switch schedule.Status(want.Status) {
	case schedule.StatusClock:
		arrived.trusted = false
	case schedule.StatusBusy:
		s.keeper.confirmed.Store(-1)
	case schedule.StatusWithheld:
		v.members = v.members.with([]store.Member{{Number: vectorClient, Groups: []uint32{1}, Suspended: true}}, nil)
	case schedule.StatusNotYet:
		arrived.wallNS = testStart.Add(105 * time.Second).UnixNano() // 12 opens at 110 s
	case schedule.StatusEnded:
		arrived.wallNS = testStart.Add(200 * time.Second).UnixNano()
	case schedule.StatusEnrolAgain:
		arrived.wallNS = time.Unix(1_800_007_200, 0).UnixNano()
		v.byTag[tag].timing.EndMS += 10_000_000
	}
	nonces := [][]byte{nonce}
	if schedule.Status(want.Status).CarriesCookie() {
		nonces = [][]byte{want.Cookie[:12], nonce}
	}
	s.random = func(b []byte) { copy(b, nonces[0]); nonces = nonces[1:] }

	reply, what, _ := s.refresh(request, arrived)
	if what != answered || len(reply) != len(request) {
		t.Fatalf("outcome %d, %d bytes", what, len(reply))
	}
	got, err := wire.OpenAnswer(a.secret(t), request, reply)
	if err != nil {
		t.Fatal(err)
	}
	// The vectors' next windows are free examples; everything else is decided
	// here as there, so with the window put in the answer is theirs byte for byte.
	got.WindowOpensMS, got.WindowLastsMS = want.WindowOpensMS, want.WindowLastsMS
	if schedule.Status(want.Status) == schedule.StatusWithheld || arrived.wallNS != at.wallNS {
		// Its cookie skips an interval more, or its time is another one than such
		// a status comes at: compare what is left.
		if got.Status != want.Status || got.Edition != want.Edition || len(got.Records) != len(want.Records) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		return
	}
	rebuilt, err := wire.BuildAnswer(a.secret(t), request, [12]byte(nonce), got)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(rebuilt, answer) {
		t.Errorf("%s: body\n%+v, want\n%+v", name, got, want)
	}
}

// TestFlipped is attack test 1: every bit of a request flipped, every length:
// no answer that opens, never more bytes than came in, no panic.
func TestFlipped(t *testing.T) {
	l, v, _ := enrolled(t)
	raw, a, _ := v.request(1)
	if reply, what := l.exchange(raw); what != answered {
		t.Fatalf("the request itself: outcome %d, %x", what, reply)
	}
	check := func(name string, at int, bad []byte) {
		t.Helper()
		reply, what := l.exchange(bad)
		if what == answered {
			t.Errorf("%s %d: answered", name, at)
		}
		if len(reply) > len(bad) {
			t.Errorf("%s %d: %d bytes for %d", name, at, len(reply), len(bad))
		}
		if reply != nil {
			if _, err := wire.ParseNAK(reply); err != nil {
				t.Errorf("%s %d: reply is no NAK: %v", name, at, err)
			}
			if len(bad) < wire.MinRequest {
				t.Errorf("%s %d: a NAK to %d bytes", name, at, len(bad))
			}
		}
		if _, err := wire.OpenAnswer(a, bad, reply); err == nil {
			t.Errorf("%s %d: the reply opens", name, at)
		}
	}
	for bit := range len(raw) * 8 {
		bad := slices.Clone(raw)
		bad[bit/8] ^= 1 << (bit % 8)
		check("bit", bit, bad)
	}
	for n := range len(raw) {
		check("cut to", n, raw[:n])
		fitting := slices.Clone(raw[:n])
		if n >= 4 {
			fitting[2], fitting[3] = byte(n>>8), byte(n)
			check("cut to, length right:", n, fitting)
		}
	}
	for _, n := range []int{1, 2, 56, 1024, 1025, 60_000} {
		check("lengthened by", n, append(slices.Clone(raw), make([]byte, n)...))
	}
}

// TestReplayed is attack test 2: a recorded request brings the same keys only,
// changes nothing, takes no sender id.
func TestReplayed(t *testing.T) {
	l, v, _ := enrolled(t)
	raw, a, next := v.request(1)
	before := l.mark()
	var keys string
	cookies := map[[wire.CookieLen]byte]bool{}
	var last *wire.Body
	for range 1000 {
		reply, what := l.exchange(raw)
		if what != answered {
			t.Fatalf("outcome %d", what)
		}
		b, err := wire.OpenAnswer(a, raw, reply)
		if err != nil || len(b.Records) != 1 {
			t.Fatalf("%v, records %v", err, intervals(b))
		}
		if got := string(b.Records[0].Key.Bytes()); keys == "" {
			keys = got
		} else if got != keys {
			t.Fatal("a replay brings another key")
		}
		cookies[b.Cookie] = true
		last = b
	}
	if len(cookies) != 1000 {
		t.Errorf("%d different cookies of 1000: nonces repeat", len(cookies))
	}
	if after := l.mark(); after != before {
		t.Errorf("replays wrote to the store: %v, then %v", before, after)
	}
	// Any of the answers may be the one that the client took.
	v.k, v.cookie, v.n = next, last.Cookie, last.CookieNumber
	if b := v.refresh(0); b.Status != 0 {
		t.Errorf("next refresh: %v", schedule.Status(b.Status))
	}
}

func (l *lab) mark() (m store.Mark) {
	l.t.Helper()
	err := l.store.View(l.t.Context(), func(r store.Reader) (err error) {
		m, err = r.Last(l.t.Context())
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return m
}

// TestTwoTries is attack test 3 as far as the server has a part in it: two tries
// of one step, answered in any order, duplicated, late; the client takes one,
// the others no longer open, and its next step works with any of them.
func TestTwoTries(t *testing.T) {
	l, v, _ := enrolled(t)
	first, a, next := v.request(1)
	second, _, _ := v.request(1)
	answer1, _ := l.exchange(first)
	answer2, _ := l.exchange(second)
	for _, c := range []struct{ request, answer []byte }{{first, answer2}, {second, answer1}} {
		if _, err := wire.OpenAnswer(a, c.request, c.answer); err == nil {
			t.Error("an answer opens for another try's request")
		}
	}
	for _, c := range []struct{ request, answer []byte }{{first, answer1}, {second, answer2}} {
		b, err := wire.OpenAnswer(a, c.request, c.answer)
		if err != nil {
			t.Fatal(err)
		}
		stepped := &viewer{t: t, tag: v.tag, k: next, cookie: b.Cookie, n: b.CookieNumber}
		raw, nextA, _ := stepped.request(1)
		reply, what := l.exchange(raw)
		if what != answered {
			t.Fatalf("next step: outcome %d", what)
		}
		if _, err := wire.OpenAnswer(nextA, raw, c.answer); err == nil {
			t.Error("an answer of the step before opens")
		}
		if got, err := wire.OpenAnswer(nextA, raw, reply); err != nil || got.Status != uint8(schedule.StatusNotYet) {
			t.Errorf("next step: %v", err)
		}
	}
}

// TestForeignCookies is attack test 5: a cookie of another client, occurrence or
// number under one's own step secret.
func TestForeignCookies(t *testing.T) {
	l, v, e := enrolled(t)
	bob := l.viewer(v.base, l.addClient("bob", "viewers"))
	bob.mustEnrol(l.ask(e, wire.RoleReceive))
	other := l.newEvent(10 * time.Second)
	other.Flows[0].Destination = other.Flows[0].Destination.Next()
	other = l.addEvent(other)
	elsewhere := l.viewer(v.base, v.number)
	elsewhere.mustEnrol(l.ask(other, wire.RoleReceive))

	for name, c := range map[string]struct {
		change func(*viewer)
		want   outcome
	}{
		"another client's":          {func(v *viewer) { v.cookie = bob.cookie }, droppedSeal},
		"another occurrence's":      {func(v *viewer) { v.cookie = elsewhere.cookie }, droppedSeal},
		"to another occurrence":     {func(v *viewer) { v.tag = elsewhere.tag }, droppedSeal},
		"another number":            {func(v *viewer) { v.n-- }, droppedSeal},
		"a number not held":         {func(v *viewer) { v.n += 1000 }, refusedNAK},
		"an unknown occurrence":     {func(v *viewer) { v.tag[0]++ }, refusedNAK},
		"another incarnation":       {func(v *viewer) { v.tag = derive.OccurrenceTag(e.ID, uint64(startOf(t, e)), 1) }, refusedNAK},
		"another client's, its tag": {func(v *viewer) { v.cookie, v.tag = elsewhere.cookie, elsewhere.tag }, droppedSeal},
	} {
		mine := &viewer{t: t, tag: v.tag, k: v.k, cookie: v.cookie, n: v.n}
		c.change(mine)
		if name == "another client's, its tag" {
			mine.k = bob.k
		}
		raw, _, _ := mine.request(1)
		if reply, what := l.exchange(raw); what != c.want {
			t.Errorf("%s: outcome %d (%x), want %d", name, what, reply, c.want)
		}
	}
	// By HTTPS the refusal is authentic, so the client is told to enrol.
	forged := &viewer{t: t, tag: v.tag, k: bob.k, cookie: v.cookie, n: v.n}
	raw, _, _ := forged.request(1)
	res, reply, err := v.post(wire.PathRefresh, wire.ContentTypeRefresh, raw)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%v, %v", res, err)
	}
	if nak, err := wire.ParseNAK(reply); err != nil || nak.Code != wire.NAKRefused {
		t.Errorf("%+v, %v; want NAK 4", nak, err)
	}
}

// TestForgedEnrolment: who holds a cookie key can seal a cookie for any member,
// but for 25 h at most, and for nobody who is no member.
func TestForgedEnrolment(t *testing.T) {
	l, v, _ := enrolled(t)
	o := l.server.keeper.current.Load().byTag[v.tag]
	now := l.server.clock.now()
	for name, c := range map[string]struct {
		cookie wire.Cookie
		want   schedule.Status
	}{
		"member for 24 h":      {wire.Cookie{Number: v.number, EnrolledUntil: uint32(now.s() + 24*3600)}, schedule.StatusGiven},
		"member for 25 h":      {wire.Cookie{Number: v.number, EnrolledUntil: uint32(now.s() + 25*3600)}, schedule.StatusGiven},
		"member for longer":    {wire.Cookie{Number: v.number, EnrolledUntil: uint32(now.s() + 25*3600 + 1)}, schedule.StatusEnrolAgain},
		"enrolment just over":  {wire.Cookie{Number: v.number, EnrolledUntil: uint32(now.s())}, schedule.StatusEnrolAgain},
		"unknown client":       {wire.Cookie{Number: 4711, EnrolledUntil: uint32(now.s() + 3600)}, schedule.StatusWithheld},
		"number 2³²−1":         {wire.Cookie{Number: 1<<32 - 1, EnrolledUntil: uint32(now.s() + 3600)}, schedule.StatusWithheld},
		"receiver as a sender": {wire.Cookie{Number: v.number, EnrolledUntil: uint32(now.s() + 3600), Role: wire.RoleSend}, schedule.StatusWithheld},
	} {
		c.cookie.K = derive.RandomSecret()
		n, _ := o.newest()
		forged := &viewer{t: t, tag: v.tag, k: c.cookie.K, n: n}
		forged.cookie = c.cookie.Seal(o.key(n).cookies, v.tag, n, randomNonce())
		raw, a, _ := forged.request(1)
		reply, what := l.exchange(raw)
		if what != answered {
			t.Errorf("%s: outcome %d", name, what)
			continue
		}
		b, err := wire.OpenAnswer(a, raw, reply)
		if err != nil || schedule.Status(b.Status) != c.want {
			t.Errorf("%s: %v, %v; want %v", name, schedule.Status(b.Status), err, c.want)
		}
		if c.want != schedule.StatusGiven && len(b.Records) != 0 {
			t.Errorf("%s: %d keys", name, len(b.Records))
		}
	}
}

// TestSealedBound: a cookie key seals 2³¹ cookies at refreshes, then none.
func TestSealedBound(t *testing.T) {
	l, v, _ := enrolled(t)
	for _, k := range l.server.keeper.current.Load().byTag[v.tag].keys {
		k.sealed.Store(maxSealed - 1)
	}
	raw, _, _ := v.request(0)
	if _, what := l.exchange(raw); what != answered {
		t.Errorf("the last one: outcome %d", what)
	}
	if _, what := l.exchange(raw); what != droppedKey {
		t.Errorf("one too many: outcome %d", what)
	}
}

// TestPathAsked: this version has no push; who asks for a path is told that
// there is none, in the form that the request demands.
func TestPathAsked(t *testing.T) {
	l, v, _ := enrolled(t)
	a, _ := derive.Step(v.k, v.tag)
	raw, err := (&wire.Request{Tag: v.tag, N: v.n, Want: 1, PathWanted: true, Cookie: v.cookie}).Encode(a, wire.Report{})
	if err != nil {
		t.Fatal(err)
	}
	reply, _ := l.exchange(raw)
	b, err := wire.OpenAnswer(a, raw, reply)
	if err != nil || b.Path == nil || b.Path.Height != 0 || len(b.Records) != 1 {
		t.Errorf("%+v, %v", b, err)
	}
}

// FuzzRefresh: whatever comes in, nothing longer goes out, and only the
// untouched request is answered.
func FuzzRefresh(f *testing.F) {
	tag := derive.Tag{1}
	w := derive.RandomSecret()
	k := derive.RandomSecret()
	cookie := wire.Cookie{Number: vectorClient, EnrolledUntil: uint32(testStart.Unix() + 3600), First: 12, K: k}
	a, _ := derive.Step(k, tag)
	good, err := wire.BuildRequest(a, tag, 12, cookie.Seal(derive.NewAEAD(w), tag, 12, randomNonce()), 1, [16]byte{5}, wire.Report{})
	if err != nil {
		f.Fatal(err)
	}
	seeds := 0
	for _, seed := range [][]byte{good, nil, good[:100], bytes.Repeat([]byte{1}, 208), append(slices.Clone(good), 0)} {
		f.Add(seed)
		seeds++
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := vectorServer(t, tag, w, derive.RandomSecret())
		reply, what, _ := s.refresh(raw, s.clock.now())
		if len(reply) > len(raw) {
			t.Errorf("%d bytes for %d", len(reply), len(raw))
		}
		if (what == answered) != bytes.Equal(raw, good) {
			t.Errorf("outcome %d", what)
		}
	})
}

func BenchmarkRefresh(b *testing.B) {
	tag := derive.Tag{1}
	w := derive.RandomSecret()
	k := derive.RandomSecret()
	cookie := wire.Cookie{Number: vectorClient, EnrolledUntil: uint32(testStart.Unix() + 3600), First: 12, K: k}
	a, _ := derive.Step(k, tag)
	raw, err := wire.BuildRequest(a, tag, 12, cookie.Seal(derive.NewAEAD(w), tag, 12, randomNonce()), 1, [16]byte{5}, wire.Report{})
	if err != nil {
		b.Fatal(err)
	}
	s := vectorServer(b, tag, w, derive.RandomSecret())
	at := s.clock.now()
	at.wallNS += 115e9
	b.ReportAllocs()
	for b.Loop() {
		if _, what, _ := s.refresh(raw, at); what != answered {
			b.Fatal(what)
		}
	}
}
