package keyclient_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"usher/keyclient"
	"usher/keyclient/wire"
	"usher/sa"
)

func TestServerThatStandsUnderAnotherName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		h := newHost(t, f, receiverAddr)
		// The key role's second replica has a certificate for its own address only.
		f.network.mu.Lock()
		f.network.listeners["192.0.2.3:7440"] = f.network.listeners[ticketAddress]
		f.network.mu.Unlock()
		_, err := h.Login(t.Context(), keyclient.Login{Server: "https://192.0.2.3:7440", Name: "alice", Password: []byte("correct horse")})
		if !errors.Is(err, keyclient.ErrCA) || !strings.Contains(err.Error(), "192.0.2.3") || f.counted("login") != 0 {
			t.Errorf("%v", err)
		}
	})
}

// TestUnsupportedEventsAreProtected: what this version cannot encrypt must not
// leave in the clear either.
func TestUnsupportedEventsAreProtected(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		six, hub := netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("198.51.100.7")
		e := entry("all", time.Hour)
		e.Senders = append(e.Senders, six)
		e.Flows = []wire.Flow{
			{Protocol: "udp", Destination: netip.MustParseAddr("ff3e::1234"), Ports: "5004"},
			{Protocol: "tcp", Destination: hub, Ports: "80-90"},
			{Protocol: "quux", Destination: hub, Ports: "1"},
		}
		f.set(func() { f.groups["g1"] = []*wire.Entry{e} })
		h := newHost(t, f, receiverAddr)
		h.login()
		_, err := h.Join(t.Context(), []string{"all"}, nil)
		if !errors.Is(err, wire.ErrNotInThisVersion) || !strings.Contains(err.Error(), "IPv6") || !strings.Contains(err.Error(), "unicast") {
			t.Errorf("%v", err)
		}
		for name, tuple := range map[string]sa.Tuple{
			"IPv6":     {Source: six, Destination: e.Flows[0].Destination, Protocol: 17, DestinationPort: 5004, HasPorts: true},
			"TCP":      {Source: senderAddr, Destination: hub, Protocol: 6, DestinationPort: 85, HasPorts: true},
			"whatever": {Source: senderAddr, Destination: hub, Protocol: 99},
		} {
			if out := h.db.Snapshot().Outbound(tuple); out == nil || out.Action != sa.Protect || out.SA(1) != nil {
				t.Errorf("%s is not protected", name)
			}
		}
	})
}

// TestRestartedKeyServer: a cookie key that is gone is a NAK by HTTPS, which
// brings a new enrolment, not the end of the stream.
func TestRestartedKeyServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 0)
		live.Time.Duration = "PT1H"
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "live")
		pass(8 * time.Second)
		f.network.setDown(keyAddress, true)
		f.network.setDown(keyAddress2, true)
		pass(2 * time.Minute) // longer than any cookie lives
		if e := h.event("live"); e.State != keyclient.StateWaiting || e.Keys != 0 || !strings.Contains(e.Detail, "no usable answer") {
			t.Errorf("servers away: %+v", e)
		}
		f.network.setDown(keyAddress, false)
		f.network.setDown(keyAddress2, false)
		pass(90 * time.Second) // retries are up to a minute apart by now
		if e := h.event("live"); e.State != keyclient.StateKeyed || e.Current < 0 || f.counted("enrol") < 2 {
			t.Errorf("back: %+v, %d enrolments", e, f.counted("enrol"))
		}
	})
}

func TestCertificateIsRenewedInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		f.certLife = 2 * time.Hour
		h := newHost(t, f, receiverAddr)
		h.login()
		first := h.Status().NotAfter
		if at := h.Status().RenewAt; at.Before(time.Now().Add(time.Hour)) || at.After(time.Now().Add(100*time.Minute)) {
			t.Errorf("planned at %v, ends at %v", at, first)
		}
		f.network.setDown(ticketAddress, true)
		pass(100 * time.Minute)
		if s := h.Status(); s.LastError == "" || s.NotAfter != first {
			t.Errorf("%+v", s)
		}
		f.network.setDown(ticketAddress, false)
		pass(19 * time.Minute) // the longest pause between tries
		if s := h.Status(); !s.LoggedIn || !s.NotAfter.After(first) || f.counted("renew") != 1 || f.counted("login") != 1 {
			t.Errorf("%+v, %d renewals", s, f.counted("renew"))
		}
	})
}
