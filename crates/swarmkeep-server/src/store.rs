//! The store itself: how it stands, what coming back found, proof that it is whole.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use swarmkeep::{Health, Incident, RecoveryReport, SessionName};

use crate::{
    api::{Api, Content, Op},
    app::{App, Local},
    problem::Problem,
    wire::{Answer, Call, Nothing, json},
};

/// Reports in one answer.
const RECOVERIES: usize = 100;
/// Failures of earlier lives of the store in one answer; those of this life are all in it.
const FAILURES: usize = 1_000;

pub(crate) fn routes(api: Api) -> Api {
    api.get("/v1/store", standing, Op::read("store", "How the store and the server stand", Content::Json("Store")))
        .get(
            "/v1/store/copies",
            copies,
            Op::read(
                "storeCopies",
                "Which records stand in records.db alone: neither the journal nor a kept copy has them",
                Content::Json("Copies"),
            ),
        )
        .get(
            "/v1/recoveries",
            recoveries,
            Op::read(
                "listRecoveries",
                "What coming back found, and the failures that were noticed, newest first",
                Content::Json("Recoveries"),
            ),
        )
        .post(
            "/v1/verify",
            verify,
            Op::read(
                "verify",
                "Fold from the oldest kept base and compare with checkpoints, RAM and views; nothing is changed, unless repairs are asked for",
                Content::Json("VerifyReport"),
            )
            .body("Verify"),
        )
        .post(
            "/v1/stop",
            stop,
            Op::read(
                "stop",
                "End the daemon as SIGTERM does: it parks and seals. Through the control socket only; 403 over TCP",
                Content::Json("Stopping"),
            ),
        )
}

#[derive(Debug, Serialize)]
struct Standing {
    version: &'static str,
    #[serde(flatten)]
    health: Health,
    server: ServerStanding,
}

#[derive(Debug, Serialize)]
struct ServerStanding {
    pid: u32,
    uptime_s: u64,
    feeds: usize,
    websockets: usize,
}

async fn standing(call: Call) -> Answer {
    json(&stands(&call.app), None)
}

fn stands(app: &App) -> Standing {
    let (feeds, websockets) = app.feeds();
    Standing {
        version: env!("CARGO_PKG_VERSION"),
        health: app.keep().health(),
        server: ServerStanding { pid: std::process::id(), uptime_s: app.uptime_s(), feeds, websockets },
    }
}

/// How the store stands, as whoever asks for it reads it.
pub(crate) fn standing_of(app: &App) -> Result<Value, Problem> {
    as_read(&stands(app))
}

/// What coming back found, as whoever asks for it reads it.
pub(crate) async fn recoveries_of(app: &App) -> Result<Value, Problem> {
    as_read(&found(app).await?)
}

fn as_read<T: Serialize>(value: &T) -> Result<Value, Problem> {
    serde_json::to_value(value)
        .map_err(|error| Problem::new("internal", format!("the answer cannot be written as JSON: {error}")))
}

async fn copies(call: Call) -> Answer {
    let keep = call.app.keep().clone();
    let found = tokio::task::spawn_blocking(move || keep.one_copy())
        .await
        .map_err(|error| Problem::new("internal", format!("comparing the copies broke off: {error}")))??;
    json(&found, None)
}

#[derive(Debug, Serialize)]
struct Recoveries {
    recoveries: Vec<RecoveryReport>,
    failures: Vec<Incident>,
}

async fn recoveries(call: Call) -> Answer {
    json(&found(&call.app).await?, None)
}

async fn found(app: &App) -> Result<Recoveries, Problem> {
    let keep = app.keep().clone();
    let (stored, failures) = tokio::task::spawn_blocking(move || {
        Ok::<_, swarmkeep::Error>((keep.recoveries(RECOVERIES)?, keep.failures(FAILURES)?))
    })
    .await
    .map_err(|error| Problem::new("internal", format!("reading the reports broke off: {error}")))??;
    // This open's report may still be growing: what is in memory is newer than what is stored.
    let mut recoveries: Vec<RecoveryReport> = app.keep().last_recovery().into_iter().collect();
    for report in stored {
        if recoveries.iter().all(|known| known.id != report.id) {
            recoveries.push(report);
        }
    }
    Ok(Recoveries { recoveries, failures })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    #[serde(default)]
    session: Option<SessionName>,
    #[serde(default)]
    repair: bool,
}

async fn verify(mut call: Call) -> Answer {
    let Verify { session, repair } = call.json().await?;
    let session = match session {
        Some(name) => Some(call.app.session(&name.to_string()).await?.id()),
        None => None,
    };
    let keep = call.app.keep();
    let report = if repair { keep.repair(session, |_| {}).await? } else { keep.verify(session, |_| {}).await? };
    json(&report, None)
}

#[derive(Debug, Serialize)]
struct Stopping {
    stopping: bool,
    pid: u32,
}

/// Whoever reaches the daemon over TCP may do everything in the store, but not take the store away from everybody else.
async fn stop(mut call: Call) -> Answer {
    let Nothing {} = call.json().await?;
    if call.parts.extensions.get::<Local>().is_none() {
        return Err(Problem::new("forbidden", "a daemon is stopped through the control socket in its store's folder")
            .hint("on its machine: swarmkeep stop --store DIR, or send it SIGTERM"));
    }
    call.app.ask_to_stop();
    json(&Stopping { stopping: true, pid: std::process::id() }, None)
}
