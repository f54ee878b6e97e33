//! Typed questions, answered from `views.db`.
//!
//! A [`Query`] becomes one SELECT with bound parameters over an index that has the order asked for, and pages by keyset:
//! the cursor is the place of the last row, so a page costs the same wherever it is and rows that come or go in between
//! move no other row.
//!
//! What is answered by which index is written in the `table` module. Three questions need a sort, over no more than what they
//! select: those by `owner` or `namespace` on tables other than `sessions` (driven from the sessions), events (those of one
//! session), and tasks by priority that are picked by type, agent or time.

mod cursor;
mod table;

use rusqlite::{Connection, Row, params_from_iter, types::Value, types::ValueRef};
use swarmkeep_core::{
    Json, Refusal,
    query::{LIMIT_MAX, Of, Order, Page, Query},
};

use self::{cursor::Cursor, table::Table};
use crate::{
    error::{Result, SqliteError},
    views,
};

/// Rows in a page when nothing is said.
const LIMIT: u32 = 100;

/// The SELECT of a query, before its cursor and limit are bound: for people who want to see it, and for tests of plans.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// The text.
    pub sql: String,
    /// What is bound, in order.
    pub parameters: Vec<Value>,
}

/// Answers a query by one snapshot (the connection should be in a transaction).
///
/// # Errors
/// `Refused` (`invalid`): a filter that the table has no column for, a limit out of range, a cursor of another query.
pub fn find(connection: &Connection, query: &Query) -> Result<Page> {
    let position = views::position(connection)?;
    let limit = limit(query)?;
    let table = table::of(query.of)?;
    let Statement { sql, parameters } = statement(query)?;
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(parameters))?;
    let mut page = Page { rows: Vec::new(), next: None, position };
    let mut last: Option<Cursor> = None;
    while let Some(row) = rows.next()? {
        if page.rows.len() == limit {
            page.next = last.as_ref().map(|cursor| cursor.text(query));
            break;
        }
        page.rows.push(object(&table, row)?);
        last = Some(Cursor::read(row, table.columns.len())?);
    }
    Ok(page)
}

fn limit(query: &Query) -> Result<usize> {
    match query.limit.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit as usize),
        limit => Err(Refusal::invalid(format!("limit {limit}: use 1 to {LIMIT_MAX}")).into()),
    }
}

/// The SELECT of a query.
///
/// # Errors
/// As [`find`].
pub fn statement(query: &Query) -> Result<Statement> {
    let table = table::of(query.of)?;
    let mut builder = Builder { parameters: Vec::new(), conditions: Vec::new() };
    builder.filters(query, &table)?;
    let priority = match (query.order, table.priority) {
        (Order::Priority, None) => {
            return Err(Refusal::invalid(format!("{} have no priority to be ordered by", table.name)).into());
        }
        (Order::Priority, Some(column)) => Some(column),
        _ => None,
    };
    let down = query.order == Order::Newest;
    if let Some(text) = &query.cursor {
        let cursor = Cursor::parse(text, query, priority.is_some(), table.ties.len())?;
        builder.after(cursor, &table, priority, down);
    }
    let direction = if down { " DESC" } else { "" };
    let order: Vec<String> =
        std::iter::once(&table.time).chain(table.ties).map(|column| format!("{column}{direction}")).collect();
    let order = match priority {
        Some(column) => format!("{column} DESC, {}", order.join(", ")),
        None => order.join(", "),
    };
    // Beside the columns of the row: where it stands, for the cursor.
    let mut place: Vec<&str> = vec![priority.unwrap_or("NULL"), table.time];
    place.extend(table.ties);
    let conditions = if builder.conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", builder.conditions.join(" AND "))
    };
    builder.parameters.push(Value::Integer(i64::try_from(limit(query)?).unwrap_or(i64::MAX).saturating_add(1)));
    let sql = format!(
        "SELECT {}, {} FROM {}{conditions} ORDER BY {order} LIMIT ?{}",
        table.select,
        place.join(", "),
        table.from,
        builder.parameters.len()
    );
    Ok(Statement { sql, parameters: builder.parameters })
}

struct Builder {
    parameters: Vec<Value>,
    conditions: Vec<String>,
}

impl Builder {
    fn bind(&mut self, value: Value) -> usize {
        self.parameters.push(value);
        self.parameters.len()
    }

    fn equal(&mut self, column: &str, value: &str) {
        let number = self.bind(Value::Text(value.to_owned()));
        self.conditions.push(format!("{column} = ?{number}"));
    }

