//! Probes, and `/api/health` in the shape its readers know.

use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use swarmkeep::{
    DataLoss, Swarmkeep, TrackRecord,
    core::{
        health::Alert,
        query::{LIMIT_MAX, Of, Query},
        state::TaskStatus,
    },
};

use crate::{
    api::{Api, Content, Op},
    problem::Problem,
    reading::counted,
    wire::{Answer, Call, json, json_bytes},
};

/// Tasks are counted again when the last count is older than this.
const COUNT_AGE: Duration = Duration::from_secs(2);
/// Tasks of one status are counted up to this many; above it the message says “or more”.
const COUNT_MOST: u64 = 50_000;
/// Bytes that wait to be applied before that is called slow: half of what makes writers wait by default.
const UNAPPLIED_SLOW_BYTES: usize = 32 << 20;

pub(crate) fn routes(api: Api) -> Api {
    api.get("/health/live", live, Op::read("live", "The process answers", Content::Json("Probe")))
        .get(
            "/health/ready",
            ready,
            Op::read(
                "ready",
                "Every session that was live has been looked at after the start; 503 until then",
                Content::Json("Probe"),
            ),
        )
        .get(
            "/api/health",
            whole,
            Op::read("health", "How the system is, component by component", Content::Json("ApiHealth")),
        )
}

async fn live() -> Answer {
    Ok(json_bytes(StatusCode::OK, (&b"{\"status\":\"live\"}"[..]).into(), None))
}

async fn ready(call: Call) -> Answer {
    if call.app.keep().is_ready() {
        Ok(json_bytes(StatusCode::OK, (&b"{\"status\":\"ready\"}"[..]).into(), None))
    } else {
        Err(Problem::new(
            "unavailable",
            "sessions are still being looked at after the start; those asked for come first",
        ))
    }
}

/// Worst last, so that the whole is the maximum of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Healthy,
    Degraded,
    Unhealthy,
}

#[derive(Debug, Serialize)]
struct Component {
    status: Status,
    message: String,
}

