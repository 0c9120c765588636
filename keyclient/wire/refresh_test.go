package wire_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
)

// refreshCase is one case of refresh.json; each kind uses the fields it needs.
type refreshCase struct {
	What, Name, Why, Expect string
	Step                    int
	W, Tag, Nonce, Cookie   string
	N                       uint32
	Number                  uint32
	EnrolledUntil           uint32 `json:"enrolled_until_s"`
	First                   uint32
	Role                    uint8
	Edition                 uint16
	K, A                    string
	KNext                   string `json:"K_next"`
	RequestID               string `json:"request_id"`
	Want                    uint8
	PathAsked               *uint32 `json:"path_asked"`
	Report                  []uint32
	Request, Body, Answer   string
	AnswerNonce             string `json:"answer_nonce"`
	NewCookiePlain          string `json:"new_cookie_plaintext"`
	NewW                    string `json:"new_W"`
	Decoded                 decodedBody
	Datagram, NAK           string
	Codes                   map[string]string
}

type decodedBody struct {
	Status        uint8
	K             int
	Edition       uint16
	ServerTimeUS  uint64 `json:"server_time_us"`
	TookUS        uint32 `json:"took_us"`
	WindowOpensMS uint32 `json:"window_opens_ms"`
	WindowLastsMS uint32 `json:"window_lasts_ms"`
	CookieNumber  uint32 `json:"cookie_number"`
	Cookie        string
	Records       []struct {
		Interval, SPI   uint32
		Transform, Kind uint8
		InitiationMS    int64  `json:"initiation_ms"`
		LifetimeMS      uint32 `json:"lifetime_ms"`
		Key             string
	}
	Path *struct {
		Generation uint32
		H          uint8
		Complete   bool
		Levels     []struct {
			Version uint32
			Key     string
		}
	}
}

// body builds what the vector says was decoded.
func (d decodedBody) body(t *testing.T) *wire.Body {
	b := &wire.Body{
		Status: d.Status, Edition: d.Edition, ServerTimeUS: d.ServerTimeUS, ElapsedUS: d.TookUS,
		WindowOpensMS: d.WindowOpensMS, WindowLastsMS: d.WindowLastsMS,
		CookieNumber: d.CookieNumber, Cookie: [wire.CookieLen]byte(unhex(t, d.Cookie)),
	}
	for _, r := range d.Records {
		b.Records = append(b.Records, wire.Record{
			Interval: r.Interval, SPI: r.SPI, Transform: r.Transform, Kind: r.Kind,
			InitiationMS: r.InitiationMS, LifetimeMS: r.LifetimeMS, Key: secret(t, r.Key),
		})
	}
	if p := d.Path; p != nil {
		b.Path = &wire.Path{Generation: p.Generation, Height: p.H}
		for _, l := range p.Levels {
			b.Path.Levels = append(b.Path.Levels, wire.Level{Version: l.Version, Key: secret(t, l.Key)})
		}
	}
	return b
}

