//! Proof of G2 and G3 on a live store: every way to a session's state leads to the same bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;
use swarmkeep_core::{
    BlobId, Error, ErrorKind, Hash, Seq, SessionId, State,
    failure::{Failure, Place},
    query::{LIMIT_MAX, Of, Query},
    record::{self, Record},
    tabulate,
};

use crate::{Repair, Swarmkeep, damage, embedded, incident::Noticed, keep::Engine};

/// What [`Swarmkeep::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Sessions looked at.
    pub sessions: u64,
    /// Records read, hashed, and folded from the oldest kept base.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Checkpoints read and compared with the fold.
    pub checkpoints: u64,
    /// Sessions whose views could not be compared at one position: they were written too fast, or the views do not come as
    /// far as the journal; their log was.
    pub views_not_compared: u64,
    /// Why what is durable did not get from the journal into records.db or the views, where it did not: a full disk, as a
    /// rule. What was looked at was read out of the journal, and nothing is proved of the databases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// What was put right: by this call, or when somebody met it since the start; each is told of once.
    pub repaired: Vec<Repair>,
    /// Databases that were made again by this call, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub made_again: Vec<String>,
    /// What does not agree, or is damaged; empty: everything is as it should be.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In which session; absent: in the store's own tables.
    pub session: Option<SessionId>,
    /// Which of the ways disagrees: `log`, `checkpoint`, `blob`, `resident`, `views`, `store`.
    pub place: &'static str,
    /// What is wrong.
    pub what: String,
}

impl Finding {
    /// It is of records.db as a file, which can be made again.
    fn is_of_records_db(&self) -> bool {
        self.place == "store" && self.session.is_none() && !self.what.starts_with(embedded::SECOND_COPY)
    }
}

/// Bytes of records read at a time.
const READ_BYTES: usize = 1 << 20;
/// Tries to catch a session's views at one position.
const TRIES: usize = 5;

impl Swarmkeep {
    /// Folds sessions from the oldest kept base and compares: with the newest checkpoint and the records after it, with what
    /// is in RAM, with the views; and every byte read with its hash. Nothing is changed; work goes on meanwhile.
    ///
    /// `session`: that one only. `progress` is told after each session how many are done.
    ///
    /// # Errors
    /// `not_found` for a session that is not there; what the store says when sessions cannot be listed.
    pub async fn verify(&self, session: Option<SessionId>, progress: impl Fn(u64)) -> Result<VerifyReport, Error> {
        self.prove(session, false, progress).await
    }

    /// [`Swarmkeep::verify`], and what is damaged in records.db is put right first, as far as its records stand a second
    /// time: in the journal, in the kept copies, with what was set aside.
    ///
    /// # Errors
    /// As [`Swarmkeep::verify`].
    pub async fn repair(&self, session: Option<SessionId>, progress: impl Fn(u64)) -> Result<VerifyReport, Error> {
        self.prove(session, true, progress).await
    }

    /// Where the views are damaged and that is to be put right, they are made again, and everything is looked at once more.
    async fn prove(
        &self,
        session: Option<SessionId>,
        repair: bool,
        progress: impl Fn(u64),
    ) -> Result<VerifyReport, Error> {
        let mut found = self.prove_once(session, repair, &progress).await;
        if let Err(error) = &found
            && error.kind == ErrorKind::Corrupt
            && !repair
        {
            // Where the databases themselves cannot be read, that is what was found.
            let what = error.to_string();
            found = Ok(VerifyReport {
                findings: vec![Finding { session: None, place: "store", what }],
                ..VerifyReport::default()
            });
        }
        if let Ok(report) = &mut found
            && let Some(embedded) = self.engine.embedded.as_ref().filter(|_| repair)
            && let Some(finding) = report.findings.iter().find(|finding| finding.is_of_records_db())
        {
            // Another reader saw what the first did not: what it had read before is in its cache.
            let made_again = embedded.remake_records_because(&finding.what).await;
            let (repaired, before) = (std::mem::take(&mut report.repaired), std::mem::take(&mut report.made_again));
            let again = self.prove_once(session, repair, &progress).await?;
            let made_again = before.into_iter().chain(made_again).chain(again.made_again).collect();
            let repaired = repaired.into_iter().chain(again.repaired).collect();
            found = Ok(VerifyReport { made_again, repaired, ..again });
        }
        let (why, mut made_again, repaired) = match &found {
            Ok(report) => {
                let Some(finding) = report.findings.iter().find(|finding| finding.place == "views") else {
                    return found;
                };
                (finding.what.clone(), report.made_again.clone(), report.repaired.clone())
            }
            Err(error) if error.kind == ErrorKind::Corrupt => (error.to_string(), Vec::new(), Vec::new()),
            Err(_) => return found,
        };
        let Some(embedded) = self.engine.embedded.as_ref().filter(|_| repair) else { return found };
        if found.is_err() {
            // Which of the two cannot be read is not said.
            made_again.extend(embedded.remake_records_because(&why).await);
        }
        tracing::warn!(why, "views.db is damaged: it is made again");
        embedded.remake_views().await;
        made_again.push(format!("views.db: {why}; put aside in quarantine, and made again from the records"));
        let again = self.prove_once(session, false, &progress).await?;
        let repaired = repaired.into_iter().chain(again.repaired).collect();
        Ok(VerifyReport { made_again, repaired, ..again })
    }

