//! `…/metrics`: measurements that agents report. Kept in batches, not part of the log.

use serde::Deserialize;
use swarmkeep::{
    EntityId, Json, Observation,
    core::{
        limits,
        query::{Of, Order, Query},
    },
};

use crate::{
    api::{Api, Content, Op},
    problem::Problem,
    wire::{Accepted, Answer, Call, json},
};

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/sessions/{namespace}/{name}/metrics",
        all,
        Op::read("listMetrics", "Measurements, page by page", Content::Json("Page")).query(&[
            ("agent", "string", "Only by this agent"),
            ("kind", "string", "Only of this kind"),
            ("since_ms", "integer", "Taken at or after this, in ms since the Unix epoch"),
            ("until_ms", "integer", "Taken before this"),
            ("order", "string", "`oldest` (default) or `newest`"),
            ("limit", "integer", "Rows in the page: 1 to 1000, 100 by default"),
            ("cursor", "string", "`next` of the page before"),
        ]),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/metrics",
        add,
        Op::read(
            "addMetrics",
            "Report measurements: kept within about a second, without a sync of their own",
            Content::Json("Accepted"),
        )
        .body("Metrics"),
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricsQuery {
    agent: Option<String>,
    kind: Option<String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    order: Option<Order>,
    limit: Option<u32>,
    cursor: Option<String>,
}

async fn all(call: Call) -> Answer {
    let query: MetricsQuery = call.query()?;
    let session = call.session().await?;
    let page = call
        .app
        .keep()
        .find(
            Query {
                session: Some(session.id()),
                agent: query.agent,
                kind: query.kind,
                since_ms: query.since_ms,
                until_ms: query.until_ms,
                order: query.order.unwrap_or_default(),
                limit: query.limit,
                cursor: query.cursor,
                ..Query::of(Of::Metrics)
            },
            None,
        )
        .await?;
    json(&page, None)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metrics {
    metrics: Vec<Metric>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metric {
    agent: EntityId,
    #[serde(default = "default_kind")]
    kind: String,
    name: String,
    value: f64,
    #[serde(default)]
    tags: Json,
    #[serde(default)]
    at_ms: u64,
}

fn default_kind() -> String {
    "performance".into()
}

async fn add(mut call: Call) -> Answer {
    let session = call.session().await?;
    let Metrics { metrics } = call.json().await?;
    let accepted = metrics.len();
    if accepted > limits::OBSERVATIONS_PER_REQUEST {
        return Err(Problem::limit(format!(
            "{accepted} metrics in one request; {} are allowed: send several requests",
            limits::OBSERVATIONS_PER_REQUEST
        )));
    }
    let observations = metrics
        .into_iter()
        .map(|Metric { agent, kind, name, value, tags, at_ms }| Observation::Metric {
            agent,
            kind,
            name,
            value,
            tags,
            at_ms,
        })
        .collect();
    session.observe(observations).await?;
    json(&Accepted { accepted }, None)
}
