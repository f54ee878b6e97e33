//! The embedded log: a journal that acknowledges, and two SQLite databases behind it.
//!
//! ```text
//! append ─► lane (order per session) ─► journal: one write, one sync ─► lane's tail, acknowledgement
//!                                                   └─► applier: records.db ─► views.db ─► retire segments
//! read   ─► lane's tail, then records.db: whatever left the tail in between is visible there
//! ```
//!
//! A store is a folder: `lock journal/ records.db views.db blobs/ kept/ quarantine/`, and `control.sock` while it is held.

mod applier;
mod behind;
mod case;
mod closed;
mod copies;
mod copying;
mod damaged;
mod doubt;
mod keeper;
mod lane;
mod mend;
mod open;
mod ours;
mod progress;
mod quarantine;
mod recover;
mod remake;
mod settle;
mod sight;
mod standing;
mod story;
mod unreported;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use swarmkeep_core::{
    BlobId, Epoch, Error, ErrorKind, Seq, SessionId,
    checkpoint::Checkpoint,
    clock::Clock,
    limits,
    log::{
        Blob, Commit, Damage, Durability, Grant, Group, Head, Hints, Log, LogError, LogFuture, Observation, Position,
        Refused, Remove, Take, Watchers,
    },
    query::{Page, Query},
    record,
};
use swarmkeep_sqlite::{ReaderPool, RecordsReader, Source, SqliteError};
use tokio::sync::oneshot;

use self::{
    applier::Applying,
    keeper::Keeper,
    lane::Lanes,
    progress::{Ask, Progress},
    recover::{Mender, Met},
    settle::Settle,
    unreported::Unreported,
};
pub(crate) use self::{
    closed::{found as closed_found, plans as closed_plans},
    open::beforehand,
    recover::{Above, unpack_base},
};
pub use self::{
    copies::{OnceRange, OneCopy},
    open::Pace,
    standing::{KeptStanding, SetAside, Standing},
};
use crate::{
    blobs::BlobFiles,
    damage,
    incident::Noticed,
    journal::{AppendError, AppendRefused, Entry, Journal},
    lock::StoreLock,
    planted::{self, Defect},
    recovery::RecoveryReport,
    session::SavedCheckpoint,
    sync::Mutex,
    workers::{Turn, Workers},
};

/// How long a writer waits for room before it is told to come back later.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes queued for the journal from which on writers wait: half of what it takes, so that those who were told there is
/// room find it.
const QUEUE_BYTES: usize = 4 << 20;

/// How what is said of a damaged second copy begins.
pub(crate) const SECOND_COPY: &str = "a second copy is damaged";

/// A store in a folder, held by this process.
pub struct EmbeddedLog {
    folder: PathBuf,
    /// The store's folder, when a lock in it is held: its files may be in a folder below.
    root: Option<PathBuf>,
    incarnation: u64,
    opened_at: Position,
    report: RecoveryReport,
    journal: Arc<Journal>,
    lanes: Arc<Lanes>,
    watchers: Arc<Watchers>,
    progress: Arc<Progress>,
    keeper: Option<Arc<Keeper>>,
    mender: Arc<Mender>,
    /// Held by whoever looks into sessions that were set aside.
    looking: tokio::sync::Mutex<()>,
    records: Arc<ReaderPool>,
    views: Arc<ReaderPool>,
    blobs: Arc<BlobFiles>,
    clock: Arc<dyn Clock>,
    unapplied_bytes: usize,
    workers: Workers,
    applying: Mutex<Applying>,
    lock: Mutex<Option<StoreLock>>,
    unreported: Arc<Mutex<Unreported>>,
}

