//! The storage seam: what a session needs of whatever keeps its log.
//!
//! Bytes in, bytes out. A `Log` checks hashes and order; it never decodes an event. What it may promise, and what its
//! callers may rely on, is written at each method as an obligation; the suite in `log::conformance` (feature `conformance`) holds every implementation to it.
//!
//! There is no runtime in here: methods return boxed futures, so that one thread, many, or a browser's event loop can
//! drive them.

#[cfg(feature = "conformance")]
pub mod conformance;
mod hints;

use std::{fmt, future::Future, ops::RangeInclusive, pin::Pin};

use bytes::Bytes;

pub use self::hints::{HINTED_SESSIONS, Hint, Hints, Watchers};
pub use crate::state::Head;
use crate::{
    checkpoint::Checkpoint,
    id::{BlobId, EntityId, Epoch, Seq, SessionId},
    json::Json,
    query::{Page, Query},
};

/// What a `Log`'s methods return.
pub type LogFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, LogError>> + Send + 'a>>;

/// A position in the store, for reading one's own writes from derived tables. Opaque: only comparable with positions from
/// the same `Log`, and never a promise of order across sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

/// How a session is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It must not exist.
    Create,
    /// It must exist.
    Resume,
    /// It must exist, and whoever holds it is put out. Recorded by the caller.
    Force,
}

/// The right to write one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Shown with every append.
    pub epoch: Epoch,
    /// Where the log ends; seq 0 for a session that was just created.
    pub head: Head,
}

/// How sure an acknowledgement is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// It survives power loss.
    #[default]
    Durable,
    /// It is in the store's memory and will be written shortly; a crash may take it. Only by the caller's wish.
    Relaxed,
}

/// One request's records: contiguous, all or nothing.
#[derive(Debug, Clone)]
pub struct Group {
    /// Which session.
    pub session: SessionId,
    /// Under which grant.
    pub epoch: Epoch,
    /// The head this group was decided against.
    pub after: Head,
    /// The head once it is in.
    pub head: Head,
    /// How many records; 0 only with observations.
    pub count: u32,
    /// The records' bytes, one after another (see [`crate::record`]).
    pub records: Bytes,
    /// Content that the records introduce.
    pub blobs: Vec<Blob>,
}

/// Content that belongs to a session, named by the hash of its bytes.
#[derive(Debug, Clone)]
pub struct Blob {
    /// BLAKE3 of `bytes`.
    pub id: BlobId,
    /// The content.
    pub bytes: Bytes,
}

impl Blob {
    /// Names the bytes.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { id: BlobId(*blake3::hash(&bytes).as_bytes()), bytes }
    }
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The session's head with this group in.
    pub head: Head,
    /// For reading one's own write from derived tables.
    pub position: Position,
    /// What the caller got, which is never less than it asked for.
    pub durability: Durability,
}

/// Something an agent reports that is kept but is not an event: no seq, no chain, no place in the state.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Observation {
    /// A sign of life.
    Heartbeat {
        /// Whose.
        agent: EntityId,
        /// When, by the engine's clock; filled in by the engine.
        #[serde(default)]
        at_ms: u64,
    },
    /// A measurement.
    Metric {
        /// By which agent.
        agent: EntityId,
        /// `performance`, `usage`, ….
        #[serde(default = "default_metric_kind")]
        kind: String,
        /// What was measured.
        name: String,
        /// How much.
        value: f64,
        /// Anything about it.
        #[serde(default)]
        tags: Json,
        /// When, by the engine's clock; filled in by the engine when 0.
        #[serde(default)]
        at_ms: u64,
    },
}

fn default_metric_kind() -> String {
    "performance".into()
}

/// What to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remove {
    /// The session, whole.
    All,
    /// Records up to and including `seq`; a checkpoint at or after it must exist.
    RecordsThrough(Seq),
    /// Checkpoints but the newest `keep`, every 64th, and those something needs.
    Checkpoints {
        /// At least 1.
        keep: usize,
    },
}

/// Why a `Log` did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Nothing was written: the log ends elsewhere.
    #[error("the log ends at seq {}", .0.seq)]
    Conflict(Head),
    /// Nothing was written: a newer holder has the session.
    #[error("fenced out: the session is held under epoch {0}")]
    Fenced(Epoch),
    /// Nothing was written: the session exists already.
    #[error("the session exists already")]
    Exists,
    /// There is no such session, record, checkpoint or blob.
    #[error("not found")]
    NotFound,
    /// Nothing was written: the store cannot take it now.
    #[error("{kind}: {detail}")]
    Refused {
        /// Why, by a stable name.
        kind: Refused,
        /// What the operator should know.
        detail: String,
    },
    /// It may or may not have been written. Ask `head` again; the caller repeats with the same request id.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Data at rest is damaged.
    #[error("damaged: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Corrupt(Vec<Damage>),
}

/// Why a store cannot take a write now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// No room on the device.
    DiskFull,
    /// The store may not be written.
    ReadOnly,
    /// Somebody else holds it.
    Locked,
    /// Too much is waiting to be applied: try again shortly.
    Busy,
    /// The group, blob or request is larger than its limit.
    TooLarge,
    /// The store is shutting down.
    Closing,
    /// The device or the database failed, before anything was written or while it was read.
    Failed,
    /// What was asked to be removed is still needed.
    Needed,
    /// The call contradicts itself: a query with a filter its table has not, records that do not end at the group's head.
    Invalid,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::DiskFull => "disk_full",
            Refused::ReadOnly => "read_only",
            Refused::Locked => "locked",
            Refused::Busy => "busy",
            Refused::TooLarge => "too_large",
            Refused::Closing => "closing",
            Refused::Failed => "failed",
            Refused::Needed => "needed",
            Refused::Invalid => "invalid",
        })
    }
}

