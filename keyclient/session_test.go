package keyclient_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/keyclient"
	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/sa"
	"usher/sa/esp"
)

func TestReceiverIsKeyedThroughAnOccurrence(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 20*time.Second)
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "live")
		pass(time.Second)
		e := h.event("live")
		if e.State != keyclient.StateWaiting || !e.Until.Equal(e.Next[0].Start.Add(-6*time.Second)) || !strings.Contains(e.Detail, "begins at") || f.counted("enrol") != 0 {
			t.Errorf("before the initial period: %+v", e)
		}
		start := e.Next[0].Start
		pass(time.Until(start))
		if e = h.event("live"); e.State != keyclient.StateKeyed || e.Current != 0 || f.counted("enrol") != 1 {
			t.Errorf("at the start: %+v", e)
		}
		// In the middle of each interval there is its key; what is held has the
		// right bytes, and no association stays longer than its grace.
		for i := range uint32(12) {
			pass(time.Until(start.Add(time.Duration(i)*5*time.Second + 2500*time.Millisecond)))
			held := h.sas()
			info, ok := held[i]
			if !ok || info.Direction != sa.Inbound || info.Transform != esp.Transform(derive.TransformAES256GCM) {
				t.Fatalf("interval %d: %+v", i, held)
			}
			if !bytes.Equal(info.Material.Reveal(), material(live, i)) {
				t.Errorf("interval %d: another key", i)
			}
			if got := h.db.Snapshot().Inbound(info.SPI, group); got == nil || !got.Accepts(h.clock.BootNS()) {
				t.Errorf("interval %d: does not accept", i)
			}
			if i > 0 {
				if _, ok := held[i-1]; ok {
					t.Errorf("interval %d: key of the one before is still there", i)
				}
			}
			if e := h.event("live"); e.State != keyclient.StateKeyed || e.Current != int64(i) {
				t.Errorf("interval %d: %+v", i, e)
			}
		}
		if n := f.counted("enrol"); n != 1 {
			t.Errorf("%d enrolments", n)
		}
		pass(10 * time.Second)
		if n := len(h.sas()); n != 0 {
			t.Errorf("%d associations after the end", n)
		}
		if e := h.event("live"); e.State != keyclient.StateEnded || !e.Joined {
			t.Errorf("after the end: %+v", e)
		}
		noSecrets(t, h, live)
	})
}

// noSecrets looks for traffic keys, interval keys and the password in all files
// and in the log.
func noSecrets(t *testing.T, h *host, e *wire.Entry) {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		all.Write(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	all.Write(h.log.Bytes())
	h.mu.Unlock()
	if all.Len() < 1000 {
		t.Fatalf("only %d bytes to look at", all.Len())
	}
	for i := range uint32(12) {
		if key := material(e, i); bytes.Contains(all.Bytes(), key[:16]) {
			t.Errorf("traffic key %d is on disk or in the log", i)
		}
	}
	if bytes.Contains(all.Bytes(), []byte("correct horse")) {
		t.Error("the password is on disk or in the log")
	}
}

func TestJoinOutlivesTheAgent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		daily := entry("daily", 10*time.Second)
		daily.Time.Rule = "FREQ=DAILY"
		f.set(func() { f.groups["g1"] = []*wire.Entry{daily} })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "daily")
		start := h.event("daily").Next[0].Start
		pass(time.Until(start) + 7*time.Second)
		if h.sas()[1].SPI == 0 {
			t.Fatalf("not keyed: %+v", h.event("daily"))
		}
		h.end()
		if n := len(h.sas()); n != 0 {
			t.Errorf("%d associations after the agent's end", n)
		}
		h.start()
		synctest.Wait()
		// Policies are there at once, out of the cache; the key comes by itself.
		if len(h.db.Snapshot().Policies()) == 0 {
			t.Error("no policies out of the cache")
		}
		pass(time.Second)
		if info := h.sas()[1]; !bytes.Equal(info.Material.Reveal(), material(daily, 1)) {
			t.Errorf("after the restart: %+v", h.event("daily"))
		}
		// And at the next occurrence, with nobody logged in: the machine was off
		// meanwhile, and the certificate is to be renewed first.
		h.end()
		pass(time.Until(start.Add(23 * time.Hour)))
		h.start()
		pass(time.Until(start.Add(24*time.Hour + 2500*time.Millisecond)))
		if e := h.event("daily"); e.State != keyclient.StateKeyed || e.Current != 0 {
			t.Errorf("at the next occurrence: %+v, %s", e, h.Status().LastError)
		}
		if f.counted("login") != 1 || f.counted("renew") == 0 {
			t.Errorf("%d logins, %d renewals", f.counted("login"), f.counted("renew"))
		}
	})
}

