//! What can go wrong, by ten public names, how bad it is, and what is done about it.
//!
//! A [`Failure`] is a value: whoever notices one names it, and the history of a store keeps it. Nothing here notices or
//! mends anything. Severity is a function of what failed, how long it has been silent, and what is at stake; the same
//! question has the same answer on every machine.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{id::EntityId, limits, state::EffectClass};

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The stable name, as in JSON.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use names;

names!(
    /// The ten types of failure.
    FailureType {
        /// The holder of a store ended without parking it.
        ProcessCrash = "process_crash",
        /// An agent that gave signs of life gives none.
        AgentUnresponsive = "agent_unresponsive",
        /// A connection to something outside is gone.
        ConnectionLost = "connection_lost",
        /// The other side of a connection does not keep to its protocol.
        ProtocolError = "protocol_error",
        /// Records, or a state made of them, are not what was written.
        StateCorruption = "state_corruption",
        /// A checkpoint is not what was written.
        CheckpointCorruption = "checkpoint_corruption",
        /// The store's device takes nothing, or gives nothing.
        StorageUnavailable = "storage_unavailable",
        /// A bound was reached.
        ResourceExhaustion = "resource_exhaustion",
        /// Somebody else holds what this process meant to write.
        OwnershipConflict = "ownership_conflict",
        /// Nobody knows whether something outside was done.
        OutcomeUnknown = "outcome_unknown",
    }
);

names!(
    /// Why a store's device takes nothing.
    StorageCause {
        /// No room.
        DiskFull = "disk_full",
        /// It cannot be written: mounted read-only, without permission, or failing.
        ReadOnly = "read_only",
        /// Another program has locked what is needed.
        Locked = "locked",
    }
);

names!(
    /// Which bound was reached.
    Exhausted {
        /// RAM for sessions.
        Memory = "memory",
        /// A queue: more comes in than goes out.
        Queue = "queue",
        /// A rate that a caller may not exceed.
        RateLimited = "rate_limited",
    }
);

names!(
    /// How holders got into each other's way.
    OwnershipCause {
        /// Another holder took over; this one's write was refused.
        FencedOut = "fenced_out",
        /// Two holders wrote: histories of one session went separate ways.
        SplitBrain = "split_brain",
    }
);

names!(
    /// How the other side of a connection left its protocol.
    ProtocolCause {
        /// It said what is no message: not text, not JSON, or JSON of another kind.
        NotAMessage = "not_a_message",
        /// Again and again it answered what nobody asked: without an id, or with one that was not given out.
        UnknownId = "unknown_id",
        /// It said more in one piece than is taken.
        TooLong = "too_long",
        /// It named no revision of the protocol, or another one than before.
        Revision = "revision",
    }
);

names!(
    /// Where damage was found.
    Place {
        /// In the journal.
        Journal = "journal",
        /// In records.db.
        Records = "records",
        /// In content that a record names.
        Blob = "blob",
        /// In RAM.
        Resident = "resident",
        /// In a table derived from the records.
        Views = "views",
        /// In a second copy.
        Copy = "copy",
    }
);

names!(
    /// How bad a failure is.
    Severity {
        /// Settled by itself; worth a line in a history.
        Low = "low",
        /// Work waits, or something must be looked at, not at once.
        Medium = "medium",
        /// A session, or the store, does not do its work.
        High = "high",
        /// Acknowledged content is lost, or is about to be.
        Critical = "critical",
    }
);

