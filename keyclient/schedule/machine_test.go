package schedule_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"usher/keyclient/schedule"
)

// given is the outcome that brings keys first to last at nowMS, with the next
// window of `plain`.
func given(t schedule.Timing, nowMS int64, first, last uint32) schedule.Outcome {
	v := t.Decide(schedule.Question{NowMS: nowMS, First: first, Want: int(last-first) + 1, NewestRow: math.MaxUint32})
	return schedule.Outcome{
		Status: schedule.StatusGiven, Given: true, Keys: schedule.Span{First: first, Last: last},
		CookieNumber: v.CookieNumber, ServerMS: nowMS, WindowOpensMS: v.WindowOpensMS, WindowLastsMS: v.WindowLastsMS, ErrorMS: 2,
	}
}

// bench is a machine under test with its clock.
type bench struct {
	t       *testing.T
	m       schedule.Machine
	now     int64
	rnd     *rand.Rand
	actions []schedule.Action
}

func (b *bench) step(ev schedule.Event) *bench {
	b.m, b.actions = b.m.Step(ev, b.now, b.rnd)
	return b
}

// wake goes to the instant the machine asked for.
func (b *bench) wake() *bench {
	w, ok := find[schedule.Wake](b.actions)
	if !ok {
		b.t.Fatalf("no wake-up in %v", b.actions)
	}
	b.now = w.AtMS
	return b.step(schedule.Timer{})
}

func (b *bench) state(want schedule.State) *bench {
	b.t.Helper()
	if got := b.m.State(); got != want {
		b.t.Fatalf("%v, want %v; actions %+v", got, want, b.actions)
	}
	return b
}

func find[A schedule.Action](actions []schedule.Action) (a A, ok bool) {
	for _, action := range actions {
		if a, ok = action.(A); ok {
			return a, true
		}
	}
	return a, false
}

func must[A schedule.Action](b *bench) A {
	b.t.Helper()
	a, ok := find[A](b.actions)
	if !ok {
		b.t.Fatalf("no %T in %+v", a, b.actions)
	}
	return a
}

func none[A schedule.Action](b *bench) {
	b.t.Helper()
	if a, ok := find[A](b.actions); ok {
		b.t.Fatalf("%+v in %+v", a, b.actions)
	}
}

// keyed is a bench in state keyed: a late-comer of interval 2 with the keys of
// 2 (and not 3), a second after T₂.
func keyed(t *testing.T, role schedule.Role) *bench {
	timing := plain()
	b := &bench{t: t, m: schedule.NewMachine(timing, role, schedule.Options{}), now: timing.T(2) + 1000, rnd: rand.New(rand.NewPCG(5, 5))}
	b.step(schedule.Join{}).state(schedule.StateEnrolling)
	must[schedule.Enrol](b) // at once
	b.step(schedule.Enrolled{Outcome: given(timing, b.now, 2, 2), ReenrolMS: 20_000}).state(schedule.StateKeyed)
	if got := must[schedule.Install](b).Keys; got != (schedule.Span{First: 2, Last: 2}) {
		t.Fatalf("installs %v", got)
	}
	return b
}

// asking is the same in state asking.
func asking(t *testing.T, role schedule.Role) *bench {
	b := keyed(t, role)
	b.now = b.m.NextMS()
	b.step(schedule.Timer{}).state(schedule.StateAsking)
	if r := must[schedule.Refresh](b); r.Want != 1 || r.Try != 1 || r.Transport != schedule.TransportHTTPS {
		t.Fatalf("%+v", r)
	}
	return b
}

