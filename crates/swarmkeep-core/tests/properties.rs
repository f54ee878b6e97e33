//! Properties of random histories.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use swarmkeep_core::{
    State, decide,
    diff::Diff,
    record,
    session::{self, Staged},
    state::{EffectStatus, TaskList, TaskStatus},
    tabulate::{self, RowChange, Value},
    testing::{Draw, History, command},
};

fn steps(most: usize) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(any::<u64>(), 1..most)
}

fn folded(history: &History) -> State {
    let mut state = State::empty();
    session::fold(&mut state, &history.bytes, &mut session::bases_in(&history.bases)).unwrap();
    state
}

/// `(table, key)` → values, as a database that applies changes would hold them.
type Rows = BTreeMap<(&'static str, String), Vec<Value>>;

fn merge(rows: &mut Rows, changes: Vec<RowChange>) {
    let text = |key: &[Value]| format!("{key:?}");
    for change in changes {
        match change {
            RowChange::Put { table, values } => {
                rows.insert((table.name, text(&values[..table.key])), values);
            }
            RowChange::Set { table, key, values } => {
                if let Some(row) = rows.get_mut(&(table.name, text(&key))) {
                    for (column, value) in values {
                        row[column] = value;
                    }
                }
            }
            RowChange::Delete { table, key } => {
                rows.remove(&(table.name, text(&key)));
            }
            RowChange::Reset => panic!("handled by the caller"),
        }
    }
}

/// Rows of what is still in the state: messages that wait, receipts that wait.
fn of_the_state(rows: Rows) -> Rows {
    let waiting = |(table, _): &(&'static str, String), row: &Vec<Value>| match *table {
        "messages" => row[tabulate::MESSAGES.column("status").unwrap()] == Value::Text("waiting".into()),
        "message_receipts" => {
            let column = |name| &row[tabulate::MESSAGE_RECEIPTS.column(name).unwrap()];
            *column("acknowledged_at") == Value::Null && *column("dead_letter_at") == Value::Null
        }
        _ => true,
    };
    rows.into_iter().filter(|(key, row)| waiting(key, row)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn folding_the_records_gives_the_staged_state(steps in steps(120)) {
        let history = History::of("one", &steps);
        let state = folded(&history);
        prop_assert_eq!(&state, history.state());
        prop_assert_eq!(state.canonical(), history.state().canonical());
        prop_assert_eq!(state.weight(), history.state().weight());
    }

    #[test]
    fn canonical_bytes_come_back_as_the_same_state(steps in steps(120)) {
        let history = History::of("one", &steps);
        let state = history.state();
        let back = State::from_canonical(&state.canonical()).unwrap();
        prop_assert_eq!(&back, state);
        prop_assert_eq!(back.canonical(), state.canonical());
        prop_assert_eq!(back.weight(), state.weight());
        // What follows from the rows, and is not in the bytes, is there again.
        let unended = |state: &State| -> Vec<_> {
            state.tasks.ranked(TaskList::Open.start()).map(|(rank, task)| (rank.clone(), task.id.clone())).collect()
        };
        prop_assert_eq!(unended(&back), unended(state));
        prop_assert_eq!(unended(state).len(), state.tasks.iter().filter(|task| !task.status.is_ended()).count());
        prop_assert_eq!(decide::next_due_ms(&back), decide::next_due_ms(state));
        // A state that came back goes on as the other does.
        let mut one = history.clone();
        let mut other = history.clone();
        other.session.reset(back);
        one.step(7);
        other.step(7);
        prop_assert_eq!(one.state(), other.state());
    }

    #[test]
    fn the_weight_is_near_the_canonical_bytes(steps in steps(200)) {
        let history = History::of("one", &steps);
        let (weight, bytes) = (history.state().weight(), history.state().canonical().len());
        prop_assert!(weight < 4 * bytes && bytes < 4 * weight, "weight {weight}, bytes {bytes}");
    }

    #[test]
    fn records_decode_to_what_was_staged(steps in steps(80)) {
        let history = History::of("one", &steps);
        let decoded: Vec<_> = record::iter(&history.bytes).map(|view| view.unwrap().decode().unwrap()).collect();
        prop_assert_eq!(decoded.len(), history.records.len());
        for (decoded, staged) in decoded.iter().zip(&history.records) {
            prop_assert_eq!(decoded, &**staged);
        }
    }

    #[test]
    fn a_refused_request_leaves_every_byte(steps in steps(80), more in steps(20)) {
        let mut history = History::of("one", &steps);
        for step in more {
            let mut request = history.request(step);
            let mut draw = Draw::new(step);
            // Two more that a state as this one rarely takes together.
            request.commands.push(command(&mut draw, history.state()));
            request.commands.push(command(&mut draw, history.state()));
            let before = history.state().canonical();
            if history.submit(request).is_err() {
                prop_assert_eq!(history.state().canonical(), before);
            }
        }
    }

    #[test]
    fn a_request_sent_again_is_answered_and_writes_nothing(steps in steps(40)) {
        let mut history = History::new("one");
        for step in steps {
            let request = history.request(step);
            let first = history.submit(request.clone());
            let before = history.state().clone();
            if request.id.is_none() {
                continue;
            }
            let mut other = request.clone();
            other.commands.push(command(&mut Draw::new(step ^ 1), history.state()));
            match first {
                Ok(Staged::Group(group)) => {
                    let Ok(Staged::Repeated { done, durable_at }) = history.submit(request) else {
                        panic!("known");
                    };
                    prop_assert_eq!(done.outcomes.to_vec(), group.outcomes);
                    prop_assert_eq!((done.first, done.last), (group.log.after.seq.next(), group.log.head.seq));
                    prop_assert_eq!(durable_at, group.log.head.seq);
                    let code = history.submit(other).unwrap_err().code;
                    prop_assert_eq!(code, swarmkeep_core::RefusalCode::RequestMismatch);
                }
                Ok(Staged::Nothing { .. }) => {
                    let again = history.submit(request);
                    let nothing = matches!(again, Ok(Staged::Nothing { .. }));
                    prop_assert!(nothing);
                }
                Ok(Staged::Repeated { .. }) => panic!("a new id"),
                Err(_) => {}
            }
            prop_assert_eq!(history.state(), &before);
        }
    }

    #[test]
    fn a_diff_is_empty_exactly_when_nothing_differs(steps in steps(60), one in any::<usize>(), other in any::<usize>()) {
        let history = History::of("one", &steps);
        let (one, other) = (&history.states[one % history.states.len()], &history.states[other % history.states.len()]);
        let same = State { head: other.head, requests: other.requests.clone(), ..one.clone() } == *other;
        prop_assert_eq!(Diff::between(one, other).is_empty(), same);
        let back = State::from_canonical(&one.canonical()).unwrap();
        prop_assert!(Diff::between(one, &back).is_empty());
        prop_assert_eq!(Diff::between(one, other), Diff::between(&back, other));
    }

    #[test]
    fn a_fork_goes_its_own_way(steps in steps(80), nth in any::<usize>(), later in steps(40)) {
        let history = History::of("one", &steps);
        let mut fork = history.fork(nth, "fork");
        let original = history.states[nth % history.states.len()].clone();
        prop_assert_eq!(fork.state().info.forked_from.as_ref().unwrap().seq, original.head.seq);
        for task in fork.state().tasks.iter() {
            prop_assert!(task.status != TaskStatus::Running && task.lease.is_none());
        }
        prop_assert!(fork.state().effects.iter().all(|effect| effect.status != EffectStatus::Begun));
        // What the original was asked is answered alike; memory versions and made ids never come again.
        prop_assert_eq!(&fork.state().requests, &original.requests);
        let before = history.state().canonical();
        for step in later {
            fork.step(step);
        }
        prop_assert_eq!(history.state().canonical(), before);
        prop_assert_eq!(&folded(&fork), fork.state());
        for entry in fork.state().memory.iter() {
            let place = swarmkeep_core::state::MemoryKey { scope: entry.scope.clone(), key: entry.key.clone() };
            let unchanged = original.memory.get(&place).is_some_and(|old| old.version == entry.version);
            prop_assert!(unchanged || entry.version > original.head.seq.0);
        }
    }

    #[test]
    fn changes_merged_in_order_are_the_rows_of_the_state(steps in steps(120), fork_at in any::<usize>()) {
        let history = History::of("one", &steps);
        let mut fork = history.fork(fork_at, "fork");
        for step in &steps {
            fork.step(step ^ 0x55);
        }
        for history in [history, fork] {
            let mut rows = Rows::new();
            let mut state = State::empty();
            for record in &history.records {
                session::fold_record(&mut state, record, &mut session::bases_in(&history.bases)).unwrap();
                let mut changes = Vec::new();
                tabulate::changes(record, &mut changes);
                changes.push(tabulate::position(record));
                if changes.contains(&RowChange::Reset) {
                    rows.clear();
                    changes = tabulate::rows(&state);
                }
                merge(&mut rows, changes);
            }
            let mut expected = Rows::new();
            merge(&mut expected, tabulate::rows(history.state()));
            prop_assert_eq!(of_the_state(rows), expected);
        }
    }

    #[test]
    fn names_of_events_are_their_json_tags(steps in steps(80)) {
        for record in &History::of("one", &steps).records {
            let event = &record.body.as_ref().unwrap().event;
            let json = serde_json::to_string(event).unwrap();
            prop_assert!(json.starts_with(&format!("{{\"{}\":", tabulate::event_type(event))), "{json}");
        }
    }

    #[test]
    fn a_flipped_byte_is_found(steps in steps(12), at in any::<usize>(), bit in 0u8..8) {
        let mut history = History::of("one", &steps);
        let at = at % history.bytes.len();
        history.bytes[at] ^= 1 << bit;
        let mut state = State::empty();
        let folded = session::fold(&mut state, &history.bytes, &mut session::bases_in(&history.bases));
        // A header's last flip is seen by whoever knows the head; everything before it breaks the chain.
        prop_assert!(folded.is_err() || state.head != history.state().head, "byte {at} was flipped and nobody noticed");
    }
}

#[test]
fn the_generator_reaches_most_of_the_vocabulary() {
    let steps: Vec<u64> = (0..6_000).collect();
    let history = History::of("one", &steps);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &history.records {
        *seen.entry(tabulate::event_type(&record.body.as_ref().unwrap().event)).or_default() += 1;
    }
    assert!(seen.len() >= 38, "only {seen:?}");
}
