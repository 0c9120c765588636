package esp_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"usher/sa/esp"
)

var transforms = []esp.Transform{esp.AES256GCM, esp.ChaCha20Poly1305}

func material() []byte {
	m := make([]byte, esp.MaterialLen)
	for i := range m {
		m[i] = byte(0xa0 + i)
	}
	return m
}

func newCipher(t testing.TB, transform esp.Transform) *esp.Cipher {
	t.Helper()
	c, err := esp.New(transform, material())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func referenceAEAD(t testing.TB, transform esp.Transform, key []byte) cipher.AEAD {
	t.Helper()
	var aead cipher.AEAD
	var err error
	if transform == esp.ChaCha20Poly1305 {
		aead, err = chacha20poly1305.New(key)
	} else {
		var block cipher.Block
		if block, err = aes.NewCipher(key); err == nil {
			aead, err = cipher.NewGCM(block)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

func TestTransforms(t *testing.T) {
	for _, tc := range []struct {
		name   string
		number esp.Transform
		err    error
	}{
		{"aes-256-gcm", 20, nil},
		{"chacha20-poly1305", 28, nil},
		{"aes-gmac", 21, esp.ErrNotInThisVersion},
		{"null", 11, esp.ErrNotInThisVersion},
	} {
		got, err := esp.ParseTransform(tc.name)
		if got != tc.number || !errors.Is(err, tc.err) {
			t.Errorf("ParseTransform(%q) = %d, %v; want %d, %v", tc.name, got, err, tc.number, tc.err)
		}
		if tc.number.String() != tc.name {
			t.Errorf("%d is %q, want %q", tc.number, tc.number, tc.name)
		}
		c, err := esp.New(tc.number, material())
		if !errors.Is(err, tc.err) || (c == nil) != (err != nil) {
			t.Errorf("New(%s): %v, want %v", tc.name, err, tc.err)
		}
		if tc.err != nil && !strings.Contains(err.Error(), "not in this version") {
			t.Errorf("%q does not say what is wrong", err)
		}
	}
	var parsed esp.Transform
	text, err := esp.ChaCha20Poly1305.MarshalText()
	if err := errors.Join(err, parsed.UnmarshalText(text)); err != nil || parsed != esp.ChaCha20Poly1305 {
		t.Errorf("as text: %q, %d, %v", text, parsed, err)
	}
	if err := parsed.UnmarshalText([]byte("null")); !errors.Is(err, esp.ErrNotInThisVersion) || parsed != esp.ChaCha20Poly1305 {
		t.Errorf("refused text: %d, %v", parsed, err)
	}
	if got := esp.Transform(99).String(); got != "transform-99" {
		t.Errorf("unknown transform is %q", got)
	}
	if _, err := esp.ParseTransform("AES-256-GCM"); !errors.Is(err, esp.ErrUnknownTransform) {
		t.Errorf("another spelling: %v", err)
	}
	if _, err := esp.New(99, material()); !errors.Is(err, esp.ErrUnknownTransform) {
		t.Errorf("New(99): %v", err)
	}
	for _, n := range []int{0, 32, 35, 37} {
		if _, err := esp.New(esp.AES256GCM, make([]byte, n)); !errors.Is(err, esp.ErrMaterialLength) {
			t.Errorf("material of %d bytes: %v", n, err)
		}
	}
}

// TestSealOpenLengths covers every padding, and the capacity that Seal needs to the byte.
func TestSealOpenLengths(t *testing.T) {
	for _, transform := range transforms {
		c := newCipher(t, transform)
		for n := range 70 {
			inner := bytes.Repeat([]byte{byte(n)}, n)
			packet := seal(t, c, inner, 0xabcdef01, 7, 9, esp.NextIPv4)
			if len(packet)%4 != 0 || len(packet) != esp.SealedLen(n) || len(packet) > n+esp.Overhead {
				t.Fatalf("%d bytes become %d", n, len(packet))
			}
			got, next, err := c.Open(packet)
			if err != nil || next != esp.NextIPv4 || !bytes.Equal(got, inner) {
				t.Fatalf("%d bytes: %x, %d, %v", n, got, next, err)
			}
			if c.Seal(make([]byte, esp.SealedLen(n)-1), n, 1, 1, 1, 4) != nil {
				t.Fatalf("%d bytes: sealed without the capacity", n)
			}
		}
		if c.Seal(make([]byte, 100), -1, 1, 1, 1, 4) != nil {
			t.Error("sealed a negative length")
		}
	}
}

func TestOpenRefusesEveryChangedByteAndTruncation(t *testing.T) {
	for _, transform := range transforms {
		c := newCipher(t, transform)
		good := seal(t, c, []byte("an inner packet of some bytes"), 0x12345678, 1, 1<<48|1, esp.NextIPv4)
		for i := range good {
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[i] ^= 1 << bit
				if inner, _, err := c.Open(bad); !errors.Is(err, esp.ErrBadICV) || inner != nil {
					t.Fatalf("%s: bit %d of byte %d changed: %x, %v", transform, bit, i, inner, err)
				}
			}
		}
		for n := range len(good) {
			want := esp.ErrBadICV
			if n < esp.HeaderLen+4+esp.ICVLen || n%4 != 0 {
				want = esp.ErrShort
			}
			if _, _, err := c.Open(bytes.Clone(good[:n])); !errors.Is(err, want) {
				t.Fatalf("%s: first %d bytes: %v, want %v", transform, n, err, want)
			}
		}
		if _, _, err := c.Open(append(bytes.Clone(good), 0, 0, 0, 0)); !errors.Is(err, esp.ErrBadICV) {
			t.Errorf("%s: four bytes more: %v", transform, err)
		}
	}
}

// TestOpenTrailer has authentic packets that Seal does not make.
func TestOpenTrailer(t *testing.T) {
	for _, tc := range []struct {
		name  string
		text  []byte
		inner []byte
		next  uint8
		err   error
	}{
		{"padding to eight bytes", []byte{9, 9, 1, 2, 3, 4, 4, 4}, []byte{9, 9}, 4, nil},
		{"dummy", []byte{1, 2, 2, 59}, []byte{}, 59, nil},
		{"padding only, IPv6", []byte{1, 2, 2, 41}, []byte{}, 41, nil},
		{"traffic flow confidentiality", []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4}, []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 4, nil},
		{"longest padding", longestPadding(4), []byte{7}, 4, nil},
		{"pad length beyond the text", []byte{1, 2, 3, 4}, nil, 0, esp.ErrBadPadding},
		{"pad length 255 in four bytes", []byte{1, 2, 255, 4}, nil, 0, esp.ErrBadPadding},
		{"padding of zeros", []byte{9, 9, 9, 9, 0, 0, 2, 4}, nil, 0, esp.ErrBadPadding},
		{"padding counts wrong", []byte{9, 9, 9, 9, 1, 3, 2, 4}, nil, 0, esp.ErrBadPadding},
		{"next header UDP", []byte{9, 9, 0, 17}, nil, 0, esp.ErrBadNextHeader},
		{"next header 0", []byte{9, 9, 0, 0}, nil, 0, esp.ErrBadNextHeader},
	} {
		for _, transform := range transforms {
			c := newCipher(t, transform)
			inner, next, err := c.Open(rawPacket(t, transform, material(), tc.text))
			if !errors.Is(err, tc.err) || next != tc.next || !bytes.Equal(inner, tc.inner) || (inner == nil) != (err != nil) {
				t.Errorf("%s, %s: %x, %d, %v; want %x, %d, %v", tc.name, transform, inner, next, err, tc.inner, tc.next, tc.err)
			}
		}
	}
}

func longestPadding(next byte) []byte {
	text := []byte{7}
	for i := 1; i <= 253; i++ {
		text = append(text, byte(i))
	}
	return append(text, 253, next)
}

func TestWipe(t *testing.T) {
	c := newCipher(t, esp.AES256GCM)
	packet := seal(t, c, []byte("secret"), 0x100, 1, 1, 4)
	c.Wipe()
	if _, _, err := c.Open(packet); !errors.Is(err, esp.ErrWiped) {
		t.Errorf("open after wipe: %v", err)
	}
	if c.Seal(make([]byte, 100), 6, 0x100, 2, 2, 4) != nil {
		t.Error("sealed after wipe")
	}
	c.Wipe()
}

// TestConcurrentUse seals and opens from several goroutines while the key is wiped: each packet is
// whole or absent, never under a damaged nonce. Run with the race detector.
func TestConcurrentUse(t *testing.T) {
	c := newCipher(t, esp.AES256GCM)
	check := newCipher(t, esp.AES256GCM)
	var wg sync.WaitGroup
	for id := range uint64(4) {
		wg.Go(func() {
			buf := make([]byte, 200)
			for i := range uint64(2000) {
				inner := fmt.Appendf(buf[:esp.HeaderLen], "%d/%d", id, i)[esp.HeaderLen:]
				want := string(inner)
				packet := c.Seal(buf, len(inner), 0x100, uint32(i), id<<48|i, 4)
				if packet == nil {
					return // wiped
				}
				opener := check
				if id%2 == 0 {
					opener = c
				}
				got, _, err := opener.Open(packet)
				if errors.Is(err, esp.ErrWiped) {
					return
				}
				if err != nil || string(got) != want {
					t.Errorf("%q: %q, %v", want, got, err)
					return
				}
				if id == 3 && i == 1000 {
					c.Wipe()
				}
			}
		})
	}
	wg.Wait()
}

func TestNoAllocation(t *testing.T) {
	for _, transform := range transforms {
		c := newCipher(t, transform)
		buf := make([]byte, 1500)
		iv := uint64(0)
		allocs := testing.AllocsPerRun(1000, func() {
			iv++
			packet := c.Seal(buf, 1200, 0x100, uint32(iv), iv, esp.NextIPv4)
			if _, _, err := c.Open(packet); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations for Seal and Open", transform, allocs)
		}
		bad := make([]byte, 1236)
		if allocs = testing.AllocsPerRun(1000, func() { _, _, _ = c.Open(bad) }); allocs != 0 {
			t.Errorf("%s: %v allocations for a forged packet", transform, allocs)
		}
	}
}

func TestNeverPrintsKey(t *testing.T) {
	c := newCipher(t, esp.AES256GCM)
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "cipher", c)
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%#v %+v %x %s %q", c, c, c, c, c), string(asJSON), log.String()} {
		if !strings.Contains(s, "REDACTED") || strings.Contains(s, "salt") || strings.Contains(s, "a0a1") {
			t.Errorf("prints %q", s)
		}
	}
}

// FuzzOpen gives Open a plaintext that authenticates and a packet that need not. What opens and is
// sealed again must be the same packet where its padding is the shortest.
func FuzzOpen(f *testing.F) {
	seeds := 0
	for _, v := range vectors(f) {
		if v.Transform == "aes-256-gcm" || v.Transform == "chacha20-poly1305" {
			packet := unhex(f, v.UDPPayload)
			f.Add(packet, unhex(f, v.Inner))
			seeds++
		}
	}
	for _, text := range [][]byte{{}, {1, 2, 2, 4}, {1, 2, 255, 4}, longestPadding(41)} {
		f.Add(text, text)
		seeds++
	}
	if seeds < 40 {
		f.Fatalf("only %d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, packet, text []byte) {
		for _, transform := range transforms {
			c := newCipher(t, transform)
			if inner, _, err := c.Open(bytes.Clone(packet)); err == nil || inner != nil {
				t.Fatalf("garbage opens: %x", packet)
			}
			raw := rawPacket(t, transform, material(), text[:len(text)&^3])
			inner, next, err := c.Open(bytes.Clone(raw))
			if err != nil {
				if inner != nil {
					t.Fatalf("inner packet beside %v", err)
				}
				continue
			}
			again := seal(t, c, inner, 0x1000, 1, 7, next)
			if len(again) == len(raw) && !bytes.Equal(again, raw) || len(again) > len(raw) {
				t.Fatalf("%x opens to %x, which seals to %x", raw, inner, again)
			}
			if binary.BigEndian.Uint64(again[8:]) != 7 {
				t.Fatal("IV is lost")
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, transform := range transforms {
		b.Run(transform.String(), func(b *testing.B) {
			c := newCipher(b, transform)
			buf := make([]byte, 1500)
			b.SetBytes(1200)
			b.ReportAllocs()
			iv := uint64(0)
			for b.Loop() {
				iv++
				c.Seal(buf, 1200, 0x100, uint32(iv), iv, esp.NextIPv4)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, transform := range transforms {
		b.Run(transform.String(), func(b *testing.B) {
			c := newCipher(b, transform)
			sealed := seal(b, c, make([]byte, 1200), 0x100, 1, 1, esp.NextIPv4)
			packet := make([]byte, len(sealed))
			b.SetBytes(1200)
			b.ReportAllocs()
			for b.Loop() {
				copy(packet, sealed)
				if _, _, err := c.Open(packet); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
