//! Everything is bounded: bytes of sessions in RAM, and what waits to be applied.

use swarmkeep::{Health, Settings};

/// Beyond the budget until the next sweep: what came in between two of them.
const RESIDENT_SLACK_BYTES: u64 = 4 << 20;
/// Taken before anybody was held up: what is queued for the journal.
const UNAPPLIED_SLACK_BYTES: u64 = 12 << 20;

/// Looks at a store that is open.
///
/// # Errors
/// Which bound is passed.
pub fn check(health: &Health, settings: &Settings) -> Result<u64, String> {
    if health.resident_bytes > settings.resident_bytes + RESIDENT_SLACK_BYTES {
        return Err(format!(
            "{} bytes of sessions in RAM; the budget is {}",
            health.resident_bytes, settings.resident_bytes
        ));
    }
    let unapplied = health.store.as_ref().map_or(0, |store| store.unapplied_bytes as u64);
    if unapplied > settings.unapplied_bytes + UNAPPLIED_SLACK_BYTES {
        return Err(format!("{unapplied} bytes are not applied; the bound is {}", settings.unapplied_bytes));
    }
    Ok(2)
}
