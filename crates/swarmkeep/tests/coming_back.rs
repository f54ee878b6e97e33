//! A store that is dropped as by a crash, opened again: everything acknowledged is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{path::Path, sync::Arc};

use swarmkeep::{
    Actor, Address, Agent, Command, EffectCall, EffectError, EffectOutcome, EntityId, Epoch, ErrorKind, Evidence, From,
    Json, NewSession, Of, OsEntropy, Query, RefusalCode, Request, Seq, Session, Settings, Swarmkeep, SystemClock, Task,
    embedded::EmbeddedLog,
};
use swarmkeep_core::log::{Log, Remove};

async fn open(folder: &Path) -> Swarmkeep {
    loop {
        match Swarmkeep::open(folder.to_str().unwrap()).await {
            // Unlike a process that died, a store that was dropped may be held a moment longer by a task that looks at it.
            Err(error) if error.to_string().contains("is held by") => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

fn record(n: u64) -> Command {
    Command::Record {
        kind: "step".into(),
        aggregate: None,
        payload: Json::parse(&format!("{{\"n\":{n}}}")).unwrap(),
        blobs: Default::default(),
    }
}

/// Dropping every handle without `close` is what a crash does, short of the lock, which a dead process gives back too.
fn crash(keep: Swarmkeep) {
    drop(keep);
}

/// On one thread nothing goes on between two calls that wait for nothing.
#[tokio::test]
async fn sessions_that_are_not_looked_at_yet_are_counted_until_all_are() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    for name in ["one", "two", "three"] {
        drop(keep.open_session(name).await.unwrap());
    }
    keep.close().await.unwrap();
    drop(keep);
    let keep = open(folder.path()).await;
    assert_eq!(keep.being_looked_at(), 3);
    keep.wait_ready().await;
    assert_eq!(keep.being_looked_at(), 0);
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    let session = keep.open_session("night").await.unwrap();
    let planner = session.spawn_agent(Agent::new("planner").capability("plan")).await.unwrap();
    let coder = session.spawn_agent(Agent::new("coder")).await.unwrap();
    session.create_task(Task::new("split the parser").id("split").unwrap().priority(8)).await.unwrap();
    let claim = session.claim_task(&coder).await.unwrap().expect("a task");
    session.send_message(&planner, Address::Agent(coder.clone()), "plan", "begin").await.unwrap();
    session.set_memory("plan", "three steps").await.unwrap();
    let reply: String = session
        .effect("ask-1")
        .agent(&planner)
        .run(|| async { Ok::<_, std::io::Error>("42".to_owned()) })
        .await
        .unwrap();
    assert_eq!(reply, "42");
    let before = session.state().await.unwrap();
    drop(session);
    crash(keep);

    let keep = open(folder.path()).await;
    let session = keep.get_session("night").await.unwrap().expect("it is there");
    let after = session.state().await.unwrap();
    assert_eq!(before.hash(), after.hash());
    assert_eq!(
        session.spawn_agent(Agent::new("planner")).await.unwrap(),
        planner,
        "the same program again joins again"
    );
    let again: String = session
        .effect("ask-1")
        .agent(&planner)
        .run(|| async { Err::<String, _>(std::io::Error::other("must not run")) })
        .await
        .unwrap();
    assert_eq!(again, "42");
    let mail = session.receive_messages(&coder, 10).await.unwrap();
    assert_eq!(mail.len(), 1);
    session.acknowledge(&coder, &mail[0].id).await.unwrap();
    session.complete_task(&claim, "done").await.unwrap();
    keep.wait_ready().await;
    let report = keep.verify(None, |_| {}).await.unwrap();
    assert_eq!(report.findings, vec![], "{report:?}");
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_is_answered_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    let session = keep.open_session("s").await.unwrap();
    let ask = |n: u64| Request::of(Actor::new("c").unwrap(), record(n)).id("c:7".parse().unwrap());
    let first = session.submit(ask(1)).await.unwrap();
    let second = session.submit(ask(1)).await.unwrap();
    assert!(second.repeated);
    assert_eq!((first.first, first.head, &first.outcomes), (second.first, second.head, &second.outcomes));
    let other = session.submit(ask(2)).await.unwrap_err();
    assert_eq!(other.refusal.unwrap().code, RefusalCode::RequestMismatch);
    drop(session);
    crash(keep);
    let keep = open(folder.path()).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    let third = session.submit(ask(1)).await.unwrap();
    assert!(third.repeated);
    assert_eq!(third.head, first.head);
    let fork = session.fork(None, NewSession::new("fork".parse().unwrap()), None, &Actor::system()).await.unwrap();
    let in_fork = fork.submit(ask(1)).await.unwrap();
    assert!(in_fork.repeated);
    assert_eq!(in_fork.outcomes, first.outcomes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_miss_nothing_and_repeat_nothing_across_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    let session = keep.open_session("s").await.unwrap();
    let mut feed = session.subscribe(From::Start).await.unwrap();
    for n in 0..50 {
        session.submit(Request::of(Actor::system(), record(n))).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut token = None;
    for _ in 0..30 {
        let item = feed.next().await.unwrap();
        seen.push(item.record.seq.0);
        token = Some(item.token);
    }
    drop((feed, session));
    crash(keep);
    let keep = open(folder.path()).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    let mut feed = session.subscribe(From::Token(token.unwrap())).await.unwrap();
    let writer = session.clone();
    let writing = tokio::spawn(async move {
        for n in 50..80 {
            writer.submit(Request::of(Actor::system(), record(n))).await.unwrap();
        }
    });
    while seen.len() < 81 {
        seen.push(feed.next().await.unwrap().record.seq.0);
    }
    writing.await.unwrap();
    assert_eq!(seen, (1..=81).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rewind_fork_and_diff() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    let session = keep.open_session("s").await.unwrap();
    session.set_memory("a", 1).await.unwrap();
    let at = session.state().await.unwrap().head.seq;
    session.set_memory("a", 2).await.unwrap();
    session.set_memory("b", 3).await.unwrap();
    let fork = session
        .fork(Some(at), NewSession::new("f".parse().unwrap()), Some("what if".into()), &Actor::system())
        .await
        .unwrap();
    assert_eq!(fork.memory("a").await.unwrap().unwrap().as_str(), "1");
    session.rewind(at, None, None, Actor::system()).await.unwrap();
    assert_eq!(session.memory("a").await.unwrap().unwrap().as_str(), "1");
    assert_eq!(session.memory("b").await.unwrap(), None);
    let old = session.state_at(Seq(at.0 + 2)).await.unwrap();
    assert_eq!(old.memory.len(), 2);
    let diff = session.diff(at, Seq(at.0 + 2)).await.unwrap();
    assert!(serde_json::to_string(&diff).unwrap().contains("\"b\""), "{diff:?}");
    drop((session, fork));
    crash(keep);
    let keep = open(folder.path()).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    assert_eq!(session.memory("a").await.unwrap().unwrap().as_str(), "1");
    let fork = keep.get_session("f").await.unwrap().unwrap();
    assert_eq!(fork.memory("a").await.unwrap().unwrap().as_str(), "1");
    keep.wait_ready().await;
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
}

/// A store whose process died when the effect `pay` was begun and not finished.
async fn died_while_paying(folder: &Path, class: impl for<'a> FnOnce(EffectCall<'a>) -> EffectCall<'a>) -> Session {
    let keep = open(folder).await;
    let session = keep.open_session("s").await.unwrap();
    let mut paying = Box::pin(class(session.effect("pay")).run(std::future::pending::<Result<u32, std::io::Error>>));
    let begun = async {
        while session.state().await.unwrap().effects.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = &mut paying => unreachable!("it never ends"),
        () = begun => {}
    }
    drop(paying);
    drop(session);
    crash(keep);
    open(folder).await.get_session("s").await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_begun_by_a_dead_process_is_in_doubt_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let session = died_while_paying(folder.path(), |call| call.at_most_once()).await;
    let refused = session.effect("pay").run(|| async { Ok::<u32, std::io::Error>(1) }).await.unwrap_err();
    assert!(matches!(refused, EffectError::OutcomeUnknown(_)), "{refused:?}");
    session
        .resolve_effect(&EntityId::new("pay").unwrap(), None, "reconciler:test: the account shows no payment")
        .await
        .unwrap();
    assert_eq!(session.effect("pay").run(|| async { Ok::<u32, std::io::Error>(7) }).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconciler_settles_a_doubt_and_only_where_it_may_and_can() {
    let work = || async { Ok::<u32, std::io::Error>(7) };
    let never = || async { unreachable!("it was done") as Result<u32, std::io::Error> };
    let paid = EffectOutcome { ok: true, value: Json::encode(&17).unwrap() };
    // It happened: its outcome, without a second payment.
    let folder = tempfile::tempdir().unwrap();
    let session = died_while_paying(folder.path(), |call| call.at_most_once()).await;
    let asked = session.effect("pay").reconcile("bank", |effect| async move {
        assert_eq!((effect.id.as_str(), effect.attempt), ("pay", 1));
        Evidence::None
    });
    assert!(matches!(asked.run(never).await.unwrap_err(), EffectError::OutcomeUnknown(_)));
    let found = paid.clone();
    assert_eq!(
        session.effect("pay").reconcile("bank", |_| async { Evidence::Done(found) }).run(never).await.unwrap(),
        17
    );
    let state = session.state().await.unwrap();
    let settled = state.effects.get(&EntityId::new("pay").unwrap()).unwrap();
    assert_eq!((settled.resolved_by.as_deref(), &settled.outcome), (Some("reconciler:bank"), &Some(paid.clone())));
    // Nobody is asked about what is settled.
    let unasked = session.effect("pay").reconcile("bank", |_| async { unreachable!("it is settled") });
    assert_eq!(unasked.run(never).await.unwrap(), 17);
    // It did not happen: it is done now, once.
    let folder = tempfile::tempdir().unwrap();
    let session = died_while_paying(folder.path(), |call| call.at_most_once()).await;
    assert_eq!(session.effect("pay").reconcile("bank", |_| async { Evidence::NotDone }).run(work).await.unwrap(), 7);
    assert_eq!(session.effect("pay").run(never).await.unwrap(), 7);
    // Of class `ask` only a person may tell.
    let folder = tempfile::tempdir().unwrap();
    let session = died_while_paying(folder.path(), |call| call.ask()).await;
    let asked = session.effect("pay").ask().reconcile("bank", |_| async { unreachable!("it must not be asked") });
    assert!(matches!(asked.run(never).await.unwrap_err(), EffectError::OutcomeUnknown(_)));
    session.resolve_effect(&EntityId::new("pay").unwrap(), Some(paid), "user:anna").await.unwrap();
    assert_eq!(session.effect("pay").ask().run(never).await.unwrap(), 17);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_leave_ram_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { resident_bytes: 1 << 20, pack_after_ms: 0, ..Settings::default() };
    let keep = Swarmkeep::open_with(folder.path().to_str().unwrap(), settings).await.unwrap();
    let text = "x".repeat(8_000);
    for n in 0..400 {
        let session = keep.open_session(&format!("s{n}")).await.unwrap();
        session.set_memory("k", format!("{n} {text}")).await.unwrap();
    }
    while keep.health().sessions_dropped == 0 || keep.health().resident_bytes > 1 << 20 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for n in 0..400 {
        let session = keep.get_session(&format!("s{n}")).await.unwrap().unwrap();
        assert_eq!(session.memory("k").await.unwrap().unwrap().decode::<String>().unwrap(), format!("{n} {text}"));
    }
    let page = keep.find(Query { limit: Some(500), ..Query::of(Of::Sessions) }, None).await.unwrap();
    assert!(page.rows.len() <= 400);
    keep.close().await.unwrap();
    assert_eq!(keep.open_session("late").await.err().map(|error| error.kind), Some(ErrorKind::Unavailable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_writers_lose_no_update() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    let session = keep.open_session("s").await.unwrap();
    let mut writers = Vec::new();
    for w in 0..64u64 {
        let session = session.clone();
        writers.push(tokio::spawn(async move {
            let mut seqs = Vec::new();
            for n in 0..50 {
                seqs.push(
                    session
                        .submit(Request::of(Actor::new(format!("w{w}")).unwrap(), record(n)))
                        .await
                        .unwrap()
                        .head
                        .seq
                        .0,
                );
            }
            seqs
        }));
    }
    let mut all = Vec::new();
    for writer in writers {
        let seqs = writer.await.unwrap();
        assert!(seqs.is_sorted());
        all.extend(seqs);
    }
    all.sort_unstable();
    assert_eq!(all, (2..=3201).collect::<Vec<u64>>());
    assert_eq!(session.state().await.unwrap().head.seq.0, 3201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_repeated_after_its_finish_is_not_told_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    let session = keep.open_session("s").await.unwrap();
    let begin = || {
        let begin = swarmkeep_core::command::BeginEffect {
            effect: EntityId::new("pay").unwrap(),
            class: Default::default(),
            agent: None,
            task: None,
            instance: EntityId::new("cli").unwrap(),
            request: Json::null(),
            deadline_ms: None,
        };
        Request::of(Actor::new("c").unwrap(), Command::BeginEffect(begin)).id("cli-1".parse().unwrap())
    };
    let first = session.submit(begin()).await.unwrap();
    assert_eq!(first.outcomes, [swarmkeep::Outcome::Run { attempt: 1 }]);
    let lost_answer = session.submit(begin()).await.unwrap();
    assert_eq!(lost_answer.outcomes, first.outcomes, "whoever did not get the answer may still run it");
    let outcome = EffectOutcome { ok: true, value: Json::encode(&7).unwrap() };
    let finish = Command::FinishEffect { effect: EntityId::new("pay").unwrap(), attempt: 1, outcome: outcome.clone() };
    session.submit(Request::of(Actor::new("c").unwrap(), finish)).await.unwrap();
    let again = session.submit(begin()).await.unwrap();
    assert!(again.repeated);
    assert_eq!(again.outcomes, [swarmkeep::Outcome::Recorded { outcome }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_repeated_after_the_original_moved_on_is_the_same_fork() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    let session = keep.open_session("s").await.unwrap();
    session.set_memory("a", 1).await.unwrap();
    let fork = || NewSession { request: Some("me:1".parse().unwrap()), ..NewSession::new("f".parse().unwrap()) };
    session.fork(None, fork(), None, &Actor::system()).await.unwrap();
    session.set_memory("a", 2).await.unwrap();
    let again = session.fork(None, fork(), None, &Actor::system()).await.unwrap();
    assert_eq!(again.memory("a").await.unwrap().unwrap().as_str(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_removed_below_a_checkpoint_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(OsEntropy));
    let log = EmbeddedLog::open(folder.path(), &Settings::default(), clock.clone(), entropy.clone()).unwrap();
    let log = Arc::new(log);
    let keep = Swarmkeep::over_embedded(log.clone(), Settings::default(), clock, entropy).await.unwrap();
    let session = keep.open_session("night").await.unwrap();
    let ask = |n: u64| Request::of(Actor::system(), record(n)).id(format!("step-{n}").parse().unwrap());
    let first = session.submit(ask(1)).await.unwrap();
    for n in 2..6 {
        session.submit(ask(n)).await.unwrap();
    }
    let mut feed = session.subscribe(From::Seq(Seq(3))).await.unwrap();
    let token = feed.next().await.unwrap().token;
    session.checkpoint().await.unwrap();
    log.remove(session.id(), Epoch(log.incarnation()), Remove::RecordsThrough(Seq(4))).await.unwrap();

    let again = session.submit(ask(1)).await.unwrap();
    assert!(again.repeated);
    assert_eq!((again.first, &again.outcomes), (first.first, &first.outcomes));
    assert_eq!(again.head.seq, Seq(6), "its own record has no hash any more");
    assert_eq!(session.state_at(Seq(2)).await.unwrap_err().kind, ErrorKind::NotFound);
    let rewound = session.rewind(Seq(2), None, None, Actor::system()).await;
    assert_eq!(rewound.unwrap_err().kind, ErrorKind::NotFound);
    let Err(refused) = session.subscribe(From::Start).await else { panic!("records are missing") };
    assert_eq!(refused.kind, ErrorKind::NotFound);
    for from in [From::Seq(Seq(4)), From::Token(token)] {
        let mut feed = session.subscribe(from).await.unwrap();
        assert_eq!(feed.next().await.unwrap().record.seq, Seq(5));
    }
    assert_eq!(keep.failures(10).unwrap(), vec![]);
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
}