func TestSenderIsBoundToItsClock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 10*time.Second)
		f.set(func() {
			f.groups["g1"] = []*wire.Entry{live}
			f.sends = []derive.EventID{live.ID}
			f.clockOff = 3 * time.Second // the server's clock decides, not the host's
		})
		h := newHost(t, f, receiverAddr)
		h.login()
		_, err := h.Join(t.Context(), []string{"live"}, nil)
		if !errors.Is(err, keyclient.ErrNotOwnAddress) || !strings.Contains(err.Error(), senderAddr.String()) || !strings.Contains(err.Error(), "eth0") {
			t.Errorf("join without the sender's address: %v", err)
		}
		receive := wire.RoleReceive
		h.join(&receive, "live")
		if e := h.Joined(); len(e) != 1 || e[0].Role != wire.RoleReceive {
			t.Errorf("explicit receiver: %+v", e)
		}
		h.setOwn(receiverAddr, senderAddr)
		h.join(nil, "live")
		if e := h.Joined(); len(e) != 1 || e[0].Role != wire.RoleSend {
			t.Errorf("sender: %+v", e)
		}
		start := h.event("live").Next[0].Start.Add(-3 * time.Second) // by the host's clock
		for i := range uint32(6) {
			begins := start.Add(time.Duration(i) * 5 * time.Second)
			pass(time.Until(begins.Add(2500 * time.Millisecond)))
			info, ok := h.sas()[i]
			if !ok {
				t.Fatalf("interval %d: %+v", i, h.event("live"))
			}
			boot := h.clock.BootNS()
			from, until := time.Duration(info.SendFrom-boot), time.Duration(info.SendUntil-boot)
			if info.Direction != sa.Outbound || info.SenderID < 100 || from > -2450*time.Millisecond || from < -2550*time.Millisecond ||
				until > 2500*time.Millisecond || until < 2400*time.Millisecond {
				t.Errorf("interval %d: sends from %v to %v as %d", i, from, until, info.SenderID)
			}
			out := h.db.Snapshot().Outbound(sa.Tuple{Source: senderAddr, Destination: group, Protocol: 17, SourcePort: 1, DestinationPort: 5004, HasPorts: true})
			if out == nil || out.SA(boot) == nil {
				t.Errorf("interval %d: nothing sends", i)
			}
		}
	})
}

func TestSenderWhoStartsLateBeginsHighUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", time.Second)
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, senderAddr)
		h.login()
		if e := h.event("live"); e.Role != wire.RoleSend { // by its own address in the entry
			t.Errorf("role %v", e.Role)
		}
		start := h.event("live").Next[0].Start
		pass(time.Until(start) + 3*time.Second)
		h.join(nil, "live")
		pass(time.Second)
		boot := h.clock.BootNS()
		out := h.db.Snapshot().Outbound(sa.Tuple{Source: senderAddr, Destination: group, Protocol: 17, SourcePort: 1, DestinationPort: 5004, HasPorts: true})
		if out == nil || out.SA(boot) == nil {
			t.Fatalf("nothing sends: %+v", h.event("live"))
		}
		_, iv, ok := out.SA(boot).Next()
		// docs/keying.md §6: 100-ns units since Tᵢ, here at least 3 s of them.
		if counter := iv & (1<<48 - 1); !ok || counter < 3e7 || counter > 5e7 {
			t.Errorf("first counter %d", counter)
		}
	})
}

func TestSuspendedGoesDarkAtTheEndOfWhatItHolds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 10*time.Second)
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "live")
		start := h.event("live").Next[0].Start
		pass(time.Until(start) + 12*time.Second)
		f.set(func() { f.suspended = true })
		last := uint32(0)
		for i := range h.sas() {
			last = max(last, i)
		}
		end := start.Add(time.Duration(last+1) * 5 * time.Second)
		pass(time.Until(end) - time.Millisecond)
		if _, ok := h.sas()[last]; !ok {
			t.Error("dark before the end of what it holds")
		}
		pass(2500 * time.Millisecond) // and the grace
		if n := len(h.sas()); n != 0 {
			t.Errorf("%d associations afterwards", n)
		}
		if e := h.event("live"); e.State != keyclient.StateWithheld || !strings.Contains(e.Detail, "withholds") {
			t.Errorf("%+v", e)
		}
		if f.counted("enrol") != 1 {
			t.Errorf("%d enrolments", f.counted("enrol"))
		}
		// A lifted suspension needs no login.
		f.set(func() { f.suspended = false })
		pass(8 * time.Second)
		if e := h.event("live"); e.State != keyclient.StateKeyed {
			t.Errorf("restored: %+v", e)
		}
	})
}

func TestServersAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 10*time.Second)
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "live")
		start := h.event("live").Next[0].Start
		away := func(is bool) {
			for _, a := range []string{ticketAddress, keyAddress, keyAddress2} {
				f.network.setDown(a, is)
			}
		}
		// Both roles away for 1.5 s in the middle of each interval: no key is missed.
		for i := range uint32(8) {
			pass(time.Until(start.Add(time.Duration(i)*5*time.Second + 1500*time.Millisecond)))
			away(true)
			pass(1500 * time.Millisecond)
			away(false)
			synctest.Wait()
			if _, ok := h.sas()[i]; !ok {
				t.Errorf("interval %d: no key: %+v", i, h.event("live"))
			}
		}
		// One of two key servers away: the other one answers.
		f.network.setDown(keyAddress, true)
		pass(time.Until(start.Add(52 * time.Second)))
		if _, ok := h.sas()[10]; !ok {
			t.Errorf("with one server: %+v", h.event("live"))
		}
		if n := f.counted("enrol"); n != 1 {
			t.Errorf("%d enrolments", n)
		}
	})
}