func refreshCases(t testing.TB, what string) []refreshCase {
	t.Helper()
	raw, err := os.ReadFile("testdata/refresh.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Cases []refreshCase }
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	var out []refreshCase
	for _, c := range all.Cases {
		if c.What == what {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no case of kind %q", what)
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func secret(t testing.TB, s string) *derive.Secret {
	t.Helper()
	k, err := derive.NewSecret(unhex(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var sameSecret = cmp.Comparer(func(a, b *derive.Secret) bool { return a.Equal(b) })

func TestCookieVectors(t *testing.T) {
	for _, c := range refreshCases(t, "cookie") {
		t.Run(c.Why, func(t *testing.T) {
			w, tag := derive.NewAEAD(secret(t, c.W)), derive.Tag(unhex(t, c.Tag))
			got, err := wire.OpenCookie(w, tag, c.N, unhex(t, c.Cookie))
			if c.Expect != "" {
				if !errors.Is(err, wire.ErrDrop) || got != nil {
					t.Errorf("opened: %v %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := &wire.Cookie{
				Number: c.Number, EnrolledUntil: c.EnrolledUntil, First: c.First,
				Role: wire.Role(c.Role), Edition: c.Edition, K: secret(t, c.K),
			}
			if d := cmp.Diff(want, got, sameSecret); d != "" {
				t.Error(d)
			}
			sealed := got.Seal(w, tag, c.N, [12]byte(unhex(t, c.Nonce)))
			if hex.EncodeToString(sealed[:]) != c.Cookie {
				t.Errorf("sealed as %x", sealed)
			}
		})
	}
}

func TestExchangeVectors(t *testing.T) {
	kinds := map[uint8]bool{}
	for _, c := range refreshCases(t, "exchange") {
		t.Run(c.Name, func(t *testing.T) {
			tag := derive.Tag(unhex(t, c.Tag))
			a, next := derive.Step(secret(t, c.K), tag)
			if !a.Equal(secret(t, c.A)) || !next.Equal(secret(t, c.KNext)) {
				t.Fatal("step differs")
			}
			raw := unhex(t, c.Request)
			checkRequest(t, c, a, raw)

			answer := unhex(t, c.Answer)
			got, err := wire.OpenAnswer(a, raw, answer)
			if err != nil {
				t.Fatal(err)
			}
			want := c.Decoded.body(t)
			if d := cmp.Diff(want, got, sameSecret); d != "" {
				t.Error(d)
			}
			plain, err := want.Encode(len(raw) - 48)
			if err != nil || hex.EncodeToString(plain) != c.Body {
				t.Errorf("body encoded as %x (%v)", plain, err)
			}
			sealed, err := wire.BuildAnswer(a, raw, [12]byte(unhex(t, c.AnswerNonce)), want)
			if err != nil || !bytes.Equal(sealed, answer) {
				t.Errorf("answer sealed as %x (%v)", sealed, err)
			}
			for _, r := range got.Records {
				kinds[r.Kind] = true
			}
			if c.NewW == "" {
				return
			}
			cookie, err := wire.OpenCookie(derive.NewAEAD(secret(t, c.NewW)), tag, got.CookieNumber, got.Cookie[:])
			if err != nil || !cookie.K.Equal(next) {
				t.Errorf("new cookie: %v", err)
			}
		})
	}
	if len(kinds) != 3 {
		t.Errorf("kinds seen: %v", kinds)
	}
}

func checkRequest(t *testing.T, c refreshCase, a *derive.Secret, raw []byte) {
	t.Helper()
	req, err := wire.ParseRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if req.Tag != derive.Tag(unhex(t, c.Tag)) || req.N != c.N || req.Want != c.Want || req.PathWanted != (c.PathAsked != nil) ||
		hex.EncodeToString(req.ID[:]) != c.RequestID || req.Length != len(raw) {
		t.Errorf("request read as %+v", req)
	}
	report, err := req.OpenReport(a, raw)
	if err != nil {
		t.Fatal(err)
	}
	if report != (wire.Report{Received: c.Report[0], Lost: c.Report[1], BadICV: c.Report[2]}) {
		t.Errorf("report %+v", report)
	}
	again, err := req.Encode(a, report)
	if err != nil || !bytes.Equal(again, raw) {
		t.Errorf("encoded as %x (%v)", again, err)
	}
	if c.PathAsked == nil && len(raw) == wire.RequestLen(c.Want, false) {
		built, err := wire.BuildRequest(a, req.Tag, req.N, req.Cookie, req.Want, req.ID, report)
		if err != nil || !bytes.Equal(built, raw) {
			t.Errorf("built as %x (%v)", built, err)
		}
	}
}

// TestBadRequestVectors walks the server's steps 1, 2, 3 and 5 with what the
// good exchange knows, and looks at where each bad request stops.
func TestBadRequestVectors(t *testing.T) {
	good := refreshCases(t, "exchange")[0]
	tag := derive.Tag(unhex(t, good.Tag))
	w := derive.NewAEAD(secret(t, good.W))
	for _, c := range refreshCases(t, "bad request") {
		t.Run(c.Why, func(t *testing.T) {
			step, nak := 0, ""
			raw := unhex(t, c.Datagram)
			req, err := wire.ParseRequest(raw)
			switch e, isNAK := errors.AsType[*wire.NAKError](err); {
			case isNAK:
				nak = nakHex(e.ID, e.Code)
			case errors.Is(err, wire.ErrDrop):
				step = 1
			case err != nil:
				t.Fatal(err)
			case req.Tag != tag:
				nak = nakHex(req.ID, wire.NAKUnknownTag)
			case req.N != good.N:
				nak = nakHex(req.ID, wire.NAKCookieNumber)
			default:
				step = stepThatStops(t, w, req, raw)
			}
			if err != nil && req != nil {
				t.Error("a request and an error")
			}
			if step != c.Step || nak != c.NAK {
				t.Errorf("step %d, NAK %q; want step %d, NAK %q (%s): %v", step, nak, c.Step, c.NAK, c.Expect, err)
			}
		})
	}
}

func stepThatStops(t *testing.T, w interface {
	NonceSize() int
	Overhead() int
	Seal(dst, nonce, plaintext, additionalData []byte) []byte
	Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error)
}, req *wire.Request, raw []byte) int {
	t.Helper()
	cookie, err := wire.OpenCookie(w, req.Tag, req.N, req.Cookie[:])
	if err != nil {
		return 3
	}
	a, _ := derive.Step(cookie.K, req.Tag)
	if _, err := req.OpenReport(a, raw); err != nil {
		return 5
	}
	return 0
}

func nakHex(id [16]byte, code uint8) string {
	b := wire.BuildNAK(id, code)
	return hex.EncodeToString(b[:])
}

func TestBadAnswerVectors(t *testing.T) {
	for _, c := range refreshCases(t, "bad answer") {
		t.Run(c.Why, func(t *testing.T) {
			got, err := wire.OpenAnswer(secret(t, c.A), unhex(t, c.Request), unhex(t, c.Datagram))
			if !errors.Is(err, wire.ErrDrop) || got != nil {
				t.Errorf("taken: %v %v", got, err)
			}
		})
	}
}

func TestEveryBitOfAnExchangeCounts(t *testing.T) {
	c := refreshCases(t, "exchange")[0]
	a := secret(t, c.A)
	raw, answer := unhex(t, c.Request), unhex(t, c.Answer)
	for i := range len(answer) * 8 {
		bad := bytes.Clone(answer)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := wire.OpenAnswer(a, raw, bad); err == nil {
			t.Errorf("answer with bit %d changed is taken", i)
		}
	}
	for i := range 40 * 8 { // what the answer's associated data covers of the request
		bad := bytes.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := wire.OpenAnswer(a, bad, answer); err == nil {
			t.Errorf("request with bit %d changed goes unnoticed", i)
		}
	}
}

func TestNAKVectors(t *testing.T) {
	for _, c := range refreshCases(t, "NAK") {
		for code, want := range c.Codes {
			id := [16]byte(unhex(t, c.RequestID))
			var n uint8
			if _, err := fmt.Sscan(code, &n); err != nil {
				t.Fatal(err)
			}
			if got := nakHex(id, n); got != want {
				t.Errorf("NAK %s: %s, want %s", code, got, want)
			}
			nak, err := wire.ParseNAK(unhex(t, want))
			if err != nil || *nak != (wire.NAK{ID: id, Code: n, HighestVersion: wire.Version}) {
				t.Errorf("NAK %s read as %+v, %v", code, nak, err)
			}
		}
	}
	for _, bad := range []string{"", "03", "030100180000000000000000000000000000000000010000", "030100180000000000000000000000000000000005010000", "030100180000000000000000000000000000000001010001"} {
		if n, err := wire.ParseNAK(unhex(t, bad)); !errors.Is(err, wire.ErrDrop) || n != nil {
			t.Errorf("%s: %v %v", bad, n, err)
		}
	}
}

func TestWhatCannotBeEncoded(t *testing.T) {
	a := derive.RandomSecret()
	for name, r := range map[string]wire.Request{
		"want 9":                    {Want: 9},
		"first bit":                 {ID: [16]byte{0x80}},
		"generation without a path": {Generation: 1},
		"too short":                 {Want: 8, Length: 208},
		"too long":                  {Length: 1233},
	} {
		if b, err := r.Encode(a, wire.Report{}); !errors.Is(err, wire.ErrEncode) || b != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	key := derive.RandomSecret()
	record := wire.Record{Interval: 1, LifetimeMS: 1, Key: key}
	for name, b := range map[string]wire.Body{
		"unknown status":        {Status: 8},
		"records when withheld": {Status: 1, Records: []wire.Record{record}},
		"key when incomplete":   {Status: 7, Records: []wire.Record{record}},
		"cookie when ended":     {Status: 3, CookieNumber: 1},
		"window when ended":     {Status: 4, WindowLastsMS: 1},
		"nine records":          {Records: make([]wire.Record, 9)},
		"no lifetime":           {Records: []wire.Record{{Key: key}}},
		"unknown kind":          {Records: []wire.Record{{Key: key, LifetimeMS: 1, Kind: 3}}},
	} {
		if out, err := b.Encode(0); !errors.Is(err, wire.ErrEncode) || out != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if out, err := (&wire.Body{Records: []wire.Record{record}}).Encode(159); !errors.Is(err, wire.ErrEncode) || out != nil {
		t.Errorf("no room: %v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	seeds := 0
	for _, what := range []string{"exchange", "bad request"} {
		for _, c := range refreshCases(f, what) {
			f.Add(unhex(f, c.Request+c.Datagram))
			seeds++
		}
	}
	if seeds < 40 {
		f.Fatalf("%d seeds", seeds)
	}
	a := secret(f, refreshCases(f, "exchange")[0].A)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := wire.ParseRequest(raw)
		if err != nil {
			if r != nil {
				t.Error("a request and an error")
			}
			return
		}
		again, err := r.Encode(a, wire.Report{})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again[:116], raw[:116]) || len(again) != len(raw) {
			t.Errorf("%x comes back as %x", raw, again)
		}
	})
}

func FuzzParseBody(f *testing.F) {
	for _, c := range refreshCases(f, "exchange") {
		f.Add(unhex(f, c.Body), c.PathAsked != nil)
	}
	f.Fuzz(func(t *testing.T, raw []byte, path bool) {
		parse := wire.ParseBody
		if path {
			parse = wire.ParseBodyWithPath
		}
		b, err := parse(raw)
		if err != nil {
			if b != nil || !errors.Is(err, wire.ErrDrop) {
				t.Errorf("%v %v", b, err)
			}
			return
		}
		again, err := b.Encode(len(raw))
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%x comes back as %x (%v)", raw, again, err)
		}
	})
}

func FuzzOpenAnswer(f *testing.F) {
	for _, c := range refreshCases(f, "exchange") {
		f.Add(unhex(f, c.Answer))
	}
	c := refreshCases(f, "exchange")[0]
	a, request := secret(f, c.A), unhex(f, c.Request)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := wire.OpenAnswer(a, request, raw)
		if err == nil && hex.EncodeToString(raw) != c.Answer {
			t.Errorf("forged answer taken: %x", raw)
		}
		if err != nil && b != nil {
			t.Error("a body and an error")
		}
	})
}

func FuzzParseNAK(f *testing.F) {
	for _, n := range refreshCases(f, "NAK")[0].Codes {
		f.Add(unhex(f, n))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := wire.ParseNAK(raw)
		if err != nil {
			if n != nil {
				t.Error("a NAK and an error")
			}
			return
		}
		if b := wire.BuildNAK(n.ID, n.Code); n.HighestVersion == wire.Version && !bytes.Equal(b[:], raw) {
			t.Errorf("%x comes back as %x", raw, b)
		}
	})
}
