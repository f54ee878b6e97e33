//! A disk in memory that loses power, for tests: here, in the crate's own, and in a simulator. Journal, databases and blob
//! files of a store all lie on it: SQLite reaches it by a VFS of its own ([`Disk::vfs`]).
//!
//! It keeps two versions of everything: what is on the platter and what the page cache shows. Writes are tracked by
//! 512-byte sector until `sync_data`, names until `sync_dir`. [`SimDisk::crash`] gives the disk as it may be after loss of
//! power, [`SimDisk::kill`] the same disk after the process died (the page cache survives, and is still not durable).
//! Handles from before either are dead: a thread that still runs cannot write to the disk's next life. Several processes
//! can have the disk at once ([`SimDisk::beside`]), and end one by one.
//!
//! With [`SimDisk::keep_moments`] it keeps a picture of itself before every call that changes something: one run of a
//! store gives every moment at which it could have died. Pictures share the pages in which they do not differ.

mod content;
mod ground;
mod inode;
mod sqlite;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use swarmkeep_sqlite::Vfs;
use swarmkeep_vfs::Mount;

use self::{inode::Inode, sqlite::Mounted};
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
    /// Under which name SQLite knows it: made when it is asked for.
    mount: Arc<OnceLock<Mount>>,
}

#[derive(Debug)]
struct State {
    /// The newest process.
    life: u64,
    /// Those that have not ended.
    alive: BTreeSet<u64>,
    /// Locks: of which file, by which process, with which handle, and whether alone.
    locks: Vec<ground::Held>,
    handles: u64,
    /// Something that is to happen while a process is in the middle of a call.
    meanwhile: Option<(u64, ground::Once)>,
    inodes: BTreeMap<u64, Arc<Inode>>,
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
    /// Calls that a fault made fail, and on what.
    struck: BTreeMap<(Call, PathBuf), u64>,
    capacity: Option<u64>,
    /// What [`SimDisk::note`] was last told.
    noted: u64,
    moments: Option<Vec<State>>,
}

#[derive(Debug, Clone)]
struct NameChange {
    remove: Option<PathBuf>,
    add: Option<(PathBuf, u64)>,
}

