//! Sessions that are damaged, seen from above the log: what is in RAM saves what is lost on disk; one that waits for a
//! decision is read and not written; what came of a recovery goes into the session's own history.

use std::sync::{Arc, Weak, atomic::Ordering};

use bytes::Bytes;
use swarmkeep_core::{
    Actor, EntityId, Epoch, Error, ErrorKind, Json, Refusal, RefusalCode, RequestId, Seq, SessionId, State,
    checkpoint::Checkpoint,
    command::Command,
    log::{LogError, LogFuture},
    recovery::{Check, Plan, Validation},
    state::SessionStatus,
};

use super::{Engine, load::Look, submit::Turn};
use crate::{
    Swarmkeep,
    embedded::Above,
    recovery::SessionRecovery,
    session::Request,
    slot::{Live, Phase, Slot, Tail},
};

/// Restored ranges and lost things that a session's own history lists; the report has all of them.
const LISTED: usize = 100;

/// The engine, as the log under it sees it: gone when the store is.
pub(super) struct FromBelow(pub(super) Weak<Engine>);

impl Above for FromBelow {
    fn rescue(&self, session: SessionId) -> LogFuture<'static, Option<Checkpoint>> {
        let engine = self.0.upgrade();
        Box::pin(async move {
            let Some(engine) = engine else { return Ok(None) };
            let Some(slot) = engine.residency.get(session) else { return Ok(None) };
            let Look::Live(state) = engine.look(&slot, |live| live.published.clone()) else { return Ok(None) };
            if state.info.status == SessionStatus::NeedsDecision {
                // What is there of it in RAM was read from what is left.
                return Ok(None);
            }
            let encoding = engine.workers().offload(move || Checkpoint::of(&state)).await;
            let checkpoint = encoding.map_err(|error| LogError::Unknown(error.to_string()))?;
            if let Err(error) = engine.log.save(session, checkpoint.clone()).await {
                tracing::warn!(%session, %error, "a checkpoint of a damaged session was not saved");
            }
            Ok(Some(checkpoint))
        })
    }

    fn changed(&self, session: SessionId) {
        let Some(engine) = self.0.upgrade() else { return };
        if let Some(slot) = engine.residency.get(session) {
            let mut phase = slot.phase.lock();
            slot.durable_seq.store(0, Ordering::Release);
            if !matches!(*phase, Phase::Evicted) {
                *phase = Phase::Cold;
            }
        }
    }

    fn recovered(&self, session: SessionId) {
        let Some(engine) = self.0.upgrade() else { return };
        engine.is_no_problem(session);
        // What was met on the way is over with it.
        engine.gather_incidents();
        engine.incidents.session_is_recovered(session, engine.clock.now_ms());
        // It may be in RAM already, and not come in again for a long time.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { engine.note_recovery(session, Turn::InLine).await });
        }
    }
}

impl Engine {
    /// The refusal of a session that waits for a person's decision.
    pub(crate) fn needs_decision(&self, id: SessionId) -> Option<Error> {
        let embedded = self.embedded.as_ref().filter(|embedded| embedded.needs_decision(id))?;
        let recovery = embedded.decision(id)?;
        let message = format!(
            "session {id} needs a decision: of seqs 1 to {}, {} are lost or come after what is lost; it can be read up to seq {}, \
             and takes no writes",
            recovery.plan.known_head,
            recovery.lost.count(),
            recovery.reaches
        );
        let refusal = Refusal::new(RefusalCode::NeedsDecision, message);
        Some(Error::from(refusal).hint(
            "`swarmkeep quarantine show NAME` says what is lost; `quarantine restore` tries again once a copy is back, \
             `quarantine discard` accepts the loss",
        ))
    }

    /// Records after `after`, as [`Engine::read_log`] gives them; where damage begins soon after, at least the next one.
    pub(crate) async fn read_up_to_damage(
        &self,
        session: SessionId,
        after: Seq,
        max_bytes: usize,
    ) -> Result<Bytes, Error> {
        match self.read_log(session, after, max_bytes).await {
            Err(error) if error.kind == ErrorKind::Corrupt => self.read_log(session, after, 1).await,
            read => read,
        }
    }