impl EmbeddedLog {
    /// Which open of the store this is.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Where the store is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.root.as_deref().unwrap_or(&self.folder)
    }

    /// What opening it found.
    #[must_use]
    pub fn opening_report(&self) -> RecoveryReport {
        self.report.clone()
    }

    /// The journal's end when it was opened.
    #[must_use]
    pub fn opened_at(&self) -> Position {
        self.opened_at
    }

    /// Says in the lock file where this holder can be reached, for people and for programs without the control socket.
    ///
    /// # Errors
    /// What the system says.
    pub fn say_address(&self, address: &str) -> std::io::Result<()> {
        match &mut *self.lock.lock() {
            Some(lock) => {
                let said = open::holder(&*self.clock, Some(address.to_owned()));
                lock.say(&crate::lock::Holder { pid: lock.process(), ..said })
            }
            None => Ok(()),
        }
    }

    /// Seals the journal, lets the applier finish, releases the lock. Blocks.
    ///
    /// # Errors
    /// `unavailable` when what was acknowledged could not all be applied; the journal has it, the next open applies it.
    pub fn close(&self) -> Result<(), Error> {
        self.journal.close();
        // Before the applier copies the write-ahead logs into the main files: a reader would be in its way.
        self.keeper.iter().for_each(|keeper| keeper.pause());
        self.mender.shut();
        self.progress.close();
        let joined = self.applying.lock().end();
        self.end_keeper();
        let trouble = self.progress.trouble.lock().clone();
        if let Some(mut lock) = self.lock.lock().take()
            && joined
            && trouble.is_none()
        {
            let said = open::holder(&*self.clock, None);
            let parked = crate::lock::Holder { pid: lock.process(), parked: Some(true), ..said };
            if let Err(error) = lock.say(&parked) {
                tracing::warn!(%error, "the lock file does not say that the store was parked");
            }
        }
        match trouble {
            None if joined => Ok(()),
            trouble => {
                Err(Error::new(ErrorKind::Unavailable, "closed before records.db had everything; the journal keeps it")
                    .hint(trouble.unwrap_or_else(|| "the applier ended badly; see the log".into())))
            }
        }
    }

    /// Does a piece of its work; nothing unless its [`Workers`] are its caller. True: it may have done something.
    pub fn turn(&self, turn: Turn) -> bool {
        if self.workers == Workers::Threads {
            return false;
        }
        match turn {
            Turn::Take | Turn::Write | Turn::Seal => return self.journal.turn(turn),
            Turn::Apply | Turn::Retire => self.applying.lock().turn(turn == Turn::Retire),
            Turn::Keep => self.keeper.iter().for_each(|keeper| keeper.turn(&self.journal, &self.records)),
        }
        true
    }

    fn end_keeper(&self) {
        let Some(keeper) = &self.keeper else { return };
        keeper.close();
        if self.workers == Workers::Caller {
            keeper.turn(&self.journal, &self.records);
        }
    }

    pub(crate) fn workers(&self) -> Workers {
        self.workers
    }

    /// Every row of records.db that belongs to no one session, by its checksum, and SQLite's own check; every byte of the
    /// second copies. Blocks.
    ///
    /// # Errors
    /// What records.db says.
    pub fn verify_file(&self) -> Result<Vec<String>, Error> {
        // A large file takes longer to check than a snapshot may live otherwise; the write-ahead log grows meanwhile.
        let damage = self.records.read_unhurried(|connection| RecordsReader::new(connection).verify_file());
        let damage = damage.map_err(LogError::from).map_err(damage::log)?;
        let kept = self.keeper.iter().flat_map(|keeper| keeper.verify());
        let kept = kept.map(|name| format!("{SECOND_COPY}, and out of use: quarantine/{name}"));
        Ok(damage.iter().map(ToString::to_string).chain(kept).collect())
    }

    /// Returns when records.db has what the journal had when the store was opened.
    pub async fn replayed(&self) {
        self.progress.applied(self.opened_at).await;
    }

    /// The sessions that records.db has. Blocks.
    ///
    /// # Errors
    /// What records.db says.
    pub fn stored_sessions(&self) -> Result<Vec<SessionId>, Error> {
        const PAGE: usize = 1_000;
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.read_records(|records| records.sessions(after, PAGE)).map_err(damage::log)?;
            after = page.last().map(|session| session.id);
            let last = page.len() < PAGE;
            all.extend(page.iter().map(|session| session.id));
            if last {
                return Ok(all);
            }
        }
    }

    /// Does it; where it meets damage, recovers the session and does it again.
    fn or_recovered<'a, T: Send + 'a>(
        &'a self,
        session: SessionId,
        work: impl Fn(&Self) -> Result<T, LogError> + Send + 'a,
    ) -> LogFuture<'a, T> {
        let met_in = self.progress.file();
        match work(self) {
            Err(LogError::Corrupt(damage)) => Box::pin(async move {
                let mut damage = damage;
                let mut file = is_of_the_file(&damage).then(|| damage.clone());
                loop {
                    if let Some(of_file) = file.take() {
                        self.remake_records(&of_file, met_in).await;
                        match work(self) {
                            Err(LogError::Corrupt(left)) if !is_of_the_file(&left) => damage = left,
                            done => return done,
                        }
                        match self.mender.met(session, &damage).await {
                            Met::LookedInto => break,
                            Met::AsBefore | Met::File(_) => return Err(LogError::Corrupt(damage)),
                        }
                    }
                    match self.mender.met(session, &damage).await {
                        Met::LookedInto => break,
                        Met::AsBefore => return Err(LogError::Corrupt(damage)),
                        Met::File(of_file) => file = Some(of_file),
                    }
                }
                let done = work(self);
                if !matches!(done, Err(LogError::Corrupt(_)))
                    && let Some(mut noticed) = Noticed::of_log(&LogError::Corrupt(damage), session)
                {
                    // A good copy was there: nobody else hears of it.
                    noticed.stake.is_covered = true;
                    self.progress.notice(noticed);
                }
                done
            }),
            done => Box::pin(std::future::ready(done)),
        }
    }

    fn stored_blob(&self, session: SessionId, id: BlobId) -> LogFuture<'_, Bytes> {
        self.or_recovered(session, move |log| {
            if let Some(blob) = log.lanes.blob(session, id) {
                return match is_file(&blob) {
                    true => log.blobs.get(session, id),
                    false => Ok(blob.bytes),
                };
            }
            if log.lanes.is_leaving(session) {
                return Err(LogError::NotFound);
            }
            match log.read_records(|records| records.blob(session, id))? {
                Some(bytes) => Ok(bytes),
                None => log.blobs.get(session, id),
            }
        })
    }

    /// What records.db has of one session, every byte by its hash.
    ///
    /// # Errors
    /// `not_found` while all of it is in the journal only.
    pub fn verify_stored(&self, session: SessionId) -> Result<swarmkeep_sqlite::SessionReport, Error> {
        self.read_records(|records| records.verify(session)).map_err(damage::log)
    }

    /// A session's checkpoints, newest first.
    ///
    /// # Errors
    /// What records.db says.
    pub fn checkpoints(&self, session: SessionId) -> Result<Vec<SavedCheckpoint>, Error> {
        let stored = self.read_records(|records| records.checkpoints(session)).map_err(damage::log)?;
        Ok(stored
            .iter()
            .map(|info| SavedCheckpoint { head: info.head, hash: info.hash, bytes: info.raw_len })
            .collect())
    }

    /// Where the views of a session differ from `state`, in words.
    ///
    /// # Errors
    /// What views.db says.
    pub fn views_differ(&self, state: &swarmkeep_core::State) -> Result<Vec<String>, Error> {
        let differences = self.views.read(|connection| swarmkeep_sqlite::ViewsDb::differences(connection, state));
        differences.map_err(LogError::from).map_err(damage::log)
    }

    /// Where the views of a session differ from what records.db has beyond any state: messages that were consumed, metrics.
    /// Blocks.
    ///
    /// # Errors
    /// What the databases say; `retry` when it takes too long for one reading.
    pub fn views_differ_beyond_state(&self, session: SessionId) -> Result<Vec<String>, Error> {
        let files = |session, id| self.blobs.get(session, id).map_err(|error| SqliteError::Io(error.to_string()));
        let read = self.views.read(|views| {
            self.records.read(|records| {
                let source = Source { records: RecordsReader::new(records), files: &files };
                swarmkeep_sqlite::ViewsDb::differences_beyond_state(views, &source, session)
            })
        });
        read.map_err(LogError::from).map_err(damage::log)
    }

    /// What SQLite's own check says of views.db: rows and indexes that do not agree. Blocks.
    ///
    /// # Errors
    /// What views.db says; `retry` when it takes too long for one reading.
    pub fn verify_views(&self) -> Result<Vec<String>, Error> {
        let read = self.views.read(swarmkeep_sqlite::ViewsDb::structure);
        read.map_err(LogError::from).map_err(damage::log)
    }

    /// The views' list of events of a session: what happened, by type, to which aggregate. Blocks.
    ///
    /// # Errors
    /// What views.db says; `retry` when it takes too long for one reading.
    pub fn tabulated_events(
        &self,
        session: SessionId,
        mut each: impl FnMut(u64, u64, &str, &str, &str),
    ) -> Result<(), Error> {
        let read = self.views.read(|connection| swarmkeep_sqlite::ViewsDb::events(connection, session, &mut each));
        read.map_err(LogError::from).map_err(damage::log)
    }

    /// The last record of a session that was removed below a checkpoint; seq 0: none was.
    pub(crate) fn base(&self, session: SessionId) -> Result<Head, LogError> {
        let stored = self.read_records(|records| records.session(session))?;
        Ok(stored.map_or(Head::default(), |stored| stored.base))
    }

    /// Whether a session's records are known to be missing in the middle.
    pub(crate) fn is_set_aside(&self, session: SessionId) -> bool {
        self.lanes.aside(session).is_some()
    }

    /// Why a session is set aside, in words.
    pub(crate) fn aside(&self, session: SessionId) -> Option<String> {
        self.lanes.aside(session).map(|damage| damage.to_string())
    }

    /// Readers of records.db, for many sessions in one snapshot.
    pub(crate) fn records_readers(&self) -> Arc<ReaderPool> {
        self.records.clone()
    }

    fn read_records<T>(&self, read: impl Fn(&RecordsReader<'_>) -> swarmkeep_sqlite::Result<T>) -> Result<T, LogError> {
        let met_in = self.progress.file();
        let read = self.records.read(|connection| read(&RecordsReader::new(connection))).map_err(|error| match error {
            // The statements do not change: one that does not fit has met a schema that is not what was made.
            SqliteError::Sql(what) => {
                let what = format!("records.db: {what}");
                LogError::Corrupt(vec![Damage { session: None, seqs: None, what }])
            }
            other => other.into(),
        });
        read.inspect_err(|error| self.was_met_in(met_in, error))
    }

    /// The durable head: the lane's, else records.db's. The lane is asked first: what leaves it is in records.db by then.
    pub(crate) fn durable_head(&self, session: SessionId) -> Result<Option<Head>, LogError> {
        if let Some(head) = self.lanes.head(session) {
            return Ok(Some(head));
        }
        if self.lanes.is_leaving(session) {
            return Ok(None);
        }
        Ok(self.read_records(|records| records.head(session))?.map(|(head, _)| head))
    }

    /// Records after `after`: what records.db has, then what only the journal and RAM have.
    fn read_through(&self, session: SessionId, after: Seq, max_bytes: usize) -> Result<Bytes, LogError> {
        // The lane first: whatever leaves it from here on is visible in records.db.
        let tail = self.lanes.tail(session, after, max_bytes);
        if let Some(tail) = &tail
            && tail.after <= after
        {
            return Ok(tail.bytes.clone());
        }
        if tail.is_none() && self.lanes.is_leaving(session) {
            return Err(LogError::NotFound);
        }
        let stored = match self.stored(session, after, max_bytes) {
            // All of it is in the journal.
            Err(LogError::NotFound) if self.lanes.head(session).is_some() => Bytes::new(),
            stored => stored?,
        };
        let mut reached = after;
        for view in record::iter(&stored).map_while(Result::ok) {
            reached = view.seq();
        }
        let mut bytes = BytesMut::from(&stored[..]);
        for view in tail.iter().flat_map(|tail| record::iter(&tail.bytes)).map_while(Result::ok) {
            if bytes.len() < max_bytes && view.seq() == reached.next() {
                bytes.extend_from_slice(view.bytes());
                reached = view.seq();
            }
        }
        if bytes.is_empty() {
            // What comes after lost records is not served as if nothing had been there, nor is their place an end.
            self.check_whole(session)?;
            if let Some(tail) = tail {
                let what = "records are in neither records.db nor the journal, and later ones are".to_owned();
                let seqs = Some(after.next().0..=tail.after.0);
                return Err(LogError::Corrupt(vec![Damage { session: Some(session), seqs, what }]));
            }
        }
        Ok(bytes.freeze())
    }

    /// That no records of a session are missing in the middle.
    fn check_whole(&self, session: SessionId) -> Result<(), LogError> {
        self.lanes.aside(session).map_or(Ok(()), |damage| Err(LogError::Corrupt(vec![damage])))
    }

    /// Where a session ends of which nothing is missing. Looked at on both sides: records.db may be made again in between, and
    /// have nothing of one that was there.
    fn whole_head(&self, session: SessionId) -> Result<Option<Head>, LogError> {
        self.check_whole(session)?;
        let head = self.durable_head(session)?;
        self.check_whole(session)?;
        Ok(head)
    }

    /// That what is taken is also applied, sooner or later.
    fn check_applied(&self) -> Result<(), LogError> {
        if let Some(incarnation) = self.progress.fenced() {
            return Err(LogError::Fenced(Epoch(incarnation)));
        }
        if !self.progress.has_ended() {
            return Ok(());
        }
        let detail = self.progress.trouble.lock().clone().unwrap_or_else(|| "the applier has ended".into());
        Err(LogError::Refused { kind: Refused::Closing, detail })
    }

    /// Puts a group into the journal's order, under the session's lane.
    fn send(&self, mut group: Group) -> Result<crate::journal::Receipt, LogError> {
        let (session, epoch) = (group.session, Epoch(self.incarnation));
        if group.epoch != epoch && !planted::is(Defect::EpochNotCompared) {
            return Err(LogError::Fenced(epoch));
        }
        self.check_applied()?;
        self.check_whole(session)?;
        if self.lanes.is_leaving(session) {
            let detail = "a removal of this session is being carried out".into();
            return Err(LogError::Refused { kind: Refused::Busy, detail });
        }
        for blob in &mut group.blobs {
            if blob.bytes.len() > limits::BLOB_INLINE_BYTES {
                // Rare and slow: its own file, synced, before the record that names it enters a group.
                self.blobs.put(session, blob)?;
                *blob = Blob { id: blob.id, bytes: Bytes::new() };
            }
        }
        loop {
            let generation = self.journal.generation();
            let mut shard = self.lanes.shard(session);
            if !shard.get(&session).is_some_and(|lane| lane.generation == generation || lane.in_flight > 0) {
                let durable = match shard.get(&session).map(|lane| lane.durable).filter(|head| head.seq > Seq::ZERO) {
                    Some(head) => head,
                    None => {
                        let head = self.read_records(|records| records.head(session))?;
                        // records.db may have been made again meanwhile, without it.
                        self.check_whole(session)?;
                        head.map_or(Head::default(), |(head, _)| head)
                    }
                };
                let lane = shard.entry(session).or_default();
                lane.generation = generation;
                lane.durable = durable;
                lane.sent = durable;
            }
            let Some(lane) = shard.get_mut(&session) else { continue };
            if (lane.sent.seq, lane.sent.hash) != (group.after.seq, group.after.hash) {
                return Err(LogError::Conflict(lane.sent));
            }
            let head = group.head;
            return match self.journal.append(Entry::Records(group), lane.generation, Durability::Durable) {
                Ok(receipt) => {
                    lane.sent = head;
                    lane.in_flight += 1;
                    Ok(receipt)
                }
                // Nothing was written of it: what it was staged upon is void.
                Err(AppendRefused::Stale) => Err(LogError::Conflict(lane.durable)),
                Err(refused) => Err(refusal(refused)),
            };
        }
    }
}

