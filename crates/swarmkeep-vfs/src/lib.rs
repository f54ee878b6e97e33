//! SQLite on files of one's own.
//!
//! [`mount`] gives a file system ([`Files`]) a name under which SQLite knows it as a VFS. Locks and the shared memory of
//! write-ahead logs are kept in the heap: all connections to such a file are in this process.
//!
//! This is a facility of tests: a simulated disk under a database. It is the one crate of the workspace with `unsafe` code,
//! all of it in `table`, because SQLite calls its files through a table of C functions. What those functions do is
//! safe code, in `locks` and in whoever implements [`File`].

mod locks;
mod table;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

/// A file system, as far as SQLite uses one. Paths are as the database was opened.
pub trait Files: fmt::Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing; `create`: makes it if it is not there.
    ///
    /// # Errors
    /// `NotFound`, and what the system says.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn File>>;

    /// Removes a file's name.
    ///
    /// # Errors
    /// `NotFound`, and what the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// A file's length in bytes; `None`: there is none of this name.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self, path: &Path) -> io::Result<Option<u64>>;
}

/// An open file.
pub trait File: fmt::Debug + Send + 'static {
    /// Reads up to `bytes.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of it.
    ///
    /// # Errors
    /// What the system says; after it any part may be written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes durable what was written.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self) -> io::Result<u64>;
}

/// A VFS as SQLite knows it. Never freed: a connection may still point to it. Used again for other files when no file of it
/// is open any more, so that thousands of mounts one after the other need a few of these.
#[derive(Debug)]
struct Slot {
    name: String,
    files: Mutex<Option<Arc<dyn Files>>>,
    locks: locks::Table,
    /// Open files.
    open: AtomicUsize,
}

static SLOTS: Mutex<Vec<(&'static Slot, bool)>> = Mutex::new(Vec::new());

/// A file system that SQLite knows by a name, until this is dropped and its last file is closed.
#[derive(Debug)]
pub struct Mount {
    slot: &'static Slot,
}

impl Mount {
    /// The name of the VFS.
    #[must_use]
    pub fn name(&self) -> &'static str {
        &self.slot.name
    }
}

/// Makes a file system known to SQLite.
///
/// # Errors
/// When SQLite does not take another VFS.
pub fn mount(files: Arc<dyn Files>) -> io::Result<Mount> {
    let mut slots = SLOTS.lock();
    let free = slots.iter_mut().find(|(slot, taken)| !taken && slot.open.load(Ordering::Acquire) == 0);
    if let Some((slot, taken)) = free {
        *taken = true;
        slot.locks.clear();
        *slot.files.lock() = Some(files);
        return Ok(Mount { slot });
    }
    let slot: &'static Slot = Box::leak(Box::new(Slot {
        name: format!("swarmkeep-{}", slots.len()),
        files: Mutex::new(Some(files)),
        locks: locks::Table::default(),
        open: AtomicUsize::new(0),
    }));
    table::register(slot)?;
    slots.push((slot, true));
    Ok(Mount { slot })
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.slot.files.lock().take();
        for (slot, taken) in SLOTS.lock().iter_mut() {
            if std::ptr::eq(*slot, self.slot) {
                *taken = false;
            }
        }
    }
}

impl Slot {
    fn files(&self) -> io::Result<Arc<dyn Files>> {
        self.files.lock().clone().ok_or_else(|| io::Error::other("this file system is gone"))
    }
}

/// An open file, with what SQLite's unix VFS keeps beside it.
#[derive(Debug)]
struct Opened {
    slot: &'static Slot,
    path: PathBuf,
    file: Box<dyn File>,
    lock: locks::Holder,
    /// Opened for reading: as with the operating system's files, a writer's lock cannot be had, and nothing is written.
    read_only: bool,
    /// A journal that this open made: its first sync also syncs the directory. As in SQLite's own, a failure of that is
    /// not heard of.
    sync_dir: bool,
}

impl Opened {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        if std::mem::take(&mut self.sync_dir)
            && let Some(parent) = self.path.parent()
        {
            let _ = self.slot.files().and_then(|files| files.sync_dir(parent));
        }
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.slot.open.fetch_sub(1, Ordering::Release);
    }
}
