package schedule_test

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"usher/keyclient/schedule"
)

// world is a key server that follows docs/keying.md §5.3 by Decide, and the
// network before it.
type world struct {
	timing    schedule.Timing
	loss      float64                 // of each request and each answer
	delayMS   int64                   // each way
	away      func(nowMS int64) bool  // nothing answers
	suspended func(nowMS int64) bool  // the client is
	errorMS   func(nowMS int64) int64 // e after an answer
	reenrolMS int64
}

// cookie is what the server knows of a client.
type cookie struct {
	first, n uint32
	untilMS  int64
}

// sent is an Enrol or a Refresh as it left the client.
type sent struct {
	atMS        int64
	enrol       bool
	want        uint8
	try         int
	cookieLives bool // the client held a cookie that had not ended
	why         string
}

// client drives a machine as keyclient does, in virtual time.
type client struct {
	w       *world
	rnd     *rand.Rand
	m       schedule.Machine
	nowMS   int64
	wakeMS  int64
	cookie  cookie
	version int // of the cookie: answers to tries of an older one are void
	pending []arrival

	log      []sent
	keys     map[uint32]int64 // interval → when its key was installed
	dropped  map[uint32]int64
	refused  []schedule.Refused
	overAtMS int64
	steps    int
}

// arrival is something on its way to the client.
type arrival struct {
	atMS    int64
	version int // -1: valid with any cookie
	event   schedule.Event
	cookie  *cookie
}

func newClient(w *world, m schedule.Machine, seed uint64) *client {
	return &client{
		w: w, rnd: rand.New(rand.NewPCG(seed, 1)), m: m,
		keys: map[uint32]int64{}, dropped: map[uint32]int64{},
	}
}

// run joins at joinMS and goes on until untilMS.
func (c *client) run(joinMS, untilMS int64) *client {
	c.nowMS = joinMS
	c.step(schedule.Join{})
	return c.resume(untilMS)
}

func (c *client) resume(untilMS int64) *client {
	for c.overAtMS == 0 {
		slices.SortStableFunc(c.pending, func(a, b arrival) int { return cmp.Compare(a.atMS, b.atMS) })
		if len(c.pending) > 0 && c.pending[0].atMS <= c.wakeMS {
			if c.pending[0].atMS > untilMS {
				break
			}
			next := c.pending[0]
			c.pending = c.pending[1:]
			c.nowMS = next.atMS
			if next.version >= 0 && next.version != c.version {
				continue
			}
			if next.cookie != nil {
				c.cookie = *next.cookie
				c.version++
			}
			c.step(next.event)
			continue
		}
		if c.wakeMS > untilMS {
			break
		}
		c.nowMS = c.wakeMS
		c.step(schedule.Timer{})
	}
	return c
}

func (c *client) step(ev schedule.Event) {
	c.steps++
	var actions []schedule.Action
	c.m, actions = c.m.Step(ev, c.nowMS, c.rnd)
	for _, a := range actions {
		switch a := a.(type) {
		case schedule.Enrol:
			c.log = append(c.log, sent{atMS: c.nowMS, enrol: true, cookieLives: c.cookieLives(), why: a.Why})
			c.enrol()
		case schedule.Refresh:
			c.log = append(c.log, sent{atMS: c.nowMS, want: a.Want, try: a.Try, cookieLives: c.cookieLives()})
			c.refresh(a)
		case schedule.Install:
			for i := a.Keys.First; i <= a.Keys.Last; i++ {
				if _, ok := c.keys[i]; !ok {
					c.keys[i] = c.nowMS
				}
			}
		case schedule.Drop:
			for i := range c.keys {
				if _, ok := c.dropped[i]; !ok && i <= a.Through {
					c.dropped[i] = c.nowMS
				}
			}
		case schedule.Refused:
			c.refused = append(c.refused, a)
		case schedule.Over:
			c.overAtMS = c.nowMS
		case schedule.Wake:
			c.wakeMS = a.AtMS
		}
	}
}

func (c *client) cookieLives() bool {
	n, ok := c.m.Cookie()
	return ok && c.nowMS < c.w.timing.T(n+1)
}

// lostEitherWay draws for a request and for its answer.
func (c *client) lostEitherWay() bool {
	request, answer := c.lost(), c.lost()
	return request || answer
}

func (c *client) lost() bool { return c.rnd.Float64() < c.w.loss }

// decide is the server at the instant at.
func (c *client) decide(at int64, k cookie, want int) (schedule.Outcome, *cookie) {
	t := c.w.timing
	refusal := schedule.StatusGiven
	switch {
	case at >= k.untilMS:
		refusal = schedule.StatusEnrolAgain
	case c.w.suspended != nil && c.w.suspended(at):
		refusal = schedule.StatusWithheld
	}
	newest := t.Current(at) + t.Lead()
	if n, finite := t.N(); finite {
		newest = min(newest, n-1)
	}
	v := t.Decide(schedule.Question{NowMS: at, First: k.first, Want: want, Refusal: refusal, NewestRow: newest})
	o := schedule.Outcome{
		Status: v.Status, CookieNumber: v.CookieNumber, ServerMS: at,
		WindowOpensMS: v.WindowOpensMS, WindowLastsMS: v.WindowLastsMS, ErrorMS: 1,
	}
	if c.w.errorMS != nil {
		o.ErrorMS = c.w.errorMS(at)
	}
	if len(v.Given) > 0 && v.Status == schedule.StatusGiven {
		o.Given, o.Keys = true, schedule.Span{First: v.Given[0], Last: v.Given[len(v.Given)-1]}
	}
	if !v.Status.CarriesCookie() {
		return o, nil
	}
	return o, &cookie{first: v.FirstAfter, n: v.CookieNumber, untilMS: k.untilMS}
}

