package wire

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"

	"usher/keyclient/derive"
)

// Paths of the key role (docs/keying.md §4, §5).
const (
	PathEnrol   = "/v1/enrol"   // POST, JSON
	PathRefresh = "/v1/refresh" // POST, ContentTypeRefresh: request in, answer or NAK out
)

// ContentTypeRefresh is the content type of refresh messages by HTTPS.
const ContentTypeRefresh = "application/octet-stream"

// EnrolRequest asks to take part in one occurrence (docs/keying.md §4). Bytes
// travel in base64url.
//
//	{"versions": [1], "event": 16 bytes, "start_s": Unix time, "role": "receive",
//	 "nonce": 16 bytes, "queues": senders 1…16, "entry": bytes, "certificate": JWS}
type EnrolRequest struct {
	Versions    []int
	Event       derive.EventID
	StartS      int64 // of the occurrence, Unix time
	Role        Role
	Nonce       [16]byte // random: part of the exporter's context
	Queues      int      // sender ids asked for; 0 for receivers
	Entry       []byte   // the event's part of the ticket
	Certificate string   // the ticket's JWS
}

// MaxQueues is the greatest number of sender ids for one enrolment.
const MaxQueues = 16

type enrolJSON struct {
	Versions    []int  `json:"versions"`
	Event       Bytes  `json:"event"`
	StartS      int64  `json:"start_s"`
	Role        Role   `json:"role"`
	Nonce       Bytes  `json:"nonce"`
	Queues      int    `json:"queues,omitempty"`
	Entry       Bytes  `json:"entry"`
	Certificate string `json:"certificate"`
}

// MarshalJSON writes the request.
func (r EnrolRequest) MarshalJSON() ([]byte, error) {
	return encodeJSON(enrolJSON{r.Versions, r.Event[:], r.StartS, r.Role, r.Nonce[:], r.Queues, r.Entry, r.Certificate})
}

// UnmarshalJSON reads and checks the request.
func (r *EnrolRequest) UnmarshalJSON(b []byte) error {
	var j enrolJSON
	if err := DecodeStrict(b, &j); err != nil {
		return err
	}
	out := EnrolRequest{Versions: j.Versions, StartS: j.StartS, Role: j.Role, Queues: j.Queues, Entry: j.Entry, Certificate: j.Certificate}
	if err := fixed(out.Event[:], j.Event, "event"); err != nil {
		return err
	}
	if err := fixed(out.Nonce[:], j.Nonce, "nonce"); err != nil {
		return err
	}
	if err := out.validate(); err != nil {
		return err
	}
	*r = out
	return nil
}

func (r *EnrolRequest) validate() error {
	switch {
	case !slices.Contains(r.Versions, Version) || len(r.Versions) > 16:
		return fmt.Errorf("versions: %d is spoken here", Version)
	case r.StartS <= 0:
		return fmt.Errorf("start_s %d", r.StartS)
	case r.Role == RoleSend && (r.Queues < 1 || r.Queues > MaxQueues):
		return fmt.Errorf("queues %d of a sender: 1 to %d", r.Queues, MaxQueues)
	case r.Role == RoleReceive && r.Queues != 0:
		return fmt.Errorf("queues %d of a receiver", r.Queues)
	case len(r.Entry) == 0 || len(r.Entry) > MaxEntry:
		return fmt.Errorf("entry of %d bytes", len(r.Entry))
	case r.Certificate == "" || len(r.Certificate) > MaxCertificate:
		return fmt.Errorf("certificate of %d bytes", len(r.Certificate))
	}
	return nil
}

// ParseEnrolRequest reads an enrolment request. The error wraps ErrTooBig or ErrJSON.
func ParseEnrolRequest(b []byte) (*EnrolRequest, error) {
	if len(b) > MaxEnrolRequest {
		return nil, fmt.Errorf("%w: enrolment of %d bytes, at most %d", ErrTooBig, len(b), MaxEnrolRequest)
	}
	r := new(EnrolRequest)
	if err := DecodeStrict(b, r); err != nil {
		return nil, fmt.Errorf("enrolment: %w", err)
	}
	return r, nil
}

