//! Properties of plans, and what validating a state finds and does not find.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;
use swarmkeep_core::{
    EntityId, Seq, State,
    failure::Strategy as Kind,
    recovery::{
        ATTEMPTS, CheckName, Finding, FindingKind, Policy, Range, Ranges, Seen, SeenCheckpoint, SeenPart, Step, plan,
        validate,
    },
    state::{Agent, Task, TaskStatus},
    testing::History,
};

fn ranges() -> impl Strategy<Value = Ranges> {
    prop::collection::vec((1u64..60, 0u64..25), 0..5).prop_map(|list| {
        list.into_iter().map(|(first, more)| Range { first: Seq(first), last: Seq(first + more) }).collect()
    })
}

prop_compose! {
    fn seen()(
        head in 0u64..80,
        removed in prop_oneof![3 => Just(0u64), 1 => 0u64..30],
        checkpoints in prop::collection::vec((1u64..80, any::<bool>()), 0..4),
        readable in ranges(),
        copies in ranges(),
        lost_before in prop_oneof![3 => Just(Ranges::default()), 1 => ranges()],
        parts in prop::collection::vec(any::<bool>(), 0..3),
        attempts in 0u32..5,
        kinds in prop::collection::vec(prop::sample::select(FindingKind::ALL), 0..3),
    ) -> Seen {
        Seen {
            known_head: Seq(head),
            removed_through: Seq(removed),
            checkpoints: checkpoints
                .into_iter()
                .map(|(seq, is_valid)| SeenCheckpoint { seq: Seq(seq), is_valid })
                .collect(),
            readable,
            copies,
            lost_before,
            parts: parts.into_iter().map(|has_copy| SeenPart { what: "part".into(), has_copy }).collect(),
            attempts,
            findings: kinds.into_iter().map(|kind| Finding { kind, what: String::new() }).collect(),
            ..Seen::default()
        }
    }
}

