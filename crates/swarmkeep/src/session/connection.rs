//! What becomes of a session's connections to something outside, as whoever drives one sees it: on the list of failures
//! ([`crate::Swarmkeep::failures`]), not in the log. Nothing here waits.

use swarmkeep_core::{
    EntityId, FailureType,
    failure::{Failure, ProtocolCause, Stake},
};

use super::Session;
use crate::incident::Noticed;

/// A connection that cannot be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Since it was lost, or was tried first.
    pub silent_ms: u64,
    /// Calls that the other side had then.
    pub in_flight: u64,
    /// Those of them that nobody knows about, and that may not be repeated.
    pub in_doubt: u64,
}

/// Something that is not of a connection's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// How.
    pub cause: ProtocolCause,
    /// What, in one sentence.
    pub what: String,
    /// The first bytes of what was said, escaped.
    pub beginning: String,
}

impl Session {
    /// Lists that a connection is lost; the same again, as long as it is, makes it worse with its silence.
    pub fn notice_lost(&self, connection: &EntityId, lost: Lost, what: impl Into<String>) {
        let Lost { silent_ms, in_flight, in_doubt } = lost;
        let failure = Failure::ConnectionLost { connection: connection.clone(), silent_ms, in_flight, in_doubt };
        let stake = Stake { waiting: in_doubt, ..Stake::default() };
        self.engine.notice(Noticed { stake, ..Noticed::new(failure, Some(self.id), what) });
    }

    /// Lists that the other side of a connection does not keep to its protocol: `times` since this was said last.
    pub fn notice_breach(&self, connection: &EntityId, breach: Breach, times: u64) {
        let Breach { cause, what, beginning } = breach;
        let failure = Failure::ProtocolError { connection: connection.clone(), cause, beginning };
        self.engine.notice(Noticed { times, ..Noticed::new(failure, Some(self.id), what) });
    }

    /// What was listed of a connection is over: it is there again, or keeps to its protocol again.
    pub fn notice_mended(&self, connection: &EntityId, kind: FailureType) {
        let engine = &self.engine;
        engine.incidents.connection_is_back(self.id, connection, kind, engine.clock.now_ms());
    }

    /// Nobody wants this connection any more: what was listed of it is over, and was not put right.
    pub fn notice_gone(&self, connection: &EntityId) {
        let engine = &self.engine;
        engine.incidents.connection_is_gone(self.id, connection, engine.clock.now_ms());
    }
}
