//! How a recovery ends: written down, in the history, and with the session taking writes again; or waiting for a person.

use std::sync::Arc;

use swarmkeep_core::{
    Seq, SessionId,
    log::{Damage, LogError},
    recovery::{ATTEMPTS, Plan, Ranges},
};

use super::{Case, Mender, Outcome, unkept};
use crate::{
    embedded::{
        progress::Ask,
        sight::{Sight, given_up, old_head},
    },
    recovery::{Damaged, DataLoss, Ending, RecoveryReport, SessionRecovery},
};

impl Mender {
    /// It is over: written down, and the session takes writes again.
    pub(super) async fn finish(
        self: &Arc<Self>,
        session: SessionId,
        case: &mut Case,
        sight: &Sight,
        took_ms: u64,
    ) -> Result<SessionRecovery, LogError> {
        let Some(recovery) = &mut case.recovery else {
            return Err(LogError::Unknown("a recovery without a beginning".into()));
        };
        let is_whole = recovery.lost.is_empty() && recovery.history_lost.is_empty() && recovery.parts_lost.is_empty();
        recovery.event = if is_whole { Ending::SessionRecovered } else { Ending::SessionRecoveredWithLoss };
        recovery.ended_at_ms = Some(self.clock.now_ms());
        recovery.took_ms += took_ms;
        let recovery = recovery.clone();
        case.history_lost = case.history_lost.union(&recovery.history_lost);
        case.parts_lost.extend(recovery.parts_lost.iter().cloned());
        (case.known_head, case.missing_from) = (Seq::ZERO, Seq::ZERO);
        case.is_reported = false;
        let prefix = if recovery.lost.is_empty() { "mended" } else { "given-up" };
        let over = case.clone();
        self.off(move |mender| {
            // The quarantine's files say that a session is set aside: under another name they do not.
            let names: Vec<String> = mender.groups(session)?.into_iter().map(|(name, ..)| name).collect();
            if !names.is_empty() {
                mender.quarantine.settled(&names, prefix).map_err(|error| unkept(&error))?;
            }
            mender.put(session, &over)
        })
        .await?;
        self.made.left.lock().remove(&session);
        if sight.is_aside {
            self.lanes.take_back(session);
        }
        if let (Some(above), false) = (self.above.get(), is_whole) {
            above.changed(session);
        }
        if is_whole {
            // Damage that comes later is other damage.
            self.made.tried.lock().remove(&session);
        } else {
            self.made.tried.lock().insert(session);
        }
        tracing::warn!(%session, id = recovery.id, event = recovery.event.as_str(), restored = ?recovery.restored, "a session was recovered");
        self.made.repairs.lock().extend(recovery.restored.iter().cloned());
        self.report(&recovery).await;
        self.watchers.moved(session);
        if let Some(above) = self.above.get() {
            above.recovered(session);
        }
        Ok(recovery)
    }

    /// The session is set aside, with what a person needs to decide.
    pub(super) async fn wait_for_a_person(
        self: &Arc<Self>,
        session: SessionId,
        mut case: Case,
        plan: Arc<Plan>,
        sight: Arc<Sight>,
    ) -> Result<Outcome, LogError> {
        let unfinished = case.recovery.take().filter(|last| !last.is_over());
        let mut recovery = unfinished.unwrap_or_else(|| self.fresh(session, &case, &plan));
        let is_news = !recovery.waits() || recovery.plan != *plan;
        self.set_aside(session, &plan);
        case.attempts = case.attempts.min(ATTEMPTS);
        recovery.event = Ending::SessionNeedsDecision;
        recovery.ended_at_ms = Some(self.clock.now_ms());
        recovery.reaches = plan.reaches;
        recovery.lost = plan.loss.state.clone();
        recovery.history_lost = plan.loss.history.clone();
        recovery.parts_lost.clone_from(&plan.loss.parts);
        recovery.data_loss_percent = plan.loss.percent;
        recovery.old_head = Some(old_head(&plan, &sight));
        recovery.plan = plan.as_ref().clone();
        case.known_head = case.known_head.max(plan.known_head);
        let recovery = self
            .off(move |mender| {
                let given_up = given_up(session, &plan, &sight, &mender.beyond(session, plan.reaches)?);
                given_up.say_in(&mut recovery);
                case.recovery = Some(recovery);
                case.is_reported &= !is_news;
                case.begin(&plan.steps, mender.clock.now_ms());
                mender.keep_bytes(session, &plan, &sight)?;
                case.end(None, mender.clock.now_ms());
                mender.put(session, &case)?;
                Ok(case.recovery)
            })
            .await?;
        let Some(recovery) = recovery else { return Ok(Outcome::Nothing) };
        self.made.left.lock().remove(&session);
        if let Some(above) = self.above.get() {
            above.changed(session);
        }
        if is_news {
            tracing::error!(%session, id = recovery.id, loss = recovery.data_loss_percent, "a session waits for a person's decision");
            self.report(&recovery).await;
            self.watchers.moved(session);
        }
        Ok(Outcome::Waits(Box::new(recovery)))
    }