/// Whether damage is of records.db as a file: no session's rows are meant, SQLite cannot read it.
fn is_of_the_file(damage: &[Damage]) -> bool {
    damage.iter().any(|damage| damage.session.is_none())
}

async fn answered<T>(answer: oneshot::Receiver<Result<T, LogError>>) -> Result<T, LogError> {
    answer
        .await
        .unwrap_or_else(|_| Err(LogError::Refused { kind: Refused::Closing, detail: "the store is closing".into() }))
}

fn refusal(refused: AppendRefused) -> LogError {
    let kind = match &refused {
        AppendRefused::FencedOut { incarnation } => return LogError::Fenced(Epoch(*incarnation)),
        AppendRefused::Busy => Refused::Busy,
        AppendRefused::DiskFull => Refused::DiskFull,
        AppendRefused::TooLarge { .. } => Refused::TooLarge,
        AppendRefused::Closing => Refused::Closing,
        _ => Refused::ReadOnly,
    };
    LogError::Refused { kind, detail: refused.to_string() }
}

fn lost(error: AppendError) -> LogError {
    match error {
        AppendError::NotWritten(refused) => refusal(refused),
        other => LogError::Unknown(other.to_string()),
    }
}

impl Log for EmbeddedLog {
    fn take(&self, session: SessionId, how: Take) -> LogFuture<'_, Grant> {
        self.or_recovered(session, move |log| {
            let head = log.whole_head(session)?;
            let head = match (how, head) {
                (Take::Create, Some(_)) => return Err(LogError::Exists),
                (Take::Create, None) => Head::default(),
                (Take::Resume | Take::Force, Some(head)) => head,
                (Take::Resume | Take::Force, None) => return Err(LogError::NotFound),
            };
            Ok(Grant { epoch: Epoch(log.incarnation), head })
        })
    }

    fn append(&self, group: Group, durability: Durability) -> LogFuture<'static, Commit> {
        let (session, head) = (group.session, group.head);
        let receipt = match self.send(group) {
            Ok(receipt) => receipt,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let mut settling = Settle::new(self.lanes.clone(), session, receipt);
        Box::pin(async move {
            let position = settling.wait().await?;
            // Relaxed is the caller's not waiting; whoever waits gets the whole of it.
            let _ = durability;
            Ok(Commit { head, position, durability: Durability::Durable })
        })
    }

    fn room(&self) -> Option<LogFuture<'_, ()>> {
        let behind = self.progress.unapplied.get() >= self.unapplied_bytes;
        if !behind && self.journal.queued_bytes() < QUEUE_BYTES {
            return None;
        }
        Some(Box::pin(async move {
            let mut unapplied = self.progress.unapplied.subscribe();
            let limit = self.unapplied_bytes;
            let room = async {
                let _ = unapplied.wait_for(|bytes| bytes < limit).await;
                self.journal.room(QUEUE_BYTES).await;
            };
            tokio::time::timeout(ROOM_PATIENCE, room).await.map_err(|_| {
                let detail = self.progress.trouble.lock().clone();
                LogError::Refused {
                    kind: Refused::Busy,
                    detail: detail.unwrap_or_else(|| "records.db is behind".into()),
                }
            })
        }))
    }

    fn observe(&self, session: SessionId, observations: Vec<Observation>) -> LogFuture<'_, ()> {
        let send = || {
            let payload = serde_json::to_vec(&observations)
                .map_err(|error| LogError::Refused { kind: Refused::TooLarge, detail: error.to_string() })?;
            let entry = Entry::Observations { session, payload: Bytes::from(payload) };
            // In the next frame that is written; nobody waits for it.
            let receipt =
                self.journal.append(entry, self.journal.generation(), Durability::Relaxed).map_err(refusal)?;
            drop(receipt);
            Ok(())
        };
        Box::pin(std::future::ready(send()))
    }

    fn head(&self, session: SessionId) -> LogFuture<'_, Option<Head>> {
        self.or_recovered(session, move |log| log.whole_head(session))
    }

    fn read(&self, session: SessionId, after: Seq, max_bytes: usize) -> LogFuture<'_, Bytes> {
        self.or_recovered(session, move |log| log.read_through(session, after, max_bytes))
    }

    fn save(&self, _session: SessionId, checkpoint: Checkpoint) -> LogFuture<'_, ()> {
        let (done, saved) = oneshot::channel();
        self.progress.ask(Ask::Save(checkpoint, done));
        Box::pin(answered(saved))
    }

    fn load(&self, session: SessionId, at_or_below: Seq) -> LogFuture<'_, Option<Checkpoint>> {
        if self.lanes.is_leaving(session) {
            return Box::pin(std::future::ready(Ok(None)));
        }
        self.or_recovered(session, move |log| log.load_stored(session, at_or_below))
    }

    fn blob(&self, session: SessionId, id: BlobId) -> LogFuture<'_, Bytes> {
        Box::pin(async move {
            let stored = self.stored_blob(session, id).await;
            if !matches!(stored, Err(LogError::NotFound)) || self.lanes.is_leaving(session) {
                return stored;
            }
            self.missed_blob(session, id).await
        })
    }

    fn find(&self, query: Query, not_before: Option<Position>) -> LogFuture<'_, Page> {
        Box::pin(async move {
            if let Some(position) = not_before {
                self.views_reach(position).await?;
            }
            let views = self.views.clone();
            let found = self
                .workers
                .offload(move || views.read(|connection| swarmkeep_sqlite::query::find(connection, &query)));
            match found.await {
                // Somebody meets it: they are made again, and whoever asks again gets an answer.
                Ok(Err(SqliteError::Damaged(damage))) => {
                    let what = damage.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    tracing::error!(what, "views.db is damaged: it is made again");
                    self.progress.ask(Ask::RemakeViews(oneshot::channel().0));
                    self.progress.hurry();
                    let detail = format!("views.db is damaged and is being made again: {what}");
                    Err(LogError::Refused { kind: Refused::Busy, detail })
                }
                Ok(page) => page.map_err(LogError::from),
                Err(_) => Err(LogError::Refused { kind: Refused::Closing, detail: "the runtime is closing".into() }),
            }
        })
    }

    fn remove(&self, session: SessionId, epoch: Epoch, what: Remove) -> LogFuture<'_, ()> {
        Box::pin(async move {
            if epoch != Epoch(self.incarnation) {
                return Err(LogError::Fenced(Epoch(self.incarnation)));
            }
            if let Remove::RecordsThrough(seq) = what
                && !self.read_records(|records| records.may_remove_through(session, seq))?
            {
                let detail = format!("no checkpoint of session {session} stands at or after seq {seq}");
                return Err(LogError::Refused { kind: Refused::Needed, detail });
            }
            let entry = Entry::Remove { session, epoch, what: what.clone() };
            let receipt =
                self.journal.append(entry, self.journal.generation(), Durability::Durable).map_err(refusal)?;
            let position = receipt.await.map_err(lost)?;
            // Visible at once: whoever reads after this must not find what was removed.
            self.progress.applied(position).await;
            self.watchers.moved(session);
            self.check_applied()
        })
    }

    fn watch(&self) -> Hints {
        self.watchers.watch()
    }
}

/// Whether a blob is a file of its own: it came without its bytes.
fn is_file(blob: &Blob) -> bool {
    blob.bytes.is_empty() && blob.id.0 != *blake3::hash(&[]).as_bytes()
}

impl Drop for EmbeddedLog {
    /// Like a crash: what was acknowledged is durable, what was not applied is applied at the next open.
    fn drop(&mut self) {
        self.journal.close();
        self.mender.shut();
        self.progress.close();
        self.applying.lock().end();
        self.end_keeper();
    }
}

#[cfg(test)]
mod tests;
