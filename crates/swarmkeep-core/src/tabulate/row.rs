//! Whole rows: from the state, and where an event makes one.

use super::{
    AGENT_GROUP_MEMBERS, AGENT_GROUPS, AGENT_TOPICS, AGENTS, CONNECTIONS, EFFECTS, MEMORY, MESSAGE_RECEIPTS, MESSAGES,
    RowChange, SESSIONS, SWARM_CONFIG, TASKS, Value, ViewTable, outcome_text,
};
use crate::{
    event::Event,
    id::{EntityId, SessionName},
    json::Json,
    record::Record,
    state::{Address, Agent, Effect, Message, SessionInfo, SessionMetadata, SessionStatus, State, Task},
};

/// A row: the session, then the rest.
pub(super) fn put(table: &'static ViewTable, session: &Value, rest: impl IntoIterator<Item = Value>) -> RowChange {
    let values: Vec<Value> = std::iter::once(session.clone()).chain(rest).collect();
    debug_assert_eq!(values.len(), table.columns.len(), "{}", table.name);
    RowChange::Put { table, values }
}

/// A list of texts as JSON.
pub(super) fn list(texts: &[String]) -> Value {
    // Texts always serialise.
    Value::Text(serde_json::to_string(texts).unwrap_or_default())
}

/// `null` and absent are one.
pub(super) fn present(json: Option<&Json>) -> Value {
    json.filter(|json| json.as_str() != "null").into()
}

/// Kind of address, and the agent of a direct message.
pub(super) fn address(to: &Address) -> (Value, Value) {
    match to {
        Address::Agent(agent) => ("agent".into(), agent.into()),
        Address::Topic(_) => ("topic".into(), Value::Null),
        Address::Broadcast => ("broadcast".into(), Value::Null),
    }
}

pub(super) fn receipt(message: &EntityId, agent: &EntityId, attempts: u32, delivered_at_ms: Option<u64>) -> [Value; 7] {
    [message.into(), agent.into(), attempts.into(), delivered_at_ms.into(), Value::Null, Value::Null, Value::Null]
}

