-- What this file is, and how far it has come. Keys: store_id; anchor (position, frame hash, incarnation, checksum).
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per session. Rows are small and batches are applied in the order of ids, so the table is its own index.
CREATE TABLE sessions (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    namespace  TEXT,
    name       TEXT,
    status     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    head_seq   INTEGER NOT NULL,
    head_hash  BLOB NOT NULL CHECK (length(head_hash) = 32),
    head_time  INTEGER NOT NULL,
    head_epoch INTEGER NOT NULL,
    -- The last record that was removed below a checkpoint; 0 and zeros: none was.
    base_seq   INTEGER NOT NULL DEFAULT 0,
    base_hash  BLOB NOT NULL,
    base_time  INTEGER NOT NULL DEFAULT 0,
    -- Record bytes kept, before compression.
    bytes      INTEGER NOT NULL,
    -- The position that changed this session last: what the views have yet to see.
    position   INTEGER NOT NULL,
    -- Raw length of the last chunk: whether it is small enough to be extended.
    tail_raw   INTEGER NOT NULL,
    checksum   BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Records, a run of one session in each row. With a rowid, because the rows are large: the table grows at its end and
-- only the narrow index is written in the middle.
CREATE TABLE chunks (
    id        INTEGER PRIMARY KEY,
    session   BLOB NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL,
    codec     INTEGER NOT NULL,
    raw_len   INTEGER NOT NULL,
    checksum  BLOB NOT NULL,
    bytes     BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX chunks_by_session ON chunks (session, first_seq);

CREATE TABLE checkpoints (
    id            INTEGER PRIMARY KEY,
    session       BLOB NOT NULL,
    seq           INTEGER NOT NULL,
    -- Counts the session's checkpoints from 0: the first and every 64th are kept.
    number        INTEGER NOT NULL,
    head_hash     BLOB NOT NULL,
    head_time     INTEGER NOT NULL,
    state_version INTEGER NOT NULL,
    hash          BLOB NOT NULL,
    codec         INTEGER NOT NULL,
    raw_len       INTEGER NOT NULL,
    checksum      BLOB NOT NULL,
    bytes         BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX checkpoints_by_session ON checkpoints (session, seq);

-- bytes is NULL when the blob is a file of its own.
CREATE TABLE blobs (
    id      INTEGER PRIMARY KEY,
    session BLOB NOT NULL,
    blob    BLOB NOT NULL,
    seq     INTEGER NOT NULL,
    raw_len INTEGER NOT NULL,
    codec   INTEGER NOT NULL,
    bytes   BLOB
) STRICT;
CREATE UNIQUE INDEX blobs_by_session ON blobs (session, blob);

-- Heartbeats and metrics, a JSON list per session and batch; kind: which of them are in the list.
CREATE TABLE observations (
    id       INTEGER PRIMARY KEY,
    session  BLOB NOT NULL,
    position INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    checksum BLOB NOT NULL,
    json     TEXT NOT NULL
) STRICT;
CREATE INDEX observations_by_session ON observations (session, id);
CREATE INDEX observations_by_position ON observations (position);

-- Sessions that were removed, and where they ended, so that a replay brings nothing back.
CREATE TABLE removed (
    session   BLOB PRIMARY KEY,
    position  INTEGER NOT NULL,
    head_seq  INTEGER NOT NULL,
    head_hash BLOB NOT NULL,
    checksum  BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE recoveries (
    id       TEXT PRIMARY KEY,
    at       INTEGER NOT NULL,
    report   TEXT NOT NULL,
    checksum BLOB NOT NULL
) STRICT;
