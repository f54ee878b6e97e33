//! Acknowledged is durable: what somebody was told is there, with the same hash, for ever.

use super::Evidence;
use crate::oracle::Known;

/// Whether the session comes as far as somebody was shown.
///
/// # Errors
/// What is lost.
pub fn check(known: &Known, evidence: &Evidence, floor: u64) -> Result<u64, String> {
    let (head, read) = (evidence.head.seq.0, known.read_to());
    if head < floor.max(read) {
        return Err(format!("LOST: record {} was shown; the session ends at {head}", floor.max(read)));
    }
    Ok(1)
}

/// Compares what was shown to anybody with what was read.
///
/// # Errors
/// What is lost or another.
pub fn shown(known: &mut Known, evidence: &Evidence) -> Result<u64, String> {
    // What was shown while the store was looking, it need not have seen.
    let later = known.shown.split_off(&(evidence.head.seq.0 + 1));
    let shown = std::mem::replace(&mut known.shown, later);
    for (seq, hash) in &shown {
        match known.read.hashes.get(usize::try_from(*seq).unwrap_or(usize::MAX) - 1) {
            Some(read) if read == hash => {}
            Some(read) => return Err(format!("record {seq} was shown as {hash} and is {read}")),
            None => return Err(format!("LOST: record {seq} was shown, and is not there")),
        }
    }
    // Whoever looks was shown all of it.
    known.floor = known.floor.max(evidence.head.seq.0);
    Ok(shown.len() as u64)
}
