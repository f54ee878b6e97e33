//! The file layer: the few things the journal and the blob files ask of a file system, as a trait, so that tests can put a
//! disk under them, and under the databases, that loses power, lies, and runs out of room (`simulated`, a feature).
//!
//! The obligations are those of POSIX with nothing assumed beyond them: a write is in the page cache until `sync_data` of
//! its file has returned `Ok`, a name is until `sync_dir` of its directory has, a failed sync leaves it unknown which pages
//! were written and must not be repeated in hope (the kernel may have marked them clean).

mod real;
#[cfg(feature = "simulated")]
pub mod simulated;

use std::{fmt, io, path::Path, sync::Arc};

use swarmkeep_sqlite::Vfs;

pub use real::RealDisk;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenHow {
    /// It must exist; reading only.
    Read,
    /// It must exist; reading and writing.
    Write,
    /// It must not exist; reading and writing.
    CreateNew,
    /// Created when it does not exist; reading and writing.
    Create,
}

/// A file system, as far as this crate uses one.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens a file. New files are readable and writable by their owner alone.
    ///
    /// # Errors
    /// What the system says; `NotFound` and `AlreadyExists` by `how`.
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name in the same file system, replacing what had it. Atomic; durable after `sync_dir`.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Durable after `sync_dir`.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// What the system says.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system says; like a failed `sync_data`, not to be repeated in hope.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Names in a directory, sorted. Names that are not UTF-8 are left out: this crate makes none.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory (0700) and those above it; no error when it exists. Durable after `sync_dir` of the one above.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes that may still be written by this user to the file system of `path`.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Whether a file has this name.
    ///
    /// # Errors
    /// What the system says.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// How SQLite gets at the files of this disk.
    fn vfs(&self) -> Vfs {
        Vfs::default()
    }
}

/// An open file. Any method may be called from any thread.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Reads up to `bytes.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`. After an error any part of it may be written.
    ///
    /// # Errors
    /// What the system says; `WriteZero` when the system took no more bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written is durable, with what is needed to read it again (`fdatasync`; `F_FULLFSYNC` on
    /// macOS).
    ///
    /// # Errors
    /// What the system says. It is then unknown what is durable, and asking again proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Reads a whole file, refusing one longer than `limit` before anything is allocated.
///
/// # Errors
/// What the system says; `InvalidData` above the limit, `UnexpectedEof` when it shrinks meanwhile.
pub fn read_whole(file: &dyn DiskFile, limit: u64) -> io::Result<Vec<u8>> {
    let length = file.len()?;
    if length > limit {
        let text = format!("the file has {length} bytes, more than the {limit} it may have");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    if file.read_at(&mut bytes, 0)? != bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Puts bytes into `folder` under `name`, durably, in the place of what was there: all of them or none.
///
/// # Errors
/// What the system says.
pub fn replace(disk: &dyn Disk, folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let part = folder.join(format!("{name}.part"));
    let file = disk.open(&part, OpenHow::Create)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&part, &folder.join(name))?;
    disk.sync_dir(folder)
}

/// A name in `folder` for what would be called `name`: that, or with a number behind it where it is taken already.
///
/// # Errors
/// What the system says.
pub fn free_name(disk: &dyn Disk, folder: &Path, name: &str) -> io::Result<String> {
    let mut free = name.to_owned();
    let mut more = 1u64;
    while disk.exists(&folder.join(&free))? {
        more += 1;
        free = format!("{name}.{more}");
    }
    Ok(free)
}

/// Removes a file's name; one that is not there is no error.
///
/// # Errors
/// What the system says.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// An error, with what it is about.
#[must_use]
pub fn about(what: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Whether an error says that what has this name is not what was put there: a folder, or longer than it may be.
#[must_use]
pub fn is_no_file_of_ours(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory)
}

/// Whether an error says that there is no room (`ENOSPC`, or a quota).
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
