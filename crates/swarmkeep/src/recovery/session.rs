//! What became of one session that did not come back plainly.

use serde::{Deserialize, Serialize};
use swarmkeep_core::{
    Event, Hash, Seq, SessionId,
    recovery::{Plan, Ranges, Step, Validation},
};

use super::Repair;

/// How a recovery of one session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// It has not ended: it is being carried out, or was interrupted and is taken up again at the next start.
    Unfinished,
    /// Everything is as it was.
    SessionRecovered,
    /// It goes on; what it lacks is listed.
    SessionRecoveredWithLoss,
    /// It waits for a person's word. What can be read is served; nothing is written.
    SessionNeedsDecision,
}

impl Ending {
    /// The stable name, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::SessionRecovered => "session_recovered",
            Self::SessionRecoveredWithLoss => "session_recovered_with_loss",
            Self::SessionNeedsDecision => "session_needs_decision",
        }
    }
}

/// A step that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTaken {
    /// Which.
    #[serde(flatten)]
    pub step: Step,
    /// In which attempt, from 1.
    pub attempt: u32,
    /// When it was begun, ms since the Unix epoch.
    pub begun_at_ms: u64,
    /// When it was done; absent: it is being done, or was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at_ms: Option<u64>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Where a session ended before it was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldHead {
    /// The last seq that was known.
    pub seq: Seq,
    /// The hash of that record; absent: nothing undamaged says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
}

/// The recovery of one session: kept in the store, and in the session's own history once that takes records again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRecovery {
    /// `recovery-INCARNATION-NUMBER`: unique in a store.
    pub id: String,
    /// Which session.
    pub session: SessionId,
    /// How it ended.
    pub event: Ending,
    /// What was met that began it.
    pub cause: String,
    /// When it began, ms since the Unix epoch.
    pub begun_at_ms: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// How long its attempts took in all, in milliseconds.
    pub took_ms: u64,
    /// Attempts that were begun.
    pub attempts: u32,
    /// What was, or is to be, done.
    pub plan: Plan,
    /// The steps that were begun, in order.
    pub steps: Vec<StepTaken>,
    /// What is as it was, and from where.
    pub restored: Vec<Repair>,
    /// The checkpoint from which its records were folded to prove it; 0: from its beginning.
    pub from: Seq,
    /// Records folded for that.
    pub records_replayed: u64,
    /// Where it ends.
    pub reaches: Seq,
    /// Acknowledged records that are not part of it any more (`session_needs_decision`: that would not be).
    pub lost: Ranges,
    /// Acknowledged records that are part of its state, and cannot be read any more.
    pub history_lost: Ranges,
    /// Other parts that exist nowhere any more.
    pub parts_lost: Vec<String>,
    /// What the lost records were about, as far as they can be read: `kind ID`.
    pub entities_lost: Vec<String>,
    /// What they say about effects, in their order: it happened all the same, and is carried over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects_lost: Vec<Event>,
    /// Records about effects that were too much to be carried over: what they had begun is to be settled by hand.
    #[serde(default)]
    pub effects_left_out: u64,
    /// `100 × records lost ÷ head known outside the damage`.
    pub data_loss_percent: f64,
    /// `100 × entities that fit ÷ entities`; absent: it was not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity_score: Option<f64>,
    /// Agents, tasks, messages, memory, effects, connections compared with each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// With a roll-back: where it ended before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_head: Option<OldHead>,
    /// Who accepted the loss; absent: nobody had to, or the setting `accept_loss` did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_by: Option<String>,
}

impl SessionRecovery {
    /// Whether it came to an end, and nothing is waited for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.event, Ending::SessionRecovered | Ending::SessionRecoveredWithLoss)
    }

    /// Whether it waits for a person.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.event == Ending::SessionNeedsDecision
    }
}
