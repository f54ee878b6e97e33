//! Random histories of a session, mostly valid, the same for the same seeds.
//!
//! A step is one `u64`: a property test draws a list of them and shrinks it by leaving steps out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "for tests: a broken expectation is a panic"
)]

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::{
    command::{BeginEffect, Command, CreateTask, Outcome, SpawnAgent},
    error::Refusal,
    id::{Actor, BlobId, EntityId, Epoch, RequestId, SessionName},
    json::Json,
    log::Blob,
    record::Record,
    session::{self, Circumstances, NewSession, Request, Session, Staged},
    state::{
        Address, AgentStatus, EffectClass, EffectOutcome, EffectStatus, SessionMetadata, SessionStatus, State,
        TaskStatus, forked_base,
    },
};

/// Draws numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// Begins at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit.max(1) as u64) as usize
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }

    fn id(&mut self, kind: &str, of: usize) -> EntityId {
        EntityId::new(format!("{kind}{}", self.below(of))).unwrap()
    }

    fn json(&mut self) -> Json {
        let number = self.below(100);
        let text = match self.below(6) {
            0 => "null".to_owned(),
            1 => format!("{number}.0"),
            2 => format!(r#""text \ud83d\ude00 {number}""#),
            3 => format!(r#"{{"b":{number},"a":[1,{{"deep":"}}{{"}}]}}"#),
            4 => format!("[{number}, 9223372036854775808]"),
            _ => format!(r#"{{"n":{number}}}"#),
        };
        Json::parse(&text).unwrap()
    }

    /// What an agent writes: now and then with a tool call, or with a result.
    fn text(&mut self) -> Json {
        let call = self.below(6);
        let text = match self.below(8) {
            0 => format!(r#"{{"role":"assistant","tool_calls":[{{"id":"call-{call}"}},{{"id":"call-9"}}]}}"#),
            1 => format!(r#"{{"role":"tool","tool_call_id":"call-{call}"}}"#),
            _ => return self.json(),
        };
        Json::parse(&text).unwrap()
    }

    fn reason(&mut self) -> Option<String> {
        self.one_in(2).then(|| format!("because {}", self.below(9)))
    }
}

/// A command that fits the state more often than not.
#[must_use]
pub fn command(draw: &mut Draw, state: &State) -> Command {
    let agents: Vec<EntityId> = state.agents.iter().map(|agent| agent.id.clone()).collect();
    let agent = draw.pick(&agents).unwrap_or_else(|| draw.id("agent", 4));
    match draw.below(100) {
        0..8 => Command::SpawnAgent(SpawnAgent {
            id: draw.one_in(2).then(|| draw.id("agent", 8)),
            kind: "worker".into(),
            name: draw.one_in(2).then(|| format!("name {}", draw.below(9))),
            capabilities: (0..draw.below(3)).map(|nth| format!("skill {nth}")).collect(),
            configuration: draw.json(),
        }),
        8..38 => task_command(draw, state, agent),
        38..55 => message_command(draw, state, agent),
        55..67 => memory_command(draw, state),
        67..80 => effect_command(draw, state, agent),
        80..92 => swarm_command(draw, state, agent),
        _ => life_command(draw),
    }
}

fn task_command(draw: &mut Draw, state: &State, agent: EntityId) -> Command {
    let tasks: Vec<_> = state.tasks.iter().cloned().collect();
    let running: Vec<_> = tasks.iter().filter(|task| task.status == TaskStatus::Running).cloned().collect();
    let any = draw.pick(&tasks);
    let task = any.as_ref().map_or_else(|| draw.id("task-", 4), |task| task.id.clone());
    match draw.below(14) {
        0..4 => Command::CreateTask(CreateTask {
            id: draw.one_in(3).then(|| draw.id("t", 30)),
            kind: format!("kind {}", draw.below(2)),
            title: "do it".into(),
            priority: draw.below(4) as i64 - 1,
            payload: draw.json(),
            parent: draw.one_in(4).then_some(task),
            max_retries: draw.one_in(2).then(|| draw.below(3) as u32),
            assign: draw.one_in(4).then_some(agent),
        }),
        4 => Command::AssignTask { task, agent },
        5..8 => Command::ClaimTask {
            agent,
            task: draw.one_in(4).then_some(task),
            kinds: draw.one_in(4).then(|| vec!["kind 0".into()]),
            lease_ms: draw.one_in(2).then_some(5_000),
        },
        8 => Command::UpdateTask { task, priority: draw.one_in(2).then_some(3), payload: Some(draw.json()) },
        9 => Command::CancelTask { task, reason: draw.reason() },
        choice => {
            let Some(task) = draw.pick(&running) else {
                return Command::CompleteTask { task, lease: None, result: draw.json() };
            };
            let number = task.lease.as_ref().map_or(0, |lease| lease.number);
            let lease = if draw.one_in(6) { number.saturating_sub(1) } else { number };
            let task = task.id.clone();
            match choice {
                10 => Command::FailTask { task, lease: Some(lease), error: "no".into(), permanent: draw.one_in(5) },
                11 => Command::ReleaseTask { task, lease },
                12 => Command::ExpireLease { task, lease, reason: "silence".into() },
                _ => Command::CompleteTask { task, lease: Some(lease), result: draw.json() },
            }
        }
    }
}

fn message_command(draw: &mut Draw, state: &State, agent: EntityId) -> Command {
    let agents: Vec<EntityId> = state.agents.iter().map(|agent| agent.id.clone()).collect();
    let other = draw.pick(&agents).unwrap_or_else(|| agent.clone());
    let messages: Vec<_> = state.messages.iter().cloned().collect();
    match draw.below(6) {
        0..3 => Command::SendMessage {
            id: draw.one_in(6).then(|| draw.id("m", 40)),
            from: agent,
            to: match draw.below(4) {
                0 => Address::Topic(draw.id("topic", 3)),
                1 => Address::Broadcast,
                _ => Address::Agent(other),
            },
            topic: None,
            content: draw.text(),
            correlation_id: draw.one_in(3).then(|| ["question", "message-999999"][draw.below(2)].into()),
        },
        3 | 4 => Command::ReceiveMessages { agent, limit: draw.one_in(2).then_some(3) },
        _ => match draw.pick(&messages) {
            Some(message) => Command::AcknowledgeMessage {
                message: message.id.clone(),
                agent: draw.pick(&message.waiting.keys().cloned().collect::<Vec<_>>()).unwrap_or(agent),
            },
            None => Command::Subscribe { agent, topic: draw.id("topic", 3) },
        },
    }
}

fn memory_command(draw: &mut Draw, state: &State) -> Command {
    let scope = draw.id("scope", 2);
    let key = draw.id("key", 5);
    let known = state.memory.iter().find(|entry| entry.scope == scope && entry.key == key).map(|entry| entry.version);
    let if_version = match draw.below(4) {
        0 => Some(known.unwrap_or(0)),
        1 if draw.one_in(4) => Some(draw.below(50) as u64),
        _ => None,
    };
    if draw.one_in(4) {
        return Command::DeleteMemory { scope, key, if_version };
    }
    Command::SetMemory { scope, key, value: draw.json(), if_version, ttl_ms: draw.one_in(3).then_some(5_000) }
}

fn effect_command(draw: &mut Draw, state: &State, agent: EntityId) -> Command {
    let effect = draw.id("effect", 12);
    if draw.one_in(20) {
        return Command::ReturnAgent { agent, instance: draw.id("process", 3) };
    }
    let known = state.effects.get(&effect).cloned();
    let outcome = EffectOutcome { ok: !draw.one_in(4), value: draw.json() };
    match known {
        Some(row) if row.status == EffectStatus::Begun && !draw.one_in(4) => match draw.below(4) {
            0 => Command::DoubtEffect { effect, attempt: row.attempt, reason: "deadline".into() },
            _ => Command::FinishEffect { effect, attempt: row.attempt, outcome },
        },
        Some(row) if row.status == EffectStatus::OutcomeUnknown && !draw.one_in(4) => Command::ResolveEffect {
            effect,
            outcome: draw.one_in(2).then_some(outcome),
            by: if draw.one_in(2) { "user:anna".into() } else { "reconciler:counter".into() },
            attempt: (row.attempt % 2 == 0).then_some(row.attempt),
        },
        known => {
            let class = EffectClass::ALL[draw.below(EffectClass::ALL.len())];
            Command::BeginEffect(BeginEffect {
                effect,
                class: known.as_ref().map_or(class, |row| row.class),
                agent: known.as_ref().map_or(Some(agent), |row| row.agent_id.clone()),
                task: None,
                instance: draw.id("process", 3),
                request: known.map_or(Json::object(), |row| row.request.clone()),
                deadline_ms: None,
            })
        }
    }
}

fn swarm_command(draw: &mut Draw, state: &State, agent: EntityId) -> Command {
    let groups: Vec<EntityId> = state.groups.iter().map(|group| group.id.clone()).collect();
    let group = draw.pick(&groups).unwrap_or_else(|| draw.id("group-", 4));
    match draw.below(14) {
        0 => Command::CreateGroup {
            id: None,
            name: format!("team {}", draw.below(6)),
            kind: "team".into(),
            configuration: draw.json(),
        },
        1 => Command::RemoveGroup { group },
        2 | 3 => Command::JoinGroup { group, agent, role: draw.reason() },
        4 => Command::LeaveGroup { group, agent },
        5 => Command::SetConfig { key: draw.id("config", 3), value: draw.json() },
        6 => Command::RemoveConfig { key: draw.id("config", 3) },
        7 => Command::SetConnection {
            connection: draw.id("connection", 3),
            recipe: draw.json(),
            state: draw.json(),
            status: "connected".into(),
        },
        8 => Command::RemoveConnection { connection: draw.id("connection", 3) },
        9 => Command::Subscribe { agent, topic: draw.id("topic", 3) },
        10 => Command::Unsubscribe { agent, topic: draw.id("topic", 3) },
        11 => Command::UpdateAgent {
            agent,
            name: draw.one_in(2).then(|| format!("name {}", draw.below(9))),
            capabilities: draw.one_in(2).then(Vec::new),
            configuration: draw.one_in(2).then(|| draw.json()),
        },
        choice => Command::SetAgentStatus {
            agent,
            status: if choice == 12 { AgentStatus::Busy } else { AgentStatus::ALL[draw.below(4)] },
            reason: draw.reason(),
        },
    }
}

fn life_command(draw: &mut Draw) -> Command {
    match draw.below(12) {
        0 => Command::Pause { reason: draw.reason() },
        1..4 => Command::Resume {},
        4 => Command::Park {},
        5..8 => Command::Expire {},
        8 => Command::UpdateSession {
            owner: draw.one_in(2).then(|| "anna".into()),
            metadata: draw
                .one_in(2)
                .then(|| SessionMetadata { source: Some("cli".into()), ..SessionMetadata::default() }),
            ttl_ms: None,
            idle_ttl_ms: draw.one_in(2).then(|| [0, 1_000_000_000][draw.below(2)]),
        },
        9 if draw.one_in(2) => {
            Command::InterruptTurns { instances: vec![draw.id("process", 3)], at_start: draw.one_in(2) }
        }
        9 => Command::NoteRecovery {
            recovery: draw.id("recovery", 9),
            report: draw.json(),
            gave_up: None,
            effects: Vec::new(),
        },
        _ => Command::Record {
            kind: "note".into(),
            aggregate: draw.one_in(2).then(|| draw.id("thing", 3)),
            payload: draw.text(),
            blobs: BTreeMap::new(),
        },
    }
}

/// A session with all its records, and what they refer to.
#[derive(Debug, Clone)]
pub struct History {
    /// The session, staged.
    pub session: Session,
    /// All records' bytes.
    pub bytes: Vec<u8>,
    /// The same, decoded.
    pub records: Vec<Arc<Record>>,
    /// The state after each group, the newest last.
    pub states: Vec<State>,
    /// The states that forks and rewinds carry.
    pub bases: BTreeMap<BlobId, State>,
    /// The time.
    pub now_ms: u64,
    requests: u64,
    salt: u64,
}

/// Who does everything in a [`History`].
#[must_use]
pub fn actor() -> Actor {
    Actor::new("tester").unwrap()
}

impl History {
    /// A session that was just created, as `test/NAME`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut salt = 0u64;
        let new = NewSession::new(SessionName::new("test", name).unwrap());
        let mut salts = || next_salt(&mut salt);
        let circumstances = Circumstances { epoch: Epoch(1), now_ms: 1_000, salts: &mut salts };
        let (session, group) = session::create(new, &actor(), circumstances).unwrap();
        let mut history = Self {
            session,
            bytes: Vec::new(),
            records: Vec::new(),
            states: Vec::new(),
            bases: BTreeMap::new(),
            now_ms: 1_000,
            requests: 0,
            salt,
        };
        history.keep(&group);
        history
    }

    /// Its newest state.
    #[must_use]
    pub fn state(&self) -> &State {
        self.session.staged()
    }

    fn keep(&mut self, group: &session::Group) {
        self.bytes.extend_from_slice(&group.log.records);
        self.records.extend(group.records.iter().cloned());
        self.states.push(group.state.clone());
    }

    /// Stages a request and keeps its group.
    ///
    /// # Errors
    /// Its refusal.
    pub fn submit(&mut self, request: Request) -> Result<Staged, Refusal> {
        let mut salt = self.salt;
        let mut salts = || next_salt(&mut salt);
        let staged =
            self.session.stage(request, Circumstances { epoch: Epoch(1), now_ms: self.now_ms, salts: &mut salts });
        self.salt = salt;
        if let Ok(Staged::Group(group)) = &staged {
            self.keep(group);
        }
        staged
    }

    /// One command without a request id.
    ///
    /// # Errors
    /// Its refusal.
    pub fn command(&mut self, command: Command) -> Result<Outcome, Refusal> {
        match self.submit(Request::new(actor(), vec![command]))? {
            Staged::Group(group) => Ok(group.outcomes[0].clone()),
            Staged::Nothing { outcomes, .. } => Ok(outcomes[0].clone()),
            Staged::Repeated { .. } => panic!("no request id was given"),
        }
    }

    /// The request that a step stands for, decided by the state: one to three commands, most with a request id; once in a
    /// while a rewind.
    #[must_use]
    pub fn request(&mut self, step: u64) -> Request {
        let mut draw = Draw::new(step);
        self.now_ms += draw.below(2_000) as u64;
        if draw.one_in(20) {
            self.now_ms += 120_000;
        }
        let mut request = Request::new(actor(), Vec::new());
        if draw.one_in(25) && self.states.len() > 1 && self.state().info.status == SessionStatus::Live {
            let base = draw.pick(&self.states).unwrap();
            let blob = Blob::new(Bytes::from(base.canonical()));
            self.bases.insert(blob.id, base.clone());
            request.commands.push(Command::Rewind { to: base.head.seq, base: blob.id, reason: draw.reason() });
            request.blobs.push(blob);
            request.base = Some(base);
        } else {
            let count = if draw.one_in(3) { 1 + draw.below(3) } else { 1 };
            for _ in 0..count {
                let next = command(&mut draw, self.state());
                request.commands.push(next);
            }
        }
        self.requests += 1;
        request.id = match draw.below(3) {
            0 => None,
            1 => Some(RequestId::Counted { client: draw.id("client", 3), counter: self.requests }),
            _ => Some(RequestId::Key(EntityId::new(format!("key {}", self.requests)).unwrap())),
        };
        request
    }

    /// Carries out a step; a refusal is part of life.
    pub fn step(&mut self, step: u64) {
        let request = self.request(step);
        let _ = self.submit(request);
    }

    /// A history of these steps.
    #[must_use]
    pub fn of(name: &str, steps: &[u64]) -> Self {
        let mut history = Self::new(name);
        steps.iter().for_each(|step| history.step(*step));
        history
    }

    /// A fork from the state after the `nth` group (counted round).
    #[must_use]
    pub fn fork(&self, nth: usize, name: &str) -> Self {
        let base = forked_base(&self.states[nth % self.states.len()]);
        let blob = Blob::new(Bytes::from(base.canonical()));
        let mut salt = 1_000_000u64;
        let mut salts = || next_salt(&mut salt);
        let circumstances = Circumstances { epoch: Epoch(2), now_ms: self.now_ms, salts: &mut salts };
        let new = NewSession::new(SessionName::new("test", name).unwrap());
        let (session, group) = session::fork(new, &base, blob.clone(), None, None, &actor(), circumstances).unwrap();
        let mut fork = Self {
            session,
            bytes: Vec::new(),
            records: Vec::new(),
            states: Vec::new(),
            bases: BTreeMap::from([(blob.id, base)]),
            now_ms: self.now_ms,
            requests: 1_000_000,
            salt,
        };
        fork.keep(&group);
        fork
    }
}

fn next_salt(salt: &mut u64) -> [u8; 16] {
    *salt += 1;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&salt.to_le_bytes());
    bytes
}
