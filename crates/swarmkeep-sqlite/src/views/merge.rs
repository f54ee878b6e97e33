//! Row changes of one session, merged by key, so that a batch costs one statement per changed row.

use std::collections::{BTreeMap, btree_map::Entry};

use swarmkeep_core::tabulate::{RowChange, Value, ViewTable};

/// What a row comes to.
pub(super) enum Row {
    /// The whole row.
    Put(Vec<Value>),
    /// Some columns, if the row is there.
    Set { key: Vec<Value>, values: Vec<(usize, Value)> },
    /// Gone, if it was there.
    Delete { key: Vec<Value> },
}

/// A session's changes.
#[derive(Default)]
pub(super) struct Merged {
    /// All rows that the session had are gone before these are written.
    pub(super) replaced: bool,
    /// By table and key: the order in which their pages lie, and the same for the same changes.
    rows: BTreeMap<(&'static str, Vec<u8>), (&'static ViewTable, Row)>,
}

impl Merged {
    /// Everything so far is replaced.
    pub(super) fn replace(&mut self) {
        self.replaced = true;
        self.rows.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.replaced && self.rows.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Forgets what is not of these tables.
    pub(super) fn keep(&mut self, wanted: fn(&ViewTable) -> bool) {
        self.rows.retain(|_, (table, _)| wanted(table));
    }

    /// Adds a change; [`RowChange::Reset`] is the caller's.
    pub(super) fn add(&mut self, change: RowChange) {
        match change {
            RowChange::Put { table, values } => {
                let key = bytes(values.get(..table.key).unwrap_or(&values));
                self.rows.insert((table.name, key), (table, Row::Put(values)));
            }
            RowChange::Delete { table, key } => {
                self.rows.insert((table.name, bytes(&key)), (table, Row::Delete { key }));
            }
            RowChange::Set { table, key, values } => match self.rows.entry((table.name, bytes(&key))) {
                Entry::Vacant(entry) => {
                    entry.insert((table, Row::Set { key, values }));
                }
                Entry::Occupied(mut entry) => match &mut entry.get_mut().1 {
                    Row::Put(row) => {
                        for (column, value) in values {
                            if let Some(slot) = row.get_mut(column) {
                                *slot = value;
                            }
                        }
                    }
                    Row::Set { values: known, .. } => {
                        for (column, value) in values {
                            match known.binary_search_by_key(&column, |(column, _)| *column) {
                                Ok(at) => {
                                    if let Some(slot) = known.get_mut(at) {
                                        slot.1 = value;
                                    }
                                }
                                Err(at) => known.insert(at, (column, value)),
                            }
                        }
                    }
                    // A row that is gone stays gone.
                    Row::Delete { .. } => {}
                },
            },
            RowChange::Reset => {}
        }
    }

    /// All rows: no statement depends on another.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static ViewTable, &Row)> {
        self.rows.values().map(|(table, row)| (*table, row))
    }
}

/// A key behind its session, as bytes.
fn bytes(key: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in key.iter().skip(1) {
        match value {
            Value::Null => bytes.push(0),
            Value::Integer(number) => {
                bytes.push(1);
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Value::Real(number) => {
                bytes.push(2);
                bytes.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            Value::Text(text) => {
                bytes.push(3);
                bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
    }
    bytes
}
