//! A checkpoint: the fold at a seq, saved, so that coming back need not fold from the beginning.

use bytes::Bytes;

use crate::{
    id::{Hash, SessionId},
    state::{Head, State},
};

/// The state of a session at a seq, in canonical bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose.
    pub session: SessionId,
    /// The record it stands at.
    pub head: Head,
    /// BLAKE3 of `canonical`.
    pub hash: Hash,
    /// [`State::canonical`].
    pub canonical: Bytes,
}

impl Checkpoint {
    /// Saves a state.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let canonical = Bytes::from(state.canonical());
        Self { session: state.info.id, head: state.head, hash: Hash(*blake3::hash(&canonical).as_bytes()), canonical }
    }

    /// Reads the state back, its hash and head compared.
    ///
    /// # Errors
    /// A sentence, when the bytes are not those that were hashed, or a state of another version or place.
    pub fn state(&self) -> Result<State, String> {
        if Hash(*blake3::hash(&self.canonical).as_bytes()) != self.hash {
            return Err(format!("checkpoint at seq {}: hash differs", self.head.seq));
        }
        let state = State::from_canonical(&self.canonical)?;
        if state.head != self.head || state.info.id != self.session {
            return Err(format!("checkpoint at seq {}: state of another place", self.head.seq));
        }
        Ok(state)
    }
}

/// Smallest tail that makes a checkpoint due: below it, folding again costs less than writing.
pub const TAIL_BYTES_MIN: usize = 64 * 1024;

/// A session that changed gets a checkpoint at the latest after this long, by how many records it got since the last one
/// (seeds: 30 s at high activity, 2 min at medium, 5 min at low).
#[must_use]
pub fn interval_ms(records_since: u64) -> u64 {
    match records_since {
        1_000.. => 30_000,
        100.. => 120_000,
        _ => 300_000,
    }
}

/// Whether a checkpoint is due: when the tail's bytes have reached the state's size, so that folding the tail costs about
/// what reading the checkpoint does; or by the interval.
#[must_use]
pub fn is_due(tail_bytes: usize, state_bytes: usize, records_since: u64, since_ms: u64) -> bool {
    records_since > 0 && (tail_bytes >= state_bytes.max(TAIL_BYTES_MIN) || since_ms >= interval_ms(records_since))
}

/// Of older checkpoints, every 64th is kept, so that any seq of a long history is near one.
pub const KEEP_EVERY: u64 = 64;
