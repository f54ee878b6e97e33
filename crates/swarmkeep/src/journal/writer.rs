//! The journal at work: what callers see, and the commit thread behind it.
//!
//! Entries gather in the filling frame while one frame is written and synced; then that one goes. One write, one sync and
//! one wake-up per frame, whatever the number of callers. A second thread makes spare segments ahead of need.

use std::{collections::VecDeque, fmt, io, sync::Arc, time::Duration};

use swarmkeep_core::{
    Hash,
    clock::{Clock, Entropy},
    log::{Durability, Position},
};
use tokio::sync::Notify;

use super::{
    AppendError, AppendRefused, Entry, Extent, Frame, Receipt, Settings, StoreId, Waiting,
    frame::{self, Place, SEAL_BYTES},
    pool::{Active, Finished, Pool},
    receipt::Batch,
    segment::{FRAMES_AT, Header},
};
use crate::{
    disk,
    lock::Fence,
    planted::{self, Defect},
    sync::{
        Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
        thread::{self, JoinHandle},
    },
    workers::Turn,
};

/// Gets every frame with entries once its sync has returned, in order, on the commit thread.
pub type Sink = Box<dyn FnMut(Arc<Frame>) + Send>;

/// How long after a failure another spare is tried for.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Segments tried in a row when starting one fails.
const ATTEMPTS: usize = 2;

/// What the journal is given.
pub(super) struct Surroundings {
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) fence: Fence,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// Where the chain of frames stands.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) store: StoreId,
    pub(super) incarnation: u64,
    /// Position of the next frame.
    pub(super) next: Position,
    /// Hash of the last frame.
    pub(super) hash: Hash,
    /// The last frame with entries.
    pub(super) data: (Position, Hash),
    /// Number and logical end of the segment before the one being written, or of the last when none is.
    pub(super) previous: (u64, u64),
    /// What records.db was last known to have.
    pub(super) records: (Position, Hash),
    /// The highest segment number used.
    pub(super) number: u64,
}

/// Takes entries; see [the module](super).
pub struct Journal {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Instead of the threads: who calls does the work.
    by_hand: Option<Mutex<Committer>>,
}

struct Shared {
    settings: Settings,
    content_max: usize,
    queue: Mutex<Queue>,
    /// The commit thread waits here.
    work: Condvar,
    /// Callers that were told `Busy` wait here.
    room: Notify,
    durable: AtomicU64,
    generation: AtomicU64,
    pool: Mutex<Pool>,
    records: Mutex<(Position, Hash)>,
    /// Held while a spare is made: two at once could fail where one fits.
    making: Mutex<()>,
    spares: Mutex<Spares>,
    /// The spare thread waits here.
    spares_wanted: Condvar,
    fence: Fence,
    /// What whoever holds the store after this one holds it under, at least.
    next_incarnation: u64,
}

#[derive(Default)]
struct Queue {
    fillings: VecDeque<Filling>,
    /// Bytes of entries queued or in flight.
    bytes: usize,
    /// Bytes of segment they may take at worst.
    reserved: u64,
    /// Bytes left in the segment, a seal's excepted.
    room: u64,
    generation: u64,
    /// Why no segment can be made at present.
    full: Option<AppendRefused>,
    closing: bool,
    /// How many entries the last frame had: what is made room for at once.
    typical: usize,
    /// Of the frame being written: told if the thread dies.
    in_flight: Option<Arc<Batch>>,
}

impl Queue {
    /// The entries of the next frame.
    fn pop(&mut self) -> Option<Filling> {
        let filling = self.fillings.pop_front()?;
        self.typical = filling.entries.len();
        self.in_flight = Some(Arc::clone(&filling.batch));
        Some(filling)
    }
}

/// Entries that will be one frame.
#[derive(Default)]
struct Filling {
    entries: Vec<Entry>,
    content: usize,
    reserved: u64,
    /// Somebody waits for its sync.
    urgent: bool,
    batch: Arc<Batch>,
}

#[derive(Default)]
struct Spares {
    wanted: bool,
    closing: bool,
}

