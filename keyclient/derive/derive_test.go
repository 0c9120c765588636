package derive_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"usher/keyclient/derive"
)

// vector is one case of kdf.json or spi.json; each uses the fields it needs.
type vector struct {
	What, Name, Label            string
	K, S, Context, Out           string
	Event                        string `json:"event_id"`
	StartS                       uint64 `json:"start_s"`
	Incarnation                  uint32
	Tag, Transform, Message, MAC string
	Length                       int
	Inner                        string `json:"inner_address"`
	TLSContext                   string `json:"tls_context"`
	Interval                     uint32
	SPI                          uint32
}

func vectors(t *testing.T, file string) []vector {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Cases []vector }
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Cases) == 0 {
		t.Fatal("no cases")
	}
	return all.Cases
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func secret(t *testing.T, s string) *derive.Secret {
	t.Helper()
	k, err := derive.NewSecret(unhex(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKDFVectors(t *testing.T) {
	seen := map[string]int{}
	for i, v := range vectors(t, "kdf.json") {
		t.Run(fmt.Sprintf("%d %s", i, v.What), func(t *testing.T) {
			seen[strings.Fields(v.What)[0]]++
			switch v.What {
			case "tag":
				id, err := derive.ParseEventID(v.Event)
				if err != nil {
					t.Fatal(err)
				}
				if got := derive.OccurrenceTag(id, v.StartS, v.Incarnation).String(); got != v.Tag {
					t.Errorf("tag = %s, want %s", got, v.Tag)
				}
				return
			case "X":
				if got := derive.Extract(secret(t, v.S), secret(t, v.K)); !got.Equal(secret(t, v.Out)) {
					t.Error("X differs")
				}
				return
			case "MAC":
				got := derive.MAC(secret(t, v.K), unhex(t, v.Message))
				if hex.EncodeToString(got[:]) != v.MAC {
					t.Errorf("MAC = %x, want %s", got, v.MAC)
				}
				return
			case "exporter":
				context := unhex(t, v.TLSContext)
				got := derive.ExporterContext(derive.Tag(context[:8]), [16]byte(context[8:]))
				if !bytes.Equal(got, context) || v.Label != derive.ExporterLabel {
					t.Errorf("exporter: %q %x", derive.ExporterLabel, got)
				}
				return
			}
			k, context, want := secret(t, v.K), unhex(t, v.Context), unhex(t, v.Out)
			if got := derive.KDF(k, v.Label, context, v.Length); !bytes.Equal(got, want) {
				t.Errorf("KDF = %x, want %x", got, want)
			}
			if got, named := named(v, k, context); named && !bytes.Equal(got, want) {
				t.Errorf("by name: %x, want %x", got, want)
			}
		})
	}
	for _, what := range []string{"tag", "W", "B", "traffic", "R", "T,", "Q", "P", "step", "M", "E", "X", "MAC", "exporter"} {
		if seen[what] == 0 {
			t.Errorf("no case for %s", what)
		}
	}
}

// named calls the function that stands for the label; false where this version
// has none (push wraps, unicast intros).
func named(v vector, k *derive.Secret, context []byte) ([]byte, bool) {
	u32 := func(at int) uint32 {
		return uint32(context[at])<<24 | uint32(context[at+1])<<16 | uint32(context[at+2])<<8 | uint32(context[at+3])
	}
	switch v.Label {
	case "cookie":
		return derive.CookieKey(k, derive.Tag(context[:8]), u32(8)).Bytes(), true
	case "group":
		return derive.GroupKey(k, derive.Tag(context[:8]), u32(8)).Bytes(), true
	case "esp":
		got := derive.TrafficKey(k, derive.Tag(context[:8]), u32(8), context[12])
		return got[:], true
	case "push":
		return derive.PushSecret(k, derive.Tag(context[:8]), u32(8)).Bytes(), true
	case "tree":
		return derive.TreeSecret(k, derive.Tag(context[:8]), u32(8)).Bytes(), true
	case "hub":
		return derive.HubKey(k, derive.Tag(context[:8]), u32(8), u32(12)).Bytes(), true
	case "pair":
		return derive.PairKey(k, u32(0), netip.MustParseAddr(v.Inner).As16()).Bytes(), true
	case "step":
		a, next := derive.Step(k, derive.Tag(context))
		return append(append([]byte{}, a.Bytes()...), next.Bytes()...), true
	case "epoch":
		return derive.NextEpoch(k, uint64(u32(0))<<32|uint64(u32(4))).Bytes(), true
	case "seal":
		return derive.SealKey(k).Bytes(), true
	}
	return nil, false
}

func TestSPIVectors(t *testing.T) {
	for _, v := range vectors(t, "spi.json") {
		tag := derive.Tag(unhex(t, v.Tag))
		prefix := derive.SPIPrefix(tag)
		if got := derive.SPI(tag, v.Interval); got != v.SPI || hex.EncodeToString(prefix[:]) != v.S {
			t.Errorf("tag %s interval %d: %d and %x, want %d and %s", v.Tag, v.Interval, got, prefix, v.SPI, v.S)
		}
	}
}

func TestAEADHasTheSizesOfThePage(t *testing.T) {
	aead := derive.NewAEAD(derive.RandomSecret())
	if aead.NonceSize() != 12 || aead.Overhead() != 16 {
		t.Errorf("nonce %d, tag %d", aead.NonceSize(), aead.Overhead())
	}
}

func TestSecretNeverShowsItself(t *testing.T) {
	s := secret(t, strings.Repeat("41", 32)) // "AAAA…"
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("message", "secret", s)
	asJSON, err := json.Marshal(map[string]any{"s": s})
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{
		fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %x %q %d", s, s, s, s, s, s, s), s.GoString(),
		fmt.Sprintf("%v", struct{ S *derive.Secret }{s}.S), log.String(), string(asJSON), string(text),
	} {
		if !strings.Contains(shown, "REDACTED") || strings.Contains(shown, "AAAA") || strings.Contains(shown, "4141") || strings.Contains(shown, "65 65") {
			t.Errorf("shown as %s", shown)
		}
	}
}

func TestSecretLengthAndWipe(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		if s, err := derive.NewSecret(make([]byte, n)); err == nil || s != nil {
			t.Errorf("%d bytes taken", n)
		}
	}
	s := derive.RandomSecret()
	if s.Equal(derive.RandomSecret()) {
		t.Error("two random secrets are equal")
	}
	b := s.Bytes()
	s.Wipe()
	if !bytes.Equal(b, make([]byte, 32)) {
		t.Error("not wiped")
	}
	(*derive.Secret)(nil).Wipe()
}

func FuzzParseEventID(f *testing.F) {
	for _, s := range []string{"63ec61668c260f17c3aa60512a8a6e41", "63EC61668c260f17c3aa60512a8a6e41", "", "63ec"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := derive.ParseEventID(s)
		if err != nil {
			if id != (derive.EventID{}) {
				t.Error("an id and an error")
			}
			return
		}
		if id.String() != s {
			t.Errorf("%q comes back as %q", s, id)
		}
	})
}

func TestTextForms(t *testing.T) {
	id := derive.NewEventID()
	tag := derive.OccurrenceTag(id, 1, 0)
	raw, err := json.Marshal(map[string]any{"id": id, "tag": tag})
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		ID  derive.EventID
		Tag derive.Tag
	}
	if err := json.Unmarshal(raw, &back); err != nil || back.ID != id || back.Tag != tag {
		t.Errorf("%s: %v %v", raw, back, err)
	}
	if err := json.Unmarshal([]byte(`{"tag":"00"}`), &back); err == nil {
		t.Error("short tag taken")
	}
}
