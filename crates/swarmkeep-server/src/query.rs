//! `/v1/query/{table}`: typed questions across sessions, answered from the views.

use std::time::Duration;

use serde::Deserialize;
use swarmkeep::{
    Position, SessionId, SessionName,
    core::query::{Of, Order, Query},
};

use crate::{
    api::{Api, Content, Op},
    problem::Problem,
    wire::{Answer, Call, json},
};

/// How long a question waits for the views to catch up.
const POSITION_TIME: Duration = Duration::from_secs(10);

/// Tables by their names in the path.
const TABLES: &[(&str, Of)] = &[
    ("sessions", Of::Sessions),
    ("agents", Of::Agents),
    ("agent_groups", Of::AgentGroups),
    ("tasks", Of::Tasks),
    ("messages", Of::Messages),
    ("memory", Of::Memory),
    ("effects", Of::Effects),
    ("connections", Of::Connections),
    ("swarm_config", Of::SwarmConfig),
    ("metrics", Of::Metrics),
    ("events", Of::Events),
];

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/query/{table}",
        query,
        Op::read("query", "Rows of one table, across sessions; the answer says how far the views have come", Content::Json("Page")).query(&[
            ("session", "string", "Only of this session: `namespace/name` or its id"),
            ("namespace", "string", "Only of sessions in this namespace"),
            ("owner", "string", "Only of sessions of this owner"),
            ("status", "string", "Only with this status"),
            ("kind", "string", "Only of this kind (agents, groups, tasks, metrics), topic (messages), scope (memory) or class (effects)"),
            ("id", "string", "Only with this id, key or aggregate"),
            ("agent", "string", "Only of this agent"),
            ("since_ms", "integer", "With the row's own time at or after this, in ms since the Unix epoch"),
            ("until_ms", "integer", "With the row's own time before this"),
            ("order", "string", "`oldest` (default), `newest`, or `priority` (tasks)"),
            ("limit", "integer", "Rows in the page: 1 to 1000, 100 by default"),
            ("cursor", "string", "`next` of the page before"),
            ("position", "integer", "Wait until the views have come this far: `position` of a reply, to read one's own write"),
        ]),
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    session: Option<String>,
    namespace: Option<String>,
    owner: Option<String>,
    status: Option<String>,
    kind: Option<String>,
    id: Option<String>,
    agent: Option<String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    order: Option<Order>,
    limit: Option<u32>,
    cursor: Option<String>,
    position: Option<u64>,
}

async fn query(call: Call) -> Answer {
    let table = call.param("table");
    let of = TABLES.iter().find(|(name, _)| *name == table).map(|(_, of)| *of).ok_or_else(|| {
        let known: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
        Problem::not_found(format!(
            "no table `{}`: use one of {}",
            table.chars().take(80).collect::<String>(),
            known.join(", ")
        ))
    })?;
    let params: Params = call.query()?;
    let query = Query {
        of,
        session: params.session.as_deref().map(session).transpose()?,
        namespace: params.namespace,
        owner: params.owner,
        status: params.status,
        kind: params.kind,
        id: params.id,
        agent: params.agent,
        since_ms: params.since_ms,
        until_ms: params.until_ms,
        order: params.order.unwrap_or_default(),
        limit: params.limit,
        cursor: params.cursor,
    };
    if let Some(session) = query.session {
        call.is_about(session);
    }
    // A position that is not a reply's may never come: the wait is bounded.
    let page = tokio::time::timeout(POSITION_TIME, call.app.keep().find(query, params.position.map(Position)))
        .await
        .map_err(|_| Problem::new("retry", "the views have not come as far as `position` yet"))??;
    json(&page, None)
}

/// A session by its id or its name. No name has 32 hex digits and no slash by accident alone: the id goes first.
fn session(text: &str) -> Result<SessionId, Problem> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    Ok(text.parse::<SessionName>()?.id())
}
