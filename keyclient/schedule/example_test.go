package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	"usher/keyclient/schedule"
)

// A driver owns the machine, one timer and the offset. It feeds events one
// after the other, never from within an action, and carries the actions out in
// order. Here an obliging server answers at once, and time jumps from one
// wake-up to the next.
func ExampleMachine() {
	timing := schedule.Timing{
		StartMS: 1_800_000_000_000, EndMS: 1_800_000_015_000,
		FirstMS: 5000, IntervalMS: 5000, InitialMS: 6000, WindowMS: 5000, Ahead: 1,
	}
	var (
		m     = schedule.NewMachine(timing, schedule.RoleReceive, schedule.Options{})
		rnd   = rand.New(rand.NewPCG(1, 2)) // a program seeds it from crypto/rand
		nowMS = timing.StartMS + 100        // Offset.NowMS of the boot clock
		first = uint32(0)                   // the server has this in its cookie
	)
	// answer is what comes back: the body of a grant or of a refresh answer.
	answer := func(want int) schedule.Outcome {
		v := timing.Decide(schedule.Question{NowMS: nowMS, First: first, Want: want, NewestRow: 2})
		first = v.FirstAfter
		o := schedule.Outcome{
			Status: v.Status, CookieNumber: v.CookieNumber, ServerMS: nowMS,
			WindowOpensMS: v.WindowOpensMS, WindowLastsMS: v.WindowLastsMS,
		}
		if len(v.Given) > 0 {
			o.Given, o.Keys = true, schedule.Span{First: v.Given[0], Last: v.Given[len(v.Given)-1]}
		}
		return o
	}
	queue := []schedule.Event{schedule.Join{}}
	for len(queue) > 0 {
		ev := queue[0]
		queue = queue[1:]
		var actions []schedule.Action
		m, actions = m.Step(ev, nowMS, rnd)
		for _, a := range actions {
			at := time.Duration(nowMS-timing.StartMS) * time.Millisecond
			switch a := a.(type) {
			case schedule.Enrol: // POST /v1/enrol
				fmt.Println(at.Round(time.Second/10), "enrol:", a.Why)
				queue = append(queue, schedule.Enrolled{Outcome: answer(8), Timing: timing})
			case schedule.Refresh: // a new id, the cookie held; POST /v1/refresh
				fmt.Println("in a window: refresh, want", a.Want)
				queue = append(queue, schedule.Answered{Outcome: answer(int(a.Want))})
			case schedule.Install: // make associations; senders: SendSpan
				fmt.Println("install keys", a.Keys.First, "to", a.Keys.Last)
			case schedule.Drop: // wipe
				fmt.Println(at.Round(time.Second/10), "drop keys up to", a.Through)
			case schedule.FetchTicket, schedule.Refused:
			case schedule.Over: // wipe everything of the occurrence
				fmt.Println(at.Round(time.Second/10), "over")
			case schedule.Wake: // one timer, at Offset.BootAt(a.AtMS)
				if len(queue) == 0 {
					nowMS = a.AtMS
					queue = append(queue, schedule.Timer{})
				}
			}
		}
	}
	// Output:
	// 100ms enrol: first
	// install keys 0 to 1
	// in a window: refresh, want 1
	// install keys 2 to 2
	// 7s drop keys up to 0
	// 12s drop keys up to 1
	// 17s over
}
