package key

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Time limits of a connection. All bodies are small.
const (
	handshakeTimeout = 5 * time.Second
	headerTimeout    = 5 * time.Second
	requestTimeout   = 10 * time.Second
	idleTimeout      = 2 * time.Minute
	shutdownTimeout  = 2 * time.Second
	maxHeaderBytes   = 8 << 10
)

// Serve answers on a listener until ctx ends, with TLS, bounds and time limits;
// it closes the listener. Requests under way are given 2 s.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	bounded := newBoundedListener(listener, s.TLSConfig(), s.config.Handshakes, s.config.Connections)
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         bounded.watch,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		err := server.Shutdown(stop)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		ended <- err
	}()
	err := server.Serve(bounded)
	if ctx.Err() == nil {
		return errors.Join(err, bounded.Close()) // the listener failed; the goroutine ends with ctx
	}
	return <-ended
}

// boundedListener makes TLS connections of accepted ones, with a bound on the
// handshakes under way and on the open connections. What is beyond is closed at
// once: a handshake costs 0.6 ms, and a late refusal would cost it, too.
type boundedListener struct {
	inner       net.Listener
	config      *tls.Config
	handshakes  chan struct{} // tokens
	connections atomic.Int64
	most        int64

	ready  chan net.Conn
	failed chan error // of inner.Accept, for good
	done   chan struct{}
	life   context.Context // of handshakes
	cancel context.CancelFunc
	stop   sync.Once
	work   sync.WaitGroup
}

func newBoundedListener(inner net.Listener, config *tls.Config, handshakes, connections int) *boundedListener {
	l := &boundedListener{
		inner: inner, config: config, handshakes: make(chan struct{}, handshakes), most: int64(connections),
		ready: make(chan net.Conn), failed: make(chan error, 1), done: make(chan struct{}),
	}
	l.life, l.cancel = context.WithCancel(context.Background())
	l.work.Go(l.accept)
	return l
}

func (l *boundedListener) accept() {
	for {
		conn, err := l.inner.Accept()
		if err != nil {
			if temporary(err) { // out of file descriptors: others will close theirs
				select {
				case <-time.After(10 * time.Millisecond):
					continue
				case <-l.done:
				}
			}
			l.failed <- err
			return
		}
		if l.connections.Add(1) > l.most {
			l.refuse(conn)
			continue
		}
		select {
		case l.handshakes <- struct{}{}:
			l.work.Go(func() { l.handshake(conn) })
		default:
			l.refuse(conn)
		}
	}
}

func temporary(err error) bool {
	var net net.Error
	return errors.As(err, &net) && net.Temporary() //nolint:staticcheck // as net/http does
}

func (l *boundedListener) refuse(conn net.Conn) {
	conn.Close() //nolint:errcheck // nobody is there to be told
	l.connections.Add(-1)
}

func (l *boundedListener) handshake(conn net.Conn) {
	secure := tls.Server(conn, l.config)
	ctx, cancel := context.WithTimeout(l.life, handshakeTimeout)
	err := secure.HandshakeContext(ctx)
	cancel()
	<-l.handshakes
	if err != nil {
		l.refuse(conn)
		return
	}
	select {
	case l.ready <- secure:
	case <-l.done:
		l.refuse(conn)
	}
}

// watch is the server's ConnState: it counts connections out.
func (l *boundedListener) watch(_ net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		l.connections.Add(-1)
	}
}

// Accept returns a connection whose handshake is done.
func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case err := <-l.failed:
		return nil, err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close stops accepting and breaks off handshakes under way.
func (l *boundedListener) Close() error {
	err := net.ErrClosed
	l.stop.Do(func() {
		close(l.done)
		l.cancel()
		err = l.inner.Close()
		l.work.Wait()
	})
	return err
}

// Addr is the listener's.
func (l *boundedListener) Addr() net.Addr { return l.inner.Addr() }
