package keyclient_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/keyclient"
	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/sa"
)

// follows makes an event that outlasts the test, and a host that follows it.
func follows(t *testing.T) (*fakeServer, *host, *wire.Entry) {
	t.Helper()
	f := newFakeServer(t)
	live := entry("live", 0)
	live.Time.Duration = "PT1H"
	f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
	h := newHost(t, f, receiverAddr)
	h.login()
	h.Follow([]derive.EventID{live.ID})
	pass(4 * time.Second)
	return f, h, live
}

// remembered is what joined.json names.
func (h *host) remembered() string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, "joined.json"))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return string(b)
}

func TestFollowedIsKeyedAndNotRemembered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f, h, live := follows(t)
		e := h.event("live")
		if !e.Followed || e.Joined || e.State != keyclient.StateKeyed || e.Role != wire.RoleReceive || len(h.Joined()) != 1 {
			t.Errorf("followed: %+v", e)
		}
		h.Follow([]derive.EventID{live.ID, {1, 2, 3}}) // the same, and one of no ticket
		pass(time.Second)
		if n := f.counted("enrol"); n != 1 || len(h.Joined()) != 1 {
			t.Errorf("%d enrolments, joined %v", n, h.Joined())
		}
		if strings.Contains(h.remembered(), live.ID.String()) {
			t.Errorf("remembered: %s", h.remembered())
		}
		h.end()
		h.start()
		if e := h.event("live"); e.Followed || e.Joined {
			t.Errorf("after a restart: %+v", e)
		}
		h.Follow([]derive.EventID{live.ID})
		pass(4 * time.Second)
		h.Follow(nil)
		pass(time.Second)
		if e := h.event("live"); e.Followed || e.Joined || e.State != keyclient.StateNotJoined || len(h.sas()) != 0 {
			t.Errorf("no longer followed: %+v, %v", e, h.sas())
		}
		if len(h.db.Snapshot().Policies()) != 1 {
			t.Error("the policy is gone")
		}
	})
}

// TestFollowAndJoin: neither ends the other, and no key is lost on the way.
func TestFollowAndJoin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f, h, live := follows(t)
		h.join(nil, "live")
		pass(time.Second)
		if e := h.event("live"); !e.Followed || !e.Joined || e.State != keyclient.StateKeyed || !strings.Contains(h.remembered(), live.ID.String()) {
			t.Errorf("both: %+v, remembered %s", e, h.remembered())
		}
		if _, err := h.Leave(t.Context(), []string{"live"}); err != nil {
			t.Error(err)
		}
		if e := h.event("live"); !e.Followed || e.Joined || e.State != keyclient.StateKeyed || len(h.sas()) == 0 || strings.Contains(h.remembered(), live.ID.String()) {
			t.Errorf("left, and followed: %+v, remembered %s", e, h.remembered())
		}
		h.join(nil, "live")
		h.Follow(nil)
		pass(time.Second)
		if e := h.event("live"); e.Followed || !e.Joined || e.State != keyclient.StateKeyed {
			t.Errorf("joined, and no longer followed: %+v", e)
		}
		if n := f.counted("enrol"); n != 1 {
			t.Errorf("%d enrolments", n)
		}
		if _, err := h.Leave(t.Context(), []string{"live"}); err != nil || len(h.sas()) != 0 || len(h.Joined()) != 0 {
			t.Errorf("left: %v, %v", err, h.Joined())
		}
	})
}

// TestFollowDoesNotSend: a program that receives makes no sender of a host, be it
// one that the server lists, or whose address the event names; and one that sends
// receives again when its join ends.
func TestFollowDoesNotSend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, h, _ := follows(t)
		h.setOwn(senderAddr)
		pass(time.Second)
		if e := h.event("live"); e.Role != wire.RoleReceive || e.State != keyclient.StateKeyed {
			t.Errorf("at a sender's: %+v", e)
		}
		h.join(nil, "live")
		pass(4 * time.Second)
		if e := h.event("live"); e.Role != wire.RoleSend || !e.Joined || !e.Followed || h.sas()[0].Direction == sa.Inbound {
			t.Errorf("joined to send: %+v", e)
		}
		if _, err := h.Leave(t.Context(), []string{"live"}); err != nil {
			t.Error(err)
		}
		pass(4 * time.Second)
		e := h.event("live")
		if e.Role != wire.RoleReceive || e.Joined || !e.Followed || e.State != keyclient.StateKeyed {
			t.Errorf("left: %+v", e)
		}
		for _, s := range h.sas() {
			if s.Direction != sa.Inbound {
				t.Errorf("left, and holds %v", s)
			}
		}
	})
}

// TestFollowThenJoin: a join in the middle of a program's first request asks no
// second time; one of what a program waits for in vain asks at once.
func TestFollowThenJoin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 0)
		live.Time.Duration = "PT1H"
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.Follow([]derive.EventID{live.ID})
		h.join(nil, "live")
		pass(4 * time.Second)
		if n := f.counted("enrol"); n != 1 {
			t.Errorf("%d enrolments", n)
		}

		f.set(func() { f.enrolStatus = 403 })
		h.end()
		h.start()
		if _, err := h.Leave(t.Context(), []string{"live"}); err != nil {
			t.Error(err)
		}
		h.Follow([]derive.EventID{live.ID})
		pass(20 * time.Second)
		if e := h.event("live"); e.Keys > 0 || !e.Followed {
			t.Errorf("refused: %+v", e)
		}
		before := len(f.enrolments())
		h.join(nil, "live")
		pass(time.Second)
		if n := len(f.enrolments()); n != before+1 {
			t.Errorf("a join made %d enrolments, want one more than %d", n, before)
		}
	})
}

// TestFollowRefused: what cannot be joined is not followed either.
func TestFollowRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		odd := entry("odd", 0)
		odd.Flows[0].Ports = "4499-4501" // the port of ESP is in it
		f.set(func() { f.groups["g1"] = []*wire.Entry{odd} })
		h := newHost(t, f, receiverAddr)
		h.login()
		if h.event("odd").Refused == nil {
			t.Fatal("it can be joined")
		}
		h.Follow([]derive.EventID{odd.ID})
		pass(4 * time.Second)
		if e := h.event("odd"); e.Followed || len(h.Joined()) != 0 || f.counted("enrol") != 0 {
			t.Errorf("%+v", e)
		}
	})
}