impl Journal {
    pub(super) fn start(
        surroundings: Surroundings,
        pool: Pool,
        active: Active,
        chain: Chain,
        sink: Sink,
    ) -> io::Result<Self> {
        let mut committer = Committer::new(surroundings, pool, active, chain, sink);
        let shared = Arc::clone(&committer.shared);
        let journal = Self { shared: Arc::clone(&shared), threads: Mutex::default(), by_hand: None };
        let commit = thread::Builder::new().name("journal-commit".into()).spawn(move || committer.run())?;
        journal.threads.lock().push(commit);
        if shared.settings.spares_ahead > 0 {
            let spares = thread::Builder::new().name("journal-spares".into()).spawn(move || shared.make_spares())?;
            journal.threads.lock().push(spares);
        }
        Ok(journal)
    }

    pub(super) fn by_hand(
        mut surroundings: Surroundings,
        pool: Pool,
        active: Active,
        chain: Chain,
        sink: Sink,
    ) -> Self {
        // Nobody would make them.
        surroundings.settings.spares_ahead = 0;
        let committer = Committer::new(surroundings, pool, active, chain, sink);
        let shared = Arc::clone(&committer.shared);
        Self { shared, threads: Mutex::default(), by_hand: Some(Mutex::new(committer)) }
    }

    /// Of a journal without threads: [`Turn::Take`], [`Turn::Write`], [`Turn::Seal`]. True: there was something to do.
    pub fn turn(&self, turn: Turn) -> bool {
        self.by_hand.as_ref().is_some_and(|committer| committer.lock().turn(turn))
    }

    /// Queues an entry, never waiting. Entries are written in the order of these calls.
    ///
    /// `generation` is [`Journal::generation`] as it was before the durable state was read that this entry builds upon.
    /// A relaxed entry waits up to [`Settings::relaxed_delay_ms`] for company; its receipt resolves like any other, once it
    /// is durable, and need not be kept.
    ///
    /// # Errors
    /// See [`AppendRefused`]; nothing was queued.
    pub fn append(&self, entry: Entry, generation: u64, durability: Durability) -> Result<Receipt, AppendRefused> {
        let cost = frame::entry_bytes(&entry);
        if cost > self.shared.content_max {
            return Err(AppendRefused::TooLarge { bytes: cost, limit: self.shared.content_max });
        }
        let reserve = frame::frame_bytes(cost) as u64;
        let urgent = durability == Durability::Durable;
        let mut queue = self.shared.queue.lock();
        if queue.closing {
            return Err(AppendRefused::Closing);
        }
        if self.shared.fence.is_passed() {
            return Err(self.shared.fenced_out());
        }
        if queue.generation != generation {
            return Err(AppendRefused::Stale);
        }
        if queue.bytes > 0 && queue.bytes + cost > self.shared.settings.queue_bytes {
            return Err(AppendRefused::Busy);
        }
        // Without a thread that looks for room, each append looks for itself.
        if let Some(full) = queue.full.as_ref().filter(|_| self.shared.settings.spares_ahead > 0)
            && queue.reserved + reserve > queue.room
        {
            return Err(full.clone());
        }
        queue.bytes += cost;
        queue.reserved += reserve;
        let fits = queue.fillings.back().is_some_and(|filling| filling.content + cost <= self.shared.content_max);
        if !fits {
            let entries = Vec::with_capacity(queue.typical);
            queue.fillings.push_back(Filling { entries, ..Filling::default() });
        }
        let Some(filling) = queue.fillings.back_mut() else { return Err(AppendRefused::Closing) };
        filling.content += cost;
        filling.reserved += reserve;
        filling.entries.push(entry);
        let news = !fits || (urgent && !filling.urgent);
        filling.urgent |= urgent;
        let receipt = Receipt::of(&filling.batch);
        drop(queue);
        if news {
            self.shared.work.notify_one();
        }
        Ok(receipt)
    }

    /// Resolves when an entry of `bytes` may be taken: to be awaited after `Busy`. Not a promise; somebody else may be
    /// quicker.
    pub async fn room(&self, bytes: usize) {
        let mut notified = std::pin::pin!(self.shared.room.notified());
        loop {
            notified.as_mut().enable();
            {
                let queue = self.shared.queue.lock();
                if queue.closing || queue.bytes == 0 || queue.bytes + bytes <= self.shared.settings.queue_bytes {
                    return;
                }
            }
            notified.as_mut().await;
            notified.set(self.shared.room.notified());
        }
    }