names!(
    /// What is done about a failure.
    Strategy {
        /// The log is read again from the newest checkpoint: nothing is missing.
        Replay = "replay",
        /// Damaged ranges are taken from a good copy.
        Repair = "repair",
        /// Back to the newest checkpoint that verifies and whose gap the log covers, else to an older one; then replay.
        CheckpointRollback = "CHECKPOINT_ROLLBACK",
        /// The entities that verify; the others are listed.
        PartialRecovery = "PARTIAL_RECOVERY",
        /// Go on, and say what does not hold.
        GracefulDegradation = "GRACEFUL_DEGRADATION",
        /// A person's word is waited for; what can be read stays readable.
        NeedsDecision = "needs_decision",
        /// Its leases run out, its tasks go back to the list, others take them.
        Reassign = "reassign",
        /// The connection is made again, with growing pauses; what is sent meanwhile is queued.
        Reconnect = "reconnect",
        /// Nothing is taken until there is room; then by itself.
        WaitForRoom = "wait_for_room",
        /// Callers wait or are told to come back.
        BackPressure = "back_pressure",
        /// What this process has in RAM is dropped and read again; it writes no more as long as another one holds the store.
        StepBack = "step_back",
        /// A reconciler or a person settles the doubt; what is safe is run again.
        Resolve = "resolve",
    }
);

/// Something that went wrong, with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Failure {
    /// See [`FailureType::ProcessCrash`].
    ProcessCrash {
        /// Acknowledged frames that the tables lacked: they are there.
        #[serde(default)]
        frames_replayed: u64,
        /// Ranges that may have been acknowledged and cannot be read.
        #[serde(default)]
        possibly_acknowledged: u64,
    },
    /// See [`FailureType::AgentUnresponsive`].
    AgentUnresponsive {
        /// Which agent.
        agent: EntityId,
        /// Since its last sign of life, when it was found.
        silent_ms: u64,
    },
    /// See [`FailureType::ConnectionLost`].
    ConnectionLost {
        /// Which connection.
        connection: EntityId,
        /// Since it was lost, or was tried first.
        silent_ms: u64,
        /// Calls that the other side had when it was lost.
        #[serde(default)]
        in_flight: u64,
        /// Those of them of which nobody knows whether they were carried out, and which may not be repeated.
        #[serde(default)]
        in_doubt: u64,
    },
    /// See [`FailureType::ProtocolError`].
    ProtocolError {
        /// Which connection.
        connection: EntityId,
        /// How.
        cause: ProtocolCause,
        /// The first bytes of what it said, escaped; empty where it said nothing.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        beginning: String,
    },
    /// See [`FailureType::StateCorruption`].
    StateCorruption {
        /// Where.
        place: Place,
        /// The first seq concerned, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<u64>,
        /// The last one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<u64>,
    },
    /// See [`FailureType::CheckpointCorruption`].
    CheckpointCorruption {
        /// The seq it stands at, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// See [`FailureType::StorageUnavailable`].
    StorageUnavailable {
        /// Why.
        cause: StorageCause,
    },
    /// See [`FailureType::ResourceExhaustion`].
    ResourceExhaustion {
        /// Of what. `cause` in JSON, as with the others: where failures are kept, `what` is a sentence.
        #[serde(rename = "cause")]
        what: Exhausted,
    },
    /// See [`FailureType::OwnershipConflict`].
    OwnershipConflict {
        /// How.
        cause: OwnershipCause,
    },
    /// See [`FailureType::OutcomeUnknown`].
    OutcomeUnknown {
        /// Which effect.
        effect: EntityId,
        /// What may be done about the doubt.
        class: EffectClass,
    },
}

/// What depends on whatever failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stake {
    /// Acknowledged records that exist nowhere any more, as far as is known.
    pub lost_records: u64,
    /// A good copy of everything concerned exists.
    pub is_covered: bool,
    /// Tasks that wait for it, sessions that are not served because of it, or calls that are in doubt because of it.
    pub waiting: u64,
}

/// Silence from which on something is no longer of low severity: the default length of a lease.
pub const SILENCE_MEDIUM_MS: u64 = limits::LEASE_MS;
/// Silence from which on it is high: as long as a lost connection is tried before it counts as offline for good.
pub const SILENCE_HIGH_MS: u64 = 5 * 60 * 1000;

