//! Events and state → rows of the views. The only place that knows columns.
//!
//! Two ways to the same rows, and a property test that they agree: [`changes`] of each record, merged in order, and
//! [`rows`] of the state that the records fold to. Because an event carries its consequences, `changes` needs no state;
//! only a record that sets the whole state (fork, rewind) says [`RowChange::Reset`], and whoever applies it puts
//! [`rows`] of the state at that record in place of the session's rows.

mod columns;
mod names;
mod row;

pub use self::{
    columns::{
        AGENT_GROUP_MEMBERS, AGENT_GROUPS, AGENT_TOPICS, AGENTS, CONNECTIONS, EFFECTS, MEMORY, MESSAGE_RECEIPTS,
        MESSAGES, SESSIONS, SWARM_CONFIG, TABLES, TASKS,
    },
    names::{aggregate, event_type},
};
use crate::{
    event::Event,
    id::EntityId,
    record::Record,
    state::{EffectOutcome, State, TaskStatus},
    turn::Turn,
};

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

impl From<u64> for Value {
    /// Beyond `i64` (292 million years of milliseconds) it saturates.
    fn from(number: u64) -> Self {
        Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Integer(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Value::Integer(number.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Value::Integer(truth.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Value::Text(text.clone())
    }
}

impl From<&EntityId> for Value {
    fn from(id: &EntityId) -> Self {
        Value::Text(id.as_str().to_owned())
    }
}

impl From<&crate::Json> for Value {
    fn from(json: &crate::Json) -> Self {
        Value::Text(json.as_str().to_owned())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl ViewTable {
    /// The index of a column.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| *column == name)
    }

    /// Some columns of the row with this key (behind the session), by name.
    fn set(&'static self, session: &Value, key: &[&EntityId], values: &[(&str, Value)]) -> RowChange {
        let mut values: Vec<(usize, Value)> =
            values.iter().filter_map(|(name, value)| Some((self.column(name)?, value.clone()))).collect();
        values.sort_by_key(|(column, _)| *column);
        RowChange::Set { table: self, key: row_key(session, key), values }
    }

    fn delete(&'static self, session: &Value, key: &[&EntityId]) -> RowChange {
        RowChange::Delete { table: self, key: row_key(session, key) }
    }
}

fn row_key(session: &Value, key: &[&EntityId]) -> Vec<Value> {
    std::iter::once(session.clone()).chain(key.iter().map(|id| Value::from(*id))).collect()
}

fn outcome_text(outcome: &EffectOutcome) -> Value {
    // Plain data always serialises.
    Value::Text(serde_json::to_string(outcome).unwrap_or_default())
}

/// All rows of a session's state, in the order of [`TABLES`].
#[must_use]
pub fn rows(state: &State) -> Vec<RowChange> {
    row::rows(state)
}

/// Where a record moves its session to: the last of several does so for all of them.
#[must_use]
pub fn position(record: &Record) -> RowChange {
    let values = [("seq", record.seq.0.into()), ("updated_at", record.time_ms.into())];
    SESSIONS.set(&Value::Text(record.session.to_string()), &[], &values)
}

/// Appends what a record changes in the views, but for the session's [`position`]. A record without a body changes nothing else.
pub fn changes(record: &Record, out: &mut Vec<RowChange>) {
    let Some(body) = &record.body else { return };
    let session = &Value::Text(record.session.to_string());
    let now = || Value::from(record.time_ms);
    let by = || Value::from(body.actor.as_str());
    match &body.event {
        Event::SessionForked { .. } | Event::SessionRewound { .. } => {
            out.push(RowChange::Reset);
        }
        event @ Event::SessionCreated { .. } => {
            out.extend(row::created(record, event));
        }
        Event::SessionStatusChanged { .. } | Event::SessionUpdated { .. } => session_changes(session, &body.event, out),
        Event::Interrupted { turn: Turn::Part { task, .. }, .. } => {
            out.push(TASKS.set(session, &[task], &[("parent_task_id", Value::Null)]));
        }
        Event::Recovered { .. } | Event::Custom { .. } | Event::Interrupted { .. } => {}
        Event::AgentSpawned { .. }
        | Event::AgentStatusChanged { .. }
        | Event::AgentUpdated { .. }
        | Event::TopicSubscribed { .. }
        | Event::TopicUnsubscribed { .. }
        | Event::GroupCreated { .. }
        | Event::GroupRemoved { .. }
        | Event::MemberJoined { .. }
        | Event::MemberLeft { .. } => agent_changes(session, &now(), &body.event, out),
        Event::TaskCreated { .. }
        | Event::TaskUpdated { .. }
        | Event::TaskAssigned { .. }
        | Event::TaskClaimed { .. }
        | Event::TaskLeaseExpired { .. }
        | Event::TaskReleased { .. }
        | Event::TaskCompleted { .. }
        | Event::TaskFailed { .. }
        | Event::TaskCancelled { .. } => out.extend(task_change(session, &now(), &body.event)),
        Event::MessageSent { .. }
        | Event::MessageDelivered { .. }
        | Event::MessageAcknowledged { .. }
        | Event::MessageDeadLettered { .. } => message_changes(session, &now(), &body.event, out),
        Event::EffectBegun { .. }
        | Event::EffectFinished { .. }
        | Event::EffectOutcomeUnknown { .. }
        | Event::EffectResolvedDone { .. }
        | Event::EffectResolvedNotDone { .. } => out.extend(effect_change(session, &now(), &body.event)),
        Event::MemorySet { scope, key, value, version, ttl_ms } => {
            let expires = ttl_ms.map(|ttl| record.time_ms.saturating_add(ttl));
            let values = [scope.into(), key.into(), value.into(), (*version).into(), now(), by(), expires.into()];
            out.push(row::put(&MEMORY, session, values));
        }
        Event::MemoryDeleted { scope, key, .. } => out.push(MEMORY.delete(session, &[scope, key])),
        Event::ConnectionSet { connection, recipe, state, status } => {
            let values = [connection.into(), recipe.into(), state.into(), status.into(), now()];
            out.push(row::put(&CONNECTIONS, session, values));
        }
        Event::ConnectionRemoved { connection } => out.push(CONNECTIONS.delete(session, &[connection])),
        Event::ConfigSet { key, value } => {
            out.push(row::put(&SWARM_CONFIG, session, [key.into(), value.into(), now(), by()]));
        }
        Event::ConfigRemoved { key } => out.push(SWARM_CONFIG.delete(session, &[key])),
    }
}

fn session_changes(session: &Value, event: &Event, out: &mut Vec<RowChange>) {
    match event {
        Event::SessionStatusChanged { status, reason } => {
            let values = [("status", status.as_str().into()), ("status_reason", reason.as_ref().into())];
            out.push(SESSIONS.set(session, &[], &values));
        }
        Event::SessionUpdated { owner, metadata, ttl_ms, idle_ttl_ms } => {
            let mut values: Vec<(&str, Value)> = Vec::new();
            if owner.is_some() {
                values.push(("owner", owner.as_ref().into()));
            }
            if let Some(metadata) = metadata {
                values.extend(row::metadata(metadata));
            }
            let lasting = |ttl: u64| Value::from((ttl > 0).then_some(ttl));
            values.extend(ttl_ms.map(|ttl| ("ttl_ms", lasting(ttl))));
            values.extend(idle_ttl_ms.map(|ttl| ("idle_ttl_ms", lasting(ttl))));
            out.push(SESSIONS.set(session, &[], &values));
        }
        _ => {}
    }
}

fn agent_changes(session: &Value, now: &Value, event: &Event, out: &mut Vec<RowChange>) {
    let now = || now.clone();
    match event {
        Event::AgentSpawned { agent, kind, name, capabilities, configuration } => {
            let values = [
                agent.into(),
                kind.into(),
                name.as_ref().into(),
                "idle".into(),
                Value::Null,
                row::list(capabilities),
                configuration.into(),
                now(),
                now(),
                Value::Null,
            ];
            out.push(row::put(&AGENTS, session, values));
        }
        Event::AgentStatusChanged { agent, status, reason } => {
            let ended = if *status == crate::state::AgentStatus::Terminated { now() } else { Value::Null };
            let values = [
                ("status", status.as_str().into()),
                ("status_reason", reason.as_ref().into()),
                ("terminated_at", ended),
            ];
            out.push(AGENTS.set(session, &[agent], &values));
        }
        Event::AgentUpdated { agent, name, capabilities, configuration } => {
            let mut values: Vec<(&str, Value)> = Vec::new();
            values.extend(name.as_ref().map(|name| ("name", name.into())));
            values.extend(capabilities.as_ref().map(|list| ("capabilities", row::list(list))));
            values.extend(configuration.as_ref().map(|json| ("configuration", json.into())));
            out.push(AGENTS.set(session, &[agent], &values));
        }
        Event::TopicSubscribed { agent, topic } => {
            out.push(row::put(&AGENT_TOPICS, session, [agent.into(), topic.into()]))
        }
        Event::TopicUnsubscribed { agent, topic } => out.push(AGENT_TOPICS.delete(session, &[agent, topic])),
        Event::GroupCreated { group, name, kind, configuration } => {
            let values = [group.into(), name.into(), kind.into(), configuration.into(), now()];
            out.push(row::put(&AGENT_GROUPS, session, values));
        }
        Event::GroupRemoved { group } => out.push(AGENT_GROUPS.delete(session, &[group])),
        Event::MemberJoined { group, agent, role } => {
            let values = [group.into(), agent.into(), role.as_ref().into(), now()];
            out.push(row::put(&AGENT_GROUP_MEMBERS, session, values));
        }
        Event::MemberLeft { group, agent } => out.push(AGENT_GROUP_MEMBERS.delete(session, &[group, agent])),
        _ => {}
    }
}

fn task_change(session: &Value, now: &Value, event: &Event) -> Option<RowChange> {
    let now = || now.clone();
    let status = |status: TaskStatus| ("status", Value::from(status.as_str()));
    let no_lease = || [("lease", Value::Null), ("lease_ms", Value::Null)];
    let tried = |retry_count: u32, failed: bool, why: &str| {
        let mut values = vec![("retry_count", retry_count.into()), ("error_message", why.into())];
        values.extend(no_lease());
        values.extend(if failed {
            [status(TaskStatus::Failed), ("completed_at", now())]
        } else {
            [status(TaskStatus::Pending), ("agent_id", Value::Null)]
        });
        values
    };
    let (task, values) = match event {
        Event::TaskCreated { task, kind, title, priority, payload, parent, max_retries } => {
            let values = [
                task.into(),
                Value::Null,
                parent.as_ref().into(),
                kind.into(),
                title.into(),
                (*priority).into(),
                payload.into(),
                "pending".into(),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                now(),
                Value::Null,
                Value::Null,
                Value::Null,
                0u64.into(),
                (*max_retries).into(),
            ];
            return Some(row::put(&TASKS, session, values));
        }
        Event::TaskUpdated { task, priority, payload } => {
            let priority = priority.map(|priority| ("priority", priority.into()));
            let payload = payload.as_ref().map(|payload| ("payload", payload.into()));
            (task, priority.into_iter().chain(payload).collect())
        }
        Event::TaskAssigned { task, agent } => {
            (task, vec![status(TaskStatus::Assigned), ("agent_id", agent.into()), ("assigned_at", now())])
        }
        Event::TaskClaimed { task, agent, lease, lease_ms } => (
            task,
            vec![
                status(TaskStatus::Running),
                ("agent_id", agent.into()),
                ("lease", (*lease).into()),
                ("lease_ms", (*lease_ms).into()),
                ("started_at", now()),
            ],
        ),
        Event::TaskLeaseExpired { task, retry_count, failed, reason, .. } => {
            (task, tried(*retry_count, *failed, reason))
        }
        Event::TaskFailed { task, error, retry_count, failed } => (task, tried(*retry_count, *failed, error)),
        Event::TaskReleased { task, .. } => {
            let values = [status(TaskStatus::Pending), ("agent_id", Value::Null)];
            (task, values.into_iter().chain(no_lease()).collect())
        }
        Event::TaskCompleted { task, result } => {
            let values =
                [status(TaskStatus::Completed), ("result", row::present(Some(result))), ("completed_at", now())];
            (task, values.into_iter().chain(no_lease()).collect())
        }
        Event::TaskCancelled { task, reason } => {
            let why = reason.as_ref().map(|reason| ("error_message", reason.into()));
            let values = [status(TaskStatus::Cancelled), ("completed_at", now())];
            (task, values.into_iter().chain(no_lease()).chain(why).collect())
        }
        _ => return None,
    };
    Some(TASKS.set(session, &[task], &values))
}

fn message_changes(session: &Value, now: &Value, event: &Event, out: &mut Vec<RowChange>) {
    let now = || now.clone();
    match event {
        Event::MessageSent { message, from, to, topic, content, correlation_id, recipients, .. } => {
            let status = if recipients.is_empty() { "no_recipients" } else { "waiting" };
            let (kind, to) = row::address(to);
            let values = [
                message.into(),
                from.into(),
                to,
                kind,
                topic.into(),
                content.into(),
                correlation_id.as_ref().into(),
                now(),
                status.into(),
                false.into(),
                false.into(),
            ];
            out.push(row::put(&MESSAGES, session, values));
            out.extend(
                recipients
                    .iter()
                    .map(|agent| row::put(&MESSAGE_RECEIPTS, session, row::receipt(message, agent, 0, None))),
            );
        }
        Event::MessageDelivered { message, agent, attempt } => {
            let values = [("attempts", (*attempt).into()), ("delivered_at", now())];
            out.push(MESSAGE_RECEIPTS.set(session, &[message, agent], &values));
            out.push(MESSAGES.set(session, &[message], &[("delivered", true.into())]));
        }
        Event::MessageAcknowledged { message, agent, consumed } => {
            out.push(MESSAGE_RECEIPTS.set(session, &[message, agent], &[("acknowledged_at", now())]));
            if *consumed {
                let values = [("status", "consumed".into()), ("acknowledged", true.into())];
                out.push(MESSAGES.set(session, &[message], &values));
            }
        }
        Event::MessageDeadLettered { message, agent, reason, consumed } => {
            let values = [("dead_letter_at", now()), ("dead_letter_reason", reason.into())];
            out.push(MESSAGE_RECEIPTS.set(session, &[message, agent], &values));
            if *consumed {
                out.push(MESSAGES.set(session, &[message], &[("status", "dead_letter".into())]));
            }
        }
        _ => {}
    }
}

fn effect_change(session: &Value, now: &Value, event: &Event) -> Option<RowChange> {
    let now = || now.clone();
    let status = |status: &'static str| ("status", Value::from(status));
    let (effect, values) = match event {
        Event::EffectBegun { effect, class, agent, task, instance, attempt, request, deadline_ms } => {
            let values = [
                effect.into(),
                class.as_str().into(),
                "begun".into(),
                agent.as_ref().into(),
                task.as_ref().into(),
                instance.into(),
                (*attempt).into(),
                request.into(),
                Value::Null,
                now(),
                (*deadline_ms).into(),
                Value::Null,
                Value::Null,
                Value::Null,
            ];
            return Some(row::put(&EFFECTS, session, values));
        }
        Event::EffectFinished { effect, outcome } => (
            effect,
            vec![
                status("finished"),
                ("outcome", outcome_text(outcome)),
                ("finished_at", now()),
                ("reason", Value::Null),
            ],
        ),
        Event::EffectOutcomeUnknown { effect, reason } => {
            (effect, vec![status("outcome_unknown"), ("reason", reason.into())])
        }
        Event::EffectResolvedDone { effect, outcome, by } => (
            effect,
            vec![
                status("finished"),
                ("outcome", outcome_text(outcome)),
                ("finished_at", now()),
                ("resolved_by", by.into()),
                ("reason", Value::Null),
            ],
        ),
        Event::EffectResolvedNotDone { effect, by } => (
            effect,
            vec![status("not_done"), ("finished_at", now()), ("resolved_by", by.into()), ("reason", Value::Null)],
        ),
        _ => return None,
    };
    Some(EFFECTS.set(session, &[effect], &values))
}
