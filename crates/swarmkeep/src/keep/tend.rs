//! What an open store does by itself: deadlines, residency, checkpoints, and looking at every live session after a start
//! (`comeback`).
//!
//! Each loop holds the store only while it works, survives an error, and ends when the store closes or is dropped.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use swarmkeep_core::{
    Actor, Error, ErrorKind, SessionId,
    checkpoint::Checkpoint,
    command::Command,
    limits,
    state::{Effect, EffectStatus, SessionStatus},
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Interval, MissedTickBehavior},
};

use super::{Engine, comeback::return_all};
use crate::{
    level,
    session::Request,
    slot::Phase,
    watch::{About, Due},
};

/// How often deadlines and residency are looked at.
const BEAT: Duration = Duration::from_millis(200);
/// How often failures are listed and written down.
const NOTED_EVERY_MS: u64 = 1_000;
/// Deadlines taken at a time.
const DUE_PER_BEAT: usize = 1024;
/// Of them, recorded at the same time.
const SETTLED_AT_ONCE: usize = 64;
/// Checkpoints saved at a time, in one transaction.
const CHECKPOINTS_AT_ONCE: usize = 1024;
/// Bytes of encoded checkpoints that wait for their round's transaction.
const CHECKPOINT_BYTES_AT_ONCE: usize = 32 << 20;
/// From one round of checkpoints to the next: a save makes the log apply at once what it would rather gather.
const CHECKPOINTS_EVERY: Duration = Duration::from_millis(250);

pub(super) fn start(engine: &Arc<Engine>, checkpoints: mpsc::Receiver<SessionId>) -> Vec<JoinHandle<()>> {
    let weak = || Arc::downgrade(engine);
    let every = |distance| Rounds::every(distance, engine.closing.subscribe());
    vec![
        tokio::spawn(pulse(weak(), every(BEAT))),
        tokio::spawn(beat(weak(), every(BEAT))),
        tokio::spawn(save_checkpoints(weak(), checkpoints, every(CHECKPOINTS_EVERY))),
        tokio::spawn(until_closing(return_all(weak()), engine.closing.subscribe())),
    ]
}

async fn until_closing(work: impl Future<Output = ()>, mut closing: level::Receiver<bool>) {
    tokio::select! {
        biased;
        _ = closing.wait_for(|closing| closing) => {}
        () = work => {}
    }
}

/// Rounds of a loop: one after another at a distance, until the store closes.
struct Rounds {
    interval: Interval,
    closing: level::Receiver<bool>,
}

impl Rounds {
    fn every(distance: Duration, closing: level::Receiver<bool>) -> Self {
        let mut interval = tokio::time::interval(distance);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, closing }
    }

    /// The next one is due, and the store is still open.
    async fn next(&mut self, engine: &Weak<Engine>) -> Option<Arc<Engine>> {
        tokio::select! {
            biased;
            _ = self.closing.wait_for(|closing| closing) => None,
            _ = self.interval.tick() => engine.upgrade(),
        }
    }
}

/// Looks at the clock while [`beat`] works.
async fn pulse(engine: Weak<Engine>, mut rounds: Rounds) {
    while let Some(engine) = rounds.next(&engine).await {
        engine.watch.feel_pulse();
    }
}

async fn beat(engine: Weak<Engine>, mut rounds: Rounds) {
    let mut noted_ms: Option<u64> = None;
    while let Some(engine) = rounds.next(&engine).await {
        engine.look_at_fence();
        let mut settling = JoinSet::new();
        for due in engine.watch.take_due(DUE_PER_BEAT) {
            if settling.len() >= SETTLED_AT_ONCE {
                settling.join_next().await;
            }
            // Together: they share syncs.
            settling.spawn(settle(engine.clone(), due));
        }
        while settling.join_next().await.is_some() {}
        if let Some(embedded) = engine.embedded.clone().filter(|embedded| embedded.are_any_aside_anew()) {
            // A large one takes its time.
            tokio::spawn(async move { embedded.look_into_aside().await });
        }
        let now_ms = engine.clock.monotonic_ms();
        engine.sweep(now_ms);
        if noted_ms.is_none_or(|noted_ms| now_ms.saturating_sub(noted_ms) >= NOTED_EVERY_MS) {
            noted_ms = Some(now_ms);
            engine.note_down();
        }
    }
}

async fn settle(engine: Arc<Engine>, due: Due) {
    if let Err(error) = engine.settle_due(&due).await {
        tracing::warn!(session = %due.session, %error, "a deadline could not be recorded; trying again");
        engine.watch.put_off(&due, 1_000);
    }
}

async fn save_checkpoints(engine: Weak<Engine>, mut due: mpsc::Receiver<SessionId>, mut rounds: Rounds) {
    while rounds.next(&engine).await.is_some() {
        let mut ids = Vec::with_capacity(CHECKPOINTS_AT_ONCE);
        tokio::select! {
            biased;
            _ = rounds.closing.wait_for(|closing| closing) => return,
            came = due.recv_many(&mut ids, CHECKPOINTS_AT_ONCE) => if came == 0 { return },
        }
        let Some(engine) = engine.upgrade() else { return };
        ids.sort_unstable();
        ids.dedup();
        let mut encoded = Vec::new();
        let mut bytes = 0;
        for id in ids {
            match engine.encode_if_due(id).await {
                Ok(Some(checkpoint)) => {
                    bytes += checkpoint.canonical.len();
                    encoded.push(checkpoint);
                }
                Ok(None) => {}
                Err(error) => unsaved(id, &error),
            }
            if bytes >= CHECKPOINT_BYTES_AT_ONCE {
                bytes = 0;
                engine.save_all(std::mem::take(&mut encoded)).await;
            }
        }
        engine.save_all(encoded).await;
    }
}

