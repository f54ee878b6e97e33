//! A session that does not come back plainly: what is seen of it becomes a plan (`swarmkeep_core::recovery`), and the plan is
//! carried out here, step by step. The one way in which anything damaged is put right.
//!
//! The attempt is counted durably before its first step, and each step is written down before it is begun and when it is
//! done (`case`). Every step may be done again: one that was interrupted is met by the next attempt, which looks again and
//! plans anew; what was done by then is no longer in that plan. A plan that would give up acknowledged state waits for a
//! person, unless the policy says otherwise, and so does one that failed too often; the session is set aside until then.

mod ending;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use swarmkeep_core::{
    BlobId, Seq, SessionId, State,
    checkpoint::Checkpoint,
    clock::Clock,
    log::{Damage, LogError, LogFuture, Refused, Watchers},
    recovery::{Plan, Policy, Ranges, Step, plan, validate},
};
use swarmkeep_sqlite::{ReaderPool, RecordsReader};
use tokio::sync::oneshot;

pub(crate) use self::steps::unpack_base;
use super::{
    case::{Case, Cases},
    is_of_the_file,
    keeper::Keeper,
    lane::Lanes,
    mend::Run,
    progress::{Ask, Progress},
    quarantine::Quarantine,
    sight::{GivenUp, Sight, given_up, old_head},
};
use crate::{
    blobs::BlobFiles,
    disk::{self, Disk},
    journal::{Journal, StoreId},
    level,
    recovery::{Ending, Repair, SessionRecovery},
    workers::Workers,
};

/// A session that is written meanwhile is looked at again, so often.
const TRIES: usize = 4;
/// How long a recovery waits until records.db has what the journal has.
const SETTLE: Duration = Duration::from_secs(20);
/// Or until so many batches were not applied meanwhile: it does not come that far.
const STUMBLES: u64 = 2;

/// Whoever has sessions in RAM above the log.
pub(crate) trait Above: Send + Sync {
    /// Damage of this session was met. If its state is in RAM, a checkpoint of it saves what is lost on disk: it is saved where
    /// it fits, and given all the same.
    fn rescue(&self, session: SessionId) -> LogFuture<'static, Option<Checkpoint>>;

    /// It was rolled back, or waits for a decision: what is in RAM of it is not what the log says.
    fn changed(&self, session: SessionId);

    /// A recovery of it has come to its end.
    fn recovered(&self, session: SessionId);
}

/// What is held of sessions that are read from their second copies, beyond which all of it is read again.
const LEFT_BYTES: usize = 64 << 20;

/// What carries recoveries out.
pub(super) struct Mender {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) store_dir: PathBuf,
    pub(super) store: StoreId,
    pub(super) incarnation: u64,
    pub(super) journal: Arc<Journal>,
    pub(super) keeper: Option<Arc<Keeper>>,
    pub(super) records: Arc<ReaderPool>,
    pub(super) blobs: Arc<BlobFiles>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) progress: Arc<Progress>,
    pub(super) watchers: Arc<Watchers>,
    pub(super) quarantine: Quarantine,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) workers: Workers,
    pub(super) policy: Policy,
    pub(super) cases: Arc<Cases>,
    pub(super) above: OnceLock<Box<dyn Above>>,
    pub(super) made: Made,
}

/// What was done since the start.
pub(super) struct Made {
    /// One at a time: it reads much.
    turn: tokio::sync::Mutex<()>,
    /// The store is closing: what is under way stops between two steps, and is taken up at the next start.
    stopping: level::Sender<bool>,
    /// The store is closed, and the next holder may have it: nothing is read or written any more.
    closed: RwLock<bool>,
    /// Met and looked into since the start: what could not be put right then cannot be now.
    tried: Mutex<BTreeSet<SessionId>>,
    /// Blobs that were missing when somebody first asked for one that is not there.
    missing: Mutex<BTreeMap<SessionId, Arc<BTreeMap<BlobId, Seq>>>>,
    /// What second copies have of sessions that wait for a decision, up to where these can be had.
    left: Mutex<BTreeMap<SessionId, Arc<Vec<Run>>>>,
    repairs: Mutex<Vec<Repair>>,
    number: AtomicU64,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            turn: tokio::sync::Mutex::default(),
            stopping: level::Sender::new(false),
            closed: RwLock::new(false),
            tried: Mutex::default(),
            missing: Mutex::default(),
            left: Mutex::default(),
            repairs: Mutex::default(),
            number: AtomicU64::new(0),
        }
    }
}

