package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// settleTime lets a burst of news pass before the keeper looks.
	settleTime = 20 * time.Millisecond
	// restTime is the least time between two looks, however much happens.
	restTime = 100 * time.Millisecond
	// tickTime is how often the keeper asks whether the ruleset changed, and
	// tries again what failed, without having heard anything.
	tickTime = time.Second
	// fullTicks is after how many quiet ticks it looks at everything.
	fullTicks = 10
	// logEvery is the least time between two lines about other programs.
	logEvery = 10 * time.Second
)

// Keeper applies plans and keeps them applied. Its methods may be called from
// several goroutines; each works on the network namespace of its caller's
// thread, which a test has to mind.
type Keeper struct {
	log      *slog.Logger
	onChange func(Change)

	mu       sync.Mutex // guards the fields below; held during a pass, not during onChange
	plan     Plan
	planned  bool
	last     outcome
	stood    bool // the last pass had no error
	restored map[Part]uint64
	lost     map[int]bool // interfaces that lost their link and have not got it back
	told     string       // the last trouble that was logged
	quiet    restoreLog
}

// restoreLog spaces the lines about what other programs removed.
type restoreLog struct {
	next    time.Time
	pending []string
}

// New makes a keeper without a plan; log gets a line when something was put
// back, and when something does not stand.
func New(log *slog.Logger) *Keeper {
	return &Keeper{log: log, restored: map[Part]uint64{}, lost: map[int]bool{}}
}

// OnChange sets the function that is told when the choice of a real interface,
// its link, or the tunnel's interface changed, also by a new plan. Call it
// before Set and Run. f runs on the goroutine of Set or Run; it may call
// Status, not Set.
func (k *Keeper) OnChange(f func(Change)) { k.onChange = f }

// Set applies a plan at once and makes it the one that Run keeps. The errors
// are those of [Apply]; but for a plan that is not valid, it is kept all the
// same, and what failed is tried again by Run.
func (k *Keeper) Set(ctx context.Context, p Plan) error {
	if err := errors.Join(ctx.Err(), p.Validate()); err != nil {
		return err
	}
	k.mu.Lock()
	k.plan, k.planned = p.withDefaults(), true
	change, err := k.pass(nil)
	k.mu.Unlock()
	k.report(change)
	return err
}

// Run watches the host and puts back what is missing, until ctx ends; then it
// returns nil and leaves everything in place. Before the first Set it only
// watches. The error says that the kernel cannot be watched.
func (k *Keeper) Run(ctx context.Context) error {
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.close()
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	look := time.NewTimer(0) // once at the start: something may have gone since Set
	defer look.Stop()
	var due bool
	var looked time.Time
	var seen uint32 // generation of the ruleset at the last look
	silent := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
			if !due {
				due = true
				look.Reset(max(settleTime, restTime-time.Since(looked)))
			}
			continue
		case <-tick.C:
			silent++
			now, err := generation()
			if err == nil && now == seen && k.allWell() && silent < fullTicks {
				continue
			}
		case <-look.C:
		}
		due, silent = false, 0
		seen, _ = generation() // without it, the next tick looks at everything
		k.mu.Lock()
		change, _ := k.pass(w) // logged there
		k.mu.Unlock()
		looked = time.Now()
		k.report(change)
	}
}

func (k *Keeper) allWell() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stood || !k.planned
}

func (k *Keeper) report(c *Change) {
	if c != nil && k.onChange != nil {
		k.onChange(*c)
	}
}

// pass reconciles once, counts and logs, and returns what changed on the
// ground, nil if nothing did. w is nil in Set, which asks for no news. mu is
// held.
func (k *Keeper) pass(w *watcher) (*Change, error) {
	if !k.planned {
		return nil, nil
	}
	if w != nil {
		maps.Copy(k.lost, w.takeLost())
	}
	before, stood := k.last, k.stood
	o := reconcile(k.plan)
	k.last, k.stood = o, o.err == nil

	if w == nil {
		if len(o.done) > 0 {
			k.log.Info("host set up", "done", list(o.done))
		}
	} else {
		k.count(before, stood, o)
	}
	k.complain(o)

	rejoin := k.backAgain(o.choices)
	same := len(rejoin) == 0 && reflect.DeepEqual(ground(before), ground(o))
	if same {
		return nil, o.err
	}
	return &Change{Choices: slices.Clone(o.choices), Rejoin: rejoin, TUN: o.tun}, o.err
}