impl Failure {
    /// Its type.
    #[must_use]
    pub fn kind(&self) -> FailureType {
        match self {
            Self::ProcessCrash { .. } => FailureType::ProcessCrash,
            Self::AgentUnresponsive { .. } => FailureType::AgentUnresponsive,
            Self::ConnectionLost { .. } => FailureType::ConnectionLost,
            Self::ProtocolError { .. } => FailureType::ProtocolError,
            Self::StateCorruption { .. } => FailureType::StateCorruption,
            Self::CheckpointCorruption { .. } => FailureType::CheckpointCorruption,
            Self::StorageUnavailable { .. } => FailureType::StorageUnavailable,
            Self::ResourceExhaustion { .. } => FailureType::ResourceExhaustion,
            Self::OwnershipConflict { .. } => FailureType::OwnershipConflict,
            Self::OutcomeUnknown { .. } => FailureType::OutcomeUnknown,
        }
    }

    /// For how long whatever failed has been silent; 0 where silence says nothing.
    #[must_use]
    pub fn silent_ms(&self) -> u64 {
        match self {
            Self::AgentUnresponsive { silent_ms, .. } | Self::ConnectionLost { silent_ms, .. } => *silent_ms,
            _ => 0,
        }
    }

    /// What it is about within its session, so that the same failure seen again is counted and not listed again.
    #[must_use]
    pub fn about(&self) -> String {
        match self {
            Self::ProcessCrash { .. } => String::new(),
            Self::AgentUnresponsive { agent, .. } => agent.to_string(),
            Self::ConnectionLost { connection, .. } | Self::ProtocolError { connection, .. } => connection.to_string(),
            Self::StateCorruption { place, first, .. } => match first {
                Some(first) => format!("{place} from seq {first}"),
                None => place.to_string(),
            },
            Self::CheckpointCorruption { seq } => seq.map_or_else(String::new, |seq| format!("seq {seq}")),
            Self::StorageUnavailable { cause } => cause.to_string(),
            Self::ResourceExhaustion { what } => what.to_string(),
            Self::OwnershipConflict { cause } => cause.to_string(),
            Self::OutcomeUnknown { effect, .. } => effect.to_string(),
        }
    }

    /// How bad it is: the worst of what the type says by itself, what the silence says, and what is at stake. Each of the
    /// three only ever raises it.
    #[must_use]
    pub fn severity(&self, stake: &Stake) -> Severity {
        let by_type = match self {
            Self::ProcessCrash { possibly_acknowledged: 0, .. } => Severity::Low,
            Self::ProcessCrash { .. } => Severity::Medium,
            Self::AgentUnresponsive { .. }
            | Self::ConnectionLost { .. }
            | Self::ProtocolError { .. }
            // Derived: the records fold it again.
            | Self::CheckpointCorruption { .. }
            | Self::StateCorruption { place: Place::Views | Place::Copy, .. } => Severity::Low,
            Self::StateCorruption { .. } if stake.is_covered => Severity::Medium,
            Self::StateCorruption { .. } => Severity::High,
            Self::StorageUnavailable { cause: StorageCause::Locked } => Severity::Medium,
            Self::StorageUnavailable { .. } => Severity::High,
            Self::ResourceExhaustion { what: Exhausted::RateLimited } => Severity::Low,
            Self::ResourceExhaustion { .. } => Severity::Medium,
            Self::OwnershipConflict { cause: OwnershipCause::SplitBrain } => Severity::Critical,
            Self::OwnershipConflict { .. } => Severity::High,
            Self::OutcomeUnknown { class: EffectClass::Read | EffectClass::Idempotent, .. } => Severity::Low,
            Self::OutcomeUnknown { .. } => Severity::Medium,
        };
        let by_silence = match self.silent_ms() {
            SILENCE_HIGH_MS.. => Severity::High,
            SILENCE_MEDIUM_MS.. => Severity::Medium,
            _ => Severity::Low,
        };
        let by_stake = match stake {
            Stake { lost_records: 1.., .. } => Severity::Critical,
            Stake { waiting: 1.., .. } => Severity::Medium,
            _ => Severity::Low,
        };
        by_type.max(by_silence).max(by_stake)
    }

