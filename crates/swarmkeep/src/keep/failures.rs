//! How failures are noticed: by what the log says, by events, by silence, by what a start found; and how the list of them is
//! kept in the store.

use std::sync::{Arc, atomic::Ordering};

use swarmkeep_core::{
    EntityId, Error, ErrorKind, Event, Json, Seq, SessionId, State,
    command::Command,
    failure::{Exhausted, Failure, OwnershipCause, Place, SILENCE_HIGH_MS, SILENCE_MEDIUM_MS, Stake},
    limits,
    log::{Damage, LogError},
    record::Body,
    state::{AgentStatus, EffectStatus, SessionStatus},
};

use super::{Engine, rate};
use crate::{
    damage,
    incident::{self, Incident, Noticed},
    watch::Due,
};

/// An agent's silence grows through these; each is looked at once.
const SILENCES_MS: [u64; 3] = [limits::HEARTBEAT_OVERDUE_MS, SILENCE_MEDIUM_MS, SILENCE_HIGH_MS];
/// Tries to write them at a stop.
const LAST_TRIES: usize = 3;
/// Incidents written at a time.
const KEPT_AT_ONCE: usize = 64;

impl Engine {
    /// What a log said, as an error for the caller; what of it is a failure is listed.
    pub(crate) fn said_by_log(&self, error: LogError, session: SessionId) -> Error {
        let noticed = match (&error, &self.embedded) {
            (LogError::Unknown(_), Some(embedded)) if !self.is_closing() => Some(embedded.failing(&error)),
            _ => Noticed::of_log(&error, session),
        };
        if let Some(mut noticed) = noticed {
            noticed.stake = self.stake_of(session, &noticed.failure);
            self.notice(noticed);
        }
        damage::log(error)
    }

    /// A session, or something of it, is damaged.
    pub(crate) fn notice_error(&self, session: SessionId, error: &Error) {
        if error.kind != ErrorKind::Corrupt {
            return;
        }
        let aside = self.embedded.as_ref().and_then(|embedded| embedded.set_aside(session));
        let seqs = aside.and_then(|damage| damage.seqs);
        let failure = Failure::StateCorruption {
            place: Place::Records,
            first: seqs.as_ref().map(|seqs| *seqs.start()),
            last: seqs.map(|seqs| *seqs.end()),
        };
        let stake = Stake { waiting: 1, ..self.stake_of(session, &failure) };
        self.notice(Noticed { stake, ..Noticed::new(failure, Some(session), error.message.clone()) });
    }

    /// A checkpoint that does not verify was passed over; it is taken away beside this.
    pub(crate) fn notice_checkpoint(&self, session: SessionId, seq: Seq, what: &str) {
        self.notice(Noticed::new(Failure::CheckpointCorruption { seq: Some(seq.0) }, Some(session), what));
        if let Some(embedded) = &self.embedded {
            embedded
                .was_met(session, Damage { session: Some(session), seqs: Some(seq.0..=seq.0), what: what.to_owned() });
        }
    }

    /// What a start found.
    pub(super) fn notice_opening(&self) {
        let Some(report) = self.recovery.lock().clone() else { return };
        if let Some(taken) = &report.taken_over {
            let since_ms = taken.at_ms.saturating_sub(taken.from_started_at_ms);
            let what = format!(
                "the store was taken over on {} from process {}, which had held it for {since_ms} ms{}: term {}",
                taken.host,
                taken.from_pid,
                taken.from_address.iter().map(|at| format!(" and answered at {at}")).collect::<String>(),
                taken.term
            );
            let failure = Failure::OwnershipConflict { cause: OwnershipCause::FencedOut };
            self.notice(Noticed::new(failure, None, what));
        } else if report.crashed {
            let possibly_acknowledged = report.possibly_acknowledged.len() as u64;
            let failure = Failure::ProcessCrash { frames_replayed: report.frames_replayed, possibly_acknowledged };
            let what = format!(
                "the last holder ended without parking; {} frames that the tables lacked are there",
                report.frames_replayed
            );
            self.notice(Noticed::new(failure, None, what));
        }
        for damaged in report.damage {
            self.notice(Noticed::of_damaged(damaged));
        }
        for aside in self.embedded.iter().flat_map(|embedded| embedded.standing().set_aside) {
            if let Some(session) = aside.session {
                self.notice_error(session, &Error::new(ErrorKind::Corrupt, aside.what));
            }
        }
    }

