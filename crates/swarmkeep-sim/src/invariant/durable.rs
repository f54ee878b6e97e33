//! Acknowledged is durable: what somebody was told is there, with the same hash, for ever.

use super::Evidence;
use crate::oracle::Known;

/// Compares what was shown to anybody with what is there.
///
/// # Errors
/// What is lost or another.
pub fn check(known: &Known, evidence: &Evidence, floor: u64) -> Result<u64, String> {
    let head = evidence.head.seq.0;
    if head < floor {
        return Err(format!("LOST: record {floor} was shown; the session ends at {head}"));
    }
    let mut checks = 0;
    // What was shown while the store was looking, it need not have seen.
    for (seq, hash) in known.shown.range(..=head) {
        let at = usize::try_from(*seq - 1).unwrap_or(usize::MAX);
        match evidence.records.get(at) {
            Some(record) if record.hash == *hash => checks += 1,
            Some(record) => return Err(format!("record {seq} was shown as {hash} and is {}", record.hash)),
            None => return Err(format!("LOST: record {seq} was shown, and is not there")),
        }
    }
    Ok(checks)
}
