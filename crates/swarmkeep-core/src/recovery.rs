//! A recovery as a value: what is seen of a session becomes a [`Plan`], before anything is touched.
//!
//! [`plan`] is a pure function: the same sight gives the same plan. A plan can be printed, estimated, refused; whoever has
//! the bytes carries it out, step by step. The rule behind all of it: acknowledged state is never given up by a program on
//! its own. Where a plan would lose some, it waits for a person ([`Strategy::NeedsDecision`]) and says what it recommends,
//! unless the policy of whoever runs the store allows it.

mod range;
mod validation;

use serde::{Deserialize, Serialize};

use self::range::after;
pub use self::{
    range::{Range, Ranges},
    validation::{Check, CheckName, Validation, Violation, validate},
};
use crate::{
    failure::{Severity, Strategy, names},
    id::{Seq, SessionId},
};

/// Attempts at one recovery; after them the session waits for a person.
pub const ATTEMPTS: u32 = 3;
/// A session that stood this long without another failure has its attempts counted from zero again.
pub const STABLE_MS: u64 = 5 * 60 * 1000;

/// Below this, and [`RECORDS_LOW`], coming back is of low complexity.
pub const STATE_BYTES_LOW: u64 = 1 << 20;
/// Records to replay. Ten times as much of either is of medium complexity, more is of high.
pub const RECORDS_LOW: u64 = 1_000;

/// State decoded per millisecond, for estimates: what two slow cores do.
const STATE_BYTES_PER_MS: u64 = 50_000;
/// Records folded per millisecond, for estimates.
const RECORDS_PER_MS: u64 = 100;
/// Records taken from a second copy and written per millisecond, for estimates: synced in batches.
const REPAIRED_PER_MS: u64 = 10;

names!(
    /// Something in a session that is not as it should be, by seed names.
    FindingKind {
        /// Bytes are not those that were written, or not there.
        Integrity = "INTEGRITY_VIOLATION",
        /// Entities do not fit together.
        Consistency = "CONSISTENCY_VIOLATION",
        /// A rule of the vocabulary is broken.
        Constraint = "CONSTRAINT_VIOLATION",
    }
);

impl FindingKind {
    /// How bad it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::Integrity => Severity::High,
            Self::Consistency => Severity::Medium,
            Self::Constraint => Severity::Low,
        }
    }
}

/// A finding, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which kind.
    pub kind: FindingKind,
    /// What, and where.
    pub what: String,
}

/// How much work coming back is: decides how many sessions come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Complexity {
    /// Eight at a time.
    Low,
    /// Four at a time.
    Medium,
    /// One by one.
    High,
}

impl Complexity {
    /// Of a state of so many bytes and so many records to replay.
    #[must_use]
    pub fn of(state_bytes: u64, records: u64) -> Self {
        let of = |value: u64, low: u64| match value {
            value if value < low => Self::Low,
            value if value < 10 * low => Self::Medium,
            _ => Self::High,
        };
        of(state_bytes, STATE_BYTES_LOW).max(of(records, RECORDS_LOW))
    }

    /// How many sessions of it come back at once.
    #[must_use]
    pub fn at_once(self) -> usize {
        match self {
            Self::Low => 8,
            Self::Medium => 4,
            Self::High => 1,
        }
    }
}

/// A checkpoint that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenCheckpoint {
    /// The record it stands at.
    pub seq: Seq,
    /// Its hash holds, it decodes, and it is of this session.
    pub is_valid: bool,
}

/// A part of a session, other than records and checkpoints, that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenPart {
    /// Which: `session row`, `blob ID`.
    pub what: String,
    /// It can be made again, or a second copy of it was found.
    pub has_copy: bool,
}

