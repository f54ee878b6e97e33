//! Leases, effects and ends of life, on a clock that is turned by hand.
//!
//! The runtime's own time is paused: it moves on when nothing else has anything to do, so a "sleep" here is one beat of the
//! engine and takes no time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use swarmkeep::{
    Actor, Agent, Command, EntityId, Event, Json, NewSession, Of, OsEntropy, Outcome, Query, RefusalCode, Request, Seq,
    Session, Settings, Swarmkeep, Task, log::Ephemeral,
};
use swarmkeep_core::{
    FailureType,
    clock::Clock,
    command::{BeginEffect, DEFAULT_SCOPE},
    limits,
    log::{Log, Observation},
    state::{AgentStatus, EffectClass, EffectStatus, SessionStatus, TaskStatus},
    turn::Turn,
};

const BEGINNING_MS: u64 = 1_750_000_000_000;
const HOUR_MS: u64 = 3_600_000;
/// Longer than the engine's 200 ms.
const BEAT: Duration = Duration::from_millis(250);

/// A wall clock and a monotonic one.
struct Hand {
    wall_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }
}

struct World {
    hand: Arc<Hand>,
    log: Arc<dyn Log>,
    keep: Swarmkeep,
}

impl World {
    async fn new() -> Self {
        let hand = Arc::new(Hand { wall_ms: BEGINNING_MS.into(), monotonic_ms: 7_000.into() });
        let log: Arc<dyn Log> = Arc::new(Ephemeral::new().unwrap());
        let keep = open(&log, &hand).await;
        Self { hand, log, keep }
    }

    /// As after a crash: another process, the same log.
    async fn restart(&mut self) {
        self.keep = open(&self.log, &self.hand).await;
    }

    /// Time goes by, a second at a time; the engine looks each time.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.hand.wall_ms.fetch_add(1_000, Ordering::SeqCst);
            self.hand.monotonic_ms.fetch_add(1_000, Ordering::SeqCst);
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Time has gone by and nobody looked.
    async fn freeze(&self, ms: u64) {
        self.hand.wall_ms.fetch_add(ms, Ordering::SeqCst);
        self.hand.monotonic_ms.fetch_add(ms, Ordering::SeqCst);
        tokio::time::sleep(BEAT).await;
    }
}

async fn open(log: &Arc<dyn Log>, hand: &Arc<Hand>) -> Swarmkeep {
    let keep = Swarmkeep::over(log.clone(), Settings::default(), hand.clone(), Arc::new(OsEntropy)).await.unwrap();
    keep.wait_ready().await;
    keep
}

fn id(text: &str) -> EntityId {
    EntityId::new(text).unwrap()
}

async fn ask(session: &Session, command: Command) -> Outcome {
    session.submit(Request::of(Actor::system(), command)).await.unwrap().outcomes.remove(0)
}

async fn refused(session: &Session, command: Command) -> RefusalCode {
    session.submit(Request::of(Actor::system(), command)).await.unwrap_err().refusal.unwrap().code
}

/// A session with agent `a` and task `t`.
async fn with_task(keep: &Swarmkeep, name: &str) -> Session {
    let session = keep.open_session(name).await.unwrap();
    session.spawn_agent(Agent::new("a").id("a").unwrap()).await.unwrap();
    session.create_task(Task::new("do it").id("t").unwrap()).await.unwrap();
    session
}

async fn claim(session: &Session, lease_ms: u64) -> u64 {
    let command = Command::ClaimTask { agent: id("a"), task: Some(id("t")), kinds: None, lease_ms: Some(lease_ms) };
    match ask(session, command).await {
        Outcome::Claimed { lease: Some(lease), .. } => lease,
        other => panic!("{other:?}"),
    }
}

async fn task_status(session: &Session) -> TaskStatus {
    session.state().await.unwrap().tasks.get(&id("t")).unwrap().status
}

fn effect(deadline_ms: u64) -> Command {
    Command::BeginEffect(BeginEffect {
        effect: id("pay"),
        class: EffectClass::AtMostOnce,
        agent: Some(id("a")),
        task: None,
        instance: id("worker-1"),
        request: Json::null(),
        deadline_ms: Some(deadline_ms),
    })
}

async fn effect_status(session: &Session) -> EffectStatus {
    session.state().await.unwrap().effects.get(&id("pay")).unwrap().status
}

fn remember(key: &str, ttl_ms: Option<u64>) -> Command {
    let scope = id(DEFAULT_SCOPE);
    Command::SetMemory { scope, key: id(key), value: Json::null(), if_version: None, ttl_ms }
}

async fn keys(session: &Session) -> Vec<String> {
    session.state().await.unwrap().memory.iter().map(|entry| entry.key.to_string()).collect()
}