    fn filters(&mut self, query: &Query, table: &Table) -> Result<()> {
        let none = |filter: &str| -> SqliteError {
            Refusal::invalid(format!("{} have no {filter} to be filtered by", table.name)).into()
        };
        if let Some(session) = query.session {
            self.equal(table.session, &session.to_string());
        } else if table.needs_session {
            return Err(Refusal::invalid(format!(
                "{} are asked for by session: give `session`, as namespace/name or its id",
                table.name
            ))
            .into());
        }
        for (value, column) in [(&query.namespace, "namespace"), (&query.owner, "owner")] {
            let Some(value) = value else { continue };
            if query.of == Of::Sessions {
                self.equal(column, value);
            } else {
                let number = self.bind(Value::Text(value.clone()));
                let session = table.session;
                self.conditions
                    .push(format!("{session} IN (SELECT session_id FROM sessions WHERE {column} = ?{number})"));
            }
        }
        for (value, column, filter) in [
            (&query.status, table.status, "status"),
            (&query.kind, table.kind, "kind"),
            (&query.agent, table.agent, "agent"),
        ] {
            if let Some(value) = value {
                self.equal(column.ok_or_else(|| none(filter))?, value);
            }
        }
        if let Some(id) = &query.id {
            if query.session.is_none() && query.of != Of::Sessions {
                return Err(Refusal::invalid("ids are unique inside a session: give `session` with `id`").into());
            }
            self.equal(table.id.ok_or_else(|| none("id"))?, id);
        }
        for (value, sign) in [(query.since_ms, ">="), (query.until_ms, "<")] {
            if let Some(value) = value {
                let number = self.bind(Value::Integer(i64::try_from(value).unwrap_or(i64::MAX)));
                let column = table.when;
                self.conditions.push(format!("{column} {sign} ?{number}"));
            }
        }
        Ok(())
    }

    /// Rows behind the cursor, in the order asked for.
    fn after(&mut self, cursor: Cursor, table: &Table, priority: Option<&str>, down: bool) {
        let sign = if down { "<" } else { ">" };
        let time = self.bind(Value::Integer(cursor.time));
        let ties: Vec<String> = cursor.ties.into_iter().map(|tie| format!("?{}", self.bind(tie))).collect();
        let columns: Vec<&str> = std::iter::once(table.time).chain(table.ties.iter().copied()).collect();
        let behind = format!("({}) {sign} (?{time}, {})", columns.join(", "), ties.join(", "));
        match priority {
            None => self.conditions.push(behind),
            Some(column) => {
                let number = self.bind(Value::Integer(cursor.priority.unwrap_or_default()));
                // The first condition lets the index be entered at the right place; the second is exact.
                self.conditions.push(format!("{column} <= ?{number}"));
                self.conditions.push(format!("({column} < ?{number} OR {behind})"));
            }
        }
    }
}

/// A row as a JSON object, by column name.
fn object(table: &Table, row: &Row<'_>) -> Result<Json> {
    let mut text = String::with_capacity(256);
    text.push('{');
    for (number, column) in table.columns.iter().enumerate() {
        if number > 0 {
            text.push(',');
        }
        quote(&mut text, column)?;
        text.push(':');
        match row.get_ref(number)? {
            ValueRef::Null => text.push_str("null"),
            ValueRef::Integer(value) => text.push_str(&value.to_string()),
            ValueRef::Real(value) => text.push_str(&serde_json::to_string(&value).unwrap_or_else(|_| "null".into())),
            ValueRef::Text(value) => {
                let value = std::str::from_utf8(value).map_err(|_| not_text(table, column))?;
                if table.json.contains(column) { text.push_str(value) } else { quote(&mut text, value)? }
            }
            ValueRef::Blob(_) => return Err(not_text(table, column)),
        }
    }
    text.push('}');
    Json::parse(&text).map_err(|refusal| {
        SqliteError::damaged(None, None, format!("views.db: a row of {} is not JSON: {}", table.name, refusal.message))
    })
}

fn not_text(table: &Table, column: &str) -> SqliteError {
    SqliteError::damaged(None, None, format!("views.db: {}.{column} is not text", table.name))
}

fn quote(out: &mut String, text: &str) -> Result<()> {
    out.push_str(&serde_json::to_string(text).map_err(|error| SqliteError::Invalid(error.to_string()))?);
    Ok(())
}