func TestRefusedEnrolment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 2*time.Second)
		f.set(func() {
			f.groups["g1"] = []*wire.Entry{live}
			f.enrolStatus = 403
		})
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "live")
		pass(4 * time.Second)
		if e := h.event("live"); e.State != keyclient.StateRefused || !strings.Contains(e.Detail, "refuses") {
			t.Errorf("%+v", e)
		}
		f.set(func() { f.enrolStatus = 0 })
		pass(12 * time.Second)
		if e := h.event("live"); e.State != keyclient.StateKeyed {
			t.Errorf("let in later: %+v", e)
		}
	})
}

func TestGrantThatIsNotForTheTicket(t *testing.T) {
	for name, change := range map[string]func(*wire.Grant){
		"another group":  func(g *wire.Grant) { g.Selector.Flows[0].Destination = netip.MustParseAddr("232.9.9.9") },
		"another sender": func(g *wire.Grant) { g.Selector.Senders = []netip.Addr{receiverAddr} },
		"another start":  func(g *wire.Grant) { g.Schedule.StartS++ },
		"other margin":   func(g *wire.Grant) { g.Schedule.MarginMS++ },
		"push": func(g *wire.Grant) {
			g.Push = &wire.Push{Group: group, Sources: []netip.Addr{senderAddr}, Key: make([]byte, 32)}
		},
		"GMAC":        func(g *wire.Grant) { g.Transform = derive.TransformAESGMAC },
		"NULL":        func(g *wire.Grant) { g.Transform = derive.TransformNULL },
		"another tag": func(g *wire.Grant) { g.Tag[0] ^= 1 },
		"no body":     func(g *wire.Grant) { g.Body = nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFakeServer(t)
				live := entry("live", 2*time.Second)
				f.set(func() {
					f.groups["g1"] = []*wire.Entry{live}
					f.changeGrant = func(g *wire.Grant) {
						g.Selector.Flows = append([]wire.Flow(nil), g.Selector.Flows...)
						change(g)
					}
				})
				h := newHost(t, f, receiverAddr)
				h.login()
				h.join(nil, "live")
				pass(5 * time.Second)
				if e := h.event("live"); e.Keys != 0 || len(h.sas()) != 0 || e.Detail == "" || f.counted("enrol") == 0 {
					t.Errorf("%+v", e)
				}
			})
		})
	}
}

func TestLeaveWipesAndKeepsThePolicies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		one, two := entry("one", 0), entry("two", 0)
		two.Flows[0].Destination = netip.MustParseAddr("232.1.2.4")
		f.set(func() { f.groups["g1"] = []*wire.Entry{one, two} })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "one", "two")
		pass(4 * time.Second)
		// Two events at once, each under its own key.
		if a, b := h.event("one"), h.event("two"); a.State != keyclient.StateKeyed || b.State != keyclient.StateKeyed {
			t.Errorf("%+v %+v", a, b)
		}
		if ids, err := h.Leave(t.Context(), []string{"one"}); err != nil || len(ids) != 1 || ids[0] != one.ID {
			t.Errorf("%v %v", ids, err)
		}
		for _, s := range h.db.Snapshot().SAs() {
			if s.Association == one.ID.String() {
				t.Errorf("%v is left", s)
			}
		}
		if len(h.db.Snapshot().Policies()) != 2 || len(h.Joined()) != 1 {
			t.Error("policies or the other join are gone")
		}
		if _, err := h.Leave(t.Context(), []string{"nothing"}); !errors.Is(err, keyclient.ErrNoSuchEvent) {
			t.Errorf("%v", err)
		}
	})
}

func TestNewerTicketByEdition(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFakeServer(t)
		live := entry("live", 0)
		live.Time.Duration = "PT1H"
		f.set(func() { f.groups["g1"] = []*wire.Entry{live} })
		h := newHost(t, f, receiverAddr)
		h.login()
		h.join(nil, "live")
		pass(8 * time.Second)
		renamed := *live
		renamed.Title, renamed.Edition = "renamed", 2
		before := f.counted("tickets")
		f.set(func() { f.groups["g1"], f.edition = []*wire.Entry{&renamed}, 2 })
		pass(20 * time.Second)
		if f.counted("tickets") == before || h.event("renamed").State != keyclient.StateKeyed {
			t.Errorf("%d fetches, %+v", f.counted("tickets")-before, h.Events())
		}
		if n := f.counted("enrol"); n != 1 {
			t.Errorf("%d enrolments after a change of words", n)
		}
		moved := renamed
		moved.TTL, moved.Edition = 32, 3
		f.set(func() { f.groups["g1"], f.edition = []*wire.Entry{&moved}, 3 })
		pass(90 * time.Second)
		if n := f.counted("enrol"); n != 2 {
			t.Errorf("%d enrolments after a change of settings", n)
		}
	})
}
