package main

import (
	"errors"
	"testing"
)

func TestHeader(t *testing.T) {
	want := header{kind: kindPong, number: 1<<40 + 7, sentNS: 123456789012, stream: 9, length: 1200}
	b := make([]byte, 1200)
	want.put(b)
	got, err := parse(b)
	if err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"short":   func(b []byte) []byte { return b[:headerLen-1] },
		"magic":   func(b []byte) []byte { b[0]++; return b },
		"kind":    func(b []byte) []byte { b[4] = byte(kindPong) + 1; return b },
		"reserve": func(b []byte) []byte { b[6] = 1; return b },
	} {
		want.put(b)
		if got, err := parse(spoil(b)); !errors.Is(err, errNotOurs) || got != (header{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	seeds := 0
	for k := kindData; k <= kindPong; k++ {
		b := make([]byte, headerLen+int(k))
		header{kind: k, number: 1 << (8 * k), sentNS: -1, stream: 1, length: len(b)}.put(b)
		f.Add(b)
		seeds++
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parse(b)
		if err != nil {
			if h != (header{}) {
				t.Errorf("a header beside %v", err)
			}
			return
		}
		again := make([]byte, headerLen)
		h.put(again)
		if string(again) != string(b[:headerLen]) {
			t.Errorf("%x became %x", b[:headerLen], again)
		}
	})
}

func TestSizes(t *testing.T) {
	var s sizes
	for text, ok := range map[string]bool{"1200": true, "64-1372": true, "31": false, "1372-64": false, "x": false, "64-": false, "-64": false, "65508": false} {
		if err := s.Set(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	s = sizes{64, 1372}
	least, most := 1<<20, 0
	for n := range uint64(100_000) {
		v := s.of(n)
		least, most = min(least, v), max(most, v)
	}
	if least != 64 || most != 1372 {
		t.Errorf("%d to %d", least, most)
	}
	if (&s).String() != "64-1372" {
		t.Error((&s).String())
	}
}
