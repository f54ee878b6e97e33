//! Checkpoints of 20 KiB.

use swarmkeep::{Command, NewSession, Request, Settings};
use tokio::time::Instant;

use super::{
    Figure, Plan, Scratch,
    figure::Latencies,
    scratch::{actor, append, json, name},
};
use crate::{failure::Failure, verb::serve::refused};

const EACH: u64 = 200;

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let keep = scratch.store(Settings::default()).await?;
    let session = keep.create_session(NewSession::new(name(0)?), &actor()).await.map_err(refused)?;
    let id = |text: &str| text.parse::<swarmkeep::EntityId>().map_err(|refusal| refused(refusal.into()));
    for number in 0..40 {
        let value = json(&super::payload(number))?;
        let value = json(&format!("[{value},{value}]"))?;
        let set = Command::SetMemory {
            scope: id("shared")?,
            key: id(&format!("k{number}"))?,
            value,
            if_version: None,
            ttl_ms: None,
        };
        session.submit(Request::of(actor(), set)).await.map_err(refused)?;
    }
    let bytes = session.canonical().await.map_err(refused)?.1.len();
    let (mut p99, mut latencies) = (Vec::new(), Latencies::default());
    for _ in 0..plan.runs {
        let mut run = Latencies::default();
        for number in 0..EACH {
            session.submit(append(number)?).await.map_err(refused)?;
            let since = Instant::now();
            session.checkpoint().await.map_err(refused)?;
            run.add(since);
        }
        p99.push(run.at(0.99) / 1000.0);
        latencies.join(run);
    }
    keep.close().await.map_err(refused)?;
    Ok(vec![
        Figure::new("checkpoint of 20 KiB, p99", "ms", p99)
            .at_most(5.0)
            .note(latencies.say())
            .note(format!("a state of {bytes} bytes")),
    ])
}
