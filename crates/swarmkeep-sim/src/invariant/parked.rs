//! A clean stop leaves nothing to come back from: the next start finds no damage, and has nothing to replay.

use swarmkeep::{Damaged, RecoveryReport};

/// What the start after a clean stop found. What the start before it had found, `told`, it tells once more unless that one's report
/// was kept in time.
///
/// # Errors
/// What it should not have.
pub fn check(report: &RecoveryReport, told: &[Damaged]) -> Result<u64, String> {
    let is_quiet = (report.clean || !report.damage.is_empty())
        && report.frames_replayed == 0
        && report.damage.iter().all(|damage| told.contains(damage))
        && report.possibly_acknowledged.is_empty()
        && !report.crashed;
    if is_quiet { Ok(1) } else { Err(format!("after a clean stop the start found {report:?}")) }
}
