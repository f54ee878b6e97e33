//! A store on a simulated disk, what was asked of it, and what it answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use swarmkeep::{
    Error, Settings, Turn, Workers,
    disk::simulated::SimDisk,
    embedded::{EmbeddedLog, Pace},
};
use swarmkeep_core::{
    BlobId, Hash, SessionId,
    clock::{Clock, Entropy},
    testing::Draw,
};

pub const STORE: &str = "/store";

/// Time that moves with the steps of the workload, and randomness that is none.
#[derive(Debug, Default)]
pub struct Fixed {
    pub now_ms: AtomicU64,
    pub monotonic_ms: AtomicU64,
    drawn: AtomicU64,
    seed: u64,
}

impl Fixed {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { now_ms: AtomicU64::new(1_767_225_600_000), seed, ..Self::default() })
    }
}

impl Clock for Fixed {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }
}

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        let count = self.drawn.fetch_add(1, Ordering::SeqCst);
        let mut stream =
            blake3::Hasher::new().update(&self.seed.to_le_bytes()).update(&count.to_le_bytes()).finalize_xof();
        stream.fill(bytes);
    }
}

/// Small steps: many segments, often retired.
pub fn settings(kept: bool) -> Settings {
    Settings { readers: 1, journal_keep: if kept { 1 << 30 } else { 0 }, ..Settings::default() }
}

pub fn pace(settings: &Settings) -> Pace {
    let mut pace = Pace::of(settings);
    pace.journal.segment_bytes = 16 * 1024;
    pace.journal.spares_ahead = 0;
    pace.journal.seal_after_ms = 3_600_000;
    pace.retire_bytes = 12 * 1024;
    pace
}

/// The store on a disk; `seed` for what it draws: never the same for two lives of one disk.
pub fn open(disk: &SimDisk, kept: bool, seed: u64) -> Result<EmbeddedLog, Error> {
    open_by(disk, kept, Fixed::new(seed))
}

pub fn open_by(disk: &SimDisk, kept: bool, fixed: Arc<Fixed>) -> Result<EmbeddedLog, Error> {
    open_with(disk, kept, fixed, Workers::Threads)
}

/// [`open`] without threads: see [`driven`].
pub fn open_by_hand(disk: &SimDisk, kept: bool, seed: u64) -> Result<EmbeddedLog, Error> {
    open_with(disk, kept, Fixed::new(seed), Workers::Caller)
}

pub fn open_with(disk: &SimDisk, kept: bool, fixed: Arc<Fixed>, workers: Workers) -> Result<EmbeddedLog, Error> {
    let settings = settings(kept);
    let pace = Pace { workers, ..pace(&settings) };
    EmbeddedLog::open_at_pace(Arc::new(disk.clone()), Path::new(STORE), &settings, pace, fixed.clone(), fixed)
}

/// Longest pause of [`driven`] from one round of turns to the next.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// Waits for something of a store that has no threads, which does its work meanwhile. Of one that has, it only waits.
pub async fn driven<T>(log: &EmbeddedLog, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut pause = std::time::Duration::from_micros(500);
    loop {
        // What is written at once is one frame: nobody takes it while more is coming.
        let ready = std::future::poll_fn(|context| std::task::Poll::Ready(work.as_mut().poll(context))).await;
        if let std::task::Poll::Ready(done) = ready {
            return done;
        }
        if !(log.turn(Turn::Take) && log.turn(Turn::Write)) {
            log.turn(Turn::Apply);
            // Somebody may wait for a time that passes, such as that of a disk which does not work.
            tokio::select! {
                biased;
                done = work.as_mut() => return done,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE),
            }
        }
    }
}

/// What a store without threads does by itself, now and then.
pub fn some_turns(log: &EmbeddedLog, draw: &mut Draw) {
    for (turn, seldom) in [(Turn::Apply, 2), (Turn::Retire, 4), (Turn::Keep, 3), (Turn::Seal, 8)] {
        if draw.one_in(seldom) {
            log.turn(turn);
        }
    }
}

