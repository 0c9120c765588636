package ticket

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

func TestPassword(t *testing.T) {
	hash, err := HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash %q", hash)
	}
	again, err := HashPassword("correct horse")
	if err != nil || again == hash {
		t.Errorf("two hashes of one password are equal (%v)", err)
	}
	c, err := newChecker(2, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		password, hash string
		want           bool
	}{
		{"correct horse", hash, true},
		{"correct horsf", hash, false},
		{"", hash, false},
		{"correct horse", "", false}, // an unknown name
		{"", "", false},
	} {
		if got, err := c.check(t.Context(), tt.password, tt.hash); got != tt.want || err != nil {
			t.Errorf("%q: %v, %v", tt.password, got, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 1025)} {
		if _, err := HashPassword(bad); err == nil {
			t.Errorf("a password of %d bytes was taken", len(bad))
		}
	}
}

// TestPHC: the reference is a value of the test suite of argon2's authors
// (password "password", salt "somesalt").
func TestPHC(t *testing.T) {
	const reference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	p, err := parsePHC(reference)
	if err != nil {
		t.Fatal(err)
	}
	if !p.matches("password") || p.matches("Password") {
		t.Error("the published value of argon2id does not match")
	}
	for _, bad := range []string{
		"", "x", "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=16$m=65536,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=99999999,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=65536,t=0,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=65536,t=2,p=9$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=65536,t=2,p=1 $c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=65536,t=2,p=1$c29t$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$AAAA",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$%",
	} {
		if p, err := parsePHC(bad); !errors.Is(err, ErrHash) || p != nil {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzPHC(f *testing.F) {
	seeds := []string{"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "$argon2id$", ""}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePHC(text)
		if (err == nil) != (p != nil) {
			t.Fatal("result and error disagree")
		}
		if p != nil && p.memory > maxMemoryKiB {
			t.Errorf("%q asks for %d KiB", text, p.memory)
		}
	})
}

// TestLoginFlood: what exceeds slots and queue is refused at once, and nothing
// is left taken.
func TestLoginFlood(t *testing.T) {
	c, err := newChecker(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	c.slots <- struct{}{} // one login that never ends
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 20)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := c.check(ctx, "x", "")
			results <- err
		})
	}
	busy := 0
	for range 17 { // 3 wait: slot and queue
		if err := <-results; !errors.Is(err, ErrBusy) {
			t.Fatalf("while all are taken: %v", err)
		}
		busy++
	}
	cancel()
	wg.Wait()
	for range 3 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("a waiting login whose client left: %v", err)
		}
	}
	<-c.slots
	if _, err := c.check(t.Context(), "x", ""); err != nil || busy != 17 {
		t.Errorf("afterwards: %v, %d refused", err, busy)
	}
}