/// What a call is on.
#[derive(Debug, Clone, Copy)]
enum On<'a> {
    Path(&'a Path),
    Inode(u64),
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
            alive: BTreeSet::from([0]),
            locks: Vec::new(),
            handles: 0,
            meanwhile: None,
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
            struck: BTreeMap::new(),
            capacity: None,
            noted: 0,
            moments: None,
        };
        Self::of(state)
    }

    fn of(state: State) -> Self {
        Self { life: state.life, state: Arc::new(Mutex::new(state)), mount: Arc::default() }
    }

    /// A copy of everything, with a life of its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::of(self.state.lock().picture())
    }

    /// From now on a picture is kept of the moment before every call that changes something.
    pub fn keep_moments(&self) {
        self.state.lock().moments = Some(Vec::new());
    }

    /// The moments kept, and the present one. None are kept from here on.
    #[must_use]
    pub fn moments(&self) -> Vec<Self> {
        let mut state = self.state.lock();
        let mut moments = state.moments.take().unwrap_or_default();
        moments.push(state.picture());
        moments.into_iter().map(Self::of).collect()
    }

    /// Something outside the store that belongs to this moment, such as how much has been acknowledged.
    pub fn note(&self, what: u64) {
        self.state.lock().noted = what;
    }

    /// What was noted last.
    #[must_use]
    pub fn noted(&self) -> u64 {
        self.state.lock().noted
    }

    /// Adds a fault.
    pub fn fail(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Whether a call of this kind, or (`None`) any, may fail by a fault that is set.
    #[must_use]
    pub fn may_fail(&self, call: Option<Call>) -> bool {
        let state = self.state.lock();
        state.faults.iter().any(|fault| call.is_none() || fault.call.is_none() || fault.call == call)
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

    /// What the files hold together, in bytes, as the cache shows them.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    /// The `n`-th call from now that changes something (writes, syncs, names), and all calls after it, fail and do nothing:
    /// the moment of death, seen from inside.
    pub fn die_at(&self, n: u64) {
        let mut state = self.state.lock();
        state.dies_at = Some(state.changes + n);
    }

    /// Another process gets at the disk, beside those that do.
    #[must_use]
    pub fn beside(&self) -> Self {
        let mut state = self.state.lock();
        state.life += 1;
        let life = state.life;
        state.alive.insert(life);
        Self { state: Arc::clone(&self.state), life, mount: Arc::default() }
    }

    /// This process ends; its handles are dead, and its locks are given back.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.alive.remove(&self.life);
        let life = self.life;
        state.locks.retain(|held| held.life != life);
    }

    /// Does something just before the `n`-th call from now that changes something: whoever makes that call is stopped in the
    /// middle of it meanwhile.
    pub fn meanwhile(&self, n: u64, what: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        let at = state.changes + n;
        state.meanwhile = Some((at, ground::Once(Box::new(what))));
    }

    /// Forgets what was to happen. False: it has happened.
    pub fn never_mind(&self) -> bool {
        self.state.lock().meanwhile.take().is_some()
    }

    /// Whether the moment set by [`SimDisk::die_at`] has come.
    #[must_use]
    pub fn has_died(&self) -> bool {
        let state = self.state.lock();
        state.dies_at.is_some_and(|at| state.changes >= at)
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

    /// Calls that a fault made fail: the kind of each, and the file or folder that it was on.
    #[must_use]
    pub fn struck(&self) -> BTreeMap<(Call, PathBuf), u64> {
        self.state.lock().struck.clone()
    }

    /// The process dies; the machine runs on. The same disk with a warm cache; old handles are dead.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut state = self.state.lock();
        state.life += 1;
        let life = state.life;
        state.alive = BTreeSet::from([life]);
        state.locks.clear();
        state.meanwhile = None;
        state.faults.clear();
        state.dies_at = None;
        state.moments = None;
        Self { state: Arc::clone(&self.state), life: state.life, mount: Arc::default() }
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
        for inode in state.inodes.values_mut().filter(|inode| inode.is_dirty()) {
            Arc::make_mut(inode).lose(loss, &dice);
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
        state.inodes.get(inode).map(|inode| inode.cached.to_vec())
    }

    /// Changes one byte in place, on the platter and in the cache: what rot does.
    pub fn rot(&self, path: &Path, offset: usize, change: impl FnOnce(&mut u8)) {
        self.alter(path, |bytes| {
            if let Some(byte) = bytes.get_mut(offset) {
                change(byte);
            }
        });
    }

    /// Changes a file's bytes on the platter and in the cache, behind everybody's back.
    pub fn alter(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let Some(inode) = state.names.get(path).copied().and_then(|inode| state.inodes.get_mut(&inode)) else { return };
        Arc::make_mut(inode).alter(change);
    }

    /// A file's length in bytes; `None`: there is none of this name.
    ///
    /// # Errors
    /// What a fault says.
    pub fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        self.enter(Call::Other, On::Path(path))?;
        let state = self.state.lock();
        Ok(state.names.get(path).and_then(|inode| state.inodes.get(inode)).map(|inode| inode.cached.len() as u64))
    }

    /// The hash of every file's name and bytes, as the cache shows them: equal disks have equal ones.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let state = self.state.lock();
        let mut hasher = blake3::Hasher::new();
        for (name, inode) in &state.names {
            hasher.update(name.as_os_str().as_encoded_bytes());
            if let Some(inode) = state.inodes.get(inode) {
                inode.cached.hash(&mut hasher);
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// Every file's name, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().names.keys().cloned().collect()
    }

    /// Enters a call: `Err` when it is to do nothing but fail, `Ok(Some)` when it is to fail after half of it.
    fn enter(&self, call: Call, on: On<'_>) -> io::Result<Option<Failure>> {
        let mut state = self.state.lock();
        if !state.alive.contains(&self.life) {
            return Err(io::Error::other("this process is dead"));
        }
        let changes = !matches!(call, Call::Open | Call::Read | Call::Other);
        if changes && state.meanwhile.as_ref().is_some_and(|(at, _)| state.changes >= *at) {
            let meanwhile = state.meanwhile.take();
            drop(state);
            if let Some((_, ground::Once(what))) = meanwhile {
                what();
            }
            state = self.state.lock();
            if !state.alive.contains(&self.life) {
                return Err(io::Error::other("this process is dead"));
            }
        }
        state.all_calls += 1;
        *state.calls.entry(call).or_default() += 1;
        if changes {
            state.changes += 1;
            if state.moments.is_some() {
                let picture = state.picture();
                state.moments.get_or_insert_default().push(picture);
            }
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
        if failure.is_some() {
            let named = |inode| state.names.iter().find(|(_, named)| **named == inode).map(|(name, _)| name.clone());
            let path = match on {
                On::Path(path) => path.to_owned(),
                On::Inode(inode) => named(inode).unwrap_or_default(),
            };
            *state.struck.entry((call, path)).or_default() += 1;
        }
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
    /// The files as they are, without faults, with a life of its own.
    fn picture(&self) -> Self {
        Self {
            life: self.life,
            alive: BTreeSet::from([self.life]),
            locks: Vec::new(),
            handles: 0,
            meanwhile: None,
            inodes: self.inodes.clone(),
            next_inode: self.next_inode,
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            directories: self.directories.clone(),
            name_changes: self.name_changes.clone(),
            faults: Vec::new(),
            calls: BTreeMap::new(),
            all_calls: 0,
            changes: 0,
            dies_at: None,
            struck: BTreeMap::new(),
            capacity: self.capacity,
            noted: self.noted,
            moments: None,
        }
    }

    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.cached.len() as u64).sum()
    }

    /// With all that is in it; durable at once, as directories are here.
    fn rename_directory(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.directories.contains(to) || self.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let moved = |path: &PathBuf| match path.strip_prefix(from) {
            Ok(rest) if rest == Path::new("") => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path.clone(),
        };
        self.directories = self.directories.iter().map(moved).collect();
        for names in [&mut self.names, &mut self.durable_names] {
            *names = std::mem::take(names).iter().map(|(name, inode)| (moved(name), *inode)).collect();
        }
        for change in &mut self.name_changes {
            change.remove = change.remove.as_ref().map(moved);
            change.add = change.add.take().map(|(name, inode)| (moved(&name), inode));
        }
        Ok(())
    }

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

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        self.enter(Call::Open, On::Path(path))?;
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
                state.inodes.insert(inode, Arc::default());
                state.change(NameChange { remove: None, add: Some((path.to_owned(), inode)) });
                inode
            }
        };
        // Without the mount: a file that SQLite has open must not keep alive what SQLite knows the disk by.
        let disk = Self { mount: Arc::default(), ..self.clone() };
        Ok(Arc::new(SimFile { disk, inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter(Call::Rename, On::Path(from))?;
        let mut state = self.state.lock();
        if state.directories.contains(from) {
            return state.rename_directory(from, to);
        }
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change(NameChange { remove: Some(from.to_owned()), add: Some((to.to_owned(), inode)) });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.enter(Call::Remove, On::Path(path))?;
        let mut state = self.state.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange { remove: Some(path.to_owned()), add: None });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.enter(Call::Remove, On::Path(path))?;
        let mut state = self.state.lock();
        let inside = |name: &PathBuf| name.parent() == Some(path);
        if state.names.keys().any(inside) || state.directories.iter().any(inside) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if state.directories.remove(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.enter(Call::SyncDir, On::Path(path))?;
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
        self.enter(Call::Other, On::Path(path))?;
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
        self.enter(Call::Other, On::Path(path))?;
        let mut state = self.state.lock();
        for directory in path.ancestors() {
            state.directories.insert(directory.to_owned());
        }
        Ok(())
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.enter(Call::Other, On::Path(path))?;
        let state = self.state.lock();
        Ok(state.capacity.unwrap_or(1 << 40).saturating_sub(state.used()))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.size(path)?.is_some())
    }

    fn vfs(&self) -> Vfs {
        if let Some(mount) = self.mount.get() {
            return Vfs::named(mount.name());
        }
        let handle = Mounted(Self { mount: Arc::default(), ..self.clone() });
        match swarmkeep_vfs::mount(Arc::new(handle)) {
            Ok(mount) => Vfs::named(self.mount.get_or_init(|| mount).name()),
            // SQLite knows no such name: every open of a database says so.
            Err(_) => Vfs::named("swarmkeep-unmounted"),
        }
    }
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        // A file without a name lives on while it is open; here its writes go nowhere, which nothing can see.
        state
            .inodes
            .get_mut(&self.inode)
            .map(|inode| work(Arc::make_mut(inode)))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.enter(Call::Read, On::Inode(self.inode))?;
        let state = self.disk.state.lock();
        let inode = state.inodes.get(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        Ok(inode.cached.read(bytes, usize::try_from(offset).unwrap_or(usize::MAX)))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let failure = self.disk.enter(Call::Write, On::Inode(self.inode))?;
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
        let failure = self.disk.enter(Call::Sync, On::Inode(self.inode))?;
        self.with(|inode| match failure {
            None => {
                inode.sync();
                Ok(())
            }
            Some(failure) => {
                match failure {
                    Failure::SyncDrops => inode.drop_pages(),
                    _ => inode.mark_clean(),
                }
                Err(io::Error::from_raw_os_error(5))
            }
        })?
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.enter(Call::Write, On::Inode(self.inode))?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        self.with(|inode| inode.set_len(bytes))
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.enter(Call::Other, On::Inode(self.inode))?;
        let state = self.disk.state.lock();
        let inode = state.inodes.get(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        Ok(inode.cached.len() as u64)
    }
}
