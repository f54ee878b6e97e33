//! Who holds the store: an exclusive `flock` on the lock file of its newest term (`lock`, then `lock-2`, …).
//!
//! The kernel gives the lock back when the holder's last descriptor closes, however it dies. The descriptor is closed on
//! exec, so that children which outlive the daemon do not keep it. The file is never unlinked: two processes could else hold
//! two files of one name; and its inode is compared after locking, in case somebody did. What stands in it is a hint for
//! people and for the CLI, not the lock.
//!
//! A holder that is stopped, or does not answer and cannot be ended, keeps its lock. [`take_over`] begins the next term:
//! from then on the old holder tells nobody that anything was written ([`Fence`]), and its files are its own, whatever it
//! does with them. Why nothing is lost or damaged by that is argued in `docs/recovery.md`, "Taking over".

mod ground;
mod home;
mod network;
mod term;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

pub use self::{
    ground::{Ground, Identity, Kind, LockFile},
    term::Fence,
};
use crate::disk::{OpenHow, RealDisk};

const HINT_BYTES: u64 = 64 * 1024;
const ATTEMPTS: usize = 8;
/// Names the drafts of lock files that this process makes.
static DRAFTS: AtomicU64 = AtomicU64::new(1);

/// What a holder says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Where it answers, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it took the store, ms since the Unix epoch.
    pub started_at_ms: u64,
    /// Whether it parked the store before it let go; absent: it does not say (a tool that only looks).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<bool>,
    /// The lock file that this was written into: inode, and when it was made. In a folder that was copied or restored it is
    /// another one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// How the store's present term began; absent: it is the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<Box<TakenOver>>,
}

/// A takeover: that a store was taken away from a process, and which.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TakenOver {
    /// The term it began, from 2.
    pub term: u64,
    /// When, ms since the Unix epoch.
    pub at_ms: u64,
    /// On which machine.
    pub host: String,
    /// The process that held the store until then, by its own word; 0: it did not say.
    pub from_pid: u32,
    /// Where it answered, by its own word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_address: Option<String>,
    /// Since when it had held the store, ms since the Unix epoch, by its own word.
    pub from_started_at_ms: u64,
    /// The store has it in its own history.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_told: bool,
}

/// Why the store was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    #[error("{} is held by {}", .path.display(), who(.holder.as_ref()))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder says of itself; `None`: nothing that can be read.
        holder: Option<Holder>,
    },
    /// Nobody has it: it is opened, not taken over.
    #[error("nobody holds {}", .path.display())]
    Free {
        /// The lock file.
        path: PathBuf,
    },
    /// Somebody else took it over at the same time.
    #[error("{} was taken over by another process just now", .path.display())]
    Overtaken {
        /// The lock file that the other one made.
        path: PathBuf,
    },
    /// On a network file system, where locks and syncs are not what this store needs them to be.
    #[error("{} lies on a network file system ({kind}), where a store could be damaged: use a local disk", .path.display())]
    Network {
        /// The folder.
        path: PathBuf,
        /// Which file system.
        kind: String,
    },
    /// The system refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What it says.
        #[source]
        error: io::Error,
    },
}

fn who(holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { pid, address: Some(address), .. }) => format!("process {pid}, which answers at {address}"),
        Some(Holder { pid, .. }) => format!("process {pid}"),
        None => "another process".into(),
    }
}

/// The right to write a store, for as long as this lives and its term lasts.
#[derive(Debug)]
pub struct StoreLock {
    ground: Arc<dyn Ground>,
    file: Box<dyn LockFile>,
    path: PathBuf,
    store_dir: PathBuf,
    term: u64,
    home: PathBuf,
    fence: Fence,
    previous: Option<Holder>,
    taken_over: Option<Box<TakenOver>>,
}

