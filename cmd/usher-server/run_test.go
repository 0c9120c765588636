package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRun starts the server as a process: it serves, leaves no core dump, lets
// the commands at its database, refuses a second one, and stops when told to.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command("usher-server", args...)
		cmd.Env = append(os.Environ(), "USHER_SERVER_CONFIG="+filepath.Join(dir, "server.toml"))
		return cmd
	}
	must := func(args ...string) {
		t.Helper()
		if out, err := command(args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	state := filepath.Join(dir, "state")
	must("init", "--address", "127.0.0.1", "--dir", state)
	free := fmt.Sprintf("hosts = [\"127.0.0.1\"]\nstate = %q\n[ticket]\nlisten = \"127.0.0.1:0\"\n[key]\nlisten = \"127.0.0.1:0\"\n", state)
	if err := os.WriteFile(filepath.Join(dir, "server.toml"), []byte(free), 0o644); err != nil {
		t.Fatal(err)
	}
	server := command("run")
	stderr, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(30*time.Second, func() { server.Process.Kill() }) //nolint:errcheck // it has ended
	defer timer.Stop()
	lines := bufio.NewScanner(stderr)
	var log []string
	for lines.Scan() {
		log = append(log, lines.Text())
		if strings.Contains(lines.Text(), "key role serves") {
			break
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", server.Process.Pid))
	if err != nil || !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("core dumps are possible: %v\n%s", err, limits)
	}
	must("group", "add", "while it runs")
	if out, err := command("run").CombinedOutput(); err == nil || !strings.Contains(string(out), "ratchet file is in use") {
		t.Errorf("a second server on one state folder: %v\n%s", err, out)
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		log = append(log, lines.Text())
	}
	if err := server.Wait(); err != nil {
		t.Errorf("stop: %v\n%s", err, strings.Join(log, "\n"))
	}
	if last := log[len(log)-1]; !strings.Contains(last, "server stopped") {
		t.Errorf("the last line is %q", last)
	}
	must("group", "list")
}
