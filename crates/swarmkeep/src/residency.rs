//! Which sessions are in RAM.
//!
//! The table has one [`Slot`] per session that is in RAM or on its way there, and nothing for the others. From 80 % of the
//! budget on, the sessions not used for longest leave, whole; before that, those not in use shrink to their canonical
//! bytes.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use swarmkeep_core::SessionId;

use crate::slot::{Phase, Slot, Tail};

const SHARDS: usize = 64;

/// Session ids are hashes already: their first bytes are as good as any.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

pub(crate) type IdMap<T> = HashMap<SessionId, T, BuildHasherDefault<IdHasher>>;

pub(crate) struct Residency {
    shards: Vec<Mutex<IdMap<Arc<Slot>>>>,
    bytes: AtomicUsize,
    budget_bytes: usize,
    pub(crate) loaded: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) resident: usize,
    pub(crate) bytes: usize,
    pub(crate) dropped: usize,
    /// What packing and dropping made free, about.
    pub(crate) freed_bytes: usize,
}

/// Slot, table entry and allocator overhead of one session in RAM.
const SLOT_BYTES: usize = 256;

impl Residency {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            bytes: AtomicUsize::new(0),
            budget_bytes: usize::try_from(budget_bytes).unwrap_or(usize::MAX),
            loaded: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
        }
    }

    fn shard(&self, id: SessionId) -> Option<&Mutex<IdMap<Arc<Slot>>>> {
        let [.., last] = id.0;
        self.shards.get(usize::from(last) % SHARDS)
    }

    /// The session's place, if it has one.
    pub(crate) fn get(&self, id: SessionId) -> Option<Arc<Slot>> {
        self.shard(id)?.lock().get(&id).cloned()
    }

    /// The session's place, made if need be.
    pub(crate) fn place(&self, id: SessionId) -> Arc<Slot> {
        match self.shard(id) {
            Some(shard) => shard.lock().entry(id).or_insert_with(|| Arc::new(Slot::new(id))).clone(),
            None => Arc::new(Slot::new(id)),
        }
    }

    /// Takes an empty place out again (the session does not exist).
    pub(crate) fn forget(&self, slot: &Arc<Slot>) {
        let Some(shard) = self.shard(slot.id) else { return };
        let mut shard = shard.lock();
        let mut phase = slot.phase.lock();
        if matches!(*phase, Phase::Cold) {
            *phase = Phase::Evicted;
            shard.remove(&slot.id);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().len() as u64).sum()
    }

    pub(crate) fn is_tight(&self) -> bool {
        self.bytes() >= self.budget_bytes / 5 * 4
    }

    /// Counts a session that came into RAM between two sweeps; the sweep counts exactly.
    pub(crate) fn came(&self, weight: usize) {
        self.loaded.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(weight + SLOT_BYTES, Ordering::Relaxed);
    }

    /// Every place, for walks that must not hold a lock for long.
    pub(crate) fn all(&self) -> Vec<Arc<Slot>> {
        self.shards.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Shrinks sessions not used since `idle_before_ms`, and drops the longest unused while the budget is tight. `due` is
    /// told of sessions whose tail is due for a checkpoint by its age.
    pub(crate) fn sweep(&self, now_ms: u64, idle_before_ms: u64, mut due: impl FnMut(SessionId)) -> Swept {
        let mut swept = Swept::default();
        let mut droppable = Vec::new();
        let mut scratch = Vec::new();
        for slot in self.all() {
            let used_at_ms = slot.used_at_ms.load(Ordering::Relaxed);
            let mut phase = slot.phase.lock();
            let (weight, idle) = match &mut *phase {
                Phase::Cold | Phase::Evicted => continue,
                Phase::Packed(packed) => (packed.weight(), true),
                Phase::Live(live) if live.is_idle() && used_at_ms < idle_before_ms => {
                    let before = live.weight();
                    let packed = live.pack(&mut scratch);
                    let weight = packed.weight();
                    swept.freed_bytes += before.saturating_sub(weight);
                    *phase = Phase::Packed(packed);
                    (weight, true)
                }
                Phase::Live(live) => (live.weight(), live.is_idle()),
            };
            let tail = match &*phase {
                Phase::Live(live) => live.tail,
                Phase::Packed(packed) => packed.tail,
                Phase::Cold | Phase::Evicted => Tail::default(),
            };
            drop(phase);
            if tail.is_due_by_age(now_ms) {
                due(slot.id);
            }
            swept.resident += 1;
            swept.bytes += weight + SLOT_BYTES;
            if idle {
                droppable.push((used_at_ms, weight + SLOT_BYTES, slot));
            }
        }
        if swept.bytes >= self.budget_bytes / 5 * 4 {
            droppable.sort_unstable_by_key(|(used_at_ms, ..)| *used_at_ms);
            // Down to 60 %: a sweep that frees only what the next call takes again would run for ever.
            let target = self.budget_bytes / 5 * 3;
            for (used_at_ms, weight, slot) in droppable {
                if swept.bytes <= target {
                    break;
                }
                if self.drop_idle(&slot, used_at_ms) {
                    swept.bytes -= weight.min(swept.bytes);
                    swept.freed_bytes += weight;
                    swept.dropped += 1;
                    swept.resident -= 1;
                }
            }
        }
        self.bytes.store(swept.bytes, Ordering::Relaxed);
        self.dropped.fetch_add(swept.dropped, Ordering::Relaxed);
        swept
    }

    /// Drops a session that nobody has used since it was looked at.
    pub(crate) fn drop_idle(&self, slot: &Arc<Slot>, used_at_ms: u64) -> bool {
        let Some(shard) = self.shard(slot.id) else { return false };
        // Shard before slot, as everywhere: a caller that has the slot but not its lock will find it evicted.
        let mut shard = shard.lock();
        let mut phase = slot.phase.lock();
        let idle = match &*phase {
            Phase::Packed(_) => true,
            Phase::Live(live) => live.is_idle(),
            Phase::Cold | Phase::Evicted => false,
        };
        if !idle || slot.used_at_ms.load(Ordering::Relaxed) != used_at_ms {
            return false;
        }
        *phase = Phase::Evicted;
        shard.remove(&slot.id);
        true
    }
}
