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

use crate::slot::{Phase, Slot};

const SHARDS: usize = 64;
/// Slots that a sweep looks at and is still a small thing to do.
const SWEPT_AT_ONCE: usize = 4096;
/// The smallest share of the table that a sweep looks at: a whole round is never more than so many sweeps.
const SWEEPS_A_ROUND: usize = 8;

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
    shards: Vec<Shard>,
    /// Where the next sweep begins.
    next: AtomicUsize,
    budget_bytes: usize,
    pub(crate) loaded: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    slots: Mutex<IdMap<Arc<Slot>>>,
    /// What its sessions weigh: counted by a sweep, and what came since.
    bytes: AtomicUsize,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) dropped: usize,
    /// What packing and dropping made free, about.
    pub(crate) freed_bytes: usize,
}

/// Slot, table entry and allocator overhead of one session in RAM.
const SLOT_BYTES: usize = 256;

impl Residency {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            next: AtomicUsize::new(0),
            budget_bytes: usize::try_from(budget_bytes).unwrap_or(usize::MAX),
            loaded: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
        }
    }

    fn shard(&self, id: SessionId) -> Option<&Shard> {
        let [.., last] = id.0;
        self.shards.get(usize::from(last) % SHARDS)
    }

    /// The session's place, if it has one.
    pub(crate) fn get(&self, id: SessionId) -> Option<Arc<Slot>> {
        self.shard(id)?.slots.lock().get(&id).cloned()
    }

    /// The session's place, made if need be.
    pub(crate) fn place(&self, id: SessionId) -> Arc<Slot> {
        match self.shard(id) {
            Some(shard) => shard.slots.lock().entry(id).or_insert_with(|| Arc::new(Slot::new(id))).clone(),
            None => Arc::new(Slot::new(id)),
        }
    }

    /// Takes an empty place out again (the session does not exist).
    pub(crate) fn forget(&self, slot: &Arc<Slot>) {
        let Some(shard) = self.shard(slot.id) else { return };
        let mut shard = shard.slots.lock();
        let mut phase = slot.phase.lock();
        if matches!(*phase, Phase::Cold) {
            *phase = Phase::Evicted;
            shard.remove(&slot.id);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.bytes.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn count(&self) -> u64 {
        self.shards.iter().map(|shard| shard.slots.lock().len() as u64).sum()
    }

    pub(crate) fn is_tight(&self) -> bool {
        self.bytes() >= self.budget_bytes / 5 * 4
    }

    /// Counts a session that came into RAM between two sweeps; the sweep counts exactly.
    pub(crate) fn came(&self, id: SessionId, weight: usize) {
        self.loaded.fetch_add(1, Ordering::Relaxed);
        if let Some(shard) = self.shard(id) {
            shard.bytes.fetch_add(weight + SLOT_BYTES, Ordering::Relaxed);
        }
    }

    /// Shrinks sessions not used since `idle_before_ms`. `due` is told of sessions whose tail is due for a checkpoint by
    /// its age.
    ///
    /// Of many sessions it looks at a part, and the next sweep at the next part; at all of them while the budget is tight:
    /// then the longest unused are dropped.
    pub(crate) fn sweep(&self, now_ms: u64, idle_before_ms: u64, mut due: impl FnMut(SessionId)) -> Swept {
        let mut swept = Swept::default();
        let mut scratch = Vec::new();
        let mut droppable = Vec::new();
        let all = self.is_tight();
        let begin = self.next.load(Ordering::Relaxed);
        let mut looked_at = 0;
        for (n, shard) in self.shards.iter().cycle().skip(begin).take(SHARDS).enumerate() {
            if !all && looked_at >= SWEPT_AT_ONCE && n >= SHARDS / SWEEPS_A_ROUND {
                break;
            }
            self.next.store((begin + n + 1) % SHARDS, Ordering::Relaxed);
            // Slots are locked one by one, and never under the shard's lock.
            let slots: Vec<_> = shard.slots.lock().values().cloned().collect();
            looked_at += slots.len();
            let mut bytes = 0;
            for slot in slots {
                let Some(look) = look(&slot, now_ms, idle_before_ms, &mut scratch) else { continue };
                if look.is_due {
                    due(slot.id);
                }
                swept.freed_bytes += look.freed_bytes;
                bytes += look.weight;
                if all && look.is_idle {
                    droppable.push((look.used_at_ms, look.weight, slot));
                }
            }
            shard.bytes.store(bytes, Ordering::Relaxed);
        }
        if all && self.is_tight() {
            droppable.sort_unstable_by_key(|(used_at_ms, ..)| *used_at_ms);
            // Down to 60 %: a sweep that frees only what the next call takes again would run for ever.
            let mut over = self.bytes().saturating_sub(self.budget_bytes / 5 * 3);
            for (used_at_ms, weight, slot) in droppable {
                if over == 0 {
                    break;
                }
                if self.drop_idle(&slot, used_at_ms, weight) {
                    over = over.saturating_sub(weight);
                    swept.freed_bytes += weight;
                    swept.dropped += 1;
                }
            }
        }
        self.dropped.fetch_add(swept.dropped, Ordering::Relaxed);
        swept
    }

    /// Drops a session that nobody has used since it was looked at.
    fn drop_idle(&self, slot: &Arc<Slot>, used_at_ms: u64, weight: usize) -> bool {
        let Some(shard) = self.shard(slot.id) else { return false };
        // Shard before slot, as everywhere: a caller that has the slot but not its lock will find it evicted.
        let mut slots = shard.slots.lock();
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
        slots.remove(&slot.id);
        let less = |bytes: usize| Some(bytes.saturating_sub(weight));
        let _ = shard.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        true
    }
}

/// What one slot was found to be.
struct Look {
    used_at_ms: u64,
    weight: usize,
    is_idle: bool,
    is_due: bool,
    freed_bytes: usize,
}

/// Weighs a session in RAM, and shrinks it if nobody used it since `idle_before_ms`.
fn look(slot: &Slot, now_ms: u64, idle_before_ms: u64, scratch: &mut Vec<u8>) -> Option<Look> {
    let used_at_ms = slot.used_at_ms.load(Ordering::Relaxed);
    let mut phase = slot.phase.lock();
    let mut freed_bytes = 0;
    let (weight, is_idle, tail) = match &mut *phase {
        Phase::Cold | Phase::Evicted => return None,
        Phase::Packed(packed) => (packed.weight(), true, packed.tail),
        Phase::Live(live) if live.is_idle() && used_at_ms < idle_before_ms => {
            let before = live.weight();
            let packed = live.pack(scratch);
            let (weight, tail) = (packed.weight(), packed.tail);
            freed_bytes = before.saturating_sub(weight);
            *phase = Phase::Packed(packed);
            (weight, true, tail)
        }
        Phase::Live(live) => (live.weight(), live.is_idle(), live.tail),
    };
    drop(phase);
    let weight = weight + SLOT_BYTES;
    Some(Look { used_at_ms, weight, is_idle, is_due: tail.is_due_by_age(now_ms), freed_bytes })
}
