//! Appends for a long time with everything applied, beside SQLite alone with its index.

use std::sync::Arc;

use swarmkeep::Settings;

use super::{
    Figure, Plan, Scratch, append,
    figure::resident_bytes,
    scratch::{broke_off, sessions},
    sqlite,
};
use crate::{failure::Failure, moment, verb::serve::refused};

/// Runs of the peer; it is as steady as it is slow.
const PEER_RUNS: usize = 3;

/// Room for all of them: what is measured is writing, not sessions that leave RAM and come back.
const RESIDENT_BYTES: u64 = 1 << 30;

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    for (count, share) in [(1_000, 2.0), (plan.many, 1.0)] {
        let keep = scratch.store(Settings { resident_bytes: RESIDENT_BYTES, ..Settings::default() }).await?;
        let all = Arc::new(sessions(&keep, count).await?);
        append::run(&all, 64, 200).await?;
        let before = resident_bytes(None);
        let mut measured = append::run(&all, 64, plan.sustained_ms).await?;
        let lag_ms = append::until_applied(&keep, measured.position).await?;
        let after = resident_bytes(None);
        keep.close().await.map_err(refused)?;
        drop((keep, all));
        let mut peer = Vec::new();
        for _ in 0..PEER_RUNS {
            let path = scratch.path("peer.db");
            let run_ms = (plan.sustained_ms / 6).max(1_000);
            peer.push(
                tokio::task::spawn_blocking(move || sqlite::appends(&path, count, run_ms))
                    .await
                    .map_err(broke_off)??,
            );
        }
        // What was still to be applied when the time was over counts as time.
        let seconds = plan.sustained_ms as f64 / 1000.0;
        let per_s = measured.per_s * seconds / (seconds + lag_ms / 1000.0);
        figures.push(
            Figure::new(
                format!("sustained for {seconds:.0} s, {} sessions, all applied", moment::thousands(count as u64)),
                "/s",
                vec![per_s],
            )
            .beside("SQLite alone, 64 per transaction", &peer)
            .at_least_of(&[share])
            .note(format!(
                "lag at the end {lag_ms:.0} ms{}",
                if lag_ms < 1000.0 { "" } else { ": more than the second it should be" }
            ))
            .note(format!("RAM {} before, {} after", moment::bytes(before), moment::bytes(after)))
            .note(measured.latencies.say()),
        );
    }
    Ok(figures)
}
