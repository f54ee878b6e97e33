//! A few connections that only read.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, InterruptHandle, TransactionBehavior};
use swarmkeep_core::clock::Clock;

use crate::{
    SNAPSHOT_MS_MAX,
    connection::{self, Vfs},
    error::{Result, SqliteError},
};

/// Between two looks at the clock, a reader runs so many instructions of SQLite's machine: well below a millisecond.
const LOOK_EVERY: i32 = 10_000;
/// No deadline: the connection is not in use.
const IDLE: u64 = u64::MAX;

/// Read-only connections to one file, shared by any number of threads. A snapshot lives [`SNAPSHOT_MS_MAX`] at most: a
/// read that takes longer is interrupted, by itself while SQLite works, by [`ReaderPool::interrupt_overdue`] while it
/// waits for something else.
pub struct ReaderPool {
    clock: Arc<dyn Clock>,
    free: Mutex<Vec<Reader>>,
    returned: Condvar,
    /// Of every connection: when its snapshot is over, and how to stop it.
    running: Vec<(Arc<AtomicU64>, InterruptHandle)>,
}

struct Reader {
    connection: Connection,
    deadline: Arc<AtomicU64>,
}

impl std::fmt::Debug for ReaderPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReaderPool").field("connections", &self.running.len()).finish_non_exhaustive()
    }
}

impl ReaderPool {
    /// Opens `connections` of them, at least 1 and at most 8, to a file that exists.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, or whatever SQLite says.
    pub fn open(path: &Path, connections: usize, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_on(Vfs::default(), path, connections, clock)
    }

    /// [`ReaderPool::open`], of a file of a VFS.
    ///
    /// # Errors
    /// As [`ReaderPool::open`].
    pub fn open_on(vfs: Vfs, path: &Path, connections: usize, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut free = Vec::new();
        let mut running = Vec::new();
        for _ in 0..connections.clamp(1, 8) {
            let mut connection = connection::reader(vfs, path)?;
            let deadline = Arc::new(AtomicU64::new(IDLE));
            let (clock, watched) = (Arc::clone(&clock), Arc::clone(&deadline));
            connection
                .progress_handler(LOOK_EVERY, Some(move || clock.monotonic_ms() > watched.load(Ordering::Relaxed)))?;
            running.push((Arc::clone(&deadline), connection.get_interrupt_handle()));
            free.push(Reader { connection, deadline });
        }
        Ok(Self { clock, free: Mutex::new(free), returned: Condvar::new(), running })
    }

    /// Runs `work` in one snapshot; waits while all connections are in use.
    ///
    /// # Errors
    /// `Interrupted` after [`SNAPSHOT_MS_MAX`]; whatever `work` says.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.read_until(self.clock.monotonic_ms() + SNAPSHOT_MS_MAX, work)
    }

    /// [`ReaderPool::read`] without an end, for checks of a whole file. The write-ahead log cannot shrink meanwhile.
    ///
    /// # Errors
    /// Whatever `work` says.
    pub fn read_unhurried<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.read_until(IDLE, work)
    }

    fn read_until<T>(&self, deadline: u64, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let reader = {
            let mut free = self.free.lock();
            loop {
                match free.pop() {
                    Some(reader) => break reader,
                    None => self.returned.wait(&mut free),
                }
            }
        };
        reader.deadline.store(deadline, Ordering::Relaxed);
        // Given back when this goes, also when `work` panics.
        let mut borrowed = Borrowed { pool: self, reader: Some(reader) };
        let Some(reader) = &mut borrowed.reader else { return Err(SqliteError::Interrupted) };
        let transaction = reader.connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let done = work(&transaction)?;
        if self.clock.monotonic_ms() > deadline {
            return Err(SqliteError::Interrupted);
        }
        Ok(done)
    }

    /// Interrupts reads whose snapshot is older than it may be; gives how many. For whoever has a timer.
    pub fn interrupt_overdue(&self) -> usize {
        let now = self.clock.monotonic_ms();
        let overdue = self.running.iter().filter(|(deadline, _)| deadline.load(Ordering::Relaxed) < now);
        overdue.map(|(_, handle)| handle.interrupt()).count()
    }
}

struct Borrowed<'a> {
    pool: &'a ReaderPool,
    reader: Option<Reader>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.deadline.store(IDLE, Ordering::Relaxed);
            self.pool.free.lock().push(reader);
            self.pool.returned.notify_one();
        }
    }
}
