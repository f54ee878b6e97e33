//! Whether the entities of a state fit together: agents, tasks, messages, memory, effects, connections, each by itself.
//!
//! The reducer lets nothing of this come about, so a finding is a bug or a state that was not made by the reducer. It is
//! looked at after every recovery that was more than a replay, because then it is worth the time.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Finding, FindingKind, percent};
use crate::{
    failure::names,
    id::EntityId,
    limits,
    state::{AgentStatus, EffectStatus, State, TaskStatus},
};

names!(
    /// What was looked at.
    CheckName {
        /// Agents and groups.
        Agents = "agents",
        /// Tasks, their leases and parents.
        Tasks = "tasks",
        /// Messages and who waits for them.
        Messages = "messages",
        /// Memory.
        Memory = "memory",
        /// Effects.
        Effects = "effects",
        /// Connections.
        Connections = "connections",
    }
);

/// An entity that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// In what way.
    pub kind: FindingKind,
    /// Which one: its id, or scope and key.
    pub entity: String,
    /// What does not hold.
    pub what: String,
}

/// What one check came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: CheckName,
    /// Whether all of them fit.
    pub passed: bool,
    /// How many there are.
    pub entities: u64,
    /// How many of them do not fit.
    pub failed: u64,
    /// The first of what does not hold.
    pub violations: Vec<Violation>,
}

/// What validating a state came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// One for each name, in their order.
    pub checks: Vec<Check>,
    /// `100 × entities that fit ÷ entities`; 100 of none.
    pub integrity_score: f64,
}

/// Violations listed for each check; more are counted.
const LISTED: usize = 20;

impl Validation {
    /// Whether everything fits.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// As findings of a plan.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let violations = self.checks.iter().flat_map(|check| check.violations.iter().map(move |found| (check, found)));
        violations
            .map(|(check, found)| Finding {
                kind: found.kind,
                what: format!("{}: {}: {}", check.name, found.entity, found.what),
            })
            .collect()
    }
}

/// Compares the entities of a state with each other and with the rules of the vocabulary.
#[must_use]
pub fn validate(state: &State) -> Validation {
    let checks = vec![agents(state), tasks(state), messages(state), memory(state), effects(state), connections(state)];
    let (entities, failed) =
        checks.iter().fold((0, 0), |(entities, failed), check| (entities + check.entities, failed + check.failed));
    let integrity_score = if entities == 0 { 100.0 } else { percent(entities - failed, entities) };
    Validation { checks, integrity_score }
}

/// Collects what is wrong with the entities of one check.
struct Looking {
    check: Check,
    wrong: bool,
}

impl Looking {
    fn at(name: CheckName) -> Self {
        Self { check: Check { name, passed: true, entities: 0, failed: 0, violations: Vec::new() }, wrong: false }
    }

    fn must(&mut self, holds: bool, kind: FindingKind, entity: &dyn std::fmt::Display, what: impl FnOnce() -> String) {
        if holds {
            return;
        }
        self.wrong = true;
        if self.check.violations.len() < LISTED {
            self.check.violations.push(Violation { kind, entity: entity.to_string(), what: what() });
        }
    }

    /// The entity looked at is through.
    fn next(&mut self) {
        self.check.entities += 1;
        self.check.failed += u64::from(std::mem::take(&mut self.wrong));
    }

    fn bounded(&mut self, entities: usize, limit: usize) {
        let name = self.check.name;
        self.must(entities <= limit, Constraint, &name, || format!("{entities}, where {limit} may be"));
        // Not an entity: it fails the check and no score.
        self.wrong = false;
    }

    fn done(mut self) -> Check {
        self.check.passed = self.check.failed == 0 && self.check.violations.is_empty();
        self.check
    }
}

use FindingKind::{Consistency, Constraint};

fn agents(state: &State) -> Check {
    let mut look = Looking::at(CheckName::Agents);
    let mut names = BTreeSet::new();
    for agent in state.agents.iter() {
        let is_ended = agent.status == AgentStatus::Terminated;
        let is_alone = is_ended || agent.name.as_ref().is_none_or(|name| names.insert(name.clone()));
        look.must(is_alone, Constraint, &agent.id, || "another agent has the same name".into());
        look.must(is_ended == agent.terminated_at_ms.is_some(), Consistency, &agent.id, || {
            "its status and the time of its end do not agree".into()
        });
        look.next();
    }
    for group in state.groups.iter() {
        for member in &group.members {
            look.must(state.agents.contains(&member.agent_id), Consistency, &group.id, || {
                format!("its member `{}` does not exist", member.agent_id)
            });
        }
        look.next();
    }
    look.bounded(state.agents.len(), limits::AGENTS);
    look.bounded(state.groups.len(), limits::GROUPS);
    look.done()
}

