//! What was asked, and what was acknowledged: written down outside the store, before the client that got the answer goes
//! on. Nothing here comes from the store but by an answer that somebody got.
//!
//! What somebody was shown is read and folded here once, record by record ([`Known::read`]): later the store is compared
//! with it, and not folded again.

pub mod times;

use std::collections::{BTreeMap, BTreeSet};

use swarmkeep::{Reply, Seq, State};
use swarmkeep_core::{BlobId, Hash, RequestId, command::Command};

use self::times::Times;
use crate::invariant::{effects::Attempts, fold::Fold, leases::Leases, order::Chain};

/// A request that somebody made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where the session stood at least when it was first made: its records come after.
    pub floor: u64,
    /// What was asked.
    pub commands: Vec<Command>,
}

/// An answer that somebody got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Seq of its first record.
    pub first: u64,
    /// Seq of its last; of a repeat, at least that.
    pub last: u64,
    /// Hash of the record at `last`; of a fork it was not said.
    pub hash: Option<Hash>,
    /// It was said that this had been done before. The answer to a repeat may have changed with later records (an effect has
    /// come into doubt since), and then says up to where it looked.
    pub repeat: bool,
}

/// What has been read of a session's records, each once.
#[derive(Debug, Default)]
pub struct Read {
    /// Their hashes, from seq 1.
    pub hashes: Vec<Hash>,
    /// See [`crate::invariant::order`].
    pub chain: Chain,
    /// See [`crate::invariant::fold`].
    pub fold: Fold,
    /// See [`crate::invariant::effects`].
    pub attempts: Attempts,
}

/// What is known of one session.
#[derive(Debug, Default)]
pub struct Known {
    /// Requests made.
    pub asked: BTreeMap<RequestId, Asked>,
    /// Groups acknowledged.
    pub acknowledged: BTreeMap<RequestId, Acknowledged>,
    /// Records that somebody was shown, by seq: by an answer, a read, a feed. Those that were read since are not here.
    pub shown: BTreeMap<u64, Hash>,
    /// The highest that somebody was shown.
    pub floor: u64,
    /// Blobs that are there.
    pub blobs: BTreeSet<BlobId>,
    /// The records that were read.
    pub read: Read,
    /// Tasks' leases, and signs of life.
    pub leases: Leases,
    /// Somebody asked for the removal of the records up to here, below a checkpoint.
    pub trimmed: u64,
    /// First records of sessions of this name that were removed: none may come back.
    pub past: BTreeSet<Hash>,
}

impl Known {
    /// How far it was read.
    #[must_use]
    pub fn read_to(&self) -> u64 {
        self.read.hashes.len() as u64
    }

    /// The session was removed: what comes under its name is another one. What was asked may still arrive, and is asked of
    /// that one then.
    pub fn is_removed(&mut self) {
        let mut past = std::mem::take(&mut self.past);
        past.extend(self.read.hashes.first());
        past.extend(self.shown.get(&1));
        let asked = std::mem::take(&mut self.asked);
        let asked = asked.into_iter().map(|(request, asked)| (request, Asked { floor: 0, ..asked })).collect();
        *self = Self { asked, past, ..Self::default() };
    }
}

/// The record of a world.
#[derive(Debug)]
pub struct Oracle {
    /// By session.
    pub sessions: Vec<Known>,
    /// States by the hash of the record they stand at: what forks begin with.
    pub states: BTreeMap<Hash, State>,
    /// A blob that rots: until it is put back, it may be said to be damaged.
    pub rotten: Option<(usize, BlobId)>,
    /// When what happened.
    pub times: Times,
    /// Answers with records.
    pub acknowledged: u64,
    /// Answers that said: done before.
    pub repeated: u64,
}

impl Oracle {
    /// Of so many sessions.
    #[must_use]
    pub fn new(sessions: usize) -> Self {
        Self {
            sessions: (0..sessions).map(|_| Known::default()).collect(),
            states: BTreeMap::new(),
            rotten: None,
            times: Times::default(),
            acknowledged: 0,
            repeated: 0,
        }
    }

    /// Somebody asks for something, for the first time or again.
    pub fn asks(&mut self, session: usize, request: &RequestId, commands: &[Command]) {
        let known = &mut self.sessions[session];
        let floor = known.floor;
        known.asked.entry(request.clone()).or_insert_with(|| Asked { floor, commands: commands.to_vec() });
    }

    /// Somebody got an answer.
    ///
    /// # Errors
    /// When it cannot be true.
    pub fn acknowledges(&mut self, session: usize, request: &RequestId, reply: &Reply) -> Result<(), String> {
        let (first, last, hash) = (reply.first.0, reply.head.seq.0, reply.head.hash);
        if first > 0 {
            let said = Acknowledged { first, last, hash: Some(hash), repeat: reply.repeated };
            self.takes(session, request, said)?;
        }
        self.shows(session, last, hash)
    }

    /// Somebody made a fork.
    ///
    /// # Errors
    /// When it cannot be true.
    pub fn forks(&mut self, to: usize, request: &RequestId, state: &State) -> Result<(), String> {
        self.takes(to, request, Acknowledged { first: 1, last: 1, hash: None, repeat: false })?;
        self.shows(to, state.head.seq.0, state.head.hash)
    }

    fn takes(&mut self, session: usize, request: &RequestId, said: Acknowledged) -> Result<(), String> {
        let known = &mut self.sessions[session];
        let asked = known.asked.get(request).ok_or_else(|| format!("{request}: an answer to what nobody asked"))?;
        if said.first <= asked.floor {
            return Err(format!("{request}: {said:?}, though {} was there before it", asked.floor));
        }
        if let Some(before) = known.acknowledged.insert(request.clone(), said.clone()) {
            return Err(format!("{request} is acknowledged to one client twice: {before:?} and {said:?}"));
        }
        self.acknowledged += 1;
        self.repeated += u64::from(said.repeat);
        Ok(())
    }

    /// Somebody was shown a record.
    ///
    /// # Errors
    /// When somebody was shown another one there.
    pub fn shows(&mut self, session: usize, seq: u64, hash: Hash) -> Result<(), String> {
        let known = &mut self.sessions[session];
        let Some(at) = usize::try_from(seq).ok().and_then(|seq| seq.checked_sub(1)) else { return Ok(()) };
        if seq == 1 && known.past.contains(&hash) {
            return Err("a session that was removed is back".into());
        }
        let before = match known.read.hashes.get(at) {
            Some(read) => Some(*read),
            None => known.shown.insert(seq, hash),
        };
        if let Some(before) = before.filter(|before| *before != hash) {
            return Err(format!("record {seq} was shown as {before} and as {hash}"));
        }
        known.floor = known.floor.max(seq);
        Ok(())
    }

    /// The state of a session as it was at a seq, if it was read that far.
    #[must_use]
    pub fn state_at(&self, session: usize, seq: Seq) -> Option<&State> {
        self.sessions[session].read.fold.state_at(seq)
    }
}
