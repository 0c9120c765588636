package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// freePort is an address of the loopback where nothing listens.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	s, err := listener(netip.MustParseAddrPort("127.0.0.1:0"), netip.Addr{}, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
}

// command runs a command line with --json and decodes its answer.
func command[T any](t *testing.T, ready func(), args ...string) *T {
	t.Helper()
	var out bytes.Buffer
	root := newRoot(&out, &signalled{line: ready})
	root.SetArgs(append(args, "--json"))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Errorf("%s: %v", strings.Join(args, " "), err)
		return new(T)
	}
	v := new(T)
	if err := json.Unmarshal(out.Bytes(), v); err != nil {
		t.Error(err)
	}
	return v
}

// signalled calls line at the first write.
type signalled struct {
	once sync.Once
	line func()
}

func (s *signalled) Write(b []byte) (int, error) {
	if s.line != nil {
		s.once.Do(s.line)
	}
	return len(b), nil
}

// What send sends over the loopback, sink counts, whole and in order.
func TestSendAndSink(t *testing.T) {
	for name, args := range map[string][]string{
		"even":    {"--rate", "2000", "--count", "500"},
		"bursts":  {"--rate", "20000", "--burst", "20", "--count", "3000"},
		"mixed":   {"--rate", "20000", "--burst", "20", "--count", "3000", "--size", "40-1400"},
		"segment": {"--rate", "20000", "--burst", "50", "--count", "3010", "--segment"},
	} {
		t.Run(name, func(t *testing.T) {
			at := freePort(t).String()
			var sent *Sent
			var sending sync.WaitGroup
			r := command[Received](t, func() {
				sending.Go(func() { sent = command[Sent](t, nil, append([]string{"send", "--to", at, "--for", "30s"}, args...)...) })
			}, "sink", "--listen", at, "--buffer", "0", "--for", "40s")
			sending.Wait()
			if sent == nil || sent.Sent == 0 || sent.Refused != 0 {
				t.Fatalf("sent %+v", sent)
			}
			if !r.EndSeen || r.Offered != sent.Sent || r.Received+r.Overflow != sent.Sent || r.Lost != 0 || r.Duplicated != 0 || r.Reordered != 0 || r.Damaged != 0 || r.Foreign != 0 {
				t.Errorf("sent %+v, received %+v", sent, r)
			}
			if r.LatencyUS == nil || r.LatencyUS.P50 <= 0 || r.LatencyUS.Max < r.LatencyUS.P50 {
				t.Errorf("latency %+v", r.LatencyUS)
			}
		})
	}
}

// A copy goes to each of several destinations.
func TestCopies(t *testing.T) {
	a, b := freePort(t), freePort(t)
	var sinks sync.WaitGroup
	var ready sync.WaitGroup
	ready.Add(2)
	results := make([]*Received, 2)
	for i, at := range []netip.AddrPort{a, b} {
		sinks.Go(func() {
			results[i] = command[Received](t, ready.Done, "sink", "--listen", at.String(), "--for", "30s")
		})
	}
	ready.Wait()
	sent := command[Sent](t, nil, "send", "--to", a.String(), "--to", b.String(), "--count", "200", "--rate", "5000")
	sinks.Wait()
	if sent.Sent != 400 || results[0].Received != 200 || results[1].Received != 200 {
		t.Errorf("sent %d, received %d and %d", sent.Sent, results[0].Received, results[1].Received)
	}
}

// What the sink's buffer loses is counted as that, and is no loss of the path.
func TestOverflow(t *testing.T) {
	at := freePort(t)
	in, err := listener(at, netip.Addr{}, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	if err := unix.SetsockoptInt(in.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
		t.Fatal(err)
	}
	const count = 300
	if _, err := send(t.Context(), sendOptions{to: []netip.AddrPort{at}, burst: 10, size: sizes{1000, 1000}, count: count, ttl: 1, stream: 1, noEnd: true}); err != nil {
		t.Fatal(err)
	}
	clock, err := newMonotonic()
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{sinkOptions: sinkOptions{stream: 1, idle: time.Hour}, clock: clock}
	buf := make([]byte, maxSize)
	for {
		n, ok, err := in.receive(buf)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		c.take(buf[:n])
	}
	overflow, err := in.overflow()
	if err != nil {
		t.Fatal(err)
	}
	header{kind: kindEnd, number: count, stream: 1, length: headerLen}.put(buf)
	c.take(buf[:headerLen])
	r := c.sum(uint64(overflow))
	if r.Overflow == 0 || r.Received == 0 || r.Received+r.Overflow != count || r.Lost != 0 {
		t.Errorf("%+v", r)
	}
	if r := c.sum(0); r.Lost != count-r.Received {
		t.Errorf("without overflow it is a loss: %+v", r)
	}
}

func TestPingAndEcho(t *testing.T) {
	at := freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- echo(ctx, echoOptions{listen: at}, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	r := command[Pinged](t, nil, "ping", "--to", at.String(), "--count", "20", "--interval", "2ms")
	if r.Sent != 20 || r.Answered == 0 || r.RoundTripUS == nil || r.RoundTripUS.P50 <= 0 {
		t.Errorf("%+v", r)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Nobody answers: no round trip, and no error.
	if r := command[Pinged](t, nil, "ping", "--to", at.String(), "--count", "2", "--interval", "5ms"); r.Answered != 0 || r.RoundTripUS != nil {
		t.Errorf("%+v", r)
	}
}

func TestRefusedCommandLines(t *testing.T) {
	for _, line := range []string{
		"send",
		"send --to 127.0.0.1",
		"send --to 127.0.0.1:1 --burst 0",
		"send --to 127.0.0.1:1 --segment --size 64-100",
		"send --to 127.0.0.1:1 --to [::1]:1",
		"sink",
		"ping",
		"echo",
		"forge --to 127.0.0.1:4500 --source 127.0.0.1",
		"forge --to 232.1.2.3:4500 --source 127.0.0.1 --kind other",
		"nothing",
	} {
		var out bytes.Buffer
		root := newRoot(&out, &out)
		root.SetArgs(strings.Fields(line))
		if err := root.ExecuteContext(t.Context()); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

// Each kind of forged packet differs from what was heard in what its name says.
func TestImitate(t *testing.T) {
	heard := [espHeaderLen]byte{0, 0, 0x10, 1, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 1, 0}
	for kind, same := range map[string][2]bool{forgeSPI: {false, true}, forgeAssociation: {true, false}, forgeSender: {true, true}} {
		f := &forger{forgeOptions: forgeOptions{kind: kind}, header: heard}
		for number := range uint64(1000) {
			b := make([]byte, 64)
			f.imitate(b, number+1)
			if spi := [4]byte(b) == [4]byte(heard[:4]); spi != same[0] {
				t.Fatalf("%s: SPI %x", kind, b[:4])
			}
			if sender := [2]byte(b[8:]) == [2]byte(heard[8:]); sender != same[1] {
				t.Fatalf("%s: sender id %x", kind, b[8:10])
			}
		}
	}
}