async fn events(session: &Session) -> Vec<(u64, Event)> {
    let records = session.records(Seq::ZERO, usize::MAX).await.unwrap();
    assert!(records.is_sorted_by_key(|record| record.time_ms), "record times never go back");
    records.into_iter().map(|record| (record.time_ms, record.body.unwrap().event)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_after_silence_and_the_old_number_is_refused() {
    let world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    let lease = claim(&session, 10_000).await;
    world.pass(9).await;
    assert_eq!(task_status(&session).await, TaskStatus::Running);
    world.pass(2).await;
    let state = session.state().await.unwrap();
    let task = state.tasks.get(&id("t")).unwrap();
    assert_eq!((task.status, task.retry_count, &task.lease), (TaskStatus::Pending, 1, &None));
    let expired: Vec<_> = events(&session)
        .await
        .into_iter()
        .filter(|(_, event)| matches!(event, Event::TaskLeaseExpired { .. }))
        .collect();
    assert!(
        matches!(&expired[..], [(_, Event::TaskLeaseExpired { lease: 1, retry_count: 1, failed: false, .. })]),
        "{expired:?}"
    );
    let lost = session.heartbeat_task(&id("t"), lease).await.unwrap_err();
    assert_eq!(lost.refusal.unwrap().code, RefusalCode::LeaseLost);
    let complete = |lease| Command::CompleteTask { task: id("t"), lease: Some(lease), result: Json::null() };
    assert_eq!(refused(&session, complete(lease)).await, RefusalCode::LeaseLost);

    // Somebody else takes it; the first still cannot.
    let second = claim(&session, 10_000).await;
    assert!(second > lease);
    assert_eq!(refused(&session, complete(lease)).await, RefusalCode::LeaseLost);
    ask(&session, complete(second)).await;
    world.pass(30).await;
    assert_eq!(task_status(&session).await, TaskStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn the_last_retry_fails_the_task() {
    let world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    for retries in 1..=limits::MAX_RETRIES + 1 {
        claim(&session, 3_000).await;
        world.pass(4).await;
        assert_eq!(session.state().await.unwrap().tasks.get(&id("t")).unwrap().lease, None, "after {retries}");
    }
    assert_eq!(task_status(&session).await, TaskStatus::Failed);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_renew() {
    let world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    let lease = claim(&session, 10_000).await;
    for _ in 0..5 {
        world.pass(8).await;
        session.heartbeat_task(&id("t"), lease).await.unwrap();
        world.pass(8).await;
        session.observe(vec![Observation::Heartbeat { agent: id("a"), at_ms: 0 }]).await.unwrap();
    }
    assert_eq!(task_status(&session).await, TaskStatus::Running);
    world.pass(9).await;
    assert_eq!(task_status(&session).await, TaskStatus::Running);
    world.pass(2).await;
    assert_eq!(task_status(&session).await, TaskStatus::Pending);
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_failure_until_the_agent_rests_is_heard_or_ends() {
    let world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    session.spawn_agent(Agent::new("b").id("b").unwrap()).await.unwrap();
    let beats = async |agent: &str| {
        session.observe(vec![Observation::Heartbeat { agent: id(agent), at_ms: 0 }]).await.unwrap();
    };
    // How many agents are said to be silent, and of how many that was said.
    let silent = || {
        let all = world.keep.failures(100).unwrap();
        let all: Vec<_> =
            all.iter().filter(|incident| incident.failure.kind() == FailureType::AgentUnresponsive).collect();
        (all.iter().filter(|incident| incident.over_at_ms.is_none()).count(), all.len())
    };
    beats("a").await;
    beats("b").await;
    session.rest_agent(&id("b")).await.unwrap();
    world.pass(60).await;
    assert_eq!(silent(), (1, 1), "b rests");
    beats("a").await;
    assert_eq!(silent(), (0, 1));
    beats("b").await;
    world.pass(16).await;
    assert_eq!(silent(), (2, 2), "it had a rest, and has work again");
    session.rest_agent(&id("b")).await.unwrap();
    assert_eq!(silent(), (1, 2), "this was a sign of life too");
    let ends = Command::SetAgentStatus { agent: id("a"), status: AgentStatus::Terminated, reason: None };
    assert!(matches!(ask(&session, ends).await, Outcome::Done { .. }));
    assert_eq!(silent(), (0, 2), "nobody waits for it any more");
}

#[tokio::test(start_paused = true)]
async fn an_open_effect_keeps_the_lease_until_its_own_deadline() {
    let world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    claim(&session, 10_000).await;
    assert!(matches!(ask(&session, effect(60_000)).await, Outcome::Run { attempt: 1 }));
    world.pass(58).await;
    assert_eq!(task_status(&session).await, TaskStatus::Running);
    assert_eq!(effect_status(&session).await, EffectStatus::Begun);
    world.pass(3).await;
    assert_eq!(effect_status(&session).await, EffectStatus::OutcomeUnknown);
    world.pass(10).await;
    assert_eq!(task_status(&session).await, TaskStatus::Pending);
    assert_eq!(refused(&session, effect(60_000)).await, RefusalCode::OutcomeUnknown, "not run again");
}

#[tokio::test(start_paused = true)]
async fn an_effect_that_finished_keeps_no_lease() {
    let world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    claim(&session, 10_000).await;
    ask(&session, effect(600_000)).await;
    world.pass(25).await;
    let outcome = serde_json::from_str(r#"{"ok":true,"value":1}"#).unwrap();
    ask(&session, Command::FinishEffect { effect: id("pay"), attempt: 1, outcome }).await;
    world.pass(21).await;
    assert_eq!(task_status(&session).await, TaskStatus::Pending, "its agent has been silent for twice the lease");
    assert_eq!(effect_status(&session).await, EffectStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_tool_call_without_a_result_is_waited_for_as_long_as_an_effect_and_again_after_a_start() {
    let mut world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    let say = |text: &str| Command::Record {
        kind: "turn".into(),
        aggregate: None,
        payload: Json::parse(text).unwrap(),
        blobs: Default::default(),
    };
    let half = limits::EFFECT_DEADLINE_MS / 2_000;
    ask(&session, say(r#"{"tool_calls":[{"id":"answered"},{"id":"lost"}]}"#)).await;
    world.pass(half).await;
    ask(&session, say(r#"{"tool_call_id":"answered"}"#)).await;
    drop(session);
    world.restart().await;
    let session = world.keep.get_session("s").await.unwrap().unwrap();
    world.pass(half + 2).await;
    assert_eq!(session.state().await.unwrap().calls.len(), 1, "after a start it has its full time again");
    world.pass(half).await;
    let interrupted: Vec<String> = events(&session)
        .await
        .into_iter()
        .filter_map(|(_, event)| match event {
            Event::Interrupted { turn: Turn::Call { call, .. }, .. } => Some(call.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(interrupted, ["lost"]);
    assert!(session.state().await.unwrap().calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn memory_ends_by_a_record() {
    let world = World::new().await;
    let session = world.keep.open_session("s").await.unwrap();
    ask(&session, remember("short", Some(5_000))).await;
    ask(&session, remember("long", Some(20_000))).await;
    ask(&session, remember("for good", None)).await;
    world.pass(4).await;
    assert_eq!(keys(&session).await.len(), 3);
    world.pass(2).await;
    assert_eq!(keys(&session).await, ["for good", "long"]);
    world.pass(15).await;
    assert_eq!(keys(&session).await, ["for good"]);
    let deleted = |(_, event): &(u64, Event)| matches!(event, Event::MemoryDeleted { expired: true, .. });
    assert_eq!(events(&session).await.iter().filter(|event| deleted(event)).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_rewind_brings_back_ends_too() {
    let world = World::new().await;
    let session = world.keep.open_session("s").await.unwrap();
    ask(&session, remember("short", Some(5_000))).await;
    let at = session.state().await.unwrap().head.seq;
    world.pass(6).await;
    assert_eq!(keys(&session).await.len(), 0);
    session.rewind(at, None, None, Actor::system()).await.unwrap();
    world.pass(6).await;
    assert_eq!(keys(&session).await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_paused_session_waits_and_is_caught_up_with() {
    let world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    claim(&session, 10_000).await;
    ask(&session, remember("short", Some(5_000))).await;
    ask(&session, Command::Pause { reason: None }).await;
    let at = session.state().await.unwrap().head.seq;
    world.pass(30).await;
    assert_eq!(session.state().await.unwrap().head.seq, at, "no verdict on a session that is paused");
    ask(&session, Command::Resume {}).await;
    world.pass(2).await;
    assert_eq!(keys(&session).await.len(), 0);
    world.pass(61).await;
    assert_eq!(task_status(&session).await, TaskStatus::Pending);
}

#[tokio::test(start_paused = true)]
async fn sessions_end_by_a_record() {
    let world = World::new().await;
    let new = |name: &str| NewSession::new(name.parse().unwrap());
    let absolute = world
        .keep
        .create_session(NewSession { ttl_ms: Some(10_000), ..new("absolute") }, &Actor::system())
        .await
        .unwrap();
    let sliding = world
        .keep
        .create_session(NewSession { idle_ttl_ms: Some(10_000), ..new("sliding") }, &Actor::system())
        .await
        .unwrap();
    let status = async |session: &Session| session.state().await.unwrap().info.status;
    for _ in 0..2 {
        world.pass(4).await;
        for session in [&absolute, &sliding] {
            ask(session, remember("k", None)).await;
        }
    }
    world.pass(3).await;
    assert_eq!(status(&absolute).await, SessionStatus::Expired);
    assert_eq!(status(&sliding).await, SessionStatus::Live);
    assert_eq!(refused(&absolute, remember("k", None)).await, RefusalCode::SessionNotLive);
    world.pass(8).await;
    assert_eq!(status(&sliding).await, SessionStatus::Expired);
    // Gone from RAM's clocks, there for readers; the list agrees.
    assert_eq!(keys(&absolute).await, ["k"]);
    let page =
        world.keep.find(Query { status: Some("expired".into()), ..Query::of(Of::Sessions) }, None).await.unwrap();
    assert_eq!(page.rows.len(), 2);
    assert_eq!(world.keep.health().deadlines, 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_every_lease_has_its_full_time() {
    let mut world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    claim(&session, 10_000).await;
    ask(&session, effect(10_000)).await;
    world.pass(9).await;
    drop(session);
    world.restart().await;
    let session = world.keep.get_session("s").await.unwrap().unwrap();
    world.pass(9).await;
    assert_eq!(task_status(&session).await, TaskStatus::Running);
    assert_eq!(effect_status(&session).await, EffectStatus::Begun, "another process carries it out");
    world.pass(12).await;
    assert_eq!(effect_status(&session).await, EffectStatus::OutcomeUnknown);
    assert_eq!(task_status(&session).await, TaskStatus::Pending);
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_store_was_down_costs_nobody_a_lease() {
    let mut world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    let lease = claim(&session, 10_000).await;
    drop(session);
    // The old engine is gone before the night.
    let log = world.log.clone();
    world.keep = Swarmkeep::open("ephemeral:").await.unwrap();
    world.hand.wall_ms.fetch_add(8 * HOUR_MS, Ordering::SeqCst);
    world.hand.monotonic_ms.store(3, Ordering::SeqCst);
    world.log = log;
    world.restart().await;
    let session = world.keep.get_session("s").await.unwrap().unwrap();
    world.pass(8).await;
    session.heartbeat_task(&id("t"), lease).await.unwrap();
    world.pass(8).await;
    assert_eq!(task_status(&session).await, TaskStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_detector_takes_nobodys_lease() {
    let world = World::new().await;
    let session = with_task(&world.keep, "s").await;
    claim(&session, 10_000).await;
    ask(&session, effect(20_000)).await;
    world.pass(5).await;
    world.freeze(HOUR_MS).await;
    assert_eq!(task_status(&session).await, TaskStatus::Running);
    assert_eq!(effect_status(&session).await, EffectStatus::Begun);
    world.pass(18).await;
    assert_eq!(effect_status(&session).await, EffectStatus::Begun);
    assert_eq!(task_status(&session).await, TaskStatus::Running);
    world.pass(14).await;
    assert_eq!(effect_status(&session).await, EffectStatus::OutcomeUnknown);
    assert_eq!(task_status(&session).await, TaskStatus::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_takes_nobodys_lease_and_times_never_go_back() {
    for forward in [true, false] {
        let world = World::new().await;
        let session = with_task(&world.keep, "s").await;
        claim(&session, 10_000).await;
        ask(&session, effect(10_000)).await;
        ask(&session, remember("before", None)).await;
        if forward {
            world.hand.wall_ms.fetch_add(HOUR_MS, Ordering::SeqCst);
        } else {
            world.hand.wall_ms.fetch_sub(HOUR_MS, Ordering::SeqCst);
        }
        world.pass(8).await;
        assert_eq!(task_status(&session).await, TaskStatus::Running, "forward: {forward}");
        assert_eq!(effect_status(&session).await, EffectStatus::Begun, "forward: {forward}");
        ask(&session, remember("after", Some(5_000))).await;
        world.pass(16).await;
        assert_eq!(effect_status(&session).await, EffectStatus::OutcomeUnknown, "forward: {forward}");
        assert_eq!(task_status(&session).await, TaskStatus::Pending, "forward: {forward}");
        let times: Vec<u64> = events(&session).await.into_iter().map(|(time_ms, _)| time_ms).collect();
        assert!(times.iter().all(|time_ms| *time_ms >= BEGINNING_MS), "{times:?}");
        assert_eq!(keys(&session).await.len(), if forward { 1 } else { 2 }, "by the wall clock, an hour behind");
    }
}