impl StoreLock {
    /// Takes the store in `store_dir` (which exists), without waiting; after a takeover that did not come to its end, once
    /// that is done.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(store_dir: &Path, holder: &Holder) -> Result<Self, LockError> {
        Self::take_on(Arc::new(RealDisk), store_dir, holder)
    }

    /// [`StoreLock::take`] on a file system of one's own.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take_on(ground: Arc<dyn Ground>, store_dir: &Path, holder: &Holder) -> Result<Self, LockError> {
        let first = term::path(store_dir, 1);
        let fail = |error: io::Error| LockError::Io { path: first.clone(), error };
        if let Some(kind) = ground.network(store_dir).map_err(fail)? {
            return Err(LockError::Network { path: store_dir.to_owned(), kind });
        }
        for _ in 0..ATTEMPTS {
            let number = term::newest(&*ground, store_dir).map_err(fail)?;
            let path = term::path(store_dir, number);
            let file = ground.open_lock(&path, OpenHow::Create).map_err(fail)?;
            if !file.try_lock(true).map_err(fail)? {
                return Err(LockError::Locked { holder: read_hint(&*file), path });
            }
            let ours = file.identity().map_err(fail)?;
            let fence = Fence::of(&ground, store_dir, number, ours);
            // Somebody took the store over, or the file away, between opening and locking: this lock holds nobody off.
            if fence.look().map_err(fail)? {
                continue;
            }
            let previous = read_hint(&*file);
            let parked = holder.parked.or_else(|| previous.as_ref()?.parked);
            let taken_over = previous.as_ref().and_then(|previous| previous.taken_over.clone());
            let (store_dir, home) = (store_dir.to_owned(), PathBuf::new());
            let mut lock = Self { ground, file, path, store_dir, term: number, home, fence, previous, taken_over };
            lock.say(&Holder { parked, ..holder.clone() }).map_err(fail)?;
            return lock.settled();
        }
        Err(fail(io::Error::other("the lock file is being replaced by somebody")))
    }

    fn settled(mut self) -> Result<Self, LockError> {
        let settled = home::settle(&*self.ground, &self.store_dir, self.term);
        self.home = settled.map_err(|error| LockError::Io { path: self.path.clone(), error })?;
        Ok(self)
    }

    /// Changes what this holder says of itself.
    ///
    /// # Errors
    /// What the system says; the lock is held all the same.
    pub fn say(&mut self, holder: &Holder) -> io::Result<()> {
        let (file, taken_over) = (self.name_of_file(), self.taken_over.clone());
        let said = Holder { file, taken_over, ..holder.clone() };
        let mut text = serde_json::to_vec(&said).map_err(io::Error::other)?;
        // In one write over what was there, with spaces where that was longer: whoever reads meanwhile finds one or the
        // other, and never a file without a word.
        let before = usize::try_from(self.file.len()?.min(HINT_BYTES)).unwrap_or_default();
        text.resize(text.len().max(before), b' ');
        self.file.write(&text)
    }

    fn name_of_file(&self) -> Option<String> {
        let (_, inode) = self.file.identity().ok()?;
        // Where the file system does not say when it was made, the inode alone has to do.
        Some(format!("{inode}-{}", self.file.made_ns()))
    }

    /// Who holds the store by now, which may be another one.
    pub(crate) fn holder_now(&self) -> Option<Holder> {
        holder_on(&*self.ground, &self.store_dir).ok().flatten()
    }

    /// The id of this process.
    pub(crate) fn process(&self) -> u32 {
        self.ground.process()
    }

    /// Whether the last holder wrote into another lock file than this: the folder is a copy, or was restored from one.
    #[must_use]
    pub fn is_a_copy(&self) -> bool {
        let before = self.previous.as_ref().and_then(|previous| previous.file.as_ref());
        before.is_some() && before != self.name_of_file().as_ref()
    }

    /// What the last holder said of itself.
    #[must_use]
    pub fn previous(&self) -> Option<&Holder> {
        self.previous.as_ref()
    }

    /// The takeover that began this term, as long as the store does not have it in its own history.
    #[must_use]
    pub fn untold(&self) -> Option<&TakenOver> {
        self.taken_over.as_deref().filter(|taken_over| !taken_over.is_told)
    }

    /// The store has the takeover in its own history. It is written with what this holder says next.
    pub fn told(&mut self) {
        if let Some(taken_over) = &mut self.taken_over {
            taken_over.is_told = true;
        }
    }

    /// What to compare before anybody is told that something was written.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Where the files of this term are: the store's folder itself, or a folder in it.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the files of earlier terms that nobody holds any more. What they have in quarantine stays.
    ///
    /// # Errors
    /// What the system says; it is tried again by whoever opens the store next.
    pub fn tidy(&self) -> io::Result<()> {
        home::tidy(&*self.ground, &self.store_dir, self.term)
    }
}

