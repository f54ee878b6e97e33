//! Effects: what is done outside, once.
//!
//! | the effect stands | `begin` answers |
//! |---|---|
//! | not there, or `not_done` | run (the next attempt) |
//! | `finished` | its recorded outcome |
//! | `begun`, by another process of the same agent, or by an earlier holder of the store where a holder begins it | that process is gone. `read`, `idempotent`: run. Else: the doubt is recorded, the answer is `unknown` |
//! | `begun`, otherwise | refused, `in_progress` |
//! | `outcome_unknown` | `read`, `idempotent`: run. Else: refused, `outcome_unknown` |
//!
//! A `begin` of the same key with another class or request is another thing under the same name: `request_mismatch`.
//!
//! `finish` takes the current attempt's word whatever the effect's doubt: who did it knows. That holds after somebody
//! resolved it as not done, too, for as long as no other attempt was begun: a side effect that is known must not be
//! repeated.

use std::sync::Arc;

use super::{Decision, agent, check, done, nothing, room};
use crate::{
    command::{BeginEffect, Outcome},
    error::{Refusal, RefusalCode},
    event::Event,
    id::EntityId,
    json::Json,
    limits,
    state::{Effect, EffectClass, EffectOutcome, EffectStatus, State},
};

fn get<'a>(state: &'a State, id: &EntityId) -> Result<&'a Arc<Effect>, Refusal> {
    state.effects.get(id).ok_or_else(|| Refusal::not_found("effect", id))
}

/// How the instance of a process begins that embeds the store it holds: there is one of them at a time.
pub const HOLDER: &str = "holder:";

fn may_repeat(class: EffectClass) -> bool {
    matches!(class, EffectClass::Read | EffectClass::Idempotent)
}

pub(super) fn begin(state: &State, begin: &BeginEffect) -> Decision {
    let deadline_ms = check::duration("deadline", begin.deadline_ms.unwrap_or(limits::EFFECT_DEADLINE_MS))?;
    check::json("request", &begin.request)?;
    let id = &begin.effect;
    let run = |attempt: u32| {
        if let Some(agent) = &begin.agent {
            agent::at_work(state, agent)?;
        }
        if let Some(task) = &begin.task
            && !state.tasks.contains(task)
        {
            return Err(Refusal::not_found("task", task));
        }
        let event = Event::EffectBegun {
            effect: id.clone(),
            class: begin.class,
            agent: begin.agent.clone(),
            task: begin.task.clone(),
            instance: begin.instance.clone(),
            attempt,
            request: begin.request.clone(),
            deadline_ms,
        };
        Ok((vec![event], Outcome::Run { attempt }))
    };
    let Some(effect) = state.effects.get(id) else {
        room("effects", state.effects.len(), limits::EFFECTS)?;
        return run(1);
    };
    // A repeat need not say again what is asked for; saying something else is another thing.
    let another_request = begin.request != Json::null() && effect.request != begin.request;
    if effect.class != begin.class || another_request {
        let field = if another_request { "request" } else { "class" };
        let message = format!(
            "effect `{id}` was begun as `{}` with another {field}: repeat it with the same {field}; another thing needs another key",
            effect.class
        );
        return Err(Refusal::new(RefusalCode::RequestMismatch, message));
    }
    let again = effect.attempt.saturating_add(1);
    match (effect.status, &effect.outcome) {
        (EffectStatus::Finished, Some(outcome)) => Ok((Vec::new(), Outcome::Recorded { outcome: outcome.clone() })),
        (EffectStatus::NotDone | EffectStatus::Finished, _) => run(again),
        (EffectStatus::OutcomeUnknown, _) if may_repeat(effect.class) => run(again),
        (EffectStatus::OutcomeUnknown, _) => {
            let why = effect.reason.as_deref().unwrap_or("its process is gone");
            let message = format!("nobody knows whether effect `{id}` was done ({why}): resolve it, do not repeat it");
            Err(Refusal::new(RefusalCode::OutcomeUnknown, message))
        }
        (EffectStatus::Begun, _) => {
            let of_holders = [&effect.instance, &begin.instance].map(|instance| instance.as_str().starts_with(HOLDER));
            let same_agent = effect.agent_id.is_some() && effect.agent_id == begin.agent;
            let replaced = effect.instance != begin.instance && (same_agent || of_holders == [true, true]);
            if !replaced {
                let message = format!(
                    "attempt {} of effect `{id}` is under way in process `{}`: wait, or ask again later",
                    effect.attempt, effect.instance
                );
                return Err(Refusal::new(RefusalCode::InProgress, message));
            }
            if may_repeat(effect.class) {
                return run(again);
            }
            let reason =
                format!("process `{}` began it and is gone; `{}` took its place", effect.instance, begin.instance);
            let event = Event::EffectOutcomeUnknown { effect: id.clone(), reason: reason.clone() };
            Ok((vec![event], Outcome::Unknown { reason }))
        }
    }
}

