//! What holding a store, and taking one over, asks of a file system beyond what the store's own files do: locks that end with
//! their process, names that one process only can make, and which file it is that has a name.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use rustix::fs::{FlockOperation, flock};

use super::network::network;
use crate::disk::{Disk, OpenHow, RealDisk};

/// From one look at what another process does to the next.
const PAUSE: Duration = Duration::from_millis(20);
/// Copied at a time.
const PIECE: usize = 256 * 1024;

/// Device and inode of a file.
pub type Identity = (u64, u64);

/// What a name in a folder is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// Something else, such as a socket.
    Other,
}

/// A lock file that is open. It is closed, and its lock given back, when this is dropped or the process ends.
pub trait LockFile: fmt::Debug + Send + Sync + 'static {
    /// Locks it without waiting, alone or with others. False: somebody else's lock is in the way.
    ///
    /// # Errors
    /// What the system says.
    fn try_lock(&self, alone: bool) -> io::Result<bool>;

    /// Which file it is, whatever its name is of by now.
    ///
    /// # Errors
    /// What the system says.
    fn identity(&self) -> io::Result<Identity>;

    /// When it was made, in nanoseconds since the Unix epoch; 0: the file system does not say.
    fn made_ns(&self) -> u128;

    /// Its length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether nothing is in it.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// What stands in it, at most so many bytes.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, most: u64) -> io::Result<Vec<u8>>;

    /// Writes over its beginning, in one call.
    ///
    /// # Errors
    /// What the system says.
    fn write(&self, bytes: &[u8]) -> io::Result<()>;

    /// Makes it durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;
}

/// A file system on which several processes may want one store.
pub trait Ground: Disk {
    /// Opens a lock file.
    ///
    /// # Errors
    /// What the system says; `NotFound` by `how`.
    fn open_lock(&self, path: &Path, how: OpenHow) -> io::Result<Box<dyn LockFile>>;

    /// Which file has a name; `None`: none.
    ///
    /// # Errors
    /// What the system says.
    fn identity(&self, path: &Path) -> io::Result<Option<Identity>>;

    /// What has a name, which is not followed if it is a link; `None`: nothing.
    ///
    /// # Errors
    /// What the system says.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;

    /// Gives a file a second name. Of several that try at once one does. Durable after `sync_dir`.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; what the system says.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// What is in a folder, sorted by name. Names that are not UTF-8 are left out: a store has none.
    ///
    /// # Errors
    /// What the system says.
    fn entries(&self, path: &Path) -> io::Result<Vec<(String, Kind)>>;

    /// A file's length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self, path: &Path) -> io::Result<u64> {
        self.open(path, OpenHow::Read)?.len()
    }

    /// Copies a file to a name that is free, durably but for the name.
    ///
    /// # Errors
    /// What the system says.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.open(from, OpenHow::Read)?, self.open(to, OpenHow::CreateNew)?);
        let (mut piece, mut at) = (vec![0; PIECE], 0);
        loop {
            let count = from.read_at(&mut piece, at)?;
            if count == 0 {
                return to.sync_data();
            }
            to.write_at(piece.get(..count).unwrap_or_default(), at)?;
            at += count as u64;
        }
    }

    /// The kind of network file system it is, where locks and syncs are not what a store needs; `None`: a local one.
    ///
    /// # Errors
    /// What the system says.
    fn network(&self, path: &Path) -> io::Result<Option<String>>;

    /// The id of this process.
    fn process(&self) -> u32;

    /// Waits for a moment: another process may do something meanwhile.
    fn pause(&self);
}

#[derive(Debug)]
struct RealLock(File);

impl LockFile for RealLock {
    fn try_lock(&self, alone: bool) -> io::Result<bool> {
        let how = if alone { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
        match flock(&self.0, how) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(identity(&self.0.metadata()?))
    }

    fn made_ns(&self) -> u128 {
        let made = self.0.metadata().and_then(|metadata| metadata.created()).ok();
        made.and_then(|made| made.duration_since(UNIX_EPOCH).ok()).map_or(0, |made| made.as_nanos())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, most: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.len()?.min(most)).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, 0)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

fn kind(of: fs::FileType) -> Kind {
    match () {
        () if of.is_dir() => Kind::Folder,
        () if of.is_file() => Kind::File,
        () => Kind::Other,
    }
}

impl Ground for RealDisk {
    fn open_lock(&self, path: &Path, how: OpenHow) -> io::Result<Box<dyn LockFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match how {
            OpenHow::Read => &mut options,
            OpenHow::Write => options.write(true),
            OpenHow::CreateNew => options.write(true).create_new(true),
            OpenHow::Create => options.write(true).create(true).truncate(false),
        };
        Ok(Box::new(RealLock(options.open(path)?)))
    }

    fn identity(&self, path: &Path) -> io::Result<Option<Identity>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(identity(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(kind(metadata.file_type()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<(String, Kind)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = kind(entry.file_type()?);
            entries.extend(entry.file_name().into_string().ok().map(|name| (name, kind)));
        }
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(entries)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::symlink_metadata(path)?.len())
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()
    }

    fn network(&self, path: &Path) -> io::Result<Option<String>> {
        network(path)
    }

    fn process(&self) -> u32 {
        std::process::id()
    }

    fn pause(&self) {
        std::thread::park_timeout(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_of_a_lock_is_closed_on_exec() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealLock(File::create(dir.path().join("lock")).unwrap());
        assert!(rustix::io::fcntl_getfd(&file.0).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        RealDisk.open_lock(&dir.path().join("lock"), OpenHow::Read).unwrap().try_lock(true).unwrap();
        assert!(file.try_lock(true).unwrap(), "given back with its descriptor");
    }
}
