//! What must hold of a store that was opened again.

use std::collections::BTreeMap;

use swarmkeep::{DataLoss, embedded::EmbeddedLog};
use swarmkeep_core::{
    Seq, SessionId,
    failure::Place,
    log::{Head, Log, LogError},
    record,
    state::{ApplyError, State},
};

use super::world::{Life, Owed, Story};

/// Before what the store itself says is wrong: an error is no wrong answer.
pub const SAID: &str = "the store says: ";

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Acknowledged records compared by hash.
    pub acknowledged: u64,
    pub states: u64,
    pub blobs: u64,
    /// Stores opened through a cache that a dead process had left warm, which lost power after that.
    pub warm: u64,
}

impl std::ops::AddAssign for Checked {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.states += other.states;
        self.blobs += other.blobs;
        self.warm += other.warm;
    }
}

/// What a store served when it was asked: where each session ends.
pub type Served = BTreeMap<SessionId, u64>;

/// Everything that was acknowledged is there, with its hash; what else is there was sent, and is there in whole groups; the
/// chain verifies; states fold; blobs are whole.
pub async fn check(
    log: &EmbeddedLog,
    story: &Story,
    owed: &BTreeMap<SessionId, Owed>,
) -> Result<(Checked, Served), String> {
    let report = log.opening_report();
    // A torn tail may look like something that was acknowledged; what is said to be lost may not.
    if report.damage.iter().any(|damage| damage.place == Place::Journal && damage.loss == DataLoss::Certain) {
        return Err(format!("nothing was damaged, but the report says {report:?}"));
    }
    let mut checked = Checked::default();
    let mut served = Served::new();
    for (id, owed) in owed {
        let ends = session(log, *id, &story.lives[id], owed, &mut checked);
        let ends = ends.await.map_err(|error| format!("session {id}, {owed:?}: {error}"))?;
        served.extend(ends.map(|seq| (*id, seq)));
    }
    Ok((checked, served))
}

async fn session(
    log: &EmbeddedLog,
    id: SessionId,
    life: &Life,
    owed: &Owed,
    checked: &mut Checked,
) -> Result<Option<u64>, String> {
    let said = |error: LogError| format!("{SAID}{error:?}");
    let head = match log.head(id).await.map_err(said)? {
        None if owed.removing || owed.acknowledged == 0 => return Ok(None),
        None => return Err("it is gone".into()),
        Some(head) => head,
    };
    if owed.removed {
        return Err("it was removed, and is back".into());
    }
    let seq = head.seq.0;
    if seq < owed.acknowledged {
        return Err(format!("LOST: it ends at {seq}"));
    }
    if !life.ends.contains(&seq) || life.records[seq as usize - 1] != head.hash {
        return Err(format!("it ends at {seq} with {}, where no group does", head.hash));
    }
    let checkpoint = log.load(id, head.seq).await.map_err(said)?;
    // A checkpoint is a hint, and may be lost with the power; then nothing below it was removed either.
    let stands = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.head.seq.0);
    let floor = owed.trimmed.iter().copied().filter(|seq| *seq <= stands).max().unwrap_or(0);
    let mut state = match checkpoint {
        Some(checkpoint) => {
            let state = checkpoint.state()?;
            checked.states += 1;
            if life.states.get(&checkpoint.head.seq.0).is_none_or(|known| *known != state.hash()) {
                return Err(format!("the checkpoint at {} is another state", checkpoint.head.seq));
            }
            state
        }
        None => State::default(),
    };
    let bytes = log.read(id, Seq(floor), usize::MAX).await.map_err(said)?;
    let previous = floor.checked_sub(1).map(|at| life.records[at as usize]).unwrap_or_default();
    let mut at = Head { seq: Seq(floor), hash: previous, time_ms: 0 };
    for view in record::iter(&bytes) {
        let view = view.map_err(|error| error.to_string())?;
        at = view.follows(id, at).map_err(|error| error.to_string())?;
        if life.records.get(at.seq.0 as usize - 1) != Some(&at.hash) {
            return Err(format!("record {} is another one", at.seq));
        }
        checked.acknowledged += u64::from(at.seq.0 <= owed.acknowledged);
        if at.seq > state.head.seq {
            let record = view.decode().map_err(|error| error.to_string())?;
            match state.apply(&record) {
                Err(ApplyError::NeedsBase(blob)) => {
                    let packed = log.blob(id, blob).await.map_err(said)?;
                    let base = zstd::stream::decode_all(&packed[..]).map_err(|error| error.to_string())?;
                    state.apply_base(&record, &State::from_canonical(&base)?).map_err(|error| error.to_string())?;
                }
                applied => applied.map_err(|error| error.to_string())?,
            }
        }
    }
    if at.seq != head.seq {
        return Err(format!("the head is at {seq}, but its records end at {}", at.seq));
    }
    checked.states += 1;
    if state.hash() != life.states[&seq] {
        return Err(format!("the records through {seq} fold to another state"));
    }
    for (_, blob) in life.blobs.iter().filter(|(at, _)| *at <= seq && *at > floor) {
        let bytes = log.blob(id, *blob).await.map_err(said)?;
        checked.blobs += 1;
        if blake3::hash(&bytes).as_bytes() != &blob.0 {
            return Err(format!("blob {blob} is another one"));
        }
    }
    Ok(Some(seq))
}
