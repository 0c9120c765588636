package tunnel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/sa"
	"usher/sa/esp"
	"usher/scripts/lab"
)

// scripts/bench runs TestRolloverUnderLoad at its full length, and reads what it wrote.
var (
	rolloverChanges = flag.Int("rollover.changes", 40, "key changes of TestRolloverUnderLoad")
	rolloverJSON    = flag.String("rollover.json", "", "write what TestRolloverUnderLoad counted to `FILE`")
	rolloverPaced   = flag.Bool("rollover.paced", false, "TestRolloverUnderLoad sends 42 datagrams of 1200 bytes a millisecond, which cross the link as batches: for a profile")
	rolloverBench   = flag.String("rollover.bench", "", "usher-bench, built ("+`"": TestRolloverUnderLoad builds it`+")")
)

const (
	rolloverEvery = 50 * time.Millisecond
	// rolloverAhead is for how many changes the keys are there before: as the
	// key client does it, and so that a late test is not taken for a loss.
	rolloverAhead = 10
	// rolloverKept is how many old keys the receiver accepts.
	rolloverKept = 20
)

// keys puts a key for each interval of rolloverEvery into force at both ends.
type keys struct {
	t        *testing.T
	from, to *agent
	begin    int64 // boot ns of interval 0
	next     uint32
	used     int // associations that packets were sent under, of those that are gone
}

// material is a key of its own for each interval.
func (k *keys) material(i uint32) []byte {
	m := bytes.Repeat([]byte{byte(i), byte(i >> 8), 0x5a, 0xc3}, esp.MaterialLen/4+1)
	return m[:esp.MaterialLen]
}

func (k *keys) at(i uint32) int64 { return k.begin + int64(i)*int64(rolloverEvery) }

// advance installs what will be needed, at the receiver first, and removes what
// is over.
func (k *keys) advance() {
	k.t.Helper()
	now := bootNS()
	for ; k.at(k.next) < now+rolloverAhead*int64(rolloverEvery); k.next++ {
		p := params(k.next, sa.Inbound)
		p.Material = k.material(k.next)
		p.AcceptUntil = k.at(k.next + 1 + rolloverKept)
		k.install(k.to, p)
		p = params(k.next, sa.Outbound)
		p.Material = k.material(k.next)
		p.Gather = 200 * time.Microsecond
		p.SendFrom, p.SendUntil = k.at(k.next), k.at(k.next+1)
		k.install(k.from, p)
	}
	k.to.db.Expire(now)
	over := func(i sa.SAInfo) bool { return int64(i.Interval) < (now-k.begin)/int64(rolloverEvery)-1 }
	for _, i := range k.from.db.Snapshot().SAs() {
		if over(i) && i.PacketsOut > 0 {
			k.used++
		}
	}
	k.from.db.Remove(event, over)
}

func (k *keys) install(a *agent, p sa.Params) {
	k.t.Helper()
	s, err := sa.NewSA(p)
	if err != nil {
		k.t.Fatal(err)
	}
	if err := a.db.Install(s); err != nil {
		k.t.Fatal(err)
	}
}

// counted is what became of the stream.
type counted struct {
	Changes    int     `json:"changes"`
	Rate       float64 `json:"rate"`
	Offered    uint64  `json:"offered"`
	Received   uint64  `json:"received"`
	Lost       uint64  `json:"lost"`
	Duplicated uint64  `json:"duplicated"`
	Reordered  uint64  `json:"reordered"`
	Damaged    uint64  `json:"damaged"`
	Overflow   uint64  `json:"overflow"`
}

