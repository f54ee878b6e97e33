//! How an embedded store stands.

use std::path::PathBuf;

use swarmkeep_core::{SessionId, log::Position};

use super::EmbeddedLog;
use crate::lock::StoreLock;

/// How an embedded store stands, for health pages and `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// Where it is.
    pub folder: PathBuf,
    /// Where its files are: the same, or after a takeover a folder in it.
    pub home: PathBuf,
    /// Which open of it this is.
    pub incarnation: u64,
    /// Bytes durable in the journal and not yet in records.db.
    pub unapplied_bytes: usize,
    /// How far records.db has come.
    pub records_position: Position,
    /// How far views.db has come.
    pub views_position: Position,
    /// Why records.db takes nothing, while that lasts.
    pub trouble: Option<String>,
    /// Why views.db does not move, while that lasts.
    pub views_trouble: Option<String>,
    /// Second copies of what the journal gave up.
    pub kept: KeptStanding,
    /// Sessions set aside as damaged, each with what is wrong: they take no writes until somebody decides.
    pub set_aside: Vec<SetAside>,
}

/// How the second copies stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct KeptStanding {
    /// Bytes they may take; 0: none are made.
    pub budget_bytes: u64,
    /// Files there are.
    pub files: u64,
    /// Their bytes, packed.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// The oldest position that they reach back to; absent: there are none.
    pub since_position: Option<Position>,
    /// Retired segments that wait to be copied: they are the second copy themselves until then.
    pub waiting_segments: u64,
    /// Segments that were given up since the start without a copy: too many waited, or there was no room.
    pub not_kept_segments: u64,
    /// Why the last one was not kept; absent: none was given up.
    pub not_kept_because: Option<String>,
    /// Second copies that were damaged, by the names of their files in `quarantine/`.
    pub lost: Vec<String>,
}

/// A session that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SetAside {
    /// Which session.
    pub session: Option<SessionId>,
    /// What is wrong, and where.
    pub what: String,
}

impl EmbeddedLog {
    /// How it stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            folder: self.folder().to_owned(),
            home: self.folder.clone(),
            incarnation: self.incarnation,
            unapplied_bytes: self.progress.unapplied.get(),
            records_position: self.progress.records.get(),
            views_position: self.progress.views.get(),
            trouble: self.progress.trouble.lock().clone(),
            views_trouble: self.progress.views_trouble.lock().clone(),
            kept: self.kept_standing(),
            set_aside: self
                .lanes
                .all_aside()
                .into_iter()
                .map(|damage| SetAside { session: damage.session, what: damage.to_string() })
                .collect(),
        }
    }

    fn kept_standing(&self) -> KeptStanding {
        let mut standing = self.keeper.as_ref().map(|keeper| keeper.standing()).unwrap_or_default();
        let waiting = self.journal.waiting();
        standing.waiting_segments = waiting.segments;
        standing.not_kept_segments += waiting.overrun;
        if waiting.overrun > 0 && standing.not_kept_because.is_none() {
            standing.not_kept_because = Some("more was written than could be copied".into());
        }
        standing
    }

    /// Whether records.db takes nothing at present: writes are acknowledged until [`crate::Settings::unapplied_bytes`] are
    /// waiting, then refused.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.progress.trouble.lock().is_some()
    }

    /// Looks whether the store was taken over from this holder. It takes nothing any more then. By whom, in words.
    #[must_use]
    pub fn fenced_out(&self) -> Option<String> {
        self.journal.look_at_fence()?;
        let by = self.lock.lock().as_ref().and_then(StoreLock::holder_now);
        Some(match by {
            Some(by) if by.pid > 0 => format!("the store was taken over; process {} has it now", by.pid),
            _ => "the store was taken over, or its lock file taken away".into(),
        })
    }
}
