package tunnel_test

import (
	"regexp"
	"testing"

	"usher/tunnel"
)

// Each reason has a name that fits JSON and metrics, no two the same one, and
// a text for `usher status`.
func TestReasons(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9]+(_[a-z]+)*$`)
	seen := map[string]bool{}
	reasons := tunnel.Reasons()
	if len(reasons) < 20 {
		t.Fatalf("only %d reasons", len(reasons))
	}
	for _, r := range reasons {
		if !name.MatchString(r.String()) {
			t.Errorf("reason %d has the name %q", r, r)
		}
		if seen[r.String()] {
			t.Errorf("two reasons have the name %q", r)
		}
		seen[r.String()] = true
		if len(r.Doc()) < 15 {
			t.Errorf("%v is not explained: %q", r, r.Doc())
		}
	}
	beyond := tunnel.Reason(len(reasons))
	if beyond.String() != "unknown_reason" || beyond.Doc() != "" {
		t.Errorf("a reason out of the list is %q, %q", beyond, beyond.Doc())
	}
}
