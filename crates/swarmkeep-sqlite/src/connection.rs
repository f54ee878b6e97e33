//! Opening a SQLite file so that its settings are what they were asked to be.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::error::{Result, SqliteError};

/// How a file is made safe. The journal of a store acknowledges before SQLite sees anything, so its records.db need not
/// sync at every commit; a store of SQLite alone must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Write-ahead log, synced at checkpoints only: a commit may be lost with the power, never torn. For files that are
    /// applied from a journal.
    WalNormal,
    /// Write-ahead log, synced at every commit.
    WalFull,
    /// Rollback journal, synced at every commit: one connection, and the only mode there is in a browser.
    RollbackFull,
}

/// Whose files a database lies on: the operating system's, or those of a VFS that SQLite knows by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vfs(Option<&'static str>);

impl Vfs {
    /// The VFS of this name. Whoever made it syncs its directories.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self(Some(name))
    }

    fn open(self, path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
        match self.0 {
            None => Connection::open_with_flags(path, flags),
            Some(name) => Connection::open_with_flags_and_vfs(path, flags, name),
        }
    }
}

/// The first SQLite without the WAL-reset fault (a write racing a checkpoint could lose pages).
const LIBRARY_MIN: i32 = 3_051_003;
/// How long a lock of somebody else is waited for: a person's `sqlite3` reading views.db, a checkpoint.
const BUSY: Duration = Duration::from_secs(5);
/// Cached statements per connection: more than there are in this crate for one file.
const STATEMENTS: usize = 192;
/// Checkpoints are the caller's business ([`crate::RecordsDb::wal_checkpoint`]); this is the backstop, in pages of 4 KiB.
pub(crate) const WAL_PAGES_MAX: i64 = 16 * 1024;
/// Page cache of a writer and of a reader, in KiB. Writers keep the inner pages of every index at hand.
const CACHE_KIB_WRITER: i64 = 32 * 1024;
const CACHE_KIB_READER: i64 = 4 * 1024;

/// Opens for writing; `create`: makes the file if it is not there.
pub(crate) fn writer(vfs: Vfs, path: &Path, create: bool, mode: Mode) -> Result<Connection> {
    library()?;
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let connection = vfs.open(path, flags)?;
    settle(&connection, CACHE_KIB_WRITER)?;
    let (journal, synchronous) = match mode {
        Mode::WalNormal => ("wal", 1),
        Mode::WalFull => ("wal", 2),
        Mode::RollbackFull => ("delete", 2),
    };
    expect_text(&connection, "journal_mode", journal)?;
    expect(&connection, "synchronous", synchronous)?;
    if mode == Mode::WalNormal {
        // The log is copied where somebody hears of it when that fails, and nowhere else: not after a commit, and not by the
        // last connection as it closes, which believes an index that a failed sync may have made wrong.
        expect(&connection, "wal_autocheckpoint", 0)?;
        keep_log(&connection)?;
    } else if journal == "wal" {
        expect(&connection, "wal_autocheckpoint", WAL_PAGES_MAX)?;
    }
    if journal == "wal" {
        expect(&connection, "journal_size_limit", WAL_PAGES_MAX * 4096)?;
    }
    if cfg!(target_os = "macos") {
        expect(&connection, "fullfsync", 1)?;
        expect(&connection, "checkpoint_fullfsync", 1)?;
    }
    Ok(connection)
}

/// Closing the connection copies nothing.
pub(crate) fn keep_log(connection: &Connection) -> Result<()> {
    if connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)? {
        return Ok(());
    }
    Err(refused("no_ckpt_on_close", "on"))
}

/// Pages in the write-ahead log.
pub(crate) fn log_pages(connection: &Connection) -> Result<i64> {
    Ok(connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?)
}

