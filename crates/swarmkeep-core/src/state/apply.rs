//! The only reducer: one record at a time, in order.

use super::State;
use crate::{
    event::Event,
    id::{BlobId, Seq},
    record::{Body, Record},
};

/// Why a record cannot be applied. The state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The record is not the one that comes next.
    #[error("record {seq} does not follow: {what}")]
    Chain {
        /// The record.
        seq: Seq,
        /// Session, seq, hash or time.
        what: &'static str,
    },
    /// The record sets the whole state: decode the blob to a state and call [`State::apply_base`].
    #[error("needs the state in blob {0}")]
    NeedsBase(BlobId),
    /// The record's body was removed: go on from a checkpoint behind it.
    #[error("the body of record {0} was removed")]
    BodyRemoved(Seq),
    /// The event does not fit the state: the log was written by another program, or damaged where no hash can tell.
    #[error("record {seq} does not fit the state: {what}")]
    Inconsistent {
        /// The record.
        seq: Seq,
        /// What is missing or in the way.
        what: String,
    },
}

impl State {
    /// Applies the record that follows [`State::head`].
    ///
    /// # Errors
    /// Any [`ApplyError`]; the state is then as it was. `NeedsBase` for a fork or a rewind.
    pub fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        let body = self.check(record)?;
        if let Event::SessionForked { base, .. } | Event::SessionRewound { base, .. } = &body.event {
            return Err(ApplyError::NeedsBase(*base));
        }
        self.evolve(record.session, record.seq, record.time_ms, &body.actor, &body.event)?;
        self.settle(record, body);
        Ok(())
    }

    /// Applies a fork or a rewind, with the state its blob holds; other records as [`State::apply`] does.
    ///
    /// # Errors
    /// Any [`ApplyError`] but `NeedsBase`; the state is then as it was. `Inconsistent` when `base` stands at another seq
    /// than the record says.
    pub fn apply_base(&mut self, record: &Record, base: &State) -> Result<(), ApplyError> {
        let body = self.check(record)?;
        if !matches!(body.event, Event::SessionForked { .. } | Event::SessionRewound { .. }) {
            return self.apply(record);
        }
        self.evolve_base(record.session, record.seq, record.time_ms, &body.event, base)?;
        self.settle(record, body);
        Ok(())
    }

    /// The record is the next one of this session, and has its body.
    fn check<'a>(&self, record: &'a Record) -> Result<&'a Body, ApplyError> {
        let broken = |what| ApplyError::Chain { seq: record.seq, what };
        if record.seq != self.head.seq.next() {
            return Err(broken("seq"));
        }
        if self.head.seq != Seq::ZERO && record.session != self.info.id {
            return Err(broken("another session's"));
        }
        if record.previous != self.head.hash {
            return Err(broken("hash of the one before"));
        }
        if record.time_ms < self.head.time_ms {
            return Err(broken("time goes back"));
        }
        record.body.as_ref().ok_or(ApplyError::BodyRemoved(record.seq))
    }

    fn settle(&mut self, record: &Record, body: &Body) {
        if let (Some(request), Some(answer)) = (&body.request, &body.answer) {
            self.requests.remember(request, answer, record.seq, record.time_ms);
        }
        self.head = record.head();
    }
}
