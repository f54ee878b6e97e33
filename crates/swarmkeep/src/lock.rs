//! Who holds the store: an exclusive `flock` on the file `lock` in its folder.
//!
//! The kernel gives the lock back when the holder's last descriptor closes, however it dies. The descriptor is closed on
//! exec, so that children which outlive the daemon do not keep it. The file is never unlinked: two processes could else hold
//! two files of one name; and its inode is compared after locking, in case somebody did. What stands in it is a hint for
//! people and for the CLI, not the lock.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

const HINT_BYTES: u64 = 64 * 1024;
const ATTEMPTS: usize = 8;

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

/// The right to write a store, for as long as this lives.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
    path: PathBuf,
    previous: Option<Holder>,
}

impl StoreLock {
    /// Takes the store in `store_dir` (which exists), without waiting.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(store_dir: &Path, holder: &Holder) -> Result<Self, LockError> {
        let path = store_dir.join("lock");
        let fail = |error: io::Error| LockError::Io { path: path.clone(), error };
        if let Some(kind) = network(store_dir).map_err(fail)? {
            return Err(LockError::Network { path: store_dir.to_owned(), kind });
        }
        for _ in 0..ATTEMPTS {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(fail)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(LockError::Locked { holder: read_hint(&file), path });
                }
                Err(error) => return Err(fail(error.into())),
            }
            let ours = file.metadata().map_err(fail)?;
            let named = fs::metadata(&path).ok();
            if named.is_some_and(|named| named.ino() == ours.ino() && named.dev() == ours.dev()) {
                let previous = read_hint(&file);
                let parked = holder.parked.or_else(|| previous.as_ref()?.parked);
                let mut lock = Self { file, path: path.clone(), previous };
                lock.say(&Holder { parked, ..holder.clone() }).map_err(fail)?;
                return Ok(lock);
            }
            // Somebody replaced the file between opening and locking: this lock holds nobody off.
        }
        Err(fail(io::Error::other("the lock file is being replaced by somebody")))
    }

    /// Changes what this holder says of itself.
    ///
    /// # Errors
    /// What the system says; the lock is held all the same.
    pub fn say(&mut self, holder: &Holder) -> io::Result<()> {
        let mut text = serde_json::to_vec(holder).map_err(io::Error::other)?;
        // In one write over what was there, with spaces where that was longer: whoever reads meanwhile finds one or the
        // other, and never a file without a word.
        let before = usize::try_from(self.file.metadata()?.len().min(HINT_BYTES)).unwrap_or_default();
        text.resize(text.len().max(before), b' ');
        self.file.rewind()?;
        self.file.write_all(&text)
    }

    /// What the last holder said of itself.
    #[must_use]
    pub fn previous(&self) -> Option<&Holder> {
        self.previous.as_ref()
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Who holds the store in `store_dir`, by its hint; `None`: nobody does.
///
/// # Errors
/// What the system says. No lock file: nobody.
pub fn holder(store_dir: &Path) -> io::Result<Option<Holder>> {
    let file = match File::open(store_dir.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    // A shared lock is enough to see that nobody holds an exclusive one; it is given back at once.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(read_hint(&file).unwrap_or_default())),
        Err(error) => Err(error.into()),
    }
}

fn read_hint(mut file: &File) -> Option<Holder> {
    // It may be changing just now: then what is read is half of each, and whole the next time.
    (0..ATTEMPTS).find_map(|_| {
        let mut text = Vec::new();
        file.rewind().ok()?;
        file.take(HINT_BYTES).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    })
}

/// The network file system that a folder lies on, by name.
#[cfg(target_os = "linux")]
fn network(path: &Path) -> io::Result<Option<String>> {
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "a 32-bit magic number in a signed word"
    )]
    let magic = rustix::fs::statfs(path)?.f_type as u32;
    let kind = match magic {
        0x6969 => "nfs",
        0x517B => "smb",
        0xFF53_4D42 => "cifs",
        0xFE53_4D42 => "smb2",
        0x0102_1997 => "9p",
        0x5346_414F => "afs",
        0x6B41_4653 => "kafs",
        0x7375_7245 => "coda",
        0x564C => "ncp",
        0x00C3_6400 => "ceph",
        0x0BD0_0BD0 => "lustre",
        0x4750_4653 => "gpfs",
        // Whatever speaks FUSE, local or not: the mount table says what it is.
        0x6573_5546 => return Ok(fuse_kind(path)),
        _ => return Ok(None),
    };
    Ok(Some(kind.into()))
}

/// The FUSE file system under `path`, if it is one that goes over a network.
#[cfg(target_os = "linux")]
fn fuse_kind(path: &Path) -> Option<String> {
    const OVER_A_NETWORK: [&str; 11] = [
        "sshfs",
        "s3fs",
        "gcsfuse",
        "glusterfs",
        "rclone",
        "davfs",
        "davfs2",
        "curlftpfs",
        "ceph-fuse",
        "goofys",
        "juicefs",
    ];
    let device = fs::metadata(path).ok()?.dev();
    let wanted = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let kind = kind.split(' ').next()?;
        let name = kind.strip_prefix("fuse.").unwrap_or(kind);
        (mount.split(' ').nth(2) == Some(&wanted) && OVER_A_NETWORK.contains(&name)).then(|| kind.to_owned())
    })
}

#[cfg(not(target_os = "linux"))]
fn network(_: &Path) -> io::Result<Option<String>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()).unwrap(), None);
        let me = Holder { pid: 42, address: Some("127.0.0.1:7420".into()), started_at_ms: 7, parked: None };
        let lock = StoreLock::take(dir.path(), &me).unwrap();
        let refused = StoreLock::take(dir.path(), &Holder::default()).unwrap_err();
        assert!(matches!(&refused, LockError::Locked { holder: Some(holder), .. } if *holder == me));
        assert!(refused.to_string().ends_with("is held by process 42, which answers at 127.0.0.1:7420"), "{refused}");
        assert_eq!(holder(dir.path()).unwrap(), Some(me));
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
            assert_eq!(holder(dir.path()).unwrap(), Some(named(address)));
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

    #[test]
    fn the_descriptor_is_closed_on_exec() {
        let dir = tempfile::tempdir().unwrap();
        let lock = StoreLock::take(dir.path(), &Holder::default()).unwrap();
        assert!(rustix::io::fcntl_getfd(&lock.file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}
