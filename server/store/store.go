package store

import (
	"context"

	"usher/keyclient/derive"
)

// Store is the management server's memory.
//
// Transactions. View gives its function one consistent snapshot; Update gives
// it a snapshot that it may change, serialised with every other Update that
// reads what it writes: what the function read is still true when it commits.
// Both functions may be called more than once, so they must have no effect but
// through their argument, and must not use the argument after they return. An
// error of the function is returned as it is, and nothing is kept.
//
// Durability. When Update returns nil, everything it wrote survives a power
// cut. When it returns an error, nothing of it is visible to anybody, a full
// disk included (ErrFull).
//
// Change log. Each write that others must see appends a Change in the same
// transaction; which one stands at the method. Update returns the Mark of the
// last one it wrote (the zero Mark if it wrote none): the key role keeps it in
// its ratchet file (docs/keying.md §3). A follower takes Horizon in the View
// in which it loads its state, then asks Changes for what came after; it
// misses nothing, and sees each change once, in an order in which a later
// change of one thing comes later.
//
// Names are compared byte by byte. Lists come in a fixed order: groups and
// clients by number, events by creation, rows by interval. Missing things are
// ErrNotFound, taken names ErrExists, always wrapped with the name.
//
// All methods may be called by several goroutines at once, and several
// processes may use one database.
type Store interface {
	// View reads one snapshot.
	View(ctx context.Context, read func(Reader) error) error
	// Update reads and writes in one transaction.
	Update(ctx context.Context, write func(Tx) error) (Mark, error)
	// Close releases the database after the transactions under way.
	Close() error
}

// Reader reads one snapshot of the store.
type Reader interface {
	// Groups are all groups.
	Groups(ctx context.Context) ([]Group, error)
	// Group by its name.
	Group(ctx context.Context, name string) (Group, error)
	// Edges are all arrows of the graph of groups (Fig 3), by parent, child.
	Edges(ctx context.Context) ([]Edge, error)

	// Clients are all clients.
	Clients(ctx context.Context) ([]Client, error)
	// Client by its name.
	Client(ctx context.Context, name string) (Client, error)
	// ClientByNumber is the client with that number.
	ClientByNumber(ctx context.Context, number uint32) (Client, error)
	// Credential is what a login is checked against.
	Credential(ctx context.Context, name string) (Credential, error)
	// Suspensions of one client that stand, by source.
	Suspensions(ctx context.Context, number uint32) ([]Suspension, error)

	// Member is what the key role's set holds of one client (docs/keying.md §6).
	// ErrNotFound: there is no such client (any more).
	Member(ctx context.Context, number uint32) (Member, error)
	// Members calls each for every client, by number, until it returns an error.
	Members(ctx context.Context, each func(Member) error) error

	// Events are all events.
	Events(ctx context.Context) ([]Event, error)
	// EventsOf are the events of these groups.
	EventsOf(ctx context.Context, groups []uint32) ([]Event, error)
	// Event by its id.
	Event(ctx context.Context, id derive.EventID) (Event, error)
	// Associations of one event, by client.
	Associations(ctx context.Context, id derive.EventID) ([]Association, error)
	// SendsOf are the events that this client is registered to send.
	SendsOf(ctx context.Context, number uint32) ([]derive.EventID, error)

	// Occurrences are those whose end is after endsAfterMS (ms) or 0 (endless),
	// of all events, by start.
	Occurrences(ctx context.Context, endsAfterMS int64) ([]Occurrence, error)
	// Occurrence by its tag.
	Occurrence(ctx context.Context, tag derive.Tag) (Occurrence, error)
	// Rows of one occurrence from interval first on.
	Rows(ctx context.Context, tag derive.Tag, first uint32) ([]Row, error)
	// Blocks of sender ids of one occurrence, expired ones too, by index.
	Blocks(ctx context.Context, tag derive.Tag) ([]Block, error)

	// Horizon is the place in the change log at which this snapshot was taken.
	Horizon(ctx context.Context) (Cursor, error)
	// Changes after a cursor, at most limit of them, and the cursor after the
	// last of them. ErrCursorGone: load everything anew.
	Changes(ctx context.Context, after Cursor, limit int) ([]Change, Cursor, error)
	// Last is the Mark of the newest change (zero if there is none).
	Last(ctx context.Context) (Mark, error)
	// Holds tells whether the log still has the change with this sequence number
	// and these random bits: where it has not, the database went back in time
	// (docs/keying.md §6, rollback).
	Holds(ctx context.Context, mark Mark) (bool, error)
}