func TestRowOut(t *testing.T) {
	timing := plain()
	preview := timing
	preview.Preview = 2
	tests := []struct {
		name     string
		timing   schedule.Timing
		joinMS   int64
		from, to int64 // the enrolment's instant
	}{
		{"before initial", timing, timing.BeginsMS() - 1000, timing.BeginsMS(), timing.StartMS - timing.MarginMS()},
		{"in initial", timing, timing.StartMS - 60_000, timing.StartMS - 60_000, timing.StartMS - timing.MarginMS()},
		{"in its last margin", timing, timing.StartMS - 1000, timing.StartMS - 1000, timing.StartMS},
		{"late", timing, timing.T(3) + 5, timing.T(3) + 5, timing.T(3) + 6},
		{"before a preview", preview, timing.StartMS - 60_000, timing.StartMS - 60_000, timing.StartMS},
		{"in a preview", preview, timing.T(1), timing.T(1), timing.T(2) - timing.MarginMS()},
		{"behind a preview", preview, timing.T(2), timing.T(2), timing.T(2) + 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			lowest, highest := int64(math.MaxInt64), int64(0)
			for seed := range uint64(300) {
				b := &bench{t: t, m: schedule.NewMachine(test.timing, schedule.RoleReceive, schedule.Options{}), now: test.joinMS, rnd: rand.New(rand.NewPCG(seed, 0))}
				b.step(schedule.Join{}).state(schedule.StateEnrolling)
				for _, ok := find[schedule.Enrol](b.actions); !ok; _, ok = find[schedule.Enrol](b.actions) {
					b.wake()
				}
				lowest, highest = min(lowest, b.now), max(highest, b.now)
			}
			if lowest < test.from || highest >= test.to {
				t.Errorf("instants %d to %d, want within %d to %d", lowest, highest, test.from, test.to)
			}
			if spread := test.to - test.from; highest-lowest < (spread-1)*9/10 {
				t.Errorf("instants %d to %d do not fill %d to %d", lowest, highest, test.from, test.to)
			}
		})
	}
	b := &bench{t: t, m: schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), now: timing.EndMS}
	b.step(schedule.Join{}).state(schedule.StateEnded)
	if must[schedule.Over](b).Left {
		t.Error("left")
	}
}

func TestRowEnrolling(t *testing.T) {
	timing := plain()
	fresh := func() *bench {
		b := &bench{t: t, m: schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), now: timing.T(2), rnd: rand.New(rand.NewPCG(1, 1))}
		b.step(schedule.Join{})
		return b
	}
	for _, code := range []int{401, 403, 404} {
		b := fresh().step(schedule.EnrolRefused{Code: code}).state(schedule.StateRefused)
		if r := must[schedule.Refused](b); r.Code != code || r.HeldUntilMS != 0 {
			t.Errorf("%+v", r)
		}
		for i := uint32(3); i < 10; i++ { // once an interval
			b.wake()
			must[schedule.Enrol](b)
			if b.now < timing.T(i) || b.now >= timing.T(i+1) {
				t.Errorf("tries at %d, want in interval %d", b.now, i)
			}
			b.step(schedule.EnrolRefused{Code: code})
		}
		b.wake().state(schedule.StateEnded)
	}
	for _, ev := range []schedule.Event{schedule.EnrolRefused{Code: 503}, schedule.EnrolRefused{Code: 429}, schedule.EnrolRefused{Code: 500}, schedule.EnrolFailed{}} {
		b := fresh()
		for i, least := range []int64{1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000} {
			at := b.now
			b.step(ev).state(schedule.StateEnrolling).wake()
			if wait := b.now - at; wait < least || wait > min(least*5/4+1, 60_000) {
				t.Errorf("%T %d: waits %d ms, want %d or somewhat more", ev, i, wait, least)
			}
			if e := must[schedule.Enrol](b); e.Address != uint32(i)+1 {
				t.Errorf("address %d, want %d", e.Address, i+1)
			}
		}
	}
	for _, code := range []int{425, 503} { // as told
		b := fresh()
		at := b.now
		b.step(schedule.EnrolRefused{Code: code, RetryAfterMS: 30_000}).wake()
		if wait := b.now - at; wait < 30_000 || wait > 38_000 {
			t.Errorf("%d: waits %d ms, told 30 s", code, wait)
		}
	}
	fresh().step(schedule.EnrolRefused{Code: 410}).state(schedule.StateEnded)

	// Told "not yet" before the initial period, all draw again within it.
	early := timing.BeginsMS()
	for seed := range uint64(100) {
		b := &bench{t: t, m: schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), now: early, rnd: rand.New(rand.NewPCG(seed, 1))}
		b.step(schedule.Join{}).wake()
		at := b.now
		b.step(schedule.EnrolRefused{Code: 425, RetryAfterMS: 1000}).wake()
		if b.now < at+1000 || b.now > max(timing.StartMS, at+1251) {
			t.Errorf("after 425 at %d: %d", at-timing.StartMS, b.now-timing.StartMS)
		}
	}
}

