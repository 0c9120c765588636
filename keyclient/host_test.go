package keyclient_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usher/keyclient"
	"usher/keyclient/clock"
	"usher/keyclient/derive"
	"usher/keyclient/wire"
	"usher/sa"
)

var (
	receiverAddr = netip.MustParseAddr("192.0.2.50")
	senderAddr   = netip.MustParseAddr("192.0.2.10")
	group        = netip.MustParseAddr("232.1.2.3")
)

// entry is an event of one minute that begins in so long; intervals last 5 s.
func entry(title string, in time.Duration) *wire.Entry {
	start := time.Now().Add(in).UTC()
	var id derive.EventID
	copy(id[:], title)
	return &wire.Entry{
		ID: id, Title: title, Senders: []netip.Addr{senderAddr},
		Flows: []wire.Flow{{Protocol: "udp", Destination: group, Ports: "5004"}},
		Time:  wire.TimeExpr{Start: start.Format("20060102T150405Z"), Duration: "PT1M"},
		TTL:   16, KeyServers: []string{"https://" + keyAddress, "https://" + keyAddress2},
		InitialMS: 6000, FirstMS: 5000, IntervalMS: 5000, WindowMS: 5000,
		Refresh: wire.Refresh{Method: wire.RefreshPull}, Edition: 1,
	}
}

// host is one host with a client.
type host struct {
	*keyclient.Client
	t     *testing.T
	dir   string
	db    *sa.DB
	clock clock.Clock
	fake  *fakeServer

	mu    sync.Mutex
	own   []netip.Addr  // guarded by mu
	off   time.Duration // the wall clock's error; guarded by mu
	log   bytes.Buffer  // guarded by mu
	stop  context.CancelFunc
	ended sync.WaitGroup
}

// Write takes log lines.
func (h *host) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

func newHost(t *testing.T, f *fakeServer, own ...netip.Addr) *host {
	t.Helper()
	return newHostOff(t, f, 0, own...)
}

// newHostOff is a host whose wall clock is wrong by off.
func newHostOff(t *testing.T, f *fakeServer, off time.Duration, own ...netip.Addr) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), off: off, fake: f, own: own}
	h.start()
	t.Cleanup(h.end)
	return h
}

// start makes a new agent process on the host, with a database of its own.
func (h *host) start() {
	h.t.Helper()
	h.db, h.clock = sa.NewDB(), clock.FromTime()
	h.clock.Wall = func() time.Time {
		h.mu.Lock()
		defer h.mu.Unlock()
		return time.Now().Add(h.off)
	}
	var err error
	h.Client, err = keyclient.New(keyclient.Config{
		StateDir: h.dir, Server: "https://" + ticketAddress, CASHA256: h.fake.fingerprint(),
		Clock: h.clock, DB: h.db, Log: slog.New(slog.NewTextHandler(h, &slog.HandlerOptions{Level: slog.LevelDebug})),
		OwnAddresses: func() ([]netip.Addr, string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.own, "eth0"
		},
		KeepMaterial: true, Dial: h.fake.network.Dial,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	h.ended.Go(func() {
		if err := h.Run(ctx); err != nil {
			h.t.Error(err)
		}
	})
}

func (h *host) end() {
	h.stop()
	h.ended.Wait()
}

// jump moves the wall clock.
func (h *host) jump(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.off += d
}

func (h *host) setOwn(own ...netip.Addr) {
	h.mu.Lock()
	h.own = own
	h.mu.Unlock()
	h.AddressesChanged()
}

func (h *host) login() {
	h.t.Helper()
	r, err := h.Login(h.t.Context(), keyclient.Login{Name: "alice", Password: []byte("correct horse")})
	if err != nil {
		h.t.Fatal(err)
	}
	if r.TicketError != nil {
		h.t.Fatal(r.TicketError)
	}
}

func (h *host) join(role *wire.Role, names ...string) {
	h.t.Helper()
	if _, err := h.Join(h.t.Context(), names, role); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) event(title string) keyclient.Event {
	h.t.Helper()
	for _, e := range h.Events() {
		if e.Title == title {
			return e
		}
	}
	h.t.Fatalf("no event %q", title)
	return keyclient.Event{}
}

// sas are the associations, by interval.
func (h *host) sas() map[uint32]sa.SAInfo {
	out := make(map[uint32]sa.SAInfo)
	for _, s := range h.db.Snapshot().SAs() {
		out[s.Interval] = s
	}
	return out
}

// material is the traffic key of an interval, as the fake gives it.
func material(e *wire.Entry, i uint32) []byte {
	start, _ := time.Parse("20060102T150405Z", e.Time.Start)
	tag := derive.OccurrenceTag(e.ID, uint64(start.Unix()), 0)
	key := derive.TrafficKey(derive.GroupKey(intervalSecret(tag, i), tag, i), tag, i, derive.TransformAES256GCM)
	return key[:]
}

// pass lets the bubble's time pass, and waits until all that is due is done.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// bubble runs a test in a synctest bubble: minutes take milliseconds.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}
