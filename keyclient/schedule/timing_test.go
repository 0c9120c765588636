package schedule_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"usher/keyclient/schedule"
)

// vectors is testdata/schedule.json: values made by another implementation
// from docs/keying.md alone.
type vectors struct {
	Cases []vector `json:"cases"`
}

type vector struct {
	What  string `json:"what"`
	Name  string `json:"name"`
	Event string `json:"event"`
	Case  string `json:"case"`

	StartMS    int64   `json:"start_ms"`
	FirstMS    int64   `json:"first_ms"`
	IntervalMS int64   `json:"interval_ms"`
	EndMS      *int64  `json:"end_ms"`
	InitialMS  int64   `json:"initial_ms"`
	WindowMS   int64   `json:"window_ms"`
	Ahead      uint32  `json:"ahead"`
	Preview    uint32  `json:"preview"`
	Push       bool    `json:"push"`
	Tolerance  int64   `json:"tolerance_ms"`
	Margin     int64   `json:"margin_ms"`
	Span       uint32  `json:"span"`
	G          uint32  `json:"G"`
	Lead       uint32  `json:"lead_intervals"`
	N          *uint32 `json:"N"`
	T          []int64 `json:"T_ms"`
	Opens      []*int64

	NowMS        int64    `json:"now_ms"`
	First        uint32   `json:"first"`
	Want         int      `json:"want"`
	PerInterval  int      `json:"records_per_interval"`
	Current      uint32   `json:"current"`
	Status       uint8    `json:"status"`
	Given        []uint32 `json:"given"`
	FirstAfter   uint32   `json:"first_after"`
	CookieNumber uint32   `json:"cookie_number"`
	WindowOpens  uint32   `json:"window_opens_ms"`
	WindowLasts  uint32   `json:"window_lasts_ms"`

	InUse  int64  `json:"key_in_use"`
	ErrMS  int64  `json:"e_ms"`
	Expect string `json:"expect"`
}

func (v *vector) UnmarshalJSON(data []byte) error {
	type plain vector
	var opens struct {
		Opens []*int64 `json:"opens_ms"`
	}
	if err := json.Unmarshal(data, (*plain)(v)); err != nil {
		return err
	}
	err := json.Unmarshal(data, &opens)
	v.Opens = opens.Opens
	return err
}

func (v *vector) timing() schedule.Timing {
	t := schedule.Timing{
		StartMS: v.StartMS, FirstMS: v.FirstMS, IntervalMS: v.IntervalMS,
		InitialMS: v.InitialMS, WindowMS: v.WindowMS,
		Ahead: v.Ahead, Preview: v.Preview, Push: v.Push,
	}
	if v.EndMS != nil {
		t.EndMS = *v.EndMS
	}
	return t
}

// refusal is what the server's other steps decided, by the name of the case.
func (v *vector) refusal(t *testing.T) schedule.Status {
	switch v.Case {
	case "clock not trusted", "clock and set":
		return schedule.StatusClock
	case "set stale", "stale and suspended":
		return schedule.StatusBusy
	case "enrolment over", "enrolment over and suspended":
		return schedule.StatusEnrolAgain
	case "withheld":
		return schedule.StatusWithheld
	case "incomplete":
		return schedule.StatusIncomplete
	case "", "edition changed", "want 0", "unicast receiver, two senders: two records an interval":
		return schedule.StatusGiven
	}
	t.Fatalf("a case that this test does not know: %q", v.Case)
	return 0
}

func TestVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/schedule.json")
	if err != nil {
		t.Fatal(err)
	}
	var all vectors
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Cases) != 479 {
		t.Fatalf("%d cases, want 479", len(all.Cases))
	}
	events := map[string]schedule.Timing{}
	for i, v := range all.Cases {
		t.Run(fmt.Sprintf("%d %s %s%s", i, v.What, v.Name, v.Event), func(t *testing.T) {
			switch v.What {
			case "event":
				events[v.Name] = v.timing()
				checkEvent(t, v)
			case "refresh":
				checkRefresh(t, v, events[v.Event])
			case "sender":
				checkSender(t, v, events[v.Event])
			default:
				t.Fatalf("unknown kind of case")
			}
		})
	}
}