/// What is seen of a session, from outside the damage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which session.
    pub session: SessionId,
    /// The last seq that something undamaged speaks of: the session's row, a frame's directory, a file in quarantine. 0:
    /// nothing does.
    pub known_head: Seq,
    /// Records through here were removed on purpose; a checkpoint at or beyond stands for them.
    pub removed_through: Seq,
    /// Bytes of the newest checkpoint that verifies.
    pub state_bytes: u64,
    /// Checkpoints, in any order.
    pub checkpoints: Vec<SeenCheckpoint>,
    /// Records that verify where they belong.
    pub readable: Ranges,
    /// Records of which a second copy was found.
    pub copies: Ranges,
    /// Records that an earlier recovery listed as lost, below a checkpoint that has what they did: no news.
    pub lost_before: Ranges,
    /// Other parts that are damaged.
    pub parts: Vec<SeenPart>,
    /// Attempts at recovering it since it last stood for [`STABLE_MS`].
    pub attempts: u32,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// What whoever runs the store allows without being asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Going back to the newest state that can be had, although acknowledged records after it are lost by that.
    pub accept_loss: bool,
    /// Giving up a session of which nothing can be had. No setting says so: only a person, of one session.
    #[serde(default)]
    pub start_fresh: bool,
}

/// One thing to do. Each may be done again: the second time changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// What is damaged, and what is whole and would be out of reach, is copied to quarantine; nothing is deleted.
    Quarantine {
        /// Records concerned.
        range: Range,
    },
    /// Records are taken from a second copy and put back where they belong.
    RepairRange {
        /// Which.
        range: Range,
    },
    /// Something else is made again, or put back from a second copy.
    RepairPart {
        /// What.
        what: String,
    },
    /// The session ends here from now on. What came after is in quarantine.
    RollBack {
        /// Its last record.
        to: Seq,
    },
    /// The session is given up: nothing of it can be had. What there is of it is in quarantine, and its name is free.
    StartFresh,
    /// The state at a checkpoint; seq 0: the empty one.
    LoadCheckpoint {
        /// At which record.
        seq: Seq,
    },
    /// The records after it are folded.
    Replay {
        /// Which.
        range: Range,
    },
    /// Hashes, chain and head are compared.
    Verify,
    /// Entities are compared with each other.
    Validate,
    /// What came of it is written down.
    Record,
    /// A person's word is waited for.
    Wait,
}

impl Step {
    /// Its place in a plan: steps never come in another order.
    #[must_use]
    pub fn order(&self) -> u8 {
        match self {
            Self::Quarantine { .. } => 0,
            Self::RepairRange { .. } | Self::RepairPart { .. } => 1,
            Self::RollBack { .. } | Self::StartFresh => 2,
            Self::LoadCheckpoint { .. } => 3,
            Self::Replay { .. } => 4,
            Self::Verify => 5,
            Self::Validate => 6,
            Self::Record => 7,
            Self::Wait => 8,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Quarantine { range } => write!(f, "copy what there is of seq {range} to quarantine"),
            Self::RepairRange { range } => write!(f, "put seq {range} back from a second copy"),
            Self::RepairPart { what } => write!(f, "put right: {what}"),
            Self::RollBack { to } => write!(f, "go back to seq {to}; what came after is kept in quarantine"),
            Self::StartFresh => {
                f.write_str("give the session up: what there is of it is kept in quarantine, and its name is free")
            }
            Self::LoadCheckpoint { seq: Seq(0) } => f.write_str("begin with the empty state"),
            Self::LoadCheckpoint { seq } => write!(f, "load the checkpoint at seq {seq}"),
            Self::Replay { range } => write!(f, "replay seq {range}"),
            Self::Verify => f.write_str("verify hashes, chain and head"),
            Self::Validate => f.write_str("compare agents, tasks, connections and memory with each other"),
            Self::Record => f.write_str("write down what came of it"),
            Self::Wait => f.write_str("wait for a person's word; what can be read stays readable"),
        }
    }
}

