package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Guard makes the guard alone hold what the plan wants: at boot, before the
// network and before usher0 exist. The error wraps ErrGuard where it does not
// stand, or says what is wrong with the plan.
func Guard(ctx context.Context, p Plan) error {
	if err := errors.Join(ctx.Err(), p.Validate()); err != nil {
		return err
	}
	_, err := applyGuard(p.withDefaults())
	return err
}

// ReadGuard reads what the guard holds and what it refused.
func ReadGuard() (GuardStatus, error) {
	state, err := readGuard(DefaultTUN)
	if err != nil {
		return GuardStatus{}, err
	}
	return GuardStatus{
		Present: state.exists, Elements: len(state.ports) + len(state.ranges),
		RefusedOut: state.out, RefusedIn: state.in,
	}, nil
}

// Apply brings the plan about: the guard first, then address, MTU, state and
// settings of the tunnel's interface, then the routes. What stands already is
// left as it is. The error wraps ErrGuard where the guard does not stand,
// ErrNoTUN where only the guard does, since the interface is not there; what
// could be done is done even so.
func Apply(ctx context.Context, p Plan) error {
	if err := errors.Join(ctx.Err(), p.Validate()); err != nil {
		return err
	}
	return reconcile(p.withDefaults()).err
}

// Down removes routes, address and interface of the tunnel, and the guard at
// last. It works with the agent dead, and is nil when nothing is left to do. It
// does not touch an interface named tun that is no TUN (ErrNotTUN).
func Down(tun string) error {
	if tun == "" {
		tun = DefaultTUN
	}
	if err := checkName(tun); err != nil {
		return err
	}
	err := withHandle(func(h *netlink.Handle) error {
		links, err := dump(h.LinkList)
		if err != nil {
			return fmt.Errorf("host: list interfaces: %w", err)
		}
		for _, l := range links {
			if l.Attrs().Name != tun {
				continue
			}
			if l.Type() != tunType {
				return fmt.Errorf("%w: %s is of type %s", ErrNotTUN, tun, l.Type())
			}
			// Its address and routes go with it.
			if err := h.LinkDel(l); err != nil && !isGone(err) {
				return fmt.Errorf("host: remove %s: %w", tun, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return removeGuard()
}

// tunType is the kind of link that a TUN is for netlink.
const tunType = "tuntap"

// outcome is what a pass over the host found and did.
type outcome struct {
	choices  []Choice
	tun      TUNState
	done     []doing // what had to be put in place
	want     wanted
	problems []string
	err      error
}

// doing is one thing that was put in place.
type doing struct {
	part Part
	what string
}

// wanted is what the plan came to on this host; while it is the same, whatever
// has to be put in place was taken away by somebody else.
type wanted struct {
	mtu         int
	reversePath string
	routes      map[netip.Addr]netip.Addr
}

// reconcile makes the host what the plan wants, in the order that keeps
// cleartext in. A failure of one part does not keep the others from being done:
// each of them protects.
func reconcile(p Plan) outcome {
	var o outcome
	var errs []error
	changed, err := applyGuard(p)
	if changed {
		o.done = append(o.done, doing{PartGuard, "table inet " + tableName})
	}
	errs = append(errs, err)
	errs = append(errs, withHandle(func(h *netlink.Handle) error { return o.reconcileLinks(h, p) }))
	o.err = errors.Join(errs...)
	return o
}

func (o *outcome) reconcileLinks(h *netlink.Handle, p Plan) error {
	s, err := takeSnapshot(h)
	if err != nil {
		return err
	}
	o.choices = s.choices(p)
	var problems [3][]string
	o.want.mtu = wantedMTU(p, o.choices)
	o.want.reversePath, problems[0] = s.reversePath(p)
	o.want.routes, problems[1] = s.wantedRoutes(p)

	link := s.link(p.TUN)
	if link == nil {
		o.problems = append(problems[0], problems[1]...)
		return fmt.Errorf("%w: %s", ErrNoTUN, p.TUN)
	}
	if link.Type() != tunType {
		return fmt.Errorf("%w: %s is of type %s: remove it, or give the tunnel another name", ErrNotTUN, p.TUN, link.Type())
	}
	index := link.Attrs().Index
	o.tun = TUNState{Present: true, Index: index}

	// Settings come first: once up, the kernel would begin to speak IPv6.
	changed, cannot := applySettings(p.TUN, o.want.reversePath)
	if changed {
		o.done = append(o.done, doing{PartSetting, "settings of " + p.TUN})
	}
	parts, tunErr := s.applyTUN(h, p, link, o.want.mtu)
	for _, part := range parts {
		o.done = append(o.done, doing{part, string(part) + " of " + p.TUN})
	}
	added, routeErr := s.applyRoutes(h, p, index, o.want.routes)
	for _, group := range added {
		o.done = append(o.done, doing{PartRoute, "route to " + group})
	}
	problems[2] = append(cannot, strayGroups(h, p, index)...)
	for _, list := range problems {
		o.problems = append(o.problems, list...)
	}
	if now, err := h.LinkByIndex(index); err == nil {
		d := s.describe(now)
		o.tun = TUNState{Present: true, Index: index, Up: d.Up, MTU: d.MTU}
	}
	if isGone(tunErr) || isGone(routeErr) {
		// It vanished in the middle; the news of that is under way.
		o.tun = TUNState{}
		return fmt.Errorf("%w: %s", ErrNoTUN, p.TUN)
	}
	return errors.Join(tunErr, routeErr)
}
