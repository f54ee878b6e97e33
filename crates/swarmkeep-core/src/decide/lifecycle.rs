//! The session's own life: what is decided whatever its status allows of work.

use std::collections::BTreeMap;

use super::{Ctx, Decision, check, expire, not_live, nothing};
use crate::{
    command::{Command, Outcome},
    error::Refusal,
    event::Event,
    id::EntityId,
    state::{SessionMetadata, SessionStatus, State},
};

/// `None`: the command is work, not life.
pub(super) fn decide(state: &State, command: &Command, ctx: &Ctx<'_>) -> Option<Decision> {
    let status = state.info.status;
    Some(match command {
        Command::Close { reason } => match status {
            SessionStatus::Closed => nothing(None),
            SessionStatus::Expired => Err(not_live(state, "it has ended already")),
            _ => change(SessionStatus::Closed, reason.as_deref()),
        },
        Command::Expire {} => expire::decide(state, ctx),
        _ if status.is_ended() => return None,
        Command::Resume {} if status == SessionStatus::Live => nothing(None),
        Command::Resume {} => change(SessionStatus::Live, None),
        Command::Pause { reason } => match status {
            SessionStatus::Paused => nothing(None),
            SessionStatus::Live | SessionStatus::Parked => change(SessionStatus::Paused, reason.as_deref()),
            _ => return None,
        },
        Command::Park {} => match status {
            // A paused session stays paused: a stop must not become a wake-up.
            SessionStatus::Parked | SessionStatus::Paused => nothing(None),
            SessionStatus::Live => change(SessionStatus::Parked, None),
            _ => return None,
        },
        Command::UpdateSession { owner, metadata, ttl_ms, idle_ttl_ms } => {
            let given = owner.is_some() || metadata.is_some() || ttl_ms.is_some() || idle_ttl_ms.is_some();
            if let Err(refusal) = origin(owner.as_deref(), metadata.as_ref()) {
                return Some(Err(refusal));
            }
            if !given {
                return Some(nothing(None));
            }
            event(Event::SessionUpdated {
                owner: owner.clone(),
                metadata: metadata.clone(),
                ttl_ms: *ttl_ms,
                idle_ttl_ms: *idle_ttl_ms,
            })
        }
        Command::NoteRecovery { recovery, report, gave_up, effects } => check::json("report", report).map(|()| {
            let (recovery, report, gave_up) = (recovery.clone(), report.clone(), *gave_up);
            let reason = format!("it was begun in records that recovery {recovery} gave up");
            let mut events = vec![Event::Recovered { recovery, report, gave_up }];
            events.extend(carried(state, effects, &reason));
            (events, Outcome::Done { id: None })
        }),
        Command::Rewind { to, base, reason } => {
            if to.0 == 0 || *to > state.head.seq {
                let message = format!("cannot rewind to seq {to}: use 1 to {}", state.head.seq);
                return Some(Err(Refusal::invalid(message)));
            }
            check::optional("reason", reason.as_deref())
                .and_then(|()| event(Event::SessionRewound { to: *to, base: *base, reason: reason.clone() }))
        }
        _ => return None,
    })
}

/// Owner and metadata, within their limits.
pub(crate) fn origin(owner: Option<&str>, metadata: Option<&SessionMetadata>) -> Result<(), Refusal> {
    check::optional("owner", owner)?;
    let Some(metadata) = metadata else { return Ok(()) };
    check::optional("client_ip", metadata.client_ip.as_deref())?;
    check::optional("user_agent", metadata.user_agent.as_deref())?;
    check::optional("source", metadata.source.as_deref())?;
    let attributes = crate::Json::encode(&metadata.attributes)?;
    check::json("attributes", &attributes)
}

fn change(status: SessionStatus, reason: Option<&str>) -> Decision {
    check::optional("reason", reason)?;
    event(Event::SessionStatusChanged { status, reason: reason.map(str::to_owned) })
}

fn event(event: Event) -> Decision {
    Ok((vec![event], Outcome::Done { id: None }))
}

/// What records that were given up say about effects, after a state that lacks them. Of what they leave begun nobody knows how it
/// ended.
fn carried(state: &State, effects: &[Event], reason: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let mut is_open: BTreeMap<&EntityId, bool> = BTreeMap::new();
    for event in effects {
        let (effect, opens) = match event {
            Event::EffectBegun { effect, .. } => (effect, true),
            Event::EffectFinished { effect, .. }
            | Event::EffectOutcomeUnknown { effect, .. }
            | Event::EffectResolvedDone { effect, .. }
            | Event::EffectResolvedNotDone { effect, .. } => (effect, false),
            _ => continue,
        };
        // How one ended of which the beginning is lost is nothing to go on with.
        if opens || is_open.contains_key(effect) || state.effects.contains(effect) {
            is_open.insert(effect, opens);
            events.push(event.clone());
        }
    }
    let open = is_open.into_iter().filter(|(_, is_open)| *is_open).map(|(effect, _)| effect.clone());
    events.extend(open.map(|effect| Event::EffectOutcomeUnknown { effect, reason: reason.to_owned() }));
    events
}
