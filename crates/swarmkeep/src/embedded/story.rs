//! What an embedded store keeps of its own story: reports of recoveries, and failures that were noticed.

use swarmkeep_core::{
    Error, ErrorKind, Failure, SessionId,
    failure::{OwnershipCause, StorageCause},
    log::{Damage, LogError},
};
use swarmkeep_sqlite::RecordsReader;
use tokio::sync::oneshot;

use super::{EmbeddedLog, answered, progress::Ask};
use crate::{
    damage,
    incident::{self, Incident, Noticed},
    lock::StoreLock,
    recovery::RecoveryReport,
};

impl EmbeddedLog {
    /// Keeps a recovery report in the store.
    ///
    /// # Errors
    /// What records.db says.
    pub async fn keep_report(&self, report: RecoveryReport) -> Result<(), Error> {
        let is_of_this_start = report.id == self.report.id;
        let text = serde_json::to_string(&report)
            .map_err(|error| Error::new(ErrorKind::Invalid, "the report cannot be written as JSON").caused_by(error))?;
        self.keep_text(swarmkeep_sqlite::Recovery { id: report.id, at_ms: report.at_ms, report: text }).await?;
        if report.taken_over.is_some() {
            // From here on it is this store's own history that knows it.
            self.lock.lock().iter_mut().for_each(StoreLock::told);
        }
        if is_of_this_start && let Err(error) = self.unreported.lock().is_told() {
            tracing::warn!(%error, "what this start found will be told by the next one again");
        }
        Ok(())
    }

    async fn keep_text(&self, recovery: swarmkeep_sqlite::Recovery) -> Result<(), Error> {
        let (done, kept) = oneshot::channel();
        self.progress.ask(Ask::Report(recovery, done));
        answered(kept).await.map_err(damage::log)
    }

    /// Keeps a failure that was noticed, in the place of what was kept of it before.
    pub(crate) async fn keep_incident(&self, incident: &Incident) -> Result<(), Error> {
        let report = serde_json::to_string(incident)
            .map_err(|error| Error::new(ErrorKind::Invalid, "a failure cannot be written as JSON").caused_by(error))?;
        let id = incident.id.clone();
        self.keep_text(swarmkeep_sqlite::Recovery { id, at_ms: incident.last_at_ms, report }).await
    }

    /// Failures of this store's earlier and present lives, newest first.
    pub(crate) fn incidents(&self, most: usize) -> Result<Vec<Incident>, Error> {
        let stored = self.read_records(|records| records.reports(incident::PREFIX, most)).map_err(damage::log)?;
        Ok(stored.iter().filter_map(|stored| serde_json::from_str(&stored.report).ok()).collect())
    }

    /// Failures met since the last call, by the applier and by readers.
    pub(crate) fn take_noticed(&self) -> Vec<Noticed> {
        self.progress.take_noticed()
    }

    /// What stands behind a write of unknown outcome: the device, or that the store was taken over.
    pub(crate) fn failing(&self, error: &LogError) -> Noticed {
        if self.journal.look_at_fence().is_some() {
            let failure = Failure::OwnershipConflict { cause: OwnershipCause::FencedOut };
            return Noticed::new(failure, None, error.to_string());
        }
        let cause = if self.journal.is_full() { StorageCause::DiskFull } else { StorageCause::ReadOnly };
        Noticed::new(Failure::StorageUnavailable { cause }, None, error.to_string())
    }

    /// The sessions set aside, and why.
    pub(crate) fn all_aside(&self) -> Vec<Damage> {
        self.lanes.all_aside()
    }

    /// The last record of a session that is in records.db; 0 where that cannot be told.
    pub(crate) fn readable_to(&self, session: SessionId) -> u64 {
        let head = self.read_records(|records| records.head(session));
        head.ok().flatten().map_or(0, |(head, _)| head.seq.0)
    }

    /// Why a session is set aside, if it is.
    pub(crate) fn set_aside(&self, session: SessionId) -> Option<Damage> {
        self.lanes.aside(session)
    }

    /// Reports of earlier recoveries, newest first.
    ///
    /// # Errors
    /// What records.db says.
    pub fn reports(&self, most: usize) -> Result<Vec<RecoveryReport>, Error> {
        let read = |records: &RecordsReader<'_>| {
            let mut all = records.reports("open-", most)?;
            // `repair-`: what earlier versions called it.
            all.extend(records.reports("repair-", most)?);
            all.extend(records.reports("recovery-", most)?);
            Ok(all)
        };
        let mut stored = self.read_records(read).map_err(damage::log)?;
        stored.sort_by_key(|report| std::cmp::Reverse(report.at_ms));
        stored.truncate(most);
        Ok(stored.iter().filter_map(|recovery| serde_json::from_str(&recovery.report).ok()).collect())
    }
}
