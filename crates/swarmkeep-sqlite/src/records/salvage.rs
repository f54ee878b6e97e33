//! What can still be read of a `records.db` that SQLite cannot read whole, row by row, into another.
//!
//! Every row has a checksum or a hash of its own, so that what is taken is what was written once. When it was written, and
//! whether it was removed since, a row does not know: whoever calls this says which sessions are taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rusqlite::{
    Connection, Row, params_from_iter,
    types::{Value, ValueRef},
};
use swarmkeep_core::{Hash, Seq, SessionId, log::Position};

use super::{
    Anchor, RecordsDb, RecordsReader,
    mend::examine,
    read, remove,
    row::{self, SessionRow, fixed, unsigned},
};
use crate::{
    connection::{self, Vfs},
    error::{Result, SqliteError},
};

/// Rows read at a time.
const PAGE: i64 = 64;
/// Pieces in which a range is looked through that does not read whole.
const PROBES: u32 = 4_096;

/// A damaged file, open for reading: nobody else has it open.
pub struct Wreck(Connection);

impl std::fmt::Debug for Wreck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Wreck").finish()
    }
}

impl Wreck {
    /// Opens it; `alone`: without its write-ahead log, which is of another time.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn open(vfs: Vfs, path: &Path, alone: bool) -> Result<Self> {
        connection::wreck(vfs, path, alone).map(Self)
    }

    /// What it says of itself and of its sessions, as far as it reads.
    #[must_use]
    pub fn survey(&self) -> Salvaged {
        RecordsReader::new(&self.0).salvage()
    }
}

/// What was found in a damaged file.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// How far the file says that it had come.
    pub anchor: Option<Anchor>,
    /// Sessions whose rows verify, and the position that changed each last.
    pub sessions: BTreeMap<SessionId, Position>,
    /// Every session that any row or index names.
    pub named: BTreeSet<SessionId>,
    /// Sessions that it says were removed: where, and the last record of each.
    pub removed: BTreeMap<SessionId, (Position, Seq)>,
    /// Not every row could be read, or some did not verify.
    pub has_gaps: bool,
}

/// A table whose rows are taken one by one.
struct Table {
    name: &'static str,
    columns: &'static str,
    verifies: fn(&Row<'_>) -> Option<SessionId>,
}

const TABLES: [Table; 4] = [
    Table {
        name: "chunks",
        columns: "id, first_seq, last_seq, codec, raw_len, checksum, bytes, session",
        verifies: |row| {
            let session = SessionId(fixed(row, 7).ok()?);
            examine(row, session).map(|_| session)
        },
    },
    Table {
        name: "checkpoints",
        columns: "seq, number, head_hash, head_time, state_version, hash, raw_len, checksum, codec, bytes, id, session",
        verifies: |row| {
            let session = SessionId(fixed(row, 11).ok()?);
            read::read_checkpoint(session, row).is_ok().then_some(session)
        },
    },
    Table {
        name: "blobs",
        columns: "raw_len, codec, bytes, blob, seq, id, session",
        verifies: |row| {
            let session = SessionId(fixed(row, 6).ok()?);
            let blob = swarmkeep_core::BlobId(fixed(row, 3).ok()?);
            read::read_blob(session, blob, row).is_ok().then_some(session)
        },
    },
    Table {
        name: "observations",
        columns: "id, session, position, checksum, json, at, kind",
        verifies: |row| read::observations_in(row).ok().map(|stored| stored.session),
    },
];

impl RecordsReader<'_> {
    /// What a damaged file says of itself and of its sessions, as far as it reads.
    fn salvage(&self) -> Salvaged {
        let connection = self.connection();
        let mut found = Salvaged { anchor: row::anchor(connection).ok(), ..Salvaged::default() };
        found.has_gaps = found.anchor.is_none();
        for table in ["chunks", "checkpoints", "blobs", "observations"] {
            // Of the index alone.
            found.has_gaps |=
                ids(connection, &format!("SELECT DISTINCT session FROM {table}"), &mut found.named).is_err();
        }
        for order in ["ASC", "DESC"] {
            let sql = format!("SELECT {} FROM sessions ORDER BY id {order}", row::COLUMNS);
            let whole = each(connection, &sql, |row| match SessionRow::read(row) {
                Ok((id, row)) => {
                    found.named.insert(id);
                    found.sessions.insert(id, row.position);
                    true
                }
                Err(_) => false,
            });
            let sql = format!(
                "SELECT session, position, head_seq, head_hash, checksum FROM removed ORDER BY session {order}"
            );
            let whole = each(connection, &sql, |row| {
                removal(row).is_some_and(|(id, at)| found.removed.insert(id, at).is_none_or(|_| true))
            }) && whole;
            if whole {
                break;
            }
            found.has_gaps = true;
        }
        for id in found.named.clone() {
            if let std::collections::btree_map::Entry::Vacant(entry) = found.sessions.entry(id) {
                // Its neighbours' page may not read, and its own may.
                match SessionRow::load(connection, id) {
                    Ok(Some(row)) => drop(entry.insert(row.position)),
                    _ => found.has_gaps = true,
                }
            }
        }
        found
    }
}

