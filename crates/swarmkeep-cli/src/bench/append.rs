//! Durable appends in process.

use std::{sync::Arc, time::Duration};

use swarmkeep::{Of, Position, Query, Session, Settings, Swarmkeep};
use tokio::{task::JoinSet, time::Instant};

use super::{
    Figure, Plan, Scratch,
    figure::Latencies,
    group_commit,
    scratch::{append, broke_off, sessions},
};
use crate::{failure::Failure, verb::serve::refused};

/// What one run came to.
pub(super) struct Run {
    pub(super) per_s: f64,
    pub(super) latencies: Latencies,
    /// The newest position that was acknowledged.
    pub(super) position: Position,
}

/// Appends, `at_once` callers over these sessions, for `run_ms`.
pub(super) async fn run(all: &Arc<Vec<Session>>, at_once: usize, run_ms: u64) -> Result<Run, Failure> {
    let began = Instant::now();
    let end = began + Duration::from_millis(run_ms);
    let mut callers = JoinSet::new();
    for caller in 0..at_once {
        let all = all.clone();
        callers.spawn(async move {
            let (mut latencies, mut position, mut number) = (Latencies::default(), Position::default(), caller);
            // Every caller goes through the sessions in its own order, so that all are written evenly.
            let stride = (all.len() / 2 + 7) | 1;
            while Instant::now() < end {
                number = (number + stride * at_once) % all.len().max(1);
                let Some(session) = all.get((number + caller) % all.len().max(1)) else { break };
                let since = Instant::now();
                let reply = session.submit(append(number as u64)?).await.map_err(refused)?;
                latencies.add(since);
                position = position.max(reply.position);
            }
            Ok::<_, Failure>((latencies, position))
        });
    }
    let mut run = Run { per_s: 0.0, latencies: Latencies::default(), position: Position::default() };
    while let Some(ended) = callers.join_next().await {
        let (latencies, position) = ended.map_err(broke_off)??;
        run.latencies.join(latencies);
        run.position = run.position.max(position);
    }
    run.per_s = run.latencies.len() as f64 / began.elapsed().as_secs_f64();
    Ok(run)
}

/// Until the views have come as far: everything before is applied.
pub(super) async fn until_applied(keep: &Swarmkeep, position: Position) -> Result<f64, Failure> {
    let since = Instant::now();
    let query = Query { limit: Some(1), ..Query::of(Of::Sessions) };
    keep.find(query, Some(position)).await.map_err(refused)?;
    Ok(since.elapsed().as_secs_f64() * 1000.0)
}

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let keep = scratch.store(Settings::default()).await?;
    let all = Arc::new(sessions(&keep, 1_000).await?);
    run(&all, 64, 200).await?;
    let mut figures = Vec::new();
    for at_once in [64, 1] {
        let (mut ours, mut bare, mut applied) = (Vec::new(), Vec::new(), Vec::new());
        let (mut latencies, mut bare_latencies) = (Latencies::default(), Latencies::default());
        for _ in 0..plan.runs {
            let measured = run(&all, at_once, plan.run_ms).await?;
            applied.push(until_applied(&keep, measured.position).await?);
            ours.push(measured.per_s);
            latencies.join(measured.latencies);
            let (per_s, lat) = group_commit::measure(&scratch.path("bare"), at_once, plan.run_ms).await?;
            bare.push(per_s);
            bare_latencies.join(lat);
        }
        let said = (latencies.say(), bare_latencies.say());
        figures.push(if at_once == 64 {
            Figure::new("durable append, 64 at once, 1,000 sessions", "/s", ours)
                .beside("a bare file with group commit", &bare)
                .at_least_of(&[0.6])
                .note(said.0)
                .note(format!("bare file: {}", said.1))
                .note(format!("until applied: {} ms", super::figure::number(super::figure::median(&applied))))
        } else {
            Figure::new("durable append, 1 at a time, p50", "µs", vec![latencies.at(0.5)])
                .beside("a bare file's p50", &[bare_latencies.at(0.5)])
                .at_most_of(1.4)
                .note(said.0)
                .note(format!("bare file: {}", said.1))
        });
    }
    keep.close().await.map_err(refused)?;
    Ok(figures)
}
