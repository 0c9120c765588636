package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// programs are what a lab runs besides the tools that every Debian has, each
// with the package that brings it.
var programs = []struct{ name, from string }{
	{"ip", "iproute2"},
	{"bridge", "iproute2"},
	{"nft", "nftables"},
	{"tcpdump", "tcpdump"},
	{"nsenter", "util-linux"},
	{"sleep", "coreutils"},
}

// Missing says in one line what this machine lacks for a lab, and "" when it
// lacks nothing: root, /dev/net/tun, network and mount namespaces, and the
// programs that a lab runs.
func Missing() string {
	var lacks []string
	if os.Geteuid() != 0 {
		lacks = append(lacks, "root")
	}
	if err := openTUN(); err != nil {
		lacks = append(lacks, "/dev/net/tun ("+err.Error()+")")
	}
	if os.Geteuid() == 0 {
		if err := tryNamespaces(); err != nil {
			lacks = append(lacks, "network namespaces ("+err.Error()+")")
		}
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p.name); err != nil {
			lacks = append(lacks, fmt.Sprintf("the program %s (package %s)", p.name, p.from))
		}
	}
	return strings.Join(lacks, ", ")
}

func openTUN() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func tryNamespaces() error {
	return onThrowawayThread(func() error {
		return unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
	})
}

// NeedRoot skips a test on a machine that cannot hold a lab, with one line that
// says what it lacks. Where CI=true it fails the test instead, so that a build
// machine never passes by having run nothing.
func NeedRoot(t testing.TB) {
	t.Helper()
	lacks := Missing()
	if lacks == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("lab: this machine lacks %s, and CI=true demands the test", lacks)
	}
	t.Skipf("lab: this machine lacks %s", lacks)
}

// ForTest gives a test a lab of its own: [NeedRoot], [New], and Close at the
// end of the test or at an interrupt.
func ForTest(t testing.TB) *Lab {
	t.Helper()
	NeedRoot(t)
	l, err := New("test")
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	stop := l.CloseOnSignal()
	t.Cleanup(func() {
		stop()
		if err := l.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return l
}

// TestHost is [Lab.Host] for tests: it fails the test instead of returning an
// error.
func (l *Lab) TestHost(t testing.TB, name, cidr string, opts ...Option) *Host {
	t.Helper()
	h, err := l.Host(name, cidr, opts...)
	if err != nil {
		t.Fatalf("lab: host %s: %v", name, err)
	}
	return h
}
