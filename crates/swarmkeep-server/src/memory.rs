//! `…/memory`: what agents remember. Here `If-Match` is about the entry's version.

use axum::http::StatusCode;
use serde::Deserialize;
use swarmkeep::{
    EntityId, Json,
    core::{
        command::Command,
        state::{MemoryEntry, MemoryKey},
    },
};

use crate::{
    api::{Api, Content, Op},
    listing::list,
    problem::Problem,
    wire::{self, Answer, BODY_BYTES, Call, Envelope, answer, has_already, json, not_modified},
};

const VERSION: &str = "The version that the entry must have; \"0\": there must be none.";

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/sessions/{namespace}/{name}/memory",
        all,
        Op::read("listMemory", "Memory, in the order of scope and key", Content::Json("MemoryList")).query(&[
            ("scope", "string", "Only of this scope"),
            (
                "text",
                "string",
                "Only where this stands in the key or in the value as JSON; upper and lower case are the same",
            ),
            ("limit", "integer", "Rows in the page: 1 to 1000, 100 by default"),
            ("after", "string", "`next` of the page before"),
        ]),
    )
    .get(
        "/v1/sessions/{namespace}/{name}/memory/{scope}/{key}",
        one,
        Op::read("getMemory", "An entry, with its version as ETag", Content::Json("MemoryEntry")),
    )
    .put(
        "/v1/sessions/{namespace}/{name}/memory/{scope}/{key}",
        set,
        Op::write("setMemory", "Store the body, any JSON value").takes(Content::AnyJson).if_match(VERSION).query(&[(
            "ttl_ms",
            "integer",
            "Gone after this long",
        )]),
    )
    .delete(
        "/v1/sessions/{namespace}/{name}/memory/{scope}/{key}",
        remove,
        Op::write("deleteMemory", "Remove a value; what is not there is no error").if_match(VERSION),
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryQuery {
    scope: Option<EntityId>,
    text: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

fn is_there(entry: &MemoryEntry, now_ms: u64) -> bool {
    entry.expires_at_ms.is_none_or(|expires_at_ms| expires_at_ms > now_ms)
}

async fn all(call: Call) -> Answer {
    let query: MemoryQuery = call.query()?;
    let after = query.after.as_deref().map(from_cursor).transpose()?;
    let state = call.session().await?.state().await?;
    let now_ms = call.app.now_ms();
    let rows = state
        .memory
        .iter()
        .filter(|entry| after.as_ref().is_none_or(|after| (&entry.scope, &entry.key) > (&after.scope, &after.key)));
    let text = query.text.map(|text| text.to_lowercase());
    let keep = |entry: &MemoryEntry| {
        is_there(entry, now_ms)
            && query.scope.as_ref().is_none_or(|scope| entry.scope == *scope)
            && text.as_ref().is_none_or(|text| speaks_of(entry, text))
    };
    list("memory", query.limit, &state.head, rows, keep, to_cursor)
}

/// Whether a text, in lower case, stands in the key or in the value.
fn speaks_of(entry: &MemoryEntry, text: &str) -> bool {
    entry.key.as_str().to_lowercase().contains(text) || entry.value.as_str().to_lowercase().contains(text)
}

/// Scope and key in one text; the length tells them apart.
fn to_cursor(entry: &MemoryEntry) -> String {
    format!("{}:{}{}", entry.scope.as_str().len(), entry.scope, entry.key)
}

fn from_cursor(text: &str) -> Result<MemoryKey, Problem> {
    let wrong = || Problem::invalid("parameter `after`: use `next` of the page before");
    let (length, both) = text.split_once(':').ok_or_else(wrong)?;
    let (scope, key) = length.parse().ok().and_then(|length| both.split_at_checked(length)).ok_or_else(wrong)?;
    Ok(MemoryKey { scope: EntityId::new(scope).map_err(|_| wrong())?, key: EntityId::new(key).map_err(|_| wrong())? })
}

fn key(call: &Call) -> Result<MemoryKey, Problem> {
    Ok(MemoryKey { scope: call.id("scope")?, key: call.id("key")? })
}

async fn one(call: Call) -> Answer {
    let key = key(&call)?;
    let state = call.session().await?.state().await?;
    let entry = state.memory.get(&key).filter(|entry| is_there(entry, call.app.now_ms())).ok_or_else(|| {
        Problem::not_found(format!("nothing is remembered under `{}` in scope `{}`", key.key, key.scope))
    })?;
    if has_already(&call.parts.headers, entry.version) {
        return Ok(not_modified(entry.version));
    }
    json(&**entry, Some(entry.version))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetQuery {
    ttl_ms: Option<u64>,
}

async fn set(mut call: Call) -> Answer {
    let MemoryKey { scope, key } = key(&call)?;
    let SetQuery { ttl_ms } = call.query()?;
    let session = call.session().await?;
    let bytes = call.bytes(BODY_BYTES).await?;
    let value: Json = wire::decode(&bytes)?;
    let if_version = wire::if_match(&call.parts.headers)?;
    write(&call, &session, Command::SetMemory { scope, key, value, if_version, ttl_ms }, if_version.is_some()).await
}

async fn remove(call: Call) -> Answer {
    let MemoryKey { scope, key } = key(&call)?;
    let session = call.session().await?;
    let if_version = wire::if_match(&call.parts.headers)?;
    write(&call, &session, Command::DeleteMemory { scope, key, if_version }, if_version.is_some()).await
}

async fn write(call: &Call, session: &swarmkeep::Session, command: Command, stated: bool) -> Answer {
    let envelope = Envelope { if_match: stated, ..Envelope::without_precondition(&call.parts.headers)? };
    let reply = call.carry_out(session, envelope, None, vec![command]).await?;
    Ok(answer(StatusCode::OK, &reply))
}