/// Why a recovery is run.
#[derive(Debug, Clone)]
pub(super) enum Why {
    /// Somebody met damage: this.
    Met(String),
    /// A person wants it tried again, with all attempts: perhaps a copy is there now.
    Asked,
    /// This person accepts what the plan loses.
    Accepted(String),
}

/// What a recovery came to.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// Nothing was wrong with it, or nothing that is not known already.
    Nothing,
    /// It was recovered.
    Recovered(Box<SessionRecovery>),
    /// It waits for a person.
    Waits(Box<SessionRecovery>),
}

impl Mender {
    /// Returns when no recovery is under way, and none begins any more.
    pub(super) async fn stop(&self) {
        self.made.stopping.set(true);
        drop(self.made.turn.lock().await);
    }

    /// From here on nothing is read or written by a recovery, wherever it stands: as a crash would leave it.
    pub(super) fn shut(&self) {
        self.made.stopping.set(true);
        *self.made.closed.write() = true;
    }

    /// records.db is another one: what could not be put right may be now.
    pub(super) fn forget_tried(&self) {
        self.made.tried.lock().clear();
        self.made.missing.lock().clear();
    }

    /// Everything that was repaired since the start.
    pub(super) fn repairs(&self) -> Vec<Repair> {
        self.made.repairs.lock().clone()
    }

    /// Recovers a session that somebody met damaged. Only the first time since the start.
    pub(super) async fn met(self: &Arc<Self>, session: SessionId, damage: &[Damage]) -> Met {
        let waits = self.cases.see(session, Case::waits).unwrap_or_default();
        if waits || self.made.tried.lock().contains(&session) {
            return Met::AsBefore;
        }
        let cause = damage.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        match self.clone().recover(session, Why::Met(cause)).await {
            // Nothing: somebody else who met it was faster.
            Ok(Outcome::Waits(_)) => Met::AsBefore,
            Ok(_) => Met::LookedInto,
            Err(LogError::Corrupt(damage)) if is_of_the_file(&damage) => Met::File(damage),
            Err(error) => {
                tracing::error!(%session, %error, "damage could not be looked into");
                Met::AsBefore
            }
        }
    }

    /// As [`Mender::met`], of a session that was set aside since: what was tried before was about other damage.
    pub(super) async fn met_anew(self: &Arc<Self>, session: SessionId, damage: Damage) {
        self.made.tried.lock().remove(&session);
        self.met(session, &[damage]).await;
    }

    /// The record that refers to a blob which is not there; `None`: none does. A session is looked through for that once
    /// since the start: any caller may ask for a blob that never was.
    pub(super) async fn missing(self: &Arc<Self>, session: SessionId, blob: BlobId) -> Result<Option<Seq>, LogError> {
        let known = self.made.missing.lock().get(&session).cloned();
        let missing = match known {
            Some(missing) => missing,
            None => {
                let survey = self.off(move |mender| mender.read(|records| records.survey(session))).await;
                let missing = match survey {
                    Err(LogError::NotFound) => BTreeMap::new(),
                    survey => {
                        // Whoever asks found no file either.
                        let mut survey = survey?;
                        survey.miss_files(|_| false);
                        survey.missing
                    }
                };
                self.made.missing.lock().entry(session).or_insert_with(|| Arc::new(missing)).clone()
            }
        };
        Ok(missing.get(&blob).copied())
    }

