//! Comparing with `records.db` what the views show and no state knows: messages that were consumed, and metrics.

use std::ops::RangeInclusive;

use rusqlite::{Connection, types::ValueRef};
use swarmkeep_core::{
    Seq, SessionId,
    log::{Observation, Position},
    record,
    tabulate::{MESSAGE_RECEIPTS, MESSAGES, ViewTable},
};

use super::{Source, apply::Pending, check, merge::Row, write};
use crate::error::{Result, SqliteError};

/// Bytes of records tabulated at a time.
const PIECE: usize = 1024 * 1024;
/// Rows of observations read at a time.
const OBSERVATIONS: usize = 1024;
/// Differences listed at most.
const LISTED: usize = 100;

pub(super) fn differences(connection: &Connection, source: &Source<'_>, session: SessionId) -> Result<Vec<String>> {
    // The views first: what they show, records.db has, in whatever snapshot it is looked at later.
    let through = write::position(connection)?;
    let session_id = session.to_string();
    let seen = Seq(write::seq(connection, &session_id)?);
    let mut found = messages(connection, source, session, seen)?;
    let (shown, recorded) = (shown(connection, session)?, recorded(source, session, through)?);
    if shown != recorded {
        found.push(format!("metrics: {} rows, which are not the {} that were observed", shown.rows, recorded.rows));
    }
    Ok(found)
}

fn is_of_messages(table: &ViewTable) -> bool {
    table.name == MESSAGES.name || table.name == MESSAGE_RECEIPTS.name
}

/// Every message that the records up to `seen` tell of, delivered or not, and its receipts.
fn messages(connection: &Connection, source: &Source<'_>, session: SessionId, seen: Seq) -> Result<Vec<String>> {
    let Some(stored) = source.records.session(session)? else { return Ok(Vec::new()) };
    let mut pending = Pending::new(session);
    let mut after = stored.base.seq;
    // What had left the state before the first record that is kept may be shown, and nothing is left to prove it by.
    let whole = after == Seq::ZERO;
    if !whole {
        let Ok(state) = source.state_at(session, after) else { return Ok(Vec::new()) };
        pending.replace(&state);
    }
    while after < seen {
        let bytes = source.records.read(session, after, PIECE)?;
        let mut length = 0;
        for view in record::iter(&bytes).map_while(std::result::Result::ok).take_while(|view| view.seq() <= seen) {
            length += view.bytes().len();
            after = view.seq();
        }
        let Some(piece) = bytes.get(..length).filter(|piece| !piece.is_empty()) else { break };
        pending.records(piece, after < seen, source)?;
        pending.keep(is_of_messages);
    }
    let mut found = Vec::new();
    let mut expected = [(&MESSAGES, 0i64), (&MESSAGE_RECEIPTS, 0)];
    for (table, row) in pending.rows().filter(|(table, _)| is_of_messages(table)) {
        let Row::Put(values) = row else { continue };
        for (of, count) in &mut expected {
            *count += i64::from(of.name == table.name);
        }
        if found.len() < LISTED
            && let Some(difference) = check::compare(connection, table, values)?
        {
            found.push(difference);
        }
    }
    for (table, expected) in expected.into_iter().filter(|_| whole) {
        let there = check::count(connection, table, &session.to_string())?;
        if there != expected {
            found.push(format!("{}: {there} rows, the records tell of {expected}", table.name));
        }
    }
    Ok(found)
}

/// A set of measurements, by the sum of their hashes: in whatever order they come.
#[derive(Debug, Default, PartialEq, Eq)]
struct Measured {
    rows: u64,
    sum: u128,
}

impl Measured {
    fn add(&mut self, words: [&[u8]; 4], value: f64, at_ms: i64) {
        let mut hasher = blake3::Hasher::new();
        for word in words {
            hasher.update(&(word.len() as u64).to_le_bytes()).update(word);
        }
        hasher.update(&value.to_bits().to_le_bytes()).update(&at_ms.to_le_bytes());
        let half = hasher.finalize().as_bytes().first_chunk().copied().map_or(0, u128::from_le_bytes);
        self.rows += 1;
        self.sum = self.sum.wrapping_add(half);
    }
}

fn recorded(source: &Source<'_>, session: SessionId, through: Position) -> Result<Measured> {
    let mut measured = Measured::default();
    let mut after = 0;
    loop {
        let page = source.records.observations_of(session, after, through, OBSERVATIONS)?;
        let Some(last) = page.last() else { return Ok(measured) };
        after = last.id;
        for observation in page.iter().flat_map(|stored| &stored.observations) {
            // What is not a number has no place in the views.
            if let Observation::Metric { agent, kind, name, value, tags, at_ms } = observation
                && !value.is_nan()
            {
                let tags = Some(tags.as_str()).filter(|tags| *tags != "null").unwrap_or_default();
                let words = [agent.as_str(), kind, name, tags].map(str::as_bytes);
                measured.add(words, *value, at_ms.cast_signed());
            }
        }
    }
}

fn shown(connection: &Connection, session: SessionId) -> Result<Measured> {
    let damaged =
        || SqliteError::damaged(Some(session), None::<RangeInclusive<u64>>, "views.db: a row of metrics is none");
    let mut statement = connection.prepare_cached(
        "SELECT agent_id, metric_type, metric_name, tags, value, timestamp FROM metrics WHERE session_id = ?1",
    )?;
    let mut rows = statement.query([session.to_string()])?;
    let mut measured = Measured::default();
    while let Some(row) = rows.next()? {
        let word = |column| match row.get_ref(column)? {
            ValueRef::Text(text) => Ok(text),
            // Tags, where there are none.
            ValueRef::Null => Ok(&[][..]),
            _ => Err(damaged()),
        };
        let (ValueRef::Real(value), ValueRef::Integer(at_ms)) = (row.get_ref(4)?, row.get_ref(5)?) else {
            return Err(damaged());
        };
        measured.add([word(0)?, word(1)?, word(2)?, word(3)?], value, at_ms);
    }
    Ok(measured)
}
