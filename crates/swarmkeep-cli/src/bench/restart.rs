//! Coming back after `kill -9` with many sessions.

use std::time::Duration;

use swarmkeep::{Settings, Swarmkeep};
use tokio::time::{Instant, sleep};

use super::{
    Figure, Plan, Scratch,
    daemon::Daemon,
    scratch::{broke_off, sessions, two_kib_each},
    sqlite,
};
use crate::{
    client::{Call, Client, Endpoint},
    failure::Failure,
    moment,
    verb::serve::refused,
};

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let store = scratch.path("restart");
    fill(&store, plan.many).await?;
    let (mut first, mut all) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs.min(3) {
        // Started, so that it holds everything; killed; started again.
        Daemon::start(&store).await?.kill().await?;
        let since = Instant::now();
        let daemon = Daemon::start(&store).await?;
        let mut client = Client::new(Endpoint::Tcp { authority: daemon.address.to_string(), token: None });
        let middle = format!("/v1/sessions/bench/s-{}", plan.many / 2);
        let gone = |error: crate::client::CallError| Failure::unavailable(error.to_string(), "the daemon is gone");
        client.call(&Call::get(middle)).await.map_err(gone)?.ok()?;
        first.push(since.elapsed().as_secs_f64() * 1000.0);
        while client.call(&Call::get("/health/ready")).await.map_err(gone)?.status != 200 {
            sleep(Duration::from_millis(5)).await;
        }
        all.push(since.elapsed().as_secs_f64() * 1000.0);
        daemon.kill().await?;
    }
    let (path, count) = (scratch.path("peer.db"), plan.many);
    let peer = tokio::task::spawn_blocking(move || sqlite::read_all(&path, count)).await.map_err(broke_off)??;
    let many = moment::thousands(plan.many as u64);
    Ok(vec![
        Figure::new(format!("restart with {many} sessions of 2 KiB: first answer"), "ms", first).at_most(300.0),
        Figure::new("restart: all checkpoints and tails verified", "ms", all)
            .beside("SQLite reading the same rows", &[peer])
            .at_most_of(4.0),
    ])
}

/// A store of `many` sessions whose state is about 2 KiB, most of it in a checkpoint or a short tail.
async fn fill(store: &std::path::Path, many: usize) -> Result<(), Failure> {
    let keep = Swarmkeep::open_with(store.to_string_lossy(), Settings::default()).await.map_err(refused)?;
    let all = sessions(&keep, many).await?;
    two_kib_each(&all).await?;
    keep.close().await.map_err(refused)
}