    async fn prove_once(
        &self,
        session: Option<SessionId>,
        repair: bool,
        progress: &impl Fn(u64),
    ) -> Result<VerifyReport, Error> {
        let engine = &self.engine;
        let mut report = VerifyReport::default();
        // What was acknowledged before this call is what is proved, and a session can be in the journal only.
        if let Some(embedded) = &engine.embedded
            && let Err(error) = embedded.records_settled().await
        {
            report.behind = Some(error.message);
        }
        if let Some(session) = session {
            engine.recover_before(session, repair, &mut report).await;
            engine.verify_mended(session, &mut report).await?;
            report.repaired = self.untold_repairs(Some(session));
            return Ok(report);
        }
        if let Some(embedded) = engine.embedded.as_ref().filter(|_| repair) {
            report.made_again.extend(embedded.repair_file().await);
            if let Err(error) = embedded.records_settled().await {
                report.behind.get_or_insert(error.message);
            }
        }
        if let Some(embedded) = &engine.embedded {
            let file = embedded.clone();
            let damaged =
                engine.workers().offload(move || file.verify_file()).await.unwrap_or_else(|_| Ok(Vec::new()))?;
            report.findings.extend(damaged.into_iter().map(|what| Finding { session: None, place: "store", what }));
            let file = embedded.clone();
            let damaged =
                engine.workers().offload(move || file.verify_views()).await.unwrap_or_else(|_| Ok(Vec::new()));
            // Views too large to be read in one go are compared row by row all the same.
            let damaged = match damaged {
                Err(error) if error.kind == ErrorKind::Retry => Vec::new(),
                Err(error) => vec![error.to_string()],
                Ok(lines) => lines,
            };
            report.findings.extend(damaged.into_iter().map(|what| Finding { session: None, place: "views", what }));
        }
        if let Some(embedded) = engine.embedded.as_ref().filter(|_| repair) {
            embedded.mend_session_rows().await;
        }
        // records.db and the journal say which sessions there are, the views may be wrong about it.
        let mut sessions = match engine.tabulated_sessions().await {
            Err(error) if error.kind == ErrorKind::Retry => {
                report.behind.get_or_insert(error.message);
                BTreeSet::new()
            }
            tabulated => tabulated?,
        };
        if let Some(embedded) = &engine.embedded {
            // One that is set aside need not have a row.
            sessions.extend(embedded.standing().set_aside.iter().filter_map(|aside| aside.session));
            sessions.extend(embedded.sessions_ahead());
            match embedded.stored_sessions() {
                Ok(stored) => sessions.extend(stored),
                Err(error) => report.findings.push(Finding { session: None, place: "store", what: error.to_string() }),
            }
        }
        for session in sessions {
            engine.recover_before(session, repair, &mut report).await;
            match engine.verify_mended(session, &mut report).await {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {
                    let aside = engine.embedded.as_ref().and_then(|embedded| embedded.aside(session));
                    if let Some(what) = aside {
                        report.findings.push(Finding { session: Some(session), place: "store", what });
                    } else if report.behind.is_none() && engine.is_tabulated(session).await? {
                        let what = "a row of a session that does not exist".into();
                        report.findings.push(Finding { session: Some(session), place: "views", what });
                    }
                }
                Err(error) => return Err(error),
            }
            progress(report.sessions);
            tokio::task::yield_now().await;
        }
        report.repaired = self.untold_repairs(None);
        Ok(report)
    }

