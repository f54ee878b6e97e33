//! A client of one link, and the scripted server behind it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use swarmkeep::{
    Actor, Session, Swarmkeep, SystemClock,
    core::{
        clock::Clock,
        state::{Effect, EffectStatus},
    },
};
use swarmkeep_mcp::{
    calls::Limits,
    class::Trust,
    envelope::Envelope,
    link::Timing,
    record::Record,
    transport::{Bounds, Program, Recipe},
    upstream::{self, FromClient, Handles, Remembered, Status, Terms, ToClient},
};
use tokio::{sync::oneshot, time::timeout};

/// Generous: a machine that compiles beside the tests is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a scripted server has to do with the outside.
pub(crate) struct Outside {
    dir: tempfile::TempDir,
}

impl Outside {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Every effect the server had, in order: the tool, and the process that did it.
    pub(crate) fn effects(&self) -> Vec<(String, u32)> {
        let text = std::fs::read_to_string(self.path().join("effects")).unwrap_or_default();
        let effect = |line: &str| {
            let (tool, pid) = (line.split(' ').next()?, line.rsplit(' ').next()?);
            Some((tool.to_owned(), pid.parse().ok()?))
        };
        text.lines().filter_map(effect).collect()
    }

    pub(crate) fn open_gate(&self) {
        std::fs::write(self.path().join("gate"), "").unwrap();
    }

    /// A variable that the server sees from its next start on.
    pub(crate) fn set(&self, name: &str, value: &str) {
        std::fs::write(self.path().join(format!("env-{name}")), value).unwrap();
    }

    /// The server: started by a shell that reads what [`Outside::set`] says, and fails while there is a file `down`, or a moment
    /// later while there is a file `falls`.
    pub(crate) fn recipe(&self) -> Recipe {
        let script = r#"cd "$1"; [ -e down ] && exit 1; [ -e falls ] && sleep 0.2 && exit 1; for f in env-*; do [ -e "$f" ] && export "${f#env-}=$(cat "$f")"; done; exec python3 "$2""#;
        let peer = std::path::absolute("tests/peer/peer.py").unwrap().display().to_string();
        let mut environment: BTreeMap<String, String> = std::env::vars().collect();
        environment.insert("PEER_EFFECTS".into(), self.path().join("effects").display().to_string());
        environment.insert("PEER_GATE".into(), self.path().join("gate").display().to_string());
        Recipe::Stdio(Program {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into(), "sh".into(), self.path().display().to_string(), peer],
            environment: Some(environment),
            folder: None,
        })
    }

    pub(crate) fn down(&self) -> PathBuf {
        self.path().join("down")
    }
}

pub(crate) fn trusting() -> Trust {
    Trust { hints: true, ..Trust::default() }
}