func checkEvent(t *testing.T, v vector) {
	timing := v.timing()
	if err := timing.Validate(); err != nil {
		t.Fatal(err)
	}
	if got := timing.ToleranceMS(); got != v.Tolerance {
		t.Errorf("tolerance %d, want %d", got, v.Tolerance)
	}
	if got := timing.MarginMS(); got != v.Margin {
		t.Errorf("margin %d, want %d", got, v.Margin)
	}
	if got := timing.Span(); got != v.Span {
		t.Errorf("span %d, want %d", got, v.Span)
	}
	if got := timing.G(); got != v.G {
		t.Errorf("G %d, want %d", got, v.G)
	}
	if got := timing.Lead(); got != v.Lead {
		t.Errorf("lead %d, want %d", got, v.Lead)
	}
	n, finite := timing.N()
	if finite != (v.N != nil) || finite && n != *v.N {
		t.Errorf("N %d %v, want %v", n, finite, v.N)
	}
	for i, want := range v.T {
		if got := timing.T(uint32(i)); got != want {
			t.Errorf("T(%d) = %d, want %d", i, got, want)
		}
	}
	for i, want := range v.Opens {
		i := uint32(i)
		if want == nil {
			if timing.Givable(i, timing.T(i)) {
				t.Errorf("preview key %d may be given", i)
			}
			continue
		}
		if got := timing.OpensMS(i); got != *want {
			t.Errorf("opens(%d) = %d, want %d", i, got, *want)
		}
		if timing.Givable(i, *want-1) || !timing.Givable(i, *want) {
			t.Errorf("key %d: not givable exactly from %d on", i, *want)
		}
		if end := timing.T(i + 1); !timing.Givable(i, end-1) || timing.Givable(i, end) {
			t.Errorf("key %d: not givable exactly until %d", i, end)
		}
	}
}