func TestRowAskingGiven(t *testing.T) {
	b := asking(t, schedule.RoleReceive)
	timing := plain()
	if opens, closes := timing.Window(3); b.now < opens || b.now >= closes {
		t.Fatalf("asks at %d, the window is %d to %d", b.now, opens, closes)
	}
	b.step(schedule.Answered{Outcome: given(timing, b.now, 3, 3)}).state(schedule.StateKeyed)
	must[schedule.Install](b)
	if held, ok := b.m.Held(); !ok || held != (schedule.Span{First: 2, Last: 3}) {
		t.Errorf("holds %v", held)
	}
	if opens, closes := timing.Window(4); b.m.NextMS() < opens || b.m.NextMS() >= closes {
		t.Errorf("next at %d, the window is %d to %d", b.m.NextMS(), opens, closes)
	}
	// The old key goes at its end and a grace, not before.
	b.wake()
	if d := must[schedule.Drop](b); d.Through != 2 || b.now != timing.T(3)+schedule.GraceMS {
		t.Errorf("%+v at %d", d, b.now-timing.StartMS)
	}
}

func TestRowAskingNotYet(t *testing.T) {
	b := asking(t, schedule.RoleReceive)
	o := schedule.Outcome{Status: schedule.StatusNotYet, CookieNumber: 3, ServerMS: b.now, WindowOpensMS: 5000, WindowLastsMS: 10_000}
	at := b.now
	b.step(schedule.Answered{Outcome: o}).state(schedule.StateKeyed)
	if next := b.m.NextMS(); next < at+5000 || next >= at+15_000 {
		t.Errorf("next after %d ms, want within the window of 5 to 15 s", next-at)
	}
}

func TestRowAskingBusy(t *testing.T) {
	for _, status := range []schedule.Status{schedule.StatusBusy, schedule.StatusClock} {
		timing := plain()
		b := &bench{t: t, m: schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), now: timing.T(2), rnd: rand.New(rand.NewPCG(1, 1))}
		b.step(schedule.Join{}).step(schedule.Enrolled{Outcome: given(timing, b.now, 2, 2), Addresses: 3})
		b.now = b.m.NextMS()
		b.step(schedule.Timer{})
		first := must[schedule.Refresh](b).Address
		for i := uint32(1); i < 3; i++ { // the others at once
			b.step(schedule.Answered{Outcome: schedule.Outcome{Status: status, CookieNumber: 3}}).state(schedule.StateAsking)
			if r := must[schedule.Refresh](b); r.Address != first+i {
				t.Errorf("address %d, want %d", r.Address, first+i)
			}
		}
		b.step(schedule.Answered{Outcome: schedule.Outcome{Status: status, CookieNumber: 3}}).state(schedule.StateAsking)
		none[schedule.Refresh](b)
		at := b.now
		b.wake()
		if must[schedule.Refresh](b); b.now-at < 375 {
			t.Errorf("asks again after %d ms", b.now-at)
		}
	}
}

