//! Numbered migrations, each applied once and remembered by its checksum.
//!
//! A file is looked at through a read-only connection first. If it was made by a newer program, or by a migration that
//! is not the one known here, or by another application altogether, it is refused before anything is written.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::{
    connection::{self, Vfs},
    error::{Result, SqliteError},
    pool::ReaderPool,
    records::Options,
};

/// One step of a schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Counts from 1, without gaps.
    pub version: i64,
    /// For people.
    pub name: &'static str,
    /// What makes it.
    pub up: &'static str,
    /// What takes it back; only for files that can be made again from others.
    pub down: Option<&'static str>,
}

impl Migration {
    fn checksum(&self) -> [u8; 32] {
        *blake3::hash(self.up.as_bytes()).as_bytes()
    }
}

/// The schema of one kind of file.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Marks the file's kind in its header (`PRAGMA application_id`).
    pub application_id: i32,
    /// What the file is called in messages.
    pub kind: &'static str,
    /// All steps, in order.
    pub migrations: &'static [Migration],
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    applied_at INTEGER NOT NULL,
    checksum   BLOB NOT NULL
) STRICT";

impl Schema {
    /// The newest version.
    #[must_use]
    pub fn known(&self) -> i64 {
        self.migrations.last().map_or(0, |migration| migration.version)
    }

    /// Opens a file of this kind for writing, brought up to date. `looked`: what a look at it just found; else one is taken.
    pub(crate) fn open(&self, path: &Path, options: Options, looked: Option<Found>) -> Result<Connection> {
        let Options { vfs, create, mode, now_ms, .. } = options;
        match looked.map_or_else(|| self.look_on(vfs, path), Ok) {
            Ok(_) => {}
            Err(SqliteError::NotFound(_)) if create => {}
            // A rollback journal is waiting to be rolled back, which a read-only connection may not do: the writing one
            // does it as it opens, and looks before it writes anything of its own.
            Err(SqliteError::ReadOnly(_)) => {}
            Err(error) => return Err(error),
        }
        let mut connection = connection::writer(vfs, path, create, mode)?;
        self.check(&connection, path)?;
        self.migrate(&mut connection, now_ms)?;
        // Of a file that was there, the name of its write-ahead log may be as new as that of a fresh one.
        connection::sync_directory(vfs, path)?;
        Ok(connection)
    }

    /// What stands at `path`, found out without writing.
    ///
    /// # Errors
    /// `Newer`, `Changed`, `Foreign`, `NotFound`, `Damaged`.
    pub fn look(&self, path: &Path) -> Result<Found> {
        self.look_on(Vfs::default(), path)
    }

    /// [`Schema::look`] at a file of a VFS.
    ///
    /// # Errors
    /// As [`Schema::look`].
    pub fn look_on(&self, vfs: Vfs, path: &Path) -> Result<Found> {
        self.check(&connection::reader(vfs, path)?, path)
    }

    /// [`Schema::look`] at the file that a pool reads, through one of its connections. Kept open until the file is opened
    /// for writing, the pool spares that a second recovery of the write-ahead log.
    ///
    /// # Errors
    /// As [`Schema::look`].
    pub fn look_through(&self, pool: &ReaderPool, path: &Path) -> Result<Found> {
        pool.read(|connection| self.check(connection, path))
    }

    fn check(&self, connection: &Connection, path: &Path) -> Result<Found> {
        let file = || path.display().to_string();
        let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables == 0 && application == 0 && version == 0 {
            return Ok(Found::Empty);
        }
        if application != i64::from(self.application_id) {
            let what = format!("not a {} of swarmkeep (application id {application:#x})", self.kind);
            return Err(SqliteError::Foreign { file: file(), what });
        }
        if version > self.known() {
            return Err(SqliteError::Newer { file: file(), found: version, known: self.known() });
        }
        let mut statement =
            connection.prepare("SELECT version, name, checksum FROM schema_migrations ORDER BY version")?;
        let mut rows = statement.query([])?;
        let mut newest = 0;
        while let Some(row) = rows.next()? {
            let (found, name, checksum): (i64, String, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            newest = found;
            let Some(known) = self.migrations.iter().find(|migration| migration.version == found) else {
                return Err(SqliteError::Newer { file: file(), found, known: self.known() });
            };
            if known.name != name || known.checksum() != checksum.as_slice() {
                return Err(SqliteError::Changed { file: file(), version: found, name });
            }
        }
        if newest != version {
            let what = format!("header says schema version {version}, its list of migrations ends at {newest}");
            return Err(SqliteError::Foreign { file: file(), what });
        }
        Ok(Found::Version(version))
    }

    fn migrate(&self, connection: &mut Connection, now_ms: u64) -> Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let from: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if from == self.known() {
            return Ok(());
        }
        transaction.execute_batch(TABLE)?;
        for migration in self.migrations.iter().filter(|migration| migration.version > from) {
            transaction.execute_batch(migration.up)?;
            transaction.execute(
                "INSERT INTO schema_migrations (version, name, applied_at, checksum) VALUES (?1, ?2, ?3, ?4)",
                (migration.version, migration.name, now_ms.cast_signed(), migration.checksum()),
            )?;
        }
        transaction.pragma_update(None, "application_id", self.application_id)?;
        transaction.pragma_update(None, "user_version", self.known())?;
        transaction.commit().map_err(SqliteError::of_commit)
    }

    /// Takes back every step above `to`. Only for files whose every step has a way down.
    ///
    /// # Errors
    /// `Invalid` when a step has none; whatever SQLite says.
    pub fn down(&self, connection: &mut Connection, to: i64) -> Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let from: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        for migration in
            self.migrations.iter().rev().filter(|migration| migration.version > to && migration.version <= from)
        {
            let down = migration
                .down
                .ok_or_else(|| SqliteError::Invalid(format!("migration {} has no way down", migration.version)))?;
            transaction.execute_batch(down)?;
            transaction.execute("DELETE FROM schema_migrations WHERE version = ?1", [migration.version])?;
        }
        let left: Option<i64> = transaction
            .query_row("SELECT max(version) FROM schema_migrations", [], |row| row.get(0))
            .optional()?
            .flatten();
        transaction.pragma_update(None, "user_version", left.unwrap_or(0))?;
        transaction.commit().map_err(SqliteError::of_commit)
    }
}

/// What a look at a file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing yet.
    Empty,
    /// A file of the right kind at this schema version.
    Version(i64),
}
