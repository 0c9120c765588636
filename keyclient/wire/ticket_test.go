package wire_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"usher/keyclient/derive"
	"usher/keyclient/wire"
)

// authority is a CA with one leaf that signs tickets.
type authority struct {
	key     *ecdsa.PrivateKey
	ca      *x509.Certificate
	roots   *x509.CertPool
	signer  ed25519.PrivateKey
	leafDER []byte
}

var (
	now     = time.Date(2026, 11, 25, 20, 0, 0, 0, time.UTC)
	january = now.AddDate(-1, 0, 0)
)

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := new(authority)
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: january, NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.roots = x509.NewCertPool()
	a.roots.AddCert(a.ca)
	if _, a.signer, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.leafDER = a.leaf(t, a.signer.Public(), wire.TicketSignerURI)
	return a
}

func (a *authority) leaf(t testing.TB, public any, uri string) []byte {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "tickets"}, NotBefore: january, NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{u},
	}, a.ca, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (a *authority) ticket(t testing.TB, group string, entries ...[]byte) *wire.Ticket {
	t.Helper()
	claims := wire.TicketClaims{Group: group, NotBefore: now.Add(-time.Hour).Unix(), Expires: now.Add(time.Hour).Unix()}
	for _, e := range entries {
		claims.Entries = append(claims.Entries, wire.HashEntry(e))
	}
	jws, err := wire.SignTicket(a.signer, a.leafDER, a.ca.Raw, claims)
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Ticket{Group: group, Entries: entries, Certificate: jws}
}

func entry(title string) *wire.Entry {
	return &wire.Entry{
		ID: derive.EventID{1, byte(len(title))}, Title: title,
		Senders: []netip.Addr{netip.MustParseAddr("192.0.2.10")},
		Flows:   []wire.Flow{{Protocol: "udp", Destination: netip.MustParseAddr("232.1.2.3"), Ports: "5004"}},
		Time:    wire.TimeExpr{Start: "20261125T200000", Zone: "Europe/Berlin", Duration: "PT2H", Rule: "FREQ=DAILY"},
		TTL:     16, KeyServers: []string{"https://192.0.2.1:7441"},
		InitialMS: 6000, FirstMS: 5000, IntervalMS: 5000, WindowMS: 5000,
		Refresh: wire.Refresh{Method: wire.RefreshPull}, Edition: 1,
	}
}

