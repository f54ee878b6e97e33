//! Records that set the whole state: fork and rewind.
//!
//! # What a fork takes along
//!
//! Everything that is known, nothing that is in somebody's hands. Two sessions never share pending work, so in the fork
//!
//! - a claimed task is pending again, without a retry counted; lease numbers go on counting, so that a worker of the
//!   original is refused here (`lease_lost`);
//! - an effect that was begun is in doubt (`outcome_unknown`, "begun before the fork"): the original's worker is doing it,
//!   and the fork must not do it again on its own;
//! - a busy agent is idle, a connection is disconnected: their processes and sockets are the original's;
//! - mail waits as before, but its deliveries are counted afresh: they were made to the original's agents;
//! - requests are remembered with their answers, so that a request already carried out is answered, not repeated.
//!
//! Name, owner and age are the fork's own; metadata and times-to-live are taken along.
//!
//! # What a rewind sets back
//!
//! The swarm's own state: agents, groups, tasks, messages, memory, connections and configuration. What it leaves:
//!
//! - **effects**, every one as it stands now. They are facts of the world outside, which no record undoes: an effect that
//!   finished after the target is answered with its outcome, never repeated, and one in doubt stays in doubt;
//! - **requests** and the head: what was carried out was carried out;
//! - the session's name, owner, metadata and times-to-live.
//!
//! Leases end: a task that was claimed at the target is pending, and lease numbers never go back, so that a worker that
//! claimed before the rewind is refused after it. That holds for a task that is created again under its old id, too: in a
//! session that was rewound a claim's number is at least its seq (`decide/task.rs`). The session is live.

use std::sync::Arc;

use super::{
    ApplyError, EffectStatus, Origin, Receipt, SessionInfo, SessionStatus, State, TaskStatus, entity::AgentStatus,
};
use crate::{
    event::Event,
    id::{Seq, SessionId},
};

/// The state a fork begins with: `state` without what is in somebody's hands (see the module's text). Its head says where
/// it was taken.
#[must_use]
pub fn forked_base(state: &State) -> State {
    let mut base = state.clone();
    release_claims(&mut base);
    for id in keys(&base.effects, |effect| effect.status == EffectStatus::Begun) {
        base.effects.change(&id, |effect| {
            effect.status = EffectStatus::OutcomeUnknown;
            effect.reason = Some("begun before the fork".into());
        });
    }
    for id in keys(&base.agents, |agent| agent.status == AgentStatus::Busy) {
        base.agents.change(&id, |agent| {
            agent.status = AgentStatus::Idle;
            agent.status_reason = None;
        });
    }
    for id in keys(&base.connections, |connection| connection.status != "disconnected") {
        base.connections.change(&id, |connection| connection.status = "disconnected".into());
    }
    for id in keys(&base.messages, |message| message.delivered) {
        base.messages.change(&id, |message| {
            message.delivered = false;
            message.waiting = message.waiting.keys().map(|agent| (agent.clone(), Receipt::default())).collect();
        });
    }
    base
}

fn keys<T: super::Entity>(table: &super::Table<T>, which: impl Fn(&T) -> bool) -> Vec<T::Key> {
    table.iter().filter(|row| which(row)).map(|row| row.key()).collect()
}

fn release_claims(state: &mut State) {
    for id in keys(&state.tasks, |task| task.status == TaskStatus::Running) {
        state.tasks.change(&id, |task| {
            task.status = TaskStatus::Pending;
            task.agent_id = None;
            task.lease = None;
        });
    }
}

impl State {
    /// The change that a fork or a rewind makes, without head and requests' answer.
    pub(crate) fn evolve_base(
        &mut self,
        session: SessionId,
        seq: Seq,
        time_ms: u64,
        event: &Event,
        base: &State,
    ) -> Result<(), ApplyError> {
        let unfit = |what: &str| Err(ApplyError::Inconsistent { seq, what: what.into() });
        match event {
            Event::SessionForked { name, from, at, at_hash, owner, .. } => {
                if self.head.seq != Seq::ZERO {
                    return unfit("a fork is the first record");
                }
                if base.head.seq != *at || base.head.hash != *at_hash || base.info.id != *from {
                    return unfit("the base is another state than the one forked");
                }
                let info = SessionInfo {
                    id: session,
                    name: Some(name.clone()),
                    owner: owner.clone(),
                    status: SessionStatus::Live,
                    status_reason: None,
                    metadata: base.info.metadata.clone(),
                    created_at_ms: time_ms,
                    ttl_ms: base.info.ttl_ms,
                    idle_ttl_ms: base.info.idle_ttl_ms,
                    forked_from: Some(Origin { session: *from, seq: *at, hash: *at_hash }),
                    rewinds: 0,
                    inherited_seqs: base.info.inherited_seqs.saturating_add(at.0),
                };
                *self = State { head: self.head, info: Arc::new(info), ..base.clone() };
                Ok(())
            }
            Event::SessionRewound { to, .. } => {
                if self.head.seq == Seq::ZERO || *to > self.head.seq {
                    return unfit("a rewind goes back");
                }
                if base.head.seq != *to || base.info.id != session {
                    return unfit("the base is another state than the one rewound to");
                }
                let mut state = State {
                    head: self.head,
                    info: Arc::clone(&self.info),
                    effects: self.effects.clone(),
                    requests: self.requests.clone(),
                    ..base.clone()
                };
                release_claims(&mut state);
                for task in self.tasks.iter() {
                    let behind = |row: &Arc<super::Task>| row.leases < task.leases;
                    if state.tasks.get(&task.id).is_some_and(behind) {
                        state.tasks.change(&task.id, |row| row.leases = task.leases);
                    }
                }
                let info = Arc::make_mut(&mut state.info);
                info.status = SessionStatus::Live;
                info.status_reason = None;
                info.rewinds += 1;
                *self = state;
                Ok(())
            }
            _ => unfit("neither fork nor rewind"),
        }
    }
}