    /// Repairs of a session, or of all, that no proof has told of yet.
    fn untold_repairs(&self, session: Option<SessionId>) -> Vec<Repair> {
        let Some(embedded) = &self.engine.embedded else { return Vec::new() };
        let mut told = self.engine.told.lock();
        let repairs = embedded.repairs().into_iter().enumerate();
        let of_these = repairs.filter(|(_, repair)| session.is_none_or(|session| repair.session == session));
        of_these.filter(|(number, _)| told.insert(*number)).map(|(_, repair)| repair).collect()
    }
}

#[derive(serde::Deserialize)]
struct Row {
    session_id: SessionId,
}

impl Engine {
    /// Puts right what can be, if that was asked for; what cannot is found by what comes after.
    async fn recover_before(self: &Arc<Self>, session: SessionId, repair: bool, report: &mut VerifyReport) {
        let Some(embedded) = self.embedded.as_ref().filter(|_| repair) else { return };
        let outcome = match embedded.recover(session).await {
            // What replaces a checkpoint that did not verify.
            Ok(Some(done)) if done.is_over() && done.restored.iter().any(|repair| repair.what == "checkpoint") => {
                self.checkpoint(session).await.map(drop)
            }
            outcome => outcome.map(drop),
        };
        if let Err(error) = outcome {
            report.findings.push(Finding {
                session: Some(session),
                place: "log",
                what: format!("not repaired: {error}"),
            });
        }
    }

    /// The sessions of which the views know.
    pub(crate) async fn tabulated_sessions(&self) -> Result<BTreeSet<SessionId>, Error> {
        let not_before = self.embedded.as_ref().map(|embedded| embedded.opened_at());
        let mut sessions = BTreeSet::new();
        let mut cursor = None;
        loop {
            let query = Query { limit: Some(LIMIT_MAX), cursor, ..Query::of(Of::Sessions) };
            let page = self.log.find(query, not_before).await.map_err(damage::log)?;
            for row in &page.rows {
                sessions.insert(row.decode::<Row>()?.session_id);
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(sessions);
            }
        }
    }

    /// Whether the views still know of a session, with everything that is durable in them.
    async fn is_tabulated(&self, session: SessionId) -> Result<bool, Error> {
        if let Some(embedded) = &self.embedded {
            embedded.views_settled().await?;
        }
        let query = Query { session: Some(session), ..Query::of(Of::Sessions) };
        Ok(!self.log.find(query, None).await.map_err(damage::log)?.rows.is_empty())
    }

    /// Content that cannot be had is a failure of its session also where nobody asks for it but a proof.
    fn notice_blob(&self, session: SessionId, blob: BlobId, what: &str) {
        let blob = blob.to_string();
        let what = if what.contains(&blob) { what.to_owned() } else { format!("blob {blob}: {what}") };
        let failure = Failure::StateCorruption { place: Place::Blob, first: None, last: None };
        self.notice(Noticed::new(failure, Some(session), what));
    }

    /// A session as it stands. Whoever meets damage has it put right, where that can be: then it is looked at once more.
    async fn verify_mended(self: &Arc<Self>, id: SessionId, report: &mut VerifyReport) -> Result<(), Error> {
        let repairs = || self.embedded.as_ref().map_or(0, |embedded| embedded.repairs().len());
        let (before, had) = (report.clone(), repairs());
        let verified = self.verify_session(id, report).await;
        if verified.is_err() || report.findings.len() == before.findings.len() || repairs() == had {
            return verified;
        }
        *report = before;
        self.verify_session(id, report).await
    }

