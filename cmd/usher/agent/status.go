package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"usher/cmd/usher/agent/config"
	"usher/cmd/usher/control"
	"usher/keyclient"
	"usher/keyclient/wire"
	"usher/tunnel"
	"usher/tunnel/host"
	"usher/tunnel/underlay"
)

// Version is the version of this program: of the module where it was built from
// a release, else the commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

// Status implements control.Backend.
func (a *Agent) Status(context.Context) (*control.Status, error) {
	hs, ks := a.machine.Status(), a.keys.Status()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &control.Status{
		Version: Version(), PID: os.Getpid(), State: a.state, Started: a.started.UTC(),
		Problems: append([]control.Problem{}, a.problems...), // never nil: a list in JSON
		Config:   control.ConfigStatus{Path: a.opts.Config, Loaded: a.loaded.UTC()},
		Interface: control.InterfaceStatus{
			TUN: config.TUN, MTU: hs.TUN.MTU, Port: a.config.Port,
		},
		Clock:   control.ClockStatus{Source: a.config.Clock, Known: ks.ClockKnown, OffsetMS: ks.ClockOffset.Milliseconds(), ErrorMS: ks.ClockError.Milliseconds()},
		Events:  []control.Event{},
		Drops:   []control.Drop{},
		Offload: a.config.Offload,
		Guard:   guardStatus(hs),
	}
	s.Problems = append(s.Problems, a.unapplied(ks.Server)...)
	if a.failed != nil {
		s.Config.Failed, s.Config.Error = a.failed.Failed, a.failed.Error
		s.Problems = append(s.Problems, control.Problem{Code: "config", Text: "the configuration was refused: " + a.failed.Error, Todo: "usher config check " + a.opts.Config + ", then sudo usher up"})
	}
	realInterface(&s.Interface, a.choices)
	if url := orElse(ks.Server, a.config.Server); url != "" {
		s.Server = &control.ServerStatus{URL: url, LoggedIn: ks.LoggedIn, Client: ks.Subject, Contact: instant(ks.LastContact), Error: plainText(ks.LastError)}
	}
	if ks.Subject != "" {
		s.Certificate = &control.CertificateStatus{Subject: ks.Subject, NotAfter: ks.NotAfter.UTC()}
	}
	for i := range ks.Events {
		s.Events = append(s.Events, a.event(&ks.Events[i]))
	}
	drops := map[string]uint64{}
	s.Traffic = a.traffic
	for r, n := range a.past {
		drops[r] += n
	}
	if a.path != nil {
		addCounts(a.path, &s.Traffic, drops)
		s.Offload = a.offload(s)
	}
	for _, r := range tunnel.Reasons() {
		if n := drops[r.String()]; n > 0 {
			s.Drops = append(s.Drops, control.Drop{Reason: r.String(), Packets: n, Todo: r.Doc()})
		}
	}
	return s, nil
}

// unapplied are changes of the configuration that wait for something. mu is held.
func (a *Agent) unapplied(server string) []control.Problem {
	var problems []control.Problem
	say := func(key, todo string) {
		problems = append(problems, control.Problem{Code: "config", Text: key + " changed in " + a.opts.Config + ", and is not in force yet", Todo: todo})
	}
	c := a.config
	if c.Server != "" && server != "" && c.Server != server {
		say("server", "sudo usher login")
	}
	const restart = "restart the agent: programs lose no more than packets meanwhile"
	if c.ShowKeys && !a.first.ShowKeys {
		say("show_keys", restart)
	}
	if c.Paths != a.first.Paths {
		say("[paths]", restart)
	}
	return problems
}

// offload says how batches leave, and counts what the socket lost. mu is held.
func (a *Agent) offload(s *control.Status) string {
	counting, ok := a.path.conn.(interface{ Stats() underlay.Stats })
	if !ok {
		return a.config.Offload
	}
	st := counting.Stats()
	if st.ReceiveOverflow > 0 {
		s.Drops = append(s.Drops, control.Drop{Reason: "socket_overflow", Packets: st.ReceiveOverflow,
			Todo: "came faster than this host takes them: it is overloaded, or somebody floods the port"})
	}
	if st.SegmentationOff {
		return a.config.Offload + ", but the driver cannot segment: packets leave one by one"
	}
	return a.config.Offload
}

// addCounts adds a path's counters to sums.
func addCounts(p *path, sum *control.Traffic, drops map[string]uint64) {
	t := p.tunnel.Counters().Snapshot()
	sum.OutPackets += t.Out.Packets
	sum.OutBytes += t.Out.Bytes
	sum.InPackets += t.In.Packets
	sum.InBytes += t.In.Bytes
	for _, d := range []map[string]uint64{t.Out.Drops, t.In.Drops} {
		for reason, n := range d {
			drops[reason] += n
		}
	}
}

