//! Order: one chain; a group whole or not at all; a request once; what was acknowledged where it was said to be; nothing
//! that nobody asked for; epochs never go back.

use std::collections::BTreeSet;

use swarmkeep_core::{Hash, RequestId};

use super::Evidence;
use crate::oracle::{Acknowledged, Known};

/// Reads a session's whole log.
///
/// # Errors
/// The first thing that is not so.
pub fn check(known: &Known, evidence: &Evidence) -> Result<u64, String> {
    let mut checks = 0;
    let mut previous = Hash::default();
    let mut epoch = swarmkeep_core::Epoch(0);
    let mut done: BTreeSet<&RequestId> = BTreeSet::new();
    // The group whose last record has not come yet.
    let mut open: Option<(&RequestId, u64)> = None;
    for (nth, record) in (1..).zip(&evidence.records) {
        let seq = record.seq.0;
        if seq != nth || record.previous != previous {
            return Err(format!("record {seq} after {}", nth - 1));
        }
        if record.epoch < epoch {
            return Err(format!("record {seq} is of epoch {}, after one of epoch {epoch}", record.epoch));
        }
        (previous, epoch) = (record.hash, record.epoch);
        checks += 1;
        let Some(body) = &record.body else { return Err(format!("record {seq} has no body")) };
        if let Some((request, first)) = open
            && body.request.as_ref() != Some(request)
        {
            return Err(format!("{request} begins at {first} and is torn at {seq}"));
        }
        let Some(request) = &body.request else { continue };
        let (_, first) = *open.get_or_insert((request, seq));
        let Some(answer) = &body.answer else { continue };
        open = None;
        let Some(asked) = known.asked.get(request) else { return Err(format!("nobody asked for {request}")) };
        if answer.first.0 != first || first <= asked.floor {
            return Err(format!("{request} is in seqs {first} to {seq}; asked for when {} was there", asked.floor));
        }
        if !done.insert(request) {
            return Err(format!("REPEATED: {request} was carried out twice, at {seq} again"));
        }
        if let Some(said) = known.acknowledged.get(request) {
            let exact = (said.last, said.hash) == (seq, record.hash) || (said.repeat && said.last > seq);
            if said.first != first || !exact {
                return Err(format!("{request} is in {first} to {seq}; acknowledged was {said:?}"));
            }
        }
    }
    if let Some((request, first)) = open {
        return Err(format!("{request} begins at {first} and has no end"));
    }
    let lost =
        |(request, said): &(&RequestId, &Acknowledged)| said.last <= evidence.head.seq.0 && !done.contains(request);
    if let Some((request, said)) = known.acknowledged.iter().find(lost) {
        return Err(format!("LOST: {request}, {said:?}"));
    }
    Ok(checks + known.acknowledged.len() as u64)
}
