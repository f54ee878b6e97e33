//! The simulated disk as SQLite sees it.

use std::{io, path::Path, sync::Arc};

use swarmkeep_vfs::{File, Files};

use super::SimDisk;
use crate::disk::{Disk, DiskFile, OpenHow};

/// A handle of the disk that does not keep the mount alive which keeps this alive.
#[derive(Debug)]
pub(super) struct Mounted(pub(super) SimDisk);

#[derive(Debug)]
struct Opened(Arc<dyn DiskFile>);

impl Files for Mounted {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn File>> {
        let how = if create { OpenHow::Create } else { OpenHow::Write };
        Ok(Box::new(Opened(self.0.open(path, how)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        self.0.size(path)
    }
}

impl File for Opened {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.0.len()
    }
}
