//! One append a request over HTTP, 64 keep-alive connections, the applier on.

use super::{
    Figure, Plan, Scratch,
    daemon::Daemon,
    redis::{self, Redis},
    wire::{Answers, get, hammer, post},
};
use crate::failure::Failure;

const CONNECTIONS: usize = 64;
pub(super) const SESSIONS: usize = 1_000;

/// Makes the sessions that are written to.
pub(super) async fn make_sessions(daemon: &Daemon) -> Result<(), Failure> {
    let address = daemon.address;
    let client = crate::client::Endpoint::Tcp { authority: address.to_string(), token: None };
    let mut client = crate::client::Client::new(client);
    for number in 0..SESSIONS {
        let call =
            crate::client::Call::post("/v1/sessions", &serde_json::json!({ "name": format!("bench/s-{number}") }));
        let answer = client.call(&call).await;
        answer.map_err(|error| Failure::unavailable(error.to_string(), "the daemon is gone"))?.ok()?;
    }
    Ok(())
}

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let daemon = Daemon::start(&scratch.path("http")).await?;
    let address = daemon.address;
    make_sessions(&daemon).await?;
    let redis = Redis::start(&scratch.path("redis")).await?;
    let append = move |connection: usize, number: u64| {
        let session = (connection as u64 * 31 + number) % SESSIONS as u64;
        let body =
            format!("{{\"commands\":[{{\"record\":{{\"kind\":\"bench\",\"payload\":{}}}}}]}}", super::payload(number));
        post(address, &format!("/v1/sessions/bench/s-{session}/commands"), "application/json", &body)
    };
    hammer(address, CONNECTIONS, 200, Answers::Http, append).await?;
    let (mut ours, mut noop, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut latencies, mut redis_latencies) =
        (super::figure::Latencies::default(), super::figure::Latencies::default());
    for _ in 0..plan.runs {
        let (per_s, lat) = hammer(address, CONNECTIONS, plan.run_ms, Answers::Http, append).await?;
        ours.push(per_s);
        latencies.join(lat);
        noop.push(
            hammer(address, CONNECTIONS, plan.run_ms, Answers::Http, move |_, _| get(address, "/health/live")).await?.0,
        );
        if let Some(redis) = &redis {
            let (per_s, lat) = hammer(redis.address, CONNECTIONS, plan.run_ms, Answers::Redis(1), redis::write).await?;
            theirs.push(per_s);
            redis_latencies.join(lat);
        }
    }
    daemon.kill().await?;
    let figure = Figure::new("HTTP, one append a request, 64 connections", "/s", ours)
        .beside("the same server's no-op route", &noop)
        .note(latencies.say());
    Ok(vec![match redis {
        Some(_) => figure
            .beside("Redis, appendfsync always", &theirs)
            .at_least_of(&[0.45, 0.6])
            .note(format!("Redis: {}", redis_latencies.say())),
        None => figure.at_least_of(&[0.45]).note(redis::ABSENT),
    }])
}
