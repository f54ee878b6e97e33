//! Turns that were left half-written: found, and closed with a record that says so. Nothing else is touched: what was
//! written stays, a result that comes late is recorded as ever, and whoever did an effect may still say so.
//!
//! | half-written | closed when |
//! |---|---|
//! | an effect begun and not finished | its process is known to be gone; at a start, its agent has ended or does not exist; its agent's new process says that it begins |
//! | a tool call without its result | at a start, its writer is an agent that has ended; its agent's new process says that it begins; no result comes for [`limits::EFFECT_DEADLINE_MS`] |
//! | a part of a task that does not exist | at a start |
//! | an answer to a message that was never sent | at a start |
//!
//! What is closed is no longer half-written, so nothing is closed twice.

use super::{Decision, agent, check, effect, message, nothing};
use crate::{
    command::Outcome,
    event::Event,
    id::EntityId,
    json::Json,
    limits,
    state::{Effect, EffectStatus, OpenCall, State},
    turn::{Said, Turn},
};

/// What is known of who is gone.
#[derive(Debug, Clone, Copy)]
pub struct Gone<'a> {
    /// Processes that will finish nothing any more.
    pub instances: &'a [EntityId],
    /// The store has been started: agents that ended before, and chains that broke, are looked at too.
    pub at_start: bool,
}

/// What was left half-written, and why it will not be finished. At most as many as one group may close come from one look;
/// ask again when they are closed.
pub fn half_written<'a>(state: &'a State, gone: Gone<'a>) -> impl Iterator<Item = (Turn, String)> + 'a {
    let ended = |id: &EntityId| state.agents.get(id).filter(|agent| agent::has_ended(agent));
    let effects =
        state.effects.iter().filter(|effect| effect.status == EffectStatus::Begun).filter_map(move |effect| {
            let why = if gone.instances.contains(&effect.instance) {
                "the process that began it is gone".to_owned()
            } else {
                let agent = effect.agent_id.as_ref().filter(|_| gone.at_start)?;
                match (ended(agent), state.agents.contains(agent)) {
                    (Some(agent), _) => format!("its agent `{}` is {}", agent.id, agent.status),
                    (None, false) => format!("its agent `{agent}` does not exist"),
                    (None, true) => return None,
                }
            };
            Some((begun(effect), why))
        });
    let calls = state.calls.iter().filter(move |_| gone.at_start).filter_map(move |call| {
        let writer = ended(&call.writer)?;
        Some((called(call), format!("its writer `{}` is {}", writer.id, writer.status)))
    });
    let parts = state.tasks.iter().filter(move |task| gone.at_start && !task.status.is_ended()).filter_map(|task| {
        let parent = task.parent_task_id.as_ref().filter(|parent| !state.tasks.contains(parent))?;
        let why = format!("task `{parent}`, which it is part of, does not exist");
        Some((Turn::Part { task: task.id.clone(), parent: parent.clone() }, why))
    });
    let answers =
        state.messages.iter().filter(move |message| gone.at_start && !message.is_adrift).filter_map(|letter| {
            let question = message::never_sent(letter)?;
            let why = format!("message `{question}`, which it answers, was never sent");
            Some((Turn::Answer { message: letter.id.clone(), question }, why))
        });
    effects.chain(calls).chain(parts).chain(answers).take(limits::SWEEP)
}

fn begun(effect: &Effect) -> Turn {
    Turn::Effect { effect: effect.id.clone(), attempt: effect.attempt }
}

fn called(call: &OpenCall) -> Turn {
    Turn::Call { call: call.id.clone(), writer: call.writer.clone(), seq: call.seq, message: call.message_id.clone() }
}

/// Closes turns, each with a record of its own.
fn close(state: &State, turns: impl Iterator<Item = (Turn, String)>) -> Vec<Event> {
    let mut events = Vec::new();
    for (turn, reason) in turns {
        if let Turn::Effect { effect, attempt } = &turn
            && let Ok((doubt, _)) = effect::doubt(state, effect, *attempt, &reason)
        {
            events.extend(doubt);
        }
        events.push(Event::Interrupted { turn, reason });
    }
    events
}

/// From the engine, at a start.
pub(super) fn interrupt(state: &State, gone: Gone<'_>) -> Decision {
    Ok((close(state, half_written(state, gone)), Outcome::Done { id: None }))
}

/// From the engine: no result of this call came in time.
pub(super) fn interrupt_call(state: &State, id: &EntityId, reason: &str) -> Decision {
    check::text("reason", reason)?;
    match state.calls.get(id) {
        Some(call) => {
            let events = close(state, std::iter::once((called(call), reason.to_owned())));
            Ok((events, Outcome::Done { id: Some(id.clone()) }))
        }
        None => nothing(Some(id)),
    }
}

/// A new process of an agent begins: what its earlier ones left half-written is closed.
pub(super) fn return_agent(state: &State, id: &EntityId, instance: &EntityId) -> Decision {
    agent::at_work(state, id)?;
    let why = |of: &str| format!("{of} is gone; `{instance}` took its place");
    let effects = state
        .effects
        .iter()
        .filter(|effect| effect.status == EffectStatus::Begun && effect.agent_id.as_ref() == Some(id))
        .filter(|effect| effect.instance != *instance)
        .map(|effect| (begun(effect), why(&format!("process `{}` began it and", effect.instance))));
    let calls = state
        .calls
        .iter()
        .filter(|call| call.writer == *id)
        .map(|call| (called(call), why("the process that wrote it")));
    let events = close(state, effects.chain(calls).take(limits::SWEEP));
    Ok((events, Outcome::Done { id: Some(id.clone()) }))
}

/// Which calls a text opens, and which open ones it has the results of. Calls beyond [`limits::OPEN_CALLS`] are recorded
/// like any other text and not kept an eye on.
pub(super) fn said(state: &State, text: &Json) -> Said {
    let mut said = Said::in_json(text);
    said.results.retain(|call| state.calls.contains(call));
    said.calls.retain(|call| !state.calls.contains(call));
    said.calls.truncate(limits::OPEN_CALLS.saturating_sub(state.calls.len()));
    said
}