/// Opens for reading only.
pub(crate) fn reader(vfs: Vfs, path: &Path) -> Result<Connection> {
    library()?;
    let connection = vfs.open(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    settle(&connection, CACHE_KIB_READER)?;
    expect(&connection, "query_only", 1)?;
    Ok(connection)
}

/// Opens a damaged file for reading; `alone`: the main file as it is by itself, without its write-ahead log. Nobody writes it
/// meanwhile.
pub(crate) fn wreck(vfs: Vfs, path: &Path, alone: bool) -> Result<Connection> {
    library()?;
    let read = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match alone {
        true => vfs.open(Path::new(&immutable(path)), read | OpenFlags::SQLITE_OPEN_URI)?,
        false => vfs.open(path, read)?,
    };
    // Else not a page is read of a file that is shorter than it says; and what comes next reads some. Nothing can be written
    // through this connection.
    let permit = || -> Result<()> {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
        Ok(connection.pragma_update(None, "writable_schema", true)?)
    };
    permit()?;
    settle(&connection, CACHE_KIB_READER)?;
    permit()?;
    expect(&connection, "query_only", 1)?;
    Ok(connection)
}

fn immutable(path: &Path) -> String {
    let mut name = String::from("file:");
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => name.push(char::from(byte)),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    name.push_str("?immutable=1");
    name
}

/// Opens the main file for reading as it is by itself, without its write-ahead log. Nobody writes it meanwhile.
pub(crate) fn alone(vfs: Vfs, path: &Path) -> Result<Connection> {
    library()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = vfs.open(Path::new(&immutable(path)), flags)?;
    settle(&connection, CACHE_KIB_READER)?;
    Ok(connection)
}

fn library() -> Result<()> {
    if rusqlite::version_number() < LIBRARY_MIN {
        return Err(SqliteError::Library { library: rusqlite::version(), what: "3.51.3 or newer is needed".into() });
    }
    Ok(())
}

/// What readers and writers have in common. Every value is read back: SQLite ignores what it does not know.
fn settle(connection: &Connection, cache_kib: i64) -> Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(BUSY)?;
    expect(connection, "trusted_schema", 0)?;
    expect(connection, "cell_size_check", 1)?;
    // A failed read of a mapped page is a signal, not an error.
    expect(connection, "mmap_size", 0)?;
    expect(connection, "temp_store", 2)?;
    expect(connection, "foreign_keys", 1)?;
    expect(connection, "cache_size", -cache_kib)?;
    if !connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)? {
        return Err(refused("defensive", "on"));
    }
    // A plan does not depend on what is bound. Else every statement with a bound range is compiled anew each time it runs,
    // which takes several times as long as running it.
    if !connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)? {
        return Err(refused("enable_qpsg", "on"));
    }
    Ok(())
}

fn expect(connection: &Connection, pragma: &str, value: i64) -> Result<()> {
    connection.pragma_update(None, pragma, value)?;
    let found: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
    if found == value { Ok(()) } else { Err(refused(pragma, &value.to_string())) }
}

fn expect_text(connection: &Connection, pragma: &str, value: &str) -> Result<()> {
    // To its end, and then asked again: `journal_mode` answers with the new mode before its own commit, which may fail.
    let mut statement = connection.prepare(&format!("PRAGMA {pragma}={value}"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    drop(rows);
    let found: String = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
    if found == value { Ok(()) } else { Err(refused(pragma, value)) }
}

fn refused(pragma: &str, value: &str) -> SqliteError {
    SqliteError::Library { library: rusqlite::version(), what: format!("PRAGMA {pragma}={value} did not take effect") }
}

/// Runs `work` so that a lock held by somebody else is an answer at once, not a wait.
pub(crate) fn without_waiting<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    connection.busy_timeout(Duration::ZERO)?;
    let done = work(connection);
    connection.busy_timeout(BUSY)?;
    done
}

/// SQLite syncs the directory after it made a journal, not after it made the file itself.
pub(crate) fn sync_directory(vfs: Vfs, path: &Path) -> Result<()> {
    if vfs != Vfs::default() {
        return Ok(());
    }
    #[cfg(not(target_family = "wasm"))]
    {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::File::open(directory)?.sync_all()?;
    }
    #[cfg(target_family = "wasm")]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_statement_is_compiled_once_whatever_is_bound() {
        let folder = tempfile::tempdir().unwrap();
        let connection = writer(Vfs::default(), &folder.path().join("a.db"), true, Mode::WalNormal).unwrap();
        connection.execute_batch("CREATE TABLE t (a INTEGER, b INTEGER); CREATE INDEX i ON t (a, b)").unwrap();
        let mut statement =
            connection.prepare("SELECT b FROM t WHERE a = ?1 AND b > ?2 ORDER BY b DESC LIMIT ?3").unwrap();
        for bound in 0..10 {
            assert!(!statement.exists((bound, bound * 7, 1 + bound)).unwrap());
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
