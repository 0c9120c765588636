package store

import (
	"net/netip"
	"time"

	"usher/keyclient/derive"
)

// Group is a node of the graph of Fig 3.
type Group struct {
	Number uint32 // from 1, never reused: index into the key role's bitsets
	Name   string // the group identifier of tickets (Fig 4, 410)
}

// Edge is one arrow of Fig 3: clients of Child have the events of Parent too.
type Edge struct {
	Parent, Child uint32
}

// Client is one registered client (Fig 2, 220).
type Client struct {
	Number    uint32 // from 1, never reused (docs/keying.md §1)
	Name      string // login name
	Groups    []uint32
	Suspended bool
	Created   time.Time
}

// Credential is what a login is checked against. It has no String method on
// purpose: it is for package ticket, not for output.
type Credential struct {
	Number       uint32
	PasswordHash string // PHC string, argon2id
}

// SourceOperator is the source of suspensions made by usher-server's commands.
const SourceOperator = "operator"

// Suspension is one source's word that a client is to get no further key.
type Suspension struct {
	Source string
	Reason string
	Since  time.Time
}

// Member is a client as the key role's set sees it (docs/keying.md §6).
type Member struct {
	Number    uint32
	Groups    []uint32 // the client's own groups, without their ancestors
	Suspended bool
}

// Role is what an association allows; the values are those of the cookie
// (docs/keying.md §5.1).
type Role uint8

const (
	// RoleReceive is what every client of the event's group and of the groups
	// beneath has.
	RoleReceive Role = 0
	// RoleSend lets a client of these groups send the event, too.
	RoleSend Role = 1
)

// Association is the role of one client in one event (Fig 3). Membership in
// the graph is asked for in any case: an association alone opens nothing.
type Association struct {
	Event  derive.EventID
	Client uint32
	Role   Role
}

// Flow is one flow of an event: protocol, destination, ports (both included).
type Flow struct {
	Protocol            string
	Destination         netip.Addr
	FirstPort, LastPort uint16
}

// TimeExpression says when an event takes place, in RFC 5545's notation, as in
// a ticket's entry (docs/design.md §5).
type TimeExpression struct {
	Start    string   // DTSTART: local time of Zone, or UTC with Z
	Zone     string   // IANA name; "" is UTC
	Duration string   // DURATION
	Rule     string   // RRULE; "" for one occurrence
	Except   []string // EXDATE
}

// Event holds an entry's fields (docs/design.md §5) and the settings that
// tickets do not show. Times are in milliseconds where the name ends in MS.
type Event struct {
	ID         derive.EventID
	Group      uint32
	Title      string
	Senders    []netip.Addr
	Flows      []Flow
	Time       TimeExpression
	TTL        uint8
	KeyServers []string // URLs
	InitialMS  int64
	FirstMS    int64
	IntervalMS int64
	WindowMS   int64
	Ahead      uint32
	Transform  uint8  // IANA number (docs/keying.md §2)
	GatherUS   uint32 // 0 for none
	Spread     string // "fixed"
	Revocation string // "withhold"
	Method     string // "pull"
	Priority   int32
	Edition    uint16 // grows with each change
	Created    time.Time
}

// Occurrence is one run of an event with the timing that it began with:
// changes of an event hold from the next occurrence on (docs/keying.md §1).
type Occurrence struct {
	Tag         derive.Tag
	Event       derive.EventID
	Incarnation uint32
	StartMS     int64 // whole seconds
	EndMS       int64 // 0: endless
	FirstMS     int64
	IntervalMS  int64
	InitialMS   int64
	WindowMS    int64
	Ahead       uint32
	Transform   uint8
}

// StartS is the start in seconds, as tags have it.
func (o Occurrence) StartS() uint64 { return uint64(o.StartMS / 1000) }

// SealedLen is the length of a sealed interval secret: nonce 12, secret 32,
// AEAD tag 16 (docs/keying.md §3).
const SealedLen = 60

// Row is one sealed interval secret.
type Row struct {
	Tag      derive.Tag
	Interval uint32
	Epoch    uint64 // x: last epoch of the ratchet in which it opens
	Sealed   [SealedLen]byte
}

// Sender ids are given out in blocks of 16, of a range of 2¹⁶ (docs/keying.md §6).
const (
	BlockSize  = 16
	BlockCount = 1 << 16 / BlockSize
)

// Block is one block of sender ids of an occurrence.
type Block struct {
	Tag       derive.Tag
	Index     uint16 // its ids are Index*BlockSize … +15
	Owner     string // the process that took it; another one never uses its ids
	Client    uint32 // the client it was taken for; 0: for any
	ExpiresMS int64  // free again from then on
}

// First is the lowest sender id of the block.
func (b Block) First() uint16 { return b.Index * BlockSize }

// BlockRequest asks for a block.
type BlockRequest struct {
	Tag         derive.Tag
	Owner       string
	Client      uint32 // 0: a block for any client, without a share
	NowMS       int64  // blocks with ExpiresMS <= NowMS are free
	ExpiresMS   int64
	FirstIndex  uint16 // the site's range, both included
	LastIndex   uint16
	ClientLimit int // blocks that one client may hold at once; 0: no limit
}

// Kind says what a change is about, and what its key is.
type Kind string

// Kinds of changes.
const (
	KindGroup       Kind = "group"       // key: the group's number
	KindEdge        Kind = "edge"        // key: the child's number
	KindMember      Kind = "member"      // key: the client's number; Reader.Member changed
	KindEvent       Kind = "event"       // key: the event's id
	KindAssociation Kind = "association" // key: the event's id
	KindOccurrence  Kind = "occurrence"  // key: the tag
	KindRows        Kind = "rows"        // key: the tag
	KindBlock       Kind = "block"       // key: the tag
)

// Cursor is a place in the change log. Its number means something to the
// backend alone; the zero Cursor is the beginning.
type Cursor uint64

// Mark names one change for good: a restored database may reach the same
// sequence number again, but not with the same random bits.
type Mark struct {
	Seq    uint64
	Random uint64
}

// Change is one row of the change log.
type Change struct {
	Mark
	Kind Kind
	Key  string // decimal numbers, hexadecimal ids and tags
	At   time.Time
}