// count counts and logs what another program had removed: what had to be done
// although the plan wants the same on this host as before, and the tunnel's
// interface is the same one.
func (k *Keeper) count(before outcome, stood bool, o outcome) {
	sameTUN := before.tun.Present && before.tun.Index == o.tun.Index
	var back, fresh []doing
	for _, d := range o.done {
		if d.part == PartGuard && !errors.Is(before.err, ErrGuard) || sameTUN && stood && reflect.DeepEqual(before.want, o.want) {
			back = append(back, d)
			k.restored[d.part]++
		} else {
			fresh = append(fresh, d)
		}
	}
	if len(fresh) > 0 {
		k.log.Info("host set up anew", "done", list(fresh))
	}
	k.quiet.pending = append(k.quiet.pending, names(back)...)
	if len(k.quiet.pending) > 0 && time.Now().After(k.quiet.next) {
		var total uint64
		for _, n := range k.restored {
			total += n
		}
		k.log.Warn("put back what another program removed", "done", summary(k.quiet.pending), "restored_total", total)
		k.quiet = restoreLog{next: time.Now().Add(logEvery)}
	}
}

// complain logs what does not stand, once for each new state of things. A
// missing TUN is no complaint: the agent has not made it yet, or is making it.
func (k *Keeper) complain(o outcome) {
	trouble := slices.Clone(o.problems)
	for _, c := range o.choices {
		if c.Err != nil && !slices.Contains(trouble, c.Err.Error()) {
			trouble = append(trouble, c.Err.Error())
		}
	}
	if o.err != nil && !onlyNoTUN(o.err) {
		trouble = append(trouble, o.err.Error())
	}
	text := strings.Join(trouble, " ")
	if text == k.told {
		return
	}
	k.told = text
	if text != "" {
		k.log.Warn("host is not as it should be", "problem", text)
	}
}

// onlyNoTUN reports whether err is about nothing but the missing interface.
func onlyNoTUN(err error) bool {
	return errors.Is(err, ErrNoTUN) && !errors.Is(err, ErrGuard)
}

// backAgain lists the interfaces in use that lost their link and have it again.
func (k *Keeper) backAgain(choices []Choice) []int {
	var back []int
	for _, c := range choices {
		if i := c.Interface.Index; c.Err == nil && k.lost[i] && c.Interface.Carrier {
			back = append(back, i)
			delete(k.lost, i)
		}
	}
	return back
}

// ground is what a Change is about; MTU and link come and go without one, but
// for those of the interfaces in use.
func ground(o outcome) []string {
	lines := []string{fmt.Sprint(o.tun.Present, o.tun.Index)}
	for _, c := range o.choices {
		lines = append(lines, fmt.Sprint(c.Group, c.Source, c.Interface, c.Why, c.Err))
	}
	return lines
}

// Status tells how things stand. It reads the guard's figures from the kernel.
func (k *Keeper) Status() Status {
	guard, err := ReadGuard()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{
		Choices: slices.Clone(k.last.choices), TUN: k.last.tun, Guard: guard,
		Restored: maps.Clone(k.restored), Problems: slices.Clone(k.last.problems),
	}
	if k.last.err != nil {
		s.Problems = append(s.Problems, k.last.err.Error())
	}
	if err != nil {
		s.Problems = append(s.Problems, "the guard's figures cannot be read: "+err.Error())
	}
	return s
}

func names(all []doing) []string {
	var text []string
	for _, d := range all {
		text = append(text, d.what)
	}
	return text
}

func list(all []doing) string { return summary(names(all)) }

// summary joins up to a line's worth, each thing once.
func summary(what []string) string {
	const most = 8
	var each []string
	for _, w := range what {
		if !slices.Contains(each, w) {
			each = append(each, w)
		}
	}
	if n := len(each); n > most {
		each = append(each[:most], fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(each, ", ")
}
