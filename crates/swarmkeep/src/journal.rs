//! The journal: where an acknowledgement becomes true.
//!
//! One file sequence (`journal/NNNNNNNNNNNNNNNN.segment`) takes the groups of all sessions, in frames: one write and one
//! sync for everything that came in while the frame before was being synced. Behind it, records.db and views.db are
//! applied in large batches.
//!
//! # Use
//!
//! ```text
//! let opened = Journal::open(disk, store_dir, settings, vouch, clock, entropy)?;   // settles the tail; starts a segment
//! for frame in &opened.unapplied { … apply to records.db … }                     // verified, in order
//! report(&opened.inspection);                                                     // doubts, damage, advice
//! let journal = opened.start(sink)?;                                              // sink: FnMut(Arc<Frame>) + Send
//! let receipt = journal.append(entry, generation, Durability::Durable)?;          // never blocks; order = call order
//! let position = receipt.await?;                                                  // or receipt.wait() off the runtime
//! journal.retire(position)?;                                                      // from the applier, after its own sync
//! journal.close();                                                                // seal, join
//! ```
//!
//! # What a caller may rely on
//!
//! - Entries are written in the order of the `append` calls; an entry is in one frame, whole.
//! - A receipt resolves `Ok` only after the sync of its frame returned, and after the sink was called with that frame.
//!   The sink sees frames in order of position, each once, on the commit thread: it must be quick and must not wait for
//!   a receipt.
//! - After a failed write or sync, everything queued resolves [`AppendError::Unknown`] and [`Journal::generation`] grows by
//!   one. `append` takes the generation the caller's staged state was read under and refuses an older one
//!   ([`AppendRefused::Stale`]), so that no group staged upon a lost one can get in: read the generation *before* reading the
//!   durable head.
//! - `append` never waits. With too much queued it says `Busy`; [`Journal::room`] is the future to await then.
//!
//! # Reading the source
//!
//! [`segment`] (a file's header), [`frame`] (a commit's bytes), [`tail`] (what a journal found on disk means), `open` (acting
//! on it), `pool` (which files there are), `receipt`, `writer` (the commit thread); [`search`] (segments read again),
//! [`kept`] (the second copy of what was retired).

pub mod frame;
pub mod kept;
mod open;
mod pool;
mod receipt;
pub mod search;
pub mod segment;
pub mod tail;
mod writer;

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use swarmkeep_core::{
    Epoch, Hash, SessionId,
    log::{Group, Position, Remove},
};

pub use open::Opened;
pub use receipt::Receipt;
pub use tail::{Inspection, inspect};
pub use writer::{Journal, Sink};

/// Names a store for good: random, made when it was created, the same in every file of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One thing to write: all or nothing, in one frame.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A request's records. Read back from disk, `after.time_ms` is 0: the time of the record before is not in the group.
    Records(Group),
    /// What agents reported of one session, in the caller's encoding.
    Observations {
        /// Of which session.
        session: SessionId,
        /// The caller's bytes.
        payload: Bytes,
    },
    /// Something is removed, in order with the records around it.
    Remove {
        /// Of which session.
        session: SessionId,
        /// Under which grant.
        epoch: Epoch,
        /// What.
        what: Remove,
    },
}

/// A frame whose sync returned, or that was read and verified.
#[derive(Debug)]
pub struct Frame {
    /// Its place among all frames of the store, from 1. Seals take a position too, so data frames may skip one.
    pub position: Position,
    /// Its hash: what records.db stores beside the position.
    pub hash: Hash,
    /// Which open of the store wrote it.
    pub incarnation: u64,
    /// Bytes in the file.
    pub bytes: usize,
    /// What it carries, in order; never empty.
    pub entries: Vec<Entry>,
}

/// What records.db says of the journal; the two vouch for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vouch {
    /// The store it belongs to.
    pub store: StoreId,
    /// The last frame applied; 0: none yet.
    pub position: Position,
    /// That frame's hash; zeros at position 0.
    pub frame_hash: Hash,
    /// The highest incarnation it has seen.
    pub incarnation: u64,
}

