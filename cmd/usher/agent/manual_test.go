package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"usher/cmd/usher/agent/config"
	"usher/sa"
	"usher/sa/esp"
)

// TestApplyAllOrNothing: an [[sa]] whose SPI another association of the host has
// is refused before anything changes, as often as it is tried, since guard and
// routes stay those of the old configuration then; and taken once the SPI is free.
func TestApplyAllOrNothing(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(strings.Repeat("5a", 36)), 0o600); err != nil {
		t.Fatal(err)
	}
	parse := func(policy string, spi int) *config.Config {
		c, err := config.Parse("f", fmt.Appendf(nil, "[[policy]]\nname = %q\ndestination = \"232.1.2.3\"\nports = \"5004\"\n"+
			"[[sa]]\npolicy = %q\nspi = %d\nkey_file = %q\ndirection = \"receive\"\n", policy, policy, spi, key))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	m := manual{db: sa.NewDB()}
	if err := m.apply(parse("old", 0x1000)); err != nil {
		t.Fatal(err)
	}
	ticket, err := sa.NewSA(sa.Params{
		Association: "event", SPI: 0x2000, Destinations: []netip.Addr{group}, Direction: sa.Inbound,
		Transform: esp.AES256GCM, Material: bytes.Repeat([]byte{1}, esp.MaterialLen),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.db.Install(ticket); err != nil {
		t.Fatal(err)
	}
	holds := func(policy string, spi uint32) {
		t.Helper()
		s := m.db.Snapshot()
		if p := s.Policies(); len(p) != 1 || p[0].Name != policy {
			t.Errorf("policies %v", p)
		}
		if a := s.Inbound(spi, group); a == nil || a.Association() != association(policy) {
			t.Errorf("association of %s: %v", policy, a)
		}
	}
	for range 2 {
		if err := m.apply(parse("new", 0x2000)); err == nil || !strings.Contains(err.Error(), "f:7: sa[0].spi: ") {
			t.Errorf("%v", err)
		}
		holds("old", 0x1000)
	}
	m.db.Remove("event", nil)
	if err := m.apply(parse("new", 0x2000)); err != nil {
		t.Error(err)
	}
	holds("new", 0x2000)
	if err := m.apply(parse("other", 0x2000)); err != nil { // the SPI is our own
		t.Error(err)
	}
	holds("other", 0x2000)
}
