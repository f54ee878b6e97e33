//! `…/tasks`.

use axum::http::StatusCode;
use serde::Deserialize;
use swarmkeep::{
    EntityId, Json, Outcome, Session,
    core::{
        command::{Command, CreateTask},
        state::{Task, TaskStatus},
    },
};

use crate::{
    api::{Api, Content, Op},
    listing::{list, text},
    problem::Problem,
    wire::{Accepted, Answer, Call, Envelope, answer_with, json},
};

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/sessions/{namespace}/{name}/tasks",
        all,
        Op::read("listTasks", "Tasks, in the order of their ids", Content::Json("TaskList")).query(&[
            ("status", "string", "Only with this status"),
            ("kind", "string", "Only of this kind"),
            ("agent", "string", "Only assigned to, claimed or ended by this agent"),
            ("parent", "string", "Only parts of this task"),
            ("limit", "integer", "Rows in the page: 1 to 1000, 100 by default"),
            ("after", "string", "`next` of the page before"),
        ]),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/tasks",
        create,
        Op::write("createTask", "Put a task on the list").body("CreateTask"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/tasks/claim",
        claim_next,
        Op::write(
            "claimNextTask",
            "Take the first task that fits, under a numbered lease; `claimed: {}` when there is none",
        )
        .body("Claim")
        .answers(200, "ClaimReply"),
    )
    .get("/v1/sessions/{namespace}/{name}/tasks/{id}", one, Op::read("getTask", "A task", Content::Json("Task")))
    .patch(
        "/v1/sessions/{namespace}/{name}/tasks/{id}",
        update,
        Op::write("updateTask", "Replace priority or payload").body("TaskUpdate"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/tasks/{id}/claim",
        claim,
        Op::write("claimTask", "Take this task under a numbered lease").body("Claim").answers(200, "ClaimReply"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/tasks/{id}/heartbeat",
        heartbeat,
        Op::read(
            "heartbeatTask",
            "The lease begins again; 409 `lease_lost` when it is another's: stop working",
            Content::Json("Accepted"),
        )
        .body("Lease"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/tasks/{id}/complete",
        complete,
        Op::write("completeTask", "Done").body("Complete"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/tasks/{id}/fail",
        fail,
        Op::write("failTask", "This attempt failed; tried again while retries are left").body("Fail"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/tasks/{id}/release",
        release,
        Op::write("releaseTask", "Give it back untouched").body("Lease"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/tasks/{id}/cancel",
        cancel,
        Op::write("cancelTask", "Call it off, with its children").body("Reason"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/tasks/{id}/assign",
        assign,
        Op::write("assignTask", "Give it to an agent").body("ByAgent"),
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TasksQuery {
    status: Option<TaskStatus>,
    kind: Option<String>,
    agent: Option<EntityId>,
    parent: Option<EntityId>,
    limit: Option<usize>,
    after: Option<EntityId>,
}

async fn all(call: Call) -> Answer {
    let query: TasksQuery = call.query()?;
    let state = call.session().await?.state().await?;
    let keep = |task: &Task| {
        query.status.is_none_or(|status| task.status == status)
            && query.kind.as_ref().is_none_or(|kind| task.kind == *kind)
            && query.agent.as_ref().is_none_or(|agent| task.agent_id.as_ref() == Some(agent))
            && query.parent.as_ref().is_none_or(|parent| task.parent_task_id.as_ref() == Some(parent))
    };
    let cursor = |task: &Task| task.id.to_string();
    match &query.after {
        Some(after) => {
            let rows = state.tasks.from(after).filter(|task| task.id != *after);
            list("tasks", query.limit, &state.head, rows, keep, cursor)
        }
        None => list("tasks", query.limit, &state.head, state.tasks.iter(), keep, cursor),
    }
}

async fn create(mut call: Call) -> Answer {
    let session = call.session().await?;
    let body: CreateTask = call.json().await?;
    call.submit(&session, None, vec![Command::CreateTask(body)]).await
}

async fn one(call: Call) -> Answer {
    let id: EntityId = call.id("id")?;
    let state = call.session().await?.state().await?;
    let task = state.tasks.get(&id).ok_or_else(|| Problem::not_found(format!("no task `{id}` in this session")))?;
    json(&**task, Some(state.head.seq.0))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskUpdate {
    #[serde(default)]
    priority: Option<i64>,
    #[serde(default)]
    payload: Option<Json>,
}

async fn update(mut call: Call) -> Answer {
    let task: EntityId = call.id("id")?;
    let session = call.session().await?;
    let TaskUpdate { priority, payload } = call.json().await?;
    call.submit(&session, None, vec![Command::UpdateTask { task, priority, payload }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    agent: EntityId,
    #[serde(default)]
    kinds: Option<Vec<String>>,
    #[serde(default)]
    lease_ms: Option<u64>,
}

async fn claim_next(mut call: Call) -> Answer {
    let session = call.session().await?;
    let body: Claim = call.json().await?;
    take(&call, &session, body, None).await
}

async fn claim(mut call: Call) -> Answer {
    let task: EntityId = call.id("id")?;
    let session = call.session().await?;
    let body: Claim = call.json().await?;
    take(&call, &session, body, Some(task)).await
}

/// Claims, and adds the whole task to the answer, so that a worker need not ask for it.
async fn take(call: &Call, session: &Session, body: Claim, task: Option<EntityId>) -> Answer {
    let Claim { agent, kinds, lease_ms } = body;
    let command = Command::ClaimTask { agent: agent.clone(), task, kinds, lease_ms };
    let envelope = Envelope::of(&call.parts.headers)?;
    let reply = call.carry_out(session, envelope, Some(&agent), vec![command]).await?;
    let mut more = String::new();
    if let Some(Outcome::Claimed { task: Some(task), .. }) = reply.outcomes.first()
        && let Some(task) = session.state().await?.tasks.get(task)
    {
        more = format!(",\"task\":{}", text(&**task)?);
    }
    Ok(answer_with(StatusCode::OK, &reply, &more))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lease {
    lease: u64,
}

async fn heartbeat(mut call: Call) -> Answer {
    let task: EntityId = call.id("id")?;
    let session = call.session().await?;
    let Lease { lease } = call.json().await?;
    session.heartbeat_task(&task, lease).await?;
    json(&Accepted { accepted: 1 }, None)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Complete {
    #[serde(default)]
    lease: Option<u64>,
    #[serde(default)]
    result: Json,
}

async fn complete(mut call: Call) -> Answer {
    let task: EntityId = call.id("id")?;
    let session = call.session().await?;
    let Complete { lease, result } = call.json().await?;
    call.submit(&session, None, vec![Command::CompleteTask { task, lease, result }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fail {
    #[serde(default)]
    lease: Option<u64>,
    error: String,
    #[serde(default)]
    permanent: bool,
}

async fn fail(mut call: Call) -> Answer {
    let task: EntityId = call.id("id")?;
    let session = call.session().await?;
    let Fail { lease, error, permanent } = call.json().await?;
    call.submit(&session, None, vec![Command::FailTask { task, lease, error, permanent }]).await
}

async fn release(mut call: Call) -> Answer {
    let task: EntityId = call.id("id")?;
    let session = call.session().await?;
    let Lease { lease } = call.json().await?;
    call.submit(&session, None, vec![Command::ReleaseTask { task, lease }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    #[serde(default)]
    reason: Option<String>,
}

async fn cancel(mut call: Call) -> Answer {
    let task: EntityId = call.id("id")?;
    let session = call.session().await?;
    let Reason { reason } = call.json().await?;
    call.submit(&session, None, vec![Command::CancelTask { task, reason }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByAgent {
    agent: EntityId,
}

async fn assign(mut call: Call) -> Answer {
    let task: EntityId = call.id("id")?;
    let session = call.session().await?;
    let ByAgent { agent } = call.json().await?;
    call.submit(&session, None, vec![Command::AssignTask { task, agent }]).await
}
