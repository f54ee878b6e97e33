//! Things that a client does outside, between `begin` and `finish`.

use swarmkeep::{EntityId, Json};
use swarmkeep_core::{
    command::{BeginEffect, Command, Outcome},
    state::{EffectClass, EffectOutcome},
};

use super::{Client, Step};
use crate::outside::{Key, Outside};

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
pub(super) struct Work {
    /// Which effect.
    pub(super) key: Key,
    class: EffectClass,
    stage: Stage,
    turns: u32,
}

impl Work {
    /// By the next process, which does not know how far it came.
    pub(super) fn again(self) -> Self {
        Self { stage: Stage::Begin, turns: 0, ..self }
    }

    pub(super) fn is_at(&self, key: &Key) -> bool {
        self.key == *key && self.stage != Stage::Resolve
    }
}

impl Client {
    pub(super) fn take_up(&mut self, session: usize) {
        self.item += 1;
        let key = match self.draw.below(3) {
            // What was done for the origin of a fork was not done for the fork.
            0 if session >= self.weather.sessions => format!("fork-{session}-{}", self.draw.below(40)),
            0 => format!("shared-{}", self.draw.below(40)),
            _ => format!("own-{}-{}", self.number, self.item),
        };
        // A key is of one class, whoever has it.
        let classes = [EffectClass::AtMostOnce, EffectClass::Idempotent, EffectClass::Ask, EffectClass::Read];
        let class = classes[key.len() % classes.len()];
        self.work = Some(Work { key: (session, EntityId::new(key).unwrap()), class, stage: Stage::Begin, turns: 0 });
    }

    pub(super) fn go_on(&mut self, work: Work, outside: &Outside, held: impl Fn(&Key) -> bool) -> Step {
        let Work { key, class, stage, turns } = work;
        let (session, effect) = (key.0, key.1.clone());
        let agent = Some(self.agent()).filter(|_| effect.as_str().starts_with("own"));
        let command = match stage {
            Stage::Begin => {
                let instance = EntityId::new(self.process()).unwrap();
                let deadline_ms = Some(1_000 + self.draw.below(4_000) as u64);
                let begin =
                    BeginEffect { effect, class, agent, task: None, instance, request: Json::null(), deadline_ms };
                Command::BeginEffect(begin)
            }
            Stage::Act(attempt) => {
                self.stage(Stage::Finish(attempt));
                return Step::Act(key, class, attempt);
            }
            Stage::Finish(attempt) => {
                let outcome = EffectOutcome { ok: true, value: Json::encode(&attempt).unwrap() };
                Command::FinishEffect { effect, attempt, outcome }
            }
            Stage::Resolve if turns > 20 || held(&key) => {
                // Whoever else is at it may be about to do it.
                self.work = None;
                return Step::Rest(1);
            }
            Stage::Resolve => {
                let by = if class == EffectClass::Ask { "user:anna" } else { "reconciler:outside" }.to_owned();
                let done = outside.deeds(&key).last();
                let outcome = done.map(|deed| EffectOutcome { ok: true, value: Json::encode(&deed.attempt).unwrap() });
                Command::ResolveEffect { effect, outcome, by, attempt: None }
            }
        };
        self.submit(session, vec![command], Vec::new())
    }

    fn stage(&mut self, stage: Stage) {
        if let Some(work) = &mut self.work {
            work.stage = stage;
            work.turns += 1;
        }
    }

    pub(super) fn work_hears(&mut self, outcomes: &[Outcome]) -> Option<(Key, EffectOutcome)> {
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

    pub(super) fn work_is_refused(&mut self, in_doubt: bool) {
        match self.work.as_ref().map(|work| work.stage) {
            Some(Stage::Begin) if in_doubt => self.stage(Stage::Resolve),
            _ => self.work = None,
        }
    }
}
