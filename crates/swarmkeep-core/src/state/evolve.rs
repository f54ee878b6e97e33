//! What each event changes. Nothing is decided here: an event carries its consequences.

use std::sync::Arc;

use imbl::OrdMap;

use super::{
    Agent, AgentStatus, ApplyError, ConfigEntry, Connection, Effect, EffectStatus, Entity, Group, Lease, Member,
    MemoryEntry, MemoryKey, Message, Receipt, SessionInfo, SessionStatus, State, Table, Task, TaskStatus,
};
use crate::{
    event::Event,
    id::{Actor, EntityId, Seq, SessionId},
    json::Json,
    turn::Turn,
};

fn missing(seq: Seq, what: &str, id: &EntityId) -> ApplyError {
    ApplyError::Inconsistent { seq, what: format!("no {what} `{id}`") }
}

/// Changes one entity, or says that it is not there.
fn change<T: Entity<Key = EntityId>>(
    table: &mut Table<T>,
    seq: Seq,
    what: &str,
    id: &EntityId,
    change: impl FnOnce(&mut T),
) -> Result<(), ApplyError> {
    if table.change(id, change) { Ok(()) } else { Err(missing(seq, what, id)) }
}

/// `null` and absent are one: JSON has no other way to write an absent value.
fn present(json: &Json) -> Option<Json> {
    (json.as_str() != "null").then(|| json.clone())
}

impl State {
    /// The seq, counted on from the sessions this one was forked from: what ages and versions go by.
    pub(crate) fn age(&self, seq: Seq) -> Seq {
        Seq(self.info.inherited_seqs.saturating_add(seq.0))
    }

    /// The change that an event makes to the entities; neither head nor requests. Unchanged on error.
    pub(crate) fn evolve(
        &mut self,
        session: SessionId,
        seq: Seq,
        time_ms: u64,
        actor: &Actor,
        event: &Event,
    ) -> Result<(), ApplyError> {
        if (self.head.seq == Seq::ZERO) != matches!(event, Event::SessionCreated { .. }) {
            return Err(ApplyError::Inconsistent {
                seq,
                what: "a session is created by its first record, once".into(),
            });
        }
        match event {
            Event::SessionCreated { .. }
            | Event::SessionStatusChanged { .. }
            | Event::SessionUpdated { .. }
            | Event::Recovered { .. } => {
                self.evolve_session((session, seq), time_ms, event);
                Ok(())
            }
            Event::Custom { calls, results, .. } => {
                // Nothing else of the state: the log, the feeds and the views have it.
                if let Ok(writer) = EntityId::new(actor.as_str()) {
                    self.evolve_calls((seq, time_ms), (&writer, None), calls, results);
                }
                Ok(())
            }
            Event::Interrupted { turn, .. } => self.evolve_turn(seq, turn),
            Event::AgentSpawned { .. }
            | Event::AgentStatusChanged { .. }
            | Event::AgentUpdated { .. }
            | Event::TopicSubscribed { .. }
            | Event::TopicUnsubscribed { .. }
            | Event::GroupCreated { .. }
            | Event::GroupRemoved { .. }
            | Event::MemberJoined { .. }
            | Event::MemberLeft { .. } => self.evolve_agents(seq, time_ms, event),
            Event::TaskCreated { .. }
            | Event::TaskUpdated { .. }
            | Event::TaskAssigned { .. }
            | Event::TaskClaimed { .. }
            | Event::TaskLeaseExpired { .. }
            | Event::TaskReleased { .. }
            | Event::TaskCompleted { .. }
            | Event::TaskFailed { .. }
            | Event::TaskCancelled { .. } => self.evolve_tasks(seq, time_ms, event),
            Event::MessageSent { .. }
            | Event::MessageDelivered { .. }
            | Event::MessageAcknowledged { .. }
            | Event::MessageDeadLettered { .. } => self.evolve_messages(seq, time_ms, event),
            Event::EffectBegun { .. }
            | Event::EffectFinished { .. }
            | Event::EffectOutcomeUnknown { .. }
            | Event::EffectResolvedDone { .. }
            | Event::EffectResolvedNotDone { .. } => self.evolve_effects(seq, time_ms, event),
            Event::MemorySet { .. }
            | Event::MemoryDeleted { .. }
            | Event::ConnectionSet { .. }
            | Event::ConnectionRemoved { .. }
            | Event::ConfigSet { .. }
            | Event::ConfigRemoved { .. } => self.evolve_values(seq, time_ms, actor, event),
            Event::SessionForked { base, .. } | Event::SessionRewound { base, .. } => Err(ApplyError::NeedsBase(*base)),
        }
    }

