-- Tables for people and queries: those of the swarm's schema, with the session before each key. Everything here follows
-- from records.db and can be made again; nothing here is asked for when the state is wanted. Times are milliseconds since
-- the Unix epoch. Column lists are those of swarmkeep_core::tabulate, in its order.
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    session_id    TEXT PRIMARY KEY,
    namespace     TEXT NOT NULL,
    name          TEXT NOT NULL,
    owner         TEXT,
    status        TEXT NOT NULL CHECK (status IN
        ('live', 'paused', 'parked', 'needs_decision', 'quarantined', 'closed', 'expired')),
    status_reason TEXT,
    client_ip     TEXT,
    user_agent    TEXT,
    source        TEXT,
    attributes    TEXT NOT NULL DEFAULT '{}',
    created_at    INTEGER NOT NULL,
    ttl_ms        INTEGER,
    idle_ttl_ms   INTEGER,
    forked_from   TEXT,
    forked_at_seq INTEGER,
    rewinds       INTEGER NOT NULL DEFAULT 0,
    seq           INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_sessions_created ON sessions (created_at);
CREATE INDEX idx_sessions_status ON sessions (status, created_at);
CREATE INDEX idx_sessions_owner ON sessions (owner, created_at);
CREATE INDEX idx_sessions_namespace ON sessions (namespace, created_at);

