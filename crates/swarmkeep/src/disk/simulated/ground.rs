//! Several processes on one simulated disk: locks that end with their process, and second names.

use std::{fmt, io, path::Path};

use super::{Call, Disk, NameChange, On, OpenHow, SimDisk};
use crate::lock::{Ground, Identity, Kind, LockFile};

/// What is to be done once.
pub(super) struct Once(pub(super) Box<dyn FnOnce() + Send>);

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

/// A lock on a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    inode: u64,
    pub(super) life: u64,
    handle: u64,
    alone: bool,
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    inode: u64,
    handle: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let (life, handle) = (self.disk.life, self.handle);
        self.disk.state.lock().locks.retain(|held| (held.life, held.handle) != (life, handle));
    }
}

impl SimLock {
    fn file(&self) -> super::SimFile {
        super::SimFile { disk: self.disk.clone(), inode: self.inode }
    }
}

impl LockFile for SimLock {
    fn try_lock(&self, alone: bool) -> io::Result<bool> {
        self.disk.enter(Call::Other, On::Inode(self.inode))?;
        let mut state = self.disk.state.lock();
        let own = |held: &Held| (held.life, held.handle) == (self.disk.life, self.handle);
        let in_the_way = state.locks.iter().any(|held| held.inode == self.inode && !own(held) && (alone || held.alone));
        if !in_the_way {
            state.locks.retain(|held| !own(held));
            state.locks.push(Held { inode: self.inode, life: self.disk.life, handle: self.handle, alone });
        }
        Ok(!in_the_way)
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok((0, self.inode))
    }

    fn made_ns(&self) -> u128 {
        0
    }

    fn len(&self) -> io::Result<u64> {
        super::DiskFile::len(&self.file())
    }

    fn read(&self, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len()?.min(most)).map_err(io::Error::other)?];
        let count = super::DiskFile::read_at(&self.file(), &mut bytes, 0)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        super::DiskFile::write_at(&self.file(), bytes, 0)
    }

    fn sync(&self) -> io::Result<()> {
        super::DiskFile::sync_data(&self.file())
    }
}

impl Ground for SimDisk {
    fn open_lock(&self, path: &Path, how: OpenHow) -> io::Result<Box<dyn LockFile>> {
        drop(self.open(path, how)?);
        let mut state = self.state.lock();
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        state.handles += 1;
        let handle = state.handles;
        drop(state);
        // Without the mount, as any file.
        let disk = Self { mount: Default::default(), ..self.clone() };
        Ok(Box::new(SimLock { disk, inode, handle }))
    }

    fn identity(&self, path: &Path) -> io::Result<Option<Identity>> {
        self.enter(Call::Other, On::Path(path))?;
        let state = self.state.lock();
        let directory = state.directories.contains(path).then_some((1, 0));
        Ok(state.names.get(path).map(|inode| (0, *inode)).or(directory))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        Ok(self.identity(path)?.map(|(device, _)| if device == 1 { Kind::Folder } else { Kind::File }))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter(Call::Rename, On::Path(from))?;
        let mut state = self.state.lock();
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.change(NameChange { remove: None, add: Some((to.to_owned(), inode)) });
        Ok(())
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<(String, Kind)>> {
        let names = self.list(path)?;
        let state = self.state.lock();
        let kind = |name: &str| if state.directories.contains(&path.join(name)) { Kind::Folder } else { Kind::File };
        Ok(names.into_iter().map(|name| (name.clone(), kind(&name))).collect())
    }

    fn network(&self, _: &Path) -> io::Result<Option<String>> {
        Ok(None)
    }

    fn process(&self) -> u32 {
        u32::try_from(self.life + 1).unwrap_or(u32::MAX)
    }

    /// No time passes: what another process may do meanwhile, it does when it is let.
    fn pause(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_end_with_their_process_and_a_link_is_made_by_one() {
        let disk = SimDisk::new();
        let (lock, other) = (Path::new("/lock"), Path::new("/lock-2"));
        let one = disk.open_lock(lock, OpenHow::Create).unwrap();
        assert!(one.try_lock(true).unwrap());
        let beside = disk.beside();
        let theirs = beside.open_lock(lock, OpenHow::Read).unwrap();
        assert!(!theirs.try_lock(false).unwrap());
        beside.link(lock, other).unwrap();
        assert_eq!(disk.link(lock, other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.identity(lock).unwrap(), disk.identity(other).unwrap());
        disk.end();
        assert!(theirs.try_lock(true).unwrap() && disk.identity(lock).is_err());
    }

    #[test]
    fn a_folder_is_renamed_with_all_that_is_in_it() {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/a/deep")).unwrap();
        drop(disk.open(Path::new("/a/deep/file"), OpenHow::Create).unwrap());
        disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
        assert_eq!(disk.entries(Path::new("/b")).unwrap(), [("deep".into(), Kind::Folder)]);
        assert_eq!(disk.entries(Path::new("/b/deep")).unwrap(), [("file".into(), Kind::File)]);
        assert_eq!(disk.entries(Path::new("/a")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