names!(
    /// What a person is advised to do.
    Action {
        /// Nothing.
        None = "none",
        /// Look at what was listed.
        Review = "review",
        /// Bring the store back from a copy.
        RestoreFromCopy = "restore_from_copy",
        /// Accept the loss: go back to the newest state that can be had.
        AcceptRollback = "accept_rollback",
        /// Begin again under another name, or accept an empty session.
        StartFresh = "start_fresh",
    }
);

/// What a plan loses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Acknowledged records that are not part of the state any more.
    pub state: Ranges,
    /// Acknowledged records that are still part of the state (a later checkpoint has what they did), and cannot be read.
    pub history: Ranges,
    /// Other parts that exist nowhere any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// `100 × records of state lost ÷ known head`; 0 when nothing is known.
    pub percent: f64,
}

impl Loss {
    /// Whether nothing is lost.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.state.is_empty() && self.history.is_empty() && self.parts.is_empty()
    }
}

/// `100 × part ÷ whole`, 0 of nothing.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a percentage of counts far below 2^52")]
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// A recovery, written down before anything is touched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Which session.
    pub session: SessionId,
    /// How much work it is.
    pub complexity: Complexity,
    /// What kind of recovery it is.
    pub strategy: Strategy,
    /// With [`Strategy::NeedsDecision`]: what would be done if somebody says yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed: Option<Strategy>,
    /// What a person is advised to do.
    pub recommended: Action,
    /// In the order in which they are done.
    pub steps: Vec<Step>,
    /// The seq that the session stands at afterwards (with [`Strategy::NeedsDecision`]: if somebody says yes).
    pub reaches: Seq,
    /// The head known outside the damage: what a loss is a percentage of.
    pub known_head: Seq,
    /// What is lost by it (with [`Strategy::NeedsDecision`]: if somebody says yes).
    pub loss: Loss,
    /// About how long it takes, in milliseconds.
    pub estimated_ms: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Plan {
    /// Whether a person's word is needed.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.strategy == Strategy::NeedsDecision
    }

    /// Whether nothing is wrong: the session comes back as every session does.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.strategy == Strategy::Replay
    }
}

/// From where, and how far, a session can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    from: Seq,
    to: Seq,
}

/// The farthest of all ways; of those equally far, the one with the least to replay.
fn way(seen: &Seen, records: &Ranges) -> Option<Way> {
    let empty = (seen.removed_through == Seq::ZERO).then_some(Seq::ZERO);
    let valid = seen.checkpoints.iter().filter(|checkpoint| checkpoint.is_valid).map(|checkpoint| checkpoint.seq);
    valid.chain(empty).map(|from| Way { from, to: records.reach(from) }).max_by_key(|way| (way.to, way.from))
}

