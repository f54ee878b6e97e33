//! `views.db`: tables for people and queries. Follows from `records.db`; may be deleted and made again at will.
//!
//! Not part of any promise about what is acknowledged: an error in here never stops records. What it says is at a
//! position of its own, which every answer carries.

mod apply;
mod beyond;
mod catch_up;
mod check;
mod fold;
mod merge;
mod write;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use swarmkeep_core::{Seq, SessionId, log::Position};

pub use self::fold::Source;
pub(crate) use self::write::position;
use crate::{
    error::{Result, SqliteError},
    migration::{Found, Migration, Schema},
    records::ApplyBatch,
};

/// The schema of `views.db`.
pub const VIEWS_SCHEMA: Schema = Schema {
    application_id: 0x534b_5631, // "SKV1"
    kind: "views.db",
    migrations: &[
        Migration {
            version: 1,
            name: "views",
            up: include_str!("../migrations/views/0001_views.up.sql"),
            down: Some(include_str!("../migrations/views/0001_views.down.sql")),
        },
        Migration {
            version: 2,
            name: "incomplete",
            up: include_str!("../migrations/views/0002_incomplete.up.sql"),
            down: Some(include_str!("../migrations/views/0002_incomplete.down.sql")),
        },
    ],
};

/// A `views.db`, open for writing. Readers are [`crate::ReaderPool`]'s, and anyone's `sqlite3`.
pub struct ViewsDb {
    connection: Connection,
    path: PathBuf,
    position: Position,
}

impl std::fmt::Debug for ViewsDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ViewsDb").field("path", &self.path).field("position", &self.position).finish_non_exhaustive()
    }
}

impl ViewsDb {
    /// Opens, or makes, the file. [`ViewsDb::catch_up`] is due before the first [`ViewsDb::apply`].
    ///
    /// # Errors
    /// `Newer`, `Changed`, `Foreign`: the file was not touched. Whoever meets one may put the file aside and open again.
    pub fn open(path: &Path, options: crate::Options) -> Result<Self> {
        Self::open_looked(path, options, None)
    }