/// Takes the store in `store_dir` away from the process that holds it, whether that is stopped, hangs, or cannot be seen from
/// here. From the moment at which the new term's lock file is there, nothing more is acknowledged by that process; everything
/// it acknowledged before is in the files of the new term when this returns. Dropping the lock leaves the store free, to be
/// opened as always.
///
/// Blocks: for as long as copying the store takes, unless the old process ends within a second. What is interrupted is gone
/// on with by whoever opens the store next.
///
/// # Errors
/// `Free`: nobody holds it. `Overtaken`: another takeover was quicker. See [`LockError`] for the others; when the copy could
/// not be made, the old holder is shut out all the same.
pub fn take_over(store_dir: &Path, now_ms: u64) -> Result<StoreLock, LockError> {
    take_over_on(Arc::new(RealDisk), store_dir, now_ms)
}

/// [`take_over`] on a file system of one's own.
///
/// # Errors
/// As [`take_over`].
pub fn take_over_on(ground: Arc<dyn Ground>, store_dir: &Path, now_ms: u64) -> Result<StoreLock, LockError> {
    let fail_at = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| LockError::Io { path, error }
    };
    if let Some(kind) = ground.network(store_dir).map_err(fail_at(store_dir))? {
        return Err(LockError::Network { path: store_dir.to_owned(), kind });
    }
    let newest = term::newest(&*ground, store_dir).map_err(fail_at(store_dir))?;
    let path = term::path(store_dir, newest);
    let Some(from) = holder_on(&*ground, store_dir).map_err(fail_at(&path))? else {
        return Err(LockError::Free { path });
    };
    let taken_over = TakenOver {
        term: newest + 1,
        at_ms: now_ms,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        from_pid: from.pid,
        from_address: from.address,
        from_started_at_ms: from.started_at_ms,
        is_told: false,
    };
    let path = term::path(store_dir, newest + 1);
    let fail = fail_at(&path);
    let begin = || {
        // Locked and durable before it has its name: whoever sees the term sees that it is held. The link is made by one
        // process only, whatever the others are doing.
        let (pid, number) = (ground.process(), DRAFTS.fetch_add(1, Ordering::Relaxed));
        let draft = store_dir.join(format!("lock-{}.{pid}-{number}.part", newest + 1));
        // One that a process of this id left, and nobody knows any more.
        let left = ground.remove(&draft);
        left.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        let file = ground.open_lock(&draft, OpenHow::CreateNew)?;
        if !file.try_lock(true)? {
            return Err(io::Error::other("somebody locks a file that nobody else knows"));
        }
        let fence = Fence::of(&ground, store_dir, newest + 1, file.identity()?);
        let mut lock = StoreLock {
            ground: ground.clone(),
            file,
            path: path.clone(),
            store_dir: store_dir.to_owned(),
            term: newest + 1,
            home: PathBuf::new(),
            fence,
            previous: None,
            taken_over: Some(Box::new(taken_over)),
        };
        let said = lock.say(&Holder { pid, started_at_ms: now_ms, ..Holder::default() });
        let linked = said.and_then(|()| lock.file.sync()).and_then(|()| ground.link(&draft, &path)).map(|()| lock);
        ground.remove(&draft)?;
        linked.and_then(|lock| ground.sync_dir(store_dir).map(|()| lock))
    };
    let lock = match begin() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(LockError::Overtaken { path });
        }
        begun => begun.map_err(fail)?,
    };
    lock.settled()
}

