//! Memory, connections, configuration, and events of the caller's own.

use std::collections::BTreeMap;

use super::{Ctx, Decision, check, done, nothing, room, turn};
use crate::{
    command::Outcome,
    error::{Refusal, RefusalCode},
    event::Event,
    id::{BlobId, EntityId},
    json::Json,
    limits,
    state::{MemoryKey, State},
    turn::Said,
};

fn expect_version(scope: &EntityId, key: &EntityId, current: u64, expected: Option<u64>) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != current => {
            let message =
                format!("memory `{scope}`/`{key}` is at version {current}, not {expected}: read it again, then decide");
            Err(Refusal::conflict(message, current))
        }
        _ => Ok(()),
    }
}

pub(super) fn set_memory(
    state: &State,
    scope: &EntityId,
    key: &EntityId,
    value: &Json,
    if_version: Option<u64>,
    ttl_ms: Option<u64>,
    ctx: &Ctx<'_>,
) -> Decision {
    check::json("value", value)?;
    if ttl_ms == Some(0) {
        return Err(Refusal::invalid("ttl_ms 0: leave it out for a value that stays, or delete the value"));
    }
    let entry = state.memory.get(&MemoryKey { scope: scope.clone(), key: key.clone() });
    if entry.is_none() {
        room("memory entries", state.memory.len(), limits::MEMORY_ENTRIES)?;
    }
    expect_version(scope, key, entry.map_or(0, |entry| entry.version), if_version)?;
    let version = state.age(ctx.seq).0;
    let event = Event::MemorySet { scope: scope.clone(), key: key.clone(), value: value.clone(), version, ttl_ms };
    Ok((vec![event], Outcome::Version { version }))
}

pub(super) fn delete_memory(state: &State, scope: &EntityId, key: &EntityId, if_version: Option<u64>) -> Decision {
    let entry = state.memory.get(&MemoryKey { scope: scope.clone(), key: key.clone() });
    expect_version(scope, key, entry.map_or(0, |entry| entry.version), if_version)?;
    let events = entry.map(|entry| Event::MemoryDeleted {
        scope: scope.clone(),
        key: key.clone(),
        version: entry.version,
        expired: false,
    });
    Ok((events.into_iter().collect(), Outcome::Version { version: 0 }))
}

pub(super) fn set_connection(state: &State, id: &EntityId, recipe: &Json, standing: &Json, status: &str) -> Decision {
    check::json("recipe", recipe)?;
    check::json("state", standing)?;
    check::named("connection status", status)?;
    if !state.connections.contains(id) {
        room("connections", state.connections.len(), limits::CONNECTIONS)?;
    }
    let event = Event::ConnectionSet {
        connection: id.clone(),
        recipe: recipe.clone(),
        state: standing.clone(),
        status: status.to_owned(),
    };
    done(event, id)
}

pub(super) fn remove_connection(state: &State, id: &EntityId) -> Decision {
    if !state.connections.contains(id) {
        return nothing(Some(id));
    }
    done(Event::ConnectionRemoved { connection: id.clone() }, id)
}

pub(super) fn set_config(state: &State, key: &EntityId, value: &Json) -> Decision {
    check::json("value", value)?;
    if !state.config.contains(key) {
        room("configuration keys", state.config.len(), limits::CONFIG_KEYS)?;
    }
    done(Event::ConfigSet { key: key.clone(), value: value.clone() }, key)
}

pub(super) fn remove_config(state: &State, key: &EntityId) -> Decision {
    if !state.config.contains(key) {
        return nothing(Some(key));
    }
    done(Event::ConfigRemoved { key: key.clone() }, key)
}

pub(super) fn record(
    state: &State,
    kind: &str,
    aggregate: Option<&EntityId>,
    payload: &Json,
    blobs: &BTreeMap<String, BlobId>,
    ctx: &Ctx<'_>,
) -> Decision {
    check::named("kind", kind)?;
    check::json("payload", payload)?;
    if blobs.len() > limits::AGENT_LIST {
        return Err(Refusal::new(RefusalCode::Limit, format!("at most {} blobs in one event", limits::AGENT_LIST)));
    }
    blobs.keys().try_for_each(|name| check::named("blob name", name))?;
    // Of a writer that cannot be named as one nothing is kept an eye on.
    let said = if EntityId::new(ctx.actor.as_str()).is_ok() { turn::said(state, payload) } else { Said::default() };
    let event = Event::Custom {
        kind: kind.to_owned(),
        aggregate: aggregate.cloned(),
        payload: payload.clone(),
        blobs: blobs.clone(),
        calls: said.calls,
        results: said.results,
    };
    Ok((vec![event], Outcome::Done { id: aggregate.cloned() }))
}
