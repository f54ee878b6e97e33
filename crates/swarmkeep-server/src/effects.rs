//! `…/effects`: things done outside the session, each recorded before and after.

use axum::http::StatusCode;
use serde::Deserialize;
use swarmkeep::{
    EntityId, Json, Outcome,
    core::{
        command::{BeginEffect, Command},
        state::{Effect, EffectClass, EffectOutcome, EffectStatus},
    },
};

use crate::{
    api::{Api, Content, Op},
    listing::list,
    problem::Problem,
    wire::{Answer, Call, Envelope, answer, json},
};

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/sessions/{namespace}/{name}/effects",
        all,
        Op::read("listEffects", "Effects, in the order of their keys", Content::Json("EffectList")).query(&[
            ("status", "string", "Only with this status"),
            ("class", "string", "Only of this class"),
            ("agent", "string", "Only by this agent"),
            ("task", "string", "Only for this task"),
            ("limit", "integer", "Rows in the page: 1 to 1000, 100 by default"),
            ("after", "string", "`next` of the page before"),
        ]),
    )
    .get("/v1/sessions/{namespace}/{name}/effects/{key}", one, Op::read("getEffect", "An effect", Content::Json("Effect")))
    .post(
        "/v1/sessions/{namespace}/{name}/effects/{key}/begin",
        begin,
        Op::write("beginEffect", "Before it is done: the answer says whether to do it (`run`) or what came of it (`recorded`); 409 `outcome_unknown` where nobody knows").body("Begin"),
    )
    .post("/v1/sessions/{namespace}/{name}/effects/{key}/finish", finish, Op::write("finishEffect", "After it was done, or failed for certain").body("Finish"))
    .post("/v1/sessions/{namespace}/{name}/effects/{key}/resolve", resolve, Op::write("resolveEffect", "Settle a doubt: with an outcome it was done, without it was not").body("Resolve"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EffectsQuery {
    status: Option<EffectStatus>,
    class: Option<EffectClass>,
    agent: Option<EntityId>,
    task: Option<EntityId>,
    limit: Option<usize>,
    after: Option<EntityId>,
}

async fn all(call: Call) -> Answer {
    let query: EffectsQuery = call.query()?;
    let state = call.session().await?.state().await?;
    let keep = |effect: &Effect| {
        query.status.is_none_or(|status| effect.status == status)
            && query.class.is_none_or(|class| effect.class == class)
            && query.agent.as_ref().is_none_or(|agent| effect.agent_id.as_ref() == Some(agent))
            && query.task.as_ref().is_none_or(|task| effect.task_id.as_ref() == Some(task))
    };
    let cursor = |effect: &Effect| effect.id.to_string();
    match &query.after {
        Some(after) => {
            let rows = state.effects.from(after).filter(|effect| effect.id != *after);
            list("effects", query.limit, &state.head, rows, keep, cursor)
        }
        None => list("effects", query.limit, &state.head, state.effects.iter(), keep, cursor),
    }
}

async fn one(call: Call) -> Answer {
    let key: EntityId = call.id("key")?;
    let state = call.session().await?.state().await?;
    let effect =
        state.effects.get(&key).ok_or_else(|| Problem::not_found(format!("no effect `{key}` in this session")))?;
    json(&**effect, Some(state.head.seq.0))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    #[serde(default)]
    class: EffectClass,
    #[serde(default)]
    agent: Option<EntityId>,
    #[serde(default)]
    task: Option<EntityId>,
    instance: EntityId,
    #[serde(default)]
    request: Json,
    #[serde(default)]
    deadline_ms: Option<u64>,
}

async fn begin(mut call: Call) -> Answer {
    let effect: EntityId = call.id("key")?;
    let session = call.session().await?;
    let Begin { class, agent, task, instance, request, deadline_ms } = call.json().await?;
    let by = agent.clone();
    let command = Command::BeginEffect(BeginEffect { effect, class, agent, task, instance, request, deadline_ms });
    let envelope = Envelope::of(&call.parts.headers)?;
    let reply = call.carry_out(&session, envelope, by.as_ref(), vec![command]).await?;
    // The doubt was recorded; to the caller it is an answer that forbids going on.
    if let Some(Outcome::Unknown { reason }) = reply.outcomes.first() {
        return Err(Problem::new("outcome_unknown", reason.clone())
            .current(reply.head.seq.0)
            .hint("look outside whether it was done, then POST the effect's `/resolve` route"));
    }
    Ok(answer(StatusCode::OK, &reply))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finish {
    attempt: u32,
    outcome: EffectOutcome,
}

async fn finish(mut call: Call) -> Answer {
    let effect: EntityId = call.id("key")?;
    let session = call.session().await?;
    let Finish { attempt, outcome } = call.json().await?;
    call.submit(&session, None, vec![Command::FinishEffect { effect, attempt, outcome }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolve {
    #[serde(default)]
    outcome: Option<EffectOutcome>,
    by: String,
    #[serde(default)]
    attempt: Option<u32>,
}

async fn resolve(mut call: Call) -> Answer {
    let effect: EntityId = call.id("key")?;
    let session = call.session().await?;
    let Resolve { outcome, by, attempt } = call.json().await?;
    call.submit(&session, None, vec![Command::ResolveEffect { effect, outcome, by, attempt }]).await
}
