//! Statements on `views.db`.

use std::fmt::Write as _;

use rusqlite::{Connection, OptionalExtension, ToSql, types::ToSqlOutput, types::ValueRef};
use swarmkeep_core::{
    SessionId,
    log::Position,
    tabulate::{TABLES, Value, ViewTable},
};

use super::merge::Row;
use crate::error::{Result, SqliteError};

/// Binds a value of `tabulate`.
pub(super) struct Bound<'a>(pub(super) &'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

pub(super) fn row(connection: &Connection, table: &ViewTable, row: &Row) -> Result<()> {
    let mut sql = String::with_capacity(256);
    let name = table.name;
    // Writing into a string cannot fail; names come from `tabulate`, never from a caller.
    match row {
        Row::Put(values) => {
            let _ = write!(sql, "INSERT OR REPLACE INTO {name} ({}) VALUES (?1", table.columns.join(", "));
            for number in 2..=table.columns.len() {
                let _ = write!(sql, ", ?{number}");
            }
            sql.push(')');
            execute(connection, &sql, values.iter())
        }
        Row::Set { key, values } => {
            if values.is_empty() {
                return Ok(());
            }
            let _ = write!(sql, "UPDATE {name} SET ");
            for (number, (column, _)) in values.iter().enumerate() {
                let column = table.columns.get(*column).ok_or_else(|| unknown(table, *column))?;
                let _ = write!(sql, "{}{column} = ?{}", if number > 0 { ", " } else { "" }, number + 1);
            }
            condition(&mut sql, table, values.len());
            execute(connection, &sql, values.iter().map(|(_, value)| value).chain(key))
        }
        Row::Delete { key } => {
            let _ = write!(sql, "DELETE FROM {name}");
            condition(&mut sql, table, 0);
            execute(connection, &sql, key.iter())
        }
    }
}

fn unknown(table: &ViewTable, column: usize) -> SqliteError {
    SqliteError::Invalid(format!("table {} has no column number {column}", table.name))
}

/// `WHERE` the key, bound after `before` other values.
fn condition(sql: &mut String, table: &ViewTable, before: usize) {
    for (number, column) in table.columns.iter().take(table.key).enumerate() {
        let word = if number == 0 { "WHERE" } else { "AND" };
        let _ = write!(sql, " {word} {column} = ?{}", before + number + 1);
    }
}

fn execute<'a>(connection: &Connection, sql: &str, values: impl Iterator<Item = &'a Value>) -> Result<()> {
    connection.prepare_cached(sql)?.execute(rusqlite::params_from_iter(values.map(Bound)))?;
    Ok(())
}

/// All rows that follow from a session's state.
pub(super) fn clear_state(connection: &Connection, session: &str) -> Result<()> {
    for table in TABLES {
        connection.prepare_cached(&format!("DELETE FROM {} WHERE session_id = ?1", table.name))?.execute([session])?;
    }
    Ok(())
}

/// Everything of a session.
pub(super) fn remove(connection: &Connection, session: &str) -> Result<()> {
    clear_state(connection, session)?;
    connection.prepare_cached("DELETE FROM event_groups WHERE session_id = ?1")?.execute([session])?;
    connection.prepare_cached("DELETE FROM metrics WHERE session_id = ?1")?.execute([session])?;
    connection.prepare_cached("DELETE FROM incomplete_sessions WHERE session_id = ?1")?.execute([session])?;
    Ok(())
}

/// Not everything of a session could be read: what stands here of it is to be made again when it can be.
pub(super) fn put_incomplete(connection: &Connection, session: &str) -> Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO incomplete_sessions (session_id) VALUES (?1)")?
        .execute([session])?;
    Ok(())
}

pub(super) fn incomplete(connection: &Connection) -> Result<Vec<SessionId>> {
    let mut statement = connection.prepare_cached("SELECT session_id FROM incomplete_sessions")?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
    Ok(ids.collect::<rusqlite::Result<Vec<_>>>()?.iter().filter_map(|id| id.parse().ok()).collect())
}

/// Everything.
pub(super) fn clear(connection: &Connection) -> Result<()> {
    for table in TABLES.iter().map(|table| table.name).chain(["event_groups", "metrics", "incomplete_sessions"]) {
        connection.execute(&format!("DELETE FROM {table}"), [])?;
    }
    Ok(())
}

pub(super) fn exists(connection: &Connection, session: &str) -> Result<bool> {
    Ok(connection.prepare_cached("SELECT 1 FROM sessions WHERE session_id = ?1")?.exists([session])?)
}

/// The last record of a session that the views have seen; 0: none.
pub(super) fn seq(connection: &Connection, session: &str) -> Result<u64> {
    let seq: Option<i64> = connection
        .prepare_cached("SELECT seq FROM sessions WHERE session_id = ?1")?
        .query_row([session], |row| row.get(0))
        .optional()?;
    Ok(seq.unwrap_or(0).cast_unsigned())
}

/// When each agent was last heard of.
pub(super) fn heartbeats(connection: &Connection, session: &str) -> Result<Vec<(String, u64)>> {
    let mut statement = connection.prepare_cached("SELECT id, last_heartbeat FROM agents WHERE session_id = ?1")?;
    let mut rows = statement.query([session])?;
    let mut beats = Vec::new();
    while let Some(row) = rows.next()? {
        beats.push((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()));
    }
    Ok(beats)
}

pub(super) fn heartbeat(connection: &Connection, session: &str, agent: &str, at_ms: u64) -> Result<()> {
    connection
        .prepare_cached(
            "UPDATE agents SET last_heartbeat = ?3 WHERE session_id = ?1 AND id = ?2 AND last_heartbeat < ?3",
        )?
        .execute((session, agent, at_ms.cast_signed()))?;
    Ok(())
}

pub(super) fn metric(
    connection: &Connection,
    session: &str,
    (agent, kind, name): (&str, &str, &str),
    value: f64,
    tags: &str,
    at_ms: u64,
) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO metrics (session_id, agent_id, metric_type, metric_name, value, tags, timestamp) \
             VALUES (?1, ?2, ?3, ?4, ?5, nullif(?6, 'null'), ?7)",
        )?
        .execute((session, agent, kind, name, value, tags, at_ms.cast_signed()))?;
    Ok(())
}

pub(crate) fn position(connection: &Connection) -> Result<Position> {
    let bytes: Option<Vec<u8>> = connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'position'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    match bytes {
        None => Ok(Position(0)),
        Some(bytes) => bytes
            .try_into()
            .map(|bytes| Position(u64::from_le_bytes(bytes)))
            .map_err(|_| SqliteError::damaged(None, None, "views.db: position is not 8 bytes")),
    }
}

pub(super) fn put_position(connection: &Connection, position: Position) -> Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('position', ?1)")?
        .execute([position.0.to_le_bytes()])?;
    Ok(())
}
