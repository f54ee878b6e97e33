//! Groups of agents and who is in them.

use super::{Ctx, Decision, agent, check, done, new_id, nothing, room};
use crate::{
    command::Outcome,
    error::{Refusal, RefusalCode},
    event::Event,
    id::EntityId,
    json::Json,
    limits,
    state::State,
};

pub(super) fn create(
    state: &State,
    id: Option<&EntityId>,
    name: &str,
    kind: &str,
    configuration: &Json,
    ctx: &Ctx<'_>,
) -> Decision {
    room("groups", state.groups.len(), limits::GROUPS)?;
    check::named("group name", name)?;
    check::named("group kind", kind)?;
    check::json("configuration", configuration)?;
    if let Some(other) = state.groups.iter().find(|group| group.name == name) {
        let message = format!("group `{}` is called `{name}`: use another name", other.id);
        return Err(Refusal::new(RefusalCode::AlreadyExists, message));
    }
    let id = new_id(state, "group", id, ctx, |id| state.groups.contains(id))?;
    let event = Event::GroupCreated {
        group: id.clone(),
        name: name.to_owned(),
        kind: kind.to_owned(),
        configuration: configuration.clone(),
    };
    done(event, &id)
}

/// Its members leave first, each by an event: what follows from it is then all in the events.
pub(super) fn remove(state: &State, id: &EntityId) -> Decision {
    let Some(group) = state.groups.get(id) else { return nothing(Some(id)) };
    let left =
        group.members.iter().map(|member| Event::MemberLeft { group: id.clone(), agent: member.agent_id.clone() });
    let events = left.chain([Event::GroupRemoved { group: id.clone() }]).collect();
    Ok((events, Outcome::Done { id: Some(id.clone()) }))
}

pub(super) fn join(state: &State, id: &EntityId, agent: &EntityId, role: Option<&str>) -> Decision {
    let group = state.groups.get(id).ok_or_else(|| Refusal::not_found("group", id))?;
    agent::at_work(state, agent)?;
    check::optional("role", role)?;
    if group.members.iter().any(|member| member.agent_id == *agent && member.role.as_deref() == role) {
        return nothing(Some(id));
    }
    done(Event::MemberJoined { group: id.clone(), agent: agent.clone(), role: role.map(str::to_owned) }, id)
}

pub(super) fn leave(state: &State, id: &EntityId, agent: &EntityId) -> Decision {
    let group = state.groups.get(id).ok_or_else(|| Refusal::not_found("group", id))?;
    if !group.members.iter().any(|member| member.agent_id == *agent) {
        return nothing(Some(id));
    }
    done(Event::MemberLeft { group: id.clone(), agent: agent.clone() }, id)
}
