//! The peer that a user would take instead: SQLite alone, every transaction synced, with the index that reading one
//! session back needs.

use std::path::Path;

use rusqlite::{Connection, params};
use tokio::time::Instant;

use crate::failure::Failure;

/// Appends a transaction.
const PER_TRANSACTION: usize = 64;

fn failed(error: rusqlite::Error) -> Failure {
    Failure::unavailable(format!("SQLite: {error}"), "`swarmkeep doctor` looks at the machine")
}

fn open(path: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(path).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    Ok(connection)
}

/// Appends per second over `sessions`, for `run_ms`.
pub(super) fn appends(path: &Path, sessions: usize, run_ms: u64) -> Result<f64, Failure> {
    let mut connection = open(path)?;
    connection
        .execute_batch(
            "CREATE TABLE events (id INTEGER PRIMARY KEY, session TEXT NOT NULL, seq INTEGER NOT NULL, payload BLOB NOT NULL);
             CREATE UNIQUE INDEX by_session ON events (session, seq);",
        )
        .map_err(failed)?;
    let payload = super::payload(1);
    let began = Instant::now();
    let mut count = 0usize;
    while began.elapsed().as_millis() < u128::from(run_ms) {
        let transaction = connection.transaction().map_err(failed)?;
        {
            let mut insert = transaction
                .prepare_cached("INSERT INTO events (session, seq, payload) VALUES (?1, ?2, ?3)")
                .map_err(failed)?;
            for _ in 0..PER_TRANSACTION {
                let session = format!("bench/session-{:08}", count.wrapping_mul(7_919) % sessions);
                insert
                    .execute(params![session, i64::try_from(count / sessions).unwrap_or(0), payload.as_bytes()])
                    .map_err(failed)?;
                count += 1;
            }
        }
        transaction.commit().map_err(failed)?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Writes `count` rows of 2 KiB, and gives the milliseconds that reading them all into a map takes.
pub(super) fn read_all(path: &Path, count: usize) -> Result<f64, Failure> {
    let mut connection = open(path)?;
    connection.execute_batch("CREATE TABLE sessions (id TEXT PRIMARY KEY, state BLOB NOT NULL);").map_err(failed)?;
    let state = "x".repeat(2048);
    let transaction = connection.transaction().map_err(failed)?;
    for number in 0..count {
        transaction
            .prepare_cached("INSERT INTO sessions VALUES (?1, ?2)")
            .and_then(|mut insert| insert.execute(params![format!("bench/s-{number}"), state.as_bytes()]))
            .map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    drop(connection);
    let since = Instant::now();
    let connection = open(path)?;
    let mut select = connection.prepare("SELECT id, state FROM sessions").map_err(failed)?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))).map_err(failed)?;
    let all: std::collections::HashMap<String, Vec<u8>> = rows.collect::<Result<_, _>>().map_err(failed)?;
    let took = since.elapsed().as_secs_f64() * 1000.0;
    drop(all);
    Ok(took)
}
