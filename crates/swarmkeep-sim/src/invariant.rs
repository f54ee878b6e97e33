//! What must hold, one file each: functions of what the oracle knows and of what the store shows.

pub mod blobs;
pub mod bounded;
pub mod durable;
pub mod effects;
pub mod feeds;
pub mod fold;
pub mod holding;
pub mod leases;
pub mod order;
pub mod parked;
pub mod requests;

use std::collections::BTreeMap;

use bytes::Bytes;
use swarmkeep::{Error, Hash, State};
use swarmkeep_core::{BlobId, checkpoint::Checkpoint, log::Head, record};

use crate::oracle::{Known, Oracle, times::Times};

/// What a store shows of one session, asked for everything.
#[derive(Debug)]
pub struct Evidence {
    /// Which session.
    pub session: usize,
    /// Where the resident state stands; seq 0: there is no such session.
    pub head: Head,
    /// The resident state's canonical bytes.
    pub canonical: Bytes,
    /// The records after this seq were asked for.
    pub after: u64,
    /// They, as the log gives them; what comes after `head` is left out by whoever looks.
    pub records: Bytes,
    /// The newest checkpoint at or below `head`.
    pub saved: Option<Checkpoint>,
    /// Blobs that were asked for.
    pub blobs: Vec<(BlobId, Result<Bytes, Error>)>,
}

/// What was compared, and whether all of it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Things that were compared.
    pub checks: u64,
    /// False: it begins with a state that was not read yet.
    pub is_whole: bool,
}

impl Oracle {
    /// Everything that is proved of one session, of which somebody had been shown record `floor` when the store was asked. It
    /// was shown at `seen_ms`.
    ///
    /// # Errors
    /// What does not hold, after the name of the invariant.
    pub fn prove(&mut self, evidence: &Evidence, floor: u64, seen_ms: u64) -> Result<Proof, String> {
        let named = |name: &'static str| move |what: String| format!("{name}: {what}");
        let Self { sessions, states, times, rotten, .. } = self;
        let known = &mut sessions[evidence.session];
        let mut checks = durable::check(known, evidence, floor).map_err(named("acknowledged is durable"))?;
        let read = read(known, states, times, evidence, seen_ms)?;
        checks += read.checks;
        if read.is_whole {
            checks += durable::shown(known, evidence).map_err(named("acknowledged is durable"))?;
            checks += order::acknowledged(known, evidence).map_err(named("order"))?;
            checks += known.read.fold.check(evidence).map_err(named("fold"))?;
            checks += blobs::check(evidence, *rotten).map_err(named("blobs"))?;
        }
        Ok(Proof { checks, ..read })
    }
}

/// Reads the records that the store shows: those that were read before are the same, those that are new are folded.
fn read(
    known: &mut Known,
    states: &mut BTreeMap<Hash, State>,
    times: &Times,
    evidence: &Evidence,
    seen_ms: u64,
) -> Result<Proof, String> {
    let order = |what: String| format!("order: {what}");
    let (mut checks, mut seq) = (0, evidence.after);
    for view in record::iter(&evidence.records) {
        let view = view.map_err(|error| order(format!("after {seq}: {error}")))?;
        if view.seq() > evidence.head.seq {
            break;
        }
        if view.seq().0 != seq + 1 {
            return Err(order(format!("record {} after {seq}", view.seq())));
        }
        checks += 1;
        let before = known.read_to();
        seq += 1;
        if seq <= before {
            let was = known.read.hashes[usize::try_from(seq).unwrap() - 1];
            if was != view.hash() {
                return Err(order(format!("record {seq} was read as {was} and is {}", view.hash())));
            }
            continue;
        }
        if seq != before + 1 {
            return Err(order(format!("record {seq} after {before}, which is the last that was read")));
        }
        let record = view.decode().map_err(|error| order(error.to_string()))?;
        if seq == 1 && known.past.contains(&record.hash) {
            return Err(order("a session that was removed is back".into()));
        }
        if !known.read.fold.next(&record, states).map_err(|what| format!("fold: {what}"))? {
            return Ok(Proof { checks, is_whole: false });
        }
        known.read.chain.next(&known.asked, &known.acknowledged, &record).map_err(order)?;
        let begins_with = known.read.fold.begins_with(&record);
        let attempts = known.read.attempts.next(&record, begins_with);
        checks += attempts.map_err(|what| format!("effects: {what}"))?;
        let was = known.read.fold.before();
        let judged = known.leases.next(&known.asked, &record, was, times, seen_ms);
        checks += judged.map_err(|what| format!("leases: {what}"))?;
        known.read.hashes.push(record.hash);
        states.insert(record.hash, known.read.fold.newest().clone());
    }
    if seq != evidence.head.seq.0 && evidence.head.seq.0 > evidence.after {
        return Err(order(format!("records end at {seq}, the session at {}", evidence.head.seq)));
    }
    Ok(Proof { checks, is_whole: true })
}