    fn evolve_session(&mut self, (session, seq): (SessionId, Seq), time_ms: u64, event: &Event) {
        match event {
            Event::SessionCreated { name, owner, metadata, ttl_ms, idle_ttl_ms } => {
                self.info = Arc::new(SessionInfo {
                    id: session,
                    name: Some(name.clone()),
                    owner: owner.clone(),
                    status: SessionStatus::Live,
                    metadata: metadata.clone(),
                    created_at_ms: time_ms,
                    ttl_ms: *ttl_ms,
                    idle_ttl_ms: *idle_ttl_ms,
                    ..SessionInfo::default()
                });
            }
            Event::SessionStatusChanged { status, reason } => {
                let info = Arc::make_mut(&mut self.info);
                info.status = *status;
                info.status_reason.clone_from(reason);
            }
            Event::SessionUpdated { owner, metadata, ttl_ms, idle_ttl_ms } => {
                let info = Arc::make_mut(&mut self.info);
                if owner.is_some() {
                    info.owner.clone_from(owner);
                }
                if let Some(metadata) = metadata {
                    info.metadata = metadata.clone();
                }
                if let Some(ttl) = ttl_ms {
                    info.ttl_ms = (*ttl > 0).then_some(*ttl);
                }
                if let Some(ttl) = idle_ttl_ms {
                    info.idle_ttl_ms = (*ttl > 0).then_some(*ttl);
                }
            }
            Event::Recovered { gave_up: Some(last), .. } if *last >= seq => {
                let info = Arc::make_mut(&mut self.info);
                info.inherited_seqs = info.inherited_seqs.saturating_add(last.0 - seq.0 + 1);
            }
            // Nothing of the state: the log, the feeds and the views have it.
            _ => {}
        }
    }

    fn evolve_agents(&mut self, seq: Seq, time_ms: u64, event: &Event) -> Result<(), ApplyError> {
        match event {
            Event::AgentSpawned { agent, kind, name, capabilities, configuration } => {
                self.agents.insert(Agent {
                    id: agent.clone(),
                    kind: kind.clone(),
                    name: name.clone(),
                    status: AgentStatus::Idle,
                    status_reason: None,
                    capabilities: capabilities.clone(),
                    configuration: configuration.clone(),
                    topics: Vec::new(),
                    created_at_ms: time_ms,
                    terminated_at_ms: None,
                });
                Ok(())
            }
            Event::AgentStatusChanged { agent, status, reason } => {
                change(&mut self.agents, seq, "agent", agent, |row| {
                    row.status = *status;
                    row.status_reason.clone_from(reason);
                    row.terminated_at_ms = (*status == AgentStatus::Terminated).then_some(time_ms);
                })
            }
            Event::AgentUpdated { agent, name, capabilities, configuration } => {
                change(&mut self.agents, seq, "agent", agent, |row| {
                    if name.is_some() {
                        row.name.clone_from(name);
                    }
                    if let Some(capabilities) = capabilities {
                        row.capabilities.clone_from(capabilities);
                    }
                    if let Some(configuration) = configuration {
                        row.configuration = configuration.clone();
                    }
                })
            }
            Event::TopicSubscribed { agent, topic } => change(&mut self.agents, seq, "agent", agent, |row| {
                if !row.topics.contains(topic) {
                    row.topics.push(topic.clone());
                }
            }),
            Event::TopicUnsubscribed { agent, topic } => {
                change(&mut self.agents, seq, "agent", agent, |row| row.topics.retain(|other| other != topic))
            }
            Event::GroupCreated { group, name, kind, configuration } => {
                self.groups.insert(Group {
                    id: group.clone(),
                    name: name.clone(),
                    kind: kind.clone(),
                    configuration: configuration.clone(),
                    created_at_ms: time_ms,
                    members: Vec::new(),
                });
                Ok(())
            }
            Event::GroupRemoved { group } => {
                self.groups.remove(group).map(|_| ()).ok_or_else(|| missing(seq, "group", group))
            }
            Event::MemberJoined { group, agent, role } => {
                change(&mut self.groups, seq, "group", group, |row| {
                    match row.members.iter_mut().find(|member| member.agent_id == *agent) {
                        Some(member) => {
                            member.role.clone_from(role);
                            member.joined_at_ms = time_ms;
                        }
                        None => row.members.push(Member {
                            agent_id: agent.clone(),
                            role: role.clone(),
                            joined_at_ms: time_ms,
                        }),
                    }
                })
            }
            Event::MemberLeft { group, agent } => change(&mut self.groups, seq, "group", group, |row| {
                row.members.retain(|member| member.agent_id != *agent);
            }),
            _ => Ok(()),
        }
    }