// Selector is which packets the association is for: what the ticket's entry
// says, or the client refuses the grant.
type Selector struct {
	Senders []netip.Addr `json:"senders"`
	Flows   []Flow       `json:"flows"`
}

// Equal tells whether both are the same senders and flows in the same order.
func (s Selector) Equal(o Selector) bool {
	return slices.Equal(s.Senders, o.Senders) && slices.Equal(s.Flows, o.Flows)
}

// Selector returns the entry's.
func (e *Entry) Selector() Selector { return Selector{Senders: e.Senders, Flows: e.Flows} }

// GrantSchedule is the occurrence's timing (docs/keying.md §1). The server
// resolves recurrence and time zones; the client takes these times.
type GrantSchedule struct {
	StartS     int64  `json:"start_s"` // Unix time
	EndS       int64  `json:"end_s"`   // 0: without end
	FirstMS    int64  `json:"first_ms"`
	IntervalMS int64  `json:"interval_ms"`
	InitialMS  int64  `json:"initial_ms"`
	WindowMS   int64  `json:"window_ms"`
	MarginMS   int64  `json:"margin_ms"`
	LingerMS   int64  `json:"linger_ms"`
	GraceMS    int64  `json:"grace_ms"`
	Ahead      uint32 `json:"ahead"`
	Spread     string `json:"spread"` // "fixed" or "redraw"
	Preview    uint32 `json:"preview"`
}

// Push is what a member of a push event needs to receive it (docs/keying.md §7).
type Push struct {
	Group      netip.Addr   `json:"group"`
	Sources    []netip.Addr `json:"sources"`
	Port       uint16       `json:"port"`
	Key        Bytes        `json:"key"` // Ed25519
	Degree     uint32       `json:"degree"`
	Depth      uint8        `json:"depth"`
	Generation uint32       `json:"generation"` // G, in intervals
}

// Sender is one sender of a unicast event.
type Sender struct {
	Number  uint32     `json:"number"`
	Address netip.Addr `json:"address"`
}

// Grant is the answer to an enrolment: the selector and association pair of
// Fig 12 (docs/keying.md §4). Bytes travel in base64url; tag has 8.
type Grant struct {
	Version          int
	Tag              derive.Tag
	Number           uint32     // the client's
	Address          netip.Addr // inner address, unicast only
	Kind             uint8      // Kind…
	Selector         Selector
	Transform        uint8 // derive.Transform…
	Schedule         GrantSchedule
	Push             *Push    // push events only
	SenderIDs        []uint16 // one a queue, senders only
	RefreshAddresses []string // empty: by HTTPS only
	ReenrolMS        int64
	StaleS           int64
	GatherUS         int64
	QuotaBytes       uint64   // for this sender and key; 0: none
	Senders          []Sender // unicast only
	Body             []byte   // [Body] with as many bytes as needed; its cookie holds K₀
	Paths            []Bytes  // push events only
	NewerTicket      bool     // the ticket shown is superseded: fetch it
}

type grantJSON struct {
	Version          int           `json:"version"`
	Tag              Bytes         `json:"tag"`
	Number           uint32        `json:"number"`
	Address          netip.Addr    `json:"address,omitzero"`
	Kind             uint8         `json:"kind"`
	Selector         Selector      `json:"selector"`
	Transform        uint8         `json:"transform"`
	Schedule         GrantSchedule `json:"schedule"`
	Push             *Push         `json:"push,omitempty"`
	SenderIDs        []uint16      `json:"sender_ids,omitempty"`
	RefreshAddresses []string      `json:"refresh_addresses,omitempty"`
	ReenrolMS        int64         `json:"reenrol_ms"`
	StaleS           int64         `json:"stale_s"`
	GatherUS         int64         `json:"gather_us"`
	QuotaBytes       uint64        `json:"quota_bytes,omitempty"`
	Senders          []Sender      `json:"senders,omitempty"`
	Body             Bytes         `json:"body"`
	Paths            []Bytes       `json:"paths,omitempty"`
	NewerTicket      bool          `json:"newer_ticket,omitempty"`
}