    /// Records after `after` of a session that waits for a decision, from where they stand a second time: they are put back
    /// with the decision. Nothing: there are no more.
    pub(super) fn left(&self, session: SessionId, after: Seq, max_bytes: usize) -> Result<Bytes, LogError> {
        let Some(case) = self.cases.get(session).filter(Case::waits) else { return Ok(Bytes::new()) };
        let reaches = case.recovery.as_ref().map_or(Seq::ZERO, |recovery| recovery.reaches);
        if after >= reaches {
            return Ok(Bytes::new());
        }
        let known = self.made.left.lock().get(&session).cloned();
        let runs = match known {
            Some(runs) => runs,
            None => {
                let sight = self.while_open(|| self.look(session, &case))?;
                let runs = sight.into_iter().flat_map(|sight| sight.runs.into_iter().chain([sight.behind]));
                let runs = Arc::new(runs.map(|run| run.through(reaches.0)).collect::<Vec<_>>());
                let mut left = self.made.left.lock();
                let bytes = |runs: &Arc<Vec<Run>>| runs.iter().map(Run::len).sum::<usize>();
                if left.values().map(bytes).sum::<usize>() + bytes(&runs) > LEFT_BYTES {
                    left.clear();
                }
                left.entry(session).or_insert(runs).clone()
            }
        };
        Ok(runs.iter().find_map(|run| run.following(after, max_bytes)).unwrap_or_default())
    }

    /// Recovers a session. Whoever asks may stop waiting for it: what was begun goes on.
    pub(super) async fn recover(self: Arc<Self>, session: SessionId, why: Why) -> Result<Outcome, LogError> {
        let recovering = tokio::spawn(async move {
            let in_ram = match self.above.get() {
                Some(above) => above.rescue(session).await.unwrap_or_else(|error| {
                    tracing::warn!(%session, %error, "what is in RAM of a damaged session could not be saved");
                    None
                }),
                None => None,
            };
            self.settle().await?;
            self.attempt(session, why, in_ram).await
        });
        recovering.await.unwrap_or_else(|error| Err(LogError::Unknown(format!("recovering was interrupted: {error}"))))
    }

    /// What would be done about a session, and what is lost by it; `None`: nothing is wrong that is not known already.
    /// Changes nothing.
    pub(super) async fn plan(self: Arc<Self>, session: SessionId, accept_loss: bool) -> Result<Option<Plan>, LogError> {
        self.settle().await?;
        let _turn = self.made.turn.lock().await;
        self.look_for_copies().await;
        let policy = self.policy_of(accept_loss);
        self.off(move |mender| {
            let case = mender.cases.get(session).unwrap_or_default();
            let Some(sight) = mender.look(session, &case)? else { return Ok(None) };
            let plan = plan(&sight.seen, policy);
            Ok(Some(plan).filter(|plan| !plan.is_plain() || sight.is_aside))
        })
        .await
    }

    /// Somebody may have put a copy back, and asks for that reason.
    async fn look_for_copies(&self) {
        let Some(keeper) = self.keeper.clone() else { return };
        if let Ok(Err(error)) = self.workers.offload(move || keeper.look_again()).await {
            tracing::warn!(%error, "second copies that were put back are not seen");
        }
    }

    /// What is allowed of a session whose loss a person accepts, or does not.
    fn policy_of(&self, is_accepted: bool) -> Policy {
        Policy { accept_loss: is_accepted || self.policy.accept_loss, start_fresh: is_accepted }
    }

