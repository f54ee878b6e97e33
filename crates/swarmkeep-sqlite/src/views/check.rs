//! Comparing views with the state they should show.

use rusqlite::{Connection, types::ValueRef};
use swarmkeep_core::{
    SessionId, State,
    tabulate::{self, AGENTS, MESSAGE_RECEIPTS, MESSAGES, RowChange, TABLES, Value, ViewTable},
};

use super::write::Bound;
use crate::error::{Result, SqliteError};

/// Differences listed at most.
const LISTED: usize = 100;

pub(super) fn differences(connection: &Connection, state: &State) -> Result<Vec<String>> {
    let session = state.info.id.to_string();
    let mut found = Vec::new();
    let rows = tabulate::rows(state);
    for table in TABLES {
        let mut expected = 0i64;
        for row in &rows {
            let RowChange::Put { table: of, values } = row else { continue };
            if of.name != table.name {
                continue;
            }
            expected += 1;
            if found.len() < LISTED
                && let Some(difference) = compare(connection, table, values)?
            {
                found.push(difference);
            }
        }
        // Messages stay in the views when they have left the state.
        if table.name != MESSAGES.name && table.name != MESSAGE_RECEIPTS.name {
            let there = count(connection, table, &session)?;
            if there != expected {
                found.push(format!("{}: {there} rows, the state has {expected}", table.name));
            }
        }
    }
    Ok(found)
}

/// How many rows of a table are a session's.
pub(super) fn count(connection: &Connection, table: &ViewTable, session: &str) -> Result<i64> {
    let sql = format!("SELECT count(*) FROM {} WHERE session_id = ?1", table.name);
    Ok(connection.prepare_cached(&sql)?.query_row([session], |row| row.get(0))?)
}

/// How the row of these values differs, if it does.
pub(super) fn compare(connection: &Connection, table: &ViewTable, values: &[Value]) -> Result<Option<String>> {
    let key = values.get(..table.key).unwrap_or_default();
    let condition: Vec<String> =
        table.columns.iter().take(table.key).enumerate().map(|(n, column)| format!("{column} = ?{}", n + 1)).collect();
    let sql = format!("SELECT {} FROM {} WHERE {}", table.columns.join(", "), table.name, condition.join(" AND "));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(key.iter().map(Bound)))?;
    let name = |key: &[Value]| {
        let parts: Vec<String> = key
            .iter()
            .skip(1)
            .map(|part| if let Value::Text(text) = part { text.clone() } else { format!("{part:?}") })
            .collect();
        format!("{} {}", table.name, parts.join("/"))
    };
    let Some(row) = rows.next()? else { return Ok(Some(format!("{}: missing", name(key)))) };
    for (column, value) in values.iter().enumerate() {
        let label = table.columns.get(column).copied().unwrap_or_default();
        if table.name == AGENTS.name && label == "last_heartbeat" {
            continue;
        }
        let same = match (row.get_ref(column)?, value) {
            (ValueRef::Null, Value::Null) => true,
            (ValueRef::Integer(there), Value::Integer(here)) => there == *here,
            (ValueRef::Real(there), Value::Real(here)) => there.to_bits() == here.to_bits(),
            (ValueRef::Text(there), Value::Text(here)) => there == here.as_bytes(),
            _ => false,
        };
        if !same {
            return Ok(Some(format!("{}: {label} differs", name(key))));
        }
    }
    Ok(None)
}

pub(super) fn events(
    connection: &Connection,
    session: SessionId,
    each: &mut dyn FnMut(u64, u64, &str, &str, &str),
) -> Result<()> {
    let sql =
        "SELECT sequence_number, timestamp, event_type, aggregate_type, aggregate_id FROM events WHERE session_id = ?1";
    let damaged = || SqliteError::damaged(Some(session), None, "views.db: a row of the list of events is no event");
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([session.to_string()])?;
    while let Some(row) = rows.next()? {
        let number = |column| match row.get_ref(column)? {
            ValueRef::Integer(number) => u64::try_from(number).map_err(|_| damaged()),
            _ => Err(damaged()),
        };
        let text = |column| match row.get_ref(column)? {
            ValueRef::Text(text) => std::str::from_utf8(text).map_err(|_| damaged()),
            _ => Err(damaged()),
        };
        each(number(0)?, number(1)?, text(2)?, text(3)?, text(4)?);
    }
    Ok(())
}
