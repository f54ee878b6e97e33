//! `records.db` and `views.db` of a swarmkeep store, and a [`Log`](swarmkeep_core::log::Log) on SQLite alone.
//!
//! Synchronous: no threads, no runtime, no clock of its own, so that it also runs in a browser. Whoever has threads
//! decides which of them calls what.
//!
//! # `records.db`: authoritative
//!
//! ```text
//! RecordsDb::open(path, Options { store_id, create, mode, now_ms, vfs })
//!   .apply(&ApplyBatch { position, frame_hash, incarnation, entries })   one transaction, one chunk per session
//!   .anchor() / .position()          how far it has come: position, frame hash, store id, incarnation
//!   .wal_checkpoint()                into the main file, read back by another connection: Some(anchor), or None: later
//!   .shut(), .reopen()               after a failed commit or sync, when no other connection is open
//!   .put_recovery(..), .set_incarnation(..)
//!   .reader() -> RecordsReader       head, session, sessions, read, hash_at, load, checkpoints, blob, blobs,
//!                                    observations, removals, recoveries, verify, verify_file, may_remove_through
//! Entry { position, session, what: Records{..} | Observations(..) | Remove(..) | Checkpoint(..) }
//! ReaderPool::open(path, how_many, clock).read(|connection| RecordsReader::new(connection).head(id))
//! ```
//!
//! # `views.db`: derived
//!
//! ```text
//! ViewsDb::open(path, Options)
//!   .catch_up(&Source, progress)     once after opening: to where records.db is; from an empty file, the rebuild
//!   .apply(&ApplyBatch, &Source)     the same batch, after records.db has it
//!   .rebuild(&Source, progress), .position(), .wal_checkpoint()
//! ViewsDb::differences(&connection, &state)    what `verify` asks
//! Source { records: RecordsReader, files: &dyn Fn(SessionId, BlobId) -> Result<Bytes> }
//!   .state_at(session, seq)          checkpoint and records, folded
//! ```
//!
//! # Queries
//!
//! ```text
//! pool_of_views.read(|connection| query::find(connection, &query))     -> Page { rows, next, position }
//! ```
//!
//! # A `Log` on SQLite alone
//!
//! ```text
//! SqliteLog::open(records, views, Options { mode: Mode::RollbackFull | Mode::WalFull, .. })   impl Log; .flush()
//! ```
//!
//! # Errors
//!
//! [`SqliteError`] says what happened; `LogError::from` says what it means at the seam.

mod codec;
mod connection;
mod error;
mod log;
mod migration;
mod pool;
pub mod query;
mod records;
mod views;

pub use self::{
    connection::{Mode, Vfs},
    error::{Result, SqliteError},
    log::SqliteLog,
    migration::{Found, Migration, Schema},
    pool::{Prepared, ReaderPool},
    records::{
        Anchor, ApplyBatch, BadRow, CheckpointInfo, Entry, Gap, Mending, NewBlob, Options, RECORDS_SCHEMA, RecordsDb,
        RecordsReader, Recovery, Removal, Restored, Salvaged, SessionReport, StoredObservations, StoredSession, Survey,
        What, Wreck,
    },
    views::{Source, VIEWS_SCHEMA, ViewsDb},
};

/// How long a reader's snapshot may live, in milliseconds: an open snapshot keeps the write-ahead log from shrinking.
pub const SNAPSHOT_MS_MAX: u64 = 5_000;
