//! Turns that a crash left half-written are closed when the store comes back: once, and nobody's who is at work.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::path::Path;

use swarmkeep::{Actor, Address, Agent, Command, EntityId, Event, Json, Request, Seq, Session, Swarmkeep};
use swarmkeep_core::{
    command::BeginEffect,
    state::{AgentStatus, EffectClass, EffectStatus},
    turn::Turn,
};

fn id(text: &str) -> EntityId {
    EntityId::new(text).unwrap()
}

async fn open(folder: &Path) -> Swarmkeep {
    loop {
        match Swarmkeep::open(folder.to_str().unwrap()).await {
            // Unlike a process that died, a store that was dropped may be held a moment longer by a task that looks at it.
            Err(error) if error.to_string().contains("is held by") => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

async fn ask(session: &Session, commands: Vec<Command>) {
    session.submit(Request::all(Actor::new("user:test").unwrap(), commands)).await.unwrap();
}

/// A crash as far as the store can tell: nothing is flushed, sealed or handed over.
fn crash(keep: Swarmkeep) {
    drop(keep);
}

/// One turn of each kind, left in the middle by this agent.
fn half_a_turn(agent: &str) -> Vec<Command> {
    let begin = |effect: String, class| {
        Command::BeginEffect(BeginEffect {
            effect: id(&effect),
            class,
            agent: Some(id(agent)),
            task: None,
            instance: id("process-1"),
            request: Json::null(),
            deadline_ms: None,
        })
    };
    let call = format!(r#"{{"role":"assistant","tool_calls":[{{"id":"{agent}-call"}}]}}"#);
    vec![
        begin(format!("{agent}-pays"), EffectClass::AtMostOnce),
        begin(format!("{agent}-looks"), EffectClass::Read),
        Command::SendMessage {
            id: None,
            from: id(agent),
            to: Address::Agent(id("reader")),
            topic: None,
            content: Json::parse(&call).unwrap(),
            correlation_id: None,
        },
    ]
}

async fn interrupted(session: &Session) -> Vec<Turn> {
    let records = session.records(Seq::ZERO, usize::MAX).await.unwrap();
    let turn = |event: &Event| match event {
        Event::Interrupted { turn, .. } => Some(turn.clone()),
        _ => None,
    };
    records.iter().filter_map(|record| turn(&record.body.as_ref()?.event)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_written_turns_are_closed_at_a_start_once() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    keep.wait_ready().await;
    let session = keep.open_session("s").await.unwrap();
    for agent in ["dead", "alive", "reader"] {
        session.spawn_agent(Agent::new(agent).id(agent).unwrap()).await.unwrap();
    }
    for agent in ["dead", "alive"] {
        ask(&session, half_a_turn(agent)).await;
    }
    let failed = Command::SetAgentStatus { agent: id("dead"), status: AgentStatus::Failed, reason: None };
    ask(&session, vec![failed]).await;
    assert!(interrupted(&session).await.is_empty(), "its process may still finish them while the store is at work");
    let before = session.records(Seq::ZERO, usize::MAX).await.unwrap();
    drop(session);
    crash(keep);
    for _ in 0..2 {
        let keep = open(folder.path()).await;
        keep.wait_ready().await;
        let session = keep.get_session("s").await.unwrap().unwrap();
        let turns = interrupted(&session).await;
        assert_eq!(turns.len(), 3, "{turns:?}");
        assert!(matches!(&turns[2], Turn::Call { call, .. } if *call == id("dead-call")), "{turns:?}");
        let after = session.records(Seq::ZERO, before.len()).await.unwrap();
        assert!(before.iter().zip(&after).all(|(old, new)| old.hash == new.hash), "what was written stays");
        let state = session.state().await.unwrap();
        for (effect, status) in [
            ("dead-pays", EffectStatus::OutcomeUnknown),
            ("dead-looks", EffectStatus::OutcomeUnknown),
            ("alive-pays", EffectStatus::Begun),
            ("alive-looks", EffectStatus::Begun),
        ] {
            assert_eq!(state.effects.get(&id(effect)).unwrap().status, status, "{effect}");
        }
        assert!(state.calls.contains(&id("alive-call")) && !state.calls.contains(&id("dead-call")));
        let report = keep.verify(None, |_| {}).await.unwrap();
        assert!(report.findings.is_empty(), "{report:?}");
        drop(session);
        crash(keep);
    }
    // Its agent comes back in a new process and says so.
    let keep = open(folder.path()).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    ask(&session, vec![Command::ReturnAgent { agent: id("alive"), instance: id("process-2") }]).await;
    assert_eq!(interrupted(&session).await.len(), 6);
    keep.close().await.unwrap();
}

#[tokio::test]
async fn requests_that_came_first_are_carried_out_first_while_turns_are_closed() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path()).await;
    keep.wait_ready().await;
    let session = keep.open_session("s").await.unwrap();
    for agent in ["dead", "reader"] {
        session.spawn_agent(Agent::new(agent).id(agent).unwrap()).await.unwrap();
    }
    ask(&session, half_a_turn("dead")).await;
    let failed = Command::SetAgentStatus { agent: id("dead"), status: AgentStatus::Failed, reason: None };
    ask(&session, vec![failed]).await;
    drop(session);
    crash(keep);
    let keep = open(folder.path()).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    let set = async |value: u32| {
        let command = Command::SetMemory {
            scope: id("shared"),
            key: id("k"),
            value: Json::encode(&value).unwrap(),
            if_version: None,
            ttl_ms: None,
        };
        session.submit(Request::of(Actor::new("user:test").unwrap(), command)).await.unwrap().first
    };
    // Each is polled in this order; the first one brings the session into RAM.
    let (first, second, third) = tokio::join!(biased; set(1), set(2), set(3));
    assert!(first < second && second < third, "{first} {second} {third}");
    assert_eq!(interrupted(&session).await.len(), 3, "and the turns are closed");
    drop(session);
    keep.close().await.unwrap();
}
