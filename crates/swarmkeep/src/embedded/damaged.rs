//! What an embedded store is asked about its damaged sessions: plans, recoveries, decisions; and its databases, made again.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use swarmkeep_core::{
    BlobId, Error, Failure, Seq, SessionId,
    checkpoint::Checkpoint,
    log::{Damage, LogError},
    recovery::Plan,
};
use swarmkeep_sqlite::{RecordsReader, SqliteError};
use tokio::sync::oneshot;

use super::{
    EmbeddedLog, answered,
    case::Case,
    is_of_the_file,
    progress::Ask,
    recover::{Above, Outcome, Why, unkept},
};
use crate::{damage, incident::Noticed, recovery::SessionRecovery};

impl EmbeddedLog {
    /// Recovers a session: what is damaged of it is put right from wherever it stands a second time. What was replaced is
    /// in quarantine. One that waits for a decision is tried again, with all attempts.
    ///
    /// `None`: nothing is wrong with it that is not known already.
    ///
    /// # Errors
    /// What records.db and the disk say. What could not be put right is in the answer.
    pub async fn recover(&self, session: SessionId) -> Result<Option<SessionRecovery>, Error> {
        self.run_recovery(session, Why::Asked).await
    }

    /// [`EmbeddedLog::recover`], and `by` accepts what that loses: the session ends where it can be had up to, and takes
    /// writes again. What comes after is kept in quarantine.
    ///
    /// # Errors
    /// As [`EmbeddedLog::recover`].
    pub async fn accept_loss(&self, session: SessionId, by: &str) -> Result<Option<SessionRecovery>, Error> {
        self.run_recovery(session, Why::Accepted(by.to_owned())).await
    }

    /// What a recovery of a session would do and lose; `None`: nothing is wrong with it that is not known already. Changes
    /// nothing.
    ///
    /// # Errors
    /// What records.db and the disk say.
    pub async fn plan(&self, session: SessionId, accept_loss: bool) -> Result<Option<Plan>, Error> {
        let met_in = self.progress.file();
        let plan = self.mender.clone().plan(session, accept_loss).await;
        plan.inspect_err(|error| self.was_met_in(met_in, error)).map_err(damage::log)
    }

    async fn run_recovery(&self, session: SessionId, why: Why) -> Result<Option<SessionRecovery>, Error> {
        let met_in = self.progress.file();
        let mut recovered = self.mender.clone().recover(session, why.clone()).await;
        if let Err(LogError::Corrupt(damage)) = &recovered
            && is_of_the_file(damage)
        {
            self.remake_records(damage, met_in).await;
            recovered = self.mender.clone().recover(session, why).await;
        }
        match recovered.map_err(damage::log)? {
            Outcome::Nothing => Ok(None),
            Outcome::Recovered(recovery) | Outcome::Waits(recovery) => Ok(Some(*recovery)),
        }
    }

    /// The newest recovery of a session that waits for a person's decision.
    #[must_use]
    pub fn decision(&self, session: SessionId) -> Option<SessionRecovery> {
        self.mender.cases.see(session, |case| case.recovery.clone().filter(SessionRecovery::waits)).flatten()
    }

    /// Whether a session waits for a person's decision.
    #[must_use]
    pub fn needs_decision(&self, session: SessionId) -> bool {
        self.mender.cases.see(session, Case::waits).unwrap_or_default()
    }

    /// The newest recovery of every session that ever needed one.
    #[must_use]
    pub fn session_recoveries(&self) -> Vec<SessionRecovery> {
        let mut all = self.mender.cases.each(|_, case| case.recovery.clone());
        all.sort_by_key(|recovery| (std::cmp::Reverse(recovery.ended_at_ms.unwrap_or(u64::MAX)), recovery.session));
        all
    }

    /// Sessions whose recovery was interrupted, or that were met damaged and not looked into.
    pub(crate) fn unfinished(&self) -> Vec<SessionId> {
        self.mender.cases.each(|session, case| case.is_open().then_some(session))
    }