    /// What is done about it. What a plan for one session comes to ([`crate::recovery`]) may be better than this: damage is
    /// repaired where a good copy exists.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        match self {
            Self::ProcessCrash { .. } => Strategy::Replay,
            Self::AgentUnresponsive { .. } => Strategy::Reassign,
            Self::ConnectionLost { .. } | Self::ProtocolError { .. } => Strategy::Reconnect,
            Self::StateCorruption { place: Place::Views | Place::Resident | Place::Copy, .. } => {
                Strategy::GracefulDegradation
            }
            Self::StateCorruption { .. } => Strategy::Repair,
            Self::CheckpointCorruption { .. } => Strategy::CheckpointRollback,
            Self::StorageUnavailable { .. } => Strategy::WaitForRoom,
            Self::ResourceExhaustion { .. } => Strategy::BackPressure,
            Self::OwnershipConflict { .. } => Strategy::StepBack,
            Self::OutcomeUnknown { .. } => Strategy::Resolve,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, about) = (self.kind(), self.about());
        if about.is_empty() { write!(f, "{kind}") } else { write!(f, "{kind} ({about})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> EntityId {
        EntityId::new(text).unwrap()
    }

    fn one_of_each() -> Vec<Failure> {
        vec![
            Failure::ProcessCrash { frames_replayed: 3, possibly_acknowledged: 0 },
            Failure::AgentUnresponsive { agent: id("a"), silent_ms: 15_000 },
            Failure::ConnectionLost { connection: id("c"), silent_ms: 0, in_flight: 2, in_doubt: 1 },
            Failure::ProtocolError {
                connection: id("c"),
                cause: ProtocolCause::NotAMessage,
                beginning: "hello".to_owned(),
            },
            Failure::StateCorruption { place: Place::Records, first: Some(3), last: Some(9) },
            Failure::CheckpointCorruption { seq: Some(7) },
            Failure::StorageUnavailable { cause: StorageCause::DiskFull },
            Failure::ResourceExhaustion { what: Exhausted::Queue },
            Failure::OwnershipConflict { cause: OwnershipCause::FencedOut },
            Failure::OutcomeUnknown { effect: id("e"), class: EffectClass::AtMostOnce },
        ]
    }

    #[test]
    fn there_are_ten_types_and_their_names_are_those_in_json() {
        let types: Vec<FailureType> = one_of_each().iter().map(Failure::kind).collect();
        assert_eq!(types, FailureType::ALL);
        for failure in one_of_each() {
            let json = serde_json::to_value(&failure).unwrap();
            assert_eq!(json["type"], failure.kind().as_str());
            assert_eq!(serde_json::from_value::<Failure>(json).unwrap(), failure);
        }
    }

    #[test]
    fn silence_and_stakes_only_raise_severity() {
        let stakes = [
            Stake::default(),
            Stake { waiting: 1, ..Stake::default() },
            Stake { lost_records: 1, waiting: 1, is_covered: false },
        ];
        for failure in one_of_each() {
            let severities: Vec<Severity> = stakes.iter().map(|stake| failure.severity(stake)).collect();
            assert!(severities.is_sorted(), "{failure}: {severities:?}");
            assert_eq!(severities.last(), Some(&Severity::Critical));
        }
        let silent = |silent_ms| Failure::AgentUnresponsive { agent: id("a"), silent_ms }.severity(&Stake::default());
        assert_eq!(silent(15_000), Severity::Low);
        assert_eq!(silent(60_000), Severity::Medium);
        assert_eq!(silent(300_000), Severity::High);
    }

    #[test]
    fn damage_with_a_good_copy_is_less_than_damage_without() {
        let damage = Failure::StateCorruption { place: Place::Records, first: Some(1), last: Some(2) };
        let covered = Stake { is_covered: true, ..Stake::default() };
        assert!(damage.severity(&covered) < damage.severity(&Stake::default()));
    }
}