fn tasks(state: &State) -> Check {
    let mut look = Looking::at(CheckName::Tasks);
    for task in state.tasks.iter() {
        let exists = |agent: &EntityId| state.agents.contains(agent);
        look.must(task.agent_id.as_ref().is_none_or(exists), Consistency, &task.id, || {
            "its agent does not exist".into()
        });
        let is_running = task.status == TaskStatus::Running;
        look.must(is_running == task.lease.is_some(), Consistency, &task.id, || {
            format!("it is {} and has {} lease", task.status, if task.lease.is_some() { "a" } else { "no" })
        });
        if let Some(lease) = &task.lease {
            look.must(exists(&lease.agent_id), Consistency, &task.id, || "who holds its lease does not exist".into());
            look.must(task.agent_id.as_ref() == Some(&lease.agent_id), Consistency, &task.id, || {
                "its lease is another agent's".into()
            });
            look.must(lease.number <= task.leases, Consistency, &task.id, || "its lease was never given".into());
        }
        look.must(task.status != TaskStatus::Assigned || task.agent_id.is_some(), Consistency, &task.id, || {
            "it is assigned to nobody".into()
        });
        look.must(task.status.is_ended() == task.completed_at_ms.is_some(), Consistency, &task.id, || {
            "its status and the time of its end do not agree".into()
        });
        let parent = task.parent_task_id.as_ref();
        look.must(parent.is_none_or(|parent| state.tasks.contains(parent)), Consistency, &task.id, || {
            "the task it is part of does not exist".into()
        });
        look.must(parent != Some(&task.id), Consistency, &task.id, || "it is part of itself".into());
        look.must(task.max_retries <= limits::MAX_RETRIES_MAX, Constraint, &task.id, || "too many retries".into());
        look.next();
    }
    look.bounded(state.tasks.len(), limits::TASKS);
    look.done()
}

fn messages(state: &State) -> Check {
    let mut look = Looking::at(CheckName::Messages);
    for message in state.messages.iter() {
        look.must(!message.waiting.is_empty(), Consistency, &message.id, || "nobody waits for it".into());
        for recipient in message.waiting.keys() {
            look.must(state.agents.contains(recipient), Consistency, &message.id, || {
                format!("its recipient `{recipient}` does not exist")
            });
        }
        for receipt in message.waiting.values() {
            look.must(receipt.attempts <= limits::DELIVERIES, Constraint, &message.id, || "too many deliveries".into());
        }
        look.next();
    }
    look.bounded(state.messages.len(), limits::MESSAGES);
    look.bounded(state.calls.len(), limits::OPEN_CALLS);
    look.done()
}

fn memory(state: &State) -> Check {
    let mut look = Looking::at(CheckName::Memory);
    let newest = state.head.seq.0.saturating_add(state.info.inherited_seqs);
    for entry in state.memory.iter() {
        let key = format!("{}/{}", entry.scope, entry.key);
        look.must(entry.version <= newest, Consistency, &key, || format!("version {} was never set", entry.version));
        let is_bounded = entry.value.as_str().len() <= limits::JSON_BYTES;
        look.must(is_bounded, Constraint, &key, || "its value is too large".into());
        look.next();
    }
    look.bounded(state.memory.len(), limits::MEMORY_ENTRIES);
    look.done()
}

fn effects(state: &State) -> Check {
    let mut look = Looking::at(CheckName::Effects);
    for effect in state.effects.iter() {
        let is_finished = effect.status == EffectStatus::Finished;
        look.must(is_finished == effect.outcome.is_some(), Consistency, &effect.id, || {
            format!("it is {} and has {} outcome", effect.status, if effect.outcome.is_some() { "an" } else { "no" })
        });
        look.must(effect.attempt > 0, Constraint, &effect.id, || "it was never begun".into());
        look.must(effect.deadline_ms <= limits::LEASE_MS_MAX, Constraint, &effect.id, || {
            "its deadline is too far".into()
        });
        look.next();
    }
    look.bounded(state.effects.len(), limits::EFFECTS);
    look.done()
}

fn connections(state: &State) -> Check {
    let mut look = Looking::at(CheckName::Connections);
    for connection in state.connections.iter() {
        let is_bounded = connection.status.len() <= limits::TEXT_BYTES;
        look.must(is_bounded, Constraint, &connection.id, || "its status is too long".into());
        for (json, what) in [(&connection.recipe, "recipe"), (&connection.state, "state")] {
            let is_bounded = json.as_str().len() <= limits::JSON_BYTES;
            look.must(is_bounded, Constraint, &connection.id, || format!("its {what} is too large"));
        }
        look.next();
    }
    look.bounded(state.connections.len(), limits::CONNECTIONS);
    look.done()
}
