package sa_test

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

	"usher/sa"
	"usher/sa/esp"
)

// open takes a packet with these numbers through s and returns the error.
func open(t testing.TB, s *sa.SA, seq uint32, senderID uint16, counter uint64, bootNS int64) error {
	t.Helper()
	inner, next, err := s.Open(seal(t, s, seq, uint64(senderID)<<48|counter), bootNS)
	if err == nil && (len(inner) != 40 || next != esp.NextIPv4) {
		t.Fatalf("opened %d bytes, next header %d", len(inner), next)
	}
	return err
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestReplayBySender(t *testing.T) {
	s := newSA(t, params(1))
	const now = 1000 * second
	wantErr(t, "first", open(t, s, 1, 5, 100, now), nil)
	wantErr(t, "again", open(t, s, 1, 5, 100, now), sa.ErrReplaySeen)
	wantErr(t, "older, new", open(t, s, 9, 5, 99, now), nil)
	wantErr(t, "same counter of another sender", open(t, s, 1, 6, 100, now), nil)
	wantErr(t, "counter 0", open(t, s, 1, 5, 0, now), sa.ErrReplayOld)
	wantErr(t, "counter 0 of a new sender", open(t, s, 1, 7, 0, now), sa.ErrReplayOld)
	wantErr(t, "within the jump", open(t, s, 1, 5, 20_000, now), nil)
	wantErr(t, "behind the window", open(t, s, 1, 5, 20_000-8128, now), sa.ErrReplayOld)
	wantErr(t, "last of the window", open(t, s, 1, 5, 20_000-8127, now), nil)

	info := s.Info()
	if info.PacketsIn != 5 || info.BytesIn != 200 || info.Senders != 2 || info.ReplaySeen != 1 || info.ReplayOld != 3 {
		t.Errorf("counted %+v", info)
	}
}

func TestReplayBySequence(t *testing.T) {
	p := params(1)
	p.Replay = sa.BySequence
	s := newSA(t, p)
	const now = 1000 * second
	// A kernel's IV is its sequence number and a random constant: no order, no sender id.
	wantErr(t, "first", open(t, s, 1, 0x9999, 0xffff_0000_1234, now), nil)
	wantErr(t, "second, IV far behind", open(t, s, 2, 0x1111, 3, now), nil)
	wantErr(t, "again under another IV", open(t, s, 2, 0x2222, 4, now), sa.ErrReplaySeen)
	wantErr(t, "sequence number 0", open(t, s, 0, 1, 1, now), sa.ErrReplayOld)
	if n := s.Info().Senders; n != 1 {
		t.Errorf("%d senders", n)
	}
}

func TestReplayNone(t *testing.T) {
	p := params(1)
	p.Replay = sa.None
	s := newSA(t, p)
	for range 3 {
		wantErr(t, "any number", open(t, s, 0, 1, 0, second), nil)
	}
}

// TestForgeriesMoveNothing: a packet that does not authenticate makes no window and moves none.
func TestForgeriesMoveNothing(t *testing.T) {
	s := newSA(t, params(1))
	const now = 1000 * second
	wantErr(t, "first", open(t, s, 1, 5, 1, now), nil)
	for i := range 5000 {
		bad := seal(t, s, 1, uint64(i)<<48|40_000)
		bad[30] ^= 1
		if _, _, err := s.Open(bad, now); !errors.Is(err, esp.ErrBadICV) {
			t.Fatalf("forgery of sender %d: %v", i, err)
		}
	}
	wantErr(t, "second, after the forgeries", open(t, s, 2, 5, 2, now), nil)
	for n := range 36 {
		if _, _, err := s.Open(make([]byte, n), now); !errors.Is(err, esp.ErrShort) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if info := s.Info(); info.Senders != 1 || info.BadICV != 5000 || info.Malformed != 36 || info.PacketsIn != 2 {
		t.Errorf("counted %+v", info)
	}
}

// TestJumps has the bounds of docs/keying.md §9.
func TestJumps(t *testing.T) {
	const (
		slack = 1 << 16
		start = 500 * second
	)
	p := params(1)
	p.Initiation, p.InitiationSlack = start, second/2
	s := newSA(t, p)

	// The first packet: 10⁷ × (now − Tᵢ + tolerance + e) + 2¹⁶.
	now := start + 2*second
	bound := uint64(25_000_000 + slack)
	wantErr(t, "first, beyond its bound", open(t, s, 1, 5, bound+1, now), sa.ErrReplayJump)
	wantErr(t, "first, at its bound", open(t, s, 1, 5, bound, now), nil)
	// A sender may begin up to two tolerances early: its first packets must pass.
	wantErr(t, "before the initiation", open(t, s, 1, 6, slack, start-second), nil)
	wantErr(t, "far ahead before the initiation", open(t, s, 1, 7, slack+1, start-second), sa.ErrReplayJump)

	// Later ones: 10⁷ × the seconds since its last packet + 2¹⁶.
	wantErr(t, "sender 8", open(t, s, 1, 8, 1000, now), nil)
	wantErr(t, "jump without time", open(t, s, 1, 8, 1000+slack+1, now), sa.ErrReplayJump)
	wantErr(t, "largest jump without time", open(t, s, 1, 8, 1000+slack, now), nil)
	now += second / 10
	wantErr(t, "jump in 0.1 s", open(t, s, 1, 8, 1000+2*slack+1_000_001, now), sa.ErrReplayJump)
	wantErr(t, "largest jump in 0.1 s", open(t, s, 1, 8, 1000+2*slack+1_000_000, now), nil)
	wantErr(t, "to the end of the counter", open(t, s, 1, 8, 1<<48-1, now), sa.ErrReplayJump)
	wantErr(t, "the victim goes on", open(t, s, 1, 8, 1000+2*slack+1_000_001, now), nil)
	if n := s.Info().ReplayJump; n != 5 {
		t.Errorf("%d jumps counted", n)
	}

	// A manual association knows no initiation: only later packets are bounded.
	s = newSA(t, params(1))
	wantErr(t, "first of a manual association", open(t, s, 1, 5, 1<<47, now), nil)
	wantErr(t, "its second", open(t, s, 1, 5, 1<<47+slack+1, now), sa.ErrReplayJump)
}

func TestTooManySenders(t *testing.T) {
	s := newSA(t, params(1))
	for id := range sa.MaxSenders {
		wantErr(t, "sender", open(t, s, 1, uint16(id), 1, second), nil)
	}
	wantErr(t, "one more", open(t, s, 1, 5000, 1, second), sa.ErrTooManySenders)
	wantErr(t, "one that is known", open(t, s, 1, 17, 2, second), nil)
	if info := s.Info(); info.Senders != sa.MaxSenders || info.TooManySenders != 1 {
		t.Errorf("%d senders, %d too many", info.Senders, info.TooManySenders)
	}
}

// TestFailedLimit has docs/keying.md §10: after so many failed checks the key is dropped.
func TestFailedLimit(t *testing.T) {
	db := sa.NewDB()
	s := install(t, db, params(1))
	sa.SetFailedLimit(s, 3)
	changed, cancel := db.Subscribe()
	defer cancel()
	good := seal(t, s, 1, 1)
	for range 3 {
		if told(changed) {
			t.Error("told before the limit")
		}
		bad := seal(t, s, 1, 1)
		bad[20] ^= 1
		_, _, err := s.Open(bad, second)
		wantErr(t, "forgery", err, esp.ErrBadICV)
	}
	if _, _, err := s.Open(good, second); !errors.Is(err, sa.ErrExpired) || !told(changed) {
		t.Errorf("after the limit: %v", err)
	}
	if _, _, ok := s.Next(); ok {
		t.Error("sends under a dropped key")
	}
	if removed := db.Expire(second); len(removed) != 1 || db.Snapshot().Inbound(s.SPI(), group) != nil {
		t.Errorf("expired %v", removed)
	}
}

func TestAcceptSpan(t *testing.T) {
	p := params(1)
	p.AcceptFrom, p.AcceptUntil = 10*second, 20*second
	s := newSA(t, p)
	counter := uint64(0)
	at := func(ns int64) error { counter++; return open(t, s, 1, 5, counter, ns) }
	wantErr(t, "before", at(10*second-1), sa.ErrExpired)
	wantErr(t, "first instant", at(10*second), nil)
	wantErr(t, "last instant", at(20*second-1), nil)
	wantErr(t, "end", at(20*second), sa.ErrExpired)
	s.SetAcceptSpan(10*second, 30*second)
	wantErr(t, "prolonged", at(20*second), nil)
	s.SetAcceptSpan(sa.Never, 0)
	wantErr(t, "never", at(25*second), sa.ErrExpired)
	if n := s.Info().Expired; n != 3 {
		t.Errorf("%d expired", n)
	}
	p.Direction = sa.Outbound
	s = newSA(t, p)
	wantErr(t, "outbound only", at(15*second), sa.ErrExpired)
}

// TestMatches: the inner packet must be one that the policies of the association select.
func TestMatches(t *testing.T) {
	hub := viewer
	unicast := eventPolicy()
	unicast.Destination = host(hub)
	reply := sa.Tuple{Source: hub, Destination: sender, Protocol: 17, SourcePort: 5004, DestinationPort: 40000, HasPorts: true}
	toHub := stream
	toHub.Destination = hub
	otherPort, otherSource := stream, stream
	otherPort.DestinationPort = 5005
	otherSource.Source = viewer
	for _, tc := range []struct {
		name   string
		policy func() sa.Policy
		packet sa.Tuple
		want   bool
	}{
		{"multicast is not turned round", eventPolicy, stream, true},
		{"multicast, receiver only", func() sa.Policy { p := eventPolicy(); p.Direction = sa.Inbound; return p }, stream, true},
		{"multicast, sender only", func() sa.Policy { p := eventPolicy(); p.Direction = sa.Outbound; return p }, stream, false},
		{"another port", eventPolicy, otherPort, false},
		{"another member's address", eventPolicy, otherSource, false},
		{"unicast is turned round", func() sa.Policy { return unicast }, reply, true},
		{"unicast, the outbound packet", func() sa.Policy { return unicast }, toHub, false},
		{"unicast, inbound policy as written", func() sa.Policy { p := unicast; p.Direction = sa.Inbound; return p }, toHub, true},
		{"unicast, outbound policy", func() sa.Policy { p := unicast; p.Direction = sa.Outbound; return p }, reply, false},
		{"policy of another association", func() sa.Policy { p := eventPolicy(); p.Association = "other"; return p }, stream, false},
	} {
		// Policies before or after the association: the same.
		before, after := sa.NewDB(), sa.NewDB()
		setPolicies(t, before, sa.OriginTicket, tc.policy())
		first := install(t, before, params(1))
		second := install(t, after, params(1))
		if second.Matches(tc.packet) {
			t.Errorf("%s: matches without a policy", tc.name)
		}
		setPolicies(t, after, sa.OriginManual, tc.policy())
		if first.Matches(tc.packet) != tc.want || second.Matches(tc.packet) != tc.want {
			t.Errorf("%s: %v, %v; want %v", tc.name, first.Matches(tc.packet), second.Matches(tc.packet), tc.want)
		}
	}
	if newSA(t, params(1)).Matches(stream) {
		t.Error("matches without being installed")
	}
}

// TestVectorsThroughDatabase takes every packet of testdata/esp.json, whole and changed, by the way of
// the packet path: looked up by SPI and destination, opened.
func TestVectorsThroughDatabase(t *testing.T) {
	data, err := os.ReadFile("esp/testdata/esp.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Transform  string `json:"transform"`
			Key        hexed  `json:"key"`
			Salt       hexed  `json:"salt"`
			UDPPayload hexed  `json:"udp_payload"`
			Expect     string `json:"expect"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	done := map[string]int{}
	for i, c := range file.Cases {
		transform, err := esp.ParseTransform(c.Transform)
		if err != nil {
			continue
		}
		db := sa.NewDB()
		p := params(1)
		p.SPI, p.Transform, p.Material = 0xd9f07f0c, transform, append(c.Key, c.Salt...)
		install(t, db, p)
		got := "opened"
		s := db.Snapshot().Inbound(uint32(c.UDPPayload[0])<<24|uint32(c.UDPPayload[1])<<16|uint32(c.UDPPayload[2])<<8|uint32(c.UDPPayload[3]), group)
		if s == nil {
			got = "no SA (SPI differs)"
		} else if _, _, err := s.Open(c.UDPPayload, second); errors.Is(err, esp.ErrBadICV) {
			got = "bad ICV, dropped"
		} else if err != nil {
			t.Errorf("case %d: %v", i, err)
		}
		if want := c.Expect; got != want && (want != "" || got != "opened") {
			t.Errorf("case %d: %s, want %s", i, got, want)
		}
		done[got]++
	}
	if done["opened"] != 24 || done["bad ICV, dropped"] != 12 || done["no SA (SPI differs)"] != 2 {
		t.Errorf("cases: %v", done)
	}
}