/// Something that happened outside the store under test, in order: what was acknowledged, and what was asked that takes
/// something away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Records through this seq were acknowledged.
    Acknowledged(SessionId, u64),
    /// The store said that a session ends at this seq.
    Served(SessionId, u64),
    /// A session's removal was asked for.
    Removing(SessionId),
    /// It was acknowledged.
    Removed(SessionId),
    /// Removal of a session's records through this seq was asked for.
    Trimming(SessionId, u64),
}

/// Everything that was ever written to a session, acknowledged or not.
#[derive(Debug, Clone, Default)]
pub struct Life {
    /// By seq from 1.
    pub records: Vec<Hash>,
    /// Where groups end.
    pub ends: BTreeSet<u64>,
    /// Hash of the state at the end of each group, by seq.
    pub states: BTreeMap<u64, Hash>,
    /// Blobs, and the seq that introduced each.
    pub blobs: Vec<(u64, BlobId)>,
}

/// The whole of it.
#[derive(Debug, Clone, Default)]
pub struct Story {
    pub facts: Vec<Fact>,
    pub lives: BTreeMap<SessionId, Life>,
    /// The lives as they were before a group turned out to be lost, each with the number of facts by then.
    turns: Vec<(usize, BTreeMap<SessionId, Life>)>,
}

/// What a number of facts comes to for one session.
#[derive(Debug, Clone, Default)]
pub struct Owed {
    /// There through this seq at least.
    pub acknowledged: u64,
    /// Maybe not there any more through the highest of these that a checkpoint stands at or above.
    pub trimmed: Vec<u64>,
    pub removing: bool,
    pub removed: bool,
}

impl Story {
    /// What was sent to a session beyond a seq is not there. It never comes back once a later write is acknowledged, which
    /// stands where it would have: from here on other records have those seqs.
    pub fn turn(&mut self, session: SessionId, seq: u64) {
        self.turns.push((self.facts.len(), self.lives.clone()));
        let life = self.lives.entry(session).or_default();
        life.records.truncate(usize::try_from(seq).unwrap());
        life.ends.retain(|end| *end <= seq);
        life.states.retain(|end, _| *end <= seq);
        life.blobs.retain(|(at, _)| *at <= seq);
    }

    /// The story as it was when so many facts were written down: any of these. More than one while a lost group may still
    /// turn out to be there.
    pub fn readings(&self, facts: usize) -> Vec<Self> {
        let decided = |by: usize| {
            let since = self.facts.get(by..facts).unwrap_or_default();
            since.iter().any(|fact| matches!(fact, Fact::Acknowledged(..)))
        };
        let mut readings = Vec::new();
        let lives = self.turns.iter().filter(|(by, _)| !decided(*by)).map(|(by, lives)| (*by, lives));
        for (by, lives) in lives.chain([(usize::MAX, &self.lives)]) {
            let mut lives = lives.clone();
            for (id, life) in &self.lives {
                lives.entry(*id).or_insert_with(|| life.clone());
            }
            readings.push(Self { facts: self.facts[..facts].to_vec(), lives, turns: Vec::new() });
            if facts <= by {
                break;
            }
        }
        readings
    }

    /// What a store said is there is owed from then on.
    pub fn serve(&mut self, served: &BTreeMap<SessionId, u64>) {
        self.facts.extend(served.iter().map(|(id, seq)| Fact::Served(*id, *seq)));
    }

    pub fn owed(&self, facts: usize) -> BTreeMap<SessionId, Owed> {
        let mut owed: BTreeMap<SessionId, Owed> = self.lives.keys().map(|id| (*id, Owed::default())).collect();
        for fact in &self.facts[..facts] {
            match *fact {
                Fact::Acknowledged(session, seq) | Fact::Served(session, seq) => {
                    owed.entry(session).or_default().acknowledged = seq
                }
                Fact::Removing(session) => owed.entry(session).or_default().removing = true,
                Fact::Removed(session) => owed.entry(session).or_default().removed = true,
                Fact::Trimming(session, seq) => owed.entry(session).or_default().trimmed.push(seq),
            }
        }
        owed
    }
}