    /// [`ViewsDb::open`] of a file that was just looked at by [`Schema::look_through`], with what was found there.
    ///
    /// # Errors
    /// As [`ViewsDb::open`].
    pub fn open_looked(path: &Path, options: crate::Options, looked: Option<Found>) -> Result<Self> {
        let mut connection = VIEWS_SCHEMA.open(path, options, looked)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: Option<Vec<u8>> =
            transaction.query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0)).optional()?;
        let expected = options.store_id.unwrap_or_default();
        match found {
            None => {
                transaction.execute("INSERT INTO meta (key, value) VALUES ('store_id', ?1)", [expected])?;
            }
            Some(found) if options.store_id.is_some() && found != expected => {
                let what = "belongs to another store: delete it, it is made again".into();
                return Err(SqliteError::Foreign { file: path.display().to_string(), what });
            }
            Some(_) => {}
        }
        let position = position(&transaction)?;
        transaction.commit().map_err(SqliteError::of_commit)?;
        Ok(Self { connection, path: path.to_owned(), position })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far the views have come.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The writer's own connection, for reading. Everybody else reads through a [`crate::ReaderPool`].
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Applies a batch that `records.db` already has, in one transaction: one statement per changed entity.
    ///
    /// Entries at or below the views' position change nothing. `source` is asked only where a session was forked or
    /// rewound in the batch.
    ///
    /// # Errors
    /// Nothing was written; [`ViewsDb::catch_up`] mends most things, a rebuild the rest.
    pub fn apply(&mut self, batch: &ApplyBatch, source: &Source<'_>) -> Result<()> {
        let from = self.position;
        if batch.position <= from {
            return Ok(());
        }
        self.write(|transaction| {
            apply::batch(transaction, from, batch, source)?;
            write::put_position(transaction, batch.position)
        })?;
        self.position = batch.position;
        Ok(())
    }

    /// Brings the views to where `records.db` is: sessions that changed since the views' position, and nothing else. From
    /// an empty file this is the rebuild. `progress` is told how many sessions are done, and how many there are.
    ///
    /// May be broken off and called again. `source` must be one snapshot.
    ///
    /// # Errors
    /// `Foreign` when the views are ahead of `records.db`: the two do not belong together.
    pub fn catch_up(&mut self, source: &Source<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        catch_up::run(self, source, progress)
    }

    /// Makes all rows of one session again: its records came outside the order of positions, or were put right.
    ///
    /// # Errors
    /// As [`ViewsDb::catch_up`]; nothing was written then.
    pub fn catch_up_session(&mut self, source: &Source<'_>, session: SessionId) -> Result<()> {
        catch_up::one(self, source, session)
    }

    /// Makes all rows of those sessions again of which not everything could be read when they were made. Gives those of
    /// which that is still so.
    ///
    /// # Errors
    /// As [`ViewsDb::catch_up`]; those before it are made.
    pub fn catch_up_incomplete(&mut self, source: &Source<'_>) -> Result<Vec<SessionId>> {
        for session in self.incomplete()? {
            self.catch_up_session(source, session)?;
        }
        self.incomplete()
    }

    /// Sessions of which not everything could be read when their rows were made.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn incomplete(&self) -> Result<Vec<SessionId>> {
        write::incomplete(&self.connection)
    }

    /// Empties every table and makes them again.
    ///
    /// # Errors
    /// As [`ViewsDb::catch_up`].
    pub fn rebuild(&mut self, source: &Source<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        self.write(|transaction| {
            write::clear(transaction)?;
            write::put_position(transaction, Position(0))
        })?;
        self.position = Position(0);
        self.catch_up(source, progress)
    }

    /// Closes the connection, and copies nothing of the write-ahead log: the file is about to go, and be made again.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn shut(&mut self) -> Result<()> {
        let old = std::mem::replace(&mut self.connection, Connection::open_in_memory()?);
        crate::connection::keep_log(&old)
    }

    /// Copies the write-ahead log into the main file when it has grown long.
    fn bound_log(&mut self) -> Result<()> {
        if crate::connection::log_pages(&self.connection)? > crate::connection::WAL_PAGES_MAX {
            self.wal_checkpoint()?;
        }
        Ok(())
    }

    /// Copies the write-ahead log into the main file; false: a reader is in the way.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn wal_checkpoint(&mut self) -> Result<bool> {
        let busy: i64 = crate::connection::without_waiting(&self.connection, |connection| {
            Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?)
        })?;
        Ok(busy == 0)
    }

    fn write<T>(&mut self, work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T>) -> Result<T> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        transaction.commit().map_err(SqliteError::of_commit)?;
        Ok(done)
    }

    /// Where the views of a session differ from its state, in words; empty: they agree. Heartbeats are not compared (they
    /// are not state); for messages that have left the state see [`ViewsDb::differences_beyond_state`].
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn differences(connection: &Connection, state: &swarmkeep_core::State) -> Result<Vec<String>> {
        check::differences(connection, state)
    }

    /// Where the views of a session differ from what records.db has and no state knows: messages that were consumed, and
    /// metrics; empty: they agree. Up to where the views have come.
    ///
    /// # Errors
    /// Whatever SQLite says; `Damaged` when the records themselves are.
    pub fn differences_beyond_state(
        connection: &Connection,
        source: &Source<'_>,
        session: SessionId,
    ) -> Result<Vec<String>> {
        beyond::differences(connection, source, session)
    }

    /// The sessions that the views of a store know, and the last record of each that they have.
    ///
    /// # Errors
    /// Whatever SQLite says; `Foreign`: of another store.
    pub fn heads(connection: &Connection, store_id: [u8; 16]) -> Result<Vec<(SessionId, Seq)>> {
        let found: Vec<u8> =
            connection.query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0))?;
        if found != store_id {
            return Err(SqliteError::Foreign { file: "views.db".into(), what: "belongs to another store".into() });
        }
        let mut statement = connection.prepare("SELECT session_id, seq FROM sessions")?;
        let mut rows = statement.query([])?;
        let mut heads = Vec::new();
        while let Some(row) = rows.next()? {
            let (id, seq): (String, i64) = (row.get(0)?, row.get(1)?);
            heads.extend(id.parse().ok().map(|id| (id, Seq(seq.cast_unsigned()))));
        }
        Ok(heads)
    }

    /// SQLite's own check of the file: what does not fit together, in words, a few lines at most.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn structure(connection: &Connection) -> Result<Vec<String>> {
        let mut statement = connection.prepare("PRAGMA integrity_check(16)")?;
        let lines: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    }

    /// Every row of the list of events of a session, in no order: seq, time, event type, aggregate type, aggregate id.
    ///
    /// # Errors
    /// Whatever SQLite says; `Damaged` for a row that cannot be one.
    pub fn events(
        connection: &Connection,
        session: SessionId,
        each: &mut dyn FnMut(u64, u64, &str, &str, &str),
    ) -> Result<()> {
        check::events(connection, session, each)
    }
}
