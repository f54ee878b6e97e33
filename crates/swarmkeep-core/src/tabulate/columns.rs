//! The tables: names and columns of seed 004, each with the session before its key, and what the seed has no place for.

use super::ViewTable;

/// One row per session.
pub static SESSIONS: ViewTable = ViewTable {
    name: "sessions",
    key: 1,
    columns: &[
        "session_id",
        "namespace",
        "name",
        "owner",
        "status",
        "status_reason",
        "client_ip",
        "user_agent",
        "source",
        "attributes",
        "created_at",
        "ttl_ms",
        "idle_ttl_ms",
        "forked_from",
        "forked_at_seq",
        "rewinds",
        "seq",
        "updated_at",
    ],
};

/// `last_heartbeat` is an observation: `created_at` at first, then set by whoever applies observations; no part of any
/// comparison with the state.
pub static AGENTS: ViewTable = ViewTable {
    name: "agents",
    key: 2,
    columns: &[
        "session_id",
        "id",
        "type",
        "name",
        "status",
        "status_reason",
        "capabilities",
        "configuration",
        "created_at",
        "last_heartbeat",
        "terminated_at",
    ],
};

/// Which agent listens to which topic.
pub static AGENT_TOPICS: ViewTable =
    ViewTable { name: "agent_topics", key: 3, columns: &["session_id", "agent_id", "topic"] };

/// Groups.
pub static AGENT_GROUPS: ViewTable = ViewTable {
    name: "agent_groups",
    key: 2,
    columns: &["session_id", "id", "name", "type", "configuration", "created_at"],
};

/// Who is in which group.
pub static AGENT_GROUP_MEMBERS: ViewTable = ViewTable {
    name: "agent_group_members",
    key: 3,
    columns: &["session_id", "group_id", "agent_id", "role", "joined_at"],
};

/// Tasks, ended ones included. `lease` is the number of the current claim.
pub static TASKS: ViewTable = ViewTable {
    name: "tasks",
    key: 2,
    columns: &[
        "session_id",
        "id",
        "agent_id",
        "parent_task_id",
        "type",
        "title",
        "priority",
        "payload",
        "status",
        "result",
        "error_message",
        "lease",
        "lease_ms",
        "created_at",
        "assigned_at",
        "started_at",
        "completed_at",
        "retry_count",
        "max_retries",
    ],
};

/// Messages, those that have left the state included. `status`: `waiting`, `consumed` (all have acknowledged),
/// `dead_letter` (the last one waiting was given up), `no_recipients`. `address`: `agent`, `topic`, `broadcast`.
pub static MESSAGES: ViewTable = ViewTable {
    name: "messages",
    key: 2,
    columns: &[
        "session_id",
        "id",
        "from_agent",
        "to_agent",
        "address",
        "topic",
        "content",
        "correlation_id",
        "timestamp",
        "status",
        "delivered",
        "acknowledged",
    ],
};

/// How each message stands, or stood, with each recipient.
pub static MESSAGE_RECEIPTS: ViewTable = ViewTable {
    name: "message_receipts",
    key: 3,
    columns: &[
        "session_id",
        "message_id",
        "agent_id",
        "attempts",
        "delivered_at",
        "acknowledged_at",
        "dead_letter_at",
        "dead_letter_reason",
    ],
};

/// Memory.
pub static MEMORY: ViewTable = ViewTable {
    name: "memory",
    key: 3,
    columns: &["session_id", "scope", "key", "value", "version", "updated_at", "updated_by", "expires_at"],
};

/// Effects. `outcome` is `{"ok":…,"value":…}`.
pub static EFFECTS: ViewTable = ViewTable {
    name: "effects",
    key: 2,
    columns: &[
        "session_id",
        "id",
        "class",
        "status",
        "agent_id",
        "task_id",
        "instance",
        "attempt",
        "request",
        "outcome",
        "begun_at",
        "deadline_ms",
        "finished_at",
        "resolved_by",
        "reason",
    ],
};

/// Connections.
pub static CONNECTIONS: ViewTable = ViewTable {
    name: "connections",
    key: 2,
    columns: &["session_id", "id", "recipe", "state", "status", "updated_at"],
};

/// Configuration and topology.
pub static SWARM_CONFIG: ViewTable =
    ViewTable { name: "swarm_config", key: 2, columns: &["session_id", "key", "value", "updated_at", "updated_by"] };

/// All tables that follow from records.
pub static TABLES: &[&ViewTable] = &[
    &SESSIONS,
    &AGENTS,
    &AGENT_TOPICS,
    &AGENT_GROUPS,
    &AGENT_GROUP_MEMBERS,
    &TASKS,
    &MESSAGES,
    &MESSAGE_RECEIPTS,
    &MEMORY,
    &EFFECTS,
    &CONNECTIONS,
    &SWARM_CONFIG,
];
