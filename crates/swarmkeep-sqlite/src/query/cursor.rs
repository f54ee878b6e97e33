//! Where a page ended, as text that callers hand back.

use rusqlite::{Row, types::Value};
use serde::{Deserialize, Serialize};
use swarmkeep_core::{Refusal, query::Query};

use super::table;
use crate::error::{Result, SqliteError};

/// Longest cursor looked at: two ids in hex, with room.
const TEXT_MAX: usize = 4 * 1024;

/// The place of a row in an order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cursor {
    pub(super) priority: Option<i64>,
    pub(super) time: i64,
    pub(super) ties: Vec<Value>,
}

/// As JSON, in hex: nothing in a URL needs escaping, and nobody is tempted to write one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Which query it belongs to.
    q: u64,
    p: Option<i64>,
    t: i64,
    i: Vec<Tie>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Tie {
    Number(i64),
    Text(String),
}

impl Cursor {
    /// Reads it from the columns behind the row's own.
    pub(super) fn read(row: &Row<'_>, from: usize) -> Result<Self> {
        let mut ties = Vec::new();
        for column in from + 2..row.as_ref().column_count() {
            let value: Value = row.get(column)?;
            if !table::is_place(&value) {
                return Err(SqliteError::damaged(None, None, "views.db: a key is neither number nor text"));
            }
            ties.push(value);
        }
        Ok(Self { priority: row.get(from)?, time: row.get(from + 1)?, ties })
    }

    pub(super) fn text(&self, query: &Query) -> String {
        let ties = self.ties.iter().map(|tie| match tie {
            Value::Integer(number) => Tie::Number(*number),
            Value::Text(text) => Tie::Text(text.clone()),
            _ => Tie::Number(0),
        });
        let written = Written { q: fingerprint(query), p: self.priority, t: self.time, i: ties.collect() };
        // Numbers and text always serialise.
        let json = serde_json::to_vec(&written).unwrap_or_default();
        json.iter().fold(String::with_capacity(json.len() * 2), |mut text, byte| {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
            }
            text
        })
    }

    pub(super) fn parse(text: &str, query: &Query, priority: bool, ties: usize) -> Result<Self> {
        let bad =
            || Refusal::invalid("cursor: pass `next` of the page before, unchanged, with the same filters and order");
        if text.len() > TEXT_MAX || !text.len().is_multiple_of(2) {
            return Err(bad().into());
        }
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| match pair {
                [high, low] => {
                    let digit = |byte: u8| char::from(byte).to_digit(16);
                    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
                }
                _ => None,
            })
            .collect();
        let written: Written = serde_json::from_slice(&bytes.ok_or_else(bad)?).map_err(|_| bad())?;
        if written.q != fingerprint(query) || written.p.is_some() != priority || written.i.len() != ties {
            return Err(bad().into());
        }
        let ties = written.i.into_iter().map(|tie| match tie {
            Tie::Number(number) => Value::Integer(number),
            Tie::Text(text) => Value::Text(text),
        });
        Ok(Self { priority: written.p, time: written.t, ties: ties.collect() })
    }
}

/// Of everything but the cursor and the limit.
fn fingerprint(query: &Query) -> u64 {
    let plain = Query { cursor: None, limit: None, ..query.clone() };
    // Plain data always serialises.
    let hash = blake3::hash(&serde_json::to_vec(&plain).unwrap_or_default());
    let first: [u8; 8] = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first)
}