    /// Grows by one whenever queued entries were lost. Read it before the durable state that an entry builds upon.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// The last frame with entries that is durable and was given to the sink.
    #[must_use]
    pub fn durable(&self) -> Position {
        Position(self.shared.durable.load(Ordering::Acquire))
    }

    /// Looks whether somebody else has taken the store over; then nothing is taken any more, and what this returns is what
    /// the other one holds it under, at least. The same look is made after every sync, before anybody is told of it.
    #[must_use]
    pub fn look_at_fence(&self) -> Option<u64> {
        // Where it cannot be told, the next sync cannot either, and says so.
        let passed = self.shared.fence.look().unwrap_or_else(|_| self.shared.fence.is_passed());
        passed.then_some(self.shared.next_incarnation)
    }

    /// Bytes of entries that are queued or in flight.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.shared.queue.lock().bytes
    }

    /// Gives up segments that hold nothing beyond `through`. Only for what records.db has in its main file, synced, and read
    /// again; `hash` is the frame's hash as read there.
    ///
    /// # Errors
    /// What the disk says; it is tried again with the next call.
    pub fn retire(&self, through: Position, hash: Hash) -> io::Result<()> {
        *self.shared.records.lock() = (through, hash);
        let mut pool = self.shared.pool.lock();
        let before = pool.spares();
        let outcome = pool.retire(through);
        let more = pool.spares() > before;
        drop(pool);
        if more {
            self.shared.queue.lock().full = None;
        }
        outcome
    }

    /// The oldest segment that records.db has and nobody has copied; it keeps its contents until [`Journal::release`].
    #[must_use]
    pub fn take_retired(&self) -> Option<Extent> {
        let taken = self.shared.pool.lock().take_retired()?;
        Some(Extent { number: taken.number, end: Some(taken.end) })
    }

    /// The segment that was taken is not needed any more: its file may be used again.
    ///
    /// # Errors
    /// What the disk says; it is tried again by itself.
    pub fn release(&self, number: u64) -> io::Result<()> {
        let outcome = self.shared.pool.lock().release(number);
        self.shared.queue.lock().full = None;
        outcome
    }

    /// What waits to be copied.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        let (segments, bytes, overrun) = self.shared.pool.lock().waiting();
        Waiting { segments: segments as u64, bytes, overrun }
    }

    /// The segments on disk that are no longer written, oldest first.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        let extents = self.shared.pool.lock().extents();
        extents.into_iter().map(|(number, end)| Extent { number, end: Some(end) }).collect()
    }

    /// Whether no segment can be made, for want of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.shared.queue.lock().full, Some(AppendRefused::DiskFull))
    }

    /// Writes what is queued, then a seal, and stops. Appends are refused from now on. The same call again does nothing.
    /// Blocks; never call it from the sink.
    pub fn close(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.work.notify_all();
        self.shared.spares.lock().closing = true;
        self.shared.spares_wanted.notify_all();
        if let Some(committer) = &self.by_hand {
            committer.lock().run();
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal ended by a panic");
            }
        }
        self.shared.room.notify_waiters();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("durable", &self.durable()).finish_non_exhaustive()
    }
}

impl Shared {
    fn make_spares(&self) {
        loop {
            let recipe = {
                let mut spares = self.spares.lock();
                while !spares.wanted && !spares.closing {
                    self.spares_wanted.wait(&mut spares);
                }
                if spares.closing {
                    return;
                }
                let mut pool = self.pool.lock();
                if pool.spares() >= self.settings.spares_ahead {
                    spares.wanted = false;
                    drop((pool, spares));
                    // Whoever failed to make one did not know of these.
                    self.queue.lock().full = None;
                    continue;
                }
                pool.recipe()
            };
            let making = self.making.lock();
            let made = recipe.make().map(|()| self.pool.lock().add(&recipe));
            drop(making);
            match made {
                Ok(()) => self.queue.lock().full = None,
                Err(error) => {
                    tracing::warn!(%error, "no spare segment could be made");
                    self.queue.lock().full = Some(refusal(&error));
                    let mut spares = self.spares.lock();
                    if !spares.closing {
                        let _ = self.spares_wanted.wait_for(&mut spares, RETRY_AFTER);
                    }
                }
            }
        }
    }