    /// An event is durable: it may say that something is in doubt, or that a doubt is settled.
    pub(super) fn notice_event(&self, session: SessionId, body: &Body, state: &State) {
        self.agent_acts(session, body.actor.as_str());
        match &body.event {
            Event::EffectOutcomeUnknown { effect, reason } => {
                let class = state.effects.get(effect).map(|effect| effect.class).unwrap_or_default();
                let failure = Failure::OutcomeUnknown { effect: effect.clone(), class };
                self.notice(Noticed::new(failure, Some(session), reason.clone()));
            }
            Event::EffectFinished { effect, outcome } => {
                if rate::is_limited(outcome) {
                    let failure = Failure::ResourceExhaustion { what: Exhausted::RateLimited };
                    let what = format!("effect `{effect}` failed: the other side takes no more for now");
                    self.notice(Noticed::new(failure, Some(session), what));
                } else if outcome.ok {
                    self.incidents.rate_is_free(session, self.clock.now_ms());
                }
                if self.watch.is_expecting()
                    && let Some(agent) = state.effects.get(effect).and_then(|effect| effect.agent_id.as_ref())
                {
                    self.agent_acts(session, agent.as_str());
                }
                self.incidents.outcome_is_known(session, effect, self.clock.now_ms());
            }
            Event::EffectBegun { effect, .. }
            | Event::EffectResolvedDone { effect, .. }
            | Event::EffectResolvedNotDone { effect, .. } => {
                self.incidents.outcome_is_known(session, effect, self.clock.now_ms());
            }
            Event::AgentStatusChanged { agent, status: AgentStatus::Failed | AgentStatus::Terminated, .. } => {
                self.incidents.agent_is_gone(session, Some(agent), self.clock.now_ms());
            }
            Event::SessionStatusChanged { status, .. } if status.is_ended() => {
                self.incidents.agent_is_gone(session, None, self.clock.now_ms());
            }
            _ => {}
        }
    }

    /// An agent says that it is alive, and is expected to say so again.
    pub(super) fn agent_beats(&self, session: SessionId, agent: &EntityId) {
        let [overdue_ms, ..] = SILENCES_MS;
        self.watch.expect_agent(session, agent, overdue_ms, overdue_ms);
        self.incidents.agent_is_back(session, agent, self.clock.now_ms());
    }

    /// Something was done in an agent's name. Of one that never sent a heartbeat none is expected.
    pub(super) fn agent_acts(&self, session: SessionId, actor: &str) {
        if self.watch.is_expecting()
            && let Ok(agent) = EntityId::new(actor)
            && self.watch.expects_agent(session, &agent)
        {
            self.agent_beats(session, &agent);
        }
    }

    /// An agent has been silent for too long, unless there is a reason for it. The verdict is a record, once; it takes
    /// nothing from the agent: its tasks go back when their leases end.
    pub(super) fn overdue(&self, due: &Due, agent: &EntityId, state: &State) -> Option<Command> {
        let found = state.agents.get(agent)?;
        if matches!(found.status, AgentStatus::Failed | AgentStatus::Terminated) {
            return None;
        }
        let busy_ms = state
            .effects
            .iter()
            .filter(|effect| effect.status == EffectStatus::Begun && effect.agent_id.as_ref() == Some(agent))
            .filter_map(|effect| self.watch.effect_left_ms(due.session, &effect.id))
            .max();
        if let Some(left_ms) = busy_ms {
            // It waits for a call; silence counts from the end of that, as soon as it comes.
            self.watch.put_off(due, left_ms.min(limits::HEARTBEAT_OVERDUE_MS));
            return None;
        }
        if state.info.status == SessionStatus::Paused {
            self.watch.put_off(due, limits::HEARTBEAT_OVERDUE_MS);
            return None;
        }
        let silent_ms = due.number;
        let holds = state.tasks.iter().filter(|task| task.lease.as_ref().is_some_and(|lease| lease.agent_id == *agent));
        let stake = Stake { waiting: holds.count() as u64, ..Stake::default() };
        let failure = Failure::AgentUnresponsive { agent: agent.clone(), silent_ms };
        let what = format!("no sign of life from agent `{agent}` for {silent_ms} ms");
        let severity = failure.severity(&stake);
        let is_new = self.notice(Noticed { stake, ..Noticed::new(failure.clone(), Some(due.session), what) });
        if let Some(next_ms) = SILENCES_MS.into_iter().find(|next_ms| *next_ms > silent_ms) {
            self.watch.expect_agent(due.session, agent, next_ms, next_ms - silent_ms);
        }
        if !is_new {
            return None;
        }
        let report = serde_json::json!({ "failure": failure, "severity": severity, "strategy": failure.strategy() });
        let recovery = EntityId::made("unresponsive", state.head.seq.next());
        Some(Command::NoteRecovery {
            recovery,
            report: Json::encode(&report).ok()?,
            gave_up: None,
            effects: Vec::new(),
        })
    }

