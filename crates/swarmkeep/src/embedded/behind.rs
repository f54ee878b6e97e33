//! How far the databases have come behind the journal, and waiting for it.

use std::time::Duration;

use swarmkeep_core::{
    Error, SessionId,
    log::{LogError, Position, Refused},
};

use super::EmbeddedLog;
use crate::damage;

/// How long a question to the databases waits for them to come far enough.
const FIND_PATIENCE: Duration = Duration::from_secs(30);
/// The same, once it is known that they do not move, and why.
const TROUBLED_PATIENCE: Duration = Duration::from_secs(3);

impl EmbeddedLog {
    /// Returns when records.db has everything that is durable now.
    ///
    /// # Errors
    /// `retry`, with the reason, when it does not come that far within 30 s, or does not move for 3 s.
    pub async fn records_settled(&self) -> Result<(), Error> {
        let position = self.journal.durable();
        // Whether it came that far or never will, is seen below.
        let troubled = || self.progress.trouble.lock().is_some();
        let _ = patiently(self.progress.applied(position), troubled).await;
        if self.progress.records.get() >= position {
            return Ok(());
        }
        let trouble = self.progress.trouble.lock().clone();
        Err(damage::log(behind("records.db has", trouble)))
    }

    /// Sessions that have records in the journal only.
    pub fn sessions_ahead(&self) -> Vec<SessionId> {
        self.lanes.ahead()
    }

    /// Returns when the views have everything that is durable now.
    ///
    /// # Errors
    /// `retry`, with the reason, when they do not come that far within 30 s, or do not move for 3 s.
    pub async fn views_settled(&self) -> Result<(), Error> {
        self.views_reach(self.journal.durable()).await.map_err(damage::log)
    }

    pub(super) async fn views_reach(&self, position: Position) -> Result<(), LogError> {
        let mut views = self.progress.views.subscribe();
        if views.see() >= position {
            return Ok(());
        }
        self.progress.hurry();
        let troubled = || self.progress.views_trouble.lock().is_some() || self.progress.trouble.lock().is_some();
        match patiently(views.wait_for(|reached| reached >= position), troubled).await {
            Some(Ok(_)) => Ok(()),
            _ => {
                let trouble = self.progress.views_trouble.lock().clone();
                Err(behind("the views have", trouble.or_else(|| self.progress.trouble.lock().clone())))
            }
        }
    }
}

/// Waits, but not long for what is known to be in trouble. `None`: in vain.
async fn patiently<T>(waiting: impl Future<Output = T>, troubled: impl Fn() -> bool) -> Option<T> {
    let mut waiting = std::pin::pin!(waiting);
    let mut waited = Duration::ZERO;
    while waited < FIND_PATIENCE {
        if let Ok(done) = tokio::time::timeout(TROUBLED_PATIENCE, &mut waiting).await {
            return Some(done);
        }
        waited += TROUBLED_PATIENCE;
        if troubled() {
            break;
        }
    }
    None
}

fn behind(who: &str, trouble: Option<String>) -> LogError {
    let detail = trouble.unwrap_or_else(|| format!("{who} not come that far yet"));
    LogError::Refused { kind: Refused::Busy, detail }
}
