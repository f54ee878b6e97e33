//! `…/agents`.

use std::collections::HashMap;

use axum::http::StatusCode;
use serde::Deserialize;
use swarmkeep::{
    EntityId, Json, Observation, SessionId,
    core::{
        command::{Command, SpawnAgent},
        query::{LIMIT_MAX, Of, Query},
        state::AgentStatus,
    },
};

use crate::{
    api::{Api, Content, Op},
    listing::{add, list_with, text},
    problem::Problem,
    wire::{Accepted, Answer, Call, json, json_bytes},
};

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/sessions/{namespace}/{name}/agents",
        all,
        Op::read("listAgents", "Agents, in the order of their ids", Content::Json("AgentList")).query(&[
            ("status", "string", "Only with this status"),
            ("kind", "string", "Only of this kind"),
            ("limit", "integer", "Rows in the page: 1 to 1000, 100 by default"),
            ("after", "string", "`next` of the page before"),
        ]),
    )
    .post("/v1/sessions/{namespace}/{name}/agents", spawn, Op::write("spawnAgent", "A new agent").body("SpawnAgent"))
    .get("/v1/sessions/{namespace}/{name}/agents/{id}", one, Op::read("getAgent", "An agent", Content::Json("Agent")))
    .patch(
        "/v1/sessions/{namespace}/{name}/agents/{id}",
        update,
        Op::write("updateAgent", "Replace name, capabilities or configuration").body("AgentUpdate"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/agents/{id}/status",
        status,
        Op::write("setAgentStatus", "Idle, busy, failed, terminated; ending an agent gives back its tasks")
            .body("AgentStatusChange"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/agents/{id}/return",
        returns,
        Op::write("returnAgent", "A new process of the agent begins: what an earlier one left half-written is closed")
            .body("Instance"),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/agents/{id}/heartbeat",
        heartbeat,
        Op::read(
            "heartbeatAgent",
            "A sign of life; renews the agent's leases. `wrong_state` for a terminated agent",
            Content::Json("Accepted"),
        )
        .body("Heartbeat"),
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentsQuery {
    status: Option<AgentStatus>,
    kind: Option<String>,
    limit: Option<usize>,
    after: Option<EntityId>,
}

async fn all(call: Call) -> Answer {
    let query: AgentsQuery = call.query()?;
    let session = call.session().await?;
    let state = session.state().await?;
    let beats = last_heartbeats(&call, session.id(), None).await;
    let rows = state.agents.iter().filter(|agent| query.after.as_ref().is_none_or(|after| agent.id > *after));
    let keep = |agent: &swarmkeep::core::state::Agent| {
        query.status.is_none_or(|status| agent.status == status)
            && query.kind.as_ref().is_none_or(|kind| agent.kind == *kind)
    };
    let beat = |agent: &swarmkeep::core::state::Agent| Some((LAST_HEARTBEAT, *beats.get(agent.id.as_str())?));
    list_with("agents", query.limit, &state.head, rows, keep, |agent| agent.id.to_string(), beat)
}

/// A heartbeat is an observation, no part of the state: the views have it, within about a second.
const LAST_HEARTBEAT: &str = "last_heartbeat_ms";

/// When each agent, or the one, was last heard of; without those that the views do not know yet. Where the views cannot be
/// asked, nobody: the agents themselves are told all the same.
async fn last_heartbeats(call: &Call, session: SessionId, agent: Option<&EntityId>) -> HashMap<String, u64> {
    #[derive(Deserialize)]
    struct Row {
        id: String,
        last_heartbeat: Option<u64>,
    }
    let mut found = HashMap::new();
    let mut cursor = None;
    loop {
        let query = Query {
            session: Some(session),
            id: agent.map(ToString::to_string),
            limit: Some(LIMIT_MAX),
            cursor,
            ..Query::of(Of::Agents)
        };
        let Ok(page) = call.app.keep().find(query, None).await else { return found };
        let rows = page.rows.iter().filter_map(|row| row.decode::<Row>().ok());
        found.extend(rows.filter_map(|row| Some((row.id, row.last_heartbeat?))));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

async fn spawn(mut call: Call) -> Answer {
    let session = call.session().await?;
    let body: SpawnAgent = call.json().await?;
    let id = body.id.clone();
    call.submit(&session, id.as_ref(), vec![Command::SpawnAgent(body)]).await
}

async fn one(call: Call) -> Answer {
    let id: EntityId = call.id("id")?;
    let session = call.session().await?;
    let state = session.state().await?;
    let agent = state.agents.get(&id).ok_or_else(|| Problem::not_found(format!("no agent `{id}` in this session")))?;
    let mut out = text(&**agent)?;
    let beats = last_heartbeats(&call, session.id(), Some(&id)).await;
    add(&mut out, beats.get(id.as_str()).map(|at_ms| (LAST_HEARTBEAT, *at_ms)));
    Ok(json_bytes(StatusCode::OK, out.into(), Some(state.head.seq.0)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentUpdate {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    configuration: Option<Json>,
}

async fn update(mut call: Call) -> Answer {
    let agent: EntityId = call.id("id")?;
    let session = call.session().await?;
    let AgentUpdate { name, capabilities, configuration } = call.json().await?;
    call.submit(&session, None, vec![Command::UpdateAgent { agent, name, capabilities, configuration }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusChange {
    status: AgentStatus,
    #[serde(default)]
    reason: Option<String>,
}

async fn status(mut call: Call) -> Answer {
    let agent: EntityId = call.id("id")?;
    let session = call.session().await?;
    let StatusChange { status, reason } = call.json().await?;
    call.submit(&session, None, vec![Command::SetAgentStatus { agent, status, reason }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Instance {
    instance: EntityId,
}

async fn returns(mut call: Call) -> Answer {
    let agent: EntityId = call.id("id")?;
    let session = call.session().await?;
    let Instance { instance } = call.json().await?;
    let by = agent.clone();
    call.submit(&session, Some(&by), vec![Command::ReturnAgent { agent, instance }]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Heartbeat {
    #[serde(default)]
    last: bool,
}

async fn heartbeat(mut call: Call) -> Answer {
    let agent: EntityId = call.id("id")?;
    let session = call.session().await?;
    let Heartbeat { last } = call.json().await?;
    if last {
        session.rest_agent(&agent).await?;
    } else {
        session.observe(vec![Observation::Heartbeat { agent, at_ms: 0 }]).await?;
    }
    json(&Accepted { accepted: 1 }, None)
}