    fn evolve_tasks(&mut self, seq: Seq, time_ms: u64, event: &Event) -> Result<(), ApplyError> {
        let created_seq = self.age(seq);
        let tasks = &mut self.tasks;
        match event {
            Event::TaskCreated { task, kind, title, priority, payload, parent, max_retries } => {
                tasks.insert(Task {
                    id: task.clone(),
                    kind: kind.clone(),
                    title: title.clone(),
                    priority: *priority,
                    payload: payload.clone(),
                    status: TaskStatus::Pending,
                    agent_id: None,
                    parent_task_id: parent.clone(),
                    lease: None,
                    leases: 0,
                    result: None,
                    error_message: None,
                    created_seq,
                    created_at_ms: time_ms,
                    assigned_at_ms: None,
                    started_at_ms: None,
                    completed_at_ms: None,
                    retry_count: 0,
                    max_retries: *max_retries,
                });
                Ok(())
            }
            Event::TaskUpdated { task, priority, payload } => change(tasks, seq, "task", task, |row| {
                if let Some(priority) = priority {
                    row.priority = *priority;
                }
                if let Some(payload) = payload {
                    row.payload = payload.clone();
                }
            }),
            Event::TaskAssigned { task, agent } => change(tasks, seq, "task", task, |row| {
                row.status = TaskStatus::Assigned;
                row.agent_id = Some(agent.clone());
                row.assigned_at_ms = Some(time_ms);
            }),
            Event::TaskClaimed { task, agent, lease, lease_ms } => change(tasks, seq, "task", task, |row| {
                row.status = TaskStatus::Running;
                row.agent_id = Some(agent.clone());
                row.lease = Some(Lease { number: *lease, agent_id: agent.clone(), lease_ms: *lease_ms });
                row.leases = *lease;
                row.started_at_ms = Some(time_ms);
            }),
            Event::TaskLeaseExpired { task, retry_count, failed, reason, .. } => {
                change(tasks, seq, "task", task, |row| {
                    attempt_failed(row, time_ms, reason, *retry_count, *failed);
                })
            }
            Event::TaskFailed { task, error, retry_count, failed } => change(tasks, seq, "task", task, |row| {
                attempt_failed(row, time_ms, error, *retry_count, *failed);
            }),
            Event::TaskReleased { task, .. } => change(tasks, seq, "task", task, |row| {
                row.status = TaskStatus::Pending;
                row.agent_id = None;
                row.lease = None;
            }),
            Event::TaskCompleted { task, result } => change(tasks, seq, "task", task, |row| {
                row.status = TaskStatus::Completed;
                row.lease = None;
                row.result = present(result);
                row.completed_at_ms = Some(time_ms);
            }),
            Event::TaskCancelled { task, reason } => change(tasks, seq, "task", task, |row| {
                row.status = TaskStatus::Cancelled;
                row.lease = None;
                if reason.is_some() {
                    row.error_message.clone_from(reason);
                }
                row.completed_at_ms = Some(time_ms);
            }),
            _ => Ok(()),
        }
    }

    fn evolve_messages(&mut self, seq: Seq, time_ms: u64, event: &Event) -> Result<(), ApplyError> {
        match event {
            Event::MessageSent { message, from, to, topic, content, correlation_id, recipients, calls, results } => {
                self.evolve_calls((seq, time_ms), (from, Some(message)), calls, results);
                if recipients.is_empty() {
                    return Ok(());
                }
                let waiting: OrdMap<EntityId, Receipt> =
                    recipients.iter().map(|agent| (agent.clone(), Receipt::default())).collect();
                let seq = self.age(seq);
                self.messages.insert(Message {
                    id: message.clone(),
                    seq,
                    from_agent: from.clone(),
                    to: to.clone(),
                    topic: topic.clone(),
                    content: content.clone(),
                    correlation_id: correlation_id.clone(),
                    timestamp_ms: time_ms,
                    delivered: false,
                    is_adrift: false,
                    waiting,
                });
                Ok(())
            }
            Event::MessageDelivered { message, agent, attempt } => {
                change(&mut self.messages, seq, "message", message, |row| {
                    row.delivered = true;
                    row.waiting.insert(agent.clone(), Receipt { attempts: *attempt, delivered_at_ms: Some(time_ms) });
                })
            }
            Event::MessageAcknowledged { message, agent, consumed }
            | Event::MessageDeadLettered { message, agent, consumed, .. } => {
                if *consumed {
                    return self.messages.remove(message).map(|_| ()).ok_or_else(|| missing(seq, "message", message));
                }
                change(&mut self.messages, seq, "message", message, |row| {
                    row.waiting.remove(agent);
                })
            }
            _ => Ok(()),
        }
    }

