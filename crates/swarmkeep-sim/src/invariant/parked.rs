//! A clean stop leaves nothing to come back from: the next start finds no damage, and has nothing to replay.

use swarmkeep::RecoveryReport;

/// What the start after a clean stop found.
///
/// # Errors
/// What it should not have.
pub fn check(report: &RecoveryReport) -> Result<u64, String> {
    let is_quiet = report.clean
        && report.frames_replayed == 0
        && report.damage.is_empty()
        && report.possibly_acknowledged.is_empty()
        && !report.crashed;
    if is_quiet { Ok(1) } else { Err(format!("after a clean stop the start found {report:?}")) }
}
