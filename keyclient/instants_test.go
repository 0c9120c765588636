package keyclient_test

import (
	"bytes"
	"testing"
	"time"

	"usher/keyclient"
	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/sa"
	"usher/sa/esp"
)

// TestFirstRequests: clients that are all up ask for their first key within the
// initial period and nowhere else, each at an instant that it drew itself; what
// they ask names the event, and comes with their certificate and their ticket.
func TestFirstRequests(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const clients, bins = 90, 6
		f := newFakeServer(t)
		live := entry("live", 20*time.Second)
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		hosts := make([]*host, clients)
		for i := range hosts {
			hosts[i] = newHost(t, f, receiverAddr)
			hosts[i].login()
			hosts[i].join(nil, "live")
		}
		occurrence := hosts[0].event("live").Next[0]
		begins, last := occurrence.Start.Add(-6*time.Second), occurrence.Start.Add(-1250*time.Millisecond)
		pass(time.Until(occurrence.Start))

		asked := f.enrolments()
		if len(asked) != clients {
			t.Fatalf("%d requests of %d clients", len(asked), clients)
		}
		nonces := map[[16]byte]bool{}
		var histogram [bins]int
		for _, a := range asked {
			if a.at.Before(begins) || !a.at.Before(last) {
				t.Errorf("a request at %v, the period is %v to %v, less the margin", a.at, begins, occurrence.Start)
				continue
			}
			histogram[int(a.at.Sub(begins)*bins/last.Sub(begins))]++
			if a.request.Event != live.ID || a.request.StartS != occurrence.Start.Unix() || a.request.Role != wire.RoleReceive {
				t.Errorf("it asks for event %v at %d as %v", a.request.Event, a.request.StartS, a.request.Role)
			}
			if a.subject != "client 7" || !bytes.Equal(a.request.Entry, live.Encode()) || a.request.Certificate == "" {
				t.Errorf("it shows the certificate of %q, the entry %s and the ticket's certificate %q", a.subject, a.request.Entry, a.request.Certificate)
			}
			nonces[a.request.Nonce] = true
		}
		if len(nonces) != clients {
			t.Errorf("%d nonces of %d clients", len(nonces), clients)
		}
		// χ² with 5 degrees of freedom: more than 45 comes once in 10⁸ times.
		chi, expected := 0.0, float64(clients)/bins
		for _, n := range histogram {
			chi += (float64(n) - expected) * (float64(n) - expected) / expected
		}
		if chi > 45 {
			t.Errorf("the instants are not flat: %v", histogram)
		}
		for _, h := range hosts {
			if e := h.event("live"); e.State != keyclient.StateKeyed {
				t.Fatalf("at the start: %+v", e)
			}
		}
	})
}

// TestLifeCountsFromInitiation: whenever a host was given a key, before its
// interval or near its end, the key ends at one instant everywhere. And a key
// opens packets from the moment it is there, before its interval begins.
func TestLifeCountsFromInitiation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 10*time.Second)
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		early, late := newHost(t, f, receiverAddr), newHost(t, f, receiverAddr)
		early.login()
		late.login()
		early.join(nil, "live")
		third := early.event("live").Next[0].Start.Add(15 * time.Second) // interval 3
		pass(time.Until(third) - 10*time.Millisecond)
		next, ok := early.sas()[3]
		if !ok {
			t.Fatalf("the next key is not there before its interval: %+v", early.event("live"))
		}
		if err := opens(t, early, next); err != nil {
			t.Errorf("a packet under the next key, just before the change: %v", err)
		}
		pass(time.Until(third) + 4*time.Second)
		late.join(nil, "live")
		pass(500 * time.Millisecond)
		var left [2]time.Duration
		for i, h := range []*host{early, late} {
			info, ok := h.sas()[3]
			if !ok {
				t.Fatalf("host %d has no key of interval 3: %+v", i, h.event("live"))
			}
			left[i] = time.Duration(info.AcceptUntil - h.clock.BootNS())
		}
		end := time.Until(third) + 5*time.Second + 2*time.Second // with the grace
		for i, d := range left {
			if off := d - end; off < -5*time.Millisecond || off > 5*time.Millisecond {
				t.Errorf("host %d accepts for %v more, want %v", i, d, end)
			}
		}
	})
}

// opens takes a packet that a sender sealed under an association's key through a
// host's database, now.
func opens(t *testing.T, h *host, info sa.SAInfo) error {
	t.Helper()
	sender, err := sa.NewSA(sa.Params{Association: info.Association, SPI: info.SPI, Destinations: info.Destinations, Direction: sa.Outbound,
		Transform: esp.Transform(derive.TransformAES256GCM), Material: info.Material.Reveal(), SenderID: 9})
	if err != nil {
		t.Fatal(err)
	}
	seq, iv, ok := sender.Next()
	if !ok {
		t.Fatal("no number")
	}
	packet := sender.Seal(make([]byte, 256), 40, seq, iv, esp.NextIPv4)
	_, _, err = h.db.Snapshot().Inbound(info.SPI, group).Open(packet, h.clock.BootNS())
	return err
}

// TestSenderAnHourOff: a host whose own clock is wrong by an hour, or stands at
// 1970, logs in, and sends under the key that the server's clock says. Its clock
// may jump while the event runs, and new connections are made.
func TestSenderAnHourOff(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour, "1970": -10957 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFakeServer(t)
				live := entry("live", 10*time.Second)
				f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
				h := newHostOff(t, f, off, senderAddr)
				h.login()
				h.join(nil, "live")
				start := h.event("live").Next[0].Start
				for i := range uint32(6) {
					pass(time.Until(start.Add(time.Duration(i)*5*time.Second + 2500*time.Millisecond)))
					if i == 2 {
						h.jump(2000 * time.Hour) // longer than the servers' certificates live
						for _, cut := range []bool{true, false} {
							f.network.setDown(keyAddress, cut)
							f.network.setDown(keyAddress2, cut)
						}
					}
					boot := h.clock.BootNS()
					out := h.db.Snapshot().Outbound(sa.Tuple{Source: senderAddr, Destination: group, Protocol: 17, SourcePort: 1, DestinationPort: 5004, HasPorts: true})
					if out == nil || out.SA(boot) == nil {
						t.Fatalf("interval %d: nothing sends: %+v", i, h.event("live"))
					}
					if info := out.SA(boot).Info(); info.Interval != i || !bytes.Equal(info.Material.Reveal(), material(live, i)) {
						t.Errorf("in interval %d it sends under the key of %d", i, info.Interval)
					}
				}
			})
		})
	}
}
