//! A disk in memory that loses power, for tests: here, in the crate's own, and in a simulator.
//!
//! It keeps two versions of everything: what is on the platter and what the page cache shows. Writes are tracked by
//! 512-byte sector until `sync_data`, names until `sync_dir`. [`SimDisk::crash`] gives the disk as it may be after loss of
//! power, [`SimDisk::kill`] the same disk after the process died (the page cache survives, and is still not durable).
//! Handles from before either are dead: a thread that still runs cannot write to the disk's next life.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Disk, DiskFile, OpenHow};

/// What a disk writes in one piece, in bytes.
pub const SECTOR: usize = 512;

/// What loss of power leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing of it.
    Nothing,
    /// All of it.
    Everything,
    /// Each sector and each name by the toss of a coin.
    Subset,
    /// What was done first, up to some point; the sector there is torn.
    Prefix,
    /// As `Subset`, and what is not kept may be filled with garbage.
    Garbage,
}

impl Loss {
    /// Every one.
    pub const ALL: [Loss; 5] = [Loss::Nothing, Loss::Everything, Loss::Subset, Loss::Prefix, Loss::Garbage];
}

/// Kinds of calls that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `open` that makes a file, or not.
    Open,
    /// `read_at`.
    Read,
    /// `write_at` and `set_len`.
    Write,
    /// `sync_data`.
    Sync,
    /// `sync_dir`.
    SyncDir,
    /// `rename`.
    Rename,
    /// `remove`, `remove_dir`.
    Remove,
    /// `list`, `create_dir`, `free_bytes`, `len`.
    Other,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// `EIO`, nothing done. A sync that fails so leaves everything as unsynced as it was.
    Eio,
    /// `ENOSPC`, nothing done.
    Enospc,
    /// A write that does half of it, then `ENOSPC`; other calls: as `Enospc`.
    Short,
    /// A sync that fails and marks the pages clean: the cache goes on showing them, no later sync writes them. Other
    /// calls: as `Eio`.
    SyncMarksClean,
    /// A sync that fails and drops the pages: the cache shows the platter again. Other calls: as `Eio`.
    SyncDrops,
}

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which kind; `None`: any.
    pub call: Option<Call>,
    /// The how-manieth of that kind from now, from 1.
    pub nth: u64,
    /// And all after it.
    pub sticky: bool,
    /// How.
    pub failure: Failure,
}

/// The disk. Clones are handles of the same one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

#[derive(Debug)]
struct State {
    life: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    directories: BTreeSet<PathBuf>,
    /// Changes of names since the last `sync_dir` of their directory, in order.
    name_changes: Vec<NameChange>,
    faults: Vec<Fault>,
    calls: BTreeMap<Call, u64>,
    all_calls: u64,
    changes: u64,
    dies_at: Option<u64>,
    capacity: Option<u64>,
}

#[derive(Debug, Clone)]
struct NameChange {
    remove: Option<PathBuf>,
    add: Option<(PathBuf, u64)>,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that a sync will write, in the order they were last written.
    dirty: Vec<usize>,
    length_dirty: bool,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
}

/// Random numbers without a dependency: splitmix64.
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn coin(&self) -> bool {
        self.next() & 1 == 1
    }

    fn below(&self, end: usize) -> usize {
        usize::try_from(self.next() % (end as u64 + 1)).unwrap_or(0)
    }
}

