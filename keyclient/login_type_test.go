package keyclient_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"usher/keyclient"
)

// However a login is printed, logged or marshalled: its password is not there.
func TestLoginHidesItsPassword(t *testing.T) {
	l := keyclient.Login{Name: "alice", Password: []byte("hunter2")}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "login", l, "pointer", &l)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "login", l, "pointer", &l)
	raw, err := json.Marshal(map[string]any{"login": l, "pointer": &l})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(raw)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%o"} {
		all += fmt.Sprintf(verb, l) + fmt.Sprintf(verb, &l) + fmt.Sprintf(verb, []keyclient.Login{l})
	}
	for _, form := range []string{"hunter2", "aHVudGVyMg", "104 117 110", "68756e74657232", "68756E74657232", "150 165 156"} {
		if strings.Contains(all, form) {
			t.Errorf("the password shows as %s:\n%s", form, all)
		}
	}
}
