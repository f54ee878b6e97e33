//! The fold is equal everywhere: the resident state and every checkpoint are the fold of the records, as the oracle folded
//! them. A fork begins with the state of its origin at that record; a rewind sets back to the session's own at that seq;
//! whatever the blob holds that the store reads them from.

use std::collections::BTreeMap;

use swarmkeep_core::{BlobId, Event, Hash, Record, Seq, State, session::fold_record, state::forked_base};

use super::Evidence;

/// A session's states, each of which was folded once: they share what does not differ.
#[derive(Debug, Default)]
pub struct Fold {
    /// By seq, from 0.
    states: Vec<State>,
    /// Hashes of canonical bytes that were compared already, by seq.
    same: BTreeMap<u64, Hash>,
}

impl Fold {
    /// The next record. False: it begins with a state that was not read yet.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn next(&mut self, record: &Record, states: &BTreeMap<Hash, State>) -> Result<bool, String> {
        if self.states.is_empty() {
            self.states.push(State::default());
        }
        let base = match record.body.as_ref().map(|body| &body.event) {
            Some(Event::SessionForked { at_hash, .. }) => match states.get(at_hash) {
                None => return Ok(false),
                Some(origin) => Some(forked_base(origin)),
            },
            Some(Event::SessionRewound { to, .. }) => self.state_at(*to).cloned(),
            _ => None,
        };
        let mut state = self.newest().clone();
        let mut base = |blob: BlobId| base.clone().ok_or_else(|| format!("no state for {blob}"));
        fold_record(&mut state, record, &mut base).map_err(|error| format!("at {}: {error}", record.seq))?;
        self.states.push(state);
        Ok(true)
    }

    /// The state at a seq.
    #[must_use]
    pub fn state_at(&self, seq: Seq) -> Option<&State> {
        self.states.get(usize::try_from(seq.0).ok()?)
    }

    /// The newest state.
    ///
    /// # Panics
    /// Before the first record.
    #[must_use]
    pub fn newest(&self) -> &State {
        self.states.last().expect("the empty state is there from the first record on")
    }

    /// The state before the newest record.
    #[must_use]
    pub fn before(&self) -> Option<&State> {
        self.states.len().checked_sub(2).and_then(|at| self.states.get(at))
    }

    /// The state after a first record that brought one along.
    #[must_use]
    pub fn begins_with(&self, record: &Record) -> Option<&State> {
        let is_fork = matches!(record.body.as_ref().map(|body| &body.event), Some(Event::SessionForked { .. }));
        is_fork.then(|| self.newest())
    }

    /// Compares what the store shows with the fold.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&mut self, evidence: &Evidence) -> Result<u64, String> {
        let head = evidence.head.seq;
        let resident = Hash(*blake3::hash(&evidence.canonical).as_bytes());
        if head > Seq::ZERO && !self.is(head, resident) {
            return Err(format!("the resident state at {head} is not the fold of its records"));
        }
        let Some(saved) = &evidence.saved else { return Ok(1) };
        let bytes = Hash(*blake3::hash(&saved.canonical).as_bytes());
        if saved.head.seq > head || !self.is(saved.head.seq, bytes) {
            return Err(format!("the checkpoint at {} is not the fold of the records", saved.head.seq));
        }
        Ok(2)
    }

    fn is(&mut self, seq: Seq, canonical: Hash) -> bool {
        if self.same.get(&seq.0) == Some(&canonical) {
            return true;
        }
        let same = self.state_at(seq).is_some_and(|state| state.hash() == canonical);
        if same {
            self.same.insert(seq.0, canonical);
        }
        same
    }
}
