//! RAM: what an idle engine adds to a program, and what resident sessions take.

use std::time::Duration;

use swarmkeep::Settings;

use super::{
    Figure, Plan, Scratch,
    figure::resident_bytes,
    scratch::{sessions, two_kib_each},
};
use crate::{failure::Failure, moment, verb::serve::refused};

/// How long the databases are waited for.
const APPLY_PATIENCE: Duration = Duration::from_secs(60);
/// From the last use of a session until its memory is packed and given back.
const AT_REST: Duration = Duration::from_secs(8);

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let before = resident_bytes(None);
    let keep = scratch.store(Settings { resident_bytes: 4 << 30, ..Settings::default() }).await?;
    keep.wait_ready().await;
    let idle = resident_bytes(None).saturating_sub(before);
    let all = sessions(&keep, plan.many).await?;
    two_kib_each(&all).await?;
    let mut json = 0u64;
    for session in &all {
        json += session.canonical().await.map_err(refused)?.1.len() as u64;
    }
    // What is still on its way to the databases is no session in RAM. And one that nobody touches is packed after a while;
    // what that frees goes back to the system in the seconds after.
    let behind = || keep.health().store.is_some_and(|store| store.unapplied_bytes > 0);
    let patience = tokio::time::Instant::now() + APPLY_PATIENCE;
    while behind() && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(Settings::default().pack_after_ms) + AT_REST).await;
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