    /// Does what reads and writes, without holding up the async threads.
    async fn off<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let mender = self.clone();
        let done = self.workers.offload(move || mender.while_open(|| work(&mender))).await;
        done.unwrap_or_else(|error| Err(LogError::Unknown(format!("recovering: {error}"))))
    }

    /// Does it unless the store was closed; it is not closed meanwhile.
    pub(super) fn while_open<T>(&self, work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
        let closed = self.made.closed.read();
        if *closed { Err(closing()) } else { work() }
    }

    /// Until records.db has what is durable now: what is only on its way must not be taken for lost.
    async fn settle(&self) -> Result<(), LogError> {
        let position = self.journal.durable();
        let mut stumbles = self.progress.stumbles.subscribe();
        let before = stumbles.see();
        let applied = async {
            tokio::select! {
                biased;
                () = self.progress.applied(position) => {}
                // It will not come that far soon, and whoever waits may hear so.
                _ = stumbles.wait_for(|stumbles| stumbles >= before + STUMBLES) => {}
            }
        };
        match tokio::time::timeout(SETTLE, applied).await {
            Ok(()) if self.progress.records.get() >= position => Ok(()),
            _ => {
                let trouble = self.progress.trouble.lock().clone();
                let detail = trouble.unwrap_or_else(|| "records.db has not come that far yet".into());
                Err(LogError::Refused { kind: Refused::Busy, detail })
            }
        }
    }

    /// Looks, plans, and carries out what was planned, until it is done or waits for a person. `in_ram`: its state there.
    async fn attempt(
        self: &Arc<Self>,
        session: SessionId,
        why: Why,
        mut in_ram: Option<Checkpoint>,
    ) -> Result<Outcome, LogError> {
        let _turn = self.made.turn.lock().await;
        let mut case = self.cases.get(session).unwrap_or_default();
        case.settle(self.clock.now_ms());
        let mut accepted_by =
            case.recovery.as_ref().filter(|_| case.is_open()).and_then(|last| last.accepted_by.clone());
        if !matches!(why, Why::Met(_)) {
            self.look_for_copies().await;
        }
        match why {
            Why::Met(_) if case.waits() => {
                return Ok(case.recovery.map_or(Outcome::Nothing, |recovery| Outcome::Waits(Box::new(recovery))));
            }
            Why::Met(cause) => case.cause = cause,
            Why::Asked => case.attempts = 0,
            Why::Accepted(by) => {
                case.attempts = 0;
                accepted_by = Some(by);
            }
        }
        let (mut changed, mut stood) = (0, None);
        loop {
            if self.made.stopping.get() {
                return Err(closing());
            }
            let known = case.clone();
            let Some(sight) = self.off(move |mender| mender.look(session, &known)).await? else {
                return Ok(Outcome::Nothing);
            };
            let sight = Arc::new(sight);
            let plan = Arc::new(plan(&sight.seen, self.policy_of(accepted_by.is_some())));
            let is_interrupted = case.recovery.is_some() && case.is_open();
            if plan.is_plain() && !sight.is_aside && !is_interrupted {
                self.made.tried.lock().insert(session);
                return Ok(Outcome::Nothing);
            }
            let is_more = |state: &mut Checkpoint| {
                state.head.seq > plan.reaches || (state.head.seq == plan.reaches && !plan.loss.state.is_empty())
            };
            if let Some(state) = in_ram.take_if(is_more) {
                // More of it is in RAM than stands anywhere, or RAM alone tells that there was no more: nothing of its state has to
                // be lost.
                if sight.is_aside {
                    case.known_head = case.known_head.min(state.head.seq);
                    stood = Some(self.stand_by(session, state, &plan, &sight).await?);
                } else {
                    in_ram = Some(state);
                    self.set_aside(session, &plan);
                    self.settle().await?;
                }
                continue;
            }
            if plan.waits() {
                return self.wait_for_a_person(session, case, plan, sight).await;
            }
            if !plan.loss.state.is_empty() && !sight.is_aside {
                // Nothing may be added to what is about to be given up.
                self.set_aside(session, &plan);
                self.settle().await?;
                continue;
            }
            self.begin(session, &mut case, &plan, &sight, accepted_by.clone()).await?;
            if let Some(recovery) = &mut case.recovery {
                recovery.restored.extend(stood.take());
            }
            match self.carry_out(session, &mut case, &plan, &sight).await {
                Ok(recovery) => return Ok(Outcome::Recovered(Box::new(recovery))),
                Err(error) => {
                    case.end(Some(&error.to_string()), self.clock.now_ms());
                    match &error {
                        // Written in between: what was planned does not fit any more.
                        LogError::Refused { kind: Refused::Invalid, .. } if changed < TRIES => {
                            changed += 1;
                            case.attempts -= 1;
                        }
                        LogError::Corrupt(_) => {}
                        // Not the session: the disk, or the end. Later.
                        _ => {
                            case.attempts = case.attempts.saturating_sub(1);
                            self.keep(session, &case).await?;
                            return Err(error);
                        }
                    }
                    self.keep(session, &case).await?;
                }
            }
        }
    }

    async fn keep(self: &Arc<Self>, session: SessionId, case: &Case) -> Result<(), LogError> {
        let case = case.clone();
        self.off(move |mender| mender.put(session, &case)).await
    }

    fn put(&self, session: SessionId, case: &Case) -> Result<(), LogError> {
        self.cases.put(session, case).map_err(|error| unkept(&error))
    }

    /// Counts an attempt, durably, and names the recovery it belongs to.
    async fn begin(
        self: &Arc<Self>,
        session: SessionId,
        case: &mut Case,
        plan: &Arc<Plan>,
        sight: &Arc<Sight>,
        accepted_by: Option<String>,
    ) -> Result<(), LogError> {
        case.attempts += 1;
        let unfinished = case.recovery.take().filter(|last| !last.is_over());
        let mut recovery = unfinished.unwrap_or_else(|| self.fresh(session, case, plan));
        recovery.event = Ending::Unfinished;
        recovery.ended_at_ms = None;
        recovery.attempts += 1;
        // Of what an attempt gave up that was interrupted afterwards, the next one sees nothing any more.
        let is_rolled_back = recovery.steps.iter().any(|taken| {
            matches!(taken.step, Step::RollBack { .. } | Step::StartFresh)
                && taken.failed.is_none()
                && recovery.plan.reaches <= plan.reaches
        });
        if !is_rolled_back {
            recovery.lost = plan.loss.state.clone();
            recovery.data_loss_percent = plan.loss.percent;
            recovery.old_head = (!plan.loss.state.is_empty()).then(|| old_head(plan, sight));
            let given_up = match recovery.old_head {
                Some(_) => {
                    let (plan, sight) = (plan.clone(), sight.clone());
                    self.off(move |mender| Ok(given_up(session, &plan, &sight, &mender.beyond(session, plan.reaches)?)))
                        .await?
                }
                None => GivenUp::default(),
            };
            given_up.say_in(&mut recovery);
        }
        recovery.history_lost = plan.loss.history.clone();
        recovery.parts_lost.clone_from(&plan.loss.parts);
        recovery.plan = plan.as_ref().clone();
        recovery.accepted_by = accepted_by.or(recovery.accepted_by);
        if !plan.loss.state.is_empty() {
            // What follows takes away whatever else speaks of it.
            case.known_head = case.known_head.max(plan.known_head);
        }
        case.recovery = Some(recovery);
        case.is_noted = false;
        self.keep(session, case).await
    }

    fn fresh(&self, session: SessionId, case: &Case, plan: &Plan) -> SessionRecovery {
        let number = self.made.number.fetch_add(1, Ordering::Relaxed) + 1;
        SessionRecovery {
            id: format!("recovery-{}-{number}", self.incarnation),
            session,
            event: Ending::Unfinished,
            cause: case.cause.clone(),
            begun_at_ms: self.clock.now_ms(),
            ended_at_ms: None,
            took_ms: 0,
            attempts: 0,
            plan: plan.clone(),
            steps: Vec::new(),
            restored: Vec::new(),
            from: Seq::ZERO,
            records_replayed: 0,
            reaches: plan.reaches,
            lost: Ranges::default(),
            history_lost: Ranges::default(),
            parts_lost: Vec::new(),
            entities_lost: Vec::new(),
            effects_lost: Vec::new(),
            effects_left_out: 0,
            data_loss_percent: 0.0,
            integrity_score: None,
            validation: None,
            old_head: None,
            accepted_by: None,
        }
    }

    /// The steps of a plan in their order; those of one kind together, as one transaction of records.db.
    async fn carry_out(
        self: &Arc<Self>,
        session: SessionId,
        case: &mut Case,
        plan: &Arc<Plan>,
        sight: &Arc<Sight>,
    ) -> Result<SessionRecovery, LogError> {
        let began_ms = self.clock.monotonic_ms();
        let mut restored: Option<Arc<State>> = None;
        for steps in plan.steps.chunk_by(|one, other| stage(one) == stage(other)) {
            if self.made.stopping.get() {
                return Err(closing());
            }
            case.begin(steps, self.clock.now_ms());
            self.keep(session, case).await?;
            match steps.first() {
                Some(Step::Quarantine { .. }) => {
                    let (plan, sight) = (plan.clone(), sight.clone());
                    self.off(move |mender| mender.keep_bytes(session, &plan, &sight)).await?;
                }
                Some(Step::RepairRange { .. } | Step::RepairPart { .. }) => {
                    let repaired = self.repair(session, plan, sight).await?;
                    if let Some(recovery) = &mut case.recovery {
                        recovery.restored.extend(repaired);
                    }
                }
                Some(Step::RollBack { to }) => self.roll_back(session, *to).await?,
                Some(Step::StartFresh) => self.give_up(session).await?,
                Some(Step::LoadCheckpoint { seq }) => {
                    let from = *seq;
                    let folded = self.off(move |mender| mender.replay(session, from)).await;
                    if let (Err(LogError::Corrupt(_)), true) = (&folded, from > Seq::ZERO) {
                        case.distrusted.push(from);
                    }
                    let (state, replayed) = folded?;
                    if let Some(recovery) = &mut case.recovery {
                        (recovery.from, recovery.records_replayed) = (from, replayed);
                        recovery.reaches = state.head.seq;
                    }
                    restored = Some(Arc::new(state));
                }
                Some(Step::Validate) => {
                    let validation = match restored.clone() {
                        Some(state) => Some(self.off(move |_| Ok(validate(&state))).await?),
                        None => None,
                    };
                    if let Some(recovery) = &mut case.recovery {
                        recovery.integrity_score = validation.as_ref().map(|found| found.integrity_score);
                        recovery.validation = validation;
                    }
                }
                _ => {}
            }
            case.end(None, self.clock.now_ms());
        }
        self.finish(session, case, sight, self.clock.monotonic_ms().saturating_sub(began_ms)).await
    }

    /// Asks the applier for something, and waits until it was done.
    async fn ask(&self, ask: impl FnOnce(oneshot::Sender<Result<(), LogError>>) -> Ask) -> Result<(), LogError> {
        let (done, answer) = oneshot::channel();
        self.progress.ask(ask(done));
        self.progress.hurry();
        let mut stopping = self.made.stopping.subscribe();
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or_else(|_| Err(closing())),
            // It may be done all the same: every step may be done again.
            _ = stopping.wait_for(|stopping| stopping) => Err(closing()),
        }
    }

    pub(super) fn read<T>(
        &self,
        read: impl Fn(&RecordsReader<'_>) -> swarmkeep_sqlite::Result<T>,
    ) -> Result<T, LogError> {
        Ok(self.records.read_unhurried(|connection| read(&RecordsReader::new(connection)))?)
    }
}

/// What came of a look at a session that somebody met damaged.
pub(super) enum Met {
    /// It stays as it is.
    AsBefore,
    /// It is worth another look.
    LookedInto,
    /// It is records.db itself that cannot be read.
    File(Vec<Damage>),
}

fn closing() -> LogError {
    LogError::Refused { kind: Refused::Closing, detail: "the store is closing".into() }
}

/// Steps of one stage are carried out together.
fn stage(step: &Step) -> u8 {
    match step {
        Step::LoadCheckpoint { .. } | Step::Replay { .. } | Step::Verify => Step::Verify.order(),
        step => step.order(),
    }
}

pub(super) fn unkept(error: &std::io::Error) -> LogError {
    let kind = if disk::is_full(error) { Refused::DiskFull } else { Refused::Failed };
    LogError::Refused { kind, detail: format!("quarantine: {error}") }
}
