//! A client: an agent's process that asks for one thing at a time, repeats what was not answered with the same request id,
//! and does things outside the store between `begin` and `finish`.

use std::collections::BTreeMap;

use swarmkeep::{Actor, EntityId, RequestId, State};
use swarmkeep_core::{
    command::{BeginEffect, Command, Outcome, SpawnAgent},
    json::Json,
    state::{EffectClass, EffectOutcome},
    testing::{self, Draw},
};

use crate::outside::{Key, Outside};

/// What a client asks a holder.
#[derive(Debug, Clone)]
pub enum Ask {
    /// To carry something out.
    Submit {
        /// In which session.
        session: usize,
        /// The same for every copy.
        request: RequestId,
        /// What.
        commands: Vec<Command>,
        /// Who.
        actor: Actor,
    },
    /// For the state of a session.
    Look {
        /// Which.
        session: usize,
    },
}

/// Something that it waits for an answer to.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Names this question among all of the world.
    pub call: u64,
    /// What it asked.
    pub ask: Ask,
    /// How often it was sent.
    pub sent: u32,
    /// Where the session stood at least when it was sent first.
    pub floor: u64,
}

/// How far it is with something to be done outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has yet to ask whether it may.
    Begin,
    /// It may, as this attempt, and has not yet.
    Act(u32),
    /// It did.
    Finish(u32),
    /// Nobody knows whether it was done: that has to be settled.
    Resolve,
}

/// Something to be done outside.
#[derive(Debug, Clone)]
pub struct Work {
    /// Which effect.
    pub key: Key,
    class: EffectClass,
    stage: Stage,
    turns: u32,
}

/// What a client does next.
#[derive(Debug)]
pub enum Step {
    /// It asks something.
    Ask(Ask),
    /// It does something outside, as this attempt.
    Act(Key, EffectClass, u32),
    /// It does nothing for so long.
    Rest(u64),
    /// It has nothing left to do.
    Idle,
}

/// A client, over all its lives.
#[derive(Debug)]
pub struct Client {
    number: usize,
    life: u32,
    counter: u64,
    item: u64,
    sessions: usize,
    fat: bool,
    /// Its own randomness.
    pub draw: Draw,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    work: Option<Work>,
    /// What the next life knows of this one's work: agents keep notes.
    notes: Option<Work>,
    spawned: Vec<bool>,
    states: BTreeMap<usize, State>,
    /// When it next does something, in the world's time.
    pub wakes_at_ms: u64,
    /// It is stopped until then.
    pub stopped_until_ms: u64,
}

impl Client {
    /// The first life of a client.
    #[must_use]
    pub fn new(number: usize, seed: u64, sessions: usize, fat: bool) -> Self {
        Self {
            number,
            life: 1,
            counter: 0,
            item: 0,
            sessions,
            fat,
            draw: Draw::new(seed),
            waiting: None,
            work: None,
            notes: None,
            spawned: vec![false; sessions],
            states: BTreeMap::new(),
            wakes_at_ms: 0,
            stopped_until_ms: 0,
        }
    }

    /// Names the process.
    #[must_use]
    pub fn process(&self) -> String {
        format!("client{}-{}", self.number, self.life)
    }

    fn agent(&self) -> EntityId {
        EntityId::new(format!("a{}", self.number)).unwrap()
    }

    /// It ends. Another life begins, which knows at most what it was at.
    pub fn crash(&mut self) {
        let note = self.draw.below(4) > 0;
        self.notes = self.work.take().or(self.notes.take()).filter(|_| note);
        self.waiting = None;
        self.states.clear();
        self.spawned.fill(false);
        self.life += 1;
        self.counter = 0;
    }

    /// Whether it is, or may be, about to do this.
    #[must_use]
    pub fn is_at(&self, key: &Key) -> bool {
        self.work.as_ref().is_some_and(|work| work.key == *key && work.stage != Stage::Resolve)
    }