/// The columns that come from a session's metadata.
pub(super) fn metadata(metadata: &SessionMetadata) -> [(&'static str, Value); 4] {
    // String keys: always serialises.
    let attributes = serde_json::to_string(&metadata.attributes).unwrap_or_default();
    [
        ("client_ip", metadata.client_ip.as_ref().into()),
        ("user_agent", metadata.user_agent.as_ref().into()),
        ("source", metadata.source.as_ref().into()),
        ("attributes", attributes.into()),
    ]
}

fn session_row(session: &Value, info: &SessionInfo, seq: u64, updated_at_ms: u64) -> RowChange {
    let [(_, client_ip), (_, user_agent), (_, source), (_, attributes)] = metadata(&info.metadata);
    let values = [
        info.name.as_ref().map(SessionName::namespace).into(),
        info.name.as_ref().map(SessionName::name).into(),
        info.owner.as_ref().into(),
        info.status.as_str().into(),
        info.status_reason.as_ref().into(),
        client_ip,
        user_agent,
        source,
        attributes,
        info.created_at_ms.into(),
        info.ttl_ms.into(),
        info.idle_ttl_ms.into(),
        info.forked_from.as_ref().map(|origin| origin.session.to_string()).into(),
        info.forked_from.as_ref().map(|origin| origin.seq.0).into(),
        info.rewinds.into(),
        seq.into(),
        updated_at_ms.into(),
    ];
    put(&SESSIONS, session, values)
}

/// The row of a session made from nothing.
pub(super) fn created(record: &Record, event: &Event) -> Option<RowChange> {
    let Event::SessionCreated { name, owner, metadata, ttl_ms, idle_ttl_ms } = event else { return None };
    let info = SessionInfo {
        id: record.session,
        name: Some(name.clone()),
        owner: owner.clone(),
        status: SessionStatus::Live,
        metadata: metadata.clone(),
        created_at_ms: record.time_ms,
        ttl_ms: *ttl_ms,
        idle_ttl_ms: *idle_ttl_ms,
        ..SessionInfo::default()
    };
    Some(session_row(&Value::Text(record.session.to_string()), &info, record.seq.0, record.time_ms))
}

fn agent_row(session: &Value, agent: &Agent) -> RowChange {
    let values = [
        (&agent.id).into(),
        (&agent.kind).into(),
        agent.name.as_ref().into(),
        agent.status.as_str().into(),
        agent.status_reason.as_ref().into(),
        list(&agent.capabilities),
        (&agent.configuration).into(),
        agent.created_at_ms.into(),
        agent.created_at_ms.into(),
        agent.terminated_at_ms.into(),
    ];
    put(&AGENTS, session, values)
}

fn task_row(session: &Value, task: &Task) -> RowChange {
    let values = [
        (&task.id).into(),
        task.agent_id.as_ref().into(),
        task.parent_task_id.as_ref().into(),
        (&task.kind).into(),
        (&task.title).into(),
        task.priority.into(),
        (&task.payload).into(),
        task.status.as_str().into(),
        present(task.result.as_ref()),
        task.error_message.as_ref().into(),
        task.lease.as_ref().map(|lease| lease.number).into(),
        task.lease.as_ref().map(|lease| lease.lease_ms).into(),
        task.created_at_ms.into(),
        task.assigned_at_ms.into(),
        task.started_at_ms.into(),
        task.completed_at_ms.into(),
        task.retry_count.into(),
        task.max_retries.into(),
    ];
    put(&TASKS, session, values)
}

fn message_row(session: &Value, message: &Message) -> RowChange {
    let (kind, to) = address(&message.to);
    let values = [
        (&message.id).into(),
        (&message.from_agent).into(),
        to,
        kind,
        (&message.topic).into(),
        (&message.content).into(),
        message.correlation_id.as_ref().into(),
        message.timestamp_ms.into(),
        "waiting".into(),
        message.delivered.into(),
        false.into(),
    ];
    put(&MESSAGES, session, values)
}

fn effect_row(session: &Value, effect: &Effect) -> RowChange {
    let values = [
        (&effect.id).into(),
        effect.class.as_str().into(),
        effect.status.as_str().into(),
        effect.agent_id.as_ref().into(),
        effect.task_id.as_ref().into(),
        (&effect.instance).into(),
        effect.attempt.into(),
        (&effect.request).into(),
        effect.outcome.as_ref().map_or(Value::Null, outcome_text),
        effect.begun_at_ms.into(),
        effect.deadline_ms.into(),
        effect.finished_at_ms.into(),
        effect.resolved_by.as_ref().into(),
        effect.reason.as_ref().into(),
    ];
    put(&EFFECTS, session, values)
}

pub(super) fn rows(state: &State) -> Vec<RowChange> {
    let session = &Value::Text(state.info.id.to_string());
    let mut rows = vec![session_row(session, &state.info, state.head.seq.0, state.head.time_ms)];
    rows.extend(state.agents.iter().map(|agent| agent_row(session, agent)));
    rows.extend(state.agents.iter().flat_map(|agent| {
        agent.topics.iter().map(move |topic| put(&AGENT_TOPICS, session, [(&agent.id).into(), topic.into()]))
    }));
    rows.extend(state.groups.iter().map(|group| {
        let values = [
            (&group.id).into(),
            (&group.name).into(),
            (&group.kind).into(),
            (&group.configuration).into(),
            group.created_at_ms.into(),
        ];
        put(&AGENT_GROUPS, session, values)
    }));
    rows.extend(state.groups.iter().flat_map(|group| {
        group.members.iter().map(move |member| {
            let values = [
                (&group.id).into(),
                (&member.agent_id).into(),
                member.role.as_ref().into(),
                member.joined_at_ms.into(),
            ];
            put(&AGENT_GROUP_MEMBERS, session, values)
        })
    }));
    rows.extend(state.tasks.iter().map(|task| task_row(session, task)));
    rows.extend(state.messages.iter().map(|message| message_row(session, message)));
    rows.extend(state.messages.iter().flat_map(|message| {
        message.waiting.iter().map(move |(agent, standing)| {
            put(&MESSAGE_RECEIPTS, session, receipt(&message.id, agent, standing.attempts, standing.delivered_at_ms))
        })
    }));
    rows.extend(state.memory.iter().map(|entry| {
        let values = [
            (&entry.scope).into(),
            (&entry.key).into(),
            (&entry.value).into(),
            entry.version.into(),
            entry.updated_at_ms.into(),
            entry.updated_by.as_ref().into(),
            entry.expires_at_ms.into(),
        ];
        put(&MEMORY, session, values)
    }));
    rows.extend(state.effects.iter().map(|effect| effect_row(session, effect)));
    rows.extend(state.connections.iter().map(|connection| {
        let values = [
            (&connection.id).into(),
            (&connection.recipe).into(),
            (&connection.state).into(),
            (&connection.status).into(),
            connection.updated_at_ms.into(),
        ];
        put(&CONNECTIONS, session, values)
    }));
    rows.extend(state.config.iter().map(|entry| {
        let values =
            [(&entry.key).into(), (&entry.value).into(), entry.updated_at_ms.into(), entry.updated_by.as_ref().into()];
        put(&SWARM_CONFIG, session, values)
    }));
    rows
}