impl RecordsDb {
    /// Takes the rows of another file that verify. `takes`: whose; `through`: observations up to this position. False: not
    /// every row could be read, or some did not verify.
    ///
    /// # Errors
    /// What SQLite says of this file.
    pub fn take_rows(&mut self, from: &Wreck, takes: &dyn Fn(SessionId) -> bool, through: Position) -> Result<bool> {
        let from = &from.0;
        self.write(|transaction, _, _| {
            let mut whole = true;
            for order in ["ASC", "DESC"] {
                let sql = format!("SELECT {} FROM sessions ORDER BY id {order}", row::COLUMNS);
                let mut failed = None;
                let read = each(from, &sql, |row| match SessionRow::read(row) {
                    Ok((id, _)) if !takes(id) => true,
                    Ok(_) => {
                        put(transaction, "sessions", row::COLUMNS, row).map_err(|error| failed = Some(error)).is_ok()
                    }
                    Err(_) => false,
                });
                if let Some(error) = failed {
                    return Err(error);
                }
                if read {
                    break;
                }
                whole = false;
            }
            for table in &TABLES {
                let mut probes = PROBES;
                let mut failed = None;
                let mut take = |row: &Row<'_>| match (table.verifies)(row) {
                    Some(session) if !takes(session) => true,
                    // One that is a file of its own is known by its file: the row may be of a session of this name before.
                    Some(_) if table.name == "blobs" && matches!(row.get_ref(2), Ok(ValueRef::Null)) => true,
                    Some(_) if table.name == "observations" && unsigned(row, 2).is_ok_and(|at| at > through.0) => true,
                    Some(_) => {
                        put(transaction, table.name, table.columns, row).map_err(|error| failed = Some(error)).is_ok()
                    }
                    None => false,
                };
                whole &= walk(from, table, (0, i64::MAX), &mut probes, &mut take);
                if let Some(error) = failed {
                    return Err(error);
                }
            }
            let sql = "SELECT id, at, report, checksum FROM recoveries ORDER BY id";
            let reports = each(from, sql, |row| {
                let read = || {
                    let found = super::Recovery { id: row.get(0)?, at_ms: unsigned(row, 1)?, report: row.get(2)? };
                    Ok::<_, SqliteError>(found.checksum() == fixed::<16>(row, 3)?)
                };
                read().unwrap_or(false) && put(transaction, "recoveries", "id, at, report, checksum", row).is_ok()
            });
            Ok(whole && reports)
        })
    }

    /// Says that a session was removed, where, and what its last record was at most.
    ///
    /// # Errors
    /// As [`RecordsDb::apply`].
    pub fn mark_removed(&mut self, removed: &BTreeMap<SessionId, (Position, Seq)>) -> Result<()> {
        self.write(|transaction, _, _| {
            for (session, (position, seq)) in removed {
                let head = swarmkeep_core::log::Head { seq: *seq, hash: Hash::default(), time_ms: 0 };
                remove::mark(transaction, *session, head, *position)?;
            }
            Ok(())
        })
    }

    /// Lets go of rows beside the records of sessions that do not exist.
    ///
    /// # Errors
    /// As [`RecordsDb::apply`].
    pub fn drop_strays(&mut self) -> Result<()> {
        self.write(|transaction, _, _| {
            for table in ["checkpoints", "blobs", "observations"] {
                let sql = format!(
                    "DELETE FROM {table} WHERE session NOT IN (SELECT id FROM sessions UNION SELECT session FROM chunks)"
                );
                transaction.execute(&sql, [])?;
            }
            Ok(())
        })
    }

    /// Says how far this file has come: one that was made from others.
    ///
    /// # Errors
    /// As [`RecordsDb::apply`].
    pub fn stand_at(&mut self, position: Position, frame_hash: Hash, incarnation: u64) -> Result<()> {
        self.write(|transaction, _, anchor| {
            *anchor = Anchor { position, frame_hash, incarnation, ..*anchor };
            row::put_anchor(transaction, anchor)
        })
    }
}