func TestTicketVerifies(t *testing.T) {
	a := newAuthority(t)
	first, second := entry("first"), entry("second <&> é")
	ticket := a.ticket(t, "g1", first.Encode(), second.Encode())
	if !bytes.Equal(ticket.Encode(), a.ticket(t, "g1", first.Encode(), second.Encode()).Encode()) {
		t.Error("two tickets of one content differ")
	}
	back, err := wire.ParseTicket(ticket.Encode())
	if err != nil {
		t.Fatal(err)
	}
	entries, claims, err := back.Verify(a.roots, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 || entries[0].Title != first.Title || entries[1].Title != second.Title || claims.Group != "g1" {
		t.Errorf("%+v %+v", entries, claims)
	}
	one, _, err := wire.VerifyEntry(second.Encode(), ticket.Certificate, a.roots, now)
	if err != nil || one.Title != second.Title {
		t.Errorf("one entry with the certificate: %v", err)
	}
	empty := a.ticket(t, "empty")
	if _, _, err := empty.Verify(a.roots, now); err != nil {
		t.Errorf("ticket of a group without events: %v", err)
	}
}

func TestTicketWithOneBitChanged(t *testing.T) {
	a := newAuthority(t)
	raw := a.ticket(t, "g1", entry("first").Encode()).Encode()
	verified := 0
	for at := range raw {
		// One bit of each byte, each in turn; of the end of the signature, where
		// base64 has bits without data, every one.
		bits := []int{at % 8}
		if at > len(raw)-8 {
			bits = []int{0, 1, 2, 3, 4, 5, 6, 7}
		}
		for _, bit := range bits {
			bad := bytes.Clone(raw)
			bad[at] ^= 1 << bit
			ticket, err := wire.ParseTicket(bad)
			if err != nil {
				continue
			}
			verified++
			if _, _, err = ticket.Verify(a.roots, now); err == nil {
				t.Errorf("byte %d (%q), bit %d changed goes unnoticed", at, raw[at], bit)
			}
		}
	}
	if verified < len(raw)/4 {
		t.Errorf("only %d changes of %d bytes got past the form", verified, len(raw))
	}
}

func TestTicketsThatAreRefused(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	x, y := entry("x").Encode(), entry("yy").Encode()
	good := a.ticket(t, "g1", x)
	swap := func(change func(*wire.Ticket)) *wire.Ticket {
		c := *good
		change(&c)
		return &c
	}
	client := a.leaf(t, a.signer.Public(), "usher:client:7")
	byClient, err := wire.SignTicket(a.signer, client, a.ca.Raw, wire.TicketClaims{
		Group: "g1", Entries: []string{wire.HashEntry(x)}, NotBefore: now.Add(-time.Hour).Unix(), Expires: now.Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	byStranger, err := wire.SignTicket(stranger, a.leafDER, a.ca.Raw, wire.TicketClaims{Group: "g1", NotBefore: now.Add(-time.Hour).Unix(), Expires: now.Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ticket *wire.Ticket
		at     time.Time
		want   error
	}{
		"expired":                      {good, now.Add(time.Hour), wire.ErrExpired},
		"not yet valid":                {good, now.Add(-2 * time.Hour), wire.ErrNotYetValid},
		"another server's":             {other.ticket(t, "g1", x), now, wire.ErrOtherServer},
		"entry moved between tickets":  {swap(func(c *wire.Ticket) { c.Entries = a.ticket(t, "g2", y).Entries }), now, wire.ErrEntryNotListed},
		"entry added":                  {swap(func(c *wire.Ticket) { c.Entries = [][]byte{x, y} }), now, wire.ErrEntryNotListed},
		"entry missing":                {swap(func(c *wire.Ticket) { c.Entries = nil }), now, wire.ErrEntryNotListed},
		"entries in another order":     {swap(func(c *wire.Ticket) { *c = *a.ticket(t, "g1", x, y); c.Entries = [][]byte{y, x} }), now, wire.ErrEntryNotListed},
		"another group's certificate":  {swap(func(c *wire.Ticket) { c.Certificate = a.ticket(t, "g2", x).Certificate }), now, wire.ErrEntryNotListed},
		"signed by a client":           {swap(func(c *wire.Ticket) { c.Certificate = byClient }), now, wire.ErrNotTicketSigner},
		"signed by another key":        {swap(func(c *wire.Ticket) { c.Certificate = byStranger }), now, wire.ErrBadSignature},
		"certificate that is none":     {swap(func(c *wire.Ticket) { c.Certificate = "x" }), now, wire.ErrMalformed},
		"certificate that is too big":  {swap(func(c *wire.Ticket) { c.Certificate = strings.Repeat("x", wire.MaxCertificate+1) }), now, wire.ErrTooBig},
		"line break in a certificate":  {swap(func(c *wire.Ticket) { c.Certificate = c.Certificate[:9] + "\n" + c.Certificate[9:] }), now, wire.ErrMalformed},
		"signature with loose bits":    {swap(func(c *wire.Ticket) { c.Certificate = looseBits(c.Certificate) }), now, wire.ErrMalformed},
		"entry that makes no event":    {a.ticket(t, "g1", []byte(`{}`)), now, wire.ErrEntry},
		"entry with an unknown member": {a.ticket(t, "g1", bytes.Replace(x, []byte(`{`), []byte(`{"new":1,`), 1)), now, wire.ErrJSON},
	} {
		t.Run(name, func(t *testing.T) {
			entries, claims, err := c.ticket.Verify(a.roots, c.at)
			if !errors.Is(err, c.want) || entries != nil || claims != nil {
				t.Errorf("%v, %v; want %v", entries, err, c.want)
			}
		})
	}
	if _, _, err := wire.VerifyEntry(y, good.Certificate, a.roots, now); !errors.Is(err, wire.ErrEntryNotListed) {
		t.Errorf("entry of another ticket at enrolment: %v", err)
	}
	// Out of the cache an expired ticket counts on, another server's does not.
	if _, _, err := good.VerifyHeld(a.roots); err != nil {
		t.Errorf("held: %v", err)
	}
	if _, _, err := other.ticket(t, "g1", x).VerifyHeld(a.roots); !errors.Is(err, wire.ErrOtherServer) {
		t.Errorf("held, another server's: %v", err)
	}
}

// looseBits changes the bits of the last base64url digit that carry no data.
func looseBits(jws string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(digits, jws[len(jws)-1])
	return jws[:len(jws)-1] + string(digits[last^1])
}

// TestHeadersThatAreRefused signs correctly, with headers that must not count.
func TestHeadersThatAreRefused(t *testing.T) {
	a := newAuthority(t)
	payload, err := json.Marshal(wire.TicketClaims{Group: "g1", Entries: []string{}, NotBefore: now.Add(-time.Hour).Unix(), Expires: now.Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	chain := []string{base64.StdEncoding.EncodeToString(a.leafDER)}
	for name, more := range map[string]map[string]any{
		"crit": {"crit": []string{"exp"}, "exp": 1},
		"jku":  {"jku": "https://192.0.2.66/keys"},
		"x5u":  {"x5u": "https://192.0.2.66/chain"},
		"jwk":  {"jwk": map[string]string{"kty": "OKP"}},
		"kid":  {"kid": "1"},
		"typ":  {"typ": "JWT"},
		"alg":  {"alg": "none"},
		"x5c":  {"x5c": []string{}},
		"long": {"x5c": []string{"", "", "", "", ""}},
	} {
		header := map[string]any{"alg": "EdDSA", "typ": "usher-ticket", "x5c": chain}
		for k, v := range more {
			header[k] = v
		}
		raw, err := json.Marshal(header)
		if err != nil {
			t.Fatal(err)
		}
		input := base64.RawURLEncoding.EncodeToString(raw) + "." + base64.RawURLEncoding.EncodeToString(payload)
		jws := input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(a.signer, []byte(input)))
		if c, err := wire.VerifyCertificate(jws, a.roots, now); !errors.Is(err, wire.ErrMalformed) || c != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What signs is go-jose, what it makes is what the test above makes by hand.
	jws, err := jose.ParseSignedCompact(a.ticket(t, "g1").Certificate, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || jws.Signatures[0].Protected.Algorithm != "EdDSA" {
		t.Errorf("%v", err)
	}
}

// What a person calls a group is what its tickets carry.
func TestGroupNamesOfPeople(t *testing.T) {
	a := newAuthority(t)
	for _, name := range []string{"g1", "Foreign Desk", "Nachrichten & Süd <live>", strings.Repeat("x", 100)} {
		raw := a.ticket(t, name, entry("first").Encode()).Encode()
		ticket, err := wire.ParseTicket(raw)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if _, claims, err := ticket.Verify(a.roots, now); err != nil || claims.Group != name {
			t.Errorf("%q: %v, %v", name, claims, err)
		}
	}
}

func TestTicketSpellings(t *testing.T) {
	a := newAuthority(t)
	raw := string(a.ticket(t, "g1", entry("first").Encode()).Encode())
	for name, bad := range map[string]string{
		"blank":             strings.Replace(raw, `{"group"`, `{ "group"`, 1),
		"line break behind": raw + "\n",
		"name twice":        strings.Replace(raw, `{"group":"g1"`, `{"group":"g1","group":"g1"`, 1),
		"other case":        strings.Replace(raw, `"group"`, `"Group"`, 1),
		"escaped":           strings.Replace(raw, `"g1"`, `"\u00671"`, 1),
		"padded base64":     strings.Replace(raw, `"],"cert`, `="],"cert`, 1),
		"empty group":       strings.Replace(raw, `"g1"`, `""`, 1),
		"group ends blank":  strings.Replace(raw, `"g1"`, `"g1 "`, 1),
		"group of controls": strings.Replace(raw, `"g1"`, "\"g\u200b1\"", 1),
		"null entries":      `{"group":"g1","entries":null,"certificate":""}`,
		"array":             "[" + raw + "]",
		"nothing":           "",
	} {
		if ticket, err := wire.ParseTicket([]byte(bad)); err == nil || ticket != nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := wire.ParseTicket(make([]byte, wire.MaxTicket+1)); !errors.Is(err, wire.ErrTooBig) {
		t.Errorf("too big: %v", err)
	}
}

func FuzzParseTicket(f *testing.F) {
	a := newAuthority(f)
	f.Add(a.ticket(f, "g1", entry("first").Encode(), entry("second").Encode()).Encode())
	f.Add(a.ticket(f, "empty").Encode())
	f.Add([]byte(`{"group":"g","entries":[],"certificate":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ticket, err := wire.ParseTicket(raw)
		if err != nil {
			if ticket != nil {
				t.Error("a ticket and an error")
			}
			return
		}
		if again := ticket.Encode(); !bytes.Equal(again, raw) {
			t.Errorf("%q comes back as %q", raw, again)
		}
	})
}

func FuzzVerifyCertificate(f *testing.F) {
	a := newAuthority(f)
	good := a.ticket(f, "g1", entry("first").Encode()).Certificate
	f.Add(good)
	f.Add("a.b.c")
	f.Add("")
	f.Fuzz(func(t *testing.T, jws string) {
		claims, err := wire.VerifyCertificate(jws, a.roots, now)
		if err != nil && claims != nil {
			t.Error("claims and an error")
		}
		if err == nil && jws != good {
			t.Errorf("forged certificate taken: %q", jws)
		}
	})
}
