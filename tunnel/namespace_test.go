package tunnel_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"usher/sa"
	"usher/scripts/lab"
	"usher/tunnel"
	"usher/tunnel/device"
	"usher/tunnel/underlay"
)

// agent is a tunnel on real interfaces in a host of a lab:
//
//	application ── usher0 ── tunnel ── eth0 ──┬── eth0 ── tunnel ── usher0 ── application
//	       alice 10.77.0.1                   br0            bob 10.77.0.2
type agent struct {
	*lab.Host
	device *device.TUN
	conn   *underlay.UDP
	groups *underlay.Memberships
	db     *sa.DB
	tunnel *tunnel.Tunnel
}

var (
	aliceAddr = netip.MustParseAddr("10.77.0.1")
	bobAddr   = netip.MustParseAddr("10.77.0.2")
)

func bootNS() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return now.Nano()
}

// newAgent opens the interfaces of a new host. What it makes ends with the
// test.
func newAgent(t *testing.T, l *lab.Lab, name string, address netip.Addr) *agent {
	t.Helper()
	a := &agent{Host: l.TestHost(t, name, address.String()+"/24"), groups: underlay.NewMemberships(), db: sa.NewDB()}
	err := a.Do(func() (err error) {
		if a.device, err = device.Open("usher0", 1400, t.TempDir()); err != nil {
			return err
		}
		a.conn, err = underlay.Open(underlay.Config{Interface: "eth0"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(a.device.Close(), a.conn.Close(), a.groups.Close()); err != nil {
			t.Error(err)
		}
	})
	for _, line := range []string{
		"ip addr add 169.254.77.1/32 dev usher0",
		"ip link set usher0 up",
		fmt.Sprintf("ip route add %s/32 dev usher0 src %s", group, address),
		"sysctl -qw net.ipv4.conf.usher0.rp_filter=2",
	} {
		words := strings.Fields(line)
		if _, err := a.Run(context.Background(), words[0], words[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	p := policy()
	p.Source = netip.PrefixFrom(aliceAddr, 32)
	if err := a.db.SetPolicies(sa.OriginTicket, []sa.Policy{p}); err != nil {
		t.Fatal(err)
	}
	a.tunnel, err = tunnel.New(tunnel.Config{Device: a.device, Underlay: a.conn, DB: a.db, BootNS: bootNS})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	finished := make(chan error, 1)
	go func() { finished <- a.tunnel.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-finished; err != nil {
			t.Errorf("%s: the tunnel ended with %v", name, err)
		}
	})
	return a
}

// install puts interval i's key into force.
func (a *agent) install(t *testing.T, i uint32, direction sa.Direction) {
	t.Helper()
	p := params(i, direction)
	p.Gather = 200 * time.Microsecond
	s, err := sa.NewSA(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.db.Install(s); err != nil {
		t.Fatal(err)
	}
}

// join joins (alice,G) on both interfaces, and waits until the switch knows.
func (a *agent) join(t *testing.T, l *lab.Lab) {
	t.Helper()
	err := a.Do(func() error {
		for _, name := range []string{"eth0", "usher0"} {
			link, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			if err := a.groups.Join(group, aliceAddr, link.Index); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = lab.Within(10*time.Second, "the switch to learn of the join", func() error {
		out, err := l.Switch().Run(context.Background(), "bridge", "mdb", "show")
		if err == nil && !strings.Contains(out, a.Port("eth0")+" grp "+group.String()) {
			err = fmt.Errorf("its table is %q", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// socket opens an application's UDP socket in the host; port 0 does not bind.
func (a *agent) socket(t *testing.T, port int) (fd int) {
	t.Helper()
	err := a.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		if port == 0 {
			return nil
		}
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: group.As4()}))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// stream is what an application sends: datagrams with a number in front.
type stream struct {
	fd   int
	sent uint32
}

func (s *stream) datagram(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i) ^ byte(s.sent*7)
	}
	binary.BigEndian.PutUint32(b, s.sent)
	s.sent++
	return b
}

// send sends count datagrams of a size, with one system call if super.
func (s *stream) send(t *testing.T, size, count int, super bool) {
	t.Helper()
	var all []byte
	to := &unix.SockaddrInet4{Port: 5004, Addr: group.As4()}
	for range count {
		one := s.datagram(size)
		if super {
			all = append(all, one...)
			continue
		}
		if err := unix.Sendto(s.fd, one, 0, to); err != nil {
			t.Fatal(err)
		}
	}
	if !super {
		return
	}
	control := make([]byte, unix.CmsgSpace(2))
	binary.NativeEndian.PutUint64(control, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(control[8:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(control[12:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(control[16:], uint16(size))
	if err := unix.Sendmsg(s.fd, all, control, to, 0); err != nil {
		t.Fatal(err)
	}
}

// receive reads datagrams until number last has come, and fails unless each is
// what was sent, in order and without a gap.
func receive(t *testing.T, fd int, next *uint32, last uint32, report func() string) {
	t.Helper()
	buf := make([]byte, 65536)
	err := lab.Within(15*time.Second, fmt.Sprintf("datagram %d", last), func() error {
		for *next <= last {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return err
			}
			want := stream{sent: *next}
			if !bytes.Equal(buf[:n], want.datagram(n)) {
				t.Fatalf("datagram %d is not what was sent as %d", binary.BigEndian.Uint32(buf), *next)
			}
			*next++
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v; %s", err, report())
	}
}

// Thousands of datagrams of mixed sizes, alone, in bursts and by UDP_SEGMENT,
// go through two real TUNs and a switch with IGMPv3 snooping, while the key
// changes: each arrives once, in order, as it was.
func TestRealInterfaces(t *testing.T) {
	l := lab.ForTest(t)
	alice, bob := newAgent(t, l, "alice", aliceAddr), newAgent(t, l, "bob", bobAddr)
	bob.join(t, l)
	s, app := stream{fd: alice.socket(t, 0)}, bob.socket(t, 5004)
	report := func() string {
		return fmt.Sprintf("sender %+v, %+v, receiver %+v", alice.tunnel.Counters().Snapshot().Out, alice.conn.Stats(), bob.tunnel.Counters().Snapshot().In)
	}
	next := uint32(0)
	for i := range uint32(12) {
		bob.install(t, i, sa.Inbound)
		alice.install(t, i, sa.Outbound)
		for _, size := range []int{4, 100, 1200, 1316, 1372} {
			s.send(t, size, 1, false)
			receive(t, app, &next, s.sent-1, report)
			s.send(t, size, 50, false)
			s.send(t, size, 40, size < 1200 || i%2 == 0)
			s.send(t, size/2+4, 7, false)
			receive(t, app, &next, s.sent-1, report)
		}
	}
	if s.sent < 5000 {
		t.Errorf("only %d datagrams", s.sent)
	}
	out, in := alice.tunnel.Counters().Snapshot().Out, bob.tunnel.Counters().Snapshot().In
	if out.Packets != uint64(s.sent) || in.Packets != uint64(s.sent) {
		t.Errorf("%d sent; counted %d out, %d in", s.sent, out.Packets, in.Packets)
	}
	if out.Batches > out.Packets/2 {
		t.Errorf("%d system calls for %d packets", out.Batches, out.Packets)
	}
	for r, n := range in.Drops {
		t.Errorf("the receiver dropped %d as %s", n, r)
	}
	for _, r := range tunnel.Reasons() {
		if !r.Harmless() && out.Dropped(r) > 0 {
			t.Errorf("the sender dropped %d as %v", out.Dropped(r), r)
		}
	}
}

// polled lists the descriptors that the Go runtime's poller knows.
func polled(t *testing.T) (all []int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", f.Name())); err != nil || to != "anon_inode:[eventpoll]" {
			continue
		}
		info, err := os.ReadFile(filepath.Join("/proc/self/fdinfo", f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(info)) {
			var fd int
			if n, _ := fmt.Sscanf(line, "tfd: %d", &fd); n == 1 {
				all = append(all, fd)
			}
		}
	}
	return all
}

// descriptors lists those that lead to a file, "/dev/net/tun" or "socket:".
func descriptors(t *testing.T, file string) (all []int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		var fd int
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", f.Name())); err != nil || !strings.HasPrefix(to, file) {
			continue
		}
		if _, err := fmt.Sscan(f.Name(), &fd); err == nil {
			all = append(all, fd)
		}
	}
	return all
}

// Neither the TUN nor the ESP socket is in the Go runtime's poller, which would
// wake a thread for each packet and cost half of the speed.
func TestNotInPoller(t *testing.T) {
	l := lab.ForTest(t)
	before := descriptors(t, "socket:")
	alice := newAgent(t, l, "alice", aliceAddr)
	alice.install(t, 0, sa.Outbound)
	s := stream{fd: alice.socket(t, 0)}
	s.send(t, 1000, 50, false)
	if err := lab.Within(10*time.Second, "the packets to leave", func() error {
		if n := alice.tunnel.Counters().Snapshot().Out.Packets; n != 50 {
			return fmt.Errorf("%d have", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	tuns := descriptors(t, "/dev/net/tun")
	if len(tuns) != 1 {
		t.Fatalf("%d TUNs are open", len(tuns))
	}
	// The test can fail: a pipe of package os is in the poller, and shows.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	known := polled(t)
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if !slices.Contains(known, int(fd)) {
			t.Errorf("the poller's set %v lacks a pipe, %d: this test sees nothing", known, fd)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(known, tuns[0]) {
		t.Errorf("the TUN, descriptor %d, is in the poller", tuns[0])
	}
	for _, fd := range descriptors(t, "socket:") {
		if !slices.Contains(before, fd) && slices.Contains(known, fd) {
			t.Errorf("a socket of the packet path, descriptor %d, is in the poller", fd)
		}
	}
}

// The device's write by the library does not allocate either.
func TestDeviceNoAllocation(t *testing.T) {
	l := lab.ForTest(t)
	alice := newAgent(t, l, "alice", aliceAddr)
	lead := make([]byte, device.MergeCapacity)
	var bufs [][]byte
	if n := testing.AllocsPerRun(200, func() {
		bufs = bufs[:0]
		for i := range 40 {
			p := onePacket
			if i == 0 {
				bufs = append(bufs, lead[:copy(lead, p)])
				continue
			}
			bufs = append(bufs, p[:len(p):len(p)])
		}
		if refused, err := alice.device.Write(bufs, device.HeaderLen); refused != 0 || err != nil {
			t.Error(err)
		}
	}); n > libraryAllocations {
		t.Errorf("%v allocations", n)
	}
}

// onePacket is a packet with room for its offload header.
var onePacket = append(make([]byte, device.HeaderLen), udp(netip.MustParseAddrPort("10.77.0.2:1"), to, payload(1200, 3))...)

// A TUN that stays while its agent is away loses what is sent meanwhile, gives
// no error, and works on with the next agent.
func TestAgentAway(t *testing.T) {
	l := lab.ForTest(t)
	locks := t.TempDir()
	bob := newAgent(t, l, "bob", bobAddr)
	bob.install(t, 0, sa.Inbound)
	bob.join(t, l)
	app := bob.socket(t, 5004)
	alice := &agent{Host: l.TestHost(t, "alice", aliceAddr.String()+"/24")}
	s := stream{}
	next := uint32(0)
	for round := range 3 {
		var d *device.TUN
		var u *underlay.UDP
		err := alice.Do(func() (err error) {
			if d, err = device.Open("usher0", 1400, locks); err != nil {
				return err
			}
			u, err = underlay.Open(underlay.Config{Interface: "eth0"})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			for _, line := range []string{"ip link set usher0 up", fmt.Sprintf("ip route add %s/32 dev usher0 src %s", group, aliceAddr)} {
				words := strings.Fields(line)
				if _, err := alice.Run(context.Background(), words[0], words[1:]...); err != nil {
					t.Fatal(err)
				}
			}
			s.fd = alice.socket(t, 0)
		}
		db := sa.NewDB()
		p := policy()
		p.Source = netip.PrefixFrom(aliceAddr, 32)
		if err := db.SetPolicies(sa.OriginTicket, []sa.Policy{p}); err != nil {
			t.Fatal(err)
		}
		alice.db = db
		out := params(0, sa.Outbound)
		out.SenderID = uint16(round) // a new one at each start
		association, err := sa.NewSA(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Install(association); err != nil {
			t.Fatal(err)
		}
		tun, err := tunnel.New(tunnel.Config{Device: d, Underlay: u, DB: db, BootNS: bootNS})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		finished := make(chan error, 1)
		go func() { finished <- tun.Run(ctx) }()
		s.send(t, 1000, 30, false)
		receive(t, app, &next, s.sent-1, func() string { return fmt.Sprintf("%+v", tun.Counters().Snapshot().Out) })
		cancel()
		if err := <-finished; err != nil {
			t.Error(err)
		}
		if err := errors.Join(d.Close(), u.Close()); err != nil {
			t.Error(err)
		}
		s.send(t, 1000, 10, false) // nobody reads it
		next = s.sent
	}
}
