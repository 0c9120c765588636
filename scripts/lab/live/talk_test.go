package live

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// mark begins each datagram of a program: no packet on the wire may show it.
var mark = []byte("cleartext of a program ")

// datagram is number n of a stream: mark, stream, number, bytes that follow from
// both, and a checksum. Lengths differ from one to the next.
func datagram(stream byte, n uint32) []byte {
	b := append([]byte(nil), mark...)
	b = append(b, stream)
	b = binary.BigEndian.AppendUint32(b, n)
	for i := range int(n*37+uint32(stream)) % 1200 {
		b = append(b, byte(i)*stream+byte(n))
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// parse reads stream and number of a datagram that is as it was sent.
func parse(b []byte) (stream byte, n uint32, ok bool) {
	if len(b) < len(mark)+9 || !bytes.HasPrefix(b, mark) {
		return 0, 0, false
	}
	stream, n = b[len(mark)], binary.BigEndian.Uint32(b[len(mark)+1:])
	return stream, n, bytes.Equal(b, datagram(stream, n))
}

// source is a program that sends a stream, as encoders do: neither bound nor
// connected, so that the routes decide.
type source struct {
	conn   *net.UDPConn
	stream byte
	to     []netip.AddrPort // in turn
	sent   atomic.Uint32    // numbers below were sent
	errors atomic.Uint32    // that it got, where it insists
	insist bool             // it goes on after an error
	stop   context.CancelFunc
	done   chan struct{}
	err    error // read after done
}

// sends starts a program that sends so many datagrams a second until it is halted,
// or gets an error.
func (s *station) sends(stream byte, perSecond int, to ...string) *source {
	s.t.Helper()
	return s.runs(&source{stream: stream}, perSecond, to)
}

// insists is sends for a program that counts errors, and goes on.
func (s *station) insists(stream byte, perSecond int, to ...string) *source {
	s.t.Helper()
	return s.runs(&source{stream: stream, insist: true}, perSecond, to)
}

func (s *station) runs(p *source, perSecond int, to []string) *source {
	s.t.Helper()
	p.conn, p.done = s.socket(), make(chan struct{})
	for _, a := range to {
		p.to = append(p.to, netip.MustParseAddrPort(a))
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() {
		defer close(p.done)
		p.err = p.run(ctx, perSecond)
	}()
	s.world.t.Cleanup(func() {
		p.stop()
		<-p.done
		p.conn.Close()
	})
	return p
}

// socket opens a UDP socket as a program does that only sends.
func (s *station) socket() *net.UDPConn {
	s.t.Helper()
	var c *net.UDPConn
	if err := s.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", nil)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// run sends by the clock, so that a late wake-up is made up for.
func (p *source) run(ctx context.Context, perSecond int) error {
	began := time.Now()
	tick := time.NewTicker(max(time.Second/time.Duration(perSecond), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		due := uint32(time.Since(began).Seconds() * float64(perSecond))
		for n := p.sent.Load(); n < due; n++ {
			to := p.to[int(n)%len(p.to)]
			_, err := p.conn.WriteToUDPAddrPort(datagram(p.stream, n), to)
			switch {
			case err != nil && p.insist:
				p.errors.Add(1)
			case err != nil:
				return fmt.Errorf("datagram %d to %s: %w", n, to, err)
			}
			p.sent.Store(n + 1)
		}
	}
}

// halt ends the program and returns how many datagrams it sent. That it got no
// error on the way is part of every test: an application never does.
func (p *source) halt(t *testing.T) uint32 {
	t.Helper()
	p.stop()
	<-p.done
	if p.err != nil {
		t.Errorf("the sending program got an error: %v", p.err)
	}
	return p.sent.Load()
}

// player is a program that receives: a socket on a port that joined (S,G) with no
// interface named, as players do.
type player struct {
	conn *net.UDPConn

	mu      sync.Mutex
	got     map[byte][]uint32         // guarded by mu; numbers, in the order of arrival, by stream
	senders map[netip.AddrPort]uint32 // guarded by mu; how many came from whom, as the program sees it
	foreign int                       // guarded by mu; datagrams that nobody sent so
}

// plays starts a player of one (source, group) on a port.
func (s *station) plays(from *station, group string) *player {
	s.t.Helper()
	return s.playsFrom(from.Addr(), group)
}

func (s *station) playsFrom(from netip.Addr, group string) *player {
	s.t.Helper()
	to := netip.MustParseAddrPort(group)
	p := &player{got: map[byte][]uint32{}, senders: map[netip.AddrPort]uint32{}}
	if err := s.Do(func() error {
		listen := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			return errors.Join(raw.Control(func(fd uintptr) {
				failed = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
			}), failed)
		}}
		c, err := listen.ListenPacket(context.Background(), "udp4", to.String())
		if err != nil {
			return err
		}
		p.conn = c.(*net.UDPConn)
		return ipv4.NewPacketConn(c).JoinSourceSpecificGroup(nil, &net.UDPAddr{IP: to.Addr().AsSlice()}, &net.UDPAddr{IP: from.AsSlice()})
	}); err != nil {
		s.t.Fatalf("a player on %s: %v", s.Name(), err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.hear()
	}()
	s.world.t.Cleanup(func() {
		p.conn.Close()
		<-done
	})
	return p
}

func (p *player) hear() {
	buf := make([]byte, 65536)
	for {
		n, sender, err := p.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		stream, number, ok := parse(buf[:n])
		p.mu.Lock()
		p.senders[sender]++
		if ok {
			p.got[stream] = append(p.got[stream], number)
		} else {
			p.foreign++
		}
		p.mu.Unlock()
	}
}

// heard are the numbers of a stream so far, in the order of arrival.
func (p *player) heard(stream byte) []uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]uint32(nil), p.got[stream]...)
}

// last is the last number of a stream; ok is false while there is none.
func (p *player) last(stream byte) (n uint32, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.got[stream]
	if len(got) == 0 {
		return 0, false
	}
	return got[len(got)-1], true
}

// awaits waits until the player has a datagram of the stream with a number of at
// least n.
func (p *player) awaits(t *testing.T, stream byte, n uint32) {
	t.Helper()
	eventually(t, fmt.Sprintf("datagram %d of stream %q", n, stream), func() error {
		if last, ok := p.last(stream); !ok || last < n {
			return fmt.Errorf("the last one is %d (%t)", last, ok)
		}
		return nil
	})
}

// awaitsMore waits for n further datagrams after what was sent until now.
func (p *player) awaitsMore(t *testing.T, from *source, n uint32) {
	t.Helper()
	p.awaits(t, from.stream, from.sent.Load()+n)
}

// unbroken checks that a stream came in order, each datagram once, none missing
// between the first and the last, and nothing else. It returns both ends.
func (p *player) unbroken(t *testing.T, stream byte) (first, last uint32) {
	t.Helper()
	got := p.heard(stream)
	if len(got) == 0 {
		t.Fatalf("nothing of stream %q arrived", stream)
	}
	for i := 1; i < len(got); i++ {
		if got[i] != got[i-1]+1 {
			t.Errorf("stream %q: %d came after %d", stream, got[i], got[i-1])
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.foreign > 0 {
		t.Errorf("%d datagrams came that nobody sent so", p.foreign)
	}
	return got[0], got[len(got)-1]
}
