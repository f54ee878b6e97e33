//! Typed queries across many sessions.

use std::sync::Arc;

use swarmkeep::{Of, Order, Query, Settings};
use tokio::time::Instant;

use super::{Figure, Plan, Scratch, append, figure::Latencies, scratch::sessions};
use crate::{failure::Failure, moment, verb::serve::refused};

const QUERIES: usize = 1_000;

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let keep = scratch.store(Settings::default()).await?;
    let all = Arc::new(sessions(&keep, plan.many).await?);
    let written = append::run(&all, 64, 100).await?;
    append::until_applied(&keep, written.position).await?;
    let (mut p95, mut latencies) = (Vec::new(), Latencies::default());
    for _ in 0..plan.runs {
        let mut run = Latencies::default();
        for number in 0..QUERIES {
            let sessions = Query { limit: Some(50), ..Query::of(Of::Sessions) };
            let query = match number % 3 {
                0 => Query { status: Some("live".into()), ..sessions },
                1 => Query { namespace: Some("bench".into()), order: Order::Newest, ..sessions },
                _ => Query { since_ms: Some(1), order: Order::Newest, ..sessions },
            };
            let since = Instant::now();
            keep.find(query, None).await.map_err(refused)?;
            run.add(since);
        }
        p95.push(run.at(0.95) / 1000.0);
        latencies.join(run);
    }
    keep.close().await.map_err(refused)?;
    let what = format!("typed query, a page of 50 of {} sessions, p95", moment::thousands(plan.many as u64));
    Ok(vec![Figure::new(what, "ms", p95).at_most(2.0).note(latencies.say())])
}
