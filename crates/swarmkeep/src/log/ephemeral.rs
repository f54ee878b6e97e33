//! A log that is gone with the process: for tests, for trying things out, for sessions that need not survive.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use swarmkeep_core::{
    BlobId, Epoch, Error, ErrorKind, Seq, SessionId,
    checkpoint::Checkpoint,
    log::{Commit, Durability, Grant, Group, Head, Hints, Log, LogFuture, Observation, Position, Remove, Take},
    query::{Page, Query},
};
use swarmkeep_sqlite::{Mode, Options, SqliteLog, Vfs};

/// SQLite in a folder of its own, in RAM where the system has a file system there, removed with the last handle.
pub struct Ephemeral {
    within: SqliteLog,
    folder: PathBuf,
}

impl Ephemeral {
    /// An empty log.
    ///
    /// # Errors
    /// `unavailable` when no folder can be made for it.
    pub fn new() -> Result<Self, Error> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let shared_memory = PathBuf::from("/dev/shm");
        let parent = if shared_memory.is_dir() { shared_memory } else { std::env::temp_dir() };
        let unavailable = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Unavailable, "cannot make a folder for an ephemeral store").caused_by(error)
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| unavailable(Box::new(error)))?;
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let folder =
            parent.join(format!("swarmkeep-{}-{made}-{:016x}", std::process::id(), u64::from_le_bytes(random)));
        std::fs::create_dir(&folder).map_err(|error| unavailable(Box::new(error)))?;
        let options = Options { store_id: None, create: true, mode: Mode::WalFull, now_ms: 0, vfs: Vfs::default() };
        let within = SqliteLog::open(&folder.join("records.db"), &folder.join("views.db"), options)
            .map_err(|error| unavailable(Box::new(error)))?;
        Ok(Self { within, folder })
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        // The files are open still; their names go now and their bytes with the last descriptor.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Log for Ephemeral {
    fn take(&self, session: SessionId, how: Take) -> LogFuture<'_, Grant> {
        self.within.take(session, how)
    }

    fn append(&self, group: Group, durability: Durability) -> LogFuture<'static, Commit> {
        self.within.append(group, durability)
    }

    fn observe(&self, session: SessionId, observations: Vec<Observation>) -> LogFuture<'_, ()> {
        self.within.observe(session, observations)
    }

    fn head(&self, session: SessionId) -> LogFuture<'_, Option<Head>> {
        self.within.head(session)
    }

    fn read(&self, session: SessionId, after: Seq, max_bytes: usize) -> LogFuture<'_, Bytes> {
        self.within.read(session, after, max_bytes)
    }

    fn save(&self, session: SessionId, checkpoint: Checkpoint) -> LogFuture<'_, ()> {
        self.within.save(session, checkpoint)
    }

    fn load(&self, session: SessionId, at_or_below: Seq) -> LogFuture<'_, Option<Checkpoint>> {
        self.within.load(session, at_or_below)
    }

    fn blob(&self, session: SessionId, id: BlobId) -> LogFuture<'_, Bytes> {
        self.within.blob(session, id)
    }

    fn find(&self, query: Query, not_before: Option<Position>) -> LogFuture<'_, Page> {
        self.within.find(query, not_before)
    }

    fn remove(&self, session: SessionId, epoch: Epoch, what: Remove) -> LogFuture<'_, ()> {
        self.within.remove(session, epoch, what)
    }

    fn watch(&self) -> Hints {
        self.within.watch()
    }
}