    pub(super) fn set_aside(&self, session: SessionId, plan: &Plan) {
        let (first, last) = (plan.reaches.0.saturating_add(1), plan.known_head.0);
        let what =
            format!("records {first} to {last} are lost or come after what is lost: the session waits for a decision");
        self.lanes.set_aside(Damage { session: Some(session), seqs: Some(first..=last.max(first)), what });
    }

    /// Recoveries that ended just before the store did, and are in no history yet.
    pub(in crate::embedded) async fn report_again(self: &Arc<Self>) {
        for recovery in
            self.cases.each(|_, case| case.recovery.clone().filter(|_| !case.is_open() && !case.is_reported))
        {
            self.report(&recovery).await;
        }
    }

    /// Keeps it in the history of recoveries. Whoever hears that it is over finds it there.
    async fn report(self: &Arc<Self>, recovery: &SessionRecovery) {
        let report = report_of(recovery);
        let Ok(text) = serde_json::to_string(&report) else { return };
        let entry = swarmkeep_sqlite::Recovery { id: report.id, at_ms: report.at_ms, report: text };
        let (session, id) = (recovery.session, recovery.id.clone());
        let mut kept = self.ask(|done| Ask::Report(entry, done)).await;
        if kept.is_ok() {
            kept = self
                .off(move |mender| match mender.cases.get(session) {
                    Some(case) if case.recovery.as_ref().is_some_and(|last| last.id == id) => {
                        mender.put(session, &Case { is_reported: true, ..case })
                    }
                    _ => Ok(()),
                })
                .await;
        }
        if let Err(error) = kept {
            tracing::warn!(id = recovery.id, %error, "the report of a recovery is not in the history yet; recovery/ has it");
        }
    }
}

fn report_of(recovery: &SessionRecovery) -> RecoveryReport {
    let lost = |ranges: &Ranges, what: &str| -> Vec<String> {
        let line = |first, last| format!("session {}, seqs {first} to {last}: {what}", recovery.session);
        ranges.iter().map(|range| line(range.first, range.last)).collect()
    };
    let mut said = lost(&recovery.lost, "not part of its state any more");
    said.extend(lost(&recovery.history_lost, "cannot be read any more; what they did is in its state"));
    let part = |part| format!("session {}: {part} exists nowhere any more", recovery.session);
    said.extend(recovery.parts_lost.iter().map(part));
    let sessions = vec![recovery.session];
    let of_it = |what| Damaged { sessions: sessions.clone(), ..Damaged::in_records(DataLoss::Certain, what) };
    let damage: Vec<Damaged> = said.into_iter().map(of_it).collect();
    RecoveryReport {
        id: recovery.id.clone(),
        at_ms: recovery.ended_at_ms.unwrap_or_default(),
        clean: damage.is_empty(),
        damage,
        repaired: recovery.restored.clone(),
        recovery: Some(Box::new(recovery.clone())),
        ..RecoveryReport::default()
    }
}