pub(crate) async fn store() -> (Swarmkeep, Session) {
    let keep = Swarmkeep::open("ephemeral:").await.unwrap();
    let session = keep.open_session("mcp/test").await.unwrap();
    (keep, session)
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// A client of one link.
pub(crate) struct Client {
    pub(crate) handles: Handles,
    pub(crate) outside: Outside,
    pub(crate) keep: Swarmkeep,
    pub(crate) session: Session,
    number: u64,
    /// What came and was not looked at yet.
    aside: Vec<Value>,
}

#[derive(Default)]
pub(crate) struct Setup {
    /// Another server than the scripted child.
    pub(crate) recipe: Option<Recipe>,
    pub(crate) trust: Trust,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
}

impl Client {
    pub(crate) async fn start(setup: Setup) -> Self {
        let (keep, session) = store().await;
        Self::of(setup, Outside::new(), &keep, session, "one").await
    }

    pub(crate) async fn of(setup: Setup, outside: Outside, keep: &Swarmkeep, session: Session, name: &str) -> Self {
        let recipe = setup.recipe.unwrap_or_else(|| outside.recipe());
        let terms = Terms {
            upstream: "peer".into(),
            remembered: Remembered::of(&session.state().await.unwrap(), name, "peer", &recipe),
            recipe,
            trust: setup.trust,
            timing: setup.timing,
            limits: setup.limits,
            bounds: Bounds::default(),
            client: name.into(),
            initialize: None,
            offered: 0,
            waited_ms: BTreeMap::new(),
            is_lasting: false,
            closing: None,
            began_at_ms: SystemClock::new().now_ms(),
        };
        let record = Record::new(keep.clone(), session.clone(), Actor::new("mcp:test").unwrap(), "peer".into());
        Self {
            handles: upstream::start(terms, record, 1),
            outside,
            keep: keep.clone(),
            session,
            number: 0,
            aside: Vec::new(),
        }
    }

    pub(crate) async fn say(&mut self, text: impl Into<String>) -> u64 {
        self.number += 1;
        let line = Bytes::from(text.into());
        self.handles.client.send(FromClient::Line { number: self.number, line }).await.unwrap();
        self.number
    }

    pub(crate) async fn ask(&mut self, id: u64, method: &str, params: Value) -> u64 {
        self.say(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()).await
    }

    pub(crate) async fn call(&mut self, id: u64, tool: &str) -> u64 {
        self.ask(id, "tools/call", json!({ "name": tool, "arguments": {} })).await
    }

    pub(crate) async fn next(&mut self) -> Option<ToClient> {
        timeout(PATIENCE, self.handles.answers.recv()).await.expect("something comes in time")
    }

    /// The answer to a request; what comes before it is set aside.
    pub(crate) async fn answer(&mut self, id: u64) -> Value {
        loop {
            if let Some(at) = self.aside.iter().position(|line| line["id"] == id && line.get("method").is_none()) {
                return self.aside.remove(at);
            }
            match self.next().await.expect("the link is not over") {
                ToClient::Line { line, .. } => {
                    Envelope::parse(line.clone()).expect("only messages come");
                    self.aside.push(serde_json::from_slice(&line).unwrap());
                }
                ToClient::Taken(_) => {}
            }
        }
    }

    /// A line that is no answer to a request.
    pub(crate) async fn until_line(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Some(at) = self.aside.iter().position(&is) {
                return self.aside.remove(at);
            }
            if let ToClient::Line { line, .. } = self.next().await.expect("the link is not over") {
                self.aside.push(serde_json::from_slice(&line).unwrap());
            }
        }
    }

    pub(crate) fn aside(&self) -> &[Value] {
        &self.aside
    }

    pub(crate) async fn initialize(&mut self) -> Value {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
        self.ask(1_000_000, "initialize", params).await;
        let answer = self.answer(1_000_000).await;
        self.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        answer
    }

    pub(crate) async fn status(&self) -> Status {
        let (answer, answered) = oneshot::channel();
        self.handles.status.send(answer).await.unwrap();
        timeout(PATIENCE, answered).await.unwrap().unwrap()
    }

    pub(crate) async fn until(&self, what: &str, mut is: impl FnMut(&Self, &Status) -> bool) -> Status {
        timeout(PATIENCE, async {
            loop {
                let status = self.status().await;
                if is(self, &status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"))
    }

    /// The process that a call of a tool has reached.
    pub(crate) async fn reached(&self, tool: &str, times: usize) -> u32 {
        let of =
            |client: &Self| client.outside.effects().into_iter().filter(|(name, _)| name == tool).collect::<Vec<_>>();
        self.until("the call reaches the server", |client, _| of(client).len() >= times).await;
        of(self)[times - 1].1
    }

    /// The session's effects, once none of them is being carried out.
    pub(crate) async fn settled(&self) -> Vec<Effect> {
        timeout(PATIENCE, async {
            loop {
                let state = self.session.state().await.unwrap();
                if state.effects.iter().all(|effect| effect.status != EffectStatus::Begun) {
                    return state.effects.iter().map(|effect| (**effect).clone()).collect();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("every effect is settled in time"))
    }

    pub(crate) async fn end(self) -> Outside {
        let Handles { client, answers, over, .. } = self.handles;
        drop((client, answers));
        timeout(PATIENCE, over).await.expect("the link ends in time").unwrap();
        self.outside
    }
}

pub(crate) fn executed(answer: &Value) -> &str {
    let facts = &answer["result"]["_meta"]["swarmkeep/outcome"];
    let facts = if facts.is_null() { &answer["error"]["data"] } else { facts };
    facts["executed"].as_str().unwrap_or("")
}

pub(crate) fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or("")
}