func (c *client) enrol() {
	at := c.nowMS + c.w.delayMS
	back := at + c.w.delayMS
	answer := func(ev schedule.Event, k *cookie) {
		c.pending = append(c.pending, arrival{atMS: back, version: -1, event: ev, cookie: k})
	}
	t := c.w.timing
	switch {
	case c.lostEitherWay() || c.w.away != nil && c.w.away(at):
		back = c.nowMS + 1000
		answer(schedule.EnrolFailed{}, nil)
	case at < t.BeginsMS():
		answer(schedule.EnrolRefused{Code: 425, RetryAfterMS: t.BeginsMS() - at}, nil)
	case t.Over(at):
		answer(schedule.EnrolRefused{Code: 410}, nil)
	case c.w.suspended != nil && c.w.suspended(at):
		answer(schedule.EnrolRefused{Code: 403}, nil)
	default:
		o, k := c.decide(at, cookie{untilMS: at + 3600_000}, 8)
		answer(schedule.Enrolled{Outcome: o, ReenrolMS: c.w.reenrolMS}, k)
	}
}

func (c *client) refresh(a schedule.Refresh) {
	at := c.nowMS + c.w.delayMS
	back := at + c.w.delayMS
	if c.w.away != nil && c.w.away(at) {
		c.pending = append(c.pending, arrival{atMS: at, version: c.version, event: schedule.Unanswered{}})
		return
	}
	if c.lostEitherWay() {
		return
	}
	if at >= c.w.timing.T(c.cookie.n+1)+schedule.LingerMS {
		c.pending = append(c.pending, arrival{atMS: back, version: c.version, event: schedule.NotAcknowledged{Transport: a.Transport}})
		return
	}
	o, k := c.decide(at, c.cookie, int(a.Want))
	c.pending = append(c.pending, arrival{atMS: back, version: c.version, event: schedule.Answered{Outcome: o}, cookie: k})
}

// enrolments counts what was sent; of them those under a living cookie that
// are no renewal must be none.
func (c *client) enrolments(t *testing.T) (count int) {
	t.Helper()
	last := int64(0)
	for _, s := range c.log {
		if !s.enrol {
			continue
		}
		count++
		if s.cookieLives && s.why != "renewal" {
			t.Errorf("enrols (%s) at %d while its cookie lives", s.why, s.atMS-c.w.timing.StartMS)
		}
		if s.why == "retry" {
			if last != 0 && s.atMS-last < 1000 {
				t.Errorf("enrolments %d ms apart", s.atMS-last)
			}
		}
		last = s.atMS
	}
	return count
}

// pace checks that no two tries come closer than docs/keying.md §5.4 allows.
func (c *client) pace(t *testing.T) {
	t.Helper()
	l := min(c.w.timing.FirstMS, c.w.timing.IntervalMS)
	shortest := min(min(500, l/32), c.w.timing.MarginMS()/4) * 3 / 4
	last := int64(-1 << 62)
	for _, s := range c.log {
		if s.enrol {
			continue
		}
		if s.try > 1 && s.atMS-last < shortest {
			t.Fatalf("try %d only %d ms after the one before, want %d", s.try, s.atMS-last, shortest)
		}
		last = s.atMS
	}
}

// shapes are the timings that the simulations run over.
func shapes() map[string]schedule.Timing {
	base := plain()
	with := func(change func(*schedule.Timing)) schedule.Timing {
		t := base
		change(&t)
		return t
	}
	return map[string]schedule.Timing{
		"60 s": base,
		"the demo's": with(func(t *schedule.Timing) {
			t.FirstMS, t.IntervalMS, t.WindowMS, t.InitialMS, t.EndMS = 5000, 5000, 5000, 6000, t.StartMS+42_000
		}),
		"1 s": with(func(t *schedule.Timing) {
			t.FirstMS, t.IntervalMS, t.WindowMS, t.EndMS = 1000, 1000, 1000, t.StartMS+30_000
		}),
		"short window": with(func(t *schedule.Timing) { t.WindowMS = 10_000 }),
		"ahead 3":      with(func(t *schedule.Timing) { t.WindowMS, t.Ahead = 30_000, 3 }),
		"window of 3":  with(func(t *schedule.Timing) { t.FirstMS, t.IntervalMS = 20_000, 20_000 }),
		"preview 2":    with(func(t *schedule.Timing) { t.Preview = 2 }),
		"first longer": with(func(t *schedule.Timing) { t.FirstMS, t.WindowMS = 300_000, 40_000 }),
		"endless":      with(func(t *schedule.Timing) { t.EndMS = 0 }),
	}
}

// end is where a simulation stops.
func end(t schedule.Timing) int64 {
	if t.EndMS == 0 {
		return t.StartMS + 20*t.IntervalMS
	}
	return t.EndMS + 10_000
}

// keysDue are the intervals whose keys a client must have, if it is there from
// `from` on.
func keysDue(t schedule.Timing, from int64) (first, last uint32) {
	if n, finite := t.N(); finite {
		return t.Current(from), n - 1
	}
	return t.Current(from), t.Current(end(t)) - 1
}
