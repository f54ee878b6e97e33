//! What was asked, and what was acknowledged: written down outside the store, before the client that got the answer goes
//! on. Nothing here comes from the store but by an answer that somebody got.

use std::collections::BTreeMap;

use swarmkeep::Reply;
use swarmkeep_core::{Hash, RequestId};

/// A request that somebody made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where the session stood at least when it was first made: its records come after.
    pub floor: u64,
}

/// An answer that somebody got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Seq of its first record.
    pub first: u64,
    /// Seq of its last; of a repeat, at least that.
    pub last: u64,
    /// Hash of the record at `last`.
    pub hash: Hash,
    /// It was said that this had been done before. The answer to a repeat may have changed with later records (an effect has
    /// come into doubt since), and then says up to where it looked.
    pub repeat: bool,
}

/// What is known of one session.
#[derive(Debug, Default)]
pub struct Known {
    /// Requests made.
    pub asked: BTreeMap<RequestId, Asked>,
    /// Groups acknowledged.
    pub acknowledged: BTreeMap<RequestId, Acknowledged>,
    /// Records that somebody was shown, by seq: by an answer, a read, a feed.
    pub shown: BTreeMap<u64, Hash>,
    /// The highest of them.
    pub floor: u64,
}

/// The record of a world.
#[derive(Debug)]
pub struct Oracle {
    /// By session.
    pub sessions: Vec<Known>,
    /// Answers with records.
    pub acknowledged: u64,
    /// Answers that said: done before.
    pub repeated: u64,
}

impl Oracle {
    /// Of so many sessions.
    #[must_use]
    pub fn new(sessions: usize) -> Self {
        Self { sessions: (0..sessions).map(|_| Known::default()).collect(), acknowledged: 0, repeated: 0 }
    }

    /// Somebody asks for something, for the first time or again.
    pub fn asks(&mut self, session: usize, request: &RequestId) {
        let known = &mut self.sessions[session];
        let floor = known.floor;
        known.asked.entry(request.clone()).or_insert(Asked { floor });
    }

    /// Somebody got an answer.
    ///
    /// # Errors
    /// When it cannot be true.
    pub fn acknowledges(&mut self, session: usize, request: &RequestId, reply: &Reply) -> Result<(), String> {
        let known = &mut self.sessions[session];
        let (first, last, hash) = (reply.first.0, reply.head.seq.0, reply.head.hash);
        if first == 0 {
            return self.shows(session, last, hash);
        }
        let asked = known.asked.get(request).ok_or_else(|| format!("{request}: an answer to what nobody asked"))?;
        if first <= asked.floor {
            return Err(format!("{request}: in seqs {first} to {last}, though {} was there before it", asked.floor));
        }
        let now = Acknowledged { first, last, hash, repeat: reply.repeated };
        if let Some(before) = known.acknowledged.insert(request.clone(), now.clone()) {
            return Err(format!("{request} is acknowledged to one client twice: {before:?} and {now:?}"));
        }
        self.acknowledged += 1;
        self.repeated += u64::from(reply.repeated);
        self.shows(session, last, hash)
    }

    /// Somebody was shown a record.
    ///
    /// # Errors
    /// When somebody was shown another one there.
    pub fn shows(&mut self, session: usize, seq: u64, hash: Hash) -> Result<(), String> {
        let known = &mut self.sessions[session];
        if seq == 0 {
            return Ok(());
        }
        match known.shown.insert(seq, hash) {
            Some(before) if before != hash => {
                return Err(format!("record {seq} was shown as {before} and as {hash}"));
            }
            _ => {}
        }
        known.floor = known.floor.max(seq);
        Ok(())
    }
}
