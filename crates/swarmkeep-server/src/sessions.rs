//! `/v1/sessions`: a session's life.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use swarmkeep::{
    Actor, Durability, ErrorKind, Json, NewSession, Position, RefusalCode, Reply, RequestId, SavedCheckpoint, Seq,
    Session, SessionId, SessionName, State,
    core::{
        command::Command,
        query::{Of, Order, Page, Query},
        state::{Head, SessionInfo, SessionMetadata},
    },
};

use crate::{
    api::{Api, Content, Op},
    problem::Problem,
    wire::{Answer, Call, Envelope, Nothing, answer, answer_with, has_already, json, not_modified},
};

pub(crate) fn routes(api: Api) -> Api {
    api.post(
        "/v1/sessions",
        create,
        Op::write("createSession", "Make a session; 409 if there is one of this name")
            .body("NewSession")
            .answers(201, "Reply")
            .if_match(""),
    )
    .get(
        "/v1/sessions",
        list,
        Op::read(
            "listSessions",
            "Sessions, page by page; one that is damaged has `damage`, which says what is wrong",
            Content::Json("SessionPage"),
        )
        .query(&[
            ("namespace", "string", "Only of this namespace"),
            ("owner", "string", "Only of this owner"),
            ("status", "string", "Only with this status"),
            ("since_ms", "integer", "Created at or after this, in ms since the Unix epoch"),
            ("until_ms", "integer", "Created before this"),
            ("order", "string", "`oldest` (default) or `newest`"),
            ("limit", "integer", "Rows in the page: 1 to 1000, 100 by default"),
            ("cursor", "string", "`next` of the page before"),
        ]),
    )
    .get(
        "/v1/sessions/{namespace}/{name}",
        show,
        Op::read(
            "getSession",
            "The session itself, where its log ends, and how much is in it",
            Content::Json("Session"),
        ),
    )
    .patch(
        "/v1/sessions/{namespace}/{name}",
        update,
        Op::write("updateSession", "Replace owner, metadata or time-to-live").body("SessionUpdate"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/open",
        open,
        Op::write("openSession", "Resume the session exactly where it stood, or make it (201)")
            .body("SessionFields")
            .answers(200, "Opened")
            .if_match(""),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/pause",
        pause,
        Op::write("pauseSession", "Stop work until somebody resumes").body("Reason"),
    )
    .post("/v1/sessions/{namespace}/{name}/resume", resume, Op::write("resumeSession", "Go on after a pause or a park"))
    .post(
        "/v1/sessions/{namespace}/{name}/park",
        park,
        Op::write("parkSession", "Set aside; the next command wakes it"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/close",
        close,
        Op::write("closeSession", "End it, by will; history stays readable").body("Reason"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/rewind",
        rewind,
        Op::write("rewindSession", "Set the state back to a seq, by a new record; effects stay as they are")
            .body("Rewind")
            .if_match(""),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/fork",
        fork,
        Op::write("forkSession", "Make a new session from this one's state")
            .body("Fork")
            .answers(201, "Reply")
            .if_match(""),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/checkpoints",
        checkpoint,
        Op::read("makeCheckpoint", "Save a checkpoint now", Content::Json("Checkpoint")),
    )
    .get(
        "/v1/sessions/{namespace}/{name}/checkpoints",
        checkpoints,
        Op::read("listCheckpoints", "Checkpoints that are kept, newest first", Content::Json("Checkpoints")),
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSessionBody {
    name: SessionName,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    metadata: SessionMetadata,
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(default)]
    idle_ttl_ms: Option<u64>,
    #[serde(default)]
    actor: Option<Actor>,
    #[serde(default)]
    request_id: Option<RequestId>,
}

async fn create(mut call: Call) -> Answer {
    let body: NewSessionBody = call.json().await?;
    let envelope =
        Envelope::without_precondition(&call.parts.headers)?.and_body(body.request_id, body.actor, None, None)?;
    let actor = actor(&call, &envelope)?;
    let new = NewSession {
        name: body.name,
        owner: body.owner,
        metadata: body.metadata,
        ttl_ms: body.ttl_ms,
        idle_ttl_ms: body.idle_ttl_ms,
        request: envelope.id,
    };
    let was_there = is_there_for(&call, &new).await?;
    let session = call.app.keep().create_session(new, &actor).await?;
    created(&session, was_there).await
}

/// Whether a request to make a session had made it before: that can only be told by its being there.
async fn is_there_for(call: &Call, new: &NewSession) -> Result<bool, Problem> {
    Ok(new.request.is_some() && call.app.keep().find_session(new.name.clone()).await?.is_some())
}

fn actor(call: &Call, envelope: &Envelope) -> Result<Actor, Problem> {
    match &envelope.actor {
        Some(actor) if actor.as_str() == "system" => {
            Err(Problem::invalid("actor `system` is the engine itself: use another name"))
        }
        Some(actor) => Ok(actor.clone()),
        None => Ok(call.unnamed().clone()),
    }
}

/// The answer to a session's making: its first record.
async fn created(session: &Session, repeated: bool) -> Answer {
    let mut response = answer(StatusCode::CREATED, &first_record(session, repeated).await?);
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/sessions/{}", session.name())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn first_record(session: &Session, repeated: bool) -> Result<Reply, Problem> {
    let first = session.records(Seq::ZERO, 1).await?;
    let head = match first.first() {
        Some(record) => record.head(),
        None => session.state().await?.head,
    };
    Ok(written_nothing(head, Seq(1), repeated))
}

/// A reply about a place in the log, for calls whose engine side answers with that alone.
fn written_nothing(head: Head, first: Seq, repeated: bool) -> Reply {
    Reply {
        first,
        head,
        outcomes: Vec::new(),
        repeated,
        durability: Durability::Durable,
        position: Position::default(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    namespace: Option<String>,
    owner: Option<String>,
    status: Option<String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    order: Option<Order>,
    limit: Option<u32>,
    cursor: Option<String>,
}

async fn list(call: Call) -> Answer {
    let query: ListQuery = call.query()?;
    let mut page = call
        .app
        .keep()
        .find(
            Query {
                namespace: query.namespace,
                owner: query.owner,
                status: query.status,
                since_ms: query.since_ms,
                until_ms: query.until_ms,
                order: query.order.unwrap_or_default(),
                limit: query.limit,
                cursor: query.cursor,
                ..Query::of(Of::Sessions)
            },
            None,
        )
        .await?;
    mark(&mut page.rows, &call.app.damaged())?;
    json(&Listed { page, being_looked_at: call.app.keep().being_looked_at() }, None)
}

/// A page of sessions.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    page: Page,
    /// Sessions of the whole store of which the start has not found out yet whether they are damaged.
    being_looked_at: u64,
}

/// Adds `damage` to the rows of sessions that are damaged: the views know nothing of it.
fn mark(rows: &mut [Json], damaged: &BTreeMap<SessionId, String>) -> Result<(), Problem> {
    if damaged.is_empty() {
        return Ok(());
    }
    for row in rows {
        let mut fields: BTreeMap<String, Json> = row.decode()?;
        let id = fields.get("session_id").and_then(|id| id.decode::<SessionId>().ok());
        if let Some(what) = id.and_then(|id| damaged.get(&id)) {
            fields.insert("damage".to_owned(), Json::encode(what)?);
            *row = Json::encode(&fields)?;
        }
    }
    Ok(())
}

/// A session as a whole: itself, where its log ends, and how much is in it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    info: &'a SessionInfo,
    head: Head,
    state_bytes: usize,
    counts: Counts,
}

#[derive(Debug, Serialize)]
struct Counts {
    agents: usize,
    groups: usize,
    tasks: usize,
    messages: usize,
    memory: usize,
    effects: usize,
    connections: usize,
    config: usize,
}

fn shown(state: &State) -> Shown<'_> {
    Shown {
        info: &state.info,
        head: state.head,
        state_bytes: state.weight(),
        counts: Counts {
            agents: state.agents.len(),
            groups: state.groups.len(),
            tasks: state.tasks.len(),
            messages: state.messages.len(),
            memory: state.memory.len(),
            effects: state.effects.len(),
            connections: state.connections.len(),
            config: state.config.len(),
        },
    }
}

async fn show(call: Call) -> Answer {
    let state = call.session().await?.state().await?;
    if has_already(&call.parts.headers, state.head.seq.0) {
        return Ok(not_modified(state.head.seq.0));
    }
    json(&shown(&state), Some(state.head.seq.0))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionFields {
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    metadata: SessionMetadata,
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(default)]
    idle_ttl_ms: Option<u64>,
}

async fn open(mut call: Call) -> Answer {
    let body: SessionFields = call.json().await?;
    let envelope = Envelope::without_precondition(&call.parts.headers)?;
    let name = call.session_name()?;
    let mut status = StatusCode::OK;
    let session = match call.app.keep().find_session(name.clone()).await? {
        Some(session) => {
            call.is_about(session.id());
            session
        }
        None => {
            let new = NewSession {
                name: name.clone(),
                owner: body.owner,
                metadata: body.metadata,
                ttl_ms: body.ttl_ms,
                idle_ttl_ms: body.idle_ttl_ms,
                request: envelope.id.clone(),
            };
            match call.app.keep().create_session(new, &actor(&call, &envelope)?).await {
                Ok(session) => {
                    status = StatusCode::CREATED;
                    session
                }
                // Somebody else made it in between: that is the one.
                Err(error)
                    if error.refusal.as_ref().is_some_and(|refusal| refusal.code == RefusalCode::AlreadyExists) =>
                {
                    call.app.session(&name.to_string()).await?
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    let state = session.state().await?;
    let first = if status == StatusCode::CREATED { Seq(1) } else { Seq::ZERO };
    let more = serde_json::to_string(&shown(&state)).map_err(|error| Problem::new("internal", error.to_string()))?;
    Ok(answer_with(status, &written_nothing(state.head, first, false), &format!(",\"session\":{more}")))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionUpdate {
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    metadata: Option<SessionMetadata>,
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(default)]
    idle_ttl_ms: Option<u64>,
}

async fn update(mut call: Call) -> Answer {
    let session = call.session().await?;
    let SessionUpdate { owner, metadata, ttl_ms, idle_ttl_ms } = call.json().await?;
    call.submit(&session, None, vec![Command::UpdateSession { owner, metadata, ttl_ms, idle_ttl_ms }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    #[serde(default)]
    reason: Option<String>,
}

async fn pause(mut call: Call) -> Answer {
    let session = call.session().await?;
    let Reason { reason } = call.json().await?;
    call.submit(&session, None, vec![Command::Pause { reason }]).await
}

async fn resume(mut call: Call) -> Answer {
    let session = call.session().await?;
    let Nothing {} = call.json().await?;
    call.submit(&session, None, vec![Command::Resume {}]).await
}

async fn park(mut call: Call) -> Answer {
    let session = call.session().await?;
    let Nothing {} = call.json().await?;
    call.submit(&session, None, vec![Command::Park {}]).await
}

async fn close(mut call: Call) -> Answer {
    let session = call.session().await?;
    let Reason { reason } = call.json().await?;
    call.submit(&session, None, vec![Command::Close { reason }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rewind {
    to: Seq,
    #[serde(default)]
    reason: Option<String>,
}

async fn rewind(mut call: Call) -> Answer {
    let session = call.session().await?;
    let body: Rewind = call.json().await?;
    let envelope = Envelope::without_precondition(&call.parts.headers)?;
    let actor = actor(&call, &envelope)?;
    let reply = session.rewind(body.to, body.reason, envelope.id, actor).await?;
    Ok(answer(StatusCode::OK, &reply))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fork {
    name: SessionName,
    #[serde(default)]
    at: Option<Seq>,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

async fn fork(mut call: Call) -> Answer {
    let session = call.session().await?;
    let body: Fork = call.json().await?;
    let envelope = Envelope::without_precondition(&call.parts.headers)?;
    let actor = actor(&call, &envelope)?;
    let new = NewSession { owner: body.owner, request: envelope.id, ..NewSession::new(body.name) };
    let was_there = is_there_for(&call, &new).await?;
    let forked = session.fork(body.at, new, body.reason, &actor).await?;
    created(&forked, was_there).await
}

#[derive(Debug, Serialize)]
struct Checkpoint {
    head: Head,
}

#[derive(Debug, Serialize)]
struct Checkpoints {
    checkpoints: Vec<SavedCheckpoint>,
}

async fn checkpoints(call: Call) -> Answer {
    let session = call.session().await?;
    // SQLite, and a few rows: off the threads that carry connections.
    let read = tokio::task::spawn_blocking(move || session.checkpoints()).await;
    let checkpoints =
        read.map_err(|error| swarmkeep::Error::new(ErrorKind::Retry, "broken off").caused_by(error))??;
    json(&Checkpoints { checkpoints }, None)
}

async fn checkpoint(mut call: Call) -> Answer {
    let session = call.session().await?;
    let Nothing {} = call.json().await?;
    let head = session.checkpoint().await?;
    json(&Checkpoint { head }, Some(head.seq.0))
}