/// Where the files of a store are now: its folder itself, or after a takeover a folder in it. Not a promise for longer than
/// nobody takes it over.
#[must_use]
pub fn home(store_dir: &Path) -> PathBuf {
    home_on(&RealDisk, store_dir)
}

/// [`home`] on a file system of one's own.
#[must_use]
pub fn home_on(ground: &dyn Ground, store_dir: &Path) -> PathBuf {
    let newest = term::newest(ground, store_dir);
    newest.and_then(|newest| home::of(ground, store_dir, newest)).unwrap_or_else(|_| store_dir.to_owned())
}

/// The lock file of the store's newest term.
#[must_use]
pub fn file(store_dir: &Path) -> PathBuf {
    term::path(store_dir, term::newest(&RealDisk, store_dir).unwrap_or(1))
}

/// Who holds the store in `store_dir`, by its hint; `None`: nobody does.
///
/// # Errors
/// What the system says. No lock file: nobody.
pub fn holder(store_dir: &Path) -> io::Result<Option<Holder>> {
    holder_on(&RealDisk, store_dir)
}

fn holder_on(ground: &dyn Ground, store_dir: &Path) -> io::Result<Option<Holder>> {
    let file = match ground.open_lock(&term::path(store_dir, term::newest(ground, store_dir)?), OpenHow::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    // A shared lock is enough to see that nobody holds an exclusive one; it is given back at once.
    match file.try_lock(false)? {
        true => Ok(None),
        false => Ok(Some(read_hint(&*file).unwrap_or_default())),
    }
}

fn read_hint(file: &dyn LockFile) -> Option<Holder> {
    // It may be changing just now: then what is read is half of each, and whole the next time.
    (0..ATTEMPTS).find_map(|_| serde_json::from_slice(&file.read(HINT_BYTES).ok()?).ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_holder_at_a_time_and_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()).unwrap(), None);
        let me = Holder {
            pid: 42,
            address: Some("127.0.0.1:7420".into()),
            started_at_ms: 7,
            parked: None,
            ..Holder::default()
        };
        let lock = StoreLock::take(dir.path(), &me).unwrap();
        let refused = StoreLock::take(dir.path(), &Holder::default()).unwrap_err();
        assert!(matches!(&refused, LockError::Locked { holder: Some(holder), .. } if holder.pid == me.pid));
        assert!(refused.to_string().ends_with("is held by process 42, which answers at 127.0.0.1:7420"), "{refused}");
        let said = holder(dir.path()).unwrap().unwrap();
        assert_eq!(said, Holder { file: said.file.clone(), ..me });
        drop(lock);
        assert_eq!(holder(dir.path()).unwrap(), None);
        StoreLock::take(dir.path(), &Holder::default()).unwrap();
        assert!(dir.path().join("lock").exists(), "never unlinked");
    }

    #[test]
    fn how_the_last_holder_ended_is_told_to_the_next_one_whoever_looks_in_between() {
        let dir = tempfile::tempdir().unwrap();
        let at_work = Holder { pid: 1, started_at_ms: 7, parked: Some(false), ..Holder::default() };
        drop(StoreLock::take(dir.path(), &at_work).unwrap());
        drop(StoreLock::take(dir.path(), &Holder { pid: 2, ..Holder::default() }).unwrap());
        let mut lock = StoreLock::take(dir.path(), &at_work).unwrap();
        assert_eq!(lock.previous().unwrap().parked, Some(false));
        lock.say(&Holder { parked: Some(true), ..at_work.clone() }).unwrap();
        drop(lock);
        assert_eq!(StoreLock::take(dir.path(), &at_work).unwrap().previous().unwrap().parked, Some(true));
    }

    #[test]
    fn a_shorter_hint_leaves_nothing_of_a_longer_one() {
        let dir = tempfile::tempdir().unwrap();
        let named = |address: &str| Holder { pid: 1, address: Some(address.into()), ..Holder::default() };
        let mut lock = StoreLock::take(dir.path(), &named("a")).unwrap();
        for address in ["a longer address than the other one", "short", ""] {
            lock.say(&named(address)).unwrap();
            let said = holder(dir.path()).unwrap().unwrap();
            assert_eq!(said, Holder { file: said.file.clone(), ..named(address) });
        }
    }

    #[test]
    fn a_hint_that_cannot_be_read_still_holds() {
        let dir = tempfile::tempdir().unwrap();
        let lock = StoreLock::take(dir.path(), &Holder::default()).unwrap();
        fs::write(lock.path(), b"\xff\xfe not json").unwrap();
        let refused = StoreLock::take(dir.path(), &Holder::default()).unwrap_err();
        assert!(matches!(refused, LockError::Locked { holder: None, .. }));
    }

    fn path_of(dir: &tempfile::TempDir, name: &str) -> PathBuf {
        dir.path().join(name)
    }

    /// A store's folder with a file of each kind.
    fn filled() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(path_of(&dir, "journal")).unwrap();
        fs::create_dir_all(path_of(&dir, "quarantine")).unwrap();
        for name in ["records.db", "records.db-shm", "journal/1", "journal/spare-1", "quarantine/1", "swarmkeep.toml"] {
            fs::write(path_of(&dir, name), name).unwrap();
        }
        dir
    }

    #[test]
    fn a_takeover_ends_the_old_term_and_works_on_files_of_its_own() {
        let dir = filled();
        assert!(matches!(take_over(dir.path(), 5), Err(LockError::Free { .. })));
        let me = Holder { pid: 42, started_at_ms: 7, ..Holder::default() };
        let old = StoreLock::take(dir.path(), &me).unwrap();
        assert_eq!((old.home(), old.fence().look().unwrap()), (dir.path(), false));
        let new = take_over(dir.path(), 1_000).unwrap();
        assert!(old.fence().look().unwrap() && !new.fence().look().unwrap());
        assert_eq!(new.home(), path_of(&dir, "term-2"));
        assert_eq!(fs::read(new.home().join("journal/1")).unwrap(), b"journal/1");
        let copied = |name: &str| new.home().join(name).exists();
        assert!(copied("quarantine/1") && !copied("journal/spare-1") && !copied("records.db-shm"));
        assert!(!copied("swarmkeep.toml") && !copied("lock"));
        // What the old one writes from now on, it writes to itself.
        fs::write(old.home().join("records.db"), "of the old one").unwrap();
        assert_eq!(fs::read(new.home().join("records.db")).unwrap(), b"records.db");
        let told = new.untold().unwrap().clone();
        assert_eq!((told.term, told.at_ms, told.from_pid, told.from_started_at_ms), (2, 1_000, 42, 7));
        assert!(matches!(StoreLock::take(dir.path(), &me), Err(LockError::Locked { .. })));
        drop(new);
        let mut later = StoreLock::take(dir.path(), &me).unwrap();
        assert_eq!((later.untold(), later.home()), (Some(&told), &*path_of(&dir, "term-2")));
        later.told();
        later.say(&me).unwrap();
        later.tidy().unwrap();
        assert!(path_of(&dir, "journal").exists(), "the old one still has them");
        drop((later, old));
        let later = StoreLock::take(dir.path(), &me).unwrap();
        assert_eq!(later.untold(), None);
        later.tidy().unwrap();
        assert!(!path_of(&dir, "journal").exists() && !path_of(&dir, "records.db").exists());
        assert!(path_of(&dir, "quarantine/1").exists() && path_of(&dir, "swarmkeep.toml").exists());
        assert_eq!(home(dir.path()), path_of(&dir, "term-2"));
    }

    #[test]
    fn a_takeover_from_one_that_ends_meanwhile_copies_nothing() {
        let dir = filled();
        let old = StoreLock::take(dir.path(), &Holder::default()).unwrap();
        let fence = old.fence();
        let ends = std::thread::spawn(move || {
            while !old.fence().look().unwrap() {
                std::thread::yield_now();
            }
        });
        let new = take_over(dir.path(), 1).unwrap();
        ends.join().unwrap();
        assert!(fence.look().unwrap());
        assert_eq!(new.home(), dir.path());
        new.tidy().unwrap();
        assert!(path_of(&dir, "records.db").exists());
    }

    #[test]
    fn a_takeover_that_was_interrupted_is_gone_on_with_by_the_next_open() {
        let dir = filled();
        let old = StoreLock::take(dir.path(), &Holder::default()).unwrap();
        drop(take_over(dir.path(), 1).unwrap());
        // As if it had died before its copy was whole.
        fs::rename(path_of(&dir, "term-2"), path_of(&dir, "term-2.part")).unwrap();
        fs::write(path_of(&dir, "term-2.part/records.db"), "half").unwrap();
        let new = StoreLock::take(dir.path(), &Holder::default()).unwrap();
        assert_eq!(new.home(), path_of(&dir, "term-2"));
        assert_eq!(fs::read(new.home().join("records.db")).unwrap(), b"records.db");
        assert!(!path_of(&dir, "term-2.part").exists());
        // And a takeover from the one that took over: it copies from there.
        fs::write(new.home().join("records.db"), "of term 2").unwrap();
        let third = take_over(dir.path(), 2).unwrap();
        assert_eq!(third.home(), path_of(&dir, "term-3"));
        assert_eq!(fs::read(third.home().join("records.db")).unwrap(), b"of term 2");
        assert!(old.fence().look().unwrap() && new.fence().look().unwrap() && !third.fence().look().unwrap());
        drop(new);
        third.tidy().unwrap();
        assert!(path_of(&dir, "term-2").exists(), "term 1 is held still, and nothing before term 3 is touched");
        drop(old);
        third.tidy().unwrap();
        assert!(!path_of(&dir, "term-2/records.db").exists() && !path_of(&dir, "records.db").exists());
        assert!(path_of(&dir, "term-2/quarantine/1").exists(), "nothing there is removed");
    }

    #[test]
    fn of_many_that_take_over_at_once_each_term_has_one() {
        let dir = filled();
        let old = StoreLock::take(dir.path(), &Holder::default()).unwrap();
        let takers: Vec<_> = (0..4)
            .map(|at_ms| {
                let dir = dir.path().to_owned();
                std::thread::spawn(move || take_over(&dir, at_ms))
            })
            .collect();
        let taken: Vec<_> = takers.into_iter().filter_map(|taker| taker.join().unwrap().ok()).collect();
        let mut paths: Vec<_> = taken.iter().map(StoreLock::path).collect();
        paths.dedup();
        assert_eq!(paths.len(), taken.len());
        let standing = taken.iter().filter(|lock| !lock.fence().look().unwrap()).count();
        assert_eq!((standing, old.fence().look().unwrap()), (1, true));
    }

    #[test]
    fn a_copy_of_a_folder_is_told_from_it() {
        let (dir, other) = (filled(), filled());
        let lock = StoreLock::take(dir.path(), &Holder::default()).unwrap();
        assert!(!lock.is_a_copy(), "a new one");
        fs::copy(lock.path(), path_of(&other, "lock")).unwrap();
        drop(lock);
        assert!(!StoreLock::take(dir.path(), &Holder::default()).unwrap().is_a_copy());
        assert!(StoreLock::take(other.path(), &Holder::default()).unwrap().is_a_copy());
        assert!(!StoreLock::take(other.path(), &Holder::default()).unwrap().is_a_copy(), "from here on it is its own");
    }

    #[test]
    fn a_lock_file_that_was_taken_away_ends_the_term_too() {
        let dir = filled();
        let lock = StoreLock::take(dir.path(), &Holder::default()).unwrap();
        fs::remove_file(lock.path()).unwrap();
        assert!(lock.fence().look().unwrap() && lock.fence().is_passed());
        fs::write(lock.path(), "").unwrap();
        assert!(lock.fence().look().unwrap(), "for good");
    }
}
