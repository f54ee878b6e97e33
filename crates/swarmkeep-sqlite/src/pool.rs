//! A few connections that only read.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
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
///
/// Connections to one file share an index of its write-ahead log. Where that may name what the file does not have any more
/// (a sync failed), all of them have to go: [`ReaderPool::suspend`], then [`ReaderPool::prepare`] and
/// [`ReaderPool::resume`]. Whoever reads meanwhile is told to ask again.
pub struct ReaderPool {
    clock: Arc<dyn Clock>,
    vfs: Vfs,
    path: PathBuf,
    connections: usize,
    lending: Mutex<Lending>,
    returned: Condvar,
    /// How long whoever asks while nothing is lent waits, in milliseconds.
    patience_ms: AtomicU64,
}

#[derive(Default)]
struct Lending {
    free: Vec<Reader>,
    /// Of every connection: when its snapshot is over, and how to stop it.
    running: Vec<(Arc<AtomicU64>, InterruptHandle)>,
    /// Lent at present.
    out: usize,
    /// Nothing is lent; what is out is closed when it comes back.
    suspended: bool,
}

struct Reader {
    connection: Connection,
    deadline: Arc<AtomicU64>,
}

/// Connections that a pool may take in place of those it had.
pub struct Prepared(Vec<Reader>);

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Prepared").field(&self.0.len()).finish()
    }
}

impl std::fmt::Debug for ReaderPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReaderPool").field("connections", &self.connections).finish_non_exhaustive()
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
        let connections = connections.clamp(1, 8);
        let (lending, path) = (Mutex::new(Lending { suspended: true, ..Lending::default() }), path.to_owned());
        let pool =
            Self { clock, vfs, path, connections, lending, returned: Condvar::new(), patience_ms: AtomicU64::new(0) };
        pool.resume(pool.prepare()?);
        Ok(pool)
    }

    /// Lends nothing any more: whoever asks, or reads at present, is told to ask again. True: no connection is open; false:
    /// some are still lent, and were interrupted. To be called again until it is true.
    pub fn suspend(&self) -> bool {
        let mut lending = self.lending.lock();
        lending.suspended = true;
        let free = std::mem::take(&mut lending.free);
        lending.running.iter().for_each(|(_, handle)| handle.interrupt());
        let none = lending.out == 0;
        if none {
            lending.running.clear();
        }
        drop(lending);
        drop(free);
        self.returned.notify_all();
        none
    }

    /// Opens as many connections as the pool has, without lending them.
    ///
    /// # Errors
    /// As [`ReaderPool::open`].
    pub fn prepare(&self) -> Result<Prepared> {
        let open = || {
            let mut connection = connection::reader(self.vfs, &self.path)?;
            let deadline = Arc::new(AtomicU64::new(IDLE));
            let (clock, watched) = (Arc::clone(&self.clock), Arc::clone(&deadline));
            connection
                .progress_handler(LOOK_EVERY, Some(move || clock.monotonic_ms() > watched.load(Ordering::Relaxed)))?;
            Ok(Reader { connection, deadline })
        };
        (0..self.connections).map(|_| open()).collect::<Result<_>>().map(Prepared)
    }

    /// Lends again, these. After [`ReaderPool::suspend`] has said true.
    pub fn resume(&self, Prepared(readers): Prepared) {
        let mut lending = self.lending.lock();
        let handle = |reader: &Reader| (Arc::clone(&reader.deadline), reader.connection.get_interrupt_handle());
        lending.running = readers.iter().map(handle).collect();
        lending.free = readers;
        lending.suspended = false;
        drop(lending);
        self.returned.notify_all();
    }

    /// Whoever asks while nothing is lent waits so long before he is told to ask again. For pools whose owner has threads.
    pub fn set_patience(&self, patience: Duration) {
        self.patience_ms.store(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it lends nothing at present.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.lending.lock().suspended
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
            let mut lending = self.lending.lock();
            loop {
                if lending.suspended {
                    let patience = Duration::from_millis(self.patience_ms.load(Ordering::Relaxed));
                    let is_over = |lending: &mut Lending| lending.suspended;
                    if patience.is_zero() || self.returned.wait_while_for(&mut lending, is_over, patience).timed_out() {
                        return Err(SqliteError::Reopening);
                    }
                    continue;
                }
                match lending.free.pop() {
                    Some(reader) => {
                        lending.out += 1;
                        break reader;
                    }
                    None => self.returned.wait(&mut lending),
                }
            }
        };
        reader.deadline.store(deadline, Ordering::Relaxed);
        // Given back when this goes, also when `work` panics.
        let mut borrowed = Borrowed { pool: self, reader: Some(reader) };
        let Some(reader) = &mut borrowed.reader else { return Err(SqliteError::Interrupted) };
        let transaction = reader.connection.transaction_with_behavior(TransactionBehavior::Deferred);
        let done = transaction.map_err(SqliteError::from).and_then(|transaction| work(&transaction));
        // What was read by then may be what a failed sync left.
        if self.is_suspended() {
            return Err(SqliteError::Reopening);
        }
        let done = done?;
        if self.clock.monotonic_ms() > deadline {
            return Err(SqliteError::Interrupted);
        }
        Ok(done)
    }

    /// Interrupts reads whose snapshot is older than it may be; gives how many. For whoever has a timer.
    pub fn interrupt_overdue(&self) -> usize {
        let now = self.clock.monotonic_ms();
        let lending = self.lending.lock();
        let overdue = lending.running.iter().filter(|(deadline, _)| deadline.load(Ordering::Relaxed) < now);
        overdue.map(|(_, handle)| handle.interrupt()).count()
    }
}

struct Borrowed<'a> {
    pool: &'a ReaderPool,
    reader: Option<Reader>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        reader.deadline.store(IDLE, Ordering::Relaxed);
        let mut lending = self.pool.lending.lock();
        if lending.suspended {
            // Closed before it counts as back: whoever suspends wants none open.
            drop(lending);
            drop(reader);
            lending = self.pool.lending.lock();
        } else {
            lending.free.push(reader);
        }
        lending.out = lending.out.saturating_sub(1);
        drop(lending);
        self.pool.returned.notify_one();
    }
}
