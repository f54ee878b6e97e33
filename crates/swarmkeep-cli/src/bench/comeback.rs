//! Coming back after `kill -9` in the middle of work: every session is live, with a task under a lease, a message that waits
//! and an effect under way, and the journal has what the tables lack.

use std::{fmt::Write as _, time::Duration};

use swarmkeep::core::command::{BeginEffect, CreateTask};
use swarmkeep::{Address, Agent, Command, EntityId, Session, Settings, Swarmkeep};
use tokio::time::{Instant, sleep};

use super::{
    Figure, Plan, Scratch,
    daemon::Daemon,
    scratch::{actor, broke_off, json, sessions, two_kib_each},
};
use crate::{
    client::{Call, Client, Endpoint},
    failure::Failure,
    moment,
    verb::{field, serve::refused, text},
};

/// As many as the plan asks for, and no more than this.
const SESSIONS: usize = 10_000;
/// Lines of one bulk request.
const LINES: usize = 2_000;

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let store = scratch.path("comeback");
    let count = plan.many.min(SESSIONS);
    fill(&store, count).await?;
    let (mut first, mut all) = (Vec::new(), Vec::new());
    for run in 0..plan.runs.min(3) {
        let daemon = Daemon::start(&store).await?;
        work(&daemon, count, run).await?;
        daemon.kill().await?;
        let since = Instant::now();
        let daemon = Daemon::start(&store).await?;
        let mut client = client(&daemon);
        let middle = format!("/v1/sessions/bench/s-{}", count / 2);
        let task = client.call(&Call::get(middle.clone() + "/tasks/t")).await.map_err(gone)?.ok()?;
        first.push(since.elapsed().as_secs_f64() * 1000.0);
        while client.call(&Call::get("/health/ready")).await.map_err(gone)?.status != 200 {
            sleep(Duration::from_millis(5)).await;
        }
        all.push(since.elapsed().as_secs_f64() * 1000.0);
        // It came back with what it had in hand, or the figure is worth nothing.
        let effect = client.call(&Call::get(middle + "/effects/e")).await.map_err(gone)?.ok()?;
        let (task, effect) = (task.json::<serde_json::Value>()?, effect.json::<serde_json::Value>()?);
        if text(&task, "status") != "running" || text(&effect, "status") != "begun" {
            return Err(Failure::corrupt(
                format!("a task is {}, an effect {}", field(&task, "status"), field(&effect, "status")),
                "this is a defect: please report it",
            ));
        }
        daemon.kill().await?;
    }
    let many = moment::thousands(count as u64);
    Ok(vec![
        Figure::new(format!("kill -9 with {many} sessions at work: first answer"), "ms", first).at_most(300.0),
        Figure::new(format!("kill -9 with {many} sessions at work: all ready"), "ms", all).at_most(2_000.0),
    ])
}

fn client(daemon: &Daemon) -> Client {
    Client::new(Endpoint::Tcp { authority: daemon.address.to_string(), token: None })
}

fn gone(error: crate::client::CallError) -> Failure {
    Failure::unavailable(error.to_string(), "the daemon is gone")
}

async fn fill(store: &std::path::Path, count: usize) -> Result<(), Failure> {
    let keep = Swarmkeep::open_with(store.to_string_lossy(), Settings::default()).await.map_err(refused)?;
    let all = sessions(&keep, count).await?;
    two_kib_each(&all).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for part in all.chunks(all.len().div_ceil(64).max(1)) {
        let part = part.to_vec();
        tasks.spawn(async move {
            for session in part {
                begin_work(&session).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(broke_off)??;
    }
    keep.close().await.map_err(refused)
}

async fn begin_work(session: &Session) -> Result<(), Failure> {
    let id = |text: &str| EntityId::new(text).map_err(|refusal| refused(refusal.into()));
    let (agent, wrong) = (id("a")?, |refusal: swarmkeep::Refusal| refused(refusal.into()));
    let commands = vec![
        Command::SpawnAgent(Agent::new("worker").id("a").map_err(wrong)?),
        Command::CreateTask(CreateTask::new("a long task").id("t").map_err(wrong)?),
        Command::ClaimTask { agent: agent.clone(), task: Some(id("t")?), kinds: None, lease_ms: Some(3_600_000) },
        Command::SendMessage {
            id: None,
            from: agent.clone(),
            to: Address::Agent(agent.clone()),
            topic: None,
            content: json("\"a note to itself\"")?,
            correlation_id: None,
        },
        Command::BeginEffect(BeginEffect {
            effect: id("e")?,
            class: Default::default(),
            agent: Some(agent),
            task: Some(id("t")?),
            instance: id("process-1")?,
            request: json("{\"ask\":\"a model\"}")?,
            deadline_ms: Some(3_600_000),
        }),
    ];
    session.submit(swarmkeep::Request::all(actor(), commands)).await.map_err(refused)?;
    Ok(())
}

/// One append to each session, acknowledged, and then no time to put it into tables.
async fn work(daemon: &Daemon, count: usize, run: usize) -> Result<(), Failure> {
    let mut client = client(daemon);
    for from in (0..count).step_by(LINES) {
        let mut body = String::with_capacity(300 * LINES);
        for number in from..count.min(from + LINES) {
            // Writing into a String cannot fail.
            let _ = writeln!(
                body,
                "{{\"session\":\"bench/s-{number}\",\"commands\":[{{\"record\":{{\"kind\":\"bench\",\"payload\":{}}}}}]}}",
                super::payload(run as u64)
            );
        }
        let call = Call::post("/v1/bulk", &serde_json::Value::Null).text(body);
        let answer = client.call(&call).await.map_err(gone)?.ok()?;
        let refused =
            String::from_utf8_lossy(&answer.body).lines().find(|line| line.contains("\"code\"")).map(str::to_owned);
        if let Some(refused) = refused {
            return Err(Failure::refused("refused", format!("an append was refused: {refused}"), "please report it"));
        }
    }
    Ok(())
}
