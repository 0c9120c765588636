package underlay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/scripts/lab"
	"usher/tunnel/underlay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var group = netip.MustParseAddr("232.1.2.3")

// member is a lab's host with a socket and memberships.
type member struct {
	*lab.Host
	lab    *lab.Lab
	conn   *underlay.UDP
	groups *underlay.Memberships
}

// index of eth0 in a host of the lab.
func (m *member) index(t *testing.T) int {
	t.Helper()
	return indexOf(t, m.Host, "eth0")
}

func newMember(t *testing.T, l *lab.Lab, name, cidr string, c underlay.Config, opts ...lab.Option) *member {
	t.Helper()
	m := &member{Host: l.TestHost(t, name, cidr, opts...), lab: l, groups: underlay.NewMemberships()}
	c.Interface = "eth0"
	if err := m.Do(func() (err error) { m.conn, err = underlay.Open(c); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.conn.Close(), m.groups.Close()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// join joins the group on eth0, and waits until the switch knows.
func (m *member) join(t *testing.T, source string) {
	t.Helper()
	index := m.index(t)
	if err := m.Do(func() error { return m.groups.Join(group, netip.MustParseAddr(source), index) }); err != nil {
		t.Fatal(err)
	}
	err := lab.Within(10*time.Second, "the switch to learn of the join", func() error {
		out, err := m.lab.Switch().Run(context.Background(), "bridge", "mdb", "show")
		if err == nil && !strings.Contains(out, m.Port("eth0")+" grp "+group.String()) {
			err = fmt.Errorf("its table is %q", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (m *member) send(t *testing.T, b underlay.Batch) (int, error) {
	t.Helper()
	return m.conn.Send(&b)
}

// receive collects datagrams until there are n.
func (m *member) receive(t *testing.T, n int) (all [][]byte, last underlay.Message) {
	t.Helper()
	message := underlay.Message{Buffer: make([]byte, underlay.MaxDatagram)}
	err := lab.Within(10*time.Second, "datagrams", func() error {
		for len(all) < n {
			if err := m.conn.Receive(&message); err != nil {
				return err
			}
			last = message
			for data := message.Data; len(data) > 0; {
				one := data[:min(message.SegmentSize, len(data))]
				all = append(all, bytes.Clone(one))
				data = data[len(one):]
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%d of %d datagrams: %v", len(all), n, err)
	}
	return all, last
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*3 + seed
	}
	return b
}

// A batch arrives as it was sent, with group, source, interface and TOS, also
// on a link that passes it as one packet, and where batches are off.
func TestBatch(t *testing.T) {
	for name, c := range map[string]struct {
		config underlay.Config
		opts   []lab.Option
	}{
		"segmented by the stack": {underlay.Config{}, nil},
		"whole":                  {underlay.Config{Mark: 0x75}, []lab.Option{lab.KeepSegmentation()}},
		"one by one":             {underlay.Config{NoOffload: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := lab.ForTest(t)
			s := newMember(t, l, "sender", "10.77.0.1/24", c.config, c.opts...)
			r := newMember(t, l, "receiver", "10.77.0.2/24", underlay.Config{}, c.opts...)
			r.join(t, "10.77.0.1")
			data := pattern(1300*20+400, 1)
			refused, err := s.send(t, underlay.Batch{
				Data: data, SegmentSize: 1300, Destination: netip.AddrPortFrom(group, 4500),
				Source: s.Addr(), TTL: 7, TOS: 0xb9,
			})
			if refused != 0 || err != nil {
				t.Fatalf("%d refused, %v", refused, err)
			}
			all, m := r.receive(t, 21)
			if !bytes.Equal(bytes.Join(all, nil), data) || len(all[20]) != 400 {
				t.Error("what came is not what was sent")
			}
			if m.Source != netip.AddrPortFrom(s.Addr(), 4500) || m.Destination != group || m.Interface != r.index(t) || m.TOS != 0xb9 {
				t.Errorf("from %v to %v by interface %d with TOS %02x", m.Source, m.Destination, m.Interface, m.TOS)
			}
			if st := s.conn.Stats(); st.SegmentationRefused != 0 || st.SegmentationOff != c.config.NoOffload {
				t.Errorf("sender's counters: %+v", st)
			}
			// Unicast back, alone.
			if _, err := r.send(t, underlay.Batch{Data: []byte("hi"), Destination: netip.AddrPortFrom(s.Addr(), 4500)}); err != nil {
				t.Error(err)
			}
			if all, m := s.receive(t, 1); string(all[0]) != "hi" || m.Destination != s.Addr() || m.Source.Addr() != r.Addr() {
				t.Errorf("%q from %v to %v", all, m.Source, m.Destination)
			}
			if err := s.conn.Receive(&m); !errors.Is(err, underlay.ErrAgain) {
				t.Errorf("the sender hears itself: %v", err)
			}
		})
	}
}

// What is larger than the MTU is refused as such, alone.
func TestTooBig(t *testing.T) {
	l := lab.ForTest(t)
	s := newMember(t, l, "sender", "10.77.0.1/24", underlay.Config{})
	r := newMember(t, l, "receiver", "10.77.0.2/24", underlay.Config{})
	r.join(t, "10.77.0.1")
	to := netip.AddrPortFrom(group, 4500)
	if n, err := s.send(t, underlay.Batch{Data: pattern(1473, 0), Destination: to}); n != 1 || !errors.Is(err, underlay.ErrTooBig) {
		t.Errorf("one byte too many: %d refused, %v", n, err)
	}
	if n, err := s.send(t, underlay.Batch{Data: pattern(1473*2+100, 0), SegmentSize: 1473, Destination: to}); n != 2 || !errors.Is(err, underlay.ErrTooBig) {
		t.Errorf("two too large ones of three: %d refused, %v", n, err)
	}
	if n, err := s.send(t, underlay.Batch{Data: pattern(1472, 5), Destination: to}); n != 0 || err != nil {
		t.Errorf("the largest: %d refused, %v", n, err)
	}
	all, _ := r.receive(t, 2)
	if len(all[0]) != 100 || !bytes.Equal(all[1], pattern(1472, 5)) {
		t.Errorf("%d and %d bytes arrived", len(all[0]), len(all[1]))
	}
	if n, err := s.send(t, underlay.Batch{Data: []byte("x"), Destination: netip.MustParseAddrPort("[ff3e::8000:1]:4500")}); n != 1 || !errors.Is(err, underlay.ErrFamily) {
		t.Errorf("IPv6: %d refused, %v", n, err)
	}
	// A group with no interface would follow the routes, into the tunnel.
	s.conn.SetInterface(0, netip.Addr{})
	if n, err := s.send(t, underlay.Batch{Data: []byte("x"), Destination: to}); n != 1 || !errors.Is(err, underlay.ErrNoInterface) {
		t.Errorf("without interface: %d refused, %v", n, err)
	}
	if n, err := s.send(t, underlay.Batch{Data: []byte("x"), Destination: netip.MustParseAddrPort("192.0.2.1:4500")}); n != 1 || err == nil {
		t.Errorf("without a route: %d refused, %v", n, err)
	}
}

// A change of the real interface moves what is sent.
func TestFollowsInterface(t *testing.T) {
	l := lab.ForTest(t)
	if err := l.AddBridge("br1"); err != nil {
		t.Fatal(err)
	}
	s := newMember(t, l, "sender", "10.77.0.1/24", underlay.Config{})
	if err := s.Attach("eth1", "10.78.0.1/24", lab.OnBridge("br1")); err != nil {
		t.Fatal(err)
	}
	r := newMember(t, l, "receiver", "10.78.0.2/24", underlay.Config{}, lab.OnBridge("br1"))
	r.join(t, "10.78.0.1")
	to := netip.AddrPortFrom(group, 4500)
	if _, err := s.send(t, underlay.Batch{Data: []byte("old"), Destination: to}); err != nil {
		t.Fatal(err)
	}
	s.conn.SetInterface(indexOf(t, s.Host, "eth1"), netip.MustParseAddr("10.78.0.1"))
	if _, err := s.send(t, underlay.Batch{Data: []byte("new"), Destination: to}); err != nil {
		t.Fatal(err)
	}
	if all, m := r.receive(t, 1); string(all[0]) != "new" || m.Source.Addr() != netip.MustParseAddr("10.78.0.1") {
		t.Errorf("%q from %v", all, m.Source)
	}
}

// What Open refuses, in words that say what to do.
func TestOpenRefused(t *testing.T) {
	l := lab.ForTest(t)
	m := newMember(t, l, "alice", "10.77.0.1/24", underlay.Config{})
	for _, c := range []struct {
		config underlay.Config
		want   error
		says   string
	}{
		{underlay.Config{Interface: "eth0"}, underlay.ErrPortInUse, "4500"},
		{underlay.Config{Interface: "eth7", Port: 4501}, underlay.ErrNoInterface, `"eth7"`},
	} {
		err := m.Do(func() error {
			conn, err := underlay.Open(c.config)
			if err == nil {
				return errors.Join(errors.New("opened"), conn.Close())
			}
			return err
		})
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.config, err)
		}
	}
	// The host works without IPv6, too.
	if _, err := m.Run(context.Background(), "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"); err != nil {
		t.Logf("sysctl: %v", err)
	}
	err := m.Do(func() error {
		conn, err := underlay.Open(underlay.Config{Interface: "eth0", Port: 4501})
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		t.Errorf("with IPv6 switched off: %v", err)
	}
}

// Wait sleeps until something comes, and ends with Wake for good.
func TestWait(t *testing.T) {
	l := lab.ForTest(t)
	m := newMember(t, l, "alice", "10.77.0.1/24", underlay.Config{})
	woken := make(chan bool)
	go func() { woken <- m.conn.Wait() }()
	if _, err := m.send(t, underlay.Batch{Data: []byte("me"), Destination: netip.AddrPortFrom(m.Addr(), 4500)}); err != nil {
		t.Fatal(err)
	}
	if !<-woken {
		t.Error("Wait says that it was woken")
	}
	m.receive(t, 1)
	m.conn.Wake()
	for range 3 {
		if m.conn.Wait() {
			t.Error("Wait after Wake says that there is something")
		}
	}
}

// What the buffer could not hold is counted.
func TestOverflow(t *testing.T) {
	l := lab.ForTest(t)
	m := newMember(t, l, "alice", "10.77.0.1/24", underlay.Config{})
	big := pattern(1000*60, 0)
	for range 2000 {
		if _, err := m.send(t, underlay.Batch{Data: big, SegmentSize: 1000, Destination: netip.AddrPortFrom(m.Addr(), 4500)}); err != nil {
			t.Fatal(err)
		}
	}
	message := underlay.Message{Buffer: make([]byte, underlay.MaxDatagram)}
	got := uint64(0)
	drain := func() {
		for m.conn.Receive(&message) == nil {
			got += uint64((len(message.Data) + message.SegmentSize - 1) / message.SegmentSize)
		}
	}
	drain()
	// The kernel tells the count with the next datagram.
	if _, err := m.send(t, underlay.Batch{Data: []byte("x"), Destination: netip.AddrPortFrom(m.Addr(), 4500)}); err != nil {
		t.Fatal(err)
	}
	drain()
	if n := m.conn.Stats().ReceiveOverflow; n == 0 {
		t.Errorf("nothing counted as lost of %d, %d received", 2000*60, got)
	}
}