func TestRowAskingWithheld(t *testing.T) {
	for _, status := range []schedule.Status{schedule.StatusWithheld, schedule.StatusIncomplete} {
		b := asking(t, schedule.RoleReceive)
		timing := plain()
		o := schedule.Outcome{Status: status, CookieNumber: 3, ServerMS: b.now, WindowOpensMS: 0, WindowLastsMS: 1000}
		if status == schedule.StatusIncomplete { // zeros are no keys, whatever the driver says
			o.Given, o.Keys = true, schedule.Span{First: 3, Last: 3}
		}
		b.step(schedule.Answered{Outcome: o}).state(schedule.StateWithheld)
		none[schedule.Drop](b)
		none[schedule.Install](b)
		if r := must[schedule.Refused](b); r.HeldUntilMS != timing.T(3) || r.Status != status {
			t.Errorf("%+v", r)
		}
		if next := b.m.NextMS(); next < timing.T(3) || next >= timing.T(4) {
			t.Errorf("asks again at %d, want in interval 3", next-timing.StartMS)
		}
		b.wake() // the end of key 2
		if d := must[schedule.Drop](b); d.Through != 2 || b.now != timing.T(3)+schedule.GraceMS && b.now < b.m.NextMS() {
			t.Errorf("%+v at %d", d, b.now-timing.StartMS)
		}
		for b.m.State() != schedule.StateAsking {
			b.wake()
		}
		b.step(schedule.Answered{Outcome: given(timing, b.now, 3, 4)}).state(schedule.StateKeyed)
	}
}

func TestRowAskingSilence(t *testing.T) {
	b := asking(t, schedule.RoleReceive)
	timing := plain()
	n, _ := b.m.Cookie()
	begins := timing.T(3)
	urgent := begins - 2*timing.MarginMS()
	last, address := b.now, must[schedule.Refresh](b).Address
	tries := 1
	for b.m.State() == schedule.StateAsking {
		b.wake()
		r, ok := find[schedule.Refresh](b.actions)
		if !ok {
			continue
		}
		tries++
		gap := b.now - last
		longest := int64(3750 * 5 / 4)
		if b.now < begins && last >= urgent {
			longest = timing.MarginMS() / 4
		}
		if r.Try != tries || r.Address != address+1 || gap < 375 || gap > longest+1 {
			t.Fatalf("try %d (%d) at address %d after %d ms, at most %d", r.Try, tries, r.Address, gap, longest)
		}
		last, address = b.now, r.Address
		b.step(schedule.Unanswered{}) // makes nothing earlier
		none[schedule.Refresh](b)
	}
	if b.state(schedule.StateEnrolling).now != timing.T(n+1) {
		t.Errorf("gives up at %d, the cookie lives until %d", b.now, timing.T(n+1))
	}
	if tries < 20 {
		t.Errorf("%d tries", tries)
	}
	// It has no key, but the server was away, for everybody: spread over
	// reenrol.
	if wait := b.m.NextMS() - b.now; wait < 0 || wait > 20_000 {
		t.Errorf("enrols after %d ms, reenrol is 20 s", wait)
	}
}

func TestRowEnrolAgain(t *testing.T) {
	again := map[string]schedule.Event{
		"status 4": schedule.Answered{Outcome: schedule.Outcome{Status: schedule.StatusEnrolAgain}},
		"nak":      schedule.NotAcknowledged{Transport: schedule.TransportHTTPS},
	}
	timing := plain()
	for why, ev := range again {
		late := 0
		for seed := range uint64(200) {
			b := asking(t, schedule.RoleReceive)
			b.rnd = rand.New(rand.NewPCG(seed, 0))
			b.now = timing.T(3) - timing.MarginMS() - 8000 // 8 s are left of reenrol's 20
			b.m, b.actions = b.m.Step(ev, b.now, b.rnd)
			b.state(schedule.StateEnrolling)
			next := b.m.NextMS()
			if next == 0 { // at once
				continue
			}
			if next < b.now || next >= timing.T(3)-timing.MarginMS() {
				t.Errorf("%s: enrols at %d, want in what is left before the margin of key 3", why, next-timing.StartMS)
			}
			if next > b.now+4000 {
				late++
			}
		}
		if late < 50 || late > 150 {
			t.Errorf("%s: %d of 200 instants in the later half", why, late)
		}
		// Without the current key: at once, but never twice within 10 s.
		b := keyed(t, schedule.RoleReceive)
		granted := b.now
		b.now = timing.T(3) // no key 3
		b.step(schedule.Timer{})
		b.step(ev)
		if e := must[schedule.Enrol](b); e.Why != why {
			t.Errorf("%+v, want why %q", e, why)
		}
		b = keyed(t, schedule.RoleReceive)
		b.now = granted + 1
		b.step(ev)
		if next := b.m.NextMS(); next < granted+10_000 {
			t.Errorf("%s: enrols %d ms after the grant", why, next-granted)
		}
	}
	// By datagram anybody could have sent it.
	b := asking(t, schedule.RoleReceive)
	b.step(schedule.NotAcknowledged{Transport: schedule.TransportDatagram}).state(schedule.StateAsking)
	none[schedule.Enrol](b)
}

