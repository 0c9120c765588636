package key

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/store"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

func (h hexBytes) secret(t *testing.T) *derive.Secret {
	t.Helper()
	s, err := derive.NewSecret(h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// vectors reads the cases of one file of golden vectors.
func vectors[T any](t *testing.T, name string) []T {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []T }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) == 0 {
		t.Fatalf("%s has no cases", name)
	}
	return file.Cases
}

// TestRowVectors opens and seals the rows of the published vectors, byte for
// byte, and opens none of the bad ones.
func TestRowVectors(t *testing.T) {
	type vector struct {
		Expect, Why   string
		M             hexBytes
		EpochOfM      uint64 `json:"epoch_of_M"`
		Tag           hexBytes
		Interval      uint32
		IntervalEndMS int64 `json:"interval_end_ms"`
		LingerMS      int64 `json:"linger_ms"`
		X             uint64
		Nonce         hexBytes
		C             hexBytes
		Sealed        hexBytes
	}
	for _, v := range vectors[vector](t, "rows.json") {
		name := v.Expect + " " + v.Why
		tag := derive.Tag(v.Tag)
		row := store.Row{Tag: tag, Interval: v.Interval, Epoch: v.X, Sealed: [store.SealedLen]byte(v.Sealed)}
		walk := &epochWalk{epoch: v.EpochOfM, m: v.M.secret(t)}
		e, err := walk.sealKey(v.X)
		var c *derive.Secret
		if err == nil {
			c, err = openRow(e, &row)
		}
		if v.Expect != "opens" {
			if !errors.Is(err, ErrForgotten) && !errors.Is(err, ErrRowNotOpened) {
				t.Errorf("%s: error %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !c.Equal(v.C.secret(t)) {
			t.Errorf("%s: opened another secret", name)
		}
		if v.LingerMS != schedule.LingerMS || rowEpoch(v.IntervalEndMS) != v.X {
			t.Errorf("%s: epoch %d of an interval that ends at %d, want %d", name, rowEpoch(v.IntervalEndMS), v.IntervalEndMS, v.X)
		}
		if got := sealRow(e, tag, v.Interval, v.X, [12]byte(v.Nonce), c); got != row {
			t.Errorf("%s: sealed %x, want %x", name, got.Sealed, row.Sealed)
		}
	}
}
