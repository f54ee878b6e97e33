//! Hot reads in process: the canonical bytes, shared.

use std::{hint::black_box, sync::Arc};

use swarmkeep::{Command, Request, Settings};
use tokio::time::Instant;

use super::{
    Figure, Plan, Scratch,
    figure::Latencies,
    scratch::{actor, json, sessions},
};
use crate::{failure::Failure, verb::serve::refused};

const READS: usize = 200_000;

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let keep = scratch.store(Settings::default()).await?;
    let all = Arc::new(sessions(&keep, 1_000).await?);
    let value = json(&format!("\"{}\"", "x".repeat(2_000)))?;
    for session in all.iter() {
        let set = Command::SetMemory {
            scope: id("shared")?,
            key: id("k")?,
            value: value.clone(),
            if_version: None,
            ttl_ms: None,
        };
        session.submit(Request::of(actor(), set)).await.map_err(refused)?;
        session.canonical().await.map_err(refused)?;
    }
    let (mut medians, mut latencies) = (Vec::new(), Latencies::default());
    for _ in 0..plan.runs {
        let mut run = Latencies::default();
        for number in 0..READS {
            let Some(session) = all.get(number * 619 % all.len()) else { break };
            let since = Instant::now();
            black_box(session.canonical().await.map_err(refused)?);
            run.add(since);
        }
        medians.push(run.at(0.5));
        latencies.join(run);
    }
    keep.close().await.map_err(refused)?;
    Ok(vec![
        Figure::new("hot read of 2 KiB, p50", "µs", medians)
            .at_most(1.0)
            .note(latencies.say())
            .note("with about 0.05 µs for reading the clock twice"),
    ])
}

fn id(text: &str) -> Result<swarmkeep::EntityId, Failure> {
    text.parse().map_err(|refusal: swarmkeep::Refusal| refused(refusal.into()))
}