/// A damaged range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Whose; absent when it cannot be told.
    pub session: Option<SessionId>,
    /// Which records, where that is known.
    pub seqs: Option<RangeInclusive<u64>>,
    /// What is damaged, and where it lies.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        // Damage that is passed on says already whose it is.
        let (session, seqs) = (self.session.as_ref(), self.seqs.as_ref());
        let session = session.map(|session| format!("session {session}"));
        let seqs = seqs.map(|seqs| format!("seqs {} to {}", seqs.start(), seqs.end()));
        for said in [session, seqs].into_iter().flatten().filter(|said| !self.what.contains(said)) {
            write!(f, ", {said}")?;
        }
        Ok(())
    }
}

/// Keeps logs of records, by session.
///
/// Any method may be called from any thread at any time.
pub trait Log: Send + Sync + 'static {
    /// Takes a session for writing.
    ///
    /// - After it returns, no append under an older epoch can commit.
    /// - The same holder asking twice gets the same grant.
    /// - `Create` fails with `Exists` when the session exists, ended ones included; `Resume` and `Force` with `NotFound`
    ///   when it does not. Nothing becomes visible of a created session before its first group commits.
    fn take(&self, session: SessionId, how: Take) -> LogFuture<'_, Grant>;

    /// Adds a group.
    ///
    /// - All or nothing, durably if so asked, before the future resolves with `Ok`.
    /// - Groups of a session commit in the order of these calls, and may overlap; if one fails, every later one that was
    ///   already called fails too, with `Unknown` or the same error.
    /// - `Conflict` when the session does not end at `group.after` (counting groups in flight); `Fenced` when
    ///   `group.epoch` is not the newest granted.
    /// - Dropping the future does not undo anything.
    /// - A blob is there before the record that introduces it.
    fn append(&self, group: Group, durability: Durability) -> LogFuture<'static, Commit>;

    /// Back-pressure: `None` while an append would be taken now, else a future that resolves when one may be again. Asked
    /// before a group is staged, so that nothing has to be unstaged. A promise only of the moment.
    fn room(&self) -> Option<LogFuture<'_, ()>> {
        None
    }

    /// Keeps observations, in order, within about a second and without a sync of their own; a crash may take the newest.
    fn observe(&self, session: SessionId, observations: Vec<Observation>) -> LogFuture<'_, ()>;

    /// Where the log ends, by what is durable (never by what is in flight). `None`: no such session.
    fn head(&self, session: SessionId) -> LogFuture<'_, Option<Head>>;

    /// Records after `after`, in order, whole, contiguous and verified (each record's own hashes and the chain between
    /// them; the caller checks the first against what it has), at least one if there is one, then up to about `max_bytes`.
    ///
    /// - Every acknowledged record is there.
    /// - A hole or a bad hash is `Corrupt` with its range, never an early end.
    fn read(&self, session: SessionId, after: Seq, max_bytes: usize) -> LogFuture<'_, Bytes>;

    /// Keeps a checkpoint: a hint, for later. It never becomes visible before the record at its seq is.
    fn save(&self, session: SessionId, checkpoint: Checkpoint) -> LogFuture<'_, ()>;

    /// The newest checkpoint at or below a seq whose bytes verify. Damaged ones are passed over (and reported by `verify`).
    fn load(&self, session: SessionId, at_or_below: Seq) -> LogFuture<'_, Option<Checkpoint>>;

    /// A blob's bytes, verified. `NotFound` when the session has none of that id.
    fn blob(&self, session: SessionId, id: BlobId) -> LogFuture<'_, Bytes>;

    /// Answers from the derived tables, and says at which position they stand. With `not_before` it waits until they have
    /// come that far.
    fn find(&self, query: Query, not_before: Option<Position>) -> LogFuture<'_, Page>;

    /// Removes something, durably, in order with appends. The same call again changes nothing. What a fork, a checkpoint
    /// or the state needs is refused (`Needed`).
    fn remove(&self, session: SessionId, epoch: Epoch, what: Remove) -> LogFuture<'_, ()>;

    /// Hints of what changes from this call on: which sessions to look at again.
    ///
    /// - After a session's durable head moved (an append, whoever made it) or the session was removed, at least one hint
    ///   comes that names it, or [`Hint::Store`]; by then `head` and `read` show what moved.
    /// - Lossy and coalesced: any number of changes may come as one hint, in any order, late, and a hint may come without a
    ///   change. What is kept for a watcher that does not read is bounded, and no append waits for it.
    /// - Where hints come from elsewhere and some may have been missed, `Store` is said.
    ///
    /// Nothing may depend on a hint: a consumer that only polls is still correct.
    fn watch(&self) -> Hints;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_says_each_thing_once() {
        let session = SessionId([7; 16]);
        let met = Damage { session: Some(session), seqs: None, what: "checkpoint at seq 5: hash differs".into() };
        let passed_on = Damage { session: Some(session), seqs: Some(5..=5), what: met.to_string() };
        assert_eq!(passed_on.to_string(), format!("checkpoint at seq 5: hash differs, session {session}, seqs 5 to 5"));
    }

    #[test]
    fn the_seam_is_dyn_safe() {
        fn takes(_: &dyn Log) {}
        let _ = takes;
    }
}
