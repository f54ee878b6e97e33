//! A small world around a journal: sessions that write, a stand-in for records.db, and what was acknowledged.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use swarmkeep::{
    Turn,
    disk::simulated::SimDisk,
    journal::{AppendError, Entry, Frame, Journal, OpenError, Opened, Receipt, Settings, Vouch},
};
use swarmkeep_core::{
    Epoch, Hash, SessionId,
    clock::{Clock, Entropy},
    log::{Durability, Group, Head, Position},
    record,
};

pub const STORE: &str = "/store";

#[derive(Debug, Default)]
pub struct Fixed(AtomicU64);

impl Fixed {
    /// What draws nothing that others drew who began elsewhere: nonces never repeat.
    pub fn from(count: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(count)))
    }
}

impl Clock for Fixed {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }
    fn monotonic_ms(&self) -> u64 {
        0
    }
}

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        let count = self.0.fetch_add(1, Ordering::Relaxed);
        let mut stream = blake3::Hasher::new().update(&count.to_le_bytes()).finalize_xof();
        stream.fill(bytes);
    }
}

/// Every segment made by the commit thread, no seal by the clock: every run makes the same calls.
pub fn settings() -> Settings {
    Settings { segment_bytes: 16 * 1024, spares_ahead: 0, seal_after_ms: 3_600_000, ..Settings::default() }
}

/// What identifies a group: session, last seq, hash of the last record.
pub type Mark = (SessionId, u64, Hash);

pub fn mark(entry: &Entry) -> Mark {
    let Entry::Records(group) = entry else { panic!("{entry:?}") };
    (group.session, group.head.seq.0, group.head.hash)
}

pub fn marks(frames: &[Arc<Frame>]) -> Vec<Mark> {
    frames.iter().flat_map(|frame| frame.entries.iter().map(mark)).collect()
}

/// A group of `count` records with bodies of `size` bytes.
pub fn group(session: u8, after: Head, count: u32, size: usize, fill: u8) -> Group {
    let session = SessionId([session; 16]);
    let mut records = Vec::new();
    let mut head = after;
    for _ in 0..count {
        head = record::encode(&mut records, session, head, Epoch(1), 5, [fill; 16], &vec![fill; size]);
    }
    Group { session, epoch: Epoch(1), after, head, count, records: Bytes::from(records), blobs: Vec::new() }
}

/// A store: its disk, and what records.db would hold.
#[derive(Debug)]
pub struct World {
    pub disk: SimDisk,
    pub settings: Settings,
    pub vouch: Option<Vouch>,
    pub applied: Vec<Mark>,
    pub entropy: Arc<Fixed>,
}

impl World {
    pub fn new() -> Self {
        let disk = SimDisk::new();
        swarmkeep::disk::Disk::create_dir(&disk, Path::new(STORE)).unwrap();
        Self { disk, settings: settings(), vouch: None, applied: Vec::new(), entropy: Arc::default() }
    }

    pub fn open(&self) -> Result<Opened, OpenError> {
        let disk = Arc::new(self.disk.clone());
        let entropy: Arc<Fixed> = Arc::clone(&self.entropy);
        Journal::open(disk, Path::new(STORE), self.settings.clone(), self.vouch, entropy.clone(), entropy)
    }

    /// Everything the log has: what was applied, then what the journal gives.
    pub fn log(&self, opened: &Opened) -> Vec<Mark> {
        self.applied.iter().copied().chain(marks(&opened.unapplied)).collect()
    }

    pub fn start(&self, opened: Opened) -> Writer {
        self.started(opened, false)
    }

    /// [`World::start`] of a journal without threads: the same inputs make the same calls.
    pub fn by_hand(&self, opened: Opened) -> Writer {
        self.started(opened, true)
    }

    fn started(&self, opened: Opened, by_hand: bool) -> Writer {
        let store = opened.store;
        let incarnation = opened.incarnation;
        let mut heads = BTreeMap::new();
        for (session, seq, hash) in &self.applied {
            heads.insert(*session, Head { seq: swarmkeep_core::Seq(*seq), hash: *hash, time_ms: 5 });
        }
        for entry in opened.unapplied.iter().flat_map(|frame| &frame.entries) {
            if let Entry::Records(group) = entry {
                heads.insert(group.session, group.head);
            }
        }
        // What was found comes before what is written: it is applied first.
        let seen = Arc::new(Mutex::new(opened.unapplied.clone()));
        let sink = Arc::clone(&seen);
        let sink: Box<dyn FnMut(Arc<Frame>) + Send> = Box::new(move |frame| sink.lock().push(frame));
        let journal = if by_hand { opened.start_by_hand(sink) } else { opened.start(sink).unwrap() };
        Writer { journal, seen, heads, acked: Vec::new(), unknown: Vec::new(), store, incarnation }
    }

