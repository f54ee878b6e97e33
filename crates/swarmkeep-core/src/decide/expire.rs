//! What is over by time. The engine asks with `expire`; what is over is never computed on read.

use super::{Ctx, Decision, agent, message, task};
use crate::{
    command::Outcome,
    event::Event,
    limits,
    state::{SessionStatus, State},
};

/// The session itself first: nothing else matters once it has expired. Else memory, messages delivered too often, and what
/// agents that have ended still hold, [`limits::SWEEP`] at a time: ask again until nothing comes back.
pub(super) fn decide(state: &State, ctx: &Ctx<'_>) -> Decision {
    let mut events = Vec::new();
    if state.info.status.is_ended() {
        return Ok((events, Outcome::Done { id: None }));
    }
    if let Some((at_ms, reason)) = session_end(state)
        && at_ms <= ctx.now_ms
    {
        events.push(Event::SessionStatusChanged { status: SessionStatus::Expired, reason: Some(reason.into()) });
        return Ok((events, Outcome::Done { id: None }));
    }
    if !matches!(state.info.status, SessionStatus::Live | SessionStatus::Parked) {
        return Ok((events, Outcome::Done { id: None }));
    }
    let over = state.memory.ranked((0, None)).take_while(|((at_ms, _), _)| *at_ms <= ctx.now_ms);
    events.extend(over.take(limits::SWEEP).map(|(_, entry)| Event::MemoryDeleted {
        scope: entry.scope.clone(),
        key: entry.key.clone(),
        version: entry.version,
        expired: true,
    }));
    if events.is_empty() {
        message::give_up(state, ctx, limits::SWEEP, &mut events)?;
    }
    if events.is_empty() {
        for ended in state.agents.iter().filter(|agent| agent::has_ended(agent)) {
            agent::give_back(state, &ended.id, &format!("agent {}", ended.status), ctx, limits::SWEEP, &mut events)?;
            if !events.is_empty() {
                break;
            }
        }
    }
    Ok((events, Outcome::Done { id: None }))
}

/// When the session ends by its times-to-live, and by which.
fn session_end(state: &State) -> Option<(u64, &'static str)> {
    let absolute = state.info.ttl_ms.map(|ttl| (state.info.created_at_ms.saturating_add(ttl), "ttl"));
    let idle = state.info.idle_ttl_ms.map(|ttl| (state.head.time_ms.saturating_add(ttl), "idle_ttl"));
    absolute.into_iter().chain(idle).min()
}

/// When `expire` will next have something to do; `None`: not by time. Costs a step for each agent that has ended, and
/// little beside.
#[must_use]
pub fn next_due_ms(state: &State) -> Option<u64> {
    if state.info.status.is_ended() {
        return None;
    }
    let session = session_end(state).map(|(at_ms, _)| at_ms);
    if !matches!(state.info.status, SessionStatus::Live | SessionStatus::Parked) {
        return session;
    }
    let memory = state.memory.ranked((0, None)).next().map(|((at_ms, _), _)| *at_ms);
    let messages = message::exhausted(state).next().map(|(at_ms, ..)| at_ms);
    let holds = |id| task::held(state, id).next().is_some() || message::mail(state, id).next().is_some();
    let mut ended = state.agents.iter().filter(|agent| agent::has_ended(agent));
    let left_behind = ended.any(|agent| holds(&agent.id)).then_some(0);
    session.into_iter().chain(memory).chain(messages).chain(left_behind).min()
}
