//! The applier: journal → records.db → views.db, in large batches, off the way of acknowledgements.
//!
//! One thread. It takes only frames whose sync returned. Within a batch records.db comes first, in one transaction that
//! also stores the position; then the tail in RAM is let go; then the views. A view that cannot be applied never stops
//! records. A journal segment is retired when both databases have it in their main files.

use std::{
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{
    copying::{Begin, Copying},
    doubt::{Surroundings, is_doubtful},
    keeper::Keeper,
    lane::{Lanes, begins},
    progress::{Ask, BATCH_BYTES, Inbox, Progress},
    quarantine::Quarantine,
    remake::Broken,
};
use crate::{
    blobs::BlobFiles,
    incident::Noticed,
    journal::{Entry, Frame, Journal},
    planted::{self, Defect},
    sync::{
        atomic::Ordering,
        thread::{self, JoinHandle},
    },
    workers::Workers,
};
use swarmkeep_core::{
    SessionId,
    log::{Damage, LogError, Observation, Position, Remove},
};
use swarmkeep_sqlite::{Anchor, ApplyBatch, Entry as Applied, NewBlob, RecordsDb, Source, SqliteError, ViewsDb, What};

/// Frames gather this long before they are applied, unless somebody waits: a session's row, its chunk, its view rows and
/// the index pages under them are written once per batch, whatever the number of its records in it. A quarter of a second
/// is well inside what may be unapplied (STORE: 64 MiB or 1 s).
const LINGER: Duration = Duration::from_millis(250);
/// After so many applied bytes the write-ahead logs are copied into the main files, so that segments can be retired.
pub(super) const RETIRE_BYTES: usize = 32 << 20;
/// The same when nothing has come in for so long.
const IDLE: Duration = Duration::from_secs(2);
/// Tries to copy the write-ahead log before the end, when a reader is in the way.
const LAST_TRIES: usize = 20;
/// After a failed batch: the next try. Nothing that comes in meanwhile makes it sooner: a disk that is full is not asked
/// again with every save.
const AGAIN: Duration = Duration::from_millis(500);

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
    pub(super) surroundings: Surroundings,
    /// A commit or a sync of records.db failed: nothing is written before [`Applier::settle`].
    pub(super) doubtful: bool,
    /// What is wrong with records.db: it is made again by [`Applier::settle`].
    pub(super) broken: Option<(Broken, String)>,
    /// When it was made again, lately.
    pub(super) remade_at_ms: Vec<u64>,
    /// When the file was looked at.
    pub(super) looked_at_ms: u64,
    /// records.db has stood in its main file alone since the last copying: the log that is begun next is yet to be named.
    pub(super) log_unnamed: bool,
    /// views.db was found damaged: what is put aside is kept.
    pub(super) views_damaged: bool,
    /// The same of views.db: it is made anew before anything is tabulated.
    pub(super) views_doubtful: bool,
    /// A sync of SQLite's log failed, or may have in an earlier life: it is written again before it is copied.
    pub(super) log_in_doubt: bool,
    /// Everything is copied, and the mark still says that it is being copied: the log must not be begun anew under it.
    pub(super) mark_stands: Option<(u64, Position)>,
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
                let thread = thread::Builder::new().name("swarmkeep-applier".into());
                thread.spawn(move || applier.run()).map(Self::Thread)
            }
            Workers::Caller => {
                applier.begin();
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

pub(super) struct Batch {
    frames: Vec<Arc<Frame>>,
    bytes: usize,
    pub(super) asks: Vec<Ask>,
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
        self.begin();
        loop {
            let batch = self.gather();
            if !self.round(batch) {
                return;
            }
        }
    }

    /// The views are brought to where records.db is; what could not be read in an earlier life may be there again.
    fn begin(&mut self) {
        self.catch_up();
        if !self.views_behind {
            self.tabulate_again(None);
            self.tell_incomplete();
        }
    }

    /// Makes the views' rows of a session again, or of all of which they have not everything.
    fn tabulate_again(&mut self, session: Option<SessionId>) {
        let (views, records, blobs) = (&mut self.views, &self.records, &self.blobs);
        let files = |session, id| blobs.get(session, id).map_err(|error| SqliteError::Io(error.to_string()));
        let source = Source { records: records.reader(), files: &files };
        let made = guarded("views.db", || match session {
            Some(session) => views.catch_up_session(&source, session),
            None => views.catch_up_incomplete(&source).map(drop),
        });
        if let Err(error) = made {
            self.views_doubtful |= is_doubtful(&error);
            tracing::error!(%error, "views.db lacks what can be read again: delete it, it is built again");
            *self.progress.views_trouble.lock() = Some(error.to_string());
        }
    }

    /// Whoever reads such a session says so.
    fn tell_incomplete(&self) {
        if let Ok(incomplete) = self.views.incomplete() {
            *self.progress.incomplete.lock() = incomplete.into_iter().collect();
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
        if self.is_look_due(&batch) {
            self.look_at_file();
        }
        if self.doubtful {
            self.progress.put_back(batch.frames, batch.bytes);
            self.progress.inbox.lock().asks.extend(batch.asks);
            return match self.settle() {
                Ok(()) => true,
                Err(error) => {
                    self.say_trouble(&error);
                    self.progress.refuse_asks(&error.to_string());
                    self.pause();
                    // The journal has what waits; the next start applies it.
                    !(closing || self.progress.inbox.lock().closing)
                }
            };
        }
        if batch.frames.is_empty() && batch.asks.is_empty() {
            if self.views_behind || self.views_doubtful {
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
        // Gather company, unless somebody waits or there is enough. One that comes in all the time is not waited for without end.
        let mut gathered = 0;
        while gathered < inbox.frames.len()
            && !self.is_look_late()
            && !inbox.closing
            && !inbox.hurry
            && inbox.asks.is_empty()
            && inbox.bytes < BATCH_BYTES
        {
            gathered = inbox.frames.len();
            self.progress.came.wait_for(&mut inbox, LINGER);
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
        let mut tabulated_again = Vec::new();
        let (mut remakes, mut anew, mut looked) = (Vec::new(), Vec::new(), Vec::new());
        for ask in batch.asks {
            match ask {
                Ask::Save(checkpoint, done) => {
                    saves.push(checkpoint);
                    saved.push(done);
                }
                Ask::Report(recovery, done) => reports.push((recovery, done)),
                Ask::Mend(session, mending, done) => mendings.push((session, mending, done)),
                Ask::Remake(why, file, done) => remakes.push((why, file, done)),
                Ask::Look(done) => looked.push(done),
                Ask::RemakeViews(done) => {
                    (self.views_doubtful, self.views_damaged) = (true, true);
                    anew.push(done);
                }
                Ask::Tabulate(session, done) => tabulated_again.push((session, done)),
            }
        }
        for done in looked {
            let _ = done.send(Ok(()));
        }
        if !remakes.is_empty() {
            let there = self.progress.file();
            if let Some((why, ..)) = remakes.iter().find(|(_, file, _)| *file == there) {
                self.break_with(Broken::Unreadable, why.clone());
            }
            let made = self.settle();
            let answer = made.as_ref().err().map(ToString::to_string);
            for (.., done) in remakes {
                let _ = done.send(answer.clone().map_or(Ok(()), |what| Err(LogError::Unknown(what))));
            }
            // What was taken out of the inbox comes after what records.db has lost.
            self.progress.put_behind(batch.frames, batch.bytes);
            let mut inbox = self.progress.inbox.lock();
            inbox.asks.extend(saves.into_iter().zip(saved).map(|(checkpoint, done)| Ask::Save(checkpoint, done)));
            inbox.asks.extend(reports.into_iter().map(|(recovery, done)| Ask::Report(recovery, done)));
            inbox.asks.extend(anew.into_iter().map(Ask::RemakeViews));
            inbox.asks.extend(tabulated_again.into_iter().map(|(session, done)| Ask::Tabulate(session, done)));
            inbox.asks.extend(mendings.into_iter().map(|(session, mending, done)| Ask::Mend(session, mending, done)));
            drop(inbox);
            if let Err(error) = made {
                self.say_trouble(&error);
                self.pause();
                return false;
            }
            return true;
        }
        // A bug met by one batch must not end the thread: it is said, and tried again, like a disk that fails.
        let taken = guarded("records.db", || {
            if let Some((stamp, position)) = self.mark_stands {
                self.copying
                    .end(stamp, position)
                    .map_err(|error| SqliteError::Io(format!("records.copying: {error}")))?;
                self.mark_stands = None;
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
        if self.log_unnamed {
            // Else an older log in its place would not be told from it. It may be tried again.
            match self.copying.name_log() {
                Ok(()) => self.log_unnamed = false,
                Err(error) => tracing::warn!(%error, "it could not be written down which log was begun"),
            }
        }
        for (recovery, done) in reports {
            let put = self.records.put_recovery(&recovery);
            let _ = done.send(self.heed(put).map_err(LogError::from));
        }
        for (session, mending, done) in mendings {
            let mended = guarded("records.db", || self.records.mend(session, &mending));
            let mended = mended.and_then(|()| self.reach_main_file());
            let mended = self.heed(mended);
            // Views were made of what could be read: there is more now.
            if mended.is_ok() {
                self.tabulate_again(Some(session));
                self.tell_incomplete();
            }
            let _ = done.send(mended.map_err(LogError::from));
        }
        // One that is incomplete even so waits for a recovery, or the next start: it is not made again for every reader.
        for (session, done) in tabulated_again {
            self.tabulate_again(Some(session));
            let _ = done.send(Ok(()));
        }
        if self.progress.trouble.lock().take().is_some() {
            tracing::info!("records.db takes writes again");
        }
        self.let_go(&batch.frames);
        self.progress.records.set(self.records.position().0);
        self.progress.unapplied.change(|unapplied| *unapplied -= batch.bytes.min(*unapplied));
        self.tabulate(&apply);
        for done in anew {
            let _ = done.send(Ok(()));
        }
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
            // Perhaps it is not the session that is damaged.
            self.look_at_file();
            self.undoubted()?;
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
                self.set_aside(damage);
            }
            self.keep_aside(batch)?;
        }
    }

    /// Takes nothing more of a session from where its damage begins; whoever tends the store looks into it soon.
    pub(super) fn set_aside(&self, damage: Damage) {
        self.progress.aside.lock().extend(damage.session);
        self.lanes.set_aside(damage);
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
        self.say_trouble(error);
        if let SqliteError::Fenced { incarnation } = error {
            self.progress.fenced.store((*incarnation).max(1), Ordering::Release);
        }
        self.progress.put_back(frames, bytes);
        self.doubtful |= is_doubtful(error);
        if let SqliteError::Damaged(damage) = error
            && damage.iter().any(|damage| damage.session.is_none())
        {
            self.break_with(Broken::Unreadable, error.to_string());
        }
        if let Err(error) = self.settle() {
            tracing::error!(%error, "records.db could not be opened again yet");
        }
        self.pause();
    }

    fn say_trouble(&self, error: &SqliteError) {
        tracing::error!(%error, "records.db did not take a batch; the journal keeps it, and it is tried again");
        *self.progress.trouble.lock() = Some(error.to_string());
        self.progress.stumbles.change(|stumbles| *stumbles += 1);
        self.progress.notice(Noticed::of_tables(error));
    }

    /// Notes that records.db has to be made again.
    pub(super) fn break_with(&mut self, how: Broken, why: String) {
        self.broken.get_or_insert((how, why));
        self.doubtful = true;
    }

    /// Until the next try.
    fn pause(&self) {
        if self.workers == Workers::Threads {
            self.progress.rest(AGAIN);
        }
    }

    /// What an error that nobody waits for leaves behind.
    fn heed<T>(&mut self, outcome: Result<T, SqliteError>) -> Result<T, SqliteError> {
        self.doubtful |= outcome.as_ref().is_err_and(is_doubtful);
        if let Err(SqliteError::Damaged(damage)) = &outcome
            && damage.iter().any(|damage| damage.session.is_none())
        {
            self.break_with(Broken::Unreadable, SqliteError::Damaged(damage.clone()).to_string());
        }
        outcome
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
        if self.views_behind || self.views_doubtful {
            self.catch_up();
            return;
        }
        let blobs = &self.blobs;
        let files = |session, id| blobs.get(session, id).map_err(|error| SqliteError::Io(error.to_string()));
        let (views, records) = (&mut self.views, &self.records);
        let applied = guarded("views.db", || views.apply(batch, &Source { records: records.reader(), files: &files }));
        if applied.as_ref().is_err_and(|error| self.is_of_views(error)) {
            (self.views_doubtful, self.views_damaged) = (true, true);
            self.catch_up();
            return;
        }
        self.tabulated(applied);
    }

    /// From where the views are to where records.db is: after a crash a batch, after somebody deleted the file everything.
    fn catch_up(&mut self) {
        if self.views_doubtful
            && let Err(error) = self.remake_views()
        {
            self.tabulated(Err(error));
            return;
        }
        let mut caught_up = self.tabulate_all();
        if caught_up.as_ref().is_err_and(|error| self.is_of_views(error)) {
            (self.views_doubtful, self.views_damaged) = (true, true);
            caught_up = self.remake_views().and_then(|()| self.tabulate_all());
        }
        self.tell_incomplete();
        self.tabulated(caught_up);
    }

    /// Whether an error of tabulating says that views.db is damaged, and not what it is made of.
    fn is_of_views(&self, error: &SqliteError) -> bool {
        matches!(error, SqliteError::Damaged(_) | SqliteError::Sql(_))
            && ViewsDb::structure(self.views.connection()).map_or(true, |lines| !lines.is_empty())
    }

    fn tabulate_all(&mut self) -> Result<(), SqliteError> {
        let blobs = &self.blobs;
        let files = |session, id| blobs.get(session, id).map_err(|error| SqliteError::Io(error.to_string()));
        let mut told = 0;
        let (views, records) = (&mut self.views, &self.records);
        guarded("views.db", || {
            views.catch_up(&Source { records: records.reader(), files: &files }, &mut |done, total| {
                if done >= told + 10_000 {
                    told = done;
                    tracing::info!(done, total, "views.db: sessions tabulated");
                }
            })
        })
    }

    fn tabulated(&mut self, outcome: Result<(), SqliteError>) {
        self.views_behind = outcome.is_err();
        match outcome {
            Ok(()) => {
                self.progress.views.set(self.views.position());
                self.progress.views_trouble.lock().take();
            }
            Err(error) => {
                self.views_doubtful |= is_doubtful(&error);
                tracing::error!(%error, path = %self.views.path().display(), "views.db did not take a batch; records go on without it");
                *self.progress.views_trouble.lock() = Some(error.to_string());
            }
        }
    }

    /// Returns when what was committed is in the main file of records.db, synced and read back: what stood for it elsewhere
    /// may be let go of from then on.
    fn reach_main_file(&mut self) -> Result<(), SqliteError> {
        for _ in 0..LAST_TRIES {
            if self.copy_records()?.is_some() {
                return Ok(());
            }
            let mut inbox = self.progress.inbox.lock();
            if inbox.closing || self.workers == Workers::Caller {
                break;
            }
            // A reader is in the way; none may stay for long.
            self.progress.closed.wait_for(&mut inbox, LINGER);
        }
        Err(SqliteError::Busy("a reader keeps records.db from being written into its main file".into()))
    }

    /// Copies the write-ahead log of records.db into its main file, under the mark that says so, syncs it and reads it back:
    /// the one way. `None`: a reader is in the way.
    fn copy_records(&mut self) -> Result<Option<Anchor>, SqliteError> {
        let told = |outcome: io::Result<()>| {
            if let Err(error) = &outcome {
                tracing::warn!(%error, "it could not be written down that SQLite's log is being copied, or was");
            }
            outcome.is_ok()
        };
        // What is copied over another file makes one of both, and nobody could tell any more.
        self.look_at_file();
        self.undoubted()?;
        let stamp = self.records.next_stamp(0);
        let stamp = self.heed(stamp)?;
        let position = self.records.position().0;
        match self.copying.begin(self.log_in_doubt, stamp) {
            Ok(()) => (self.log_in_doubt, self.log_unnamed) = (false, false),
            Err(Begin::Log(error)) => {
                self.doubtful = true;
                return Err(SqliteError::Io(format!("records.db-wal: {error}")));
            }
            // Damage to the log would not be noticed if this process died then.
            Err(Begin::Mark(error)) => return Err(error.into()),
        }
        let mut said = true;
        let copied = self.records.wal_checkpoint_saying(|| {
            said = told(self.copying.end(stamp, position));
            said
        });
        self.mark_stands = (!said).then_some((stamp, position));
        self.log_unnamed |= said && matches!(copied, Ok(Some(_)));
        if said {
            self.heed(copied)
        } else {
            Err(SqliteError::Io("records.copying: it still says that the log is being copied".into()))
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
            self.views_doubtful |= is_doubtful(&error);
            tracing::warn!(%error, "views.db could not be copied into its main file");
        }
        let copied = match planted::is(Defect::RetiredOnWal) {
            true => Ok(Some(self.records.anchor())),
            false => self.copy_records(),
        };
        let anchor = match copied {
            Ok(Some(anchor)) => anchor,
            Ok(None) => return true,
            Err(error) => {
                tracing::error!(%error, "records.db could not be copied into its main file; no journal segment is retired");
                self.progress.notice(Noticed::of_tables(&error));
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
