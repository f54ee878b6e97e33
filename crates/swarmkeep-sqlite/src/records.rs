//! `records.db`: records by session, checkpoints, blobs, heads. Authoritative for what a journal no longer holds.

mod apply;
mod chunk;
mod left;
mod mend;
mod read;
mod remove;
mod restore;
mod row;
mod salvage;
mod verify;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use swarmkeep_core::{Hash, log::Position};

pub use self::{
    apply::{ApplyBatch, Entry, NewBlob, What},
    mend::{BadRow, Gap, Mending, Survey},
    read::{CheckpointInfo, RecordsReader, Recovery, Removal, StoredObservations, StoredSession},
    restore::Restored,
    salvage::{Salvaged, Wreck},
    verify::SessionReport,
};
use crate::{
    codec::Packer,
    connection::{self, Mode, Vfs},
    error::{Result, SqliteError},
    migration::{Found, Migration, Schema},
};

/// The schema of `records.db`.
pub const RECORDS_SCHEMA: Schema = Schema {
    application_id: 0x534b_5231, // "SKR1"
    kind: "records.db",
    migrations: &[Migration {
        version: 1,
        name: "records",
        up: include_str!("../migrations/records/0001_records.sql"),
        down: None,
    }],
};

/// Reports of one kind that are kept.
const REPORTS_KEPT: u32 = 1_000;

/// How to open a `records.db`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The store it belongs to. Given to a fresh file; compared with what an old one says. `None`: whatever is there, or
    /// zeros.
    pub store_id: Option<[u8; 16]>,
    /// Make the file if it is not there.
    pub create: bool,
    /// How commits are made safe.
    pub mode: Mode,
    /// Written beside migrations, for people.
    pub now_ms: u64,
    /// Whose files it lies on.
    pub vfs: Vfs,
}

/// How far a `records.db` has come, and in which store: what it and a journal know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Anchor {
    /// Names the store.
    pub store_id: [u8; 16],
    /// The last frame applied.
    pub position: Position,
    /// Its hash.
    pub frame_hash: Hash,
    /// The open that wrote it.
    pub incarnation: u64,
}

/// A `records.db`, open for writing. There is one of these per file; readers are [`crate::ReaderPool`]'s.
pub struct RecordsDb {
    connection: Connection,
    path: PathBuf,
    options: Options,
    anchor: Anchor,
    packer: Packer,
    poisoned: bool,
}

impl std::fmt::Debug for RecordsDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordsDb").field("path", &self.path).field("anchor", &self.anchor).finish_non_exhaustive()
    }
}