fn set(ranges: &Ranges) -> BTreeSet<u64> {
    ranges.iter().flat_map(|range| range.first.0..=range.last.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_says_every_seq_that_it_does_not_restore(seen in seen(), accept_loss in any::<bool>()) {
        let plan = plan(&seen, Policy { accept_loss, start_fresh: false });
        let there: BTreeSet<u64> = &set(&seen.readable) | &set(&seen.copies);
        let from = seen
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.is_valid)
            .map(|checkpoint| checkpoint.seq.0)
            .chain((seen.removed_through == Seq::ZERO).then_some(0))
            .filter(|from| *from <= plan.reaches.0)
            .max();
        // What it claims to reach can be reached: from a state that is there, by records that are there, without a gap.
        if plan.reaches > Seq::ZERO {
            let from = from.expect("some state to begin with");
            prop_assert!((from + 1..=plan.reaches.0).all(|seq| there.contains(&seq)));
        }
        // And what lies beyond, up to the head that is known, is said to be lost: each seq once.
        let lost = set(&plan.loss.state);
        prop_assert_eq!(&lost, &(plan.reaches.0 + 1..=plan.known_head.0).collect());
        prop_assert_eq!(plan.loss.percent > 0.0, !lost.is_empty());
        prop_assert!(plan.known_head >= seen.known_head);
        let history = set(&plan.loss.history);
        prop_assert!(history.is_disjoint(&there) && history.is_disjoint(&lost));
        // No state that is farther was passed over.
        let farther = seen.checkpoints.iter().any(|checkpoint| checkpoint.is_valid && checkpoint.seq > plan.reaches);
        prop_assert!(!farther);
    }

    #[test]
    fn loss_is_taken_by_nobody_but_who_may(seen in seen(), accept_loss in any::<bool>()) {
        let made = plan(&seen, Policy { accept_loss, start_fresh: false });
        let restores = made.steps.iter().any(|step| matches!(step, Step::LoadCheckpoint { .. }));
        prop_assert_eq!(restores, !made.waits());
        if !made.loss.state.is_empty() && !accept_loss {
            prop_assert!(made.waits());
        }
        if seen.attempts >= ATTEMPTS {
            prop_assert!(made.waits());
        }
        prop_assert_eq!(made.waits(), made.steps.last() == Some(&Step::Wait));
        prop_assert_eq!(made.strategy == Kind::NeedsDecision, made.proposed.is_some());
    }

    #[test]
    fn steps_are_in_order_and_the_same_sight_gives_the_same_plan(seen in seen(), accept_loss in any::<bool>()) {
        let made = plan(&seen, Policy { accept_loss, start_fresh: false });
        prop_assert!(made.steps.iter().map(Step::order).is_sorted());
        prop_assert_eq!(&made, &plan(&seen.clone(), Policy { accept_loss, start_fresh: false }));
        let mut shuffled = seen;
        shuffled.checkpoints.reverse();
        prop_assert_eq!(&made.steps, &plan(&shuffled, Policy { accept_loss, start_fresh: false }).steps);
        let read: swarmkeep_core::recovery::Plan = serde_json::from_str(&serde_json::to_string(&made).unwrap()).unwrap();
        prop_assert_eq!(read.steps, made.steps);
    }

    #[test]
    fn repairs_come_from_copies_and_mend_gaps_only(seen in seen()) {
        let made = plan(&seen, Policy { accept_loss: true, start_fresh: false });
        for step in &made.steps {
            if let Step::RepairRange { range } = step {
                let repaired = set(&Ranges::from(Some(*range)));
                prop_assert!(repaired.is_subset(&set(&seen.copies)));
                prop_assert!(repaired.is_disjoint(&set(&seen.readable)));
            }
        }
    }

    #[test]
    fn seqs_from_damaged_names_do_not_overflow(first in any::<u64>(), last in any::<u64>(), head in any::<u64>()) {
        let range = |first, last| [Range { first: Seq(first), last: Seq(last) }].into_iter().collect::<Ranges>();
        let seen = Seen {
            known_head: Seq(head),
            readable: range(first, last),
            copies: range(last, u64::MAX),
            removed_through: Seq(if head % 2 == 0 { u64::MAX } else { 0 }),
            ..Seen::default()
        };
        let made = plan(&seen, Policy::default());
        prop_assert!(made.loss.percent <= 100.0 + 1e-9);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_reducer_makes_is_valid(steps in prop::collection::vec(any::<u64>(), 1..150)) {
        let history = History::of("one", &steps);
        let validation = validate(history.state());
        prop_assert!(validation.passed(), "{:?}", validation.findings());
        prop_assert!((validation.integrity_score - 100.0).abs() < 1e-9);
    }
}

fn worked() -> State {
    let steps: Vec<u64> = (0..400u64).map(|step| step.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
    History::of("one", &steps).state().clone()
}

fn failed(state: &State) -> Vec<(CheckName, FindingKind)> {
    let validation = validate(state);
    let mut failed: Vec<_> = validation
        .checks
        .iter()
        .flat_map(|check| check.violations.iter().map(move |violation| (check.name, violation.kind)))
        .collect();
    failed.dedup();
    assert_eq!(failed.is_empty(), validation.integrity_score > 100.0 - 1e-9);
    failed
}

#[test]
fn an_agent_that_is_missing_is_found_where_it_is_named() {
    let mut state = worked();
    assert_eq!(failed(&state), []);
    let agent: Agent = (**state.agents.iter().next().unwrap()).clone();
    let task: Arc<Task> = state.tasks.iter().next().unwrap().clone();
    let mut task = (*task).clone();
    task.agent_id = Some(EntityId::new("nobody").unwrap());
    state.tasks.insert(task);
    assert_eq!(failed(&state), [(CheckName::Tasks, FindingKind::Consistency)]);
    // A name that two have.
    let mut state = worked();
    let named = |id: &str| Agent {
        id: EntityId::new(id).unwrap(),
        name: Some("twice".into()),
        terminated_at_ms: None,
        status: swarmkeep_core::state::AgentStatus::Idle,
        ..agent.clone()
    };
    state.agents.insert(named("one-of-two"));
    state.agents.insert(named("two-of-two"));
    assert_eq!(failed(&state), [(CheckName::Agents, FindingKind::Constraint)]);
}

#[test]
fn a_running_task_without_a_lease_and_a_version_from_the_future_are_found() {
    let mut state = worked();
    let mut task = (**state.tasks.iter().next().unwrap()).clone();
    task.status = TaskStatus::Running;
    task.lease = None;
    task.completed_at_ms = None;
    state.tasks.insert(task);
    let mut entry = (**state.memory.iter().next().unwrap()).clone();
    entry.version = u64::MAX;
    state.memory.insert(entry);
    assert_eq!(
        failed(&state),
        [(CheckName::Tasks, FindingKind::Consistency), (CheckName::Memory, FindingKind::Consistency)]
    );
    let validation = validate(&state);
    assert_eq!(validation.checks.iter().map(|check| check.failed).sum::<u64>(), 2);
}
