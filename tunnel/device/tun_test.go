package device_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/scripts/lab"
	"usher/tunnel/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a lab's host, and a folder for locks.
func host(t *testing.T) (*lab.Host, string) {
	t.Helper()
	return lab.ForTest(t).TestHost(t, "alice", "10.77.0.11/24"), t.TempDir()
}

func ip(t *testing.T, h *lab.Host, args ...string) string {
	t.Helper()
	out, err := h.Run(context.Background(), "ip", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// open opens the TUN in the host's namespace.
func open(h *lab.Host, name string, mtu int, lockDir string) (d *device.TUN, err error) {
	return d, errors.Join(h.Do(func() (e error) {
		d, e = device.Open(name, mtu, lockDir)
		return e
	}))
}

func mustOpen(t *testing.T, h *lab.Host, lockDir string) *device.TUN {
	t.Helper()
	d, err := open(h, "usher0", 1400, lockDir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func closeDevice(t *testing.T, d *device.TUN) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Interface, address and route outlive the one who opened it; whoever opens it
// next sets the MTU anew and reads what is sent. Nothing is left open.
func TestPersistent(t *testing.T) {
	h, locks := host(t)
	var before int
	for round := range 3 {
		if round == 1 {
			before = openFiles(t)
		}
		d := mustOpen(t, h, locks)
		if round == 0 {
			ip(t, h, "addr", "add", "169.254.77.1/32", "dev", "usher0")
			ip(t, h, "link", "set", "usher0", "up")
			ip(t, h, "route", "add", "232.1.2.3/32", "dev", "usher0", "src", "10.77.0.11")
		}
		if d.Name() != "usher0" {
			t.Errorf("its name is %q", d.Name())
		}
		err := h.Do(func() error {
			mtu, err := d.MTU()
			if mtu != 1400 {
				t.Errorf("MTU %d", mtu)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		ping(t, h, d)
		closeDevice(t, d)
		closeDevice(t, d)
		ip(t, h, "link", "set", "usher0", "mtu", "1300")
		if out := ip(t, h, "addr", "show", "usher0"); !strings.Contains(out, "169.254.77.1/32") {
			t.Errorf("the address has gone: %s", out)
		}
		if out := ip(t, h, "route", "show"); !strings.Contains(out, "232.1.2.3 dev usher0") {
			t.Errorf("the route has gone: %s", out)
		}
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files open, %d before", after, before)
	}
	for range 2 {
		if err := h.Do(func() error { return device.Remove("usher0") }); err != nil {
			t.Error(err)
		}
		if out, err := h.Run(context.Background(), "ip", "link", "show", "usher0"); err == nil {
			t.Errorf("still there: %s", out)
		}
	}
}

// ping sends a datagram to the group as an application, and reads it from d.
func ping(t *testing.T, h *lab.Host, d *device.TUN) {
	t.Helper()
	text := []byte(fmt.Sprintf("ping at %d", time.Now().UnixNano()))
	if err := h.Do(func() error { return sendUDP("232.1.2.3:5004", text) }); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, device.MaxPacket)
	err := lab.Within(10*time.Second, "the datagram to come out", func() error {
		for {
			n, err := d.Read(buf)
			if err != nil {
				return err
			}
			if bytes.HasSuffix(buf[:n], text) {
				if hdr, err := device.ParseHeader(buf[:n]); err != nil || hdr.Kind != device.KindNone {
					t.Errorf("offload header %+v, %v", hdr, err)
				}
				return nil
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Wait sleeps until there is something, and ends with Wake for good.
func TestWait(t *testing.T) {
	h, locks := host(t)
	d := mustOpen(t, h, locks)
	defer closeDevice(t, d)
	ip(t, h, "link", "set", "usher0", "up")
	ip(t, h, "route", "add", "232.1.2.3/32", "dev", "usher0")
	woken := make(chan bool)
	go func() { woken <- d.Wait() }()
	ping(t, h, d)
	if !<-woken {
		t.Error("Wait says that it was woken")
	}
	drained := make([]byte, device.MaxPacket)
	for {
		if _, err := d.Read(drained); errors.Is(err, device.ErrAgain) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	d.Wake()
	for range 3 {
		if d.Wait() {
			t.Error("Wait after Wake says that there is something")
		}
	}
}

// A second agent is refused, and told who holds the interface, whether it
// shares the lock file or not.
func TestTwoAgents(t *testing.T) {
	h, locks := host(t)
	d := mustOpen(t, h, locks)
	ip(t, h, "link", "set", "usher0", "up")
	_, err := open(h, "usher0", 1400, locks)
	if !errors.Is(err, device.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("same lock: %v", err)
	}
	if _, err := open(h, "usher0", 1400, t.TempDir()); !errors.Is(err, device.ErrInUse) {
		t.Errorf("other lock: %v", err)
	}
	if err := h.Do(func() error { return device.Remove("usher0") }); !errors.Is(err, device.ErrInUse) {
		t.Errorf("remove: %v", err)
	}
	other, err := open(h, "usher1", 1400, locks)
	if err != nil {
		t.Errorf("another interface: %v", err)
	} else {
		closeDevice(t, other)
	}
	closeDevice(t, d)
	closeDevice(t, mustOpen(t, h, locks))
}

// Interfaces that are of another kind are named, and left alone.
func TestNotOurs(t *testing.T) {
	h, locks := host(t)
	for _, c := range []struct {
		make []string
		says string
	}{
		{[]string{"tuntap", "add", "usher0", "mode", "tun"}, "single queue"},
		{[]string{"tuntap", "add", "usher0", "mode", "tap"}, "TAP"},
		{[]string{"tuntap", "add", "usher0", "mode", "tap", "multi_queue"}, "TAP"},
		{[]string{"link", "add", "usher0", "type", "veth", "peer", "name", "other"}, "veth"},
	} {
		ip(t, h, c.make...)
		if _, err := open(h, "usher0", 1400, locks); !errors.Is(err, device.ErrNotOurs) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("open %v: %v", c.make, err)
		}
		if err := h.Do(func() error { return device.Remove("usher0") }); !errors.Is(err, device.ErrNotOurs) {
			t.Errorf("remove %v: %v", c.make, err)
		}
		ip(t, h, "link", "del", "usher0")
	}
}

// An interface that somebody deletes ends Wait and Read, and refuses Write.
func TestRemovedUnderUs(t *testing.T) {
	h, locks := host(t)
	d := mustOpen(t, h, locks)
	defer closeDevice(t, d)
	ip(t, h, "link", "set", "usher0", "up")
	ip(t, h, "link", "del", "usher0")
	if !d.Wait() {
		t.Error("Wait says that it was woken")
	}
	if _, err := d.Read(make([]byte, 100)); !errors.Is(err, device.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	packet := make([]byte, device.HeaderLen+28, 200)
	packet[device.HeaderLen] = 0x45
	if refused, err := d.Write([][]byte{packet}, device.HeaderLen); refused != 1 || err == nil {
		t.Errorf("write: %d refused, %v", refused, err)
	}
}

// While the interface is down every packet is refused, and counted.
func TestDown(t *testing.T) {
	h, locks := host(t)
	d := mustOpen(t, h, locks)
	defer closeDevice(t, d)
	var bufs [][]byte
	for range 5 {
		b := make([]byte, device.HeaderLen+28, device.MergeCapacity)
		copy(b[device.HeaderLen:], []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 8, 17})
		bufs = append(bufs, b)
	}
	if refused, err := d.Write(bufs, device.HeaderLen); refused != 5 || err == nil {
		t.Errorf("%d refused, %v", refused, err)
	}
}

// What needs no TUN to be refused.
func TestRefused(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a b", "a:b", "usher%d", "sixteen-or-more-"} {
		if _, err := device.Open(name, 1400, t.TempDir()); !errors.Is(err, device.ErrName) {
			t.Errorf("open %q: %v", name, err)
		}
		if err := device.Remove(name); !errors.Is(err, device.ErrName) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	for _, mtu := range []int{-1, 0, 67, 65536} {
		if _, err := device.Open("usher0", mtu, t.TempDir()); !errors.Is(err, device.ErrMTU) {
			t.Errorf("MTU %d: %v", mtu, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := device.Open("usher-none", 1400, file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file in the place of the lock's folder: %v", err)
	}
}

func TestHeader(t *testing.T) {
	want := device.Header{NeedsChecksum: true, Kind: device.KindUDP, SegmentSize: 1200, ChecksumStart: 20, ChecksumOffset: 6}
	b := make([]byte, device.HeaderLen)
	if err := want.Encode(b); err != nil {
		t.Fatal(err)
	}
	if got, err := device.ParseHeader(b); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := device.ParseHeader(b[:9]); !errors.Is(err, device.ErrShort) {
		t.Errorf("short: %v", err)
	}
	if err := want.Encode(b[:9]); !errors.Is(err, device.ErrShort) {
		t.Errorf("short: %v", err)
	}
}