impl Component {
    fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

#[derive(Debug, Serialize)]
struct Whole {
    status: Status,
    components: Components,
    metrics: Metrics,
    alerts: Vec<Alert>,
}

#[derive(Debug, Serialize)]
struct Components {
    persistence: Component,
    sync: Component,
    recovery: Component,
    tasks: Component,
    websocket: Component,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metrics {
    active_tasks: u64,
    total_tasks: u64,
    /// Set aside, or not come back at the start.
    damaged_sessions: u64,
    /// Seconds.
    uptime: u64,
    memory_usage: Memory,
    /// How well the store came back in the last day; absent where that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<TrackRecord>,
}

/// Bytes.
#[derive(Debug, Serialize)]
struct Memory {
    /// Of the process; absent where the system does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    rss: Option<u64>,
    /// Of sessions in RAM.
    resident: u64,
    /// What they may take.
    budget: u64,
}

/// Tasks across all sessions, as the views have them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TaskCounts {
    active: u64,
    total: u64,
    is_capped: bool,
}

async fn whole(call: Call) -> Answer {
    let app = &call.app;
    let health = app.keep().health();
    let counts = app.counts(COUNT_AGE, count).await;
    let (feeds, websockets) = app.feeds();
    let damaged = app.damaged().len();
    let keep = app.keep().clone();
    // What cannot be read is no reason to answer nothing: the component says that the store is in trouble.
    let mut track = tokio::task::spawn_blocking(move || keep.track_record().ok()).await.ok().flatten();
    let alerts = track.as_mut().map(|track| std::mem::take(&mut track.alerts)).unwrap_or_default();
    let components = Components {
        persistence: persistence(&health),
        sync: sync(&health),
        recovery: alarmed(recovery(app.keep(), damaged), &alerts),
        tasks: match &counts {
            Ok(counts) => Component::new(
                Status::Healthy,
                format!(
                    "{} active, {} total tasks{}",
                    counts.active,
                    counts.total,
                    if counts.is_capped { ", or more" } else { "" }
                ),
            ),
            Err(problem) => Component::new(Status::Degraded, format!("tasks cannot be counted: {problem}")),
        },
        websocket: Component::new(
            Status::Healthy,
            format!("{websockets} active connections, {} event streams", feeds - websockets.min(feeds)),
        ),
    };
    let status =
        [&components.persistence, &components.sync, &components.recovery, &components.tasks, &components.websocket]
            .into_iter()
            .map(|component| component.status)
            .max()
            .unwrap_or(Status::Healthy);
    let counts = counts.unwrap_or_default();
    let memory_usage =
        Memory { rss: rss_bytes().await, resident: health.resident_bytes, budget: health.resident_budget_bytes };
    json(
        &Whole {
            status,
            components,
            metrics: Metrics {
                active_tasks: counts.active,
                total_tasks: counts.total,
                damaged_sessions: damaged as u64,
                uptime: app.uptime_s(),
                memory_usage,
                recovery: track,
            },
            alerts,
        },
        None,
    )
}

fn persistence(health: &swarmkeep::Health) -> Component {
    if health.closing {
        return Component::new(Status::Unhealthy, "the store is closing");
    }
    match &health.store {
        None => Component::new(Status::Degraded, "the store is in memory only and is gone with the process"),
        Some(store) => match &store.trouble {
            Some(trouble) => Component::new(Status::Unhealthy, format!("the store takes nothing: {trouble}")),
            None => Component::new(
                Status::Healthy,
                format!("every acknowledgement is on disk in {}", store.folder.display()),
            ),
        },
    }
}

fn sync(health: &swarmkeep::Health) -> Component {
    let Some(store) = &health.store else {
        return Component::new(Status::Healthy, "nothing to synchronise: the store is in memory");
    };
    if let Some(trouble) = &store.views_trouble {
        return Component::new(Status::Degraded, format!("the views do not move: {trouble}"));
    }
    let status = if store.unapplied_bytes > UNAPPLIED_SLOW_BYTES { Status::Degraded } else { Status::Healthy };
    Component::new(
        status,
        format!(
            "{} bytes wait to be applied; records at position {}, views at {}",
            store.unapplied_bytes, store.records_position.0, store.views_position.0
        ),
    )
}

/// A threshold that is passed is worth a look, whatever else is well.
fn alarmed(component: Component, alerts: &[Alert]) -> Component {
    let said: Vec<String> = alerts.iter().map(|alert| format!("{}: {}", alert.kind, alert.message)).collect();
    match said.is_empty() {
        true => component,
        false => Component::new(
            component.status.max(Status::Degraded),
            format!("{}; {}", component.message, said.join("; ")),
        ),
    }
}

fn recovery(keep: &Swarmkeep, damaged: usize) -> Component {
    if damaged > 0 {
        return Component::new(
            Status::Degraded,
            format!(
                "damaged, and not served as it should be: {}; see /v1/sessions and /v1/store",
                counted(damaged as u64, "session")
            ),
        );
    }
    let Some(report) = keep.last_recovery() else {
        return Component::new(Status::Healthy, "nothing had to be recovered");
    };
    let lost = report.damage.iter().filter(|damage| damage.loss != DataLoss::None).count();
    let lost = lost + report.possibly_acknowledged.len();
    if report.sessions_failed > 0 || lost > 0 {
        let message = format!(
            "not come back: {}; damaged, or doubtful: {}; see /v1/recoveries",
            counted(report.sessions_failed, "session"),
            counted(lost as u64, "range")
        );
        return Component::new(Status::Degraded, message);
    }
    if !keep.is_ready() {
        return Component::new(
            Status::Degraded,
            format!("{} looked at, more to come", counted(report.sessions_checked, "session")),
        );
    }
    // Not by `clean`: a kill in a quiet moment leaves nothing to settle, and was no clean stop.
    let before = match (&report.taken_over, report.crashed) {
        (Some(_), _) => "a take-over",
        (None, true) => "a crash",
        (None, false) => "a clean stop",
    };
    let looked = counted(report.sessions_checked, "session");
    Component::new(Status::Healthy, format!("back after {before} in {} ms, {looked} looked at", report.opened_ms))
}

/// Counts tasks by status, page by page.
async fn count(keep: Swarmkeep) -> Result<TaskCounts, Problem> {
    let mut counts = TaskCounts::default();
    for status in TaskStatus::ALL {
        let mut cursor = None;
        let mut found = 0u64;
        loop {
            let query = Query {
                status: Some(status.as_str().to_owned()),
                limit: Some(LIMIT_MAX),
                cursor,
                ..Query::of(Of::Tasks)
            };
            let page = keep.find(query, None).await?;
            found += page.rows.len() as u64;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
            if found >= COUNT_MOST {
                counts.is_capped = true;
                break;
            }
        }
        counts.total += found;
        if !status.is_ended() {
            counts.active += found;
        }
    }
    Ok(counts)
}

/// Resident bytes of this process, where `/proc` says.
async fn rss_bytes() -> Option<u64> {
    let status = tokio::fs::read_to_string("/proc/self/status").await.ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
