package agent

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"usher/cmd/usher/control"
	"usher/sa"
)

// SAs implements control.Backend. Times are by the key server's clock where it
// is known, by which keys change, else by the host's.
func (a *Agent) SAs(_ context.Context, showKeys bool) (*control.SAs, error) {
	c := a.current()
	if showKeys && !c.ShowKeys {
		return nil, control.Errorf(control.CodeForbidden, "keys are not shown: show_keys = true is not in %s", c.File()).
			WithHint("it is for tests and fault finding: set it there, and restart the agent")
	}
	titles := a.titles()
	boot, wall := a.bootNS(), a.clock.Wall()
	if s := a.keys.Status(); s.ClockKnown {
		wall = wall.Add(s.ClockOffset)
	}
	out := &control.SAs{SAs: []control.SA{}}
	for _, i := range a.db.Snapshot().SAs() {
		v := control.SA{
			Association: i.Association, Title: titles[i.Association], Origin: "ticket", SPI: fmt.Sprintf("0x%08x", i.SPI),
			Direction: directionName(i.Direction), Transform: i.Transform.String(), Replay: i.Replay.String(),
			SenderID: i.SenderID, Interval: i.Interval,
			Initiation: wallOf(i.Initiation, boot, wall), SendFrom: wallOf(i.SendFrom, boot, wall),
			SendUntil: wallOf(i.SendUntil, boot, wall), AcceptUntil: wallOf(i.AcceptUntil, boot, wall),
			OutPackets: i.PacketsOut, OutBytes: i.BytesOut, InPackets: i.PacketsIn, InBytes: i.BytesIn,
			BadICV: i.BadICV, ReplayDrops: i.ReplaySeen + i.ReplayOld + i.ReplayJump,
		}
		for _, d := range i.Destinations {
			v.Destinations = append(v.Destinations, d.String())
		}
		if i.Source.IsValid() {
			v.Source = i.Source.String()
		}
		if name, ok := manualName(i.Association); ok {
			v.Association, v.Title, v.Origin = name, name, "manual"
		}
		if showKeys {
			key := i.Material.Reveal()
			v.Key = hex.EncodeToString(key)
			clear(key)
		}
		out.SAs = append(out.SAs, v)
	}
	return out, nil
}

// titles are the events' titles by association.
func (a *Agent) titles() map[string]string {
	out := map[string]string{}
	for _, e := range a.keys.Entries() {
		out[e.ID.String()] = e.Title
	}
	return out
}

func directionName(d sa.Direction) string {
	switch d {
	case sa.Outbound:
		return "send"
	case sa.Inbound:
		return "receive"
	}
	return "both"
}

// Policies implements control.Backend.
func (a *Agent) Policies(context.Context) (*control.Policies, error) {
	out := &control.Policies{Policies: []control.Policy{}}
	for _, p := range a.db.Snapshot().Policies() {
		name, manual := manualName(p.Association)
		if !manual {
			name = p.Association
		}
		out.Policies = append(out.Policies, control.Policy{
			Name: p.Name, Title: p.Title, Origin: p.Origin.String(), Source: prefix(p.Source), Destination: prefix(p.Destination),
			Protocol: protocol(p.Protocol), SourcePorts: p.SourcePorts.String(), DestinationPorts: p.DestinationPorts.String(),
			Direction: p.Direction.String(), Action: p.Action.String(), Association: name,
			Associations: p.Associations,
		})
	}
	return out, nil
}

func prefix(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "any"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

func protocol(p uint8) string {
	switch p {
	case 0:
		return "any"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_TCP:
		return "tcp"
	}
	return fmt.Sprint(p)
}
