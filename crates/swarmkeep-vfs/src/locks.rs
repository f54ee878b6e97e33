//! Locks of files and of the shared memory of their write-ahead logs, as SQLite's unix VFS has them, among the connections
//! of one process.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

/// Locks of the shared memory.
const SLOTS: usize = 8;

/// The levels of a file's lock.
pub(crate) const NONE: i32 = 0;
const SHARED: i32 = 1;
const RESERVED: i32 = 2;
const PENDING: i32 = 3;
const EXCLUSIVE: i32 = 4;

/// A region of shared memory, in words: it is aligned as SQLite wants it.
type Region = Box<[u64]>;

#[derive(Default)]
struct State {
    shared: usize,
    /// Somebody has it reserved, pending or exclusively.
    reserved: bool,
    pending: bool,
    exclusive: bool,
    regions: Vec<Region>,
    mapped: usize,
    shm_shared: [usize; SLOTS],
    shm_exclusive: [bool; SLOTS],
}

/// What is locked, by path.
#[derive(Default)]
pub(crate) struct Table(Mutex<HashMap<PathBuf, Arc<Mutex<State>>>>);

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) fn holder(&self, path: &Path) -> Holder {
        let state = Arc::clone(self.0.lock().entry(path.to_owned()).or_default());
        Holder { state, level: NONE, mapped: false, shm_shared: [false; SLOTS], shm_exclusive: [false; SLOTS] }
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// One connection's part in a file's locks.
pub(crate) struct Holder {
    state: Arc<Mutex<State>>,
    level: i32,
    mapped: bool,
    shm_shared: [bool; SLOTS],
    shm_exclusive: [bool; SLOTS],
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Holder {
    /// False: somebody else is in the way.
    pub(crate) fn lock(&mut self, level: i32) -> bool {
        let mut state = self.state.lock();
        if level <= self.level {
            return true;
        }
        if self.level == NONE {
            if state.pending || state.exclusive {
                return false;
            }
            state.shared += 1;
            self.level = SHARED;
        }
        if level >= RESERVED && self.level < RESERVED {
            if state.reserved {
                return false;
            }
            state.reserved = true;
            self.level = RESERVED;
        }
        if level == EXCLUSIVE {
            state.pending = true;
            self.level = PENDING;
            if state.shared > 1 {
                return false;
            }
            state.exclusive = true;
            self.level = EXCLUSIVE;
        }
        true
    }

    /// Down to `SHARED` or `NONE`.
    pub(crate) fn unlock(&mut self, level: i32) {
        let mut state = self.state.lock();
        if self.level >= RESERVED && level < RESERVED {
            state.reserved = false;
            state.pending = false;
            state.exclusive = false;
        }
        if self.level >= SHARED && level < SHARED {
            state.shared = state.shared.saturating_sub(1);
        }
        self.level = self.level.min(level);
    }

    pub(crate) fn is_reserved(&self) -> bool {
        self.state.lock().reserved
    }

    /// A region of shared memory, `None` when it is not there and not to be made.
    pub(crate) fn region(&mut self, index: usize, bytes: usize, extend: bool) -> Option<*mut u64> {
        let mut state = self.state.lock();
        if !self.mapped {
            self.mapped = true;
            state.mapped += 1;
        }
        if index >= state.regions.len() && !extend {
            return None;
        }
        while state.regions.len() <= index {
            state.regions.push(vec![0; bytes / 8].into_boxed_slice());
        }
        state.regions.get_mut(index).map(|region| region.as_mut_ptr())
    }

    /// The last one to leave takes the shared memory with it: whoever comes next reads the log anew.
    pub(crate) fn unmap(&mut self) {
        if !std::mem::take(&mut self.mapped) {
            return;
        }
        self.shm_unlock(0, SLOTS);
        let mut state = self.state.lock();
        state.mapped = state.mapped.saturating_sub(1);
        if state.mapped == 0 {
            state.regions.clear();
        }
    }

    /// False: somebody else is in the way.
    pub(crate) fn shm_lock(&mut self, first: usize, count: usize, exclusive: bool) -> bool {
        let mut state = self.state.lock();
        let range = || first..(first + count).min(SLOTS);
        let mine = |flags: &[bool; SLOTS], slot: usize| flags.get(slot).copied().unwrap_or(false);
        for slot in range() {
            let others = state.shm_shared.get(slot).copied().unwrap_or(0) - usize::from(mine(&self.shm_shared, slot));
            let taken = state.shm_exclusive.get(slot).copied().unwrap_or(false) && !mine(&self.shm_exclusive, slot);
            if taken || (exclusive && others > 0) {
                return false;
            }
        }
        for slot in range() {
            if exclusive {
                set(&mut self.shm_exclusive, slot, true);
                set(&mut state.shm_exclusive, slot, true);
            } else if !mine(&self.shm_shared, slot) {
                set(&mut self.shm_shared, slot, true);
                if let Some(count) = state.shm_shared.get_mut(slot) {
                    *count += 1;
                }
            }
        }
        true
    }

    pub(crate) fn shm_unlock(&mut self, first: usize, count: usize) {
        let mut state = self.state.lock();
        for slot in first..(first + count).min(SLOTS) {
            if set(&mut self.shm_exclusive, slot, false) {
                set(&mut state.shm_exclusive, slot, false);
            }
            if set(&mut self.shm_shared, slot, false)
                && let Some(count) = state.shm_shared.get_mut(slot)
            {
                *count = count.saturating_sub(1);
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.unmap();
        self.unlock(NONE);
    }
}

/// What it was before.
fn set(flags: &mut [bool; SLOTS], slot: usize, to: bool) -> bool {
    flags.get_mut(slot).is_some_and(|flag| std::mem::replace(flag, to))
}
