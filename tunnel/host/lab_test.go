package host_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"usher/scripts/lab"
	"usher/tunnel/host"
)

// patience is how long a test waits for what shall come; it says nothing about
// how soon it comes.
const patience = 10 * time.Second

var (
	group   = netip.MustParseAddr("232.1.2.3")
	sender  = netip.MustParseAddr("10.77.0.11") // alice
	quiet   = slog.New(slog.DiscardHandler)
	tunName = host.DefaultTUN
)

// flow is the event of most tests: one port of one group, sent by alice.
func flow() host.Flow {
	return host.Flow{Protocol: "udp", Destination: group, FirstPort: 5004, LastPort: 5004, Source: sender}
}

func plan(flows ...host.Flow) host.Plan { return host.Plan{Flows: flows} }

// network is alice, who is protected, and mallory, who is on the same wire.
type network struct {
	*lab.Lab
	alice, mallory *lab.Host
}

func newNetwork(t *testing.T) network {
	t.Helper()
	l := lab.ForTest(t)
	n := network{l, l.TestHost(t, "alice", "10.77.0.11/24"), l.TestHost(t, "mallory", "10.77.0.66/24")}
	for _, h := range []*lab.Host{n.alice, n.mallory} {
		run(t, h, "ip route add default dev eth0")
	}
	return n
}

// run runs a command line inside a host.
func run(t *testing.T, h *lab.Host, line string) string {
	t.Helper()
	out, err := h.Run(t.Context(), "sh", "-c", line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return out
}

// inside runs f in the host's network and fails the test with its error.
func inside(t *testing.T, h *lab.Host, f func() error) {
	t.Helper()
	if err := h.Do(f); err != nil {
		t.Fatal(err)
	}
}

// makeTUN makes the persistent, multi-queue TUN that the agent would make, and
// leaves it as a dead agent does: nobody reads it.
func makeTUN(t *testing.T, h *lab.Host) {
	t.Helper()
	inside(t, h, func() error {
		tun := &netlink.Tuntap{
			LinkAttrs: netlink.LinkAttrs{Name: tunName}, Mode: netlink.TUNTAP_MODE_TUN,
			Flags: netlink.TUNTAP_MULTI_QUEUE_DEFAULTS | netlink.TUNTAP_NO_PI, Queues: 1,
		}
		err := netlink.LinkAdd(tun)
		for _, queue := range tun.Fds {
			err = errors.Join(err, queue.Close())
		}
		return err
	})
}

// keep starts a keeper on the host with the plan, and ends it with the test.
func keep(t *testing.T, h *lab.Host, p host.Plan, onChange func(host.Change)) *host.Keeper {
	t.Helper()
	k := host.New(quiet)
	k.OnChange(onChange)
	inside(t, h, func() error {
		if err := k.Set(t.Context(), p); err != nil && !errors.Is(err, host.ErrNoTUN) {
			return err
		}
		return nil
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Do(func() error { return k.Run(ctx) }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("keeper: %v", err)
		}
	})
	return k
}

// eventually waits until look, run in the host's network, returns nil.
func eventually(t *testing.T, h *lab.Host, what string, look func() error) {
	t.Helper()
	if err := lab.Within(patience, what, func() error { return h.Do(look) }); err != nil {
		t.Fatal(err)
	}
}

// drain returns what a socket has got up to the first datagram that says end.
func drain(t *testing.T, conn net.PacketConn) []string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var got []string
	buf := make([]byte, 64<<10)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("after %d datagrams: %v", len(got), err)
		}
		if string(buf[:n]) == "end" {
			return got
		}
		got = append(got, strings.TrimRight(string(buf[:min(n, 16)]), "x"))
	}
}

// datagram builds an IPv4 packet with a UDP datagram, checksum left out (RFC
// 768: zero means none).
func datagram(src, dst netip.Addr, port uint16, payload string) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 8, unix.IPPROTO_UDP
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[20:], 40000)
	binary.BigEndian.PutUint16(b[22:], port)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return append(b, payload...)
}

// fragments cuts a packet in two at 1,024 bytes of payload.
func fragments(p []byte) [][]byte {
	const at = 20 + 1024
	first := append([]byte(nil), p[:at]...)
	second := append(append([]byte(nil), p[:20]...), p[at:]...)
	for i, f := range [][]byte{first, second} {
		binary.BigEndian.PutUint16(f[4:], 77)
		binary.BigEndian.PutUint16(f[6:], []uint16{0x2000, 1024 / 8}[i])
	}
	return [][]byte{first, second}
}

// inject sends ready-made IPv4 packets from a host, whatever source they name.
func inject(t *testing.T, h *lab.Host, packets ...[]byte) {
	t.Helper()
	inside(t, h, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: [4]byte(p[16:20])}); err != nil {
				return fmt.Errorf("inject: %w", err)
			}
		}
		return nil
	})
}

// sendByEth0 sends one datagram as a program does that names the real interface.
func sendByEth0(port uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, sender.As4()); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte("clear"), 0, &unix.SockaddrInet4{Port: int(port), Addr: group.As4()})
}