    async fn verify_session(self: &Arc<Self>, id: SessionId, report: &mut VerifyReport) -> Result<(), Error> {
        report.sessions += 1;
        let mut finding = |place, what: String| {
            let found = Finding { session: Some(id), place, what };
            // Two readers say the same of one place.
            if !report.findings.contains(&found) {
                report.findings.push(found);
            }
        };
        let mut held = None;
        let mut is_log_whole = true;
        if let Some(embedded) = &self.embedded {
            match embedded.verify_stored(id) {
                Ok(stored) => {
                    held = Some(stored.held);
                    report.checkpoints += stored.checkpoints;
                    is_log_whole &= stored.damage.is_empty();
                    for damage in stored.damage {
                        finding("log", damage.to_string());
                    }
                    for (blob, _) in stored.files {
                        if let Err(error) = self.log.blob(id, blob).await {
                            self.notice_blob(id, blob, &error.to_string());
                            finding("blob", format!("{blob}: {error}"));
                        }
                    }
                }
                // Not applied yet: the journal has all of it.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => finding("log", error.to_string()),
            }
        }
        if let Some(error) = self.needs_decision(id) {
            finding("log", error.to_string());
            return Ok(());
        }
        let resident = match self.live(id, |live| live.published.clone()).await {
            Ok(state) => state,
            Err(error) if error.kind == ErrorKind::NotFound => return Err(error),
            Err(error) => {
                finding("resident", error.to_string());
                return Ok(());
            }
        };
        let until = resident.head.seq;
        let mut base = Seq::ZERO;
        let mut referred = BTreeMap::new();
        let mut see = |record: &Record| {
            for blob in record.body.iter().flat_map(|body| body.event.blobs()) {
                referred.entry(blob).or_insert(record.seq);
            }
        };
        let folded = match self.oldest_kept(id).await {
            Ok(oldest) => {
                base = oldest.head.seq;
                self.fold_seeing(id, oldest, until, &mut see).await
            }
            Err(error) => Err(error),
        };
        match folded {
            Ok((folded, loaded, bytes)) => {
                report.records += loaded.replayed;
                report.bytes += bytes as u64;
                if hash(&folded) != hash(&resident) {
                    finding("resident", format!("the state in RAM at seq {until} is not the fold of the records"));
                }
                match self.fold(id, until).await {
                    Ok((from_checkpoint, ..)) if hash(&from_checkpoint) == hash(&folded) => {}
                    Ok(_) => finding(
                        "checkpoint",
                        format!("checkpoint and tail at seq {until} are not the fold of the records"),
                    ),
                    Err(error) => finding("checkpoint", error.to_string()),
                }
            }
            Err(error) => finding("log", error.to_string()),
        }
        for (blob, seq) in referred {
            // One that came after what is stored was looked at is in the journal.
            let is_held = held.as_ref().is_none_or(|held| held.contains(&blob));
            if !is_held && let Err(error) = self.log.blob(id, blob).await {
                self.notice_blob(id, blob, &format!("record {seq} refers to it: {error}"));
                finding("blob", format!("{blob}, which record {seq} refers to: {error}"));
            }
        }
        // They were waited for once: not again for every session.
        if report.behind.is_some() {
            report.views_not_compared += 1;
            return Ok(());
        }
        match self.views_agree(id).await {
            Ok(Some(differences)) => differences.into_iter().for_each(|what| finding("views", what)),
            Ok(None) => report.views_not_compared += 1,
            Err(error) if error.kind == ErrorKind::Retry => {
                report.views_not_compared += 1;
                report.behind = Some(error.message);
                return Ok(());
            }
            Err(error) => {
                finding("views", error.to_string());
                return Ok(());
            }
        }
        if let Some(embedded) = self.embedded.clone() {
            let compared = self.workers().offload(move || embedded.views_differ_beyond_state(id)).await;
            match compared.unwrap_or_else(|_| Ok(Vec::new())) {
                Ok(differences) => differences.into_iter().for_each(|what| finding("views", what)),
                // Too long to be read in one go.
                Err(error) if error.kind == ErrorKind::Retry => report.views_not_compared += 1,
                // What they would be compared with is not there, and that is said.
                Err(error) if error.kind == ErrorKind::Corrupt && !is_log_whole => {}
                Err(error) => finding("views", error.to_string()),
            }
        }
        match self.events_agree(id, base, until).await {
            Ok(true) => {}
            Ok(false) => finding("views", "the list of events is not that of the records".into()),
            // Too long to be read in one go.
            Err(error) if error.kind == ErrorKind::Retry => report.views_not_compared += 1,
            Err(error) if error.kind == ErrorKind::Corrupt && !is_log_whole => {}
            Err(error) => finding("views", error.to_string()),
        }
        Ok(())
    }