    /// A session could not be read, because of `met`. Brings what can be had of it into RAM, to be read, if it waits for a
    /// decision: up to the last record that verifies.
    ///
    /// # Errors
    /// `met`, or that it waits for a decision and nothing of it can be had.
    pub(super) async fn load_what_is_left(self: &Arc<Self>, slot: &Arc<Slot>, met: Error) -> Result<(), Error> {
        let left = match self.embedded.as_ref().and_then(|embedded| embedded.decision(slot.id)) {
            None => Err(met),
            Some(waiting) => self.what_is_left(slot.id, &waiting).await,
        };
        let state = left.inspect_err(|_| self.residency.forget(slot))?;
        let live = Live::new(state, Epoch::default(), self.next_generation(), Tail::default());
        let weight = live.weight();
        {
            let mut phase = slot.phase.lock();
            slot.durable_seq.store(0, Ordering::Release);
            *phase = Phase::Live(Box::new(live));
        }
        self.residency.came(slot.id, weight);
        Ok(())
    }

    /// The state of a session that waits for a decision, as far as it can be had, and marked so.
    async fn what_is_left(&self, id: SessionId, waiting: &SessionRecovery) -> Result<State, Error> {
        let (mut state, why) = match waiting.reaches {
            Seq::ZERO => (State::empty(), None),
            reaches => self.fold_as_far_as_it_goes(id, reaches).await?,
        };
        if state.head.seq == Seq::ZERO {
            // Nothing: whoever asks hears why.
            let refused = self.needs_decision(id).unwrap_or_else(|| Self::no_session(id));
            return Err(match why {
                Some(why) => refused.caused_by(why),
                None => refused,
            });
        }
        mark(&mut state, waiting.plan.known_head);
        Ok(state)
    }

    /// Puts what came of a recovery into the session's own history, once.
    pub(super) async fn note_recovery(self: &Arc<Self>, id: SessionId, turn: Turn) {
        let Some(embedded) = self.embedded.clone() else { return };
        let Some(recovery) = embedded.unnoted(id) else { return };
        let Some((command, request)) = note_of(&recovery) else { return };
        let request = Request { id: Some(request), ..Request::of(Actor::system(), command) };
        let refused = match Box::pin(self.carry_out(id, request, turn)).await {
            // One that has ended takes no record: the report is in the store.
            Ok(_) => None,
            // It was given up: whatever is made under its name says so.
            Err(error) if error.kind == ErrorKind::NotFound => return,
            Err(error) => Some(error).filter(|error| error.kind != ErrorKind::Refused),
        };
        let is_noted =
            refused.is_none() && matches!(self.workers().offload(move || embedded.noted(id)).await, Ok(Ok(())));
        if !is_noted {
            tracing::warn!(session = %id, id = recovery.id, ?refused, "a recovery is not in its session's history yet");
        }
    }
}

/// Everybody who reads the state sees that it is not all of it.
fn mark(state: &mut State, known_head: Seq) {
    let info = Arc::make_mut(&mut state.info);
    info.status = SessionStatus::NeedsDecision;
    info.status_reason = Some(format!(
        "damaged: this is what can be had of it, up to seq {} of {known_head} that are known; see `swarmkeep quarantine show`",
        state.head.seq
    ));
}

fn note_of(recovery: &SessionRecovery) -> Option<(Command, RequestId)> {
    let report = serde_json::json!({
        "event": recovery.event,
        "id": recovery.id,
        "strategy": recovery.plan.proposed.unwrap_or(recovery.plan.strategy),
        "restored": recovery.restored.iter().take(LISTED).collect::<Vec<_>>(),
        "reaches": recovery.reaches,
        "known_head": recovery.plan.known_head,
        "old_head": recovery.old_head,
        "lost": recovery.lost.iter().take(LISTED).collect::<Vec<_>>(),
        "history_lost": recovery.history_lost.iter().take(LISTED).collect::<Vec<_>>(),
        "parts_lost": recovery.parts_lost.iter().take(LISTED).collect::<Vec<_>>(),
        "entities_lost": recovery.entities_lost.iter().take(LISTED).collect::<Vec<_>>(),
        "effects_left_out": recovery.effects_left_out,
        "data_loss_percent": recovery.data_loss_percent,
        "integrity_score": recovery.integrity_score,
        "validation": recovery.validation.as_ref().map(checks),
        "records_replayed": recovery.records_replayed,
        "took_ms": recovery.took_ms,
        "attempts": recovery.attempts,
        "accepted_by": recovery.accepted_by,
    });
    let command = Command::NoteRecovery {
        recovery: EntityId::new(&recovery.id).ok()?,
        report: Json::encode(&report).ok()?,
        gave_up: (!recovery.lost.is_empty()).then_some(recovery.plan.known_head),
        effects: recovery.effects_lost.clone(),
    };
    Some((command, recovery.id.parse().ok()?))
}

