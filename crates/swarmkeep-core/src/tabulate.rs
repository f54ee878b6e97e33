//! Events and state → rows of the views. The only place that knows columns.
//!
//! Two ways to the same rows, and a property test that they agree: [`changes`] of each record, merged in order, and
//! [`rows`] of the state that the records fold to. Because an event carries its consequences, `changes` needs no state;
//! only a record that sets the whole state (fork, rewind) says [`RowChange::Reset`], and whoever applies it puts
//! [`rows`] of the state at that record in place of the session's rows.

use crate::{record::Record, state::State};

/// A value in a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// INTEGER; times are milliseconds since the Unix epoch, booleans 0 and 1.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT, JSON included.
    Text(String),
}

/// A table of the views, with its columns in order.
#[derive(Debug, PartialEq, Eq)]
pub struct ViewTable {
    /// Its name.
    pub name: &'static str,
    /// How many of the first columns are the primary key; the first of all is `session_id`.
    pub key: usize,
    /// All columns.
    pub columns: &'static [&'static str],
}

/// What happens to a row.
#[derive(Debug, Clone, PartialEq)]
pub enum RowChange {
    /// The whole row, in place of the one with its key. Values in the order of the table's columns.
    Put {
        /// Which table.
        table: &'static ViewTable,
        /// All values.
        values: Vec<Value>,
    },
    /// Some columns of the row with this key, if there is one.
    Set {
        /// Which table.
        table: &'static ViewTable,
        /// The key's values.
        key: Vec<Value>,
        /// Index of the column, and its new value; in ascending order of index.
        values: Vec<(usize, Value)>,
    },
    /// The row with this key, if there is one, is gone.
    Delete {
        /// Which table.
        table: &'static ViewTable,
        /// The key's values.
        key: Vec<Value>,
    },
    /// All rows of the session are replaced by [`rows`] of the state at this record.
    Reset,
}