    /// The oldest state that can be had of a session: the empty one, or, where records were removed below a checkpoint, that
    /// of the first checkpoint that stands at them or after.
    async fn oldest_kept(&self, id: SessionId) -> Result<State, Error> {
        let Some(embedded) = &self.embedded else { return Ok(State::empty()) };
        let base = embedded.base(id).map_err(damage::log)?.seq;
        if base == Seq::ZERO {
            return Ok(State::empty());
        }
        let checkpoints = embedded.checkpoints(id)?;
        let oldest = checkpoints.iter().map(|checkpoint| checkpoint.head.seq).filter(|seq| *seq >= base).min();
        let checkpoint = match oldest {
            Some(oldest) => {
                self.log.load(id, oldest).await.map_err(damage::log)?.filter(|found| found.head.seq == oldest)
            }
            None => None,
        };
        let gone = |why: String| {
            Error::new(
                ErrorKind::Corrupt,
                format!("session {id}: its records up to seq {base} were removed, and {why}"),
            )
        };
        checkpoint
            .ok_or_else(|| gone("no checkpoint that stands at or after them can be read".into()))?
            .state()
            .map_err(gone)
    }

    /// Whether the views list the events that the records after `base` up to `until` are, and no others.
    async fn events_agree(self: &Arc<Self>, id: SessionId, base: Seq, until: Seq) -> Result<bool, Error> {
        let Some(embedded) = &self.embedded else { return Ok(true) };
        let mut recorded = Tally::default();
        let mut after = base;
        while after < until {
            let bytes = self.read_log(id, after, READ_BYTES).await?;
            let before = after;
            for view in record::iter(&bytes) {
                let record = view.and_then(|view| view.decode()).map_err(damage::record)?;
                after = record.seq;
                if after > until {
                    break;
                }
                // Of a record whose body was removed nobody can say what it was.
                let Some(body) = &record.body else { return Ok(true) };
                let (aggregate, aggregate_id) = tabulate::aggregate(&body.event);
                let kind = tabulate::event_type(&body.event);
                recorded.add(record.seq.0, record.time_ms, kind, aggregate, &aggregate_id);
            }
            if after == before {
                break;
            }
        }
        let mut listed = Tally::default();
        let range = base.next().0..=until.0;
        embedded.tabulated_events(id, |seq, time_ms, kind, aggregate, aggregate_id| {
            if range.contains(&seq) {
                listed.add(seq, time_ms, kind, aggregate, aggregate_id);
            }
        })?;
        Ok(listed == recorded)
    }

    /// Where the views of a session differ from its state; `None`: it was written all the time.
    async fn views_agree(self: &Arc<Self>, id: SessionId) -> Result<Option<Vec<String>>, Error> {
        let Some(embedded) = &self.embedded else { return Ok(Some(Vec::new())) };
        for _ in 0..TRIES {
            let before = self.live(id, |live| live.published.clone()).await?;
            embedded.views_settled().await?;
            let differences = embedded.views_differ(&before)?;
            // What is durable is in the views before anybody publishes it. The journal is asked after them: it is never
            // behind what they showed.
            let durable = embedded.durable_head(id).map_err(damage::log)?;
            if differences.is_empty() || durable.is_some_and(|head| head.seq == before.head.seq) {
                return Ok(Some(differences));
            }
        }
        Ok(None)
    }
}

/// A set of events, by the sum of their hashes: in whatever order they come.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    events: u64,
    sum: u128,
}

impl Tally {
    fn add(&mut self, seq: u64, time_ms: u64, kind: &str, aggregate: &str, aggregate_id: &str) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seq.to_le_bytes()).update(&time_ms.to_le_bytes());
        for text in [kind, aggregate, aggregate_id] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let hash = hasher.finalize();
        let half = hash.as_bytes().first_chunk().copied().map_or(0, u128::from_le_bytes);
        self.events += 1;
        self.sum = self.sum.wrapping_add(half);
    }
}

fn hash(state: &State) -> Hash {
    state.hash()
}
