package keyclient_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// memoryNetwork is a network of net.Pipe connections, so that a synctest bubble
// can tell when everybody waits for the time.
type memoryNetwork struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener // by address; guarded by mu
	down      map[string]bool            // guarded by mu
}

func newMemoryNetwork() *memoryNetwork {
	return &memoryNetwork{listeners: make(map[string]*memoryListener), down: make(map[string]bool)}
}

var errRefused = errors.New("connection refused")

// Dial is keyclient.Config.Dial.
func (n *memoryNetwork) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l, down := n.listeners[address], n.down[address]
	n.mu.Unlock()
	if l == nil || down {
		return nil, errRefused
	}
	here, there := net.Pipe()
	select {
	case l.accepted <- there:
		l.remember(here)
		return here, nil
	case <-l.closed:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// setDown makes an address unreachable and cuts its connections, or brings it back.
func (n *memoryNetwork) setDown(address string, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[address] = down
	if down {
		n.listeners[address].cut()
	}
}

func (n *memoryNetwork) listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l := &memoryListener{address: address, accepted: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[address] = l
	return l
}

type memoryListener struct {
	address  string
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

func (l *memoryListener) remember(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, c)
}

func (l *memoryListener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close() //nolint:errcheck // may be closed already
	}
	l.conns = nil
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return memoryAddr(l.address) }

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) }