// A stream of mixed sizes goes through key after key, put into the databases of
// associations ahead of time: nothing is lost, doubled, reordered or damaged.
// What the sink's own socket buffer loses is no loss of the tunnel's.
func TestRolloverUnderLoad(t *testing.T) {
	l := lab.ForTest(t)
	program := usherBench(t)
	alice, bob := newAgent(t, l, "alice", aliceAddr), newAgent(t, l, "bob", bobAddr)
	bob.join(t, l)

	size, rate := "64-1372", rolloverRate
	if *rolloverPaced {
		size, rate = "1200", 42_000
		for _, a := range []*agent{alice, bob} {
			if _, err := a.Run(t.Context(), "ip", "link", "set", "eth0", "gso_max_segs", "65535"); err != nil {
				t.Fatal(err)
			}
		}
	}

	k := &keys{t: t, from: alice, to: bob, begin: bootNS()}
	k.advance()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*rolloverChanges)*rolloverEvery+30*time.Second)
	defer cancel()
	sink := run(ctx, t, bob, program, "sink", "--listen", to.String(), "--source", aliceAddr.String(), "--buffer", strconv.Itoa(32<<20), "--json", "--for", "10m")
	if err := lab.Within(10*time.Second, "the sink", func() error {
		if !strings.Contains(sink.err.String(), "ready") {
			return fmt.Errorf("it said %q", sink.err.String())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// A little longer than the changes take, so that all of them are within.
	send := run(ctx, t, alice, program, "send", "--to", to.String(), "--rate", strconv.Itoa(rate), "--burst", strconv.Itoa(rate/1000),
		"--size", size, "--json", "--for", (time.Duration(*rolloverChanges+2) * rolloverEvery).String())
	ticker := time.NewTicker(rolloverEvery / 2)
	defer ticker.Stop()
	for sending := true; sending; {
		select {
		case <-send.done:
			sending = false
		case <-ticker.C:
			k.advance()
		}
	}
	var sent struct {
		Sent    uint64  `json:"sent"`
		Refused uint64  `json:"refused"`
		Rate    float64 `json:"rate"`
	}
	var c counted
	send.answer(t, &sent)
	sink.answer(t, &c)
	for _, i := range alice.db.Snapshot().SAs() {
		if i.PacketsOut > 0 {
			k.used++
		}
	}
	c.Changes, c.Rate = k.used-1, sent.Rate

	if *rolloverJSON != "" {
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(*rolloverJSON, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%+v; sender %+v; receiver %+v", c, alice.tunnel.Counters().Snapshot().Out, bob.tunnel.Counters().Snapshot().In)
	if c.Changes < *rolloverChanges {
		t.Errorf("%d keys were changed, want %d", c.Changes, *rolloverChanges)
	}
	if c.Offered != sent.Sent || sent.Refused != 0 || c.Received == 0 {
		t.Errorf("%d sent, %d refused, %d offered, %d received", sent.Sent, sent.Refused, c.Offered, c.Received)
	}
	if c.Lost|c.Duplicated|c.Reordered|c.Damaged != 0 {
		t.Errorf("lost %d, duplicated %d, reordered %d, damaged %d of %d", c.Lost, c.Duplicated, c.Reordered, c.Damaged, c.Offered)
	}
}

// usherBench is the generator and sink, built unless it was given.
func usherBench(t *testing.T) string {
	t.Helper()
	if *rolloverBench != "" {
		return *rolloverBench
	}
	program := filepath.Join(t.TempDir(), "usher-bench")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "usher/cmd/usher-bench")
	cmd.Env = slices.Concat(os.Environ(), []string{"CGO_ENABLED=0", "GOFLAGS="})
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build usher-bench: %v\n%s", err, text)
	}
	return program
}

// running is a program in a host.
type running struct {
	out, err lockedBuffer
	done     chan struct{}
	end      error // valid once done is closed
}

func run(ctx context.Context, t *testing.T, a *agent, name string, args ...string) *running {
	t.Helper()
	r := &running{done: make(chan struct{})}
	cmd := a.Command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &r.out, &r.err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(r.done); r.end = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-r.done
	})
	return r
}

// answer waits for the program's end and decodes what it printed.
func (r *running) answer(t *testing.T, into any) {
	t.Helper()
	<-r.done
	if r.end != nil {
		t.Fatalf("%v: %s", r.end, r.err.String())
	}
	if err := json.Unmarshal([]byte(r.out.String()), into); err != nil {
		t.Fatal(err)
	}
}

// lockedBuffer can be read while a program writes to it.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
