//! Appends in bulk: NDJSON in, NDJSON out.

use super::{
    Figure, Plan, Scratch,
    daemon::Daemon,
    http::{SESSIONS, make_sessions},
    redis::{self, Redis},
    wire::{Answers, hammer, post},
};
use crate::failure::Failure;

const CONNECTIONS: usize = 8;
const LINES: u64 = 1_000;
const PIPELINE: u64 = 16;
const REDIS_CONNECTIONS: usize = 64;

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let daemon = Daemon::start(&scratch.path("bulk")).await?;
    let address = daemon.address;
    make_sessions(&daemon).await?;
    let redis = Redis::start(&scratch.path("redis")).await?;
    let bulk = move |connection: usize, number: u64| {
        let mut body = String::with_capacity(300 * 1000);
        for line in 0..LINES {
            let session = (connection as u64 * 131 + number * 7 + line) % SESSIONS as u64;
            body.push_str(&format!(
                "{{\"session\":\"bench/s-{session}\",\"commands\":[{{\"record\":{{\"kind\":\"bench\",\"payload\":{}}}}}]}}\n",
                super::payload(line)
            ));
        }
        post(address, "/v1/bulk", "application/x-ndjson", &body)
    };
    hammer(address, CONNECTIONS, 200, Answers::Http, bulk).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs {
        ours.push(hammer(address, CONNECTIONS, plan.run_ms, Answers::Http, bulk).await?.0 * LINES as f64);
        if let Some(redis) = &redis {
            let pipeline = |connection: usize, number: u64| {
                (0..PIPELINE).flat_map(|part| redis::write(connection, number * PIPELINE + part)).collect()
            };
            let answers = Answers::Redis(usize::try_from(PIPELINE).unwrap_or(16));
            theirs.push(
                hammer(redis.address, REDIS_CONNECTIONS, plan.run_ms, answers, pipeline).await?.0 * PIPELINE as f64,
            );
        }
    }
    daemon.kill().await?;
    let mut figure = Figure::new("HTTP bulk, NDJSON, 8 connections of 1,000 lines", "/s", ours);
    figure = match redis {
        Some(_) => figure.beside("Redis, appendfsync always, pipelines of 16", &theirs),
        None => figure.note(redis::ABSENT),
    };
    Ok(vec![figure.at_least(100_000.0)])
}