func checkRefresh(t *testing.T, v vector, timing schedule.Timing) {
	if got := timing.Current(v.NowMS); got != v.Current {
		t.Errorf("current %d, want %d", got, v.Current)
	}
	newest := timing.Current(v.NowMS) + timing.Lead()
	if n, finite := timing.N(); finite {
		newest = min(newest, n-1)
	}
	got := timing.Decide(schedule.Question{
		NowMS: v.NowMS, First: v.First, Want: v.Want, RecordsPerInterval: v.PerInterval,
		Refusal: v.refusal(t), NewestRow: newest,
	})
	want := schedule.Verdict{
		Status: schedule.Status(v.Status), Given: v.Given, FirstAfter: v.FirstAfter, CookieNumber: v.CookieNumber,
		WindowOpensMS: v.WindowOpens, WindowLastsMS: v.WindowLasts,
	}
	if !slices.Equal(got.Given, want.Given) {
		t.Errorf("given %v, want %v", got.Given, want.Given)
	}
	got.Given, want.Given = nil, nil
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func checkSender(t *testing.T, v vector, timing schedule.Timing) {
	got := "silent"
	if key, ok := timing.SenderKey(v.InUse, v.NowMS, v.ErrMS); ok {
		got = fmt.Sprintf("key %d", key)
	}
	if got != v.Expect {
		t.Errorf("key %d in use, %d ms after T₀, e = %d ms: %s, want %s",
			v.InUse, v.NowMS-timing.StartMS, v.ErrMS, got, v.Expect)
	}
}

func plain() schedule.Timing {
	return schedule.Timing{
		StartMS: 1_800_000_000_000, EndMS: 1_800_000_600_000,
		FirstMS: 60_000, IntervalMS: 60_000, InitialMS: 300_000, WindowMS: 60_000, Ahead: 1,
	}
}

func TestTimingValidate(t *testing.T) {
	if err := plain().Validate(); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		field  string
		change func(*schedule.Timing)
	}{
		{"start", func(t *schedule.Timing) { t.StartMS = 0 }},
		{"start", func(t *schedule.Timing) { t.StartMS++ }},
		{"start", func(t *schedule.Timing) { t.StartMS = math.MaxInt64 }},
		{"end", func(t *schedule.Timing) { t.EndMS = t.StartMS }},
		{"end", func(t *schedule.Timing) { t.EndMS = math.MaxInt64 }},
		{"first", func(t *schedule.Timing) { t.FirstMS = 999 }},
		{"interval", func(t *schedule.Timing) { t.IntervalMS = 999 }},
		{"interval", func(t *schedule.Timing) { t.IntervalMS = 7*24*3600*1000 + 1 }},
		{"end", func(t *schedule.Timing) { t.IntervalMS, t.FirstMS, t.EndMS = 1000, 1000, t.StartMS+math.MaxUint32*1000 }},
		{"initial", func(t *schedule.Timing) { t.InitialMS = -1 }},
		{"window", func(t *schedule.Timing) { t.WindowMS = 5999 }},
		{"window", func(t *schedule.Timing) { t.WindowMS = math.MaxInt64 }},
		{"ahead", func(t *schedule.Timing) { t.Ahead = 0 }},
		{"ahead", func(t *schedule.Timing) { t.Ahead = 9 }},
		{"preview", func(t *schedule.Timing) { t.Preview = 10 }},
		{"ahead", func(t *schedule.Timing) { t.Push, t.Ahead = true, 2 }},
		{"window", func(t *schedule.Timing) { t.Push, t.WindowMS = true, 60_001 }},
		{"generation", func(t *schedule.Timing) { t.GenerationMS = -1 }},
	}
	for _, test := range tests {
		timing := plain()
		test.change(&timing)
		err := timing.Validate()
		if !errors.Is(err, schedule.ErrTiming) {
			t.Errorf("%+v: error %v, want ErrTiming", timing, err)
			continue
		}
		if want := schedule.ErrTiming.Error() + ": " + test.field + ": "; err.Error()[:len(want)] != want {
			t.Errorf("error %q does not name %q", err, test.field)
		}
	}
}

// TestZeroTiming: a value that nobody validated gives nonsense, but no panic.
func TestZeroTiming(t *testing.T) {
	defer func() {
		if r := recover(); r != nil {
			t.Fatalf("panic: %v", r)
		}
	}()
	var timing schedule.Timing
	if timing.Validate() == nil {
		t.Error("the zero value is valid")
	}
	_ = timing.Span() + timing.Lead() + timing.G()
	_, _ = timing.N()
}

func TestEndlessNeverEnds(t *testing.T) {
	timing := plain()
	timing.EndMS = 0
	if timing.Over(math.MaxInt64) {
		t.Error("over")
	}
	v := timing.Decide(schedule.Question{NowMS: timing.T(1 << 30), First: 1 << 30, Want: 8, NewestRow: math.MaxUint32})
	if v.Status != schedule.StatusGiven || !slices.Equal(v.Given, []uint32{1 << 30, 1<<30 + 1}) {
		t.Errorf("%+v", v)
	}
}

// TestDecideNeedsRows: a key whose row is not there is not given, and no
// cookie is numbered beyond the rows.
func TestDecideNeedsRows(t *testing.T) {
	timing := plain()
	v := timing.Decide(schedule.Question{NowMS: timing.T(3), First: 3, Want: 8, NewestRow: 3})
	if !slices.Equal(v.Given, []uint32{3}) || v.CookieNumber != 3 || v.FirstAfter != 4 {
		t.Errorf("%+v", v)
	}
}
