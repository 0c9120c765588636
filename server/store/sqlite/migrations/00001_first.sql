-- +goose Up

-- Fig 3: groups are nodes, edges its arrows, memberships put clients beside them.
CREATE TABLE groups (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name   TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE edges (
    parent INTEGER NOT NULL REFERENCES groups (number),
    child  INTEGER NOT NULL REFERENCES groups (number),
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: a client's number is never given to another one (docs/keying.md §1).
CREATE TABLE clients (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    created_ms    INTEGER NOT NULL
) STRICT;

CREATE TABLE memberships (
    client INTEGER NOT NULL REFERENCES clients (number),
    grp    INTEGER NOT NULL REFERENCES groups (number),
    PRIMARY KEY (client, grp)
) STRICT, WITHOUT ROWID;

-- Kept by source: a client is suspended while any row stands (docs/keying.md §6).
CREATE TABLE suspensions (
    client   INTEGER NOT NULL REFERENCES clients (number),
    source   TEXT NOT NULL,
    reason   TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (client, source)
) STRICT, WITHOUT ROWID;

-- Lists that nobody searches by are JSON.
CREATE TABLE events (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    id          BLOB NOT NULL UNIQUE,
    grp         INTEGER NOT NULL REFERENCES groups (number),
    title       TEXT NOT NULL,
    senders     TEXT NOT NULL,
    flows       TEXT NOT NULL,
    dtstart     TEXT NOT NULL,
    tzid        TEXT NOT NULL,
    duration    TEXT NOT NULL,
    rrule       TEXT NOT NULL,
    exdate      TEXT NOT NULL,
    ttl         INTEGER NOT NULL,
    key_servers TEXT NOT NULL,
    initial_ms  INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    interval_ms INTEGER NOT NULL,
    window_ms   INTEGER NOT NULL,
    ahead       INTEGER NOT NULL,
    transform   INTEGER NOT NULL,
    gather_us   INTEGER NOT NULL,
    spread      TEXT NOT NULL,
    revocation  TEXT NOT NULL,
    method      TEXT NOT NULL,
    priority    INTEGER NOT NULL,
    edition     INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL
) STRICT;
CREATE INDEX events_by_group ON events (grp);

CREATE TABLE associations (
    event  BLOB NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    client INTEGER NOT NULL REFERENCES clients (number),
    role   INTEGER NOT NULL,
    PRIMARY KEY (event, client)
) STRICT, WITHOUT ROWID;
CREATE INDEX associations_by_client ON associations (client);

CREATE TABLE occurrences (
    tag         BLOB PRIMARY KEY,
    event       BLOB NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    incarnation INTEGER NOT NULL,
    start_ms    INTEGER NOT NULL,
    end_ms      INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    interval_ms INTEGER NOT NULL,
    initial_ms  INTEGER NOT NULL,
    window_ms   INTEGER NOT NULL,
    ahead       INTEGER NOT NULL,
    transform   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX occurrences_by_event ON occurrences (event);
CREATE INDEX occurrences_by_end ON occurrences (end_ms);

-- docs/keying.md §3: sealed under a key that ages away outside the database.
CREATE TABLE interval_rows (
    tag    BLOB NOT NULL REFERENCES occurrences (tag) ON DELETE CASCADE,
    i      INTEGER NOT NULL,
    epoch  INTEGER NOT NULL,
    sealed BLOB NOT NULL CHECK (length(sealed) = 60),
    PRIMARY KEY (tag, i)
) STRICT, WITHOUT ROWID;
CREATE INDEX interval_rows_by_epoch ON interval_rows (epoch);

CREATE TABLE sender_blocks (
    tag        BLOB NOT NULL REFERENCES occurrences (tag) ON DELETE CASCADE,
    idx        INTEGER NOT NULL,
    owner      TEXT NOT NULL,
    client     INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (tag, idx)
) STRICT, WITHOUT ROWID;

-- One writer: AUTOINCREMENT order is commit order (docs/keying.md §6).
CREATE TABLE changes (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    random INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    key    TEXT NOT NULL,
    at_ms  INTEGER NOT NULL
) STRICT;

-- +goose Down
SELECT 'no way back: restore a backup';
