package live

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programs is where the two programs lie, once built.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

// TestMain removes what build made.
func TestMain(m *testing.M) {
	status := m.Run()
	if programs.dir != "" {
		os.RemoveAll(programs.dir)
	}
	os.Exit(status) //nolint:forbidigo // the end of a test binary
}

// build builds both programs, once, and returns their folder. It is readable for
// all: one test runs them as another user.
func build(t *testing.T) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "usher-live-"); programs.err != nil {
			return
		}
		if programs.err = os.Chmod(programs.dir, 0o755); programs.err != nil {
			return
		}
		for _, name := range []string{"usher", "usher-server"} {
			out, err := exec.Command("go", "build", "-o", filepath.Join(programs.dir, name), "usher/cmd/"+name).CombinedOutput()
			if err != nil {
				programs.err = fmt.Errorf("go build usher/cmd/%s: %w\n%s", name, err, out)
				return
			}
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir
}