/// A segment on disk, and how far it may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its number.
    pub number: u64,
    /// Where its frames logically end, in bytes; `None`: it is being written.
    pub end: Option<u64>,
}

/// Segments that records.db has and that wait to be copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many were given up since the start before they were copied, because too many waited.
    pub overrun: u64,
}

/// How a journal is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Size of a segment file, 64 KiB to 64 MiB, in bytes. Default 8 MiB: at 100 MB/s it is changed a dozen times a second
    /// (about a millisecond each), and the journal's floor on the disk stays small: the current segment, one ready in
    /// advance, and up to `spares_max` kept for reuse.
    pub segment_bytes: u64,
    /// Segments made in advance by a thread of their own; 0: the commit thread makes each when it needs it (slower, but
    /// every run makes the same calls).
    pub spares_ahead: usize,
    /// Retired segments kept for reuse; more are deleted. Reuse is faster than growing files (their blocks exist).
    pub spares_max: usize,
    /// Bytes of retired segments that may wait for [`Journal::take_retired`], oldest given up first. 0: nobody takes them.
    pub keep_bytes: u64,
    /// Bytes of entries that may wait to be written; then `Busy`.
    pub queue_bytes: usize,
    /// A seal follows this long after the last frame, in milliseconds: it vouches for that frame.
    pub seal_after_ms: u64,
    /// How long relaxed entries may wait for company, in milliseconds.
    pub relaxed_delay_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: 8 * 1024 * 1024,
            spares_ahead: 1,
            spares_max: 4,
            keep_bytes: 0,
            queue_bytes: 8 * 1024 * 1024,
            seal_after_ms: 50,
            relaxed_delay_ms: 200,
        }
    }
}

/// Why an append was not taken. Nothing was or will be written of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendRefused {
    /// Too many bytes wait to be written: await [`Journal::room`].
    #[error("too much is waiting to be written")]
    Busy,
    /// No room on the device for another segment. Goes away by itself when there is room.
    #[error("no room on the device for the journal")]
    DiskFull,
    /// The device takes no writes: the last error is in the text. Tried again in the background.
    #[error("the journal cannot be written: {0}")]
    Unwritable(Arc<str>),
    /// The entry does not fit in a frame.
    #[error("the entry has {bytes} bytes; a frame takes {limit}")]
    TooLarge {
        /// Its bytes, blobs and directory included.
        bytes: usize,
        /// What fits.
        limit: usize,
    },
    /// Staged under an older generation: drop staged state, read it again from what is durable.
    #[error("staged before a failed write: read the state again")]
    Stale,
    /// The journal is closing.
    #[error("the journal is closing")]
    Closing,
    /// Another process has taken the store over.
    #[error("another process has taken the store over")]
    FencedOut {
        /// What that one holds it under, at least.
        incarnation: u64,
    },
}

/// Why a receipt did not resolve with a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// It may or may not be found after a restart. Until then the log reads as if it had not been written.
    #[error("outcome unknown: {0}")]
    Unknown(Arc<str>),
    /// It was certainly not written: no segment could be made to hold it.
    #[error("not written: {0}")]
    NotWritten(AppendRefused),
}

/// Why a journal was not opened. Nothing was changed on disk, unless `Io` says where it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Written by a newer program.
    #[error(
        "{} has journal format {found}; this program knows version {known}: use a newer swarmkeep (nothing was changed)", .file.display()
    )]
    Newer {
        /// Which file says so.
        file: PathBuf,
        /// Its version and feature bits.
        found: String,
        /// The newest this program knows.
        known: u32,
    },
    /// The files in the folder are not of one store at one time.
    #[error("{what}; {advice} (nothing was changed)")]
    Mixed {
        /// What does not fit.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// The disk refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The settings make no sense.
    #[error("journal settings: {0}")]
    Settings(&'static str),
}

impl OpenError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| OpenError::Io { path, error }
    }
}
