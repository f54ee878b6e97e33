//! Agents: joining, standing, topics, ending.

use std::sync::Arc;

use super::{Ctx, Decision, check, done, message, new_id, nothing, room, task};
use crate::{
    command::{Outcome, SpawnAgent},
    error::{Refusal, RefusalCode},
    event::Event,
    id::EntityId,
    json::Json,
    limits,
    state::{Agent, AgentStatus, State},
};

/// The agent of this id.
pub(super) fn get<'a>(state: &'a State, id: &EntityId) -> Result<&'a Arc<Agent>, Refusal> {
    state.agents.get(id).ok_or_else(|| Refusal::not_found("agent", id))
}

/// The agent of this id, if it can work.
pub(super) fn at_work<'a>(state: &'a State, id: &EntityId) -> Result<&'a Arc<Agent>, Refusal> {
    let agent = get(state, id)?;
    if !has_ended(agent) {
        return Ok(agent);
    }
    let advice = match agent.status {
        AgentStatus::Failed => "set it idle first",
        _ => "spawn another",
    };
    Err(Refusal::new(RefusalCode::WrongState, format!("agent `{id}` is {}: {advice}", agent.status)))
}

/// Terminated or failed: it holds nothing, and nothing is sent to it.
pub(super) fn has_ended(agent: &Agent) -> bool {
    matches!(agent.status, AgentStatus::Failed | AgentStatus::Terminated)
}

fn free_name(state: &State, name: &str, but: Option<&EntityId>) -> Result<(), Refusal> {
    check::named("agent name", name)?;
    let other = state.agents.iter().find(|agent| {
        agent.name.as_deref() == Some(name) && agent.status != AgentStatus::Terminated && Some(&agent.id) != but
    });
    let Some(other) = other else { return Ok(()) };
    let message = format!("agent `{}` is called `{name}`: use another name, or terminate it first", other.id);
    Err(Refusal::new(RefusalCode::AlreadyExists, message))
}

pub(super) fn spawn(state: &State, spawn: &SpawnAgent, ctx: &Ctx<'_>) -> Decision {
    room("agents", state.agents.len(), limits::AGENTS)?;
    check::named("agent kind", &spawn.kind)?;
    check::list("capabilities", &spawn.capabilities)?;
    check::json("configuration", &spawn.configuration)?;
    if let Some(name) = &spawn.name {
        free_name(state, name, None)?;
    }
    let id = new_id(state, "agent", spawn.id.as_ref(), ctx, |id| state.agents.contains(id))?;
    let event = Event::AgentSpawned {
        agent: id.clone(),
        kind: spawn.kind.clone(),
        name: spawn.name.clone(),
        capabilities: spawn.capabilities.clone(),
        configuration: spawn.configuration.clone(),
    };
    done(event, &id)
}

pub(super) fn set_status(
    state: &State,
    id: &EntityId,
    status: AgentStatus,
    reason: Option<&str>,
    ctx: &Ctx<'_>,
) -> Decision {
    let agent = get(state, id)?;
    check::optional("reason", reason)?;
    if agent.status == status && agent.status_reason.as_deref() == reason {
        return nothing(Some(id));
    }
    if agent.status == AgentStatus::Terminated {
        if status == AgentStatus::Terminated {
            return nothing(Some(id));
        }
        let message = format!("agent `{id}` is terminated and does not come back: spawn another");
        return Err(Refusal::new(RefusalCode::WrongState, message));
    }
    let mut events = vec![Event::AgentStatusChanged { agent: id.clone(), status, reason: reason.map(str::to_owned) }];
    if matches!(status, AgentStatus::Failed | AgentStatus::Terminated) {
        let why = match reason {
            // It goes into every event that follows from it, so it is kept short.
            Some(reason) => format!("agent {status}: {}", reason.chars().take(200).collect::<String>()),
            None => format!("agent {status}"),
        };
        give_back(state, id, &why, ctx, limits::SWEEP, &mut events)?;
    }
    if status == AgentStatus::Terminated {
        let member = |group: &&Arc<crate::state::Group>| group.members.iter().any(|member| member.agent_id == *id);
        events.extend(
            state
                .groups
                .iter()
                .filter(member)
                .map(|group| Event::MemberLeft { group: group.id.clone(), agent: id.clone() }),
        );
    }
    Ok((events, Outcome::Done { id: Some(id.clone()) }))
}

/// What an agent that has ended holds: tasks go back, waiting mail is dead-lettered. At most `limit` of them.
pub(super) fn give_back(
    state: &State,
    id: &EntityId,
    why: &str,
    ctx: &Ctx<'_>,
    limit: usize,
    events: &mut Vec<Event>,
) -> Result<(), Refusal> {
    let held = task::held(state, id).take(limit);
    let before = events.len();
    events.extend(held.filter_map(|held| task::taken_back(held, why)));
    let left = limit.saturating_sub(events.len() - before);
    for (letter, _) in message::mail(state, id).take(left) {
        message::dead_letter(state, letter, id, why, letter.waiting.len() == 1, ctx, events)?;
    }
    Ok(())
}

pub(super) fn update(
    state: &State,
    id: &EntityId,
    name: Option<&str>,
    capabilities: Option<&[String]>,
    configuration: Option<&Json>,
) -> Decision {
    let agent = get(state, id)?;
    let configuration = configuration.filter(|configuration| configuration.as_str() != "null");
    if let Some(name) = name
        && agent.status != AgentStatus::Terminated
    {
        free_name(state, name, Some(id))?;
    }
    if let Some(capabilities) = capabilities {
        check::list("capabilities", capabilities)?;
    }
    if let Some(configuration) = configuration {
        check::json("configuration", configuration)?;
    }
    if name.is_none() && capabilities.is_none() && configuration.is_none() {
        return nothing(Some(id));
    }
    let event = Event::AgentUpdated {
        agent: id.clone(),
        name: name.map(str::to_owned),
        capabilities: capabilities.map(<[String]>::to_vec),
        configuration: configuration.cloned(),
    };
    done(event, id)
}

pub(super) fn subscribe(state: &State, id: &EntityId, topic: &EntityId) -> Decision {
    let agent = at_work(state, id)?;
    if agent.topics.contains(topic) {
        return nothing(Some(id));
    }
    if agent.topics.len() >= limits::AGENT_LIST {
        return Err(Refusal::new(
            RefusalCode::Limit,
            format!("an agent listens to at most {} topics", limits::AGENT_LIST),
        ));
    }
    done(Event::TopicSubscribed { agent: id.clone(), topic: topic.clone() }, id)
}

pub(super) fn unsubscribe(state: &State, id: &EntityId, topic: &EntityId) -> Decision {
    if !get(state, id)?.topics.contains(topic) {
        return nothing(Some(id));
    }
    done(Event::TopicUnsubscribed { agent: id.clone(), topic: topic.clone() }, id)
}
