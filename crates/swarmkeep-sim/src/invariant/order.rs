//! Order: one chain; a group whole or not at all; a request once; what was acknowledged where it was said to be; nothing
//! that nobody asked for; epochs never go back.

use std::collections::{BTreeMap, BTreeSet};

use swarmkeep_core::{Epoch, Hash, Record, RequestId};

use super::Evidence;
use crate::oracle::{Acknowledged, Asked, Known};

/// A session's log, as far as it was read.
#[derive(Debug, Default)]
pub struct Chain {
    previous: Hash,
    epoch: Epoch,
    done: BTreeSet<RequestId>,
    /// The group whose last record has not come yet.
    open: Option<(RequestId, u64)>,
}

impl Chain {
    /// The next record.
    ///
    /// # Errors
    /// What is not so.
    pub fn next(
        &mut self,
        asked: &BTreeMap<RequestId, Asked>,
        acknowledged: &BTreeMap<RequestId, Acknowledged>,
        record: &Record,
    ) -> Result<(), String> {
        let seq = record.seq.0;
        if record.previous != self.previous {
            return Err(format!("record {seq} does not follow {}", self.previous));
        }
        if record.epoch < self.epoch {
            return Err(format!("record {seq} is of epoch {}, after one of epoch {}", record.epoch, self.epoch));
        }
        (self.previous, self.epoch) = (record.hash, record.epoch);
        let Some(body) = &record.body else { return Err(format!("record {seq} has no body")) };
        if let Some((request, first)) = &self.open
            && body.request.as_ref() != Some(request)
        {
            return Err(format!("{request} begins at {first} and is torn at {seq}"));
        }
        let Some(request) = &body.request else { return Ok(()) };
        let (_, first) = self.open.get_or_insert_with(|| (request.clone(), seq)).clone();
        let Some(answer) = &body.answer else { return Ok(()) };
        self.open = None;
        let Some(asked) = asked.get(request) else {
            return Err(format!("{request}, at {seq}: nobody asked for it here, or it was carried out before"));
        };
        if answer.first.0 != first || first <= asked.floor {
            return Err(format!("{request} is in seqs {first} to {seq}; asked for when {} was there", asked.floor));
        }
        if !self.done.insert(request.clone()) {
            return Err(format!("REPEATED: {request} was carried out twice, at {seq} again"));
        }
        if let Some(said) = acknowledged.get(request) {
            let exact = said.last == seq && said.hash.is_none_or(|hash| hash == record.hash);
            if said.first != first || !(exact || (said.repeat && said.last > seq)) {
                return Err(format!("{request} is in {first} to {seq}; acknowledged was {said:?}"));
            }
        }
        Ok(())
    }
}

/// What was acknowledged by where the session ends is in it, and its last group is whole.
///
/// # Errors
/// What is missing.
pub fn acknowledged(known: &Known, evidence: &Evidence) -> Result<u64, String> {
    let chain = &known.read.chain;
    if let Some((request, first)) = &chain.open {
        return Err(format!("{request} begins at {first} and has no end"));
    }
    let lost = |(request, said): &(&RequestId, &Acknowledged)| {
        said.last <= evidence.head.seq.0 && !chain.done.contains(*request)
    };
    match known.acknowledged.iter().find(lost) {
        Some((request, said)) => Err(format!("LOST: {request}, {said:?}")),
        None => Ok(known.acknowledged.len() as u64),
    }
}
