//! Mending: damaged rows of records.db are put right from where their records stand a second time.
//!
//! One way only: the damaged rows themselves (a flipped column leaves the records whole), what was set aside, the journal,
//! the kept files. A record is taken where the session's hash chain leads to it and nowhere else: a gap is filled backwards
//! from the hash that the record after it names, so that what is put in cannot be another than what stood there. Bytes that
//! are replaced go to quarantine first. It runs by itself when somebody meets the damage, once for a session and start, and
//! whenever it is asked for.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use swarmkeep_core::{
    BlobId, Hash, Seq, SessionId,
    clock::Clock,
    log::{Blob, Damage, Head, LogError, Refused, Watchers},
    record,
};
use swarmkeep_sqlite::{Gap, Mending, ReaderPool, RecordsReader, Survey};
use tokio::sync::oneshot;

use super::{
    applier::{Ask, Progress},
    keeper::Keeper,
    lane::Lanes,
    quarantine::Quarantine,
};
use crate::{
    disk::Disk,
    journal::{
        Entry, Journal, StoreId,
        search::{self, Segment},
    },
    recovery::{RecoveryReport, Repair},
    workers::Workers,
};

/// A session that is written meanwhile is surveyed again, so often.
const TRIES: usize = 4;

pub(super) struct Mender {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) store_dir: PathBuf,
    pub(super) store: StoreId,
    pub(super) incarnation: u64,
    pub(super) journal: Arc<Journal>,
    pub(super) keeper: Option<Arc<Keeper>>,
    pub(super) records: Arc<ReaderPool>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) progress: Arc<Progress>,
    pub(super) watchers: Arc<Watchers>,
    pub(super) quarantine: Quarantine,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) workers: Workers,
    pub(super) made: Made,
}

/// What was done since the start.
#[derive(Default)]
pub(super) struct Made {
    /// One at a time: it reads much.
    turn: Mutex<()>,
    /// Met and looked into since the start: what could not be mended then cannot be now.
    tried: Mutex<HashSet<SessionId>>,
    repairs: Mutex<Vec<Repair>>,
    reports: AtomicU64,
}

/// What mending a session came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mended {
    /// What is as it was.
    pub repaired: Vec<Repair>,
    /// What exists nowhere else.
    pub lost: Vec<Damage>,
}