    /// What the sessions in RAM take, after everything was dropped that nobody uses just now.
    pub(super) fn notice_memory(&self) {
        let (bytes, budget_bytes) = (self.residency.bytes() as u64, self.settings.resident_bytes);
        if bytes <= budget_bytes {
            return self.incidents.memory_is_free(|| self.clock.now_ms());
        }
        let failure = Failure::ResourceExhaustion { what: Exhausted::Memory };
        let what =
            format!("the sessions in use take {bytes} bytes of RAM, and may take {budget_bytes} (resident_bytes)");
        self.notice(Noticed::new(failure, None, what));
    }

    /// Looks whether somebody else holds the store now. It is listed, and whoever waits for it is told, once.
    pub(super) fn look_at_fence(&self) {
        if self.fenced.get() || self.is_closing() {
            return;
        }
        let Some(how) = self.embedded.as_ref().and_then(|embedded| embedded.fenced_out()) else { return };
        tracing::error!(how, "fenced out: this process takes nothing any more");
        let failure = Failure::OwnershipConflict { cause: OwnershipCause::FencedOut };
        self.notice(Noticed::new(failure, None, how));
        self.fenced.set(true);
    }

    pub(crate) fn notice(&self, noticed: Noticed) -> bool {
        self.incidents.note(noticed, self.clock.now_ms())
    }

    /// What depends on a damaged session: whether second copies cover it is known by whoever repairs it.
    fn stake_of(&self, session: SessionId, failure: &Failure) -> Stake {
        let is_aside = self.embedded.as_ref().is_some_and(|embedded| embedded.is_set_aside(session));
        match failure {
            Failure::StateCorruption { first: Some(first), .. } if is_aside => {
                // The range that is kept begins behind the gap: at least one record before it is lost.
                Stake { lost_records: u64::from(*first > 1), waiting: 1, is_covered: false }
            }
            _ => Stake::default(),
        }
    }

    /// Lists what was met where nobody could list it.
    pub(super) fn gather_incidents(&self) {
        for noticed in self.embedded.iter().flat_map(|embedded| embedded.take_noticed()) {
            self.notice(noticed);
        }
    }

    /// Has what changed on the list written down. A store that takes nothing must not stop whoever asks; one at a time.
    pub(super) fn note_down(self: &Arc<Self>) {
        self.gather_incidents();
        if !self.incidents.has_news() || self.keeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            engine.keep_incidents().await;
            engine.keeping.store(false, Ordering::Release);
        });
    }

    /// Writes down what changed on the list. What cannot be written now is tried again with the next beat.
    pub(super) async fn keep_incidents(self: &Arc<Self>) {
        let is_stuck = self.embedded.as_ref().is_some_and(|embedded| embedded.is_stuck());
        if !is_stuck {
            self.write_incidents().await;
        }
    }

    /// The same, when there is no next beat: tables that were in trouble a moment ago may not be at the second try.
    pub(super) async fn keep_last_incidents(self: &Arc<Self>) {
        for _ in 0..LAST_TRIES {
            self.write_incidents().await;
            if !self.incidents.has_news() {
                return;
            }
        }
        tracing::warn!("failures of this life of the store could not all be written down");
    }

    async fn write_incidents(&self) {
        self.gather_incidents();
        let Some(embedded) = &self.embedded else { return };
        for incident in self.incidents.news().into_iter().take(KEPT_AT_ONCE) {
            match embedded.keep_incident(&incident).await {
                Ok(()) => self.incidents.stored(&incident),
                Err(error) => {
                    tracing::debug!(%error, "failures cannot be written down yet");
                    return;
                }
            }
        }
    }

    pub(super) fn failures(&self, most: usize) -> Result<Vec<Incident>, Error> {
        self.gather_incidents();
        let mut all = self.incidents.all();
        if let Some(embedded) = &self.embedded {
            let stored = embedded.incidents(most)?;
            all.extend(stored.into_iter().filter(|stored| !self.incidents.lists(&stored.id)));
        }
        incident::newest_first(&mut all);
        Ok(all)
    }
}
