package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"usher-server": main})
}

// TestScripts runs the commands as a person does, each script on a server of
// its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("USHER_SERVER_CONFIG", filepath.Join(e.WorkDir, "etc", "server.toml"))
			e.Setenv("TZ", "Europe/Berlin")
			return nil
		},
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": exitStatus,
		},
	})
}

// exitStatus runs a command and checks its exit status: status 6 usher-server …
func exitStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%v: exit status %s, want %s", args[1:], got, args[0])
	}
}

// testHost is a host whose clock stands at 2026-11-25 19:00 in Berlin.
func testHost(out, errOut io.Writer, file string) host {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return host{}
	}
	return host{in: os.Stdin, out: out, err: errOut, zone: zone,
		getenv: func(name string) string { return map[string]string{"USHER_SERVER_CONFIG": file}[name] },
		now:    func() time.Time { return time.Date(2026, 11, 25, 18, 0, 0, 500, time.UTC) },
	}
}

// TestTimesOfTheViewer: an event in New York's evening is shown in the viewer's
// zone, over both countries' clock changes.
func TestTimesOfTheViewer(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		var out, errOut bytes.Buffer
		if status := execute(t.Context(), args, testHost(&out, &errOut, filepath.Join(dir, "server.toml"))); status != 0 {
			t.Fatalf("%v: %d %s", args, status, &errOut)
		}
		return out.String()
	}
	run("init", "--address", "127.0.0.1", "--dir", filepath.Join(dir, "state"))
	run("group", "add", "g")
	for _, tt := range []struct {
		title, start, zone, want string
	}{
		{"New York", "2026-11-25T20:00:00", "America/New_York", "2026-11-26 02:00:00 CET"},
		{"offset", "2026-11-25T20:00:00-05:00", "", "2026-11-26 02:00:00 CET"},
		{"offset within a zone", "2027-07-01T20:00:00Z", "America/New_York", "2027-07-01 22:00:00 CEST"},
		{"soon", "+8s", "", "2026-11-25 19:00:09 CET"}, // rounded up to a whole second
		{"soon in a zone", "+1h", "Asia/Tokyo", "2026-11-25 20:00:01 CET"},
		{"left out by the change", "2027-03-28T02:30:00", "Europe/Berlin", "2027-03-28 03:30:00 CEST"},
	} {
		out := run("event", "add", tt.title, "--group", "g", "--sender", "192.0.2.1", "--flow", "udp/232.0.0.1/5004",
			"--start", tt.start, "--zone", tt.zone, "--duration", "20m")
		if !strings.Contains(out, tt.want) {
			t.Errorf("%s: %s lacks %s", tt.title, out, tt.want)
		}
		run("event", "delete", tt.title)
	}
}

func TestExpressionDuration(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "90m": "PT1H30M", "40s": "PT40S", "48h": "PT48H", "1h0m5s": "PT1H5S", "P1D": "P1D",
	} {
		if got, err := expressionDuration(text); got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
	for _, bad := range []string{"0s", "-5m", "1.5s", "5", "an hour"} {
		if got, err := expressionDuration(bad); err == nil {
			t.Errorf("%s: %s", bad, got)
		}
	}
}

// TestAnswersInJSON: an error is one JSON value on standard output, too.
func TestAnswersInJSON(t *testing.T) {
	var out, errOut bytes.Buffer
	h := testHost(&out, &errOut, filepath.Join(t.TempDir(), "none.toml"))
	if status := execute(t.Context(), []string{"group", "list", "--json"}, h); status != exitFailed {
		t.Errorf("exit status %d", status)
	}
	if !strings.HasPrefix(out.String(), `{"error":{"code":"failed","message":"open `) || errOut.Len() != 0 {
		t.Errorf("out %q, err %q", &out, &errOut)
	}
}
