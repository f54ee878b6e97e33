//! What events are called, and what each is about.

use crate::{event::Event, turn::Turn};

/// The event's stable name: the key it has as JSON.
#[must_use]
pub fn event_type(event: &Event) -> &'static str {
    match event {
        Event::SessionCreated { .. } => "session_created",
        Event::SessionForked { .. } => "session_forked",
        Event::SessionRewound { .. } => "session_rewound",
        Event::SessionStatusChanged { .. } => "session_status_changed",
        Event::SessionUpdated { .. } => "session_updated",
        Event::Recovered { .. } => "recovered",
        Event::AgentSpawned { .. } => "agent_spawned",
        Event::AgentStatusChanged { .. } => "agent_status_changed",
        Event::AgentUpdated { .. } => "agent_updated",
        Event::TopicSubscribed { .. } => "topic_subscribed",
        Event::TopicUnsubscribed { .. } => "topic_unsubscribed",
        Event::GroupCreated { .. } => "group_created",
        Event::GroupRemoved { .. } => "group_removed",
        Event::MemberJoined { .. } => "member_joined",
        Event::MemberLeft { .. } => "member_left",
        Event::TaskCreated { .. } => "task_created",
        Event::TaskUpdated { .. } => "task_updated",
        Event::TaskAssigned { .. } => "task_assigned",
        Event::TaskClaimed { .. } => "task_claimed",
        Event::TaskLeaseExpired { .. } => "task_lease_expired",
        Event::TaskReleased { .. } => "task_released",
        Event::TaskCompleted { .. } => "task_completed",
        Event::TaskFailed { .. } => "task_failed",
        Event::TaskCancelled { .. } => "task_cancelled",
        Event::MessageSent { .. } => "message_sent",
        Event::MessageDelivered { .. } => "message_delivered",
        Event::MessageAcknowledged { .. } => "message_acknowledged",
        Event::MessageDeadLettered { .. } => "message_dead_lettered",
        Event::MemorySet { .. } => "memory_set",
        Event::MemoryDeleted { .. } => "memory_deleted",
        Event::EffectBegun { .. } => "effect_begun",
        Event::EffectFinished { .. } => "effect_finished",
        Event::EffectOutcomeUnknown { .. } => "effect_outcome_unknown",
        Event::EffectResolvedDone { .. } => "effect_resolved_done",
        Event::EffectResolvedNotDone { .. } => "effect_resolved_not_done",
        Event::ConnectionSet { .. } => "connection_set",
        Event::ConnectionRemoved { .. } => "connection_removed",
        Event::ConfigSet { .. } => "config_set",
        Event::ConfigRemoved { .. } => "config_removed",
        Event::Custom { .. } => "custom",
        Event::Interrupted { .. } => "interrupted",
    }
}

/// What an event is about: the kind of thing, and its id. The session itself is `session`/`session`; a caller's own event
/// that names nothing is about it too. A memory entry is `SCOPE/KEY`.
#[must_use]
pub fn aggregate(event: &Event) -> (&'static str, String) {
    let (kind, id) = match event {
        Event::SessionCreated { .. }
        | Event::SessionForked { .. }
        | Event::SessionRewound { .. }
        | Event::SessionStatusChanged { .. }
        | Event::SessionUpdated { .. }
        | Event::Recovered { .. }
        | Event::Custom { aggregate: None, .. } => return ("session", "session".into()),
        Event::AgentSpawned { agent, .. }
        | Event::AgentStatusChanged { agent, .. }
        | Event::AgentUpdated { agent, .. }
        | Event::TopicSubscribed { agent, .. }
        | Event::TopicUnsubscribed { agent, .. } => ("agent", agent),
        Event::GroupCreated { group, .. }
        | Event::GroupRemoved { group }
        | Event::MemberJoined { group, .. }
        | Event::MemberLeft { group, .. } => ("group", group),
        Event::TaskCreated { task, .. }
        | Event::TaskUpdated { task, .. }
        | Event::TaskAssigned { task, .. }
        | Event::TaskClaimed { task, .. }
        | Event::TaskLeaseExpired { task, .. }
        | Event::TaskReleased { task, .. }
        | Event::TaskCompleted { task, .. }
        | Event::TaskFailed { task, .. }
        | Event::TaskCancelled { task, .. } => ("task", task),
        Event::MessageSent { message, .. }
        | Event::MessageDelivered { message, .. }
        | Event::MessageAcknowledged { message, .. }
        | Event::MessageDeadLettered { message, .. } => ("message", message),
        Event::MemorySet { scope, key, .. } | Event::MemoryDeleted { scope, key, .. } => {
            return ("memory", format!("{scope}/{key}"));
        }
        Event::EffectBegun { effect, .. }
        | Event::EffectFinished { effect, .. }
        | Event::EffectOutcomeUnknown { effect, .. }
        | Event::EffectResolvedDone { effect, .. }
        | Event::EffectResolvedNotDone { effect, .. } => ("effect", effect),
        Event::ConnectionSet { connection, .. } | Event::ConnectionRemoved { connection } => ("connection", connection),
        Event::ConfigSet { key, .. } | Event::ConfigRemoved { key } => ("config", key),
        Event::Custom { aggregate: Some(aggregate), .. } => ("custom", aggregate),
        Event::Interrupted { turn, .. } => match turn {
            Turn::Call { call, .. } => ("call", call),
            Turn::Effect { effect, .. } => ("effect", effect),
            Turn::Part { task, .. } => ("task", task),
            Turn::Answer { message, .. } => ("message", message),
        },
    };
    (kind, id.as_str().to_owned())
}