/// Makes the plan for a session.
#[must_use]
pub fn plan(seen: &Seen, policy: Policy) -> Plan {
    let end = known_end(seen);
    let all = Ranges::from(beyond(seen.removed_through, end));
    let gaps = all.without(&seen.readable).without(&seen.lost_before);
    let copied = gaps.within(&seen.copies);
    let records = seen.readable.union(&copied);
    let lost = gaps.without(&copied);
    let found = way(seen, &records);
    let (from, to) = found.map_or((Seq::ZERO, Seq::ZERO), |way| (way.from, way.to.min(end)));
    let given_up = Ranges::from(beyond(to, end));
    // Beyond what can be reached nothing is put back: it is kept aside.
    let repairs = copied.without(&given_up);
    let loss = Loss {
        history: lost.without(&given_up),
        parts: seen.parts.iter().filter(|part| !part.has_copy).map(|part| part.what.clone()).collect(),
        percent: percent(given_up.count(), end.0),
        state: given_up.clone(),
    };
    let nothing = found.is_none() || (to == Seq::ZERO && end > Seq::ZERO);

    let is_damaged = !gaps.is_empty() || seen.checkpoints.iter().any(|checkpoint| !checkpoint.is_valid);
    let worst = seen.findings.iter().map(|finding| finding.kind.severity()).max();
    let would = if !given_up.is_empty() || !lost.is_empty() {
        Strategy::CheckpointRollback
    } else if !loss.parts.is_empty() {
        Strategy::PartialRecovery
    } else if !repairs.is_empty() || !seen.parts.is_empty() {
        Strategy::Repair
    } else if is_damaged || worst == Some(Severity::High) {
        Strategy::CheckpointRollback
    } else {
        match worst {
            Some(Severity::Medium) => Strategy::PartialRecovery,
            Some(_) => Strategy::GracefulDegradation,
            None => Strategy::Replay,
        }
    };
    let is_allowed = if nothing { policy.start_fresh } else { policy.accept_loss };
    let waits = seen.attempts >= ATTEMPTS || (!given_up.is_empty() && !is_allowed);
    let recommended = match would {
        _ if nothing && end > Seq::ZERO && !waits => Action::StartFresh,
        _ if nothing && end > Seq::ZERO => Action::RestoreFromCopy,
        _ if !given_up.is_empty() && waits => Action::AcceptRollback,
        _ if waits => Action::RestoreFromCopy,
        Strategy::PartialRecovery | Strategy::GracefulDegradation => Action::Review,
        // Somebody accepts it: what it costs is to be looked at first.
        _ if !given_up.is_empty() => Action::Review,
        _ => Action::None,
    };

    // What is damaged; and what is out of reach, and whole: kept all the same.
    let aside = gaps.union(&records.within(&given_up));
    let mut steps: Vec<Step> = aside.iter().map(|range| Step::Quarantine { range }).collect();
    if waits {
        steps.extend([Step::Record, Step::Wait]);
    } else if nothing && !given_up.is_empty() {
        steps.extend([Step::StartFresh, Step::Record]);
    } else {
        steps.extend(repairs.iter().map(|range| Step::RepairRange { range }));
        let parts = seen.parts.iter().filter(|part| part.has_copy).map(|part| part.what.clone());
        let derived = seen.checkpoints.iter().filter(|checkpoint| !checkpoint.is_valid);
        let derived = derived.map(|checkpoint| format!("checkpoint at seq {}", checkpoint.seq));
        let mut parts: Vec<String> = parts.chain(derived).collect();
        parts.sort_unstable();
        parts.dedup();
        steps.extend(parts.into_iter().map(|what| Step::RepairPart { what }));
        steps.extend((!given_up.is_empty()).then_some(Step::RollBack { to }));
        steps.push(Step::LoadCheckpoint { seq: from });
        steps.extend(beyond(from, to).map(|range| Step::Replay { range }));
        steps.extend([Step::Verify, Step::Validate, Step::Record]);
    }
    let replayed = to.0.saturating_sub(from.0);
    Plan {
        session: seen.session,
        complexity: Complexity::of(seen.state_bytes, replayed),
        strategy: if waits { Strategy::NeedsDecision } else { would },
        proposed: waits.then_some(would),
        recommended,
        steps,
        reaches: to,
        known_head: end,
        loss,
        estimated_ms: 1
            + seen.state_bytes / STATE_BYTES_PER_MS
            + replayed / RECORDS_PER_MS
            + repairs.count() / REPAIRED_PER_MS,
        findings: seen.findings.clone(),
    }
}

/// What comes after `from`, through `to`.
fn beyond(from: Seq, to: Seq) -> Option<Range> {
    (from < to).then(|| Range { first: after(from), last: to })
}

