//! What commands may do, rule by rule.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use swarmkeep_core::{
    EntityId, Event, RefusalCode, RequestId, Seq, State,
    command::{Command, Outcome},
    decide,
    diff::Diff,
    limits,
    session::{self, Request, Staged},
    state::{AgentStatus, ApplyError, EffectStatus, SessionStatus, TaskStatus},
    testing::{History, actor},
};

fn id(text: &str) -> EntityId {
    EntityId::new(text).unwrap()
}

/// A command as callers write it.
fn json(text: &str) -> Command {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Carries a command out, and gives what it came to.
fn run(history: &mut History, text: &str) -> Outcome {
    history.command(json(text)).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"))
}

fn refused(history: &mut History, text: &str) -> RefusalCode {
    let before = history.state().canonical();
    let refusal = history.command(json(text)).expect_err(text);
    assert_eq!(history.state().canonical(), before, "a refusal changes nothing");
    assert!(!refusal.message.is_empty());
    refusal.code
}

fn swarm(agents: &[&str]) -> History {
    let mut history = History::new("rules");
    for agent in agents {
        run(&mut history, &format!(r#"{{"spawn_agent":{{"id":"{agent}"}}}}"#));
    }
    history
}

fn last_events(history: &History, after: Seq) -> Vec<Event> {
    let later = history.records.iter().filter(|record| record.seq > after);
    later.map(|record| record.body.as_ref().unwrap().event.clone()).collect()
}

#[test]
fn a_claim_takes_what_is_mine_first_then_by_priority_then_by_age() {
    let mut h = swarm(&["a", "b"]);
    run(&mut h, r#"{"create_task":{"id":"low","title":"x","priority":1}}"#);
    run(&mut h, r#"{"create_task":{"id":"old","title":"x","priority":9}}"#);
    run(&mut h, r#"{"create_task":{"id":"young","title":"x","priority":9}}"#);
    run(&mut h, r#"{"create_task":{"id":"mine","title":"x","priority":0,"assign":"a"}}"#);
    run(&mut h, r#"{"create_task":{"id":"other","title":"x","priority":99,"assign":"b"}}"#);
    for expected in ["mine", "old", "young", "low"] {
        let Outcome::Claimed { task, lease, lease_ms } = run(&mut h, r#"{"claim_task":{"agent":"a"}}"#) else {
            panic!()
        };
        assert_eq!(task, Some(id(expected)));
        assert_eq!((lease, lease_ms), (Some(1), Some(limits::LEASE_MS)));
    }
    let before = h.state().head;
    let empty = run(&mut h, r#"{"claim_task":{"agent":"a"}}"#);
    assert_eq!(empty, Outcome::Claimed { task: None, lease: None, lease_ms: None });
    assert_eq!(h.state().head, before, "nothing to take writes nothing");
}

#[test]
fn an_old_lease_number_is_lost_and_a_dead_worker_counts_a_retry() {
    let mut h = swarm(&["a", "b"]);
    run(&mut h, r#"{"create_task":{"id":"t","title":"x","max_retries":1}}"#);
    run(&mut h, r#"{"claim_task":{"agent":"a"}}"#);
    assert_eq!(refused(&mut h, r#"{"claim_task":{"agent":"b","task":"t"}}"#), RefusalCode::WrongState);
    run(&mut h, r#"{"expire_lease":{"task":"t","lease":1,"reason":"silence"}}"#);
    let task = h.state().tasks.get(&id("t")).unwrap().clone();
    assert_eq!((task.status, task.retry_count, task.agent_id.clone()), (TaskStatus::Pending, 1, None));
    assert_eq!(refused(&mut h, r#"{"complete_task":{"task":"t","lease":1}}"#), RefusalCode::LeaseLost);
    run(&mut h, r#"{"claim_task":{"agent":"b"}}"#);
    assert_eq!(refused(&mut h, r#"{"complete_task":{"task":"t","lease":1}}"#), RefusalCode::LeaseLost);
    assert_eq!(refused(&mut h, r#"{"release_task":{"task":"t","lease":1}}"#), RefusalCode::LeaseLost);
    // An expiry that comes late means nothing.
    let before = h.state().head;
    run(&mut h, r#"{"expire_lease":{"task":"t","lease":1,"reason":"silence"}}"#);
    assert_eq!(h.state().head, before);
    run(&mut h, r#"{"expire_lease":{"task":"t","lease":2,"reason":"silence"}}"#);
    let task = h.state().tasks.get(&id("t")).unwrap();
    assert_eq!((task.status, task.retry_count), (TaskStatus::Failed, 1), "after the last retry it has failed");
    assert_eq!(refused(&mut h, r#"{"claim_task":{"agent":"a","task":"t"}}"#), RefusalCode::WrongState);
}

#[test]
fn only_a_task_that_nobody_claimed_is_ended_without_a_lease() {
    let mut h = swarm(&["a"]);
    run(&mut h, r#"{"create_task":{"id":"t","title":"x"}}"#);
    run(&mut h, r#"{"claim_task":{"agent":"a"}}"#);
    assert_eq!(refused(&mut h, r#"{"complete_task":{"task":"t"}}"#), RefusalCode::WrongState);
    run(&mut h, r#"{"complete_task":{"task":"t","lease":1,"result":{"n":1}}}"#);
    assert_eq!(refused(&mut h, r#"{"complete_task":{"task":"t","lease":1}}"#), RefusalCode::WrongState);
    run(&mut h, r#"{"create_task":{"id":"u","title":"x"}}"#);
    run(&mut h, r#"{"complete_task":{"task":"u"}}"#);
    assert_eq!(h.state().tasks.get(&id("u")).unwrap().status, TaskStatus::Completed);
}

#[test]
fn cancelling_takes_the_parts_along() {
    let mut h = swarm(&["a"]);
    run(&mut h, r#"{"create_task":{"id":"whole","title":"x"}}"#);
    run(&mut h, r#"{"create_task":{"id":"part","title":"x","parent":"whole"}}"#);
    run(&mut h, r#"{"create_task":{"id":"done","title":"x","parent":"part"}}"#);
    run(&mut h, r#"{"create_task":{"id":"deep","title":"x","parent":"done"}}"#);
    run(&mut h, r#"{"complete_task":{"task":"done"}}"#);
    run(&mut h, r#"{"cancel_task":{"task":"whole","reason":"changed our mind"}}"#);
    let status = |task: &str| h.state().tasks.get(&id(task)).unwrap().status;
    assert_eq!(status("part"), TaskStatus::Cancelled);
    assert_eq!(status("deep"), TaskStatus::Cancelled, "also below a part that has ended");
    assert_eq!(status("done"), TaskStatus::Completed);
}

#[test]
fn an_agent_that_ends_gives_back_its_tasks_and_its_mail() {
    let mut h = swarm(&["a", "b", "c"]);
    run(&mut h, r#"{"create_group":{"id":"g","name":"team"}}"#);
    run(&mut h, r#"{"join_group":{"group":"g","agent":"a"}}"#);
    run(&mut h, r#"{"create_task":{"id":"t","title":"x"}}"#);
    run(&mut h, r#"{"claim_task":{"agent":"a"}}"#);
    run(&mut h, r#"{"create_task":{"id":"given","title":"x","assign":"a"}}"#);
    run(&mut h, r#"{"send_message":{"id":"m1","from":"b","to":{"agent":"a"},"correlation_id":"q1"}}"#);
    run(&mut h, r#"{"send_message":{"id":"m2","from":"b","to":"broadcast"}}"#);
    let before = h.state().head.seq;
    run(&mut h, r#"{"set_agent_status":{"agent":"a","status":"terminated","reason":"oom"}}"#);
    let state = h.state();
    let task = state.tasks.get(&id("t")).unwrap();
    assert_eq!((task.status, task.retry_count), (TaskStatus::Pending, 1));
    let given = state.tasks.get(&id("given")).unwrap();
    assert_eq!((given.status, given.retry_count), (TaskStatus::Pending, 0), "nothing was tried");
    assert!(!state.messages.contains(&id("m1")));
    assert_eq!(state.messages.get(&id("m2")).unwrap().waiting.keys().cloned().collect::<Vec<_>>(), [id("c")]);
    assert!(state.groups.get(&id("g")).unwrap().members.is_empty());
    let notices: Vec<_> = state.messages.iter().filter(|message| message.topic == "dead_letter").collect();
    assert_eq!(notices.len(), 1, "one for the direct message, none for the broadcast");
    assert_eq!(notices[0].correlation_id.as_deref(), Some("q1"));
    assert!(notices[0].waiting.contains_key(&id("b")));
    assert!(notices[0].content.as_str().contains("m1"));
    assert!(last_events(&h, before).iter().any(|event| matches!(event, Event::MessageDeadLettered { .. })));
    assert_eq!(refused(&mut h, r#"{"set_agent_status":{"agent":"a","status":"idle"}}"#), RefusalCode::WrongState);
    assert_eq!(refused(&mut h, r#"{"send_message":{"from":"b","to":{"agent":"a"}}}"#), RefusalCode::WrongState);
    // Its name is free again.
    run(&mut h, r#"{"spawn_agent":{"name":"a"}}"#);
}

#[test]
fn mail_of_an_ended_agent_beyond_one_sweep_is_taken_by_the_next() {
    let mut h = swarm(&["a", "b"]);
    for _ in 0..limits::SWEEP + 10 {
        run(&mut h, r#"{"send_message":{"from":"b","to":{"agent":"a"}}}"#);
    }
    run(&mut h, r#"{"set_agent_status":{"agent":"a","status":"failed"}}"#);
    let left = |h: &History| h.state().messages.iter().filter(|message| message.waiting.contains_key(&id("a"))).count();
    assert_eq!(left(&h), 10);
    assert_eq!(decide::next_due_ms(h.state()), Some(0));
    run(&mut h, r#"{"expire":{}}"#);
    assert_eq!(left(&h), 0);
    assert_eq!(decide::next_due_ms(h.state()), None);
}

#[test]
fn a_message_is_delivered_until_acknowledged_and_at_last_given_up() {
    let mut h = swarm(&["a", "b"]);
    run(&mut h, r#"{"send_message":{"id":"m1","from":"b","to":{"agent":"a"}}}"#);
    run(&mut h, r#"{"send_message":{"id":"m2","from":"b","to":{"agent":"a"}}}"#);
    let receive = r#"{"receive_messages":{"agent":"a"}}"#;
    assert_eq!(run(&mut h, receive), Outcome::Received { messages: vec![id("m1"), id("m2")] });
    assert_eq!(run(&mut h, receive), Outcome::Received { messages: vec![] }, "not again at once");
    run(&mut h, r#"{"acknowledge_message":{"message":"m1","agent":"a"}}"#);
    assert_eq!(refused(&mut h, r#"{"acknowledge_message":{"message":"m1","agent":"a"}}"#), RefusalCode::NotFound);
    for _ in 1..limits::DELIVERIES {
        h.now_ms += limits::REDELIVERY_AFTER_MS;
        assert_eq!(run(&mut h, receive), Outcome::Received { messages: vec![id("m2")] });
    }
    let due = decide::next_due_ms(h.state()).unwrap();
    assert_eq!(due, h.now_ms + limits::REDELIVERY_AFTER_MS);
    run(&mut h, r#"{"expire":{}}"#);
    assert!(h.state().messages.contains(&id("m2")), "its last time to acknowledge is not over");
    h.now_ms = due;
    assert_eq!(run(&mut h, receive), Outcome::Received { messages: vec![] });
    run(&mut h, r#"{"expire":{}}"#);
    assert!(!h.state().messages.contains(&id("m2")));
    let notice = run(&mut h, r#"{"receive_messages":{"agent":"b"}}"#);
    assert!(matches!(notice, Outcome::Received { messages } if messages.len() == 1), "the sender is told");
}

#[test]
fn recipients_are_settled_when_a_message_is_sent() {
    let mut h = swarm(&["a", "b", "c"]);
    run(&mut h, r#"{"subscribe":{"agent":"a","topic":"news"}}"#);
    run(&mut h, r#"{"subscribe":{"agent":"b","topic":"news"}}"#);
    run(&mut h, r#"{"send_message":{"id":"m","from":"c","to":{"topic":"news"}}}"#);
    run(&mut h, r#"{"subscribe":{"agent":"c","topic":"news"}}"#);
    run(&mut h, r#"{"unsubscribe":{"agent":"a","topic":"news"}}"#);
    let waiting: Vec<_> = h.state().messages.get(&id("m")).unwrap().waiting.keys().cloned().collect();
    assert_eq!(waiting, [id("a"), id("b")]);
    assert_eq!(
        refused(&mut h, r#"{"send_message":{"from":"c","to":{"topic":"news"},"topic":"else"}}"#),
        RefusalCode::Invalid
    );
    run(&mut h, r#"{"send_message":{"id":"unheard","from":"c","to":{"topic":"nobody"}}}"#);
    assert!(!h.state().messages.contains(&id("unheard")));
}

#[test]
fn memory_versions_never_come_twice() {
    let mut h = swarm(&[]);
    let set = r#"{"set_memory":{"key":"k","value":1}}"#;
    let Outcome::Version { version: first } = run(&mut h, set) else { panic!() };
    assert_eq!(refused(&mut h, r#"{"set_memory":{"key":"k","value":2,"if_version":0}}"#), RefusalCode::Conflict);
    run(&mut h, r#"{"delete_memory":{"key":"k"}}"#);
    let head = h.state().head;
    run(&mut h, r#"{"delete_memory":{"key":"k"}}"#);
    assert_eq!(h.state().head, head, "deleting what is not there writes nothing");
    let Outcome::Version { version: second } = run(&mut h, r#"{"set_memory":{"key":"k","value":3,"if_version":0}}"#)
    else {
        panic!()
    };
    assert!(second > first);
    let stale = json(&format!(r#"{{"set_memory":{{"key":"k","value":4,"if_version":{first}}}}}"#));
    assert_eq!(h.command(stale).unwrap_err().current, Some(second));
    // Nor in a fork, whose seqs begin at 1 again.
    let mut fork = h.fork(h.states.len() - 1, "fork");
    let Outcome::Version { version } = run(&mut fork, set) else { panic!() };
    assert!(version > second);
}

#[test]
fn memory_and_sessions_end_by_a_record() {
    let mut h = swarm(&[]);
    run(&mut h, r#"{"set_memory":{"key":"k","value":1,"ttl_ms":1000}}"#);
    run(&mut h, r#"{"update_session":{"idle_ttl_ms":5000}}"#);
    assert_eq!(decide::next_due_ms(h.state()), Some(h.now_ms + 1000));
    h.now_ms += 1000;
    run(&mut h, r#"{"expire":{}}"#);
    assert!(h.state().memory.is_empty());
    h.now_ms += 4999;
    run(&mut h, r#"{"expire":{}}"#);
    assert_eq!(h.state().info.status, SessionStatus::Live);
    h.now_ms += 1;
    run(&mut h, r#"{"expire":{}}"#);
    assert_eq!(h.state().info.status, SessionStatus::Expired);
    assert_eq!(refused(&mut h, r#"{"resume":{}}"#), RefusalCode::SessionNotLive);
    assert_eq!(decide::next_due_ms(h.state()), None);
}

const BEGIN: &str = r#"{"begin_effect":{"effect":"e","agent":"a","instance":"p1","request":{"pay":1}}}"#;

#[test]
fn an_effect_is_done_once() {
    let mut h = swarm(&["a"]);
    assert_eq!(run(&mut h, BEGIN), Outcome::Run { attempt: 1 });
    assert_eq!(refused(&mut h, BEGIN), RefusalCode::InProgress);
    let finish = r#"{"finish_effect":{"effect":"e","attempt":1,"outcome":{"ok":true,"value":17}}}"#;
    run(&mut h, finish);
    let head = h.state().head;
    run(&mut h, finish);
    assert!(matches!(run(&mut h, BEGIN), Outcome::Recorded { outcome } if outcome.value.as_str() == "17"));
    assert_eq!(h.state().head, head, "a repeat is answered, not written");
    let other = r#"{"finish_effect":{"effect":"e","attempt":1,"outcome":{"ok":false}}}"#;
    assert_eq!(refused(&mut h, other), RefusalCode::WrongState);
    let another = r#"{"begin_effect":{"effect":"e","agent":"a","instance":"p1","request":{"pay":2}}}"#;
    assert_eq!(refused(&mut h, another), RefusalCode::RequestMismatch);
}

#[test]
fn a_process_that_took_anothers_place_finds_a_doubt() {
    let mut h = swarm(&["a", "b"]);
    run(&mut h, BEGIN);
    assert_eq!(refused(&mut h, &BEGIN.replace(r#""a""#, r#""b""#).replace("p1", "p9")), RefusalCode::InProgress);
    let begin = BEGIN.replace("p1", "p2");
    assert!(matches!(run(&mut h, &begin), Outcome::Unknown { .. }));
    assert_eq!(h.state().effects.get(&id("e")).unwrap().status, EffectStatus::OutcomeUnknown);
    assert_eq!(refused(&mut h, &begin), RefusalCode::OutcomeUnknown);
    assert_eq!(refused(&mut h, r#"{"resolve_effect":{"effect":"e","by":"me"}}"#), RefusalCode::Invalid);
    run(&mut h, r#"{"resolve_effect":{"effect":"e","by":"reconciler:counter"}}"#);
    assert_eq!(run(&mut h, &begin), Outcome::Run { attempt: 2 });
    let late = r#"{"finish_effect":{"effect":"e","attempt":1,"outcome":{"ok":true}}}"#;
    assert_eq!(refused(&mut h, late), RefusalCode::WrongState);
}

#[test]
fn nobody_is_told_to_run_what_the_same_request_has_ended() {
    for (then, wants) in [
        (r#"{"return_agent":{"agent":"a","instance":"p2"}}"#, "unknown"),
        (r#"{"finish_effect":{"effect":"e","attempt":1,"outcome":{"ok":true}}}"#, "recorded"),
        (r#"{"spawn_agent":{"id":"b"}}"#, "run"),
    ] {
        let mut h = swarm(&["a"]);
        let mut request = h.request(0);
        request.id = Some("client:1".parse().unwrap());
        request.commands = vec![json(BEGIN), json(then)];
        let Ok(Staged::Group(first)) = h.submit(request.clone()) else { panic!("{then}") };
        let said = serde_json::to_value(&first.outcomes[0]).unwrap();
        assert!(said.get(wants).is_some(), "{then}: {said}");
        let Ok(Staged::Repeated { done, .. }) = h.submit(request) else { panic!("{then}") };
        assert_eq!(done.outcomes.to_vec(), first.outcomes, "{then}: a repeat is told the same");
    }
}

#[test]
fn what_became_of_an_effect_is_recorded_in_a_session_that_is_full() {
    let mut h = swarm(&[]);
    run(&mut h, r#"{"begin_effect":{"effect":"e","instance":"p1"}}"#);
    let large = "x".repeat(limits::JSON_BYTES - 100);
    let set = |n: usize| json(&format!(r#"{{"set_memory":{{"key":"k{n}","value":"{large}"}}}}"#));
    let full = (0..200).find_map(|n| h.command(set(n)).err()).expect("it is full before that");
    assert_eq!(full.code, RefusalCode::Limit);
    let finish =
        format!(r#"{{"finish_effect":{{"effect":"e","attempt":1,"outcome":{{"ok":true,"value":"{large}"}}}}}}"#);
    run(&mut h, &finish);
    assert!(h.state().weight() > limits::STATE_BYTES);
    assert_eq!(refused(&mut h, r#"{"begin_effect":{"effect":"f","instance":"p1"}}"#), RefusalCode::Limit);
    run(&mut h, r#"{"delete_memory":{"key":"k0"}}"#);
    run(&mut h, r#"{"delete_memory":{"key":"k1"}}"#);
    run(&mut h, r#"{"begin_effect":{"effect":"f","instance":"p1"}}"#);
}

#[test]
fn what_was_seen_of_one_attempt_settles_no_other() {
    let mut h = swarm(&["a"]);
    run(&mut h, BEGIN);
    run(&mut h, &BEGIN.replace("p1", "p2"));
    let resolve =
        |attempt: u32| format!(r#"{{"resolve_effect":{{"effect":"e","by":"reconciler:bank","attempt":{attempt}}}}}"#);
    run(&mut h, &resolve(1));
    assert_eq!(run(&mut h, &BEGIN.replace("p1", "p3")), Outcome::Run { attempt: 2 });
    run(&mut h, &BEGIN.replace("p1", "p4"));
    // One that looked before the second attempt, and was slow.
    assert_eq!(refused(&mut h, &resolve(1)), RefusalCode::WrongState);
    run(&mut h, &resolve(2));
}

#[test]
fn a_holder_that_came_after_another_finds_a_doubt() {
    let mut h = swarm(&[]);
    let begin = |instance: &str| format!(r#"{{"begin_effect":{{"effect":"e","instance":"{instance}"}}}}"#);
    run(&mut h, &begin("holder:1"));
    assert_eq!(refused(&mut h, &begin("holder:1")), RefusalCode::InProgress);
    assert_eq!(refused(&mut h, &begin("p1")), RefusalCode::InProgress, "a client says nothing of the holder");
    assert!(matches!(run(&mut h, &begin("holder:2")), Outcome::Unknown { .. }));
    assert_eq!(refused(&mut h, &begin("holder:2")), RefusalCode::OutcomeUnknown);
}

#[test]
fn what_may_be_repeated_runs_again_and_what_may_not_waits_for_whoever_may_say() {
    let mut h = swarm(&["a"]);
    let read = r#"{"begin_effect":{"effect":"r","class":"read","agent":"a","instance":"p1"}}"#;
    run(&mut h, read);
    assert_eq!(run(&mut h, &read.replace("p1", "p2")), Outcome::Run { attempt: 2 });
    run(&mut h, r#"{"doubt_effect":{"effect":"r","attempt":2,"reason":"deadline"}}"#);
    assert_eq!(run(&mut h, read), Outcome::Run { attempt: 3 });

    let ask = r#"{"begin_effect":{"effect":"x","class":"ask","agent":"a","instance":"p1"}}"#;
    run(&mut h, ask);
    run(&mut h, r#"{"doubt_effect":{"effect":"x","attempt":1,"reason":"deadline"}}"#);
    let by = |who: &str| format!(r#"{{"resolve_effect":{{"effect":"x","by":"{who}","outcome":{{"ok":true}}}}}}"#);
    assert_eq!(refused(&mut h, &by("reconciler:counter")), RefusalCode::Invalid);
    run(&mut h, &by("user:anna"));
    assert_eq!(h.state().effects.get(&id("x")).unwrap().resolved_by.as_deref(), Some("user:anna"));
    assert_eq!(refused(&mut h, &by("user:anna")), RefusalCode::WrongState);
}

#[test]
fn whoever_did_it_knows_it_also_after_a_doubt() {
    let mut h = swarm(&["a"]);
    run(&mut h, BEGIN);
    run(&mut h, r#"{"doubt_effect":{"effect":"e","attempt":1,"reason":"deadline"}}"#);
    run(&mut h, r#"{"finish_effect":{"effect":"e","attempt":1,"outcome":{"ok":true,"value":"late"}}}"#);
    assert!(matches!(run(&mut h, &BEGIN.replace("p1", "p2")), Outcome::Recorded { .. }));
}

#[test]
fn a_session_that_is_not_live_refuses_work_and_says_what_to_do() {
    let mut h = swarm(&["a"]);
    run(&mut h, BEGIN);
    run(&mut h, r#"{"pause":{"reason":"lunch"}}"#);
    let work = r#"{"create_task":{"title":"x"}}"#;
    let refusal = h.command(json(work)).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::SessionNotLive);
    assert!(refusal.message.contains("lunch") && refusal.message.contains("resume"), "{}", refusal.message);
    run(&mut h, r#"{"finish_effect":{"effect":"e","attempt":1,"outcome":{"ok":true}}}"#);
    run(&mut h, r#"{"park":{}}"#);
    assert_eq!(h.state().info.status, SessionStatus::Paused, "a clean stop does not wake what a person stopped");
    run(&mut h, r#"{"resume":{}}"#);
    run(&mut h, r#"{"park":{}}"#);
    let before = h.state().head.seq;
    assert_eq!(refused(&mut h, r#"{"claim_task":{"agent":"nobody"}}"#), RefusalCode::NotFound);
    run(&mut h, r#"{"claim_task":{"agent":"a"}}"#);
    assert_eq!(h.state().info.status, SessionStatus::Parked, "nothing to do wakes nobody");
    let Outcome::Done { id: Some(task) } = run(&mut h, work) else { panic!() };
    let events = last_events(&h, before);
    assert!(matches!(events[0], Event::SessionStatusChanged { status: SessionStatus::Live, .. }));
    assert_eq!(task.as_str(), format!("task-{}", before.0 + 2), "a made id is the seq of the record that makes it");
    run(&mut h, r#"{"close":{}}"#);
    assert_eq!(refused(&mut h, work), RefusalCode::SessionNotLive);
    assert_eq!(refused(&mut h, r#"{"resume":{}}"#), RefusalCode::SessionNotLive);
    run(&mut h, r#"{"close":{}}"#);
}

#[test]
fn made_ids_give_way_to_a_callers() {
    let mut h = swarm(&[]);
    run(&mut h, r#"{"create_task":{"id":"task-3","title":"x"}}"#);
    let Outcome::Done { id: Some(made) } = run(&mut h, r#"{"create_task":{"title":"x"}}"#) else { panic!() };
    assert_eq!(made.as_str(), "task-3-2");
    assert_eq!(refused(&mut h, r#"{"create_task":{"id":"task-3","title":"x"}}"#), RefusalCode::AlreadyExists);
}

#[test]
fn a_request_is_all_or_nothing_and_sees_its_own_commands() {
    let mut h = swarm(&["a"]);
    let commands = [
        r#"{"create_task":{"id":"t","title":"x"}}"#,
        r#"{"claim_task":{"agent":"a"}}"#,
        r#"{"complete_task":{"task":"t","lease":1}}"#,
    ];
    let mut request = Request::new(actor(), commands.iter().map(|text| json(text)).collect());
    request.commands.push(json(r#"{"claim_task":{"agent":"nobody"}}"#));
    let before = h.state().canonical();
    assert_eq!(h.submit(request.clone()).unwrap_err().code, RefusalCode::NotFound);
    assert_eq!(h.state().canonical(), before);
    request.commands.pop();
    request.expected_seq = Some(Seq(99));
    let head = h.state().head.seq;
    assert_eq!(h.submit(request.clone()).unwrap_err().current, Some(head.0));
    request.expected_seq = Some(head);
    let Staged::Group(group) = h.submit(request).unwrap() else { panic!() };
    assert_eq!(group.outcomes.len(), 3);
    assert_eq!(group.log.count, 3);
    assert_eq!(h.state().tasks.get(&id("t")).unwrap().status, TaskStatus::Completed);
}

#[test]
fn a_group_larger_than_its_limit_is_refused_whole() {
    let mut h = swarm(&[]);
    let value = format!("\"{}\"", "x".repeat(limits::JSON_BYTES - 2));
    let set = |key: &str| format!(r#"{{"set_memory":{{"key":"{key}","value":{value}}}}}"#);
    run(&mut h, &set("one"));
    let request = Request::new(actor(), ["a", "b", "c"].iter().map(|key| json(&set(key))).collect());
    let before = h.state().canonical();
    assert_eq!(h.submit(request).unwrap_err().code, RefusalCode::Limit);
    assert_eq!(h.state().canonical(), before);
    let larger = format!(r#"{{"set_memory":{{"key":"k","value":"{}"}}}}"#, "x".repeat(limits::JSON_BYTES));
    assert_eq!(refused(&mut h, &larger), RefusalCode::Limit);
}

fn note(request: RequestId) -> Request {
    Request { id: Some(request), ..Request::new(actor(), vec![json(r#"{"record":{"kind":"note"}}"#)]) }
}

fn counted(client: &str, counter: u64) -> RequestId {
    RequestId::Counted { client: id(client), counter }
}

#[test]
fn a_counting_client_is_remembered_for_a_window_and_refused_behind_it() {
    let mut h = swarm(&[]);
    let window = limits::REQUESTS_PER_CLIENT;
    for counter in (1..=window * 2).filter(|counter| *counter != window + 1) {
        assert!(matches!(h.submit(note(counted("c", counter))).unwrap(), Staged::Group(_)));
    }
    assert!(matches!(h.submit(note(counted("c", window + 2))).unwrap(), Staged::Repeated { .. }));
    assert!(matches!(h.submit(note(counted("c", window + 1))).unwrap(), Staged::Group(_)), "a gap is new");
    for counter in [0, 1, window] {
        assert_eq!(h.submit(note(counted("c", counter))).unwrap_err().code, RefusalCode::RequestTooOld);
    }
    assert!(matches!(h.submit(note(counted("other", 1))).unwrap(), Staged::Group(_)));
}

#[test]
fn free_form_keys_are_remembered_by_number_and_by_age() {
    let mut h = swarm(&[]);
    let key = |nth: usize| RequestId::Key(id(&format!("key {nth}")));
    for nth in 0..=limits::REQUEST_KEYS {
        h.now_ms += 1;
        h.submit(note(key(nth))).unwrap();
    }
    assert!(matches!(h.submit(note(key(1))).unwrap(), Staged::Repeated { .. }));
    assert!(matches!(h.submit(note(key(0))).unwrap(), Staged::Group(_)), "beyond the window a key is new");
    h.now_ms += limits::REQUEST_KEY_AGE_MS;
    assert!(matches!(h.submit(note(key(0))).unwrap(), Staged::Group(_)), "and so it is after a day");
}

#[test]
fn a_client_too_many_is_refused_until_one_has_been_silent_for_a_day() {
    let mut h = swarm(&[]);
    for nth in 0..limits::REQUEST_CLIENTS {
        h.submit(note(counted(&format!("c{nth}"), 1))).unwrap();
    }
    assert_eq!(h.submit(note(counted("more", 1))).unwrap_err().code, RefusalCode::Limit);
    // Nor does a fork, which remembers them all, push one out for the client that makes it.
    let fork = |h: &History, client: &str| {
        let base = swarmkeep_core::state::forked_base(h.state());
        let blob = swarmkeep_core::log::Blob::new(base.canonical().into());
        let mut new = session::NewSession::new(swarmkeep_core::SessionName::new("test", "fork").unwrap());
        new.request = Some(counted(client, 7));
        let mut salts = || [0; 16];
        let circumstances =
            session::Circumstances { epoch: swarmkeep_core::Epoch(2), now_ms: h.now_ms, salts: &mut salts };
        session::fork(new, &base, blob, None, None, &actor(), circumstances)
    };
    assert_eq!(fork(&h, "more").unwrap_err().code, RefusalCode::Limit);
    fork(&h, "c0").unwrap();
    h.now_ms += limits::REQUEST_KEY_AGE_MS;
    fork(&h, "more").unwrap();
    h.submit(note(counted("more", 1))).unwrap();
    assert!(matches!(h.submit(note(counted("more", 1))).unwrap(), Staged::Repeated { .. }));
}

#[test]
fn remembered_answers_are_bounded_by_bytes_too() {
    let mut h = swarm(&[]);
    let long = "x".repeat(200);
    for counter in 1..=40 {
        let record = format!(r#"{{"record":{{"kind":"note","aggregate":"{long}"}}}}"#);
        let commands = (0..20).map(|_| json(&record)).collect();
        h.submit(Request { id: Some(counted("c", counter)), ..Request::new(actor(), commands) }).unwrap();
    }
    assert!(h.state().requests.weight() < limits::REQUEST_ANSWER_BYTES + 8 * 1024);
    assert_eq!(h.submit(note(counted("c", 1))).unwrap_err().code, RefusalCode::RequestTooOld);
}

#[test]
fn requests_are_remembered_over_a_fork_and_a_rewind() {
    let mut h = swarm(&["a"]);
    let request =
        Request { id: Some(counted("c", 1)), ..Request::new(actor(), vec![json(r#"{"create_task":{"title":"x"}}"#)]) };
    let Staged::Group(group) = h.submit(request.clone()).unwrap() else { panic!() };
    let mut fork = h.fork(h.states.len() - 1, "fork");
    let Staged::Repeated { done, durable_at } = fork.submit(request.clone()).unwrap() else { panic!() };
    assert_eq!(done.outcomes.to_vec(), group.outcomes);
    assert_eq!(durable_at, Seq(1), "a fork's own head is all there is to wait for");
    rewind(&mut h, 0);
    assert!(h.state().tasks.is_empty());
    assert!(matches!(h.submit(request).unwrap(), Staged::Repeated { .. }));
}

fn rewind(h: &mut History, nth: usize) {
    let base = h.states[nth].clone();
    let blob = swarmkeep_core::log::Blob::new(base.canonical().into());
    h.bases.insert(blob.id, base.clone());
    let command = Command::Rewind { to: base.head.seq, base: blob.id, reason: None };
    let request = Request { blobs: vec![blob], base: Some(base), ..Request::new(actor(), vec![command]) };
    h.submit(request).unwrap();
}

#[test]
fn a_rewind_sets_the_swarm_back_but_not_the_world() {
    let mut h = swarm(&["a"]);
    run(&mut h, r#"{"create_task":{"id":"t","title":"x"}}"#);
    run(&mut h, r#"{"claim_task":{"agent":"a"}}"#);
    run(&mut h, BEGIN);
    let target = h.states.len() - 1;
    run(&mut h, r#"{"finish_effect":{"effect":"e","attempt":1,"outcome":{"ok":true}}}"#);
    run(&mut h, r#"{"expire_lease":{"task":"t","lease":1,"reason":"silence"}}"#);
    run(&mut h, r#"{"claim_task":{"agent":"a"}}"#);
    run(&mut h, r#"{"pause":{}}"#);
    rewind(&mut h, target);
    let task = h.state().tasks.get(&id("t")).unwrap();
    assert_eq!((task.status, task.leases), (TaskStatus::Pending, 2));
    assert_eq!(h.state().info.rewinds, 1);
    assert_eq!(h.state().info.status, SessionStatus::Live);
    assert!(matches!(run(&mut h, &BEGIN.replace("p1", "p2")), Outcome::Recorded { .. }), "done is done");
    assert_eq!(refused(&mut h, r#"{"complete_task":{"task":"t","lease":2}}"#), RefusalCode::LeaseLost);
    let Outcome::Claimed { lease, .. } = run(&mut h, r#"{"claim_task":{"agent":"a"}}"#) else { panic!() };
    assert_eq!(lease, Some(h.state().head.seq.0), "lease numbers never go back");
}

#[test]
fn a_lease_number_is_given_once_over_rewinds_of_a_task_that_is_created_again() {
    let claim = |h: &mut History| {
        let Outcome::Claimed { lease, .. } = run(h, r#"{"claim_task":{"agent":"a","task":"t"}}"#) else { panic!() };
        lease.unwrap()
    };
    let mut h = swarm(&["a"]);
    let before = h.states.len() - 1;
    run(&mut h, r#"{"create_task":{"id":"t","title":"x"}}"#);
    let mut given = vec![claim(&mut h)];
    run(&mut h, r#"{"release_task":{"task":"t","lease":1}}"#);
    let claimed_once = h.states.len() - 1;
    given.push(claim(&mut h));
    assert_eq!(given, [1, 2]);
    // Created again, it knows nothing of them.
    rewind(&mut h, before);
    run(&mut h, r#"{"create_task":{"id":"t","title":"another thing"}}"#);
    given.push(claim(&mut h));
    assert_eq!(refused(&mut h, r#"{"complete_task":{"task":"t","lease":1}}"#), RefusalCode::LeaseLost);
    // Set back to where it had been claimed once, from where there is none.
    rewind(&mut h, before);
    rewind(&mut h, claimed_once);
    given.push(claim(&mut h));
    // And in a fork, whose own seqs begin again.
    let mut fork = h.fork(h.states.len() - 1, "fork");
    let empty = fork.states.len() - 1;
    given.push(claim(&mut fork));
    rewind(&mut fork, empty);
    given.push(claim(&mut fork));
    assert!(given.is_sorted_by(|earlier, later| earlier < later), "{given:?}");
}

#[test]
fn a_fork_has_nothing_in_hand() {
    let mut h = swarm(&["a", "b"]);
    run(&mut h, r#"{"create_task":{"id":"t","title":"x"}}"#);
    run(&mut h, r#"{"claim_task":{"agent":"a"}}"#);
    run(&mut h, r#"{"set_agent_status":{"agent":"a","status":"busy"}}"#);
    run(&mut h, BEGIN);
    run(&mut h, r#"{"send_message":{"id":"m","from":"b","to":{"agent":"a"}}}"#);
    run(&mut h, r#"{"receive_messages":{"agent":"a"}}"#);
    run(&mut h, r#"{"set_connection":{"connection":"c","status":"connected"}}"#);
    let mut fork = h.fork(h.states.len() - 1, "fork");
    let state = fork.state().clone();
    assert_eq!(state.info.name.as_ref().unwrap().name(), "fork");
    assert_eq!(state.agents.get(&id("a")).unwrap().status, AgentStatus::Idle);
    assert_eq!(state.connections.get(&id("c")).unwrap().status, "disconnected");
    assert_eq!(refused(&mut fork, r#"{"complete_task":{"task":"t","lease":1}}"#), RefusalCode::LeaseLost);
    assert_eq!(refused(&mut fork, BEGIN), RefusalCode::OutcomeUnknown);
    assert_eq!(run(&mut fork, r#"{"receive_messages":{"agent":"a"}}"#), Outcome::Received { messages: vec![id("m")] });
    // The original still holds what it held.
    run(&mut h, r#"{"complete_task":{"task":"t","lease":1}}"#);
    let Outcome::Done { id: Some(made) } = run(&mut fork, r#"{"create_task":{"title":"x"}}"#) else { panic!() };
    let inherited = fork.state().info.inherited_seqs;
    assert_eq!(made.as_str(), format!("task-{}", inherited + fork.state().head.seq.0), "made ids count on");
    assert!(inherited >= 9);
}

#[test]
fn hostile_commands_are_refused_not_obeyed() {
    let mut h = swarm(&["a"]);
    for (text, code) in [
        (r#"{"create_task":{"title":" "}}"#, RefusalCode::Invalid),
        (r#"{"create_task":{"title":"x","max_retries":1000000}}"#, RefusalCode::Invalid),
        (r#"{"create_task":{"title":"x","parent":"none"}}"#, RefusalCode::NotFound),
        (r#"{"claim_task":{"agent":"a","lease_ms":0}}"#, RefusalCode::Invalid),
        (r#"{"receive_messages":{"agent":"a","limit":101}}"#, RefusalCode::Invalid),
        (r#"{"set_memory":{"key":"k","value":1,"ttl_ms":0}}"#, RefusalCode::Invalid),
        (r#"{"begin_effect":{"effect":"e","instance":"p","deadline_ms":999999999999}}"#, RefusalCode::Invalid),
        (r#"{"begin_effect":{"effect":"e","instance":"p","task":"none"}}"#, RefusalCode::NotFound),
        (r#"{"join_group":{"group":"none","agent":"a"}}"#, RefusalCode::NotFound),
        (r#"{"spawn_agent":{"id":"a"}}"#, RefusalCode::AlreadyExists),
        (r#"{"finish_effect":{"effect":"none","attempt":1,"outcome":{"ok":true}}}"#, RefusalCode::NotFound),
    ] {
        assert_eq!(refused(&mut h, text), code, "{text}");
    }
    for text in [
        r#"{"create_task":{"title":"x","unknown":1}}"#,
        r#"{"create_task":{}}"#,
        r#"{"nonsense":{}}"#,
        r#"{"set_agent_status":{"agent":"a","status":"asleep"}}"#,
        r#"{"spawn_agent":{"id":""}}"#,
    ] {
        assert!(serde_json::from_str::<Command>(text).is_err(), "{text}");
    }
}

#[test]
fn the_deepest_json_that_is_taken_comes_back_from_everywhere() {
    let mut h = swarm(&["a"]);
    let deep = "[".repeat(limits::JSON_DEPTH) + &"]".repeat(limits::JSON_DEPTH);
    run(&mut h, &format!(r#"{{"set_memory":{{"key":"k","value":{deep}}}}}"#));
    run(&mut h, BEGIN);
    run(&mut h, &format!(r#"{{"finish_effect":{{"effect":"e","attempt":1,"outcome":{{"ok":true,"value":{deep}}}}}}}"#));
    // The outcome stands in the remembered answer too, the deepest place there is.
    let commands = vec![json(BEGIN), json(r#"{"record":{"kind":"note"}}"#)];
    h.submit(Request { id: Some(counted("c", 1)), ..Request::new(actor(), commands) }).unwrap();
    let back = State::from_canonical(&h.state().canonical()).unwrap();
    assert_eq!(&back, h.state());
    let mut folded = State::empty();
    session::fold(&mut folded, &h.bytes, &mut session::bases_in(&h.bases)).unwrap();
    assert_eq!(&folded, h.state());
    assert!(!Diff::between(&h.states[0], h.state()).is_empty());
    let deeper = format!(r#"{{"set_memory":{{"key":"k","value":[{deep}]}}}}"#);
    assert!(serde_json::from_str::<Command>(&deeper).is_err());
}

#[test]
fn a_record_that_does_not_follow_changes_nothing() {
    let h = History::of("one", &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let other = History::of("other", &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mut state = h.states[0].clone();
    let before = state.canonical();
    let stranger = &other.records[1];
    let last = h.records.last().unwrap();
    let mut bare = (*h.records[1]).clone();
    bare.body = None;
    for (record, what) in [(&**stranger, "another"), (&**last, "a later"), (&bare, "a bodiless")] {
        assert!(state.apply(record).is_err(), "{what} record");
        assert_eq!(state.canonical(), before);
    }
    assert_eq!(state.apply(&bare), Err(ApplyError::BodyRemoved(bare.seq)));
    let mut unfit = (*h.records[1]).clone();
    unfit.body.as_mut().unwrap().event = Event::TaskAssigned { task: id("none"), agent: id("none") };
    assert!(matches!(state.apply(&unfit), Err(ApplyError::Inconsistent { .. })));
    assert_eq!(state.canonical(), before);
    assert!(state.apply(&h.records[1]).is_ok());
}

#[test]
fn mail_to_nobody_is_refused_and_says_who_is_there() {
    let mut h = swarm(&[]);
    let send = |to: &str| json(&format!(r#"{{"send_message":{{"from":"a","to":{{"agent":"{to}"}},"content":1}}}}"#));
    let refused = h.command(send("nobody")).unwrap_err();
    assert_eq!(refused.code, RefusalCode::NotFound);
    assert!(refused.message.contains("no agents at work"), "{refused:?}");
    for nth in 0..12 {
        run(&mut h, &format!(r#"{{"spawn_agent":{{"id":"agent-{nth:02}","name":"name-{nth:02}"}}}}"#));
    }
    run(&mut h, r#"{"set_agent_status":{"agent":"agent-00","status":"terminated"}}"#);
    let refused = h.command(send("nobody")).unwrap_err();
    assert_eq!(refused.code, RefusalCode::NotFound);
    assert!(refused.message.contains("`agent-01` (name-01)") && refused.message.contains("1 more"), "{refused:?}");
    assert!(!refused.message.contains("agent-00"), "{refused:?}");
    h.command(json(r#"{"send_message":{"from":"a","to":{"topic":"none listens"},"content":1}}"#)).unwrap();
    h.command(json(r#"{"send_message":{"from":"a","to":"broadcast","content":1}}"#)).unwrap();
}
