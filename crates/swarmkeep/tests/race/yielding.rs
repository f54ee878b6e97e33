//! The simulated disk, with a chance for every other thread before each call of the journal's.

use std::{
    io,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use swarmkeep::disk::{Disk, DiskFile, OpenHow, simulated::SimDisk};
use swarmkeep_sqlite::Vfs;

#[derive(Debug)]
pub struct Yielding {
    disk: SimDisk,
    /// Which syncs of files fail.
    failing: Arc<Failing>,
}

/// Which syncs fail, counted from when that was said.
#[derive(Debug, Default)]
pub struct Failing {
    syncs: Mutex<Range<usize>>,
    done: AtomicUsize,
}

impl Failing {
    /// The how-manieth syncs from now fail, from 1.
    pub fn fails(&self, syncs: Range<usize>) {
        self.done.store(0, Ordering::SeqCst);
        *self.syncs.lock() = syncs;
    }
}

#[derive(Debug)]
struct YieldingFile {
    file: Arc<dyn DiskFile>,
    failing: Arc<Failing>,
}

impl Yielding {
    pub fn new(disk: SimDisk) -> Self {
        Self { disk, failing: Arc::default() }
    }

    pub fn failing(&self) -> Arc<Failing> {
        Arc::clone(&self.failing)
    }
}

fn others() {
    shuttle::thread::yield_now();
}

impl Disk for Yielding {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        others();
        Ok(Arc::new(YieldingFile { file: self.disk.open(path, how)?, failing: Arc::clone(&self.failing) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        others();
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        others();
        self.disk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        others();
        self.disk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn vfs(&self) -> Vfs {
        self.disk.vfs()
    }
}

impl DiskFile for YieldingFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        others();
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        others();
        let nth = self.failing.done.fetch_add(1, Ordering::SeqCst) + 1;
        if self.failing.syncs.lock().contains(&nth) {
            Err(io::Error::from_raw_os_error(libc::EIO))
        } else {
            self.file.sync_data()
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        others();
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