func TestRowEnded(t *testing.T) {
	b := asking(t, schedule.RoleReceive)
	b.step(schedule.Answered{Outcome: schedule.Outcome{Status: schedule.StatusEnded}}).state(schedule.StateEnded)
	must[schedule.Over](b)
	none[schedule.Wake](b)

	for role, grace := range map[schedule.Role]int64{schedule.RoleReceive: schedule.GraceMS, schedule.RoleSend: 0} {
		b = keyed(t, role)
		b.now = plain().EndMS + grace - 1
		b.step(schedule.Timer{})
		none[schedule.Over](b)
		none[schedule.Refresh](b)
		b.wake().state(schedule.StateEnded)
		must[schedule.Over](b)
		if got := b.step(schedule.Timer{}).actions; len(got) != 0 {
			t.Errorf("%v after the end", got)
		}
	}
}

func TestRowLeave(t *testing.T) {
	b := keyed(t, schedule.RoleReceive).step(schedule.Leave{}).state(schedule.StateOut)
	if !must[schedule.Over](b).Left {
		t.Error("not left")
	}
	none[schedule.Wake](b)
	if b.m != schedule.NewMachine(plain(), schedule.RoleReceive, schedule.Options{}) {
		t.Error("something is left of it")
	}
	b.step(schedule.Join{}).state(schedule.StateEnrolling)
}

// TestMarginPull: keyed, no instant (the server named no window), and key 3 is
// lacking: it is pulled for in the margin before T₃, once in that interval.
func TestMarginPull(t *testing.T) {
	timing := plain()
	for seed := range uint64(100) {
		b := &bench{t: t, m: schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{}), now: timing.T(2), rnd: rand.New(rand.NewPCG(seed, 1))}
		o := given(timing, b.now, 2, 2)
		o.WindowOpensMS, o.WindowLastsMS = 0, 0
		b.step(schedule.Join{}).step(schedule.Enrolled{Outcome: o}).state(schedule.StateKeyed)
		for b.m.State() == schedule.StateKeyed {
			b.wake()
		}
		if must[schedule.Refresh](b); b.now < timing.T(3)-timing.MarginMS() || b.now >= timing.T(3) {
			t.Fatalf("pulls at %d, T₃ is %d", b.now-timing.StartMS, timing.T(3)-timing.StartMS)
		}
		b.step(schedule.Answered{Outcome: schedule.Outcome{Status: schedule.StatusNotYet, CookieNumber: 3}}).state(schedule.StateKeyed)
		b.wake()
		if _, again := find[schedule.Refresh](b.actions); again && b.now < timing.T(3) {
			t.Fatalf("pulls again in the same interval, at %d", b.now-timing.StartMS)
		}
	}
}