    /// Applies frames, as records.db would, durably.
    pub fn apply(&mut self, store: swarmkeep::journal::StoreId, incarnation: u64, frames: &[Arc<Frame>]) {
        for frame in frames {
            let position = self.vouch.map_or(0, |vouch| vouch.position.0);
            if frame.position.0 > position {
                self.applied.extend(frame.entries.iter().map(mark));
                self.vouch = Some(Vouch { store, position: frame.position, frame_hash: frame.hash, incarnation });
            }
        }
    }
}

pub struct Writer {
    pub journal: Journal,
    pub seen: Arc<Mutex<Vec<Arc<Frame>>>>,
    pub heads: BTreeMap<SessionId, Head>,
    pub acked: Vec<Mark>,
    pub unknown: Vec<Mark>,
    pub store: swarmkeep::journal::StoreId,
    pub incarnation: u64,
}

impl Writer {
    pub fn next(&self, session: u8, size: usize) -> Group {
        let after = self.heads.get(&SessionId([session; 16])).copied().unwrap_or_default();
        group(session, after, 1 + u32::from(session % 3), size, session.wrapping_add(size as u8))
    }

    /// Appends one group and waits for what becomes of it.
    pub fn write(&mut self, session: u8, size: usize) -> Result<Position, String> {
        let group = self.next(session, size);
        let head = group.head;
        let entry = Entry::Records(group);
        let mark = mark(&entry);
        let generation = self.journal.generation();
        let receipt =
            self.journal.append(entry, generation, Durability::Durable).map_err(|refused| refused.to_string())?;
        match receipt.wait() {
            Ok(position) => {
                self.acked.push(mark);
                self.heads.insert(mark.0, head);
                Ok(position)
            }
            Err(error) => {
                if matches!(error, AppendError::Unknown(_)) {
                    self.unknown.push(mark);
                }
                Err(error.to_string())
            }
        }
    }
}

impl Writer {
    /// Appends groups of a journal that is worked by hand: one frame, if they fit into one. Sees what becomes of them.
    pub fn burst(&mut self, groups: &[(u8, usize)]) -> Result<(), String> {
        self.burst_then(groups, || {})
    }

    /// [`Writer::burst`]; `told` is called as soon as the callers are told that it is durable.
    pub fn burst_then(&mut self, groups: &[(u8, usize)], mut told: impl FnMut()) -> Result<(), String> {
        let generation = self.journal.generation();
        let mut heads = self.heads.clone();
        let (mut sent, mut failed) = (Vec::new(), Ok(()));
        for (session, size) in groups {
            let after = heads.get(&SessionId([*session; 16])).copied().unwrap_or_default();
            let group = group(*session, after, 1 + u32::from(session % 3), *size, session.wrapping_add(*size as u8));
            heads.insert(group.session, group.head);
            let (head, entry) = (group.head, Entry::Records(group));
            let mark = mark(&entry);
            match self.journal.append(entry, generation, Durability::Durable) {
                Ok(receipt) => sent.push((mark, head, receipt)),
                Err(refused) => {
                    failed = Err(refused.to_string());
                    break;
                }
            }
        }
        let mut telling = |sent: &[(Mark, Head, Receipt)]| {
            let is_told = sent.iter().all(|(_, _, receipt)| matches!(receipt.peek(), Some(Ok(_))));
            is_told.then(&mut told).is_some()
        };
        let mut is_told = false;
        while self.journal.turn(Turn::Take) {
            is_told = is_told || telling(&sent);
            self.journal.turn(Turn::Write);
            is_told = is_told || telling(&sent);
        }
        for (mark, head, receipt) in sent {
            match receipt.peek().expect("a frame that was written is settled") {
                Ok(_) => {
                    self.acked.push(mark);
                    self.heads.insert(mark.0, head);
                }
                Err(error) => {
                    if matches!(error, AppendError::Unknown(_)) {
                        self.unknown.push(mark);
                    }
                    failed = Err(error.to_string());
                }
            }
        }
        failed
    }
}

/// Each session's groups chain: no seq twice, none missing.
pub fn assert_chained(log: &[Mark], what: &str) {
    let mut heads: BTreeMap<SessionId, u64> = BTreeMap::new();
    for (session, seq, _) in log {
        let count = 1 + u64::from(session.0[0] % 3);
        let head = heads.entry(*session).or_default();
        assert_eq!(*head + count, *seq, "{what}: session {session}");
        *head = *seq;
    }
}
