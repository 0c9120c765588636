package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
)

func TestDecodeStrict(t *testing.T) {
	type inner struct {
		Kind string `json:"kind"`
	}
	type message struct {
		Name string  `json:"name"`
		List []inner `json:"list"`
	}
	for name, c := range map[string]struct{ text, why string }{
		"good":              {`{"name":"a","list":[{"kind":"x"},{"kind":"y"}]}`, ""},
		"blanks":            {" {\n\"name\" : \"a\" }\n", ""},
		"same name deeper":  {`{"name":"name","list":[{"kind":"kind"}]}`, ""},
		"unknown":           {`{"name":"a","other":1}`, "other"},
		"unknown deeper":    {`{"list":[{"kind":"x","more":1}]}`, "more"},
		"twice":             {`{"name":"a","name":"b"}`, "twice"},
		"twice deeper":      {`{"list":[{"kind":"x","kind":"x"}]}`, "twice"},
		"twice, escaped":    {`{"name":"a","n\u0061me":"b"}`, "twice"},
		"other case":        {`{"Name":"a"}`, "unknown name"},
		"Kelvin sign":       {"{\"list\":[{\"\u212aind\":\"x\"}]}", "unknown name"},
		"trailing object":   {`{"name":"a"}{"name":"b"}`, "follows"},
		"trailing text":     {`{"name":"a"} x`, ""},
		"null":              {`{"name":null}`, "null"},
		"null object":       {`null`, "not an object"},
		"array":             {`[{"name":"a"}]`, "not an object"},
		"string":            {`"name"`, "not an object"},
		"empty":             {``, "no object"},
		"cut":               {`{"name":"a"`, "EOF"},
		"wrong type":        {`{"name":1}`, "cannot unmarshal"},
		"not UTF-8":         {"{\"name\":\"\xff\"}", "UTF-8"},
		"nested too deeply": {`{"list":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, "deep"},
		"nested to death":   {strings.Repeat(`{"name":`, 1e5), "deep"},
	} {
		t.Run(name, func(t *testing.T) {
			err := wire.DecodeStrict([]byte(c.text), new(message))
			good := c.why == "" && name != "trailing text"
			if good != (err == nil) {
				t.Fatalf("error %v", err)
			}
			if err != nil && (!errors.Is(err, wire.ErrJSON) || !strings.Contains(err.Error(), c.why)) {
				t.Errorf("error %v does not say %q", err, c.why)
			}
		})
	}
}

func TestEntriesThatAreRefused(t *testing.T) {
	addr := netip.MustParseAddr
	for name, change := range map[string]func(*wire.Entry){
		"no id":              func(e *wire.Entry) { e.ID = derive.EventID{} },
		"no title":           func(e *wire.Entry) { e.Title = "" },
		"title with control": func(e *wire.Entry) { e.Title = "a\x1b[31m" },
		"long title":         func(e *wire.Entry) { e.Title = strings.Repeat("x", 201) },
		"no sender":          func(e *wire.Entry) { e.Senders = nil },
		"multicast sender":   func(e *wire.Entry) { e.Senders[0] = addr("232.1.1.1") },
		"mapped sender":      func(e *wire.Entry) { e.Senders[0] = addr("::ffff:192.0.2.1") },
		"sender with zone":   func(e *wire.Entry) { e.Senders[0] = addr("fe80::1%eth0") },
		"no flow":            func(e *wire.Entry) { e.Flows = nil },
		"flow to nowhere":    func(e *wire.Entry) { e.Flows[0].Destination = netip.Addr{} },
		"port 0":             func(e *wire.Entry) { e.Flows[0].Ports = "0" },
		"port 65536":         func(e *wire.Entry) { e.Flows[0].Ports = "65536" },
		"port with blank":    func(e *wire.Entry) { e.Flows[0].Ports = " 5004" },
		"port with zero":     func(e *wire.Entry) { e.Flows[0].Ports = "05004" },
		"range backwards":    func(e *wire.Entry) { e.Flows[0].Ports = "5010-5000" },
		"range of one":       func(e *wire.Entry) { e.Flows[0].Ports = "5004-5004" },
		"ttl 0":              func(e *wire.Entry) { e.TTL = 0 },
		"no key server":      func(e *wire.Entry) { e.KeyServers = nil },
		"key server by http": func(e *wire.Entry) { e.KeyServers[0] = "http://192.0.2.1" },
		"key server's user":  func(e *wire.Entry) { e.KeyServers[0] = "https://u:p@192.0.2.1" },
		"key server's path":  func(e *wire.Entry) { e.KeyServers[0] = "https://192.0.2.1/x" },
		"key server's query": func(e *wire.Entry) { e.KeyServers[0] = "https://192.0.2.1?x" },
		"no dtstart":         func(e *wire.Entry) { e.Time.Start = "" },
		"no interval":        func(e *wire.Entry) { e.IntervalMS = 0 },
		"negative initial":   func(e *wire.Entry) { e.InitialMS = -1 },
		"method":             func(e *wire.Entry) { e.Refresh.Method = "poll" },
		"pull with a port":   func(e *wire.Entry) { e.Refresh.Port = 1 },
		"push to nobody":     func(e *wire.Entry) { e.Refresh.Method = wire.RefreshPush },
		"empty preview":      func(e *wire.Entry) { e.Preview = &wire.Preview{Secret: derive.RandomSecret()} },
	} {
		e := entry("title")
		change(e)
		if got, err := wire.ParseEntry(e.Encode()); !errors.Is(err, wire.ErrEntry) && !errors.Is(err, wire.ErrJSON) || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := wire.ParseEntry(make([]byte, wire.MaxEntry+1)); !errors.Is(err, wire.ErrTooBig) {
		t.Errorf("too big: %v", err)
	}
}

func TestUnsupportedEntriesAreTakenAndNamed(t *testing.T) {
	addr := netip.MustParseAddr
	for what, change := range map[string]func(*wire.Entry){
		"IPv6":                           func(e *wire.Entry) { e.Senders = append(e.Senders, addr("2001:db8::1")) },
		"flow to ff3e::1: IPv6":          func(e *wire.Entry) { e.Flows[0].Destination = addr("ff3e::1") },
		"unicast":                        func(e *wire.Entry) { e.Flows[0].Destination = addr("192.0.2.10") },
		"protocol tcp":                   func(e *wire.Entry) { e.Flows[0].Protocol = "tcp" },
		"event without an end":           func(e *wire.Entry) { e.Time.Duration = "" },
		"preview":                        func(e *wire.Entry) { e.Preview = &wire.Preview{Count: 3, Secret: derive.RandomSecret()} },
		"window other than the interval": func(e *wire.Entry) { e.WindowMS = 2000 },
		"refresh by push": func(e *wire.Entry) {
			e.Refresh = wire.Refresh{Method: wire.RefreshPush, Group: addr("232.9.9.9"), Sources: []netip.Addr{addr("192.0.2.1")}, Port: 7}
		},
	} {
		e := entry("title")
		change(e)
		back, err := wire.ParseEntry(e.Encode())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		err = back.Unsupported()
		if !errors.Is(err, wire.ErrNotInThisVersion) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "not in this version") {
			t.Errorf("%s: %v", what, err)
		}
		if !bytes.Equal(back.Encode(), e.Encode()) {
			t.Errorf("%s: comes back changed", what)
		}
	}
	if err := entry("title").Unsupported(); err != nil {
		t.Error(err)
	}
}

func TestCheckPorts(t *testing.T) {
	for ports, refused := range map[string]bool{"4500": true, "4000-5000": true, "4501": false, "4000-4499": false} {
		e := entry("title")
		e.Flows[0].Ports = ports
		if err := e.CheckPorts(4500); errors.Is(err, wire.ErrESPPort) != refused {
			t.Errorf("%s: %v", ports, err)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	e := entry("first")
	f.Add(e.Encode())
	e.Preview = &wire.Preview{Count: 2, Secret: derive.RandomSecret()}
	e.Flows = append(e.Flows, wire.Flow{Protocol: "tcp", Destination: netip.MustParseAddr("2001:db8::7"), Ports: "80-90"})
	f.Add(e.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := wire.ParseEntry(raw)
		if err != nil {
			if e != nil {
				t.Error("an entry and an error")
			}
			return
		}
		again, err := wire.ParseEntry(e.Encode())
		if err != nil {
			t.Fatalf("%q comes back as %q: %v", raw, e.Encode(), err)
		}
		if d := cmp.Diff(e, again, sameSecret, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
		}
	})
}

func enrolRequest() wire.EnrolRequest {
	return wire.EnrolRequest{
		Versions: []int{1}, Event: derive.EventID{7}, StartS: 1800000000, Role: wire.RoleSend, Nonce: [16]byte{1, 2, 3},
		Queues: 1, Entry: []byte("entry"), Certificate: "a.b.c",
	}
}

func grant() wire.Grant {
	return wire.Grant{
		Version: 1, Tag: derive.Tag{1}, Number: 41, Selector: entry("x").Selector(), Transform: derive.TransformAES256GCM,
		Schedule:  wire.GrantSchedule{StartS: 1800000000, EndS: 1800000060, FirstMS: 5000, IntervalMS: 5000, InitialMS: 6000, WindowMS: 5000, MarginMS: 1250, LingerMS: 5000, GraceMS: 2000, Ahead: 1, Spread: "fixed"},
		SenderIDs: []uint16{17}, ReenrolMS: 60000, StaleS: 3600, GatherUS: 200, Body: []byte{1, 2, 3},
	}
}

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEnrolmentMessages(t *testing.T) {
	q := enrolRequest()
	raw := mustMarshal(t, q)
	// docs/keying.md §4: bytes in base64url without padding.
	for _, want := range []string{`"event":"BwAAAAAAAAAAAAAAAAAAAA"`, `"entry":"ZW50cnk"`, `"role":"send"`, `"versions":[1]`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s lacks %s", raw, want)
		}
	}
	back, err := wire.ParseEnrolRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&q, back); d != "" {
		t.Error(d)
	}
	for name, change := range map[string]func(*wire.EnrolRequest){
		"other versions":       func(q *wire.EnrolRequest) { q.Versions = []int{2, 3} },
		"no start":             func(q *wire.EnrolRequest) { q.StartS = 0 },
		"sender, no queue":     func(q *wire.EnrolRequest) { q.Queues = 0 },
		"17 queues":            func(q *wire.EnrolRequest) { q.Queues = 17 },
		"receiver with queues": func(q *wire.EnrolRequest) { q.Role = wire.RoleReceive },
		"no entry":             func(q *wire.EnrolRequest) { q.Entry = nil },
		"no certificate":       func(q *wire.EnrolRequest) { q.Certificate = "" },
	} {
		bad := q
		change(&bad)
		if got, err := wire.ParseEnrolRequest(mustMarshal(t, bad)); err == nil || got != nil {
			t.Errorf("%s: taken", name)
		}
	}
	for name, text := range map[string]string{
		"short nonce": strings.Replace(string(raw), `"nonce":"AQID`, `"nonce":"`, 1),
		"role":        strings.Replace(string(raw), `"send"`, `"admin"`, 1),
		"unknown":     strings.Replace(string(raw), `{`, `{"vouch":"x",`, 1),
		"twice":       strings.Replace(string(raw), `{`, `{"role":"receive",`, 1),
	} {
		if got, err := wire.ParseEnrolRequest([]byte(text)); !errors.Is(err, wire.ErrJSON) || got != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	g := grant()
	got, err := wire.ParseGrant(mustMarshal(t, g))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(g.Selector, got.Selector, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	if got.Tag != g.Tag || !bytes.Equal(got.Body, g.Body) || got.Schedule != g.Schedule || !got.Selector.Equal(g.Selector) {
		t.Errorf("%+v", got)
	}
	for name, change := range map[string]func(*wire.Grant){
		"version":        func(g *wire.Grant) { g.Version = 2 },
		"end in front":   func(g *wire.Grant) { g.Schedule.EndS = 1 },
		"spread":         func(g *wire.Grant) { g.Schedule.Spread = "wide" },
		"many ids":       func(g *wire.Grant) { g.SenderIDs = make([]uint16, 17) },
		"negative stale": func(g *wire.Grant) { g.StaleS = -1 },
	} {
		bad := g
		change(&bad)
		if got, err := wire.ParseGrant(mustMarshal(t, bad)); err == nil || got != nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := wire.ParseGrant(make([]byte, wire.MaxGrant+1)); !errors.Is(err, wire.ErrTooBig) {
		t.Errorf("too big: %v", err)
	}
}

func FuzzParseEnrolRequest(f *testing.F) {
	f.Add(mustMarshal(f, enrolRequest()))
	f.Add([]byte(`{"versions":[1]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := wire.ParseEnrolRequest(raw)
		if err != nil {
			if q != nil {
				t.Error("a request and an error")
			}
			return
		}
		again, err := wire.ParseEnrolRequest(mustMarshal(t, q))
		if err != nil || cmp.Diff(q, again) != "" {
			t.Errorf("%q comes back changed: %v", raw, err)
		}
	})
}

func FuzzParseGrant(f *testing.F) {
	f.Add(mustMarshal(f, grant()))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		g, err := wire.ParseGrant(raw)
		if err != nil {
			if g != nil {
				t.Error("a grant and an error")
			}
			return
		}
		if again := mustMarshal(t, g); !bytes.Equal(again, mustMarshal(t, mustGrant(t, again))) {
			t.Errorf("%q comes back changed", raw)
		}
	})
}

func mustGrant(t testing.TB, raw []byte) *wire.Grant {
	t.Helper()
	g, err := wire.ParseGrant(raw)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestTicketsAnswer(t *testing.T) {
	a := newAuthority(t)
	full := wire.TicketsAnswer{Tickets: []wire.Ticket{*a.ticket(t, "g1", entry("x").Encode())}, Sends: []derive.EventID{{9}}, ServerTimeUS: 1800000000000001}
	// Encoders around a ticket escape what HTML minds: it must survive that.
	named := wire.TicketsAnswer{Tickets: []wire.Ticket{*a.ticket(t, "R&D<1>", entry("<&>").Encode())}, ServerTimeUS: 1}
	for _, answer := range []wire.TicketsAnswer{full, named, {ServerTimeUS: 1}} {
		var back wire.TicketsAnswer
		if err := wire.DecodeStrict(mustMarshal(t, answer), &back); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(answer, back, cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
		}
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	login := wire.LoginRequest{Name: "alice", Password: "correct horse"}
	g := grant()
	g.Body = []byte("correct horse")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "login", login, "grant", g)
	for _, shown := range []string{fmt.Sprintf("%v %+v %#v %s", login, login, login, login), fmt.Sprintf("%v %+v %#v", g, g, g), log.String()} {
		if strings.Contains(shown, "horse") || strings.Contains(shown, "104 111 114 115 101") || !strings.Contains(shown, "REDACTED") {
			t.Errorf("shown as %s", shown)
		}
	}
}
