//! What has been handed to the applier and how far it is; shared with everybody who waits for it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use swarmkeep_core::{
    SessionId,
    checkpoint::Checkpoint,
    log::{LogError, Position},
};
use swarmkeep_sqlite::Mending;
use tokio::sync::oneshot;

use crate::{
    incident::Noticed,
    journal::Frame,
    level,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// A batch is closed at this size: it bounds the transaction, and how long a save waits for its turn.
pub(super) const BATCH_BYTES: usize = 16 << 20;
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
    /// SQLite cannot read records.db: make it again. Why, and which it was ([`Progress::file`]): one made since is another.
    Remake(String, u64, oneshot::Sender<Result<(), LogError>>),
    /// Look whether records.db is still the file that was left there.
    Look(oneshot::Sender<Result<(), LogError>>),
    /// Make views.db anew.
    RemakeViews(oneshot::Sender<Result<(), LogError>>),
    /// Make the views' rows of a session again: more of it can be read than when they were made.
    Tabulate(SessionId, oneshot::Sender<Result<(), LogError>>),
}

impl Ask {
    /// It cannot be done now.
    fn refuse(self, why: &str) {
        let (Self::Save(_, done)
        | Self::Report(_, done)
        | Self::Mend(_, _, done)
        | Self::Remake(_, _, done)
        | Self::Look(done)
        | Self::RemakeViews(done)
        | Self::Tabulate(_, done)) = self;
        // Whoever asked may have gone.
        let _ = done.send(Err(LogError::Unknown(why.to_owned())));
    }
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) frames: VecDeque<Arc<Frame>>,
    pub(super) bytes: usize,
    pub(super) asks: Vec<Ask>,
    /// Somebody waits for the views: do not linger.
    pub(super) hurry: bool,
    pub(super) closing: bool,
    /// Nobody answers any more.
    over: bool,
}

/// What has been handed to the applier and how far it is; shared with everybody who waits for it.
pub(super) struct Progress {
    pub(super) inbox: Mutex<Inbox>,
    pub(super) came: Condvar,
    /// Only for the end: what waits after a failure waits here.
    pub(super) closed: Condvar,
    /// The thread is gone, by a panic that its own guard did not hold: nothing is applied any more.
    ended: AtomicBool,
    /// The incarnation of another holder that has written records.db since; 0: none has.
    pub(super) fenced: AtomicU64,
    /// Bytes durable in the journal and not yet in records.db.
    pub(super) unapplied: level::Sender<usize>,
    /// How far records.db has come.
    pub(super) records: level::Sender<Position>,
    /// How far views.db has come.
    pub(super) views: level::Sender<Position>,
    /// Why the last batch was not applied, while that lasts.
    pub(super) trouble: Mutex<Option<String>>,
    /// How many batches were not applied.
    pub(super) stumbles: level::Sender<u64>,
    /// Why views.db does not move, while that lasts.
    pub(super) views_trouble: Mutex<Option<String>>,
    /// Sessions of which views.db has not everything that their records say.
    pub(super) incomplete: Mutex<BTreeSet<SessionId>>,
    /// Sessions that were set aside, until somebody looks into them.
    pub(super) aside: Mutex<BTreeSet<SessionId>>,
    /// How often records.db was made again since the start.
    files: AtomicU64,
    /// What was made again since the start, in words.
    pub(super) made_again: Mutex<Vec<String>>,
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
            stumbles: level::Sender::new(0),
            views_trouble: Mutex::default(),
            incomplete: Mutex::default(),
            aside: Mutex::default(),
            files: AtomicU64::new(0),
            made_again: Mutex::default(),
            noticed: Mutex::default(),
        }
    }

    /// Which records.db is there: another number after it was made again.
    pub(super) fn file(&self) -> u64 {
        self.files.load(Ordering::Acquire)
    }

    /// records.db was made again.
    pub(super) fn another_file(&self) {
        self.files.fetch_add(1, Ordering::AcqRel);
    }

    /// SQLite could not read that records.db: it is made again beside whatever met it.
    pub(super) fn remake_soon(&self, why: String, file: u64) {
        let waits = self.inbox.lock().asks.iter().any(|ask| matches!(ask, Ask::Remake(..)));
        if !waits {
            self.ask(Ask::Remake(why, file, oneshot::channel().0));
            self.hurry();
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
        // Between the first one and enough it gathers by the clock: to be woken for each costs more than most frames do.
        let wakes = inbox.frames.len() == 1 || inbox.bytes >= BATCH_BYTES;
        drop(inbox);
        if wakes {
            self.came.notify_one();
        }
    }

    pub(super) fn ask(&self, ask: Ask) {
        let mut inbox = self.inbox.lock();
        if !inbox.over {
            inbox.asks.push(ask);
        }
        drop(inbox);
        self.came.notify_one();
    }

    /// Nothing that was asked for can be done now: whoever asked hears so, instead of waiting until it can.
    pub(super) fn refuse_asks(&self, why: &str) {
        let asks = std::mem::take(&mut self.inbox.lock().asks);
        asks.into_iter().for_each(|ask| ask.refuse(why));
    }

    /// What records.db has lost goes before everything else.
    pub(super) fn take_again(&self, frames: Vec<Arc<Frame>>) {
        let bytes: usize = frames.iter().map(|frame| frame.bytes).sum();
        self.unapplied.change(|unapplied| *unapplied += bytes);
        self.put_back(frames, bytes);
    }

    /// Puts back what was taken out of an inbox into which frames of before were put meanwhile.
    pub(super) fn put_behind(&self, frames: Vec<Arc<Frame>>, bytes: usize) {
        let Some(first) = frames.first().map(|frame| frame.position) else { return };
        let mut inbox = self.inbox.lock();
        inbox.bytes += bytes;
        let at = inbox.frames.partition_point(|frame| frame.position < first);
        let behind = inbox.frames.split_off(at);
        inbox.frames.extend(frames);
        inbox.frames.extend(behind);
    }

    pub(super) fn put_back(&self, frames: Vec<Arc<Frame>>, bytes: usize) {
        let mut inbox = self.inbox.lock();
        inbox.bytes += bytes;
        for frame in frames.into_iter().rev() {
            inbox.frames.push_front(frame);
        }
    }

    /// A pause of the applier's, which the end of the store ends.
    pub(super) fn rest(&self, pause: Duration) {
        let mut inbox = self.inbox.lock();
        if !inbox.closing {
            self.closed.wait_for(&mut inbox, pause);
        }
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
    pub(super) fn over(&self) {
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
