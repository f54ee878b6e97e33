//! RAM: what an idle engine adds to a program, and what resident sessions take.

use std::time::Duration;

use swarmkeep::{Command, Request, Settings};

use super::{
    Figure, Plan, Scratch,
    figure::resident_bytes,
    scratch::{actor, broke_off, json, sessions},
};
use crate::{failure::Failure, moment, verb::serve::refused};

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let before = resident_bytes(None);
    let keep = scratch.store(Settings { resident_bytes: 4 << 30, ..Settings::default() }).await?;
    keep.wait_ready().await;
    let idle = resident_bytes(None).saturating_sub(before);
    let all = sessions(&keep, plan.many).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for part in all.chunks(all.len().div_ceil(64).max(1)) {
        let part = part.to_vec();
        tasks.spawn(async move {
            let id = |text: &str| text.parse::<swarmkeep::EntityId>().map_err(|refusal| refused(refusal.into()));
            let value = json(&format!("\"{}\"", "x".repeat(1_500)))?;
            for session in part {
                let set = Command::SetMemory {
                    scope: id("shared")?,
                    key: id("k")?,
                    value: value.clone(),
                    if_version: None,
                    ttl_ms: None,
                };
                session.submit(Request::of(actor(), set)).await.map_err(refused)?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(broke_off)??;
    }
    let mut json = 0u64;
    for session in &all {
        json += session.canonical().await.map_err(refused)?.1.len() as u64;
    }
    // A session that nobody touches is packed after a while, and what was allocated for writing goes back.
    tokio::time::sleep(Duration::from_millis(Settings::default().pack_after_ms * 3)).await;
    let full = resident_bytes(None).saturating_sub(before);
    keep.close().await.map_err(refused)?;
    Ok(vec![
        Figure::new("RAM that an idle engine adds to a program", "MB", vec![idle as f64 / 1e6]).at_most(8.0),
        Figure::new(
            format!("RAM of {} resident sessions of 2 KiB", moment::thousands(plan.many as u64)),
            "MB",
            vec![full as f64 / 1e6],
        )
        .beside("their JSON", &[json as f64 / 1e6])
        .at_most_of(2.0),
    ])
}