// Tx reads and writes within one transaction.
type Tx interface {
	Reader

	// AddGroup makes a group without parents. ErrExists. Change: KindGroup.
	AddGroup(ctx context.Context, name string) (Group, error)
	// AddEdge draws an arrow from parent to child. The store refuses an unknown
	// group (ErrNotFound) and an arrow that is there (ErrExists); a cycle is the
	// caller's to refuse, by group.Graph in the same Update. Change: KindEdge.
	AddEdge(ctx context.Context, edge Edge) error
	// RemoveEdge removes an arrow. ErrNotFound. Change: KindEdge.
	RemoveEdge(ctx context.Context, edge Edge) error

	// AddClient makes a client with a number that no client ever had.
	// ErrExists, ErrNotFound (a group). Change: KindMember.
	AddClient(ctx context.Context, name, passwordHash string, groups []uint32) (Client, error)
	// SetPassword replaces the stored hash. ErrNotFound. No change: nobody
	// keeps it in memory.
	SetPassword(ctx context.Context, number uint32, passwordHash string) error
	// Join puts a client into a group. ErrNotFound, ErrExists. Change: KindMember.
	Join(ctx context.Context, number, group uint32) error
	// Leave takes a client out of a group. ErrNotFound. Change: KindMember.
	Leave(ctx context.Context, number, group uint32) error
	// Suspend adds or renews a suspension by one source ("operator"); a client
	// is suspended while any source's stands. ErrNotFound. Change: KindMember.
	Suspend(ctx context.Context, number uint32, source, reason string) error
	// Restore lifts the suspension by that source. ErrNotFound: it has none.
	// Change: KindMember.
	Restore(ctx context.Context, number uint32, source string) error

	// AddEvent stores a new event under e.ID with edition 1; e.Created is
	// filled in by the store. ErrExists, ErrNotFound (its group).
	// Change: KindEvent.
	AddEvent(ctx context.Context, e Event) error
	// UpdateEvent replaces an event's settings; its edition becomes the next
	// number, whatever e says. ErrNotFound. Change: KindEvent.
	UpdateEvent(ctx context.Context, e Event) error
	// DeleteEvent removes an event with its associations, occurrences, rows and
	// blocks. ErrNotFound. Change: KindEvent.
	DeleteEvent(ctx context.Context, id derive.EventID) error
	// Associate sets the role of a client in an event; the last one counts.
	// ErrNotFound. Change: KindAssociation.
	Associate(ctx context.Context, a Association) error

	// InsertOccurrence stores an occurrence unless its tag is there already
	// (then nothing happens and no change is written). Read it back after the
	// commit: only what Occurrence returns then is used. ErrNotFound (the
	// event). Change: KindOccurrence.
	InsertOccurrence(ctx context.Context, o Occurrence) error
	// EndOccurrence brings the end forward to endMS and removes the rows from
	// interval n on (the occurrence's new number of intervals). ErrNotFound; an
	// end that is not earlier is refused. Change: KindOccurrence.
	EndOccurrence(ctx context.Context, tag derive.Tag, endMS int64, n uint32) error
	// InsertRows stores sealed interval secrets, of one or several occurrences,
	// leaving alone those that are there (INSERT … ON CONFLICT DO NOTHING). Read
	// them back by Rows after the commit: only what that returns is used
	// (docs/keying.md §3). ErrNotFound (an occurrence). Change: KindRows, one for
	// each occurrence that got a new row.
	InsertRows(ctx context.Context, rows []Row) error
	// TakeBlock reserves the lowest free block of 16 sender ids.
	// ErrSenderIDs, ErrNotFound (the occurrence). Change: KindBlock.
	TakeBlock(ctx context.Context, r BlockRequest) (Block, error)
	// ExtendBlock moves the instant from which a block is free again to a later
	// one (an earlier one changes nothing). ErrNotFound: the block is not this
	// owner's. Change: KindBlock.
	ExtendBlock(ctx context.Context, tag derive.Tag, index uint16, owner string, expiresMS int64) error

	// DeleteRows removes at most limit rows whose epoch is before the given one
	// and tells how many it removed. Hygiene only: what makes old rows
	// unreadable is the ratchet. No change.
	DeleteRows(ctx context.Context, beforeEpoch uint64, limit int) (int, error)
	// DeleteOccurrences removes at most limit occurrences that ended before the
	// instant, with rows and blocks. No change.
	DeleteOccurrences(ctx context.Context, endedBeforeMS int64, limit int) (int, error)
	// TrimChanges removes at most limit changes older than the instant (ms), but
	// never the newest. No change.
	TrimChanges(ctx context.Context, beforeMS int64, limit int) (int, error)
}