    fn evolve_turn(&mut self, seq: Seq, turn: &Turn) -> Result<(), ApplyError> {
        match turn {
            Turn::Call { call, .. } => {
                self.calls.remove(call);
                Ok(())
            }
            // Its doubt is an event of its own.
            Turn::Effect { .. } => Ok(()),
            Turn::Part { task, .. } => change(&mut self.tasks, seq, "task", task, |row| row.parent_task_id = None),
            Turn::Answer { message, .. } => {
                change(&mut self.messages, seq, "message", message, |row| row.is_adrift = true)
            }
        }
    }

    fn evolve_effects(&mut self, seq: Seq, time_ms: u64, event: &Event) -> Result<(), ApplyError> {
        let effects = &mut self.effects;
        match event {
            Event::EffectBegun { effect, class, agent, task, instance, attempt, request, deadline_ms } => {
                effects.insert(Effect {
                    id: effect.clone(),
                    class: *class,
                    status: EffectStatus::Begun,
                    agent_id: agent.clone(),
                    task_id: task.clone(),
                    instance: instance.clone(),
                    attempt: *attempt,
                    request: request.clone(),
                    outcome: None,
                    begun_at_ms: time_ms,
                    deadline_ms: *deadline_ms,
                    finished_at_ms: None,
                    resolved_by: None,
                    reason: None,
                });
                Ok(())
            }
            Event::EffectFinished { effect, outcome } => change(effects, seq, "effect", effect, |row| {
                row.status = EffectStatus::Finished;
                row.outcome = Some(outcome.clone());
                row.finished_at_ms = Some(time_ms);
                row.reason = None;
            }),
            Event::EffectOutcomeUnknown { effect, reason } => change(effects, seq, "effect", effect, |row| {
                row.status = EffectStatus::OutcomeUnknown;
                row.reason = Some(reason.clone());
            }),
            Event::EffectResolvedDone { effect, outcome, by } => change(effects, seq, "effect", effect, |row| {
                row.status = EffectStatus::Finished;
                row.outcome = Some(outcome.clone());
                row.finished_at_ms = Some(time_ms);
                row.resolved_by = Some(by.clone());
                row.reason = None;
            }),
            Event::EffectResolvedNotDone { effect, by } => change(effects, seq, "effect", effect, |row| {
                row.status = EffectStatus::NotDone;
                row.finished_at_ms = Some(time_ms);
                row.resolved_by = Some(by.clone());
                row.reason = None;
            }),
            _ => Ok(()),
        }
    }

    fn evolve_values(&mut self, seq: Seq, time_ms: u64, actor: &Actor, event: &Event) -> Result<(), ApplyError> {
        let by = || Some(actor.as_str().to_owned());
        match event {
            Event::MemorySet { scope, key, value, version, ttl_ms } => {
                self.memory.insert(MemoryEntry {
                    scope: scope.clone(),
                    key: key.clone(),
                    value: value.clone(),
                    version: *version,
                    updated_at_ms: time_ms,
                    updated_by: by(),
                    expires_at_ms: ttl_ms.map(|ttl| time_ms.saturating_add(ttl)),
                });
                Ok(())
            }
            Event::MemoryDeleted { scope, key, .. } => {
                let place = MemoryKey { scope: scope.clone(), key: key.clone() };
                self.memory.remove(&place).map(|_| ()).ok_or_else(|| missing(seq, "memory entry", key))
            }
            Event::ConnectionSet { connection, recipe, state, status } => {
                self.connections.insert(Connection {
                    id: connection.clone(),
                    recipe: recipe.clone(),
                    state: state.clone(),
                    status: status.clone(),
                    updated_at_ms: time_ms,
                });
                Ok(())
            }
            Event::ConnectionRemoved { connection } => {
                self.connections.remove(connection).map(|_| ()).ok_or_else(|| missing(seq, "connection", connection))
            }
            Event::ConfigSet { key, value } => {
                self.config.insert(ConfigEntry {
                    key: key.clone(),
                    value: value.clone(),
                    updated_at_ms: time_ms,
                    updated_by: by(),
                });
                Ok(())
            }
            Event::ConfigRemoved { key } => {
                self.config.remove(key).map(|_| ()).ok_or_else(|| missing(seq, "configuration key", key))
            }
            _ => Ok(()),
        }
    }
}

/// An attempt came to nothing: pending again, or failed for good.
fn attempt_failed(row: &mut Task, time_ms: u64, why: &str, retry_count: u32, failed: bool) {
    row.lease = None;
    row.retry_count = retry_count;
    row.error_message = Some(why.to_owned());
    if failed {
        row.status = TaskStatus::Failed;
        row.completed_at_ms = Some(time_ms);
    } else {
        row.status = TaskStatus::Pending;
        row.agent_id = None;
    }
}