/// Each check in short: the report in the store has every violation.
fn checks(validation: &Validation) -> Vec<serde_json::Value> {
    let short = |check: &Check| {
        serde_json::json!({
            "name": check.name, "passed": check.passed, "entities": check.entities, "failed": check.failed,
        })
    };
    validation.checks.iter().map(short).collect()
}

impl Swarmkeep {
    /// The newest recovery of every session that ever needed one, those that wait for a decision among them.
    #[must_use]
    pub fn session_recoveries(&self) -> Vec<SessionRecovery> {
        self.engine.embedded.as_ref().map(|embedded| embedded.session_recoveries()).unwrap_or_default()
    }

    /// The newest recovery of a session, if it waits for a decision.
    #[must_use]
    pub fn decision(&self, session: SessionId) -> Option<SessionRecovery> {
        self.engine.embedded.as_ref().and_then(|embedded| embedded.decision(session))
    }

    /// What a recovery of a session would do, and lose; with `accept_loss`: if somebody accepts that. `None`: nothing is
    /// wrong with it that is not known already. Changes nothing.
    ///
    /// # Errors
    /// What the store says.
    pub async fn plan_recovery(&self, session: SessionId, accept_loss: bool) -> Result<Option<Plan>, Error> {
        match &self.engine.embedded {
            Some(embedded) => embedded.plan(session, accept_loss).await,
            None => Ok(None),
        }
    }

    /// The plans of all sessions that are not well, and how many were looked at. Reads the whole store, changes nothing.
    ///
    /// # Errors
    /// What the store says.
    pub async fn plan_recoveries(&self) -> Result<(u64, Vec<Plan>), Error> {
        let Some(embedded) = self.engine.embedded.clone() else { return Ok((0, Vec::new())) };
        let listing = embedded.clone();
        let listed = self.engine.workers().offload(move || listing.all_sessions()).await;
        let sessions = listed
            .map_err(|error| Error::new(ErrorKind::Unavailable, "listing was interrupted").caused_by(error))??;
        let mut plans = Vec::new();
        for session in &sessions {
            plans.extend(embedded.plan(*session, false).await?);
        }
        Ok((sessions.len() as u64, plans))
    }

    /// Recovers a session from whatever copies there are now, with all attempts. `None`: nothing is wrong with it that is
    /// not known already.
    ///
    /// # Errors
    /// What the store says. That it still waits for a decision is no error.
    pub async fn recover_session(&self, session: SessionId) -> Result<Option<SessionRecovery>, Error> {
        self.recovered(session, None).await
    }

    /// Accepts, in the name of `by`, what the plan of a session that waits for a decision loses: it goes on from where it
    /// can be had up to. Nothing is deleted: what comes after is in quarantine. Where nothing of it can be had, the session
    /// is given up: it is gone, and its name is free; the next one of its name says so in its history.
    ///
    /// # Errors
    /// `needs_decision` when it could not be carried out in three attempts; what the store says.
    pub async fn accept_loss(&self, session: SessionId, by: &Actor) -> Result<Option<SessionRecovery>, Error> {
        self.recovered(session, Some(by.as_str())).await
    }

    async fn recovered(&self, session: SessionId, by: Option<&str>) -> Result<Option<SessionRecovery>, Error> {
        let Some(embedded) = self.engine.embedded.clone() else { return Ok(None) };
        let recovery = match by {
            None => embedded.recover(session).await?,
            Some(by) => embedded.accept_loss(session, by).await?,
        };
        match recovery {
            Some(recovery) if recovery.waits() && by.is_some() => Err(self
                .engine
                .needs_decision(session)
                .unwrap_or_else(|| Error::new(ErrorKind::Corrupt, format!("nothing of session {session} can be had")))),
            recovery => {
                self.engine.note_recovery(session, Turn::InLine).await;
                Ok(recovery)
            }
        }
    }
}