fn unsaved(id: SessionId, error: &Error) {
    tracing::warn!(session = %id, %error, "a checkpoint was not saved; the log still has everything");
}

impl Engine {
    async fn encode_if_due(self: &Arc<Self>, id: SessionId) -> Result<Option<Checkpoint>, Error> {
        let now_ms = self.clock.monotonic_ms();
        let due = self.residency.get(id).is_some_and(|slot| match &*slot.phase.lock() {
            // What is left of a damaged session is read, and not kept.
            Phase::Live(live) => {
                live.published.info.status != SessionStatus::NeedsDecision && live.checkpoint_due(now_ms)
            }
            Phase::Packed(packed) => packed.tail.is_due_by_age(now_ms),
            Phase::Cold | Phase::Evicted => false,
        });
        if due { self.encode(id).await.map(Some) } else { Ok(None) }
    }

    /// Together: they share one transaction.
    async fn save_all(self: &Arc<Self>, checkpoints: Vec<Checkpoint>) {
        let mut saves = JoinSet::new();
        for checkpoint in checkpoints {
            let engine = self.clone();
            saves.spawn(async move {
                let id = checkpoint.session;
                if let Err(error) = engine.save(checkpoint).await {
                    unsaved(id, &error);
                }
            });
        }
        while let Some(saved) = saves.join_next().await {
            if let Err(error) = saved {
                tracing::error!(%error, "a checkpoint ended badly; the log still has everything");
            }
        }
    }

    /// Makes room before the next beat when the budget is tight.
    pub(super) fn sweep_soon(self: &Arc<Self>) {
        let engine = self.clone();
        tokio::spawn(async move {
            if engine.residency.is_tight() {
                engine.sweep(engine.clock.monotonic_ms());
            }
        });
    }

    fn sweep(&self, now_ms: u64) {
        let swept = self.residency.sweep(now_ms, now_ms.saturating_sub(self.settings.pack_after_ms), |session| {
            // A full queue: the next beat asks again.
            let _ = self.checkpoints.try_send(session);
        });
        self.notice_memory();
        if self.freed.lock().is_due(swept.freed_bytes, now_ms) {
            let workers = self.workers();
            tokio::spawn(async move { workers.offload(crate::allocator::give_back).await });
        }
    }

    async fn settle_due(self: &Arc<Self>, due: &Due) -> Result<(), Error> {
        let state = match self.live(due.session, |live| live.published.clone()).await {
            Ok(state) => state,
            // Removed in the meantime: nothing is due any more.
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if state.info.status.is_ended() || self.needs_decision(due.session).is_some() {
            return Ok(());
        }
        let command = match &due.about {
            About::Life => Command::Expire {},
            About::Agent(agent) => match self.overdue(due, agent, &state) {
                Some(verdict) => verdict,
                None => return Ok(()),
            },
            About::Effect(effect) => Command::DoubtEffect {
                effect: effect.clone(),
                attempt: u32::try_from(due.number).unwrap_or(u32::MAX),
                reason: "no answer before the deadline".into(),
            },
            About::Call(call) => {
                let Some(open) = state.calls.get(call) else { return Ok(()) };
                // An agent that gives signs of life or does something may still come to this; a paused session takes no
                // verdicts.
                let doing = |effect: &Effect| {
                    effect.status == EffectStatus::Begun && effect.agent_id.as_ref() == Some(&open.writer)
                };
                let is_alive = self.watch.expects_agent(due.session, &open.writer);
                if is_alive
                    || state.info.status == SessionStatus::Paused
                    || state.effects.iter().any(|effect| doing(effect))
                {
                    self.watch.put_off(due, limits::EFFECT_DEADLINE_MS);
                    return Ok(());
                }
                Command::InterruptCall {
                    call: call.clone(),
                    reason: format!("no result for {} ms", limits::EFFECT_DEADLINE_MS),
                }
            }
            About::Lease(task) => {
                let Some(lease) = state.tasks.get(task).and_then(|task| task.lease.clone()) else { return Ok(()) };
                if lease.number != due.number {
                    self.watch.see_to_lease(due.session, task, lease.number, lease.lease_ms);
                    return Ok(());
                }
                // An agent that waits for a model call is alive for as long as the call may take.
                let busy_ms = state
                    .effects
                    .iter()
                    .filter(|effect| {
                        effect.status == EffectStatus::Begun && effect.agent_id.as_ref() == Some(&lease.agent_id)
                    })
                    .filter_map(|effect| self.watch.effect_left_ms(due.session, &effect.id))
                    .max();
                if let Some(left_ms) = busy_ms {
                    // Not until then: it may finish sooner, and its agent be silent from there on.
                    self.watch.put_off(due, left_ms.min(lease.lease_ms));
                    return Ok(());
                }
                if state.info.status == SessionStatus::Paused {
                    self.watch.put_off(due, lease.lease_ms);
                    return Ok(());
                }
                Command::ExpireLease {
                    task: task.clone(),
                    lease: due.number,
                    reason: format!("no sign of life from agent `{}` for {} ms", lease.agent_id, lease.lease_ms),
                }
            }
        };
        let answer = self.submit(due.session, Request::of(Actor::system(), command)).await;
        if due.about == About::Life {
            let state = self.live(due.session, |live| live.published.clone()).await?;
            self.watch.register_life(&state);
        }
        match answer {
            Ok(_) => Ok(()),
            // A paused session takes no verdicts; they wait.
            Err(error) if super::is(&error, swarmkeep_core::RefusalCode::SessionNotLive) => {
                self.watch.put_off(due, limits::LEASE_MS);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
