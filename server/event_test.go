package server_test

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/server"
	"usher/server/group"
	"usher/server/store"
	"usher/server/store/sqlite"
)

var evening = time.Date(2026, 11, 25, 19, 0, 0, 0, time.UTC)

// openStore is a store with the groups root -> news -> foreign and a client in each.
func openStore(t *testing.T) store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "usher.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	update(t, s, func(tx store.Tx) error {
		above := ""
		for _, name := range []string{"root", "news", "foreign"} {
			g, err := tx.AddGroup(t.Context(), name)
			if err != nil {
				return err
			}
			if above != "" {
				if err := group.Link(t.Context(), tx, above, name); err != nil {
					return err
				}
			}
			if _, err := tx.AddClient(t.Context(), "client of "+name, "", []uint32{g.Number}); err != nil {
				return err
			}
			above = name
		}
		return nil
	})
	return s
}

func update(t *testing.T, s store.Store, f func(store.Tx) error) {
	t.Helper()
	if _, err := s.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// spec is a good one.
func spec() server.EventSpec {
	s := server.DefaultEventSpec()
	s.Title, s.Group, s.KeyServers = "Evening News", "news", []string{"https://10.0.0.1:7441"}
	s.Senders = []netip.Addr{netip.MustParseAddr("192.0.2.10")}
	s.Flows = []store.Flow{{Protocol: "udp", Destination: netip.MustParseAddr("232.1.2.3"), FirstPort: 5004, LastPort: 5004}}
	s.Time = store.TimeExpression{Start: "20261125T200000", Zone: "Europe/Berlin", Duration: "PT30M", Rule: "FREQ=DAILY"}
	return s
}

func add(t *testing.T, s store.Store, spec server.EventSpec) (e store.Event, err error) {
	t.Helper()
	_, err = s.Update(t.Context(), func(tx store.Tx) (err error) {
		e, err = server.AddEvent(t.Context(), tx, spec, evening)
		return err
	})
	return e, err
}

func TestAddEvent(t *testing.T) {
	s := openStore(t)
	e, err := add(t, s, spec())
	if err != nil {
		t.Fatal(err)
	}
	if e.FirstMS != 10_000 || e.IntervalMS != 10_000 || e.WindowMS != 10_000 || e.InitialMS != 300_000 || e.GatherUS != 200 || e.Ahead != 1 ||
		e.Transform != derive.TransformAES256GCM || e.Spread != "fixed" || e.Revocation != "withhold" || e.Edition != 1 || e.Created.IsZero() {
		t.Errorf("defaults: %+v", e)
	}
	runs, err := server.Next(e, evening, 2)
	if err != nil || len(runs) != 2 || !runs[0].Start.Equal(evening) || !runs[1].Start.Equal(evening.Add(24*time.Hour)) {
		t.Errorf("occurrences %v, %v", runs, err)
	}
}

func TestAddEventRefused(t *testing.T) {
	s := openStore(t)
	flow := func(text string) []store.Flow {
		f, err := server.ParseFlow(text)
		if err != nil {
			t.Fatal(err)
		}
		return []store.Flow{f}
	}
	bad, later := server.ErrEvent, server.ErrNotInThisVersion
	for _, tt := range []struct {
		name   string
		change func(s *server.EventSpec)
		want   error
		word   string
	}{
		{"preview", func(s *server.EventSpec) { s.Preview = 1 }, later, "preview"},
		{"push", func(s *server.EventSpec) { s.Refresh = "push" }, later, `refresh = "push"`},
		{"pool", func(s *server.EventSpec) { s.Pool = "100.64.0.0/10" }, later, "pool"},
		{"unicast", func(s *server.EventSpec) { s.Flows = flow("udp/192.0.2.10/5004") }, wire.ErrNotInThisVersion, "unicast"},
		{"IPv6", func(s *server.EventSpec) { s.Flows = flow("udp/ff3e::1/5004") }, wire.ErrNotInThisVersion, "IPv6"},
		{"IPv6 sender", func(s *server.EventSpec) { s.Senders = []netip.Addr{netip.MustParseAddr("fd00::1")} }, wire.ErrNotInThisVersion, "IPv6"},
		{"TCP", func(s *server.EventSpec) { s.Flows = flow("tcp/232.1.2.3/5004") }, wire.ErrNotInThisVersion, "protocol tcp"},
		{"any source", func(s *server.EventSpec) { s.Flows = flow("udp/239.1.2.3/5004") }, later, "outside 232.0.0.0/8"},
		{"two senders", func(s *server.EventSpec) { s.Senders = append(s.Senders, netip.MustParseAddr("192.0.2.11")) }, later, "several senders"},
		{"GMAC", func(s *server.EventSpec) { s.Transform = "aes-gmac" }, later, "aes-gmac"},
		{"NULL", func(s *server.EventSpec) { s.Transform = "null" }, later, "null"},
		{"ahead", func(s *server.EventSpec) { s.Ahead = 2 }, later, "ahead"},
		{"window", func(s *server.EventSpec) { s.Window = 5 * time.Second }, later, "window"},
		{"spread", func(s *server.EventSpec) { s.Spread = "redraw" }, later, "spread"},
		{"revocation", func(s *server.EventSpec) { s.Revocation = "incomplete" }, later, "revocation"},
		{"certificate", func(s *server.EventSpec) { s.Certificate = "event" }, later, "certificate"},
		{"endless", func(s *server.EventSpec) { s.Time.Duration, s.Time.Rule = "", "" }, later, "without an end"},
		{"ESP port", func(s *server.EventSpec) { s.Flows = flow("udp/232.1.2.3/4500") }, bad, "4500"},
		{"ESP port in a range", func(s *server.EventSpec) { s.Flows = flow("udp/232.1.2.3/4000-5000") }, bad, "4500"},
		{"no such transform", func(s *server.EventSpec) { s.Transform = "rot13" }, bad, "rot13"},
		{"no title", func(s *server.EventSpec) { s.Title = "" }, bad, "title"},
		{"no group", func(s *server.EventSpec) { s.Group = "sports" }, store.ErrNotFound, "sports"},
		{"no sender", func(s *server.EventSpec) { s.Senders = nil }, bad, "senders"},
		{"group as sender", func(s *server.EventSpec) { s.Senders[0] = netip.MustParseAddr("232.1.2.3") }, bad, "no host"},
		{"no flow", func(s *server.EventSpec) { s.Flows = nil }, bad, "flows"},
		{"TTL", func(s *server.EventSpec) { s.TTL = 0 }, bad, "ttl"},
		{"key server", func(s *server.EventSpec) { s.KeyServers = []string{"http://x"} }, bad, "key_servers"},
		{"short interval", func(s *server.EventSpec) { s.Interval = 999 * time.Millisecond }, bad, "1 s to 7 days"},
		{"long interval", func(s *server.EventSpec) { s.Interval = 169 * time.Hour }, bad, "1 s to 7 days"},
		{"first", func(s *server.EventSpec) { s.First = 10 * time.Millisecond }, bad, "first"},
		{"odd interval", func(s *server.EventSpec) { s.Interval += time.Microsecond; s.Window = s.Interval }, bad, "milliseconds"},
		{"initial", func(s *server.EventSpec) { s.Initial = -time.Second }, bad, "initial"},
		{"negative interval", func(s *server.EventSpec) { s.Interval = -time.Second }, bad, "bad event: interval -1s is outside 1 s"},
		{"interval alone is named", func(s *server.EventSpec) { s.Interval = time.Millisecond }, bad, "bad event: interval 1ms is outside 1 s"},
		{"blank title", func(s *server.EventSpec) { s.Title = "  " }, bad, "title"},
		{"blank at the title's end", func(s *server.EventSpec) { s.Title += " " }, bad, "title"},
		{"title that is no UTF-8", func(s *server.EventSpec) { s.Title = "a\xffb" }, bad, "title"},
		{"title like an id", func(s *server.EventSpec) { s.Title = strings.Repeat("0a", 16) }, bad, "id"},
		{"loopback as sender", func(s *server.EventSpec) { s.Senders[0] = netip.MustParseAddr("127.0.0.1") }, bad, "127.0.0.1"},
		{"broadcast as sender", func(s *server.EventSpec) { s.Senders[0] = netip.MustParseAddr("255.255.255.255") }, bad, "255.255.255.255"},
		{"a flow twice", func(s *server.EventSpec) { s.Flows = append(s.Flows, s.Flows[0]) }, bad, "each port once"},
		{"flows that overlap", func(s *server.EventSpec) { s.Flows = append(s.Flows, flow("udp/232.1.2.3/5000-5010")[0]) }, bad, "each port once"},
		{"key server's port", func(s *server.EventSpec) { s.KeyServers = []string{"https://x:99999"} }, bad, "key_servers"},
		{"gather", func(s *server.EventSpec) { s.Gather = time.Second }, bad, "gather"},
		{"zone", func(s *server.EventSpec) { s.Time.Zone = "Europe/Berlinn" }, bad, "Berlinn"},
		{"rule", func(s *server.EventSpec) { s.Time.Rule = "FREQ=SOMETIMES" }, bad, "SOMETIMES"},
		{"over", func(s *server.EventSpec) { s.Time.Rule, s.Time.Start = "", "20261124T200000" }, bad, "over"},
		{"overlaps itself", func(s *server.EventSpec) { s.Time.Duration = "PT25H" }, bad, "overlaps itself"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := spec()
			tt.change(&v)
			_, err := add(t, s, v)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.word) {
				t.Errorf("got %v, want %v with %q in it", err, tt.want, tt.word)
			}
			if err != nil && errors.Is(tt.want, bad) && strings.Contains(err.Error(), "\n") {
				t.Errorf("one fault in several lines: %q", err)
			}
			if errors.Is(tt.want, later) && !strings.Contains(err.Error(), "not in this version") {
				t.Errorf("the words are missing: %v", err)
			}
		})
	}
	v := spec()
	v.Preview, v.Ahead, v.Transform = 1, 3, "null"
	if _, err := add(t, s, v); err == nil || strings.Count(err.Error(), "not in this version") != 3 {
		t.Errorf("three things at once: %v", err)
	}
	err := s.View(t.Context(), func(r store.Reader) error {
		all, err := r.Events(t.Context())
		if len(all) != 0 {
			t.Errorf("a refused event is there: %v", all)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestEventConflict(t *testing.T) {
	s := openStore(t)
	if _, err := add(t, s, spec()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(s *server.EventSpec)
		want   error
	}{
		{"the same again", func(*server.EventSpec) {}, server.ErrConflict},
		{"once, on a later day, half an hour early", func(s *server.EventSpec) {
			s.Time = store.TimeExpression{Start: "20261201T184500Z", Duration: "PT30M"}
		}, server.ErrConflict},
		{"a range of ports", func(s *server.EventSpec) { s.Flows[0].FirstPort = 5000 }, server.ErrConflict},
		{"in another group", func(s *server.EventSpec) { s.Group = "root" }, server.ErrConflict},
		{"right after it", func(s *server.EventSpec) { s.Time.Start = "20261125T203000" }, nil},
		{"another sender", func(s *server.EventSpec) { s.Senders[0] = netip.MustParseAddr("192.0.2.11") }, nil},
		{"another port", func(s *server.EventSpec) { s.Flows[0].FirstPort, s.Flows[0].LastPort = 5005, 5006 }, nil},
		{"another address", func(s *server.EventSpec) { s.Flows[0].Destination = netip.MustParseAddr("232.1.2.4") }, nil},
	} {
		v := spec()
		tt.change(&v)
		if _, err := add(t, s, v); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestFindAndAssociate(t *testing.T) {
	s := openStore(t)
	e, err := add(t, s, spec())
	if err != nil {
		t.Fatal(err)
	}
	second := spec()
	second.Flows[0].FirstPort, second.Flows[0].LastPort = 6000, 6000
	if _, err := add(t, s, second); err != nil {
		t.Fatal(err)
	}
	err = s.View(t.Context(), func(r store.Reader) error {
		if found, err := server.FindEvent(t.Context(), r, e.ID.String()); err != nil || found.ID != e.ID {
			t.Errorf("by id: %v", err)
		}
		if _, err := server.FindEvent(t.Context(), r, e.Title); !errors.Is(err, server.ErrAmbiguous) || !strings.Contains(err.Error(), e.ID.String()) {
			t.Errorf("two of one title: %v", err)
		}
		if _, err := server.FindEvent(t.Context(), r, "Morning News"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("none of that title: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	associate := func(client string) error {
		_, err := s.Update(t.Context(), func(tx store.Tx) error {
			return server.Associate(t.Context(), tx, e, client, store.RoleSend)
		})
		return err
	}
	for client, want := range map[string]error{"client of news": nil, "client of foreign": nil, "client of root": server.ErrUnreached, "nobody": store.ErrNotFound} {
		if err := associate(client); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", client, err, want)
		}
	}
}

func TestEndEvent(t *testing.T) {
	s := openStore(t)
	e, err := add(t, s, spec())
	if err != nil {
		t.Fatal(err)
	}
	end := func(at time.Time) (got time.Time, err error) {
		_, err = s.Update(t.Context(), func(tx store.Tx) (err error) {
			got, err = server.EndEvent(t.Context(), tx, e, at)
			return err
		})
		return got, err
	}
	if _, err := end(evening.Add(time.Minute)); !errors.Is(err, server.ErrNotRunning) {
		t.Errorf("without an occurrence: %v", err)
	}
	start := evening.UnixMilli()
	tag := derive.OccurrenceTag(e.ID, uint64(start/1000), 0)
	update(t, s, func(tx store.Tx) error {
		err := tx.InsertOccurrence(t.Context(), store.Occurrence{Tag: tag, Event: e.ID, StartMS: start, EndMS: start + 1_800_000,
			FirstMS: e.FirstMS, IntervalMS: e.IntervalMS, InitialMS: e.InitialMS, WindowMS: e.WindowMS, Ahead: 1, Transform: e.Transform})
		if err != nil {
			return err
		}
		var rows []store.Row
		for i := range uint32(10) {
			rows = append(rows, store.Row{Tag: tag, Interval: i})
		}
		return tx.InsertRows(t.Context(), rows)
	})
	for _, at := range []time.Time{evening.Add(-time.Second), evening, evening.Add(time.Hour)} {
		if _, err := end(at); !errors.Is(err, server.ErrNotRunning) {
			t.Errorf("at %s: %v", at, err)
		}
	}
	got, err := end(evening.Add(44*time.Second + time.Nanosecond))
	if err != nil || !got.Equal(evening.Add(45*time.Second)) {
		t.Fatalf("ends at %s: %v", got, err)
	}
	err = s.View(t.Context(), func(r store.Reader) error {
		o, err1 := r.Occurrence(t.Context(), tag)
		rows, err2 := r.Rows(t.Context(), tag, 0)
		after, err3 := r.Event(t.Context(), e.ID)
		if o.EndMS != start+45_000 || len(rows) != 5 || after.Edition != 2 {
			t.Errorf("ends at %d with %d rows, edition %d", o.EndMS, len(rows), after.Edition)
		}
		return errors.Join(err1, err2, err3)
	})
	if err != nil {
		t.Error(err)
	}
}

func FuzzParseFlow(f *testing.F) {
	seeds := []string{"udp/232.1.2.3/5004", "udp/232.1.2.3/5004-5010", "udp/ff3e::1/1", "//", "udp/x/1", "udp/232.1.2.3/0", "udp/232.1.2.3/2-1"}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		flow, err := server.ParseFlow(text)
		if err != nil {
			if flow != (store.Flow{}) {
				t.Error("result beside an error")
			}
			return
		}
		again, err := server.ParseFlow(server.FlowText(flow))
		if err != nil || again != flow {
			t.Errorf("%q gives %v, and that %v, %v", text, flow, again, err)
		}
	})
}
