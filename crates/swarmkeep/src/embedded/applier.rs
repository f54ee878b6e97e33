//! The applier: journal → records.db → views.db, in large batches, off the way of acknowledgements.
//!
//! One thread. It takes only frames whose sync returned. Within a batch records.db comes first, in one transaction that
//! also stores the position; then the tail in RAM is let go; then the views. A view that cannot be applied never stops
//! records. A journal segment is retired when both databases have it in their main files.

use std::{
    collections::VecDeque,
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use swarmkeep_core::{
    SessionId,
    checkpoint::Checkpoint,
    log::{Damage, LogError, Observation, Position, Remove},
};
use swarmkeep_sqlite::{ApplyBatch, Entry as Applied, Mending, NewBlob, RecordsDb, Source, SqliteError, ViewsDb, What};
use tokio::sync::oneshot;

use super::{
    copying::Copying,
    keeper::Keeper,
    lane::{Lanes, begins},
    quarantine::Quarantine,
};
use crate::{
    blobs::BlobFiles,
    incident::Noticed,
    journal::{Entry, Frame, Journal},
    level,
    planted::{self, Defect},
    workers::Workers,
};

/// Frames gather this long before they are applied, unless somebody waits: a session's row, its chunk, its view rows and
/// the index pages under them are written once per batch, whatever the number of its records in it. A quarter of a second
/// is well inside what may be unapplied (STORE: 64 MiB or 1 s).
const LINGER: Duration = Duration::from_millis(250);
/// A batch is closed at this size: it bounds the transaction, and how long a save waits for its turn.
const BATCH_BYTES: usize = 16 << 20;
/// After so many applied bytes the write-ahead logs are copied into the main files, so that segments can be retired.
pub(super) const RETIRE_BYTES: usize = 32 << 20;
/// The same when nothing has come in for so long.
const IDLE: Duration = Duration::from_secs(2);
/// Tries to copy the write-ahead log before the end, when a reader is in the way.
const LAST_TRIES: usize = 20;
/// After a failed batch: the next try. Nothing that comes in meanwhile makes it sooner: a disk that is full is not asked
/// again with every save.
const AGAIN: Duration = Duration::from_millis(500);
/// Failures that wait to be listed.
const NOTICED: usize = 256;

/// What the applier is asked for besides frames.
pub(super) enum Ask {
    /// Keep a checkpoint.
    Save(Checkpoint, oneshot::Sender<Result<(), LogError>>),
    /// Keep a recovery report.
    Report(swarmkeep_sqlite::Recovery, oneshot::Sender<Result<(), LogError>>),
    /// Put good rows in place of bad ones.
    Mend(SessionId, Mending, oneshot::Sender<Result<(), LogError>>),
}

#[derive(Default)]
struct Inbox {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    asks: Vec<Ask>,
    /// Somebody waits for the views: do not linger.
    hurry: bool,
    closing: bool,
    /// Nobody answers any more.
    over: bool,
}

/// What has been handed to the applier and how far it is; shared with everybody who waits for it.
pub(super) struct Progress {
    inbox: Mutex<Inbox>,
    came: Condvar,
    /// Only for the end: what waits after a failure waits here.
    closed: Condvar,
    /// The thread is gone, by a panic that its own guard did not hold: nothing is applied any more.
    ended: AtomicBool,
    /// The incarnation of another holder that has written records.db since; 0: none has.
    fenced: AtomicU64,
    /// Bytes durable in the journal and not yet in records.db.
    pub(super) unapplied: level::Sender<usize>,
    /// How far records.db has come.
    pub(super) records: level::Sender<Position>,
    /// How far views.db has come.
    pub(super) views: level::Sender<Position>,
    /// Why the last batch was not applied, while that lasts.
    pub(super) trouble: Mutex<Option<String>>,
    /// Why views.db does not move, while that lasts.
    pub(super) views_trouble: Mutex<Option<String>>,
    /// Failures met here and by readers, until somebody lists them.
    noticed: Mutex<Vec<Noticed>>,
}

impl Progress {
    pub(super) fn new(records: Position, views: Position) -> Self {
        Self {
            inbox: Mutex::default(),
            came: Condvar::new(),
            closed: Condvar::new(),
            ended: AtomicBool::new(false),
            fenced: AtomicU64::new(0),
            unapplied: level::Sender::new(0),
            records: level::Sender::new(records),
            views: level::Sender::new(views),
            trouble: Mutex::default(),
            views_trouble: Mutex::default(),
            noticed: Mutex::default(),
        }
    }

    /// Says a failure to whoever keeps the list.
    pub(super) fn notice(&self, noticed: Noticed) {
        let mut all = self.noticed.lock();
        // Several times a second somebody takes them; what does not fit until then is met again.
        if all.len() < NOTICED {
            all.push(noticed);
        }
    }

    /// Takes the failures met since the last call.
    pub(super) fn take_noticed(&self) -> Vec<Noticed> {
        std::mem::take(&mut *self.noticed.lock())
    }

    /// From the journal's commit thread: quick, and never waits for anything but this lock.
    pub(super) fn hand_over(&self, frame: Arc<Frame>) {
        let bytes = frame.bytes;
        // Counted before it can be applied: what is taken off must have been put on.
        self.unapplied.change(|unapplied| *unapplied += bytes);
        let mut inbox = self.inbox.lock();
        inbox.bytes += bytes;
        inbox.frames.push_back(frame);
        drop(inbox);
        self.came.notify_one();
    }

    pub(super) fn ask(&self, ask: Ask) {
        let mut inbox = self.inbox.lock();
        if !inbox.over {
            inbox.asks.push(ask);
        }
        drop(inbox);
        self.came.notify_one();
    }

    pub(super) fn hurry(&self) {
        self.inbox.lock().hurry = true;
        self.came.notify_one();
    }

    pub(super) fn close(&self) {
        self.inbox.lock().closing = true;
        self.came.notify_one();
        self.closed.notify_one();
    }

    /// Returns when records.db has come to a position; or the applier is gone, and never will.
    pub(super) async fn applied(&self, position: Position) {
        self.hurry();
        let mut records = self.records.subscribe();
        // The sender lives as long as `self`.
        let _ = records.wait_for(|reached| reached >= position || self.has_ended()).await;
    }

    /// The applier is gone.
    pub(super) fn end(&self, why: &str) {
        *self.trouble.lock() = Some(why.to_owned());
        let inbox = self.inbox.lock();
        self.ended.store(true, Ordering::Release);
        drop(inbox);
        self.over();
        self.records.change(|_| {});
    }

    /// The thread has ended: whoever asked, or asks from here on, hears that nobody answers.
    fn over(&self) {
        let mut inbox = self.inbox.lock();
        inbox.over = true;
        inbox.asks.clear();
    }

    /// The other holder's incarnation, once one has written: this one must take nothing any more, because nothing of it
    /// would ever be applied.
    pub(super) fn fenced(&self) -> Option<u64> {
        Some(self.fenced.load(Ordering::Acquire)).filter(|incarnation| *incarnation > 0)
    }

    /// Whether the applier is gone: what was acknowledged is in the journal, and nothing more may be taken on top of it.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

pub(super) struct Applier {
    pub(super) progress: Arc<Progress>,
    pub(super) records: RecordsDb,
    pub(super) views: ViewsDb,
    pub(super) lanes: Arc<Lanes>,
    pub(super) blobs: Arc<BlobFiles>,
    pub(super) journal: Weak<Journal>,
    pub(super) since_retired: usize,
    /// The views lack a batch that records.db has: the next one must not be tabulated as if they had it.
    pub(super) views_behind: bool,
    pub(super) quarantine: Quarantine,
    pub(super) copying: Copying,
    /// Everything is copied, and the mark still says that it is being copied: the log must not be begun anew under it.
    pub(super) mark_stands: bool,
    /// What makes second copies of retired segments, if anything does.
    pub(super) keeper: Option<Arc<Keeper>>,
    /// See [`RETIRE_BYTES`].
    pub(super) retire_bytes: usize,
    /// Who calls it: only its own thread may wait.
    pub(super) workers: Workers,
}

/// How the applier is kept going.
pub(super) enum Applying {
    Thread(JoinHandle<()>),
    ByHand(Box<Applier>),
    Ended,
}

impl Applying {
    pub(super) fn begin(mut applier: Applier) -> io::Result<Self> {
        match applier.workers {
            Workers::Threads => {
                let thread = std::thread::Builder::new().name("swarmkeep-applier".into());
                thread.spawn(move || applier.run()).map(Self::Thread)
            }
            Workers::Caller => {
                applier.catch_up();
                Ok(Self::ByHand(Box::new(applier)))
            }
        }
    }

    pub(super) fn turn(&mut self, idle: bool) {
        if let Self::ByHand(applier) = self {
            applier.turn(idle);
        }
    }

    /// Returns when everything is applied, or cannot be; after [`Progress::close`]. False: it ended badly.
    pub(super) fn end(&mut self) -> bool {
        match std::mem::replace(self, Self::Ended) {
            Self::Thread(thread) => thread.join().is_ok(),
            Self::ByHand(applier) => {
                applier.run();
                true
            }
            Self::Ended => true,
        }
    }
}

struct Batch {
    frames: Vec<Arc<Frame>>,
    bytes: usize,
    asks: Vec<Ask>,
    closing: bool,
    idle: bool,
}

impl Applier {
    /// Until the store closes and everything that was handed over is applied. A panic is said like any other trouble, and
    /// whoever waits for an answer gets one.
    pub(super) fn run(mut self) {
        let progress = self.progress.clone();
        if let Err(error) = guarded("the applier", || {
            self.work();
            Ok(())
        }) {
            tracing::error!(%error, "nothing is applied any more; the journal has everything, the next start applies it");
            progress.end(&error.to_string());
        }
        progress.over();
    }

    fn work(&mut self) {
        self.catch_up();
        loop {
            let batch = self.gather();
            if !self.round(batch) {
                return;
            }
        }
    }

    /// Without a thread of its own: one batch of what is there. `idle`: nothing has come in for a while.
    pub(super) fn turn(&mut self, idle: bool) {
        let batch = self.take(&mut self.progress.inbox.lock(), idle);
        self.round(batch);
    }

    /// Does what a batch asks for. False: it was the last.
    fn round(&mut self, batch: Batch) -> bool {
        let closing = batch.closing;
        if batch.frames.is_empty() && batch.asks.is_empty() {
            if self.views_behind {
                // Nothing comes in, or somebody waits for them: there may be room again.
                self.catch_up();
            }
            let mut in_the_way = (batch.idle || closing) && self.retire();
            for _ in 0..LAST_TRIES {
                if !in_the_way || !closing || self.workers == Workers::Caller {
                    break;
                }
                // Whoever still reads will soon be told that the store is closing.
                self.progress.came.wait_for(&mut self.progress.inbox.lock(), LINGER);
                in_the_way = self.retire();
            }
            return !closing;
        }
        let applied = self.apply(batch);
        if !applied && closing {
            // The journal has it; the next open applies it.
            tracing::error!("closing with frames that records.db did not take; the journal keeps them");
        }
        applied || !closing
    }

    fn gather(&self) -> Batch {
        let mut inbox = self.progress.inbox.lock();
        let mut idle = false;
        if inbox.frames.is_empty() && inbox.asks.is_empty() && !inbox.closing {
            idle = self.progress.came.wait_for(&mut inbox, IDLE).timed_out();
        }
        // Gather company, unless somebody waits or there is enough.
        let mut waited = false;
        while !waited
            && !inbox.closing
            && !inbox.hurry
            && inbox.asks.is_empty()
            && !inbox.frames.is_empty()
            && inbox.bytes < BATCH_BYTES
        {
            waited = self.progress.came.wait_for(&mut inbox, LINGER).timed_out();
        }
        self.take(&mut inbox, idle)
    }

    fn take(&self, inbox: &mut Inbox, idle: bool) -> Batch {
        inbox.hurry = false;
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(frame) = inbox.frames.pop_front()
        {
            bytes += frame.bytes;
            frames.push(frame);
        }
        inbox.bytes -= bytes.min(inbox.bytes);
        // A save's own records are in frames that were handed over before it: it waits until all of them are in.
        let asks = if inbox.frames.is_empty() { std::mem::take(&mut inbox.asks) } else { Vec::new() };
        let closing = inbox.closing && inbox.frames.is_empty();
        Batch { frames, bytes, asks, closing, idle: idle && inbox.frames.is_empty() }
    }

    /// False: it could not be applied now, and waits at the head of the queue again.
    fn apply(&mut self, batch: Batch) -> bool {
        let mut saves = Vec::new();
        let mut saved = Vec::new();
        let mut reports = Vec::new();
        let mut mendings = Vec::new();
        for ask in batch.asks {
            match ask {
                Ask::Save(checkpoint, done) => {
                    saves.push(checkpoint);
                    saved.push(done);
                }
                Ask::Report(recovery, done) => reports.push((recovery, done)),
                Ask::Mend(session, mending, done) => mendings.push((session, mending, done)),
            }
        }
        // A bug met by one batch must not end the thread: it is said, and tried again, like a disk that fails.
        let taken = guarded("records.db", || {
            if self.mark_stands {
                self.copying.end().map_err(|error| SqliteError::Io(format!("records.copying: {error}")))?;
                self.mark_stands = false;
            }
            let mut apply = self.batch_of(&batch.frames);
            let position = apply.position;
            apply.entries.extend(saves.into_iter().map(|checkpoint| Applied {
                position,
                session: checkpoint.session,
                what: What::Checkpoint(checkpoint),
            }));
            self.take_in(&mut apply, batch.frames.is_empty())?;
            Ok(apply)
        });
        let apply = match taken {
            Ok(apply) => apply,
            Err(error) => {
                let gone = |error: &SqliteError| LogError::Unknown(format!("the checkpoint was not saved: {error}"));
                for done in saved {
                    let _ = done.send(Err(gone(&error)));
                }
                self.stumble(batch.frames, batch.bytes, &error);
                return false;
            }
        };
        for done in saved {
            let _ = done.send(Ok(()));
        }
        for (recovery, done) in reports {
            let _ = done.send(self.records.put_recovery(&recovery).map_err(LogError::from));
        }
        for (session, mending, done) in mendings {
            let mended = guarded("records.db", || self.records.mend(session, &mending));
            // Views were made of what could be read: there is more now.
            if mended.is_ok() {
                let (views, records, blobs) = (&mut self.views, &self.records, &self.blobs);
                let files = |session, id| blobs.get(session, id).map_err(|error| SqliteError::Io(error.to_string()));
                let source = Source { records: records.reader(), files: &files };
                if let Err(error) = guarded("views.db", || views.catch_up_session(&source, session)) {
                    tracing::error!(%session, %error, "views.db lacks what was mended: delete it, it is built again");
                    *self.progress.views_trouble.lock() = Some(error.to_string());
                }
            }
            let _ = done.send(mended.map_err(LogError::from));
        }
        if self.progress.trouble.lock().take().is_some() {
            tracing::info!("records.db takes writes again");
        }
        self.let_go(&batch.frames);
        self.progress.records.set(self.records.position().0);
        self.progress.unapplied.change(|unapplied| *unapplied -= batch.bytes.min(*unapplied));
        self.tabulate(&apply);
        self.since_retired += batch.bytes;
        if self.since_retired >= self.retire_bytes {
            self.retire();
        }
        true
    }

    /// Applies a batch. A session whose records do not follow what records.db has of it is set aside from there on, and the
    /// others go on: one session's damage is not the store's.
    fn take_in(&mut self, batch: &mut ApplyBatch, saves_only: bool) -> Result<(), SqliteError> {
        self.keep_aside(batch)?;
        loop {
            if saves_only && batch.entries.is_empty() {
                return Ok(());
            }
            let damage = match self.records.apply(batch) {
                Err(SqliteError::Damaged(damage)) => damage,
                outcome => return outcome,
            };
            let news: Vec<Damage> = damage
                .iter()
                .filter(|damage| {
                    let known = damage.session.map(|session| self.lanes.aside(session));
                    // Again, and further back than was thought: all the less of it is usable.
                    known.is_some_and(|known| known.is_none_or(|known| begins(damage) < begins(&known)))
                })
                .cloned()
                .collect();
            if news.is_empty() {
                return Err(SqliteError::Damaged(damage));
            }
            for damage in news {
                tracing::error!(%damage, "a session is set aside; the others go on");
                self.lanes.set_aside(damage);
            }
            self.keep_aside(batch)?;
        }
    }

    /// Takes what sessions set aside have beyond their damage out of a batch, into files in quarantine: nothing is deleted,
    /// and what comes before the damage is applied.
    fn keep_aside(&self, batch: &mut ApplyBatch) -> Result<(), SqliteError> {
        let mut kept = Ok(());
        batch.entries.retain(|entry| match (self.lanes.aside(entry.session), &entry.what) {
            (None, _) => true,
            (Some(damage), What::Records { head, .. }) if head.seq.0 < begins(&damage) => true,
            (Some(damage), What::Checkpoint(checkpoint)) => checkpoint.head.seq.0 < begins(&damage),
            (Some(_), What::Observations(_) | What::Remove(_)) => true,
            (Some(_), What::Records { .. }) => {
                if kept.is_ok() {
                    kept = self.quarantine.keep(entry).map_err(|error| SqliteError::Io(error.to_string()));
                }
                false
            }
        });
        kept
    }

    /// The frames as records.db takes them.
    fn batch_of(&self, frames: &[Arc<Frame>]) -> ApplyBatch {
        let (position, frame_hash) = self.records.position();
        let mut batch =
            ApplyBatch { position, frame_hash, incarnation: self.records.anchor().incarnation, entries: Vec::new() };
        for frame in frames {
            if frame.position > batch.position {
                batch.position = frame.position;
                batch.frame_hash = frame.hash;
                batch.incarnation = frame.incarnation;
            }
            batch.entries.extend(frame.entries.iter().filter_map(|entry| self.applied(frame.position, entry)));
        }
        batch
    }

    fn applied(&self, position: Position, entry: &Entry) -> Option<Applied> {
        let (session, what) = match entry {
            Entry::Records(group) => {
                let blobs = group.blobs.iter().map(|blob| match file_bytes(&self.blobs, group.session, blob) {
                    Some(len) => NewBlob { id: blob.id, len, bytes: None },
                    None => NewBlob::from(blob.clone()),
                });
                let what = What::Records {
                    first: group.after.seq.next(),
                    head: group.head,
                    count: group.count,
                    epoch: group.epoch,
                    bytes: group.records.clone(),
                    blobs: blobs.collect(),
                };
                (group.session, what)
            }
            Entry::Observations { session, payload } => match serde_json::from_slice::<Vec<Observation>>(payload) {
                Ok(observations) => (*session, What::Observations(observations)),
                Err(error) => {
                    tracing::warn!(%session, %error, "observations of another program's; passed over");
                    return None;
                }
            },
            Entry::Remove { session, what, .. } => (*session, What::Remove(what.clone())),
        };
        Some(Applied { position, session, what })
    }

    fn stumble(&mut self, frames: Vec<Arc<Frame>>, bytes: usize, error: &SqliteError) {
        tracing::error!(%error, "records.db did not take a batch; the journal keeps it, and it is tried again");
        *self.progress.trouble.lock() = Some(error.to_string());
        self.progress.notice(Noticed::of_tables(error));
        if let SqliteError::Fenced { incarnation } = error {
            self.progress.fenced.store((*incarnation).max(1), Ordering::Release);
        }
        if matches!(error, SqliteError::Unknown(_) | SqliteError::Io(_))
            && let Err(error) = self.records.reopen()
        {
            tracing::error!(%error, "records.db could not be reopened yet");
        }
        let mut inbox = self.progress.inbox.lock();
        inbox.bytes += bytes;
        for frame in frames.into_iter().rev() {
            inbox.frames.push_front(frame);
        }
        if !inbox.closing && self.workers == Workers::Threads {
            self.progress.closed.wait_for(&mut inbox, AGAIN);
        }
    }

    /// records.db shows these frames to every new reader: RAM need not.
    fn let_go(&self, frames: &[Arc<Frame>]) {
        for entry in frames.iter().flat_map(|frame| &frame.entries) {
            match entry {
                Entry::Records(group) => self.lanes.applied(group.session, group.head),
                Entry::Remove { session, what: Remove::All, .. } => self.forget(*session),
                _ => {}
            }
        }
    }

    fn forget(&self, session: SessionId) {
        let newer = self.lanes.left(session);
        if let Err(error) = self.blobs.remove_session(session, &newer) {
            tracing::warn!(%session, %error, "blob files of a removed session are still there");
        }
        if let Some(keeper) = &self.keeper {
            keeper.session_removed();
        }
    }

    fn tabulate(&mut self, batch: &ApplyBatch) {
        if self.views_behind {
            self.catch_up();
            return;
        }
        let blobs = &self.blobs;
        let files = |session, id| blobs.get(session, id).map_err(|error| SqliteError::Io(error.to_string()));
        let (views, records) = (&mut self.views, &self.records);
        let applied = guarded("views.db", || views.apply(batch, &Source { records: records.reader(), files: &files }));
        self.tabulated(applied);
    }

    /// From where the views are to where records.db is: after a crash a batch, after somebody deleted the file everything.
    fn catch_up(&mut self) {
        let blobs = &self.blobs;
        let files = |session, id| blobs.get(session, id).map_err(|error| SqliteError::Io(error.to_string()));
        let mut told = 0;
        let (views, records) = (&mut self.views, &self.records);
        let caught_up = guarded("views.db", || {
            views.catch_up(&Source { records: records.reader(), files: &files }, &mut |done, total| {
                if done >= told + 10_000 {
                    told = done;
                    tracing::info!(done, total, "views.db: sessions tabulated");
                }
            })
        });
        self.tabulated(caught_up);
    }

    fn tabulated(&mut self, outcome: Result<(), SqliteError>) {
        self.views_behind = outcome.is_err();
        match outcome {
            Ok(()) => {
                self.progress.views.set(self.views.position());
                self.progress.views_trouble.lock().take();
            }
            Err(error) => {
                tracing::error!(%error, path = %self.views.path().display(), "views.db did not take a batch; records go on without it");
                *self.progress.views_trouble.lock() = Some(error.to_string());
            }
        }
    }

    /// Copies the write-ahead logs into the main files, syncs, reads back; then the journal may forget. The views need no
    /// journal: what they lack is in records.db.
    ///
    /// True: a reader was in the way, and nothing was retired.
    fn retire(&mut self) -> bool {
        if self.since_retired == 0 {
            return false;
        }
        if let Err(error) = self.views.wal_checkpoint() {
            tracing::warn!(%error, "views.db could not be copied into its main file");
        }
        let copied = match planted::is(Defect::RetiredOnWal) {
            true => Ok(Some(self.records.anchor())),
            false => {
                let told = |outcome: io::Result<()>| {
                    if let Err(error) = &outcome {
                        tracing::warn!(%error, "it could not be written down that SQLite's log is being copied, or was");
                    }
                    outcome.is_ok()
                };
                // Without the mark damage to the log would not be noticed if this process died now; room is needed all the
                // same.
                let _ = told(self.copying.begin());
                let mut said = true;
                let copied = self.records.wal_checkpoint_saying(|| {
                    said = told(self.copying.end());
                    said
                });
                self.mark_stands = !said;
                if !said {
                    return false;
                }
                copied
            }
        };
        let anchor = match copied {
            Ok(Some(anchor)) => anchor,
            Ok(None) => return true,
            Err(error) => {
                tracing::error!(%error, "records.db could not be copied into its main file; no journal segment is retired");
                return false;
            }
        };
        self.since_retired = 0;
        if let Some(journal) = self.journal.upgrade()
            && let Err(error) = journal.retire(anchor.position, anchor.frame_hash)
        {
            tracing::warn!(%error, "journal segments could not be retired");
        }
        if let Some(keeper) = &self.keeper {
            keeper.wake();
        }
        false
    }
}

/// Does it; a panic becomes an error that says so. What was in a transaction was rolled back on the way out.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, SqliteError>) -> Result<T, SqliteError> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(SqliteError::Io(format!("{what}: a panic: {}", text.unwrap_or("without a word"))))
    })
}

/// How long a blob's file is, if it has one.
fn file_bytes(blobs: &BlobFiles, session: SessionId, blob: &swarmkeep_core::log::Blob) -> Option<u64> {
    if !super::is_file(blob) {
        return None;
    }
    // A length that cannot be had is found again, and reported, by whoever reads the blob.
    Some(blobs.get(session, blob.id).map_or(0, |bytes| bytes.len() as u64))
}