func guardStatus(hs host.Status) control.GuardStatus {
	g := control.GuardStatus{
		Active: hs.Guard.Present, RefusedOut: hs.Guard.RefusedOut.Packets, RefusedIn: hs.Guard.RefusedIn.Packets,
		Todo: strings.Join(hs.Guard.Advice(), " "),
	}
	for _, n := range hs.Restored {
		g.Restored += n
	}
	return g
}

// realInterface tells of the interface in use and why it is that one.
func realInterface(s *control.InterfaceStatus, choices []host.Choice) {
	c := pick(choices, nil)
	if c == nil {
		for _, bad := range choices {
			s.Why = plain(bad.Err)
		}
		return
	}
	s.Real, s.RealIndex, s.Why = c.Interface.Name, c.Interface.Index, c.Why
	for _, p := range c.Interface.Addrs {
		s.Addresses = append(s.Addresses, p.String())
	}
	var others []string
	for _, o := range choices {
		if o.Err == nil && o.Interface.Name != s.Real && !slices.Contains(others, o.Interface.Name) {
			others = append(others, o.Interface.Name)
		}
	}
	if len(others) > 0 {
		s.Why += "; other groups use " + strings.Join(others, ", ")
	}
}

// Events implements control.Backend.
func (a *Agent) Events(ctx context.Context) (*control.Events, error) {
	if err := a.hasTickets(); err != nil {
		return nil, err
	}
	a.freshen(ctx)
	out := &control.Events{Events: []control.Event{}}
	for _, e := range a.keys.Events() {
		out.Events = append(out.Events, a.event(&e))
	}
	return out, nil
}

const (
	// freshFor is how long tickets count as fresh to who looks at the events.
	freshFor = 3 * time.Second
	// freshenWait bounds how long a look waits for the ticket server; what the
	// cache has is shown if it takes longer.
	freshenWait = 2 * time.Second
)

// freshen asks the ticket server whether there is something new, so that an event
// that was added this minute is seen now. The request is conditional and costs
// little; programs that look often do not make the agent ask as often.
func (a *Agent) freshen(ctx context.Context) {
	now := a.clock.Boot()
	a.mu.Lock()
	fresh := a.freshened != 0 && now-a.freshened < freshFor
	if !fresh {
		a.freshened = now
	}
	a.mu.Unlock()
	if fresh || !a.keys.Status().LoggedIn {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, freshenWait)
	defer cancel()
	// What fails is kept for status; the events of the cache are shown.
	if a.keys.FetchTickets(ctx) == nil {
		_ = a.settle(ctx) // fails with ctx alone
	}
}

// event is an event as the commands show it.
func (a *Agent) event(e *keyclient.Event) control.Event {
	v := control.Event{
		ID: e.ID.String(), Title: e.Title, Role: roleName(e.Role), Joined: e.Joined, Program: e.Followed,
		State: string(e.State), Detail: plainText(e.Detail), Until: instant(e.Until), Groups: e.Groups, Keys: e.Keys,
		Senders: []string{}, Flows: []control.Flow{}, KeyServers: e.KeyServers,
	}
	if !e.Joined && !e.Followed {
		v.State = string(control.JoinNotJoined)
	}
	if len(e.Next) > 0 {
		v.Start, v.End = instant(e.Next[0].Start), instant(e.Next[0].End)
	}
	for _, s := range e.Senders {
		v.Senders = append(v.Senders, s.String())
	}
	for _, f := range e.Flows {
		v.Flows = append(v.Flows, control.Flow{
			Protocol: f.Protocol, Destination: f.Destination.String(), Ports: ports(f.FirstPort, f.LastPort),
			URLs: urls(e.Role, e.Senders, f),
		})
	}
	if e.Current >= 0 && e.Keys > 0 {
		v.Interval = new(uint32(e.Current))
	}
	if e.Refused != nil {
		v.Refused = plain(e.Refused)
	}
	return v
}

// urls are what one types into a player, or an encoder.
func urls(role wire.Role, senders []netip.Addr, f keyclient.Flow) []string {
	where := fmt.Sprintf("%s:%d", f.Destination, f.FirstPort)
	if role == wire.RoleSend {
		return []string{"udp://" + where + "?pkt_size=1316"}
	}
	var out []string
	for _, s := range senders {
		out = append(out, fmt.Sprintf("udp://%s?sources=%s", where, s), fmt.Sprintf("udp://%s@%s", s, where))
	}
	if len(out) == 0 {
		out = append(out, "udp://@"+where)
	}
	return out
}

func roleName(r wire.Role) string {
	if r == wire.RoleSend {
		return "send"
	}
	return "receive"
}

func ports(first, last uint16) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