// TestRenewal: a change of settings enrols under the living cookie; a failure
// of that does not disturb what there is.
func TestRenewal(t *testing.T) {
	b := asking(t, schedule.RoleReceive)
	timing := plain()
	o := given(timing, b.now, 3, 3)
	o.Edition = 7
	b.step(schedule.Answered{Outcome: o})
	if f := must[schedule.FetchTicket](b); f.Edition != 7 {
		t.Errorf("%+v", f)
	}
	at := b.now
	b.step(schedule.Renew{}).state(schedule.StateKeyed)
	for _, ok := find[schedule.Enrol](b.actions); !ok; _, ok = find[schedule.Enrol](b.actions) {
		b.wake()
	}
	if b.now > at+20_000 {
		t.Errorf("enrols after %d ms, reenrol is 20 s", b.now-at)
	}
	for _, ev := range []schedule.Event{schedule.EnrolFailed{}, schedule.EnrolRefused{Code: 503}, schedule.EnrolRefused{Code: 403}} {
		b.step(ev)
		if s := b.m.State(); s != schedule.StateKeyed && s != schedule.StateAsking {
			t.Fatalf("%v after %T", s, ev)
		}
		if _, ok := b.m.Cookie(); !ok {
			t.Fatal("the cookie is gone")
		}
		for _, ok := find[schedule.Enrol](b.actions); !ok; _, ok = find[schedule.Enrol](b.actions) {
			b.wake()
			if r, ok := find[schedule.Refresh](b.actions); ok && r.Try == 1 {
				b.step(schedule.Answered{Outcome: func() schedule.Outcome {
					i := timing.Current(b.now) + 1
					o := given(timing, b.now, i, i)
					o.Edition = 7
					return o
				}()})
			}
		}
	}
	b.step(schedule.Enrolled{Outcome: given(timing, b.now, timing.Current(b.now), timing.Current(b.now))}).state(schedule.StateKeyed)
}

// TestDatagrams: the transport changes, nothing else.
func TestDatagrams(t *testing.T) {
	timing := plain()
	b := &bench{t: t, m: schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{Datagrams: true}), now: timing.T(2), rnd: rand.New(rand.NewPCG(1, 1))}
	b.step(schedule.Join{}).step(schedule.Enrolled{Outcome: given(timing, b.now, 2, 2)})
	b.now = b.m.NextMS()
	b.step(schedule.Timer{})
	if r := must[schedule.Refresh](b); r.Transport != schedule.TransportDatagram {
		t.Fatalf("%+v", r)
	}
	// Unanswered ones go over to HTTPS in the last 2 × margin.
	for {
		b.wake()
		r, ok := find[schedule.Refresh](b.actions)
		if ok && r.Transport == schedule.TransportHTTPS {
			break
		}
		if b.now >= timing.T(3) {
			t.Fatal("no HTTPS before T₃")
		}
	}
	if b.now < timing.T(3)-2*timing.MarginMS() {
		t.Errorf("HTTPS at %d already", b.now-timing.StartMS)
	}
	// Whose datagrams were never answered goes by HTTPS at its own instant.
	b.step(schedule.Answered{Outcome: given(timing, b.now, 3, 3)})
	b.now = b.m.NextMS()
	b.step(schedule.Timer{})
	if r := must[schedule.Refresh](b); r.Transport != schedule.TransportHTTPS {
		t.Errorf("%+v", r)
	}
	// One who was answered once tries them again.
	b.step(schedule.Answered{Outcome: given(timing, b.now, 4, 4), Transport: schedule.TransportDatagram})
	b.now = b.m.NextMS()
	b.step(schedule.Timer{})
	if r := must[schedule.Refresh](b); r.Transport != schedule.TransportDatagram {
		t.Errorf("%+v", r)
	}
}

// TestStatesAndStatusesHaveNames, also those that do not exist.
func TestStatesAndStatusesHaveNames(t *testing.T) {
	for i := range 256 {
		if schedule.State(i).String() == "" || schedule.Status(i).String() == "" {
			t.Errorf("%d has no name", i)
		}
	}
	if got := fmt.Sprint(schedule.StatusWithheld, schedule.StateWithheld, schedule.Status(99)); got != "withheld withheld status 99" {
		t.Error(got)
	}
}