impl fmt::Debug for SimDisk {
    /// Without the files' bytes, which no failed test should print.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            life: 0,
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            directories: BTreeSet::from([PathBuf::from("/")]),
            name_changes: Vec::new(),
            faults: Vec::new(),
            calls: BTreeMap::new(),
            all_calls: 0,
            changes: 0,
            dies_at: None,
            capacity: None,
        };
        Self { state: Arc::new(Mutex::new(state)), life: 0 }
    }

    /// A copy of everything, with a life of its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state.lock();
        let copy = State {
            life: state.life,
            inodes: state.inodes.clone(),
            next_inode: state.next_inode,
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            directories: state.directories.clone(),
            name_changes: state.name_changes.clone(),
            faults: Vec::new(),
            calls: BTreeMap::new(),
            all_calls: 0,
            changes: 0,
            dies_at: None,
            capacity: state.capacity,
        };
        Self { life: copy.life, state: Arc::new(Mutex::new(copy)) }
    }

    /// Adds a fault.
    pub fn fail(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.faults.clear();
        state.dies_at = None;
    }

    /// How much the files may hold together, in bytes; `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// The `n`-th call from now that changes something (writes, syncs, names), and all calls after it, fail and do nothing:
    /// the moment of death, seen from inside.
    pub fn die_at(&self, n: u64) {
        let mut state = self.state.lock();
        state.dies_at = Some(state.changes + n);
    }

    /// Calls of any kind so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().all_calls
    }

    /// Calls of one kind so far.
    #[must_use]
    pub fn calls_of(&self, call: Call) -> u64 {
        self.state.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// Calls so far that changed something.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    /// The process dies; the machine runs on. The same disk with a warm cache; old handles are dead.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut state = self.state.lock();
        state.life += 1;
        state.faults.clear();
        state.dies_at = None;
        Self { state: Arc::clone(&self.state), life: state.life }
    }

    /// Power is lost. Old handles are dead; what is returned is what the disk holds afterwards.
    #[must_use]
    pub fn crash(&self, loss: Loss, seed: u64) -> Self {
        let dice = Dice(AtomicU64::new(seed));
        let disk = self.kill();
        let mut guard = disk.state.lock();
        let state = &mut *guard;
        let changes = std::mem::take(&mut state.name_changes);
        let cut = dice.below(changes.len());
        let mut names = state.durable_names.clone();
        for (index, change) in changes.into_iter().enumerate() {
            let kept = match loss {
                Loss::Nothing => false,
                Loss::Everything => true,
                Loss::Subset | Loss::Garbage => dice.coin(),
                Loss::Prefix => index < cut,
            };
            if kept {
                change.apply(&mut names);
            }
        }
        for inode in state.inodes.values_mut() {
            inode.lose(loss, &dice);
        }
        state.names.clone_from(&names);
        state.durable_names = names;
        state.forget_unnamed();
        drop(guard);
        disk
    }

    /// A file's bytes as the cache shows them.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let inode = state.names.get(path)?;
        state.inodes.get(inode).map(|inode| inode.cached.clone())
    }

    /// Overwrites bytes in place, on the platter and in the cache: what rot does.
    pub fn rot(&self, path: &Path, offset: usize, change: impl FnOnce(&mut u8)) {
        let mut state = self.state.lock();
        let Some(inode) = state.names.get(path).copied().and_then(|inode| state.inodes.get_mut(&inode)) else { return };
        if let Some(byte) = inode.cached.get_mut(offset) {
            change(byte);
            let byte = *byte;
            if let Some(durable) = inode.durable.get_mut(offset) {
                *durable = byte;
            }
        }
    }

    /// Every file's name, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().names.keys().cloned().collect()
    }

    /// Enters a call: `Err` when it is to do nothing but fail, `Ok(Some)` when it is to fail after half of it.
    fn enter(&self, call: Call) -> io::Result<Option<Failure>> {
        let mut state = self.state.lock();
        if state.life != self.life {
            return Err(io::Error::other("this process is dead"));
        }
        state.all_calls += 1;
        *state.calls.entry(call).or_default() += 1;
        if !matches!(call, Call::Open | Call::Read | Call::Other) {
            state.changes += 1;
        }
        if state.dies_at.is_some_and(|at| state.changes >= at) {
            return Err(io::Error::other("this process is dying"));
        }
        let mut failure = None;
        for fault in state.faults.iter_mut().filter(|fault| fault.call.is_none_or(|kind| kind == call)) {
            fault.nth = fault.nth.saturating_sub(1);
            if fault.nth == 0 {
                failure = Some(fault.failure);
            }
        }
        state.faults.retain(|fault| fault.nth > 0 || fault.sticky);
        match failure {
            None => Ok(None),
            Some(failure @ (Failure::SyncMarksClean | Failure::SyncDrops)) if call == Call::Sync => Ok(Some(failure)),
            Some(Failure::Short) if call == Call::Write => Ok(Some(Failure::Short)),
            Some(Failure::Enospc | Failure::Short) => Err(io::ErrorKind::StorageFull.into()),
            Some(_) => Err(io::Error::from_raw_os_error(5)),
        }
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(name) = self.remove {
            names.remove(&name);
        }
        if let Some((name, inode)) = self.add {
            names.insert(name, inode);
        }
    }

    fn is_in(&self, directory: &Path) -> bool {
        let name = self.add.as_ref().map(|(name, _)| name).or(self.remove.as_ref());
        name.and_then(|name| name.parent()) == Some(directory)
    }
}