    fn want_spare(&self) {
        let mut spares = self.spares.lock();
        if !spares.wanted {
            spares.wanted = true;
            self.spares_wanted.notify_one();
        }
    }
}

fn refusal(error: &io::Error) -> AppendRefused {
    if disk::is_full(error) { AppendRefused::DiskFull } else { AppendRefused::Unwritable(error.to_string().into()) }
}

fn room(active: Option<&Active>) -> u64 {
    active.map_or(0, |active| active.size.saturating_sub(active.offset + SEAL_BYTES as u64))
}

enum Work {
    Frame(Filling),
    Seal,
    Close,
}

/// The commit thread's.
struct Committer {
    shared: Arc<Shared>,
    surroundings: Surroundings,
    active: Option<Active>,
    chain: Chain,
    sink: Sink,
    buffer: Vec<u8>,
    /// A spare was asked for since the segment was started.
    asked: bool,
    /// Without threads: the frame between [`Turn::Take`] and [`Turn::Write`].
    taken: Option<Filling>,
}

impl Committer {
    fn new(surroundings: Surroundings, pool: Pool, active: Active, chain: Chain, sink: Sink) -> Self {
        let settings = surroundings.settings.clone();
        let segment = usize::try_from(settings.segment_bytes - FRAMES_AT).unwrap_or(usize::MAX);
        let shared = Arc::new(Shared {
            content_max: frame::content_max(segment - SEAL_BYTES),
            queue: Mutex::new(Queue { room: room(Some(&active)), ..Queue::default() }),
            work: Condvar::new(),
            room: Notify::new(),
            durable: AtomicU64::new(chain.data.0.0),
            generation: AtomicU64::new(0),
            pool: Mutex::new(pool),
            records: Mutex::new(chain.records),
            making: Mutex::default(),
            spares: Mutex::default(),
            spares_wanted: Condvar::new(),
            fence: surroundings.fence.clone(),
            next_incarnation: chain.incarnation.saturating_add(1),
            settings,
        });
        let (active, buffer, asked, taken) = (Some(active), Vec::new(), false, None);
        Self { shared, surroundings, active, chain, sink, buffer, asked, taken }
    }

    fn turn(&mut self, turn: Turn) -> bool {
        match turn {
            Turn::Take if self.taken.is_none() => {
                self.taken = self.shared.queue.lock().pop();
                if let Some(filling) = &self.taken {
                    self.tell_too_soon(filling);
                }
                self.taken.is_some()
            }
            Turn::Write => match self.taken.take() {
                Some(filling) => {
                    self.commit(filling);
                    true
                }
                None => false,
            },
            Turn::Seal if self.taken.is_none() => {
                let unsealed = self.active.as_ref().is_some_and(|active| active.unsealed);
                self.seal();
                unsealed
            }
            _ => false,
        }
    }

    fn run(&mut self) {
        self.turn(Turn::Write);
        loop {
            match self.next() {
                Work::Frame(filling) => self.commit(filling),
                Work::Seal => self.seal(),
                Work::Close => return self.seal(),
            }
        }
    }

    fn next(&self) -> Work {
        let unsealed = self.active.as_ref().is_some_and(|active| active.unsealed);
        let settings = &self.shared.settings;
        let mut queue = self.shared.queue.lock();
        let mut due = false;
        loop {
            if due || queue.closing || queue.fillings.len() > 1 || queue.fillings.iter().any(|filling| filling.urgent) {
                if let Some(filling) = queue.pop() {
                    return Work::Frame(filling);
                }
                if queue.closing {
                    return Work::Close;
                }
                if due {
                    return Work::Seal;
                }
            }
            let wait = match (queue.fillings.is_empty(), unsealed) {
                (false, _) => Some(settings.relaxed_delay_ms),
                (true, true) => Some(settings.seal_after_ms),
                (true, false) => None,
            };
            match wait {
                Some(ms) => due = self.shared.work.wait_for(&mut queue, Duration::from_millis(ms)).timed_out(),
                None => self.shared.work.wait(&mut queue),
            }
        }
    }