pub(super) fn finish(state: &State, id: &EntityId, attempt: u32, outcome: &EffectOutcome) -> Decision {
    let effect = get(state, id)?;
    check::json("outcome", &outcome.value)?;
    if attempt != effect.attempt {
        let message = format!("attempt {attempt} of effect `{id}` is not the current one ({})", effect.attempt);
        return Err(Refusal::new(RefusalCode::WrongState, message));
    }
    match (effect.status, &effect.outcome) {
        (EffectStatus::Finished, Some(recorded)) if recorded == outcome => nothing(Some(id)),
        (EffectStatus::Finished, _) => {
            let message = format!("effect `{id}` is finished with another outcome: what is recorded stands");
            Err(Refusal::new(RefusalCode::WrongState, message))
        }
        _ => done(Event::EffectFinished { effect: id.clone(), outcome: outcome.clone() }, id),
    }
}

pub(super) fn resolve(
    state: &State,
    id: &EntityId,
    attempt: Option<u32>,
    outcome: Option<&EffectOutcome>,
    by: &str,
) -> Decision {
    let effect = get(state, id)?;
    check::text("by", by)?;
    let named = |prefix: &str| by.strip_prefix(prefix).is_some_and(|name| !name.trim().is_empty());
    if !named("user:") && !named("reconciler:") {
        return Err(Refusal::invalid("`by` says who knows: `user:NAME` or `reconciler:NAME`"));
    }
    if effect.class == EffectClass::Ask && !named("user:") {
        return Err(Refusal::invalid(format!(
            "effect `{id}` is of class `ask`: only a person settles it (`user:NAME`)"
        )));
    }
    if effect.status != EffectStatus::OutcomeUnknown {
        let message = format!("effect `{id}` is {}: only one whose outcome is unknown is resolved", effect.status);
        return Err(Refusal::new(RefusalCode::WrongState, message));
    }
    if let Some(attempt) = attempt.filter(|attempt| *attempt != effect.attempt) {
        let message = format!(
            "attempt {attempt} of effect `{id}` was looked into, and attempt {} is in doubt: look again",
            effect.attempt
        );
        return Err(Refusal::new(RefusalCode::WrongState, message));
    }
    let by = by.to_owned();
    match outcome {
        Some(outcome) => {
            check::json("outcome", &outcome.value)?;
            done(Event::EffectResolvedDone { effect: id.clone(), outcome: outcome.clone(), by }, id)
        }
        None => done(Event::EffectResolvedNotDone { effect: id.clone(), by }, id),
    }
}

pub(super) fn doubt(state: &State, id: &EntityId, attempt: u32, reason: &str) -> Decision {
    check::text("reason", reason)?;
    match state.effects.get(id) {
        Some(effect) if effect.status == EffectStatus::Begun && effect.attempt == attempt => {
            done(Event::EffectOutcomeUnknown { effect: id.clone(), reason: reason.to_owned() }, id)
        }
        _ => nothing(Some(id)),
    }
}