/// Reads rows until one cannot be read; false: one could not, or `take` did not take one.
fn each(connection: &Connection, sql: &str, mut take: impl FnMut(&Row<'_>) -> bool) -> bool {
    let Ok(mut statement) = connection.prepare(sql) else { return false };
    let Ok(mut rows) = statement.query([]) else { return false };
    let mut whole = true;
    loop {
        match rows.next() {
            Ok(Some(row)) => whole &= take(row),
            Ok(None) => return whole,
            Err(_) => return false,
        }
    }
}

fn ids(connection: &Connection, sql: &str, into: &mut BTreeSet<SessionId>) -> Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        into.extend(fixed(row, 0).ok().map(SessionId));
    }
    Ok(())
}

fn removal(row: &Row<'_>) -> Option<(SessionId, (Position, Seq))> {
    let (session, position, seq) = (SessionId(fixed(row, 0).ok()?), unsigned(row, 1).ok()?, unsigned(row, 2).ok()?);
    let right = remove::removed_sum(session, position, seq, &fixed(row, 3).ok()?) == fixed(row, 4).ok()?;
    right.then_some((session, (Position(position), Seq(seq))))
}

/// Every row with a number in between, also those beyond what does not read: where it stops, the rest is halved.
fn walk(
    connection: &Connection,
    table: &Table,
    (mut first, last): (i64, i64),
    probes: &mut u32,
    take: &mut dyn FnMut(&Row<'_>) -> bool,
) -> bool {
    let sql = format!(
        "SELECT {}, id FROM {} WHERE id >= ?1 AND id <= ?2 ORDER BY id LIMIT {PAGE}",
        table.columns, table.name
    );
    let number = table.columns.split(", ").count();
    let mut whole = true;
    loop {
        if *probes == 0 || first > last {
            return whole && first > last;
        }
        let mut next = first;
        let mut read = 0;
        let mut page = || -> Result<()> {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query((first, last))?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(number)?;
                whole &= take(row);
                read += 1;
                next = id.saturating_add(1);
            }
            Ok(())
        };
        match page() {
            Ok(()) if read < PAGE => return whole,
            Ok(()) => first = next,
            Err(_) => {
                *probes -= 1;
                let end = last.min(newest(connection, table.name).unwrap_or(next.saturating_add(1 << 20)));
                if next >= end {
                    return false;
                }
                let middle = next + (end - next) / 2;
                if middle > next {
                    walk(connection, table, (next, middle), probes, take);
                }
                walk(connection, table, (middle + 1, end), probes, take);
                return false;
            }
        }
    }
}

fn newest(connection: &Connection, table: &str) -> Option<i64> {
    connection.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| row.get(0)).ok()
}

/// The row as it is; one that is there stays.
fn put(connection: &Connection, table: &str, columns: &str, row: &Row<'_>) -> Result<()> {
    let count = columns.split(", ").count();
    let marks = vec!["?"; count].join(", ");
    let values = (0..count).map(|column| row.get::<_, Value>(column)).collect::<rusqlite::Result<Vec<_>>>()?;
    let sql = format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})");
    connection.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    Ok(())
}