    fn commit(&mut self, filling: Filling) {
        if self.shared.fence.is_passed() {
            let refused = self.shared.fenced_out();
            return self.lose(filling, AppendError::NotWritten(refused), None);
        }
        if let Err(error) = self.make_room(frame::frame_bytes(filling.content)) {
            let refused = refusal(&error);
            return self.lose(filling, AppendError::NotWritten(refused.clone()), Some(refused));
        }
        let position = self.chain.next;
        self.tell_too_soon(&filling);
        match self.write(&filling.entries) {
            Ok(hash) => {
                self.chain.data = (position, hash);
                self.shared.durable.store(position.0, Ordering::Release);
                let (bytes, incarnation) = (self.buffer.len(), self.chain.incarnation);
                let entries = filling.entries;
                (self.sink)(Arc::new(Frame { position, hash, incarnation, bytes, entries }));
                let mut queue = self.shared.queue.lock();
                queue.bytes -= filling.content;
                queue.reserved -= filling.reserved;
                queue.room = room(self.active.as_ref());
                queue.in_flight = None;
                drop(queue);
                filling.batch.resolve(Ok(position));
                self.shared.room.notify_waiters();
            }
            // It may be in what the other one took over: nobody here can tell.
            Err(error) if self.shared.fence.is_passed() => {
                self.lose(filling, AppendError::Unknown(error.to_string().into()), None);
            }
            Err(error) => {
                // The next segment's header settles that the frame is not part of the journal. Callers are told when that
                // is durable, or cannot be made so.
                let full = self.start_segment().err().map(|error| refusal(&error));
                self.lose(filling, AppendError::Unknown(error.to_string().into()), full);
            }
        }
    }