// MarshalJSON writes the grant. The result holds keys: the caller wipes it.
func (g Grant) MarshalJSON() ([]byte, error) {
	return encodeJSON(grantJSON{
		g.Version, g.Tag[:], g.Number, g.Address, g.Kind, g.Selector, g.Transform, g.Schedule, g.Push,
		g.SenderIDs, g.RefreshAddresses, g.ReenrolMS, g.StaleS, g.GatherUS, g.QuotaBytes, g.Senders,
		g.Body, g.Paths, g.NewerTicket,
	})
}

// UnmarshalJSON reads and checks the grant.
func (g *Grant) UnmarshalJSON(b []byte) error {
	var j grantJSON
	if err := DecodeStrict(b, &j); err != nil {
		return err
	}
	out := Grant{
		Version: j.Version, Number: j.Number, Address: j.Address, Kind: j.Kind, Selector: j.Selector,
		Transform: j.Transform, Schedule: j.Schedule, Push: j.Push, SenderIDs: j.SenderIDs,
		RefreshAddresses: j.RefreshAddresses, ReenrolMS: j.ReenrolMS, StaleS: j.StaleS, GatherUS: j.GatherUS,
		QuotaBytes: j.QuotaBytes, Senders: j.Senders, Body: j.Body, Paths: j.Paths, NewerTicket: j.NewerTicket,
	}
	if err := fixed(out.Tag[:], j.Tag, "tag"); err != nil {
		return err
	}
	switch s := out.Schedule; {
	case out.Version != Version:
		return fmt.Errorf("version %d is not spoken here", out.Version)
	case s.StartS <= 0 || s.EndS != 0 && s.EndS <= s.StartS:
		return fmt.Errorf("schedule from %d to %d", s.StartS, s.EndS)
	case s.Spread != "fixed" && s.Spread != "redraw":
		return fmt.Errorf("spread %q", s.Spread)
	case len(out.Selector.Senders) == 0 || len(out.Selector.Flows) == 0:
		return errors.New("selector without senders or flows")
	case out.Push != nil && (len(out.Push.Sources) == 0 || len(out.Push.Sources) > maxSources || len(out.Push.Key) != ed25519.PublicKeySize):
		return fmt.Errorf("push: 1 to %d sources and a key of %d bytes", maxSources, ed25519.PublicKeySize)
	case len(out.SenderIDs) > MaxQueues:
		return fmt.Errorf("%d sender_ids", len(out.SenderIDs))
	case out.ReenrolMS < 0 || out.StaleS < 0 || out.GatherUS < 0:
		return fmt.Errorf("negative reenrol_ms, stale_s or gather_us")
	}
	*g = out
	return nil
}

// ParseGrant reads a grant. The error wraps ErrTooBig or ErrJSON. The body is
// read by [ParseBody].
func ParseGrant(b []byte) (*Grant, error) {
	if len(b) > MaxGrant {
		return nil, fmt.Errorf("%w: grant of %d bytes, at most %d", ErrTooBig, len(b), MaxGrant)
	}
	g := new(Grant)
	if err := DecodeStrict(b, g); err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	return g, nil
}

// String names the grant without its keys.
func (g Grant) String() string { return "grant of " + g.Tag.String() + " (keys REDACTED)" }

// Format writes String for every verb.
func (g Grant) Format(f fmt.State, _ rune) { io.WriteString(f, g.String()) } //nolint:errcheck // fmt reports it

// LogValue is String.
func (g Grant) LogValue() slog.Value { return slog.StringValue(g.String()) }
