//! Typed questions across sessions, answered from the views.

use serde::{Deserialize, Serialize};

use crate::{id::SessionId, json::Json, log::Position};

/// Rows of which table. Names are those of the tables in `views.db`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Of {
    /// Sessions.
    Sessions,
    /// Agents.
    Agents,
    /// Groups.
    AgentGroups,
    /// Tasks.
    Tasks,
    /// Messages, consumed ones included.
    Messages,
    /// Memory.
    Memory,
    /// Effects.
    Effects,
    /// Connections.
    Connections,
    /// Configuration.
    SwarmConfig,
    /// Metrics.
    Metrics,
    /// Which events happened to which aggregate.
    Events,
}

/// By what rows are ordered; ties by session and id, so that pages never overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By the row's own time (creation, sending, measuring), oldest first.
    #[default]
    Oldest,
    /// Newest first.
    Newest,
    /// Tasks: highest priority first, then oldest.
    Priority,
}

/// A question. Absent filters do not filter; a filter that the table has no column for is `invalid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Rows of which table.
    pub of: Of,
    /// Of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Of sessions in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of sessions of this owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// With this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Of this kind (agents, groups, tasks, metrics) or topic (messages) or scope (memory) or class (effects).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// With this id (or key, or aggregate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// With the row's own time at or after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// With the row's own time before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// In which order.
    #[serde(default)]
    pub order: Order,
    /// At most so many; 100 by default, [`LIMIT_MAX`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on after this: [`Page::next`] of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Rows in one page.
pub const LIMIT_MAX: u32 = 1_000;

impl Query {
    /// All rows of a table.
    #[must_use]
    pub fn of(of: Of) -> Self {
        Self {
            of,
            session: None,
            namespace: None,
            owner: None,
            status: None,
            kind: None,
            id: None,
            agent: None,
            since_ms: None,
            until_ms: None,
            order: Order::default(),
            limit: None,
            cursor: None,
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page {
    /// Each row as an object, by column name.
    pub rows: Vec<Json>,
    /// Pass it as `cursor` for the rows after these; absent: there are no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How far the views have come.
    pub position: Position,
}
