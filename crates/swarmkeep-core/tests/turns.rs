//! Turns that were left half-written: what is found, what is left alone, and that nothing is closed twice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use swarmkeep_core::{
    EntityId, Event, RefusalCode, Seq,
    command::{Command, Outcome},
    limits,
    state::{EffectStatus, forked_base},
    tabulate,
    testing::History,
    turn::Turn,
};

fn id(text: &str) -> EntityId {
    EntityId::new(text).unwrap()
}

fn json(text: &str) -> Command {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn run(history: &mut History, text: &str) -> Outcome {
    history.command(json(text)).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"))
}

fn swarm() -> History {
    let mut history = History::new("turns");
    for agent in ["alive", "dead"] {
        run(&mut history, &format!(r#"{{"spawn_agent":{{"id":"{agent}"}}}}"#));
    }
    history
}

/// What a command adds to the log.
fn events(history: &mut History, text: &str) -> Vec<Event> {
    let after = history.state().head.seq;
    run(history, text);
    let later = history.records.iter().filter(|record| record.seq > after);
    later.map(|record| record.body.as_ref().unwrap().event.clone()).collect()
}

fn interrupted(events: &[Event]) -> Vec<&Turn> {
    fn turn(event: &Event) -> Option<&Turn> {
        match event {
            Event::Interrupted { turn, reason } => {
                assert!(!reason.is_empty());
                Some(turn)
            }
            _ => None,
        }
    }
    events.iter().filter_map(turn).collect()
}

fn say(history: &mut History, from: &str, content: &str) {
    let other = if from == "dead" { "alive" } else { "dead" };
    run(history, &format!(r#"{{"send_message":{{"from":"{from}","to":{{"agent":"{other}"}},"content":{content}}}}}"#));
}

fn begin(history: &mut History, effect: &str, class: &str, agent: &str, instance: &str) -> Outcome {
    let begin = format!(
        r#"{{"begin_effect":{{"effect":"{effect}","class":"{class}","agent":"{agent}","instance":"{instance}"}}}}"#
    );
    run(history, &begin)
}

const AT_START: &str = r#"{"interrupt_turns":{"at_start":true}}"#;

#[test]
fn what_an_agent_that_ended_left_open_is_closed_once_and_what_a_living_one_does_is_left_alone() {
    let mut h = swarm();
    for agent in ["alive", "dead"] {
        begin(&mut h, &format!("{agent}-pays"), "at_most_once", agent, "p");
        say(&mut h, agent, &format!(r#"{{"role":"assistant","tool_calls":[{{"id":"{agent}-call"}}]}}"#));
    }
    run(&mut h, r#"{"set_agent_status":{"agent":"dead","status":"failed"}}"#);
    let before = h.records.len();
    let closed = events(&mut h, AT_START);
    let turns = interrupted(&closed);
    assert_eq!(turns.len(), 2, "{closed:?}");
    assert_eq!(turns[0], &Turn::Effect { effect: id("dead-pays"), attempt: 1 });
    let Turn::Call { call, writer, seq, message: Some(message) } = turns[1] else { panic!("{turns:?}") };
    assert_eq!((call, writer), (&id("dead-call"), &id("dead")));
    assert!(matches!(closed[0], Event::EffectOutcomeUnknown { .. }), "the doubt is recorded beside it: {closed:?}");
    // The original stays where it was.
    let original = h.records.iter().find(|record| record.seq == *seq).unwrap().body.as_ref().unwrap().event.clone();
    assert!(matches!(original, Event::MessageSent { message: sent, .. } if sent == *message));
    assert_eq!(h.records.len(), before + 3);
    let effects = |h: &History, key: &str| h.state().effects.get(&id(key)).unwrap().status;
    assert_eq!(effects(&h, "dead-pays"), EffectStatus::OutcomeUnknown);
    assert_eq!(effects(&h, "alive-pays"), EffectStatus::Begun);
    assert!(h.state().calls.contains(&id("alive-call")) && !h.state().calls.contains(&id("dead-call")));
    assert_eq!(events(&mut h, AT_START), [], "nothing is closed twice");
    // Who did it knows, also after that; and a result that comes late is a message like any other.
    run(&mut h, r#"{"finish_effect":{"effect":"dead-pays","attempt":1,"outcome":{"ok":true}}}"#);
    run(&mut h, r#"{"record":{"kind":"turn","payload":{"role":"tool","tool_call_id":"dead-call"}}}"#);
    assert_eq!(effects(&h, "dead-pays"), EffectStatus::Finished);
}

#[test]
fn a_call_is_open_until_its_result_stands_anywhere_in_the_session() {
    let mut h = swarm();
    let open = |h: &History| h.state().calls.iter().map(|call| call.id.to_string()).collect::<Vec<_>>();
    say(&mut h, "alive", r#"{"tool_calls":[{"id":"a"},{"id":"b"}]}"#);
    run(&mut h, r#"{"record":{"kind":"turn","payload":{"content":[{"type":"tool_use","id":"c"}]}}}"#);
    assert_eq!(open(&h), ["a", "b", "c"]);
    assert_eq!(h.state().calls.get(&id("c")).unwrap().message_id, None);
    // Finished siblings are told apart by their ids, in whatever order they come.
    run(&mut h, r#"{"record":{"kind":"turn","payload":{"tool_call_id":"b"}}}"#);
    assert_eq!(open(&h), ["a", "c"]);
    say(&mut h, "dead", r#"[{"type":"tool_result","tool_use_id":"c"},{"tool_call_id":"never called"}]"#);
    assert_eq!(open(&h), ["a"]);
    let back = swarmkeep_core::State::from_canonical(&h.state().canonical()).unwrap();
    assert_eq!(&back, h.state());
    run(&mut h, r#"{"interrupt_call":{"call":"a","reason":"no result for 600000 ms"}}"#);
    assert_eq!(events(&mut h, r#"{"interrupt_call":{"call":"a","reason":"again"}}"#), []);
    assert!(open(&h).is_empty() && !String::from_utf8(h.state().canonical()).unwrap().contains("\"calls\""));
}

#[test]
fn a_new_process_closes_what_the_ones_before_it_left_open() {
    let mut h = swarm();
    begin(&mut h, "look", "read", "alive", "p1");
    begin(&mut h, "pay", "at_most_once", "alive", "p1");
    begin(&mut h, "mine", "at_most_once", "alive", "p2");
    begin(&mut h, "other", "at_most_once", "dead", "p1");
    say(&mut h, "alive", r#"{"tool_call":{"id":"asked"}}"#);
    let closed = events(&mut h, r#"{"return_agent":{"agent":"alive","instance":"p2"}}"#);
    let names: Vec<String> = interrupted(&closed)
        .iter()
        .map(|turn| match turn {
            Turn::Effect { effect, .. } => effect.to_string(),
            Turn::Call { call, .. } => call.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["look", "pay", "asked"]);
    assert_eq!(events(&mut h, r#"{"return_agent":{"agent":"alive","instance":"p2"}}"#), []);
    // By class, as for every doubt.
    assert_eq!(begin(&mut h, "look", "read", "alive", "p2"), Outcome::Run { attempt: 2 });
    let again = json(r#"{"begin_effect":{"effect":"pay","class":"at_most_once","agent":"alive","instance":"p2"}}"#);
    assert_eq!(h.command(again).unwrap_err().code, RefusalCode::OutcomeUnknown);
    let nobody = json(r#"{"return_agent":{"agent":"nobody","instance":"p"}}"#);
    assert_eq!(h.command(nobody).unwrap_err().code, RefusalCode::NotFound);
}

#[test]
fn finished_siblings_are_kept_by_their_keys() {
    let mut h = swarm();
    for (effect, class) in [("a", "idempotent"), ("b", "at_most_once"), ("c", "ask"), ("d", "read")] {
        begin(&mut h, effect, class, "dead", "p1");
    }
    run(&mut h, r#"{"finish_effect":{"effect":"b","attempt":1,"outcome":{"ok":true,"value":7}}}"#);
    run(&mut h, r#"{"interrupt_turns":{"instances":["p1"]}}"#);
    assert_eq!(begin(&mut h, "a", "idempotent", "dead", "p2"), Outcome::Run { attempt: 2 });
    assert!(matches!(begin(&mut h, "b", "at_most_once", "dead", "p2"), Outcome::Recorded { outcome } if outcome.ok));
    let ask = json(r#"{"begin_effect":{"effect":"c","class":"ask","agent":"dead","instance":"p2"}}"#);
    assert_eq!(h.command(ask).unwrap_err().code, RefusalCode::OutcomeUnknown);
    assert_eq!(begin(&mut h, "d", "read", "dead", "p2"), Outcome::Run { attempt: 2 });
    assert_eq!(begin(&mut h, "never begun", "at_most_once", "dead", "p2"), Outcome::Run { attempt: 1 });
}

#[test]
fn a_part_of_nothing_and_an_answer_to_nothing_are_closed_and_stay_readable() {
    let mut h = swarm();
    say(&mut h, "alive", r#""a question""#);
    let asked = h.state().messages.iter().next().unwrap().id.clone();
    let answer = |to: &str| {
        format!(
            r#"{{"send_message":{{"id":"to {to}","from":"alive","to":{{"agent":"dead"}},"correlation_id":"{to}"}}}}"#
        )
    };
    for to in [asked.as_str(), "message-999", "their own name", "message-x"] {
        run(&mut h, &answer(to));
    }
    let closed = events(&mut h, AT_START);
    assert_eq!(interrupted(&closed), [&Turn::Answer { message: id("to message-999"), question: id("message-999") }]);
    let adrift = h.state().messages.get(&id("to message-999")).unwrap();
    assert_eq!((adrift.is_adrift, adrift.correlation_id.as_deref()), (true, Some("message-999")));
    assert_eq!(events(&mut h, AT_START), []);
    // Only a log that was not written by this program, or was cut, has a part of nothing: made by hand.
    let mut state = h.state().clone();
    run(&mut h, r#"{"create_task":{"id":"whole","title":"x"}}"#);
    run(&mut h, r#"{"create_task":{"id":"part","title":"x","parent":"whole"}}"#);
    state.tasks = h.state().tasks.clone();
    state.tasks.remove(&id("whole"));
    let gone = swarmkeep_core::decide::Gone { instances: &[], at_start: true };
    let found: Vec<_> = swarmkeep_core::decide::half_written(&state, gone).map(|(turn, _)| turn).collect();
    assert_eq!(found, [Turn::Part { task: id("part"), parent: id("whole") }]);
    let event = Event::Interrupted { turn: found[0].clone(), reason: "cut".into() };
    assert_eq!(tabulate::aggregate(&event), ("task", "part".into()));
}

#[test]
fn open_calls_are_bounded_and_a_fork_keeps_an_eye_on_them() {
    let mut h = swarm();
    for n in 0..=limits::OPEN_CALLS / limits::CALLS_PER_RECORD {
        let calls: Vec<String> = (0..limits::CALLS_PER_RECORD).map(|m| format!(r#"{{"id":"{n}-{m}"}}"#)).collect();
        run(&mut h, &format!(r#"{{"record":{{"kind":"t","payload":{{"tool_calls":[{}]}}}}}}"#, calls.join(",")));
    }
    assert_eq!(h.state().calls.len(), limits::OPEN_CALLS);
    assert_eq!(forked_base(h.state()).calls.len(), limits::OPEN_CALLS);
    assert!(h.state().head.seq > Seq::ZERO);
}
