package key

import (
	"errors"
	"testing"
	"time"

	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server/store"
)

// sending is a lab with two senders of a long event.
func sending(t *testing.T) (l *lab, e store.Event, first, second uint32) {
	t.Helper()
	l = newLab(t)
	first, second = l.addClient("first", "root"), l.addClient("second", "root")
	e = l.longEvent()
	l.associate(e, first, store.RoleSend)
	l.associate(e, second, store.RoleSend)
	l.start()
	return l, e, first, second
}

// TestSenderIDsUnique is attack test 15: enrolments again and again, restarts,
// two agents of one client, sixteen queues: no id twice under one key.
func TestSenderIDsUnique(t *testing.T) {
	l, e, first, second := sending(t)
	given := map[uint16]string{}
	enrol := func(base string, who uint32, queues int, what string) {
		t.Helper()
		q := l.ask(e, wire.RoleSend)
		q.Queues = queues
		g, _ := l.viewer(base, who).mustEnrol(q)
		if len(g.SenderIDs) != queues {
			t.Fatalf("%s: %d ids for %d queues", what, len(g.SenderIDs), queues)
		}
		for _, id := range g.SenderIDs {
			if before, twice := given[id]; twice {
				t.Fatalf("id %d for %s and for %s", id, before, what)
			}
			given[id] = what
		}
	}
	for round := range 20 {
		base := l.serve()
		enrol(base, first, 1, "first client")
		enrol(base, first, 1, "first client's other agent")
		enrol(base, second, 16, "second client")
		enrol(base, second, 3, "second client")
		if round%2 == 0 {
			l.restart()
		}
		l.host.pass(time.Second)
	}
	if want := 20 * 21; len(given) != want {
		t.Errorf("%d ids, want %d", len(given), want)
	}
}

// TestSenderIDsExhausted is attack test 16: one client that enrols without end
// gets 429 at 1/16 of the range, also over a restart; others enrol; what it held
// is free again when its enrolments and their intervals are over.
func TestSenderIDsExhausted(t *testing.T) {
	l, e, first, second := sending(t)
	o := l.server.keeper.current.Load().byStart[occurrenceStart{e.ID, startOf(t, e) * 1000}]
	until := l.server.clock.now().time().Add(time.Hour)
	ids := map[uint16]bool{}
	take := func(client uint32, queues int) error {
		at := l.server.clock.now()
		got, err := l.server.senders.take(t.Context(), holder{o.Tag, client}, queues, at.ms(), freeAgainMS(o.timing, until.UnixMilli()))
		for _, id := range got {
			if ids[id] {
				t.Fatalf("id %d twice", id)
			}
			ids[id] = true
		}
		return err
	}
	for i := range 256 {
		if i == 100 {
			l.restart()
		}
		if err := take(first, 16); err != nil {
			t.Fatalf("enrolment %d: %v", i, err)
		}
	}
	if err := take(first, 1); !errors.Is(err, store.ErrSenderIDs) {
		t.Errorf("beyond 1/16 of the range: %v", err)
	}
	if len(ids) != 1<<16/16 {
		t.Errorf("%d ids for one client", len(ids))
	}
	base := l.serve()
	if _, _, err := l.viewer(base, first).enrol(l.ask(e, wire.RoleSend)); !isProblem(err, 429, wire.CodeSenderIDs) {
		t.Errorf("by HTTPS: %v", err)
	}
	l.viewer(base, second).mustEnrol(l.ask(e, wire.RoleSend))

	l.leap(time.Hour + 30*time.Second)
	if err := take(first, 1); !errors.Is(err, store.ErrSenderIDs) {
		t.Errorf("while an interval still runs that it has the key of: %v", err)
	}
	clear(ids)
	l.leap(2 * time.Minute)
	until = l.server.clock.now().time().Add(time.Hour)
	if err := take(first, 16); err != nil {
		t.Errorf("after its enrolments: %v", err)
	}
}

// TestSenderIDsNoted: the ratchet file knows of a block before its ids are used.
func TestSenderIDsNoted(t *testing.T) {
	l, e, first, _ := sending(t)
	base := l.serve()
	l.viewer(base, first).mustEnrol(l.ask(e, wire.RoleSend))
	master, err := readMasterKey(l.config.MasterKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	r, err := openRatchet(&cutFile{content: readFile(t, l.config.RatchetFile), left: -1}, master)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.mark, l.mark(); got != want || want.Seq == 0 {
		t.Errorf("the ratchet file has change %v, the store %v", got, want)
	}

	l.leap(2 * time.Minute) // the next enrolment must keep the block for longer

	// Where the file cannot be written nothing is given out, and nothing of it
	// ever again.
	file := l.server.keeper.ratchet.file
	broken := &cutFile{content: make([]byte, ratchetSize)}
	l.server.keeper.ratchet.file = broken
	if _, _, err := l.viewer(base, first).enrol(l.ask(e, wire.RoleSend)); !isProblem(err, 503, wire.CodeStore) {
		t.Errorf("with a ratchet file that cannot be written: %v", err)
	}
	l.server.keeper.ratchet.file = file
	g, _ := l.viewer(base, first).mustEnrol(l.ask(e, wire.RoleSend))
	if len(g.SenderIDs) != 1 || g.SenderIDs[0] != 2 {
		t.Errorf("then id %v; 1 was lost with the failed enrolment", g.SenderIDs)
	}
}

// TestFreeAgain: an id is free when the last interval is over whose key its
// enrolment could bring.
func TestFreeAgain(t *testing.T) {
	timing := schedule.Timing{StartMS: 0, EndMS: 1_000_000, FirstMS: 10_000, IntervalMS: 10_000, InitialMS: 60_000, WindowMS: 10_000, Ahead: 1}
	for until, want := range map[int64]int64{
		35_000:    50_000,    // in 3; 4 may be given
		40_000:    60_000,    // 5 opens just now
		995_000:   1_000_000, // the last one
		2_000_000: 2_000_000,
	} {
		if got := freeAgainMS(timing, until) - schedule.LingerMS; got != want {
			t.Errorf("enrolled until %d: free at %d, want %d", until, got, want)
		}
	}
	timing.Ahead = 3
	if got := freeAgainMS(timing, 35_000) - schedule.LingerMS; got != 70_000 {
		t.Errorf("three ahead: free at %d", got)
	}
}
