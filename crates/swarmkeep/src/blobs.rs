//! Large blobs as files: `blobs/SESSION/BLOB`, each named by the hash of its bytes.
//!
//! A blob is written to a temporary name, synced, renamed, and its directory synced, before the record that introduces it
//! enters a group: a name that can be seen after a crash has its bytes. Reading verifies them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use swarmkeep_core::{
    BlobId, SessionId, limits,
    log::{Blob, Damage, LogError, Refused},
};

use crate::{
    disk::{self, Disk, OpenHow, read_whole},
    planted::{self, Defect},
};

/// The folder of large blobs.
#[derive(Debug)]
pub struct BlobFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    temporary: AtomicU64,
}

impl BlobFiles {
    /// The blobs of the store in `store_dir`. Makes the folder, and removes what a crash left half written.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(disk: Arc<dyn Disk>, store_dir: &Path) -> io::Result<Self> {
        let dir = store_dir.join("blobs");
        disk.create_dir(&dir)?;
        disk.sync_dir(store_dir)?;
        for name in disk.list(&dir)? {
            if name.ends_with(".part") {
                disk.remove(&dir.join(name))?;
            }
        }
        Ok(Self::at(disk, store_dir))
    }

    /// The blobs of a store that may have another holder: nothing is made or removed.
    pub(crate) fn at(disk: Arc<dyn Disk>, store_dir: &Path) -> Self {
        Self { disk, dir: store_dir.join("blobs"), temporary: AtomicU64::new(0) }
    }

    /// Keeps a blob; durable when this returns. The same blob again changes nothing.
    ///
    /// # Errors
    /// `Refused` (`TooLarge`, `DiskFull`); `Unknown` after another failure of the disk: repeat it.
    pub fn put(&self, session: SessionId, blob: &Blob) -> Result<(), LogError> {
        if blob.bytes.len() > limits::BLOB_BYTES {
            let detail = format!("a blob may have {} bytes; this one has {}", limits::BLOB_BYTES, blob.bytes.len());
            return Err(LogError::Refused { kind: Refused::TooLarge, detail });
        }
        self.write(session, blob).map_err(|error| {
            if disk::is_full(&error) {
                return LogError::Refused { kind: Refused::DiskFull, detail: error.to_string() };
            }
            LogError::Unknown(format!("blob {}: {error}", blob.id))
        })
    }

    fn write(&self, session: SessionId, blob: &Blob) -> io::Result<()> {
        let folder = self.folder(session);
        let path = folder.join(blob.id.to_string());
        // One that is there already is written again: it may be damaged, or its name not yet durable.
        self.disk.create_dir(&folder)?;
        self.disk.sync_dir(&self.dir)?;
        let temporary = self.dir.join(format!("{}-{}.part", blob.id, self.temporary.fetch_add(1, Ordering::Relaxed)));
        let turn = || {
            let file = self.disk.open(&temporary, OpenHow::CreateNew)?;
            file.write_at(&blob.bytes, 0)?;
            if !planted::is(Defect::BlobSyncSkipped) {
                file.sync_data()?;
            }
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_dir(&folder)
        };
        turn().inspect_err(|_| {
            let _ = self.disk.remove(&temporary);
        })
    }

    /// Whether a blob's file is there and has its content. An error: whether it has cannot be told now.
    ///
    /// # Errors
    /// What the disk says.
    pub fn is_whole(&self, session: SessionId, id: BlobId) -> io::Result<bool> {
        match self.stored(session, id) {
            Ok(bytes) => Ok(blake3::hash(&bytes).as_bytes() == &id.0),
            Err(error) if error.kind() == io::ErrorKind::NotFound || disk::is_no_file_of_ours(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A blob's bytes, verified.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when the file is not what was written, or cannot be read.
    pub fn get(&self, session: SessionId, id: BlobId) -> Result<Bytes, LogError> {
        let damaged = |what: String| LogError::Corrupt(vec![Damage { session: Some(session), seqs: None, what }]);
        let bytes = match self.stored(session, id) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LogError::NotFound),
            Err(error) => return Err(damaged(format!("blob file {id}: {error}"))),
        };
        if blake3::hash(&bytes).as_bytes() != &id.0 && !planted::is(Defect::BlobHashNotCompared) {
            return Err(damaged(format!("blob file {id}: its bytes are not those that were written")));
        }
        Ok(bytes.into())
    }

    /// Whether a blob has a file, whatever its bytes are; where that cannot be told, it may have.
    #[must_use]
    pub fn may_be_there(&self, session: SessionId, id: BlobId) -> bool {
        self.disk.exists(&self.folder(session).join(id.to_string())).unwrap_or(true)
    }

    /// The bytes of a blob's file, whatever they are.
    ///
    /// # Errors
    /// What the disk says.
    pub fn stored(&self, session: SessionId, id: BlobId) -> io::Result<Vec<u8>> {
        let file = self.disk.open(&self.folder(session).join(id.to_string()), OpenHow::Read)?;
        read_whole(file.as_ref(), limits::BLOB_BYTES as u64)
    }

    /// The blobs of a session, sorted. Names that are none are left out.
    ///
    /// # Errors
    /// What the disk says; a session without blobs is no error.
    pub fn list(&self, session: SessionId) -> io::Result<Vec<BlobId>> {
        match self.disk.list(&self.folder(session)) {
            Ok(names) => Ok(names.iter().filter_map(|name| name.parse().ok()).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The sessions that have blobs, sorted.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sessions(&self) -> io::Result<Vec<SessionId>> {
        Ok(self.disk.list(&self.dir)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Removes a blob, durably. One that is not there is no error.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove(&self, session: SessionId, id: BlobId) -> io::Result<()> {
        let folder = self.folder(session);
        gone(self.disk.remove(&folder.join(id.to_string())))?;
        gone(self.disk.sync_dir(&folder))
    }

    /// Removes all blobs of a session, durably, but for those of a newer session of the same id.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove_session(&self, session: SessionId, newer: &[BlobId]) -> io::Result<()> {
        let folder = self.folder(session);
        let names = match self.disk.list(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        let stay = |name: &String| name.parse().is_ok_and(|id| newer.contains(&id));
        for name in names.iter().filter(|name| !stay(name)) {
            gone(self.disk.remove(&folder.join(name)))?;
        }
        if names.iter().any(stay) {
            return self.disk.sync_dir(&folder);
        }
        gone(self.disk.remove_dir(&folder))?;
        self.disk.sync_dir(&self.dir)
    }

    fn folder(&self, session: SessionId) -> PathBuf {
        self.dir.join(session.to_string())
    }
}

fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