    /// Whether it has nothing under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_none() && self.work.is_none()
    }

    /// What it waits for or works at, for people.
    #[must_use]
    pub fn plight(&self) -> String {
        format!("{} waits for {:?}, works at {:?}", self.process(), self.waiting, self.work)
    }

    fn submit(&mut self, session: usize, commands: Vec<Command>) -> Step {
        self.counter += 1;
        let client = EntityId::new(self.process()).unwrap();
        let request = RequestId::Counted { client, counter: self.counter };
        Step::Ask(Ask::Submit { session, request, commands, actor: Actor::new(self.agent().as_str()).unwrap() })
    }

    /// What it does now. `winding_up`: it finishes what it is at, and takes nothing new.
    pub fn next(&mut self, winding_up: bool, outside: &Outside, held: impl Fn(&Key) -> bool) -> Step {
        if self.work.is_none() {
            self.work = self.notes.take().map(|work| Work { stage: Stage::Begin, turns: 0, ..work });
        }
        if let Some(work) = self.work.clone() {
            return self.go_on(work, outside, held);
        }
        if winding_up {
            return Step::Idle;
        }
        let session = self.draw.below(self.sessions);
        if !self.spawned[session] {
            self.spawned[session] = true;
            let agent = SpawnAgent { id: Some(self.agent()), ..SpawnAgent::new(format!("agent {}", self.number)) };
            return self.submit(session, vec![Command::SpawnAgent(agent)]);
        }
        match self.draw.below(12) {
            0 => Step::Rest(self.draw.below(300) as u64),
            1..=3 => Step::Ask(Ask::Look { session }),
            4..=6 => {
                self.take_up(session);
                Step::Rest(1)
            }
            _ => {
                let commands = self.commands(session);
                if commands.is_empty() { Step::Rest(5) } else { self.submit(session, commands) }
            }
        }
    }

    fn take_up(&mut self, session: usize) {
        self.item += 1;
        let key = match self.draw.below(3) {
            0 => format!("shared-{}", self.draw.below(40)),
            _ => format!("own-{}-{}", self.number, self.item),
        };
        // A key is of one class, whoever has it.
        let classes = [EffectClass::AtMostOnce, EffectClass::Idempotent, EffectClass::Ask, EffectClass::Read];
        let class = classes[key.len() % classes.len()];
        self.work = Some(Work { key: (session, EntityId::new(key).unwrap()), class, stage: Stage::Begin, turns: 0 });
    }

    fn commands(&mut self, session: usize) -> Vec<Command> {
        let state = self.states.get(&session).cloned().unwrap_or_default();
        if self.fat && self.draw.one_in(3) {
            let key = EntityId::new(format!("large-{}", self.draw.below(12))).unwrap();
            let value = Json::parse(&format!("\"{}\"", "x".repeat(20_000 + self.draw.below(60_000)))).unwrap();
            let scope = EntityId::new("shared").unwrap();
            return vec![Command::SetMemory { scope, key, value, if_version: None, ttl_ms: None }];
        }
        let commands = (0..1 + self.draw.below(3)).map(|_| testing::command(&mut self.draw, &state));
        commands.collect::<Vec<_>>().into_iter().filter(is_plain).collect()
    }

    fn go_on(&mut self, work: Work, outside: &Outside, held: impl Fn(&Key) -> bool) -> Step {
        let Work { key, class, stage, turns } = work;
        let (session, effect) = (key.0, key.1.clone());
        let agent = Some(self.agent()).filter(|_| effect.as_str().starts_with("own"));
        match stage {
            Stage::Begin => {
                let instance = EntityId::new(self.process()).unwrap();
                let deadline_ms = Some(1_000 + self.draw.below(4_000) as u64);
                let begin =
                    BeginEffect { effect, class, agent, task: None, instance, request: Json::null(), deadline_ms };
                self.submit(session, vec![Command::BeginEffect(begin)])
            }
            Stage::Act(attempt) => {
                self.stage(Stage::Finish(attempt));
                Step::Act(key, class, attempt)
            }
            Stage::Finish(attempt) => {
                let outcome = EffectOutcome { ok: true, value: Json::encode(&attempt).unwrap() };
                self.submit(session, vec![Command::FinishEffect { effect, attempt, outcome }])
            }
            Stage::Resolve if turns > 20 || held(&key) => {
                // Whoever else is at it may be about to do it.
                self.work = None;
                Step::Rest(1)
            }
            Stage::Resolve => {
                let by = if class == EffectClass::Ask { "user:anna" } else { "reconciler:outside" }.to_owned();
                let done = outside.deeds(&key).last();
                let outcome = done.map(|deed| EffectOutcome { ok: true, value: Json::encode(&deed.attempt).unwrap() });
                self.submit(session, vec![Command::ResolveEffect { effect, outcome, by }])
            }
        }
    }

    fn stage(&mut self, stage: Stage) {
        if let Some(work) = &mut self.work {
            work.stage = stage;
            work.turns += 1;
        }
    }

    /// What it asked for was carried out. Gives what it was told of an effect's outcome.
    pub fn hears(&mut self, outcomes: &[Outcome]) -> Option<(Key, EffectOutcome)> {
        self.waiting = None;
        let work = self.work.clone()?;
        match (work.stage, outcomes.first()) {
            (Stage::Begin, Some(Outcome::Run { attempt })) => self.stage(Stage::Act(*attempt)),
            (Stage::Begin, Some(Outcome::Unknown { .. })) => self.stage(Stage::Resolve),
            (Stage::Begin, Some(Outcome::Recorded { outcome })) => {
                self.work = None;
                return Some((work.key, outcome.clone()));
            }
            (Stage::Resolve, _) => self.stage(Stage::Begin),
            _ => self.work = None,
        }
        None
    }

    /// What it asked for was refused.
    pub fn is_refused(&mut self, in_doubt: bool) {
        self.waiting = None;
        match self.work.as_ref().map(|work| work.stage) {
            Some(Stage::Begin) if in_doubt => self.stage(Stage::Resolve),
            Some(_) => self.work = None,
            None => {}
        }
    }

    /// It was shown the state of a session.
    pub fn sees(&mut self, session: usize, state: State) {
        self.waiting = None;
        self.states.insert(session, state);
    }
}

/// Whether clients of this world ask for it: not what ends or stops a session, nor what is for effects and the engine.
fn is_plain(command: &Command) -> bool {
    !matches!(
        command,
        Command::Pause { .. }
            | Command::Park {}
            | Command::Close { .. }
            | Command::Expire {}
            | Command::BeginEffect(_)
            | Command::FinishEffect { .. }
            | Command::ResolveEffect { .. }
            | Command::DoubtEffect { .. }
            | Command::Rewind { .. }
    )
}
