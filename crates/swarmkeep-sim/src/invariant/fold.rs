//! The fold is equal everywhere: the resident state, the newest checkpoint with the records after it, and all records from
//! the first.

use swarmkeep_core::{BlobId, State, session::fold_record};

use super::Evidence;

/// Folds a session in each way.
///
/// # Errors
/// Which way differs.
pub fn check(evidence: &Evidence) -> Result<u64, String> {
    let whole = fold(State::default(), evidence)?;
    if whole.canonical() != evidence.canonical {
        return Err(format!("the resident state at {} is not the fold of its records", evidence.head.seq));
    }
    let Some(saved) = &evidence.saved else { return Ok(1) };
    let from = fold(saved.state()?, evidence)?;
    if from.canonical() != evidence.canonical {
        return Err(format!("from the checkpoint at {} on, the fold is another", saved.head.seq));
    }
    Ok(2)
}

fn fold(mut state: State, evidence: &Evidence) -> Result<State, String> {
    let mut base = |blob: BlobId| Err(format!("no session here begins with another's state ({blob})"));
    for record in evidence.records.iter().filter(|record| record.seq > state.head.seq).collect::<Vec<_>>() {
        fold_record(&mut state, record, &mut base).map_err(|error| format!("at {}: {error}", record.seq))?;
    }
    Ok(state)
}
