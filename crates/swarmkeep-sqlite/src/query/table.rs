//! What can be asked of each table.
//!
//! | table | time | by index, in the order of time | |
//! |---|---|---|---|
//! | sessions | `created_at` | all, status, owner, namespace | id is the session's |
//! | agents | `created_at` | all, session, status, type | agent: the id |
//! | agent_groups | `created_at` | all, session, type | |
//! | tasks | `created_at` | all, session, status, agent, type | priority: all, session, status |
//! | messages | `timestamp` | all, session, status, topic, agent (the sender) | |
//! | memory | `updated_at` | all, session, scope | |
//! | effects | `begun_at` | all, session, status, class, agent | |
//! | connections | `updated_at` | all, session, status | |
//! | swarm_config | `updated_at` | all, session | |
//! | metrics | `timestamp` | all, session, agent, type | |
//! | events | `sequence_number` | | of one session; kind: the event's type; id: the aggregate |
//!
//! Filters can be combined; the index of one of them is walked in order, the others are looked at row by row.

use rusqlite::types::Value;
use swarmkeep_core::{
    Refusal,
    query::Of,
    tabulate::{AGENT_GROUPS, AGENTS, CONNECTIONS, EFFECTS, MEMORY, MESSAGES, SESSIONS, SWARM_CONFIG, TASKS},
};

use crate::error::Result;

/// A table, as far as queries go.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Columns of an answer.
    pub(super) columns: Vec<&'static str>,
    /// The same, as SQL.
    pub(super) select: String,
    pub(super) from: &'static str,
    pub(super) session: &'static str,
    pub(super) needs_session: bool,
    pub(super) status: Option<&'static str>,
    pub(super) kind: Option<&'static str>,
    pub(super) id: Option<&'static str>,
    pub(super) agent: Option<&'static str>,
    pub(super) priority: Option<&'static str>,
    /// What rows are ordered by.
    pub(super) time: &'static str,
    /// What `since_ms` and `until_ms` are compared with.
    pub(super) when: &'static str,
    /// What comes after the time, so that no two rows are equal.
    pub(super) ties: &'static [&'static str],
    /// Columns that hold JSON.
    pub(super) json: &'static [&'static str],
}

impl Table {
    fn new(name: &'static str, columns: &[&'static str], time: &'static str, ties: &'static [&'static str]) -> Self {
        Self {
            name,
            columns: columns.to_vec(),
            select: columns.join(", "),
            from: name,
            session: "session_id",
            needs_session: false,
            status: columns.iter().find(|column| **column == "status").copied(),
            kind: columns.iter().find(|column| **column == "type").copied(),
            id: columns.iter().find(|column| **column == "id").copied(),
            agent: columns.iter().find(|column| **column == "agent_id").copied(),
            priority: columns.iter().find(|column| **column == "priority").copied(),
            time,
            when: time,
            ties,
            json: &[],
        }
    }
}

const ID: &[&str] = &["session_id", "id"];

pub(super) fn of(of: Of) -> Result<Table> {
    let table =
        |table: &swarmkeep_core::tabulate::ViewTable, time, ties| Table::new(table.name, table.columns, time, ties);
    Ok(match of {
        Of::Sessions => {
            let table = table(&SESSIONS, "created_at", &["session_id"]);
            Table { id: Some("session_id"), json: &["attributes"], ..table }
        }
        Of::Agents => {
            let table = table(&AGENTS, "created_at", ID);
            Table { agent: Some("id"), json: &["capabilities", "configuration"], ..table }
        }
        Of::AgentGroups => Table { json: &["configuration"], ..table(&AGENT_GROUPS, "created_at", ID) },
        Of::Tasks => Table { json: &["payload", "result"], ..table(&TASKS, "created_at", ID) },
        Of::Messages => {
            let table = table(&MESSAGES, "timestamp", ID);
            Table { kind: Some("topic"), agent: Some("from_agent"), json: &["content"], ..table }
        }
        Of::Memory => {
            let table = table(&MEMORY, "updated_at", &["session_id", "scope", "key"]);
            Table { kind: Some("scope"), id: Some("key"), json: &["value"], ..table }
        }
        Of::Effects => Table { kind: Some("class"), json: &["request", "outcome"], ..table(&EFFECTS, "begun_at", ID) },
        Of::Connections => Table { json: &["recipe", "state"], ..table(&CONNECTIONS, "updated_at", ID) },
        Of::SwarmConfig => {
            let table = table(&SWARM_CONFIG, "updated_at", &["session_id", "key"]);
            Table { id: Some("key"), json: &["value"], ..table }
        }
        Of::Metrics => {
            let columns = ["session_id", "agent_id", "metric_type", "metric_name", "value", "tags", "timestamp"];
            let table = Table::new("metrics", &columns, "timestamp", ID);
            Table { kind: Some("metric_type"), json: &["tags"], ..table }
        }
        Of::Events => {
            let columns =
                ["session_id", "aggregate_id", "aggregate_type", "event_type", "timestamp", "sequence_number"];
            let table = Table::new("events", &columns, "sequence_number", &["session_id"]);
            Table {
                kind: Some("event_type"),
                id: Some("aggregate_id"),
                when: "timestamp",
                needs_session: true,
                ..table
            }
        }
        _ => return Err(Refusal::invalid("this table is not known to this program: use a newer one").into()),
    })
}

/// Whether a value can stand in a cursor.
pub(super) fn is_place(value: &Value) -> bool {
    matches!(value, Value::Integer(_) | Value::Text(_))
}