/// Records and blobs that were found, by what names them.
#[derive(Default)]
struct Found {
    records: HashMap<(u64, Hash), (Bytes, &'static str)>,
    /// By seq and the hash of the record before: the way forward where no later record is known.
    next: HashMap<(u64, Hash), Hash>,
    blobs: HashMap<BlobId, (Seq, Bytes, &'static str)>,
}

impl Found {
    fn add(&mut self, session: SessionId, bytes: &Bytes, from: &'static str) {
        let mut at = 0;
        for view in record::iter(bytes).map_while(Result::ok) {
            let length = view.bytes().len();
            let hash = view.hash();
            if view.session() == session && view.body().is_ok() {
                let seq = view.seq().0;
                self.records.entry((seq, hash)).or_insert_with(|| (bytes.slice(at..at + length), from));
                self.next.entry((seq, view.previous())).or_insert(hash);
            }
            at += length;
        }
    }

    fn blob(&mut self, seq: Seq, blob: &Blob, from: &'static str) {
        if !blob.bytes.is_empty() && *blake3::hash(&blob.bytes).as_bytes() == blob.id.0 {
            self.blobs.entry(blob.id).or_insert_with(|| (seq, blob.bytes.clone(), from));
        }
    }

    /// Records from `first` on that follow the one with this hash, up to `last`.
    fn forwards(&self, first: u64, mut before: Hash, last: u64) -> Run {
        let mut run = Run { first, ..Run::default() };
        for seq in first..=last {
            let Some(hash) = self.next.get(&(seq, before)) else { break };
            let Some((bytes, from)) = self.records.get(&(seq, *hash)) else { break };
            run.records.push((bytes.clone(), from));
            before = *hash;
        }
        run.end = before;
        run
    }

    /// Records down from the one with this seq and hash, to `first`.
    fn backwards(&self, first: u64, last: u64, mut hash: Hash) -> Run {
        let mut run = Run { first: last + 1, end: hash, ..Run::default() };
        while run.first > first {
            let Some((bytes, from)) = self.records.get(&(run.first - 1, hash)) else { break };
            let Ok((view, _)) = record::RecordView::split(bytes) else { break };
            hash = view.previous();
            run.records.push((bytes.clone(), from));
            run.first -= 1;
        }
        run.records.reverse();
        run
    }
}

/// Contiguous records, each with where it was found.
#[derive(Default)]
struct Run {
    first: u64,
    records: Vec<(Bytes, &'static str)>,
    /// Hash of the last.
    end: Hash,
}

impl Run {
    fn bytes(&self) -> Bytes {
        let mut all = BytesMut::new();
        self.records.iter().for_each(|(bytes, _)| all.extend_from_slice(bytes));
        all.freeze()
    }

    fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    fn repairs(&self, session: SessionId) -> Vec<Repair> {
        let mut repairs: Vec<Repair> = Vec::new();
        for (seq, (_, from)) in (self.first..).zip(&self.records) {
            match repairs.last_mut() {
                Some(last) if last.from == **from => last.last = Some(seq),
                _ => repairs.push(Repair {
                    session,
                    what: "records".into(),
                    first: Some(seq),
                    last: Some(seq),
                    from: (*from).into(),
                }),
            }
        }
        repairs
    }
}

impl Mender {
    /// Returns when nothing is being mended.
    pub(super) fn wait(&self) {
        drop(self.made.turn.lock());
    }

    /// Everything that was repaired since the start.
    pub(super) fn repairs(&self) -> Vec<Repair> {
        self.made.repairs.lock().clone()
    }

    /// Mends a session that somebody met damaged; true: something is other than before, and worth another look. Only the
    /// first time since the start.
    pub(super) async fn met(self: &Arc<Self>, session: SessionId) -> bool {
        if self.made.tried.lock().contains(&session) {
            return false;
        }
        match self.clone().mend_off(session).await {
            Ok(mended) => !mended.repaired.is_empty(),
            Err(error) => {
                tracing::error!(%session, %error, "damage could not be looked into");
                false
            }
        }
    }

    /// Mends a session, off the async threads.
    pub(super) async fn mend_off(self: Arc<Self>, session: SessionId) -> Result<Mended, LogError> {
        let workers = self.workers;
        let mended = workers.offload(move || self.mend(session)).await;
        mended.unwrap_or_else(|error| Err(LogError::Unknown(format!("mending a session: {error}"))))
    }

    fn mend(&self, session: SessionId) -> Result<Mended, LogError> {
        let _turn = self.made.turn.lock();
        let mut mended = Mended::default();
        let mut outcome = Ok(());
        for _ in 0..TRIES {
            outcome = self.pass(session, &mut mended);
            match &outcome {
                // Written in between: what was planned does not fit any more.
                Err(LogError::Refused { kind: Refused::Invalid, .. }) => {}
                _ => break,
            }
        }
        if mended.lost.is_empty() && outcome.is_ok() {
            // Damage that comes later is other damage.
            self.made.tried.lock().remove(&session);
        } else {
            self.made.tried.lock().insert(session);
        }
        if !mended.repaired.is_empty() {
            tracing::warn!(%session, repaired = ?mended.repaired, "damage was put right from a second copy");
            self.made.repairs.lock().extend(mended.repaired.iter().cloned());
            self.report(&mended);
            self.watchers.moved(session);
        }
        outcome.map(|()| mended)
    }

    fn pass(&self, session: SessionId, mended: &mut Mended) -> Result<(), LogError> {
        mended.lost.clear();
        let survey = match self.read(|records| records.survey(session)) {
            // All of it is in the journal, or nothing.
            Err(LogError::NotFound) => {
                mended.lost.extend(self.lanes.aside(session));
                return Ok(());
            }
            survey => survey?,
        };
        if !survey.is_whole() {
            let found = self.gather(session, &survey)?;
            self.mend_rows(session, &survey, &found, mended)?;
        }
        if mended.lost.is_empty() {
            self.take_back(session, mended)?;
        }
        Ok(())
    }

    fn mend_rows(
        &self,
        session: SessionId,
        survey: &Survey,
        found: &Found,
        mended: &mut Mended,
    ) -> Result<(), LogError> {
        let mut mending = Mending::default();
        let mut repairs = Vec::new();
        for gap in &survey.gaps {
            for run in self.fill(session, gap, found, mended)? {
                repairs.extend(run.repairs(session));
                // Those that were never applied bring their blobs; one that is there stays.
                let range = run.first..run.next();
                let blobs = found.blobs.iter().filter(|(_, (seq, ..))| range.contains(&seq.0));
                mending.blobs.extend(blobs.map(|(id, (seq, bytes, _))| (*seq, Blob { id: *id, bytes: bytes.clone() })));
                mending.runs.push(run.bytes());
            }
        }
        let repair = |what: String, from: &str| Repair { session, what, first: None, last: None, from: from.into() };
        if survey.row_is_bad {
            if !mended.lost.is_empty() {
                // The row says where a session ends; over a gap nobody can tell.
                return Ok(());
            }
            if survey.is_misnamed && mending.runs.is_empty() {
                // The row of another session, which has its records; that one gets a row when it is mended.
                mending.drop_row = true;
                repairs.push(repair("row of a session without records".into(), "quarantine"));
            } else {
                mending.rebuild_row = true;
                repairs.push(repair("session row".into(), "records"));
            }
            if let Some(row) = &survey.row {
                let name = format!("records-{session}-session-{}", self.clock.now_ms());
                self.quarantine.put(&name, row.as_bytes()).map_err(|error| unkept(&error))?;
            }
        }
        if !mending.runs.is_empty() || survey.gaps.is_empty() || mending.rebuild_row {
            mending.drop_chunks = survey.chunks.iter().map(|row| row.id).collect();
        }
        for row in &survey.checkpoints {
            // It is made again by folding, when the next one is due.
            mending.drop_checkpoints.push(row.id);
            repairs.push(repair("checkpoint".into(), "records"));
        }
        for row in &survey.blobs {
            let salvaged = Blob::new(row.salvaged.clone().into());
            let good = match row.blob.and_then(|id| Some((id, found.blobs.get(&id)?))) {
                Some((id, (seq, bytes, from))) => Some((*seq, Blob { id, bytes: bytes.clone() }, *from)),
                // Its name was damaged, not its content: the kept copies know of such a blob.
                None => found.blobs.get(&salvaged.id).map(|(seq, ..)| (*seq, salvaged, "row")),
            };
            match good {
                Some((seq, blob, from)) => {
                    repairs.push(repair(format!("blob {}", blob.id), from));
                    mending.drop_blobs.push(row.id);
                    mending.blobs.push((seq, blob));
                }
                None => mended.lost.push(Damage {
                    session: Some(session),
                    seqs: None,
                    what: format!("blob {} exists nowhere else", row.blob.unwrap_or_default()),
                }),
            }
        }
        if repairs.is_empty() && mending.drop_chunks.is_empty() {
            return Ok(());
        }
        for (table, rows, going) in [
            ("chunk", &survey.chunks, &mending.drop_chunks),
            ("checkpoint", &survey.checkpoints, &mending.drop_checkpoints),
            ("blob", &survey.blobs, &mending.drop_blobs),
        ] {
            for row in rows.iter().filter(|row| going.contains(&row.id)) {
                let name = format!("records-{session}-{table}-{}", row.id);
                self.quarantine.put(&name, &row.stored).map_err(|error| unkept(&error))?;
            }
        }
        self.ask(session, mending)?;
        mended.repaired.extend(repairs);
        Ok(())
    }

    /// The records that stood in a gap, as far as they were found; the others are lost.
    fn fill(&self, session: SessionId, gap: &Gap, found: &Found, mended: &mut Mended) -> Result<Vec<Run>, LogError> {
        let lost = |seqs| Damage {
            session: Some(session),
            seqs: Some(seqs),
            what: "records exist nowhere else: neither in the journal nor in a kept copy".into(),
        };
        let mut runs = Vec::new();
        match gap.last {
            Some((last, hash)) => {
                let back = found.backwards(gap.first, last, hash);
                if back.first > gap.first {
                    let ahead = found.forwards(gap.first, gap.before, back.first - 1);
                    let seqs = ahead.next()..=back.first - 1;
                    // Before the oldest row of a session without a row may lie what was removed below a checkpoint.
                    let removed = gap.first == 1
                        && gap.before == Hash::default()
                        && ahead.records.is_empty()
                        && back.records.is_empty()
                        && self
                            .read(|records| records.load(session, Seq(u64::MAX >> 1)))?
                            .is_some_and(|checkpoint| checkpoint.head.seq.0 >= last);
                    if !removed {
                        mended.lost.push(lost(seqs));
                    }
                    runs.push(ahead);
                }
                runs.push(back);
            }
            None => {
                let ahead = found.forwards(gap.first, gap.before, u64::MAX - 1);
                let known = self.lanes.head(session).map_or(0, |head| head.seq.0);
                let checkpoint = self.read(|records| records.load(session, Seq(u64::MAX >> 1)))?;
                let known = known.max(checkpoint.map_or(0, |checkpoint| checkpoint.head.seq.0));
                if self.lanes.aside(session).is_none() && known >= ahead.next() {
                    mended.lost.push(lost(ahead.next()..=known));
                }
                runs.push(ahead);
            }
        }
        runs.retain(|run| !run.records.is_empty());
        Ok(runs)
    }

    /// A session that was set aside comes back when everything between its head and what is in quarantine is there.
    fn take_back(&self, session: SessionId, mended: &mut Mended) -> Result<(), LogError> {
        let Some(aside) = self.lanes.aside(session) else { return Ok(()) };
        let groups = self.quarantine.groups(session).map_err(|error| unkept(&error))?;
        let head = self.read(|records| records.head(session))?.map_or(Head::default(), |(head, _)| head);
        let after = Gap { first: head.seq.0 + 1, before: head.hash, last: None };
        let found = self.gather(session, &Survey { gaps: vec![after], ..Survey::default() })?;
        // What a file says it has, whether that can be read or not.
        let last = groups.iter().map(|(_, last, _)| *last).max();
        let run = found.forwards(head.seq.0 + 1, head.hash, last.unwrap_or(0));
        if last.is_some_and(|last| run.next() <= last) {
            mended.lost.push(aside);
            return Ok(());
        }
        if !run.records.is_empty() {
            let mut mending = Mending { append: vec![run.bytes()], ..Mending::default() };
            let range = head.seq.0 + 1..run.next();
            let blobs = found.blobs.iter().filter(|(_, (seq, ..))| range.contains(&seq.0));
            mending.blobs.extend(blobs.map(|(id, (seq, bytes, _))| (*seq, Blob { id: *id, bytes: bytes.clone() })));
            self.ask(session, mending)?;
        }
        let names: Vec<String> = groups.into_iter().map(|(name, ..)| name).collect();
        if !names.is_empty() {
            self.quarantine.settled(&names).map_err(|error| unkept(&error))?;
        }
        self.lanes.take_back(session);
        let mut repairs = run.repairs(session);
        if repairs.is_empty() {
            let (what, from) = ("set aside".into(), "records".into());
            repairs.push(Repair { session, what, first: None, last: None, from });
        }
        mended.repaired.extend(repairs);
        Ok(())
    }

    /// Everything of a session's gaps that is anywhere, the damaged rows first.
    fn gather(&self, session: SessionId, survey: &Survey) -> Result<Found, LogError> {
        let mut found = Found::default();
        for row in &survey.chunks {
            found.add(session, &Bytes::from(row.salvaged.clone()), "row");
        }
        for (.., bytes) in self.quarantine.groups(session).map_err(|error| unkept(&error))? {
            found.add(session, &bytes, "quarantine");
        }
        if survey.gaps.is_empty() && survey.blobs.is_empty() {
            return Ok(found);
        }
        let wanted = |first: u64, last: u64| {
            !survey.blobs.is_empty()
                || survey
                    .gaps
                    .iter()
                    .any(|gap| first <= gap.last.map_or(u64::MAX, |(last, _)| last) && last >= gap.first)
        };
        self.search_journal(session, &wanted, &mut found);
        if let Some(keeper) = &self.keeper {
            keeper.search(|file| {
                for run in file.runs.iter().filter(|run| run.session == session) {
                    if wanted(*run.seqs.start(), *run.seqs.end()) {
                        found.add(session, &file.records(run)?, "kept");
                    }
                }
                for blob in file.blobs.iter().filter(|blob| blob.session == session) {
                    found.blob(blob.seq, &Blob { id: blob.id, bytes: file.blob(blob)? }, "kept");
                }
                Ok(false)
            });
        }
        Ok(found)
    }

    fn search_journal(&self, session: SessionId, wanted: &impl Fn(u64, u64) -> bool, found: &mut Found) {
        let extents = search::extents(self.disk.as_ref(), &self.store_dir, &self.journal.extents());
        for extent in extents.unwrap_or_default() {
            let through = self.journal.durable();
            let read = Segment::read(self.disk.as_ref(), &self.store_dir, self.store, extent, through);
            let Ok(Some(segment)) = read else { continue };
            let here = segment.spans().iter().any(|span| {
                span.session == session && span.seqs.as_ref().is_some_and(|seqs| wanted(*seqs.start(), *seqs.end()))
            });
            if !here {
                continue;
            }
            let frames = segment.frames().0;
            for entry in frames.iter().flat_map(|frame| &frame.entries) {
                if let Entry::Records(group) = entry
                    && group.session == session
                {
                    found.add(session, &group.records, "journal");
                    group.blobs.iter().for_each(|blob| found.blob(group.head.seq, blob, "journal"));
                }
            }
        }
    }

    fn ask(&self, session: SessionId, mending: Mending) -> Result<(), LogError> {
        let (done, answer) = oneshot::channel();
        self.progress.ask(Ask::Mend(session, mending, done));
        self.progress.hurry();
        let closing = || Err(LogError::Refused { kind: Refused::Closing, detail: "the store is closing".into() });
        answer.blocking_recv().unwrap_or_else(|_| closing())
    }

    /// Keeps what was repaired in the history of recoveries.
    fn report(&self, mended: &Mended) {
        let number = self.made.reports.fetch_add(1, Ordering::Relaxed) + 1;
        let report = RecoveryReport {
            id: format!("repair-{}-{number}", self.incarnation),
            at_ms: self.clock.now_ms(),
            clean: true,
            damage: mended.lost.iter().map(ToString::to_string).collect(),
            repaired: mended.repaired.clone(),
            ..RecoveryReport::default()
        };
        let Ok(text) = serde_json::to_string(&report) else { return };
        let recovery = swarmkeep_sqlite::Recovery { id: report.id, at_ms: report.at_ms, report: text };
        self.progress.ask(Ask::Report(recovery, oneshot::channel().0));
    }

    fn read<T>(&self, read: impl Fn(&RecordsReader<'_>) -> swarmkeep_sqlite::Result<T>) -> Result<T, LogError> {
        Ok(self.records.read_unhurried(|connection| read(&RecordsReader::new(connection)))?)
    }
}

fn unkept(error: &std::io::Error) -> LogError {
    LogError::Unknown(format!("quarantine: {error}"))
}