    /// Somebody met damage, and went on without: beside that it is put right, if it can be.
    pub(crate) fn was_met(&self, session: SessionId, damage: Damage) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let mender = self.mender.clone();
            runtime.spawn(async move { mender.met(session, &[damage]).await });
        }
    }

    /// Looks into sessions that were set aside since the last call: a good copy may stand elsewhere, and what is in RAM of one may
    /// be nowhere else.
    pub(crate) async fn look_into_aside(&self) {
        // Whoever comes while another is at it comes back when that is done.
        let _turn = self.looking.lock().await;
        loop {
            let next = self.progress.aside.lock().first().copied();
            let Some(session) = next else { return };
            self.look_into(session).await;
        }
    }

    /// Looks into a session that was set aside, if it still is and does not wait for a decision.
    pub(crate) async fn look_into(&self, session: SessionId) {
        if let Some(damage) = self.lanes.aside(session).filter(|_| !self.needs_decision(session)) {
            self.mender.met_anew(session, damage).await;
        }
        self.progress.aside.lock().remove(&session);
    }

    /// Looks whether records.db is still the file that this process left, and has it made again if it is not. Returns when that
    /// is done, or cannot be.
    pub(crate) async fn look_at_file(&self) {
        let (done, looked) = oneshot::channel();
        self.progress.ask(Ask::Look(done));
        self.progress.hurry();
        if let Err(error) = answered(looked).await {
            tracing::warn!(%error, "whether records.db is as it was left could not be looked at");
        }
    }

    /// Whether there are any, and nobody is at it.
    pub(crate) fn are_any_aside_anew(&self) -> bool {
        !self.progress.aside.lock().is_empty() && self.looking.try_lock().is_ok()
    }

    /// A records.db that SQLite cannot read is made again beside whoever met it: they may not wait for it, or not ask again.
    pub(super) fn was_met_in(&self, file: u64, error: &LogError) {
        if let LogError::Corrupt(damage) = error
            && is_of_the_file(damage)
        {
            self.progress.remake_soon(in_words(damage), file);
        }
    }

    /// Has records.db made again, that one ([`Progress::file`]), which SQLite cannot read. Returns when that is done, or cannot be.
    pub(super) async fn remake_records(&self, damage: &[Damage], file: u64) {
        let (done, made) = oneshot::channel();
        self.progress.ask(Ask::Remake(in_words(damage), file, done));
        self.progress.hurry();
        match answered(made).await {
            Ok(()) => self.mender.forget_tried(),
            Err(error) => tracing::error!(%error, "records.db is damaged, and was not made again"),
        }
    }

    /// [`EmbeddedLog::verify_file`]; where SQLite's own check finds records.db damaged, it is made again first. What was done, in
    /// words.
    pub(crate) async fn repair_file(self: &Arc<Self>) -> Vec<String> {
        let (records, met_in) = (self.records.clone(), self.progress.file());
        let file = move || records.read_unhurried(|connection| RecordsReader::new(connection).verify_file());
        let found: Vec<Damage> = match self.workers.offload(file).await {
            Ok(Ok(damage)) => damage.into_iter().filter(|damage| damage.session.is_none()).collect(),
            Ok(Err(SqliteError::Damaged(damage))) => damage,
            _ => return Vec::new(),
        };
        let before = self.progress.made_again.lock().len();
        if !found.is_empty() {
            self.remake_records(&found, met_in).await;
        }
        self.progress.made_again.lock().iter().skip(before).cloned().collect()
    }

    /// Has records.db made again, in which this was found. What was done, in words.
    pub(crate) async fn remake_records_because(&self, what: &str) -> Vec<String> {
        let before = self.progress.made_again.lock().len();
        let damage = Damage { session: None, seqs: None, what: what.to_owned() };
        self.remake_records(&[damage], self.progress.file()).await;
        self.progress.made_again.lock().iter().skip(before).cloned().collect()
    }

    /// Has views.db made anew from the records. Returns when that is begun.
    pub(crate) async fn remake_views(&self) {
        let (done, begun) = oneshot::channel();
        self.progress.ask(Ask::RemakeViews(done));
        self.progress.hurry();
        let _ = answered(begun).await;
    }

    /// A session was read, all of it. Where the views were made of less, its rows are made again.
    pub(crate) fn is_read(&self, session: SessionId) {
        if self.progress.incomplete.lock().remove(&session) {
            self.progress.ask(Ask::Tabulate(session, oneshot::channel().0));
            self.progress.hurry();
        }
    }

    /// What was made again since the start, in words.
    #[must_use]
    pub fn made_again(&self) -> Vec<String> {
        self.progress.made_again.lock().clone()
    }

    /// A blob that is not there: put back, if a record refers to it and it stands elsewhere.
    pub(super) async fn missed_blob(&self, session: SessionId, id: BlobId) -> Result<Bytes, LogError> {
        let Some(seq) = self.mender.missing(session, id).await? else { return Err(LogError::NotFound) };
        let what = format!("blob {id} is not there");
        let damage = vec![Damage { session: Some(session), seqs: Some(seq.0..=seq.0), what }];
        // Whatever comes of it: if it stands elsewhere, it is here now.
        self.mender.met(session, &damage).await;
        match self.stored_blob(session, id).await {
            Err(LogError::NotFound) => Err(LogError::Corrupt(damage)),
            stored => stored,
        }
    }

    /// Records as records.db has them. Of a session that is set aside as far as they can be had, whatever is wrong further on,
    /// and, while it waits for a decision, from wherever they stand a second time: nothing when there is nothing more.
    pub(super) fn stored(&self, session: SessionId, after: Seq, max_bytes: usize) -> Result<Bytes, LogError> {
        if !self.is_set_aside(session) {
            return self.read_records(|records| records.read(session, after, max_bytes));
        }
        let left = match self.read_records(|records| records.read_left(session, after, max_bytes)) {
            Err(LogError::Corrupt(damage)) if !is_of_the_file(&damage) => Bytes::new(),
            read => read?,
        };
        if left.is_empty() { self.mender.left(session, after, max_bytes) } else { Ok(left) }
    }

    /// The newest checkpoint at or below a seq that verifies; those that do not are noted, and taken away beside this.
    pub(super) fn load_stored(&self, session: SessionId, at_or_below: Seq) -> Result<Option<Checkpoint>, LogError> {
        let passed_over = Mutex::new(None);
        let load = |records: &RecordsReader<'_>| {
            records.load_noting(session, at_or_below, &mut |seq, what| {
                let failure = Failure::CheckpointCorruption { seq };
                self.progress.notice(Noticed::new(failure, Some(session), what.clone()));
                let seqs = seq.map(|seq| seq..=seq);
                *passed_over.lock() = Some(Damage { session: Some(session), seqs, what });
            })
        };
        let loaded = match self.read_records(load) {
            // Everything it has is still in the journal.
            Err(LogError::NotFound) => Ok(None),
            other => other,
        };
        if let Some(damage) = passed_over.into_inner() {
            self.was_met(session, damage);
        }
        loaded
    }

    /// Every session there is, and every one of which something is known to be damaged. Over a damaged row of one, the
    /// others are still listed. Blocks.
    ///
    /// # Errors
    /// What records.db says.
    pub(crate) fn all_sessions(&self) -> Result<BTreeSet<SessionId>, Error> {
        let mut all = BTreeSet::from_iter(self.sessions_ahead());
        all.extend(self.lanes.all_aside().iter().filter_map(|damage| damage.session));
        all.extend(self.read_records(|records| records.session_ids()).map_err(damage::log)?);
        Ok(all)
    }

    /// Goes on with a recovery that was interrupted: as another attempt.
    pub(crate) async fn take_up(&self, session: SessionId) -> Result<Option<SessionRecovery>, Error> {
        let cause = self.mender.cases.see(session, |case| case.cause.clone()).unwrap_or_default();
        self.run_recovery(session, Why::Met(cause)).await
    }

    /// A recovery that is over and not yet in the session's own history.
    pub(crate) fn unnoted(&self, session: SessionId) -> Option<SessionRecovery> {
        let take = |case: &Case| case.recovery.clone().filter(|last| last.is_over() && !case.is_noted);
        self.mender.cases.see(session, take).flatten()
    }

    /// It is in the session's own history. Blocks.
    pub(crate) fn noted(&self, session: SessionId) -> Result<(), Error> {
        let note = || match self.mender.cases.get(session) {
            Some(case) => {
                self.mender.cases.put(session, &Case { is_noted: true, ..case }).map_err(|error| unkept(&error))
            }
            None => Ok(()),
        };
        self.mender.while_open(note).map_err(damage::log)
    }

    /// Recoveries that ended just before the store did are in the history, as all others.
    pub(crate) async fn report_again(&self) {
        self.mender.report_again().await;
    }

    /// Returns when no recovery is under way, and none begins any more: the store is about to close. One that was cut short
    /// is taken up at the next start.
    pub async fn end_recoveries(&self) {
        self.mender.stop().await;
    }

    /// Tells whoever has sessions in RAM what happens to them here.
    pub(crate) fn set_above(&self, above: Box<dyn Above>) {
        let _ = self.mender.above.set(above);
    }

    /// Mends every session whose own row is damaged: over such a row sessions cannot be listed. True: now they can be.
    pub async fn mend_session_rows(&self) -> bool {
        let mut met = BTreeSet::new();
        loop {
            let damage = match self.read_records(|records| records.sessions(None, usize::MAX).map(drop)) {
                Ok(()) => return true,
                Err(LogError::Corrupt(damage)) => damage,
                Err(_) => return false,
            };
            let session = damage.iter().find_map(|damage| damage.session).filter(|session| met.insert(*session));
            let Some(session) = session else { return false };
            let why = Why::Met("its row is damaged".into());
            if let Err(error) = self.mender.clone().recover(session, why).await {
                tracing::error!(%session, %error, "a damaged session row could not be put right");
            }
        }
    }

    /// What was mended since the start.
    #[must_use]
    pub fn repairs(&self) -> Vec<crate::Repair> {
        self.mender.repairs()
    }
}

fn in_words(damage: &[Damage]) -> String {
    let mut said: Vec<String> = damage.iter().map(ToString::to_string).collect();
    // Of many pages the same is said.
    said.dedup();
    said.join("; ")
}