CREATE TABLE agents (
    session_id     TEXT NOT NULL,
    id             TEXT NOT NULL,
    type           TEXT NOT NULL,
    name           TEXT,
    status         TEXT NOT NULL CHECK (status IN ('idle', 'busy', 'failed', 'terminated')),
    status_reason  TEXT,
    capabilities   TEXT NOT NULL DEFAULT '[]',
    configuration  TEXT NOT NULL DEFAULT '{}',
    created_at     INTEGER NOT NULL,
    last_heartbeat INTEGER NOT NULL,
    terminated_at  INTEGER,
    PRIMARY KEY (session_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_agents_created ON agents (created_at);
CREATE INDEX idx_agents_session ON agents (session_id, created_at);
CREATE INDEX idx_agents_status ON agents (status, created_at);
CREATE INDEX idx_agents_type ON agents (type, created_at);
CREATE INDEX idx_agents_heartbeat ON agents (last_heartbeat);

CREATE TABLE agent_topics (
    session_id TEXT NOT NULL,
    agent_id   TEXT NOT NULL,
    topic      TEXT NOT NULL,
    PRIMARY KEY (session_id, agent_id, topic)
) STRICT, WITHOUT ROWID;

CREATE TABLE agent_groups (
    session_id    TEXT NOT NULL,
    id            TEXT NOT NULL,
    name          TEXT NOT NULL,
    type          TEXT NOT NULL,
    configuration TEXT NOT NULL DEFAULT '{}',
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (session_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_agent_groups_created ON agent_groups (created_at);
CREATE INDEX idx_agent_groups_session ON agent_groups (session_id, created_at);
CREATE INDEX idx_agent_groups_type ON agent_groups (type, created_at);

CREATE TABLE agent_group_members (
    session_id TEXT NOT NULL,
    group_id   TEXT NOT NULL,
    agent_id   TEXT NOT NULL,
    role       TEXT,
    joined_at  INTEGER NOT NULL,
    PRIMARY KEY (session_id, group_id, agent_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
    session_id     TEXT NOT NULL,
    id             TEXT NOT NULL,
    agent_id       TEXT,
    parent_task_id TEXT,
    type           TEXT NOT NULL,
    title          TEXT NOT NULL,
    priority       INTEGER NOT NULL DEFAULT 5,
    payload        TEXT NOT NULL,
    status         TEXT NOT NULL CHECK (status IN
        ('pending', 'assigned', 'running', 'completed', 'failed', 'cancelled')),
    result         TEXT,
    error_message  TEXT,
    lease          INTEGER,
    lease_ms       INTEGER,
    created_at     INTEGER NOT NULL,
    assigned_at    INTEGER,
    started_at     INTEGER,
    completed_at   INTEGER,
    retry_count    INTEGER DEFAULT 0,
    max_retries    INTEGER DEFAULT 3,
    PRIMARY KEY (session_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_tasks_created ON tasks (created_at);
CREATE INDEX idx_tasks_session ON tasks (session_id, created_at);
CREATE INDEX idx_tasks_session_priority ON tasks (session_id, priority DESC, created_at ASC);
CREATE INDEX idx_tasks_status ON tasks (status, created_at);
CREATE INDEX idx_tasks_status_priority ON tasks (status, priority DESC, created_at ASC);
CREATE INDEX idx_tasks_agent ON tasks (agent_id, created_at);
CREATE INDEX idx_tasks_type ON tasks (type, created_at);
CREATE INDEX idx_tasks_priority ON tasks (priority DESC, created_at ASC);

CREATE TABLE messages (
    session_id     TEXT NOT NULL,
    id             TEXT NOT NULL,
    from_agent     TEXT NOT NULL,
    to_agent       TEXT,
    address        TEXT NOT NULL CHECK (address IN ('agent', 'topic', 'broadcast')),
    topic          TEXT NOT NULL,
    content        TEXT NOT NULL,
    correlation_id TEXT,
    timestamp      INTEGER NOT NULL,
    status         TEXT NOT NULL CHECK (status IN ('waiting', 'consumed', 'dead_letter', 'no_recipients')),
    delivered      INTEGER NOT NULL DEFAULT 0,
    acknowledged   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (session_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_messages_timestamp ON messages (timestamp);
CREATE INDEX idx_messages_session ON messages (session_id, timestamp);
CREATE INDEX idx_messages_topic ON messages (topic, timestamp);
CREATE INDEX idx_messages_status ON messages (status, timestamp);
CREATE INDEX idx_messages_from ON messages (from_agent, timestamp);
CREATE INDEX idx_messages_correlation ON messages (correlation_id) WHERE correlation_id IS NOT NULL;

CREATE TABLE message_receipts (
    session_id         TEXT NOT NULL,
    message_id         TEXT NOT NULL,
    agent_id           TEXT NOT NULL,
    attempts           INTEGER NOT NULL DEFAULT 0,
    delivered_at       INTEGER,
    acknowledged_at    INTEGER,
    dead_letter_at     INTEGER,
    dead_letter_reason TEXT,
    PRIMARY KEY (session_id, message_id, agent_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE memory (
    session_id TEXT NOT NULL,
    scope      TEXT NOT NULL,
    key        TEXT NOT NULL,
    value      TEXT NOT NULL,
    version    INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT,
    expires_at INTEGER,
    PRIMARY KEY (session_id, scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_memory_updated ON memory (updated_at);
CREATE INDEX idx_memory_session ON memory (session_id, updated_at);
CREATE INDEX idx_memory_scope ON memory (scope, updated_at);

CREATE TABLE effects (
    session_id  TEXT NOT NULL,
    id          TEXT NOT NULL,
    class       TEXT NOT NULL CHECK (class IN ('read', 'idempotent', 'at_most_once', 'ask')),
    status      TEXT NOT NULL CHECK (status IN ('begun', 'outcome_unknown', 'not_done', 'finished')),
    agent_id    TEXT,
    task_id     TEXT,
    instance    TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    request     TEXT,
    outcome     TEXT,
    begun_at    INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,
    finished_at INTEGER,
    resolved_by TEXT,
    reason      TEXT,
    PRIMARY KEY (session_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_effects_begun ON effects (begun_at);
CREATE INDEX idx_effects_session ON effects (session_id, begun_at);
CREATE INDEX idx_effects_status ON effects (status, begun_at);
CREATE INDEX idx_effects_class ON effects (class, begun_at);
CREATE INDEX idx_effects_agent ON effects (agent_id, begun_at);

CREATE TABLE connections (
    session_id TEXT NOT NULL,
    id         TEXT NOT NULL,
    recipe     TEXT NOT NULL,
    state      TEXT NOT NULL,
    status     TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (session_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_connections_updated ON connections (updated_at);
CREATE INDEX idx_connections_session ON connections (session_id, updated_at);
CREATE INDEX idx_connections_status ON connections (status, updated_at);

CREATE TABLE swarm_config (
    session_id TEXT NOT NULL,
    key        TEXT NOT NULL,
    value      TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT,
    PRIMARY KEY (session_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_swarm_config_updated ON swarm_config (updated_at);
CREATE INDEX idx_swarm_config_session ON swarm_config (session_id, updated_at);

-- Observations, not events.
CREATE TABLE metrics (
    id          INTEGER PRIMARY KEY,
    session_id  TEXT NOT NULL,
    agent_id    TEXT NOT NULL,
    metric_type TEXT NOT NULL,
    metric_name TEXT NOT NULL,
    value       REAL NOT NULL,
    tags        TEXT,
    timestamp   INTEGER NOT NULL
) STRICT;
CREATE INDEX idx_metrics_timestamp ON metrics (timestamp, session_id);
CREATE INDEX idx_metrics_session ON metrics (session_id, timestamp);
CREATE INDEX idx_metrics_agent_time ON metrics (agent_id, timestamp, session_id);
CREATE INDEX idx_metrics_type ON metrics (metric_type, metric_name);
CREATE INDEX idx_metrics_type_time ON metrics (metric_type, timestamp, session_id);

-- Which events happened to which thing: a row for each batch in which something happened to it, as a list of
-- [seq - first_seq, type, time - first_time]. What happened in full is in records.db, once.
CREATE TABLE event_groups (
    session_id     TEXT NOT NULL,
    aggregate_id   TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    first_seq      INTEGER NOT NULL,
    last_seq       INTEGER NOT NULL,
    first_time     INTEGER NOT NULL,
    events         TEXT NOT NULL,
    PRIMARY KEY (session_id, aggregate_id, aggregate_type, first_seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_events_aggregate ON event_groups (aggregate_id, first_seq);

CREATE VIEW events AS
SELECT g.session_id, g.aggregate_id, g.aggregate_type,
       e.value ->> 1                AS event_type,
       g.first_time + (e.value ->> 2) AS timestamp,
       g.first_seq + (e.value ->> 0)  AS sequence_number
FROM event_groups AS g, json_each(g.events) AS e;