    /// Nothing, but for a defect that was planted.
    fn tell_too_soon(&self, filling: &Filling) {
        if planted::is(Defect::AcknowledgedBeforeSync) {
            filling.batch.resolve(Ok(self.chain.next));
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn seal(&mut self) {
        if planted::is(Defect::SealLeftOut) {
            return;
        }
        if !self.active.as_ref().is_some_and(|active| active.unsealed) || self.shared.fence.is_passed() {
            return;
        }
        if let Err(error) = self.write(&[]) {
            tracing::warn!(%error, "the journal's last frame could not be sealed");
            if self.shared.fence.is_passed() {
                return;
            }
            let full = self.start_segment().err().map(|error| refusal(&error));
            let mut queue = self.shared.queue.lock();
            queue.full = full.or(queue.full.take());
            queue.room = room(self.active.as_ref());
            drop(queue);
            // Refused appends do not come here: nobody else would look for room again.
            self.shared.want_spare();
        } else if let Some(active) = &mut self.active {
            active.unsealed = false;
            self.shared.queue.lock().room = room(self.active.as_ref());
        }
    }

    /// Writes and syncs one frame. After an error the segment is given up.
    fn write(&mut self, entries: &[Entry]) -> io::Result<Hash> {
        let Some(active) = &mut self.active else { return Err(io::ErrorKind::NotFound.into()) };
        let place = Place {
            position: self.chain.next,
            offset: active.offset,
            durable_through: Position(self.chain.next.0.saturating_sub(1)),
            previous: self.chain.hash,
            time_ms: self.surroundings.clock.now_ms(),
        };
        let hash = frame::encode(&mut self.buffer, &active.key, &place, entries);
        let sync = || match active.file.sync_data() {
            Err(_) if planted::is(Defect::CacheTrusted) => active.file.sync_data(),
            synced => synced,
        };
        let skip = planted::is(Defect::SyncSkipped);
        // After the sync, before anybody is told: what a process that was stopped for long syncs may be nobody's any more.
        let compare = || match self.shared.fence.look()? {
            true => Err(io::Error::other("another process took the store over while this was being written")),
            false => Ok(()),
        };
        let written = active
            .file
            .write_at(&self.buffer, active.offset)
            .and_then(|()| if skip { Ok(()) } else { sync() })
            .and_then(|()| compare());
        if let Err(error) = written {
            tracing::error!(segment = active.number, %error, "the journal could not be written: this segment is given up");
            self.give_up(true);
            return Err(error);
        }
        active.offset += self.buffer.len() as u64;
        active.unsealed = true;
        // Not sooner, so that a store which is opened and closed makes no file that it does not need.
        if !self.asked && active.offset > active.size / 4 {
            self.asked = true;
            self.shared.want_spare();
        }
        self.chain.next = Position(self.chain.next.0 + 1);
        self.chain.hash = hash;
        Ok(hash)
    }

    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        if room(self.active.as_ref()) >= bytes as u64 {
            return Ok(());
        }
        self.start_segment()
    }

    /// Starts another segment. When that fails, the one being written (if any) stays, so that it can still be sealed.
    fn start_segment(&mut self) -> io::Result<()> {
        let mut outcome = Err(io::ErrorKind::Other.into());
        for _ in 0..ATTEMPTS {
            self.chain.number += 1;
            let mut nonce = [0; 32];
            self.surroundings.entropy.fill(&mut nonce);
            let (previous_number, previous_end) =
                self.active.as_ref().map_or(self.chain.previous, |active| (active.number, active.offset));
            let (records_position, records_hash) = *self.shared.records.lock();
            let header = Header {
                store: self.chain.store,
                number: self.chain.number,
                incarnation: self.chain.incarnation,
                nonce,
                first_position: self.chain.next,
                previous_hash: self.chain.hash,
                previous_number,
                previous_end,
                data_position: self.chain.data.0,
                data_hash: self.chain.data.1,
                records_position,
                records_hash,
                recycled: false,
                carried: false,
                size: 0,
                time_ms: self.surroundings.clock.now_ms(),
            };
            // The other thread's spare is worth waiting for.
            let none = self.shared.pool.lock().spares() == 0;
            let making = none.then(|| self.shared.making.lock());
            let started = self.shared.pool.lock().activate(header, |_| None);
            drop(making);
            match started {
                Ok((active, _)) => {
                    self.give_up(false);
                    self.active = Some(active);
                    self.asked = false;
                    return Ok(());
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    fn give_up(&mut self, poisoned: bool) {
        if let Some(active) = self.active.take() {
            self.chain.previous = (active.number, active.offset);
            let last = self.chain.data.0;
            let (number, bytes, end) = (active.number, active.size, active.offset);
            self.shared.pool.lock().finish(Finished { number, bytes, end, last, poisoned });
        }
    }

    /// Everything in flight and queued is lost: it may build upon the frame that is.
    fn lose(&self, filling: Filling, error: AppendError, full: Option<AppendRefused>) {
        // What was never written is not in doubt.
        let others = match self.shared.fence.is_passed() {
            true => AppendError::NotWritten(self.shared.fenced_out()),
            false => error.clone(),
        };
        let mut queue = self.shared.queue.lock();
        let lost = self.shared.empty(&mut queue);
        queue.full = full;
        queue.room = room(self.active.as_ref());
        drop(queue);
        filling.batch.resolve(Err(error));
        for filling in lost {
            filling.batch.resolve(Err(others.clone()));
        }
        self.shared.room.notify_waiters();
        self.shared.want_spare();
    }
}

impl Shared {
    fn fenced_out(&self) -> AppendRefused {
        AppendRefused::FencedOut { incarnation: self.next_incarnation }
    }

    fn empty(&self, queue: &mut Queue) -> VecDeque<Filling> {
        queue.generation += 1;
        self.generation.store(queue.generation, Ordering::Release);
        queue.bytes = 0;
        queue.reserved = 0;
        queue.in_flight = None;
        std::mem::take(&mut queue.fillings)
    }
}

impl Drop for Committer {
    /// Also when the sink panicked: nobody waits for a thread that is gone.
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closing = true;
        let in_flight = queue.in_flight.take();
        let lost = if queue.fillings.is_empty() && in_flight.is_none() {
            VecDeque::new()
        } else {
            self.shared.empty(&mut queue)
        };
        drop(queue);
        let error = AppendError::Unknown("the journal's thread ended".into());
        for batch in in_flight.into_iter().chain(lost.into_iter().map(|filling| filling.batch)) {
            batch.resolve(Err(error.clone()));
        }
        self.shared.room.notify_waiters();
    }
}