impl State {
    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.name_changes.push(change);
        self.forget_unnamed();
    }

    fn forget_unnamed(&mut self) {
        let mut named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        named.extend(self.name_changes.iter().filter_map(|change| change.add.as_ref().map(|(_, inode)| *inode)));
        self.inodes.retain(|inode, _| named.contains(inode));
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
            self.length_dirty = true;
        }
        if let Some(place) = self.cached.get_mut(offset..end) {
            place.copy_from_slice(bytes);
        }
        if !bytes.is_empty() {
            let sectors = offset / SECTOR..=(end - 1) / SECTOR;
            self.dirty.retain(|sector| !sectors.contains(sector));
            self.dirty.extend(sectors);
        }
    }

    fn sector(&self, sector: usize) -> &[u8] {
        let start = (sector * SECTOR).min(self.cached.len());
        self.cached.get(start..(start + SECTOR).min(self.cached.len())).unwrap_or_default()
    }

    fn settle(&mut self, sector: usize, bytes: &[u8]) {
        let start = sector * SECTOR;
        let end = start + bytes.len();
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        if let Some(place) = self.durable.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
    }

    fn sync(&mut self) {
        // Not a copy of the cache: pages that a failed sync marked clean are not written.
        for sector in std::mem::take(&mut self.dirty) {
            let bytes = self.sector(sector).to_vec();
            self.settle(sector, &bytes);
        }
        if std::mem::take(&mut self.length_dirty) {
            self.durable.resize(self.cached.len(), 0);
        }
    }

    fn lose(&mut self, loss: Loss, dice: &Dice) {
        let dirty = std::mem::take(&mut self.dirty);
        let cut = dice.below(dirty.len());
        for (index, sector) in dirty.into_iter().enumerate() {
            let mut bytes = self.sector(sector).to_vec();
            let kept = match loss {
                Loss::Nothing => false,
                Loss::Everything => true,
                Loss::Subset | Loss::Garbage => dice.coin(),
                Loss::Prefix => index <= cut,
            };
            if loss == Loss::Prefix && index == cut {
                bytes.truncate(dice.below(bytes.len()));
            }
            if kept {
                self.settle(sector, &bytes);
            } else if loss == Loss::Garbage && dice.coin() {
                bytes.iter_mut().for_each(|byte| *byte = dice.next().to_le_bytes()[0]);
                self.settle(sector, &bytes);
            }
        }
        let length_kept = loss == Loss::Everything || (loss != Loss::Nothing && dice.coin());
        if std::mem::take(&mut self.length_dirty) && length_kept {
            self.durable.resize(self.cached.len(), 0);
        }
        self.cached.clone_from(&self.durable);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        self.enter(Call::Open)?;
        let mut state = self.state.lock();
        let found = state.names.get(path).copied();
        let inode = match (found, how) {
            (Some(_), OpenHow::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, OpenHow::Read | OpenHow::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenHow::Create | OpenHow::CreateNew) => {
                if !path.parent().is_some_and(|parent| state.directories.contains(parent)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.change(NameChange { remove: None, add: Some((path.to_owned(), inode)) });
                inode
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter(Call::Rename)?;
        let mut state = self.state.lock();
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change(NameChange { remove: Some(from.to_owned()), add: Some((to.to_owned(), inode)) });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.enter(Call::Remove)?;
        let mut state = self.state.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange { remove: Some(path.to_owned()), add: None });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.enter(Call::Remove)?;
        let mut state = self.state.lock();
        if state.names.keys().any(|name| name.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if state.directories.remove(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.enter(Call::SyncDir)?;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let changes = std::mem::take(&mut state.name_changes);
        for change in changes {
            if change.is_in(path) {
                change.apply(&mut state.durable_names);
            } else {
                state.name_changes.push(change);
            }
        }
        state.forget_unnamed();
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.enter(Call::Other)?;
        let state = self.state.lock();
        if !state.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |name: &&PathBuf| name.parent() == Some(path);
        let names = state.names.keys().filter(inside).chain(state.directories.iter().filter(inside));
        let mut names: Vec<String> =
            names.filter_map(|name| name.file_name().and_then(OsStr::to_str).map(Into::into)).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // Directories are durable at once: what is tried here is the loss of files and of their names.
        self.enter(Call::Other)?;
        let mut state = self.state.lock();
        for directory in path.ancestors() {
            state.directories.insert(directory.to_owned());
        }
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        self.enter(Call::Other)?;
        let state = self.state.lock();
        let used: u64 = state.inodes.values().map(|inode| inode.cached.len() as u64).sum();
        Ok(state.capacity.unwrap_or(1 << 40).saturating_sub(used))
    }
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        // A file without a name lives on while it is open; here its writes go nowhere, which nothing can see.
        state.inodes.get_mut(&self.inode).map(work).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.enter(Call::Read)?;
        self.with(|inode| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(inode.cached.len());
            let from = inode.cached.get(start..).unwrap_or_default();
            let count = from.len().min(bytes.len());
            for (to, from) in bytes.iter_mut().zip(from) {
                *to = *from;
            }
            count
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let failure = self.disk.enter(Call::Write)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let mut taken = bytes.len();
        if failure.is_some() {
            taken /= 2;
        }
        {
            let state = self.disk.state.lock();
            if let Some(capacity) = state.capacity {
                let others: u64 = state
                    .inodes
                    .iter()
                    .filter(|(inode, _)| **inode != self.inode)
                    .map(|(_, i)| i.cached.len() as u64)
                    .sum();
                let room = usize::try_from(capacity.saturating_sub(others)).unwrap_or(usize::MAX);
                let length = state.inodes.get(&self.inode).map_or(0, |inode| inode.cached.len());
                taken = taken.min(room.max(length).saturating_sub(offset));
            }
        }
        self.with(|inode| inode.write(bytes.get(..taken).unwrap_or_default(), offset))?;
        if taken < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let failure = self.disk.enter(Call::Sync)?;
        self.with(|inode| match failure {
            None => {
                inode.sync();
                Ok(())
            }
            Some(failure) => {
                inode.dirty.clear();
                if failure == Failure::SyncDrops {
                    inode.cached.clone_from(&inode.durable);
                    inode.length_dirty = false;
                }
                Err(io::Error::from_raw_os_error(5))
            }
        })?
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.enter(Call::Write)?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        self.with(|inode| {
            inode.length_dirty |= inode.cached.len() != bytes;
            inode.cached.resize(bytes, 0);
            inode.dirty.retain(|sector| sector * SECTOR < bytes);
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.enter(Call::Other)?;
        self.with(|inode| inode.cached.len() as u64)
    }
}
