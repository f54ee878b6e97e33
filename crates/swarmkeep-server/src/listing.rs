//! Pages of a session's entities, read from its durable state.

use std::sync::Arc;

use axum::http::StatusCode;
use serde::Serialize;
use swarmkeep::core::state::Head;

use crate::{
    problem::Problem,
    wire::{self, Answer, json_bytes, write_head},
};

/// Entities in one page.
pub(crate) const ROWS_MAX: usize = 1_000;

/// Writes `{"NAME":[…],"next":"…","head":{…}}`: the rows that `keep` keeps, up to `limit`; `next` names the last of them
/// if there are more.
pub(crate) fn list<'a, T: Serialize + 'a>(
    name: &str,
    limit: Option<usize>,
    head: &Head,
    rows: impl Iterator<Item = &'a Arc<T>>,
    keep: impl Fn(&T) -> bool,
    cursor: impl Fn(&T) -> String,
) -> Answer {
    list_with(name, limit, head, rows, keep, cursor, |_| None)
}

/// The same, with a number from elsewhere in each row that has one: its name and value.
pub(crate) fn list_with<'a, T: Serialize + 'a>(
    name: &str,
    limit: Option<usize>,
    head: &Head,
    rows: impl Iterator<Item = &'a Arc<T>>,
    keep: impl Fn(&T) -> bool,
    cursor: impl Fn(&T) -> String,
    more: impl Fn(&T) -> Option<(&'static str, u64)>,
) -> Answer {
    let limit = wire::page(limit, ROWS_MAX)?;
    let mut out = format!("{{\"{name}\":[");
    let mut last: Option<&Arc<T>> = None;
    let mut next = None;
    for (count, row) in rows.filter(|row| keep(row)).enumerate() {
        if count == limit {
            next = last.map(|last| cursor(last));
            break;
        }
        if count > 0 {
            out.push(',');
        }
        out.push_str(&text(&**row)?);
        add(&mut out, more(row));
        last = Some(row);
    }
    out.push(']');
    if let Some(next) = next {
        out.push_str(",\"next\":");
        out.push_str(&text(&next)?);
    }
    out.push_str(",\"head\":");
    write_head(&mut out, head);
    out.push('}');
    Ok(json_bytes(StatusCode::OK, out.into(), Some(head.seq.0)))
}

/// Puts a number into the object that `out` ends with.
pub(crate) fn add(out: &mut String, number: Option<(&'static str, u64)>) {
    if let Some((name, value)) = number
        && out.ends_with('}')
    {
        out.pop();
        out.push_str(&format!(",\"{name}\":{value}}}"));
    }
}

/// A value as JSON text.
pub(crate) fn text<T: Serialize + ?Sized>(value: &T) -> Result<String, Problem> {
    serde_json::to_string(value)
        .map_err(|error| Problem::new("internal", format!("the answer cannot be written as JSON: {error}")))
}