impl RecordsDb {
    /// Opens, or makes, the file.
    ///
    /// # Errors
    /// `Newer`, `Changed`, `Foreign` (another application's file, or another store's): the file was not touched.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let mut db = Self::open_looked(path, options, None)?;
        if db.anchor.position == Position(0) {
            // Nothing was applied yet: the file itself may not be durable. Whatever is begun upon it must not outlive it.
            db.wal_checkpoint()?;
        }
        Ok(db)
    }

    /// [`RecordsDb::open`] of a file that was just looked at by [`Schema::look_through`], with what was found there. What is
    /// new in it may not be durable before [`RecordsDb::wal_checkpoint`].
    ///
    /// # Errors
    /// As [`RecordsDb::open`].
    pub fn open_looked(path: &Path, options: Options, looked: Option<Found>) -> Result<Self> {
        let mut connection = RECORDS_SCHEMA.open(path, options, looked)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: Option<Vec<u8>> =
            transaction.query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0)).optional()?;
        if found.is_none() {
            let id = options.store_id.unwrap_or_default();
            transaction.execute("INSERT INTO meta (key, value) VALUES ('store_id', ?1)", [id])?;
            row::put_anchor(&transaction, &Anchor { store_id: id, ..Anchor::default() })?;
        }
        let anchor = row::anchor(&transaction)?;
        if let Some(expected) = options.store_id
            && expected != anchor.store_id
        {
            let what =
                "belongs to another store: its store id differs; bring back the files that belong together".into();
            return Err(SqliteError::Foreign { file: path.display().to_string(), what });
        }
        transaction.commit().map_err(SqliteError::of_commit)?;
        Ok(Self { connection, path: path.to_owned(), options, anchor, packer: Packer::new(), poisoned: false })
    }

    /// Closes the connection, and copies nothing of the write-ahead log. [`RecordsDb::reopen`] opens another.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn shut(&mut self) -> Result<()> {
        // Until a new one stands: what takes its place has no tables.
        self.poisoned = true;
        let old = std::mem::replace(&mut self.connection, Connection::open_in_memory()?);
        connection::keep_log(&old)
    }

    /// Closes the connection and opens another, after [`SqliteError::Unknown`] or `Io`: what was committed is read from the
    /// file. Readers that share the index of the write-ahead log with the old connection have to be closed first
    /// ([`ReaderPool::suspend`](crate::ReaderPool::suspend)): what a failed sync dropped is still named there.
    ///
    /// # Errors
    /// As [`RecordsDb::open`]; the old connection stays poisoned.
    pub fn reopen(&mut self) -> Result<()> {
        let options = Options { create: false, store_id: Some(self.anchor.store_id), ..self.options };
        self.shut()?;
        *self = Self::open_looked(&self.path.clone(), options, None)?;
        Ok(())
    }

    /// Gives the copying of the write-ahead log that is about to begin a number, its stamp, as a row of the file: at least
    /// `least`, and more than the last.
    ///
    /// # Errors
    /// As [`RecordsDb::apply`].
    pub fn next_stamp(&mut self, least: u64) -> Result<u64> {
        self.write(|transaction, _, _| {
            let stamp = row::stamp(transaction)?.saturating_add(1).max(least);
            let value = stamp.to_le_bytes();
            transaction
                .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('copied', ?1)")?
                .execute([value])?;
            Ok(stamp)
        })
    }

    /// Writes, and takes it back: whether that can be done.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn try_write(&mut self) -> Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let stamp = row::stamp(&transaction)?.to_le_bytes();
        transaction.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('copied', ?1)", [stamp])?;
        Ok(transaction.rollback()?)
    }

    /// The stamp in the main file at `path` by itself, whatever its write-ahead log has.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn main_stamp(vfs: Vfs, path: &Path) -> Result<u64> {
        row::stamp(&connection::alone(vfs, path)?)
    }

    /// Writes everything that is committed into another file, which must not be there yet: it is not synced.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn save_as(&self, path: &Path) -> Result<()> {
        let text = path.to_str().ok_or_else(|| SqliteError::Invalid("the path is no text".into()))?;
        self.connection.execute("VACUUM INTO ?1", [text])?;
        Ok(())
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a commit came to an unknown outcome: nothing is written before [`RecordsDb::reopen`].
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// How far it has come.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// How far it has come: position, and hash of that frame.
    #[must_use]
    pub fn position(&self) -> (Position, Hash) {
        (self.anchor.position, self.anchor.frame_hash)
    }

    /// Reads through the writer's own connection. Everybody else reads through a [`crate::ReaderPool`].
    #[must_use]
    pub fn reader(&self) -> RecordsReader<'_> {
        RecordsReader::new(&self.connection)
    }

    /// Applies a batch in one transaction, which also stores its position and frame hash.
    ///
    /// Entries at positions already applied change nothing (checkpoints are taken at any position: they are not in the
    /// journal's order). Records at or below a session's head are compared with what is stored and skipped. The batch is
    /// all or nothing.
    ///
    /// # Errors
    /// `Damaged` for records that do not follow, or differ from those stored; `Full`, `Io`: nothing was written.
    /// `Unknown`: call [`RecordsDb::reopen`] before the next write.
    pub fn apply(&mut self, batch: &ApplyBatch) -> Result<()> {
        self.write(|transaction, packer, anchor| {
            apply::batch(transaction, packer, anchor, batch)?;
            if batch.position > anchor.position {
                anchor.position = batch.position;
                anchor.frame_hash = batch.frame_hash;
                anchor.incarnation = batch.incarnation;
                row::put_anchor(transaction, anchor)?;
            }
            Ok(())
        })
    }

    /// Stores the store's incarnation, where there is no journal to keep it.
    ///
    /// # Errors
    /// As [`RecordsDb::apply`].
    pub fn set_incarnation(&mut self, incarnation: u64) -> Result<()> {
        self.write(|transaction, _, anchor| {
            anchor.incarnation = incarnation;
            row::put_anchor(transaction, anchor)
        })
    }

    /// Keeps the report of a recovery, in the place of one of the same id. Of each kind (what its id has before the first
    /// `-`) the newest 1,000 stay.
    ///
    /// # Errors
    /// As [`RecordsDb::apply`].
    pub fn put_recovery(&mut self, recovery: &Recovery) -> Result<()> {
        self.write(|transaction, _, _| {
            transaction.execute(
                "INSERT OR REPLACE INTO recoveries (id, at, report, checksum) VALUES (?1, ?2, ?3, ?4)",
                (&recovery.id, recovery.at_ms.cast_signed(), &recovery.report, recovery.checksum()),
            )?;
            let kind = recovery.id.split_inclusive('-').next().unwrap_or_default();
            transaction.execute(
                "DELETE FROM recoveries WHERE id IN (SELECT id FROM recoveries WHERE substr(id, 1, length(?1)) = ?1 \
                 ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?2)",
                (kind, REPORTS_KEPT),
            )?;
            Ok(())
        })
    }

    /// Copies the write-ahead log into the main file, syncs it, and reads position and frame hash back through a
    /// connection of its own. `None`: a reader is in the way, try again later.
    ///
    /// A journal segment may be retired once this says a position at or beyond it: a row that is only in the write-ahead
    /// log does not count, because one flipped bit there drops commits in silence.
    ///
    /// # Errors
    /// Whatever SQLite says; `Damaged` when what is read back is not what was written.
    pub fn wal_checkpoint(&mut self) -> Result<Option<Anchor>> {
        self.wal_checkpoint_saying(|| true)
    }

    /// [`RecordsDb::wal_checkpoint`]; `copied` is called when everything is in the main file, durably, and the write-ahead log
    /// is still as it was. Where it says false, the log stays, and the answer is `None`.
    ///
    /// # Errors
    /// As [`RecordsDb::wal_checkpoint`].
    pub fn wal_checkpoint_saying(&mut self, copied: impl FnOnce() -> bool) -> Result<Option<Anchor>> {
        if self.poisoned {
            return Err(poisoned());
        }
        if self.options.mode != Mode::RollbackFull {
            let run = |sql: &str| -> Result<bool> {
                let (busy, log, copied): (i64, i64, i64) =
                    connection::without_waiting(&self.connection, |connection| {
                        Ok(connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?)
                    })?;
                Ok(busy == 0 && log == copied)
            };
            let done = run("PRAGMA wal_checkpoint(FULL)")
                .and_then(|all| Ok(all && copied() && run("PRAGMA wal_checkpoint(TRUNCATE)")?));
            if !done.map_err(|error| self.poison_on(error))? {
                return Ok(None);
            }
        }
        let witness = row::anchor(&connection::reader(self.options.vfs, &self.path)?)?;
        if witness != self.anchor {
            return Err(SqliteError::damaged(
                None,
                None,
                format!(
                    "{}: position {} was written, another connection reads {}",
                    self.path.display(),
                    self.anchor.position.0,
                    witness.position.0
                ),
            ));
        }
        Ok(Some(witness))
    }

    /// One transaction; the anchor in RAM changes only when it commits.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&rusqlite::Transaction<'_>, &mut Packer, &mut Anchor) -> Result<T>,
    ) -> Result<T> {
        if self.poisoned {
            return Err(poisoned());
        }
        let mut anchor = self.anchor;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Compared inside every transaction: whoever opened the file after us is the one who writes it now.
        let there = row::anchor(&transaction)?;
        if there != anchor {
            return Err(SqliteError::Fenced { incarnation: there.incarnation });
        }
        let done = work(&transaction, &mut self.packer, &mut anchor)?;
        if let Err(error) = transaction.commit().map_err(SqliteError::of_commit) {
            return Err(self.poison_on(error));
        }
        self.anchor = anchor;
        Ok(done)
    }

    /// After a failed commit or sync the page cache can no longer be believed.
    fn poison_on(&mut self, error: SqliteError) -> SqliteError {
        if matches!(error, SqliteError::Unknown(_) | SqliteError::Io(_)) {
            self.poisoned = true;
        }
        error
    }
}

fn poisoned() -> SqliteError {
    SqliteError::Io("an earlier commit failed; reopen the file first".into())
}