/// The last seq that anything undamaged speaks of.
fn known_end(seen: &Seen) -> Seq {
    let checkpoints = seen.checkpoints.iter().filter(|checkpoint| checkpoint.is_valid).map(|checkpoint| checkpoint.seq);
    let ranges = [&seen.readable, &seen.copies].into_iter().filter_map(|ranges| ranges.last());
    checkpoints.chain(ranges).chain([seen.known_head, seen.removed_through]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Ranges {
        list.iter().map(|&(first, last)| Range { first: Seq(first), last: Seq(last) }).collect()
    }

    fn seen(head: u64, readable: &[(u64, u64)], checkpoints: &[(u64, bool)]) -> Seen {
        let checkpoints = checkpoints.iter().map(|&(seq, is_valid)| SeenCheckpoint { seq: Seq(seq), is_valid });
        Seen {
            known_head: Seq(head),
            readable: ranges(readable),
            checkpoints: checkpoints.collect(),
            ..Seen::default()
        }
    }

    fn asked(seen: &Seen) -> Plan {
        plan(seen, Policy::default())
    }

    #[test]
    fn a_session_without_damage_is_replayed_from_its_newest_checkpoint() {
        let plan = asked(&seen(100, &[(1, 100)], &[(40, true), (90, true)]));
        assert!(plan.is_plain() && !plan.waits());
        assert_eq!(plan.steps[0], Step::LoadCheckpoint { seq: Seq(90) });
        assert_eq!(plan.steps[1], Step::Replay { range: Range { first: Seq(91), last: Seq(100) } });
        assert!(plan.loss.state.is_empty() && plan.loss.history.is_empty());
    }

    #[test]
    fn a_gap_with_a_second_copy_is_repaired_and_nothing_is_lost() {
        let mut seen = seen(100, &[(1, 50), (61, 100)], &[]);
        seen.copies = ranges(&[(40, 70)]);
        let plan = asked(&seen);
        assert_eq!(plan.strategy, Strategy::Repair);
        assert!(plan.steps.contains(&Step::RepairRange { range: Range { first: Seq(51), last: Seq(60) } }));
        assert_eq!((plan.reaches, plan.loss.state.count()), (Seq(100), 0));
    }

    #[test]
    fn a_gap_below_a_good_checkpoint_costs_history_and_no_state() {
        let plan = asked(&seen(100, &[(1, 50), (61, 100)], &[(80, true)]));
        assert_eq!(plan.strategy, Strategy::CheckpointRollback);
        assert!(!plan.waits());
        assert_eq!((plan.loss.state.count(), plan.loss.history.count()), (0, 10));
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over_for_an_older_one() {
        let plan = asked(&seen(100, &[(1, 100)], &[(80, true), (95, false)]));
        assert_eq!(plan.strategy, Strategy::CheckpointRollback);
        assert_eq!(plan.steps[0], Step::RepairPart { what: "checkpoint at seq 95".into() });
        assert_eq!(plan.steps[1], Step::LoadCheckpoint { seq: Seq(80) });
        assert_eq!(plan.loss, Loss::default());
    }

    #[test]
    fn loss_of_state_waits_for_a_person_unless_the_policy_says_otherwise() {
        let seen = seen(100, &[(1, 50), (61, 100)], &[(40, true)]);
        let waiting = asked(&seen);
        assert!(waiting.waits());
        assert_eq!(
            (waiting.proposed, waiting.recommended),
            (Some(Strategy::CheckpointRollback), Action::AcceptRollback)
        );
        assert_eq!((waiting.reaches, waiting.loss.state.count()), (Seq(50), 50));
        assert!((waiting.loss.percent - 50.0).abs() < 1e-9);
        assert_eq!(waiting.steps.last(), Some(&Step::Wait));
        let accepted = plan(&seen, Policy { accept_loss: true, ..Policy::default() });
        assert!(!accepted.waits());
        assert_eq!((&accepted.loss, accepted.recommended), (&waiting.loss, Action::Review));
        // What lies beyond the gap is whole, and kept.
        assert!(accepted.steps.contains(&Step::Quarantine { range: Range { first: Seq(51), last: Seq(100) } }));
        assert!(accepted.steps.contains(&Step::RollBack { to: Seq(50) }));
    }

    #[test]
    fn what_was_listed_as_lost_is_no_news_and_no_bridge() {
        let mut seen = seen(100, &[(1, 50), (61, 100)], &[(80, true)]);
        seen.lost_before = ranges(&[(51, 60)]);
        assert!(asked(&seen).is_plain());
        // Once the checkpoint above it is gone too, state is lost.
        seen.checkpoints = vec![SeenCheckpoint { seq: Seq(80), is_valid: false }];
        let plan = asked(&seen);
        assert!(plan.waits());
        assert_eq!(plan.reaches, Seq(50));
    }

    #[test]
    fn a_part_without_a_copy_is_listed_and_the_rest_goes_on() {
        let mut seen = seen(10, &[(1, 10)], &[]);
        seen.parts = vec![SeenPart { what: "session row".into(), has_copy: true }];
        let repaired = asked(&seen);
        assert_eq!(repaired.strategy, Strategy::Repair);
        assert_eq!(repaired.steps[0], Step::RepairPart { what: "session row".into() });
        seen.parts.push(SeenPart { what: "blob 7".into(), has_copy: false });
        let partial = asked(&seen);
        assert_eq!((partial.strategy, partial.loss.parts.len()), (Strategy::PartialRecovery, 1));
        assert!(!partial.waits());
    }

    #[test]
    fn nothing_is_put_back_beyond_what_is_reached() {
        let mut seen = seen(100, &[(1, 50)], &[]);
        seen.copies = ranges(&[(61, 100)]);
        let accepted = plan(&seen, Policy { accept_loss: true, ..Policy::default() });
        assert!(!accepted.steps.iter().any(|step| matches!(step, Step::RepairRange { .. })));
        assert!(accepted.steps.contains(&Step::Quarantine { range: Range { first: Seq(51), last: Seq(100) } }));
    }

    #[test]
    fn nothing_left_is_never_a_fresh_start() {
        let seen = seen(100, &[], &[(60, false)]);
        let waiting = plan(&seen, Policy { accept_loss: true, start_fresh: false });
        assert!(waiting.waits());
        assert_eq!(waiting.recommended, Action::RestoreFromCopy);
        assert!((waiting.loss.percent - 100.0).abs() < 1e-9);
        // But by a person's word.
        let given_up = plan(&seen, Policy { accept_loss: true, start_fresh: true });
        assert_eq!(given_up.steps.last_chunk(), Some(&[Step::StartFresh, Step::Record]));
        assert_eq!((given_up.recommended, given_up.loss), (Action::StartFresh, waiting.loss));
    }

    #[test]
    fn after_three_attempts_it_waits() {
        let mut seen = seen(100, &[(1, 100)], &[]);
        seen.attempts = ATTEMPTS - 1;
        assert!(!asked(&seen).waits());
        seen.attempts = ATTEMPTS;
        assert!(asked(&seen).waits());
    }

    #[test]
    fn the_worst_finding_says_which_rung_of_the_ladder() {
        let mut seen = seen(10, &[(1, 10)], &[]);
        let finding = |kind| Finding { kind, what: String::new() };
        seen.findings = vec![finding(FindingKind::Constraint)];
        assert_eq!(asked(&seen).strategy, Strategy::GracefulDegradation);
        seen.findings.push(finding(FindingKind::Consistency));
        assert_eq!(asked(&seen).strategy, Strategy::PartialRecovery);
        seen.findings.push(finding(FindingKind::Integrity));
        assert_eq!(asked(&seen).strategy, Strategy::CheckpointRollback);
    }

    #[test]
    fn complexity_is_that_of_the_larger_part() {
        assert_eq!(Complexity::of(0, 999), Complexity::Low);
        assert_eq!(Complexity::of(0, 1_000), Complexity::Medium);
        assert_eq!(Complexity::of(10 << 20, 0), Complexity::High);
        assert_eq!([Complexity::Low, Complexity::Medium, Complexity::High].map(Complexity::at_once), [8, 4, 1]);
    }
}
