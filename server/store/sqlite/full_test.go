package sqlite_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"usher/server/store"
	"usher/server/store/sqlite"
)

// fullDisk tells the re-executed test which mount point to use.
const fullDisk = "USHER_TEST_FULL_DISK"

// TestFullDisk fills a tmpfs of 1 MiB under the database. It mounts it in a
// mount namespace of a process of its own, so that nobody else sees it.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(fullDisk); dir != "" {
		mountSmall(t, dir)
		testFullDisk(t, dir)
		testReadOnlyMount(t, dir)
		return
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, to mount a small tmpfs")
		}
		t.Skip("needs root, to mount a small tmpfs")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs unshare (package util-linux)")
		}
		t.Skip("needs unshare (package util-linux)")
	}
	cmd := exec.Command(unshare, "--mount", os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), fullDisk+"="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestFullDisk") {
		t.Errorf("%v\n%s", err, out)
	}
}

func mountSmall(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("usher-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
}

func testFullDisk(t *testing.T, dir string) {
	file := filepath.Join(dir, "usher.db")
	s := open(t, file)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	// The file and its log may have room left, so many writes; the transaction
	// has two statements, of which the first may fit.
	var err error
	written := 0
	for err == nil && written < 10_000 {
		_, err = s.Update(t.Context(), func(tx store.Tx) error {
			if _, err := tx.AddGroup(t.Context(), fmt.Sprintf("%06d %s", written, strings.Repeat("x", 200))); err != nil {
				return err
			}
			_, err := tx.AddClient(t.Context(), fmt.Sprintf("%06d", written), strings.Repeat("x", 3000), nil)
			return err
		})
		if err == nil {
			written++
		}
	}
	if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "free space") {
		t.Fatalf("a full disk, after %d writes: %v", written, err)
	}
	t.Logf("after %d writes: %v", written, err)
	count := func() (groups, clients, changes int) {
		err := s.View(t.Context(), func(r store.Reader) error {
			g, err1 := r.Groups(t.Context())
			c, err2 := r.Clients(t.Context())
			l, _, err3 := r.Changes(t.Context(), 0, 1<<20)
			groups, clients, changes = len(g), len(c), len(l)
			return errors.Join(err1, err2, err3)
		})
		if err != nil {
			t.Fatalf("a full disk cannot be read: %v", err)
		}
		return groups, clients, changes
	}
	if g, c, l := count(); g != written || c != written || l != 2*written {
		t.Errorf("%d groups, %d clients, %d changes after %d writes: something half done", g, c, l, written)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := addGroup(t.Context(), s, "with room again"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if g, _, _ := count(); g != written+1 {
		t.Errorf("%d groups, want %d", g, written+1)
	}
}

// fill takes the last byte of the file system.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it is full
	for _, size := range []int{1 << 16, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// testReadOnlyMount: a file system that was remounted read-only, as ext4 is
// after an error.
func testReadOnlyMount(t *testing.T, dir string) {
	sub := filepath.Join(dir, "..", filepath.Base(dir)+"-ro")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("usher-test", sub, "tmpfs", unix.MS_RDONLY, "size=1m"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(sub, "usher.db")
	if _, err := sqlite.Open(t.Context(), file, sqlite.Options{}); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), file) {
		t.Errorf("a read-only file system: %v", err)
	}
}
