//! What coming back found.

mod session;

use serde::{Deserialize, Serialize};
use swarmkeep_core::{SessionId, failure::Place};

pub use self::session::{Ending, OldHead, SessionRecovery, StepTaken};
use crate::lock::TakenOver;

/// What happened when a store was opened, or when one of its sessions was recovered: printed, and kept in the store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// Names this recovery: `open-N`, with the store's incarnation; of one session: `recovery-N-M`.
    pub id: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The last holder ended without parking the store.
    #[serde(default)]
    pub crashed: bool,
    /// The journal ended with a seal, and nothing was damaged or doubtful: nothing had to be settled.
    pub clean: bool,
    /// Until the store took calls, in milliseconds.
    pub opened_ms: u64,
    /// Until every live session had been read and verified; absent while that goes on.
    pub all_checked_ms: Option<u64>,
    /// Frames that were acknowledged and not yet applied: they are there.
    pub frames_replayed: u64,
    /// Bytes of them.
    pub bytes_replayed: u64,
    /// Frames at the end of the journal that nothing vouches for: kept, and perhaps never acknowledged.
    pub tail_kept: Vec<Span>,
    /// Bytes after the last good frame that could have been an acknowledgement: they are in quarantine.
    pub possibly_acknowledged: Vec<Span>,
    /// What was damaged.
    pub damage: Vec<Damaged>,
    /// What was put right since the start, and from where.
    #[serde(default)]
    pub repaired: Vec<Repair>,
    /// The store had been taken away from another process: this is the first open since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<TakenOver>,
    /// The folder is a copy of the one that the last holder had, or was restored: it goes on under an incarnation of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_a_copy: bool,
    /// views.db had to be built again.
    pub views_rebuilt: bool,
    /// records.db had to be made again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub records_rebuilt: bool,
    /// Live sessions there were at the start, to be read and verified; absent: they are not counted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_live: Option<u64>,
    /// Live sessions read and verified so far.
    pub sessions_checked: u64,
    /// Records folded for that, beyond the checkpoints.
    pub records_replayed: u64,
    /// Sessions that do not come back.
    pub sessions_failed: u64,
    /// The first of them.
    pub problems: Vec<Problem>,
    /// Of one session: all about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Box<SessionRecovery>>,
}

/// Something that was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// In which part of the store.
    pub place: Place,
    /// Whether anything is missing for it.
    pub loss: DataLoss,
    /// Whose it was, where that can be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<SessionId>,
    /// What it was, and where it is kept.
    pub what: String,
}

impl Damaged {
    pub(crate) fn in_records(loss: DataLoss, what: String) -> Self {
        Self { place: Place::Records, loss, sessions: Vec::new(), what }
    }
}

/// Whether something acknowledged is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataLoss {
    /// Nothing is: it stood elsewhere too, and nobody has to do anything; or what is missing is listed beside this.
    None,
    /// It cannot be told.
    Possible,
    /// Something is.
    Certain,
}

/// A range of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Which session.
    pub session: SessionId,
    /// First seq; absent when only the session is known.
    pub first: Option<u64>,
    /// Last seq.
    pub last: Option<u64>,
}

/// Something that was damaged in records.db and is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Of which session.
    pub session: SessionId,
    /// What it was: `records`, `session row`, `checkpoint`, `blob ID`, `set aside`, `state`.
    pub what: String,
    /// First seq, where it is about records.
    pub first: Option<u64>,
    /// Last seq.
    pub last: Option<u64>,
    /// Where the good copy came from: `journal`, `kept`, `row` (the damaged row itself had it), `quarantine`, `blobs` (its file),
    /// `records` (what is made of them), `ram` (the state that a running process had of it).
    pub from: String,
}

/// A session that does not come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which session.
    pub session: SessionId,
    /// What is wrong.
    pub what: String,
}
