//! How a session comes into RAM: newest checkpoint, then the rest of the log, both verified.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use swarmkeep_core::{
    Actor, BlobId, EntityId, Epoch, Error, ErrorKind, Refusal, RefusalCode, Seq, SessionId, State,
    checkpoint::Checkpoint,
    command::Command,
    decide::{Gone, HOLDER, half_written},
    log::{Head, LogError, Take},
    record::{self, Record},
    state::{ApplyError, EffectStatus, SessionStatus},
};
use tokio::sync::MutexGuard;

use super::{Engine, submit::Turn};
use crate::{
    damage, embedded, level,
    planted::{self, Defect},
    session::Request,
    slot::{Live, Phase, Slot, Tail},
};

/// Bytes read from the log at a time when a session comes back.
const READ_BYTES: usize = 1 << 20;
/// How often a session is read again because what belongs to its loading was not taken: about a second, with the pauses
/// between.
const READ_AGAIN_MAX: u32 = 20;

/// What bringing a session back took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loaded {
    pub(crate) replayed: u64,
}

/// Who is shown the records that are folded.
pub(crate) type See<'a> = &'a mut (dyn FnMut(&Record) + Send);

/// What a look at a slot found.
pub(super) enum Look<R> {
    Live(R),
    Cold,
    Evicted,
}

impl Engine {
    /// Looks at a slot; one that was shrunk is made whole again.
    pub(super) fn look<R>(&self, slot: &Slot, see: impl FnOnce(&mut Live) -> R) -> Look<R> {
        slot.used_at_ms.store(self.clock.monotonic_ms(), Ordering::Relaxed);
        let mut phase = slot.phase.lock();
        if let Phase::Packed(packed) = &*phase {
            match State::from_canonical(&packed.canonical) {
                Ok(state) => {
                    let live = Live::new(state, packed.epoch, self.next_generation(), packed.tail);
                    *phase = Phase::Live(Box::new(live));
                }
                Err(error) => {
                    // These bytes were written by this process moments ago: RAM is failing, or there is a bug. The log knows.
                    tracing::error!(session = %slot.id, error, "a session's bytes in RAM do not decode; reading it again");
                    *phase = Phase::Cold;
                }
            }
        }
        match &mut *phase {
            Phase::Live(live) => Look::Live(see(live)),
            Phase::Cold | Phase::Packed(_) => Look::Cold,
            Phase::Evicted => Look::Evicted,
        }
    }

    /// Does something with a session in RAM, bringing it there first.
    pub(crate) async fn live<R>(
        self: &Arc<Self>,
        id: SessionId,
        mut see: impl FnMut(&mut Live) -> R,
    ) -> Result<R, Error> {
        loop {
            let slot = self.residency.place(id);
            match self.look(&slot, &mut see) {
                Look::Live(seen) => return Ok(seen),
                Look::Cold => self.load(&slot).await?,
                Look::Evicted => {}
            }
        }
    }

    /// The durable head of a session, from now on.
    pub(crate) async fn heads(self: &Arc<Self>, id: SessionId) -> Result<level::Receiver<Seq>, Error> {
        self.check_open()?;
        self.live(id, Live::heads).await
    }

    pub(crate) async fn canonical(self: &Arc<Self>, id: SessionId) -> Result<(Head, Bytes), Error> {
        // A shrunk session stays so: its bytes are what is asked for.
        if let Some(slot) = self.residency.get(id)
            && let Phase::Packed(packed) = &*slot.phase.lock()
        {
            slot.used_at_ms.store(self.clock.monotonic_ms(), Ordering::Relaxed);
            return Ok((packed.head, packed.canonical.clone()));
        }
        self.live(id, Live::canonical).await
    }

    /// Brings a session into RAM, and closes what was left half-written in it.
    pub(super) async fn load(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<(), Error> {
        self.load_in_turn(slot).await.map(drop)
    }

    /// [`Engine::load`]. Whoever asked first has what it gives first, and nobody else until it is dropped.
    pub(super) async fn load_in_turn<'a>(self: &Arc<Self>, slot: &'a Arc<Slot>) -> Result<MutexGuard<'a, ()>, Error> {
        let turn = slot.loading.lock().await;
        let mut tries = 0;
        // Who reads it does not wait for a disk that takes no writes: what could not be closed or noted is the next one's.
        let mut takes_writes = true;
        loop {
            if !matches!(*slot.phase.lock(), Phase::Cold) {
                return Ok(turn);
            }
            self.check_open()?;
            let Some(left_open) = self.bring(slot).await? else { return Ok(turn) };
            if !takes_writes {
                return Ok(turn);
            }
            // In this turn: requests that came meanwhile are staged after it, in the order in which they came.
            self.note_recovery(slot.id, Turn::Has).await;
            let closed = self.close_left_open(slot, left_open).await;
            if let Err(error) = &closed {
                tracing::warn!(
                    session = %slot.id, %error, "what an earlier life left half-written could not be closed yet"
                );
            }
            if !matches!(*slot.phase.lock(), Phase::Cold) {
                return Ok(turn);
            }
            // Something was staged upon what the log did not take: read again, and asked for again.
            takes_writes = tries < READ_AGAIN_MAX && closed.err().is_none_or(|error| error.kind == ErrorKind::Retry);
            tokio::time::sleep(Duration::from_millis(1 << tries.min(6))).await;
            tries += 1;
        }
    }

    /// Brings a session into RAM: newest checkpoint, then the rest of the log, both verified. Gives what was left half-written
    /// in it; `None`: this is what is left of a damaged one.
    async fn bring(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Option<Option<Command>>, Error> {
        let id = slot.id;
        let grant = match self.log.take(id, Take::Resume).await {
            Ok(grant) => grant,
            Err(error) => {
                let error = match error {
                    LogError::NotFound => Self::no_session(id),
                    other => self.said_by_log(other, id),
                };
                return self.load_what_is_left(slot, error).await.map(|()| None);
            }
        };
        let (state, loaded, tail_bytes) = match self.fold(id, grant.head.seq).await {
            Ok(folded) => folded,
            Err(error) => {
                self.notice_error(id, &error);
                // Met just now, and looked into: whoever met it reads what is left, as everybody after does.
                return self.load_what_is_left(slot, error).await.map(|()| None);
            }
        };
        if state.head.hash != grant.head.hash {
            let message = format!("session {id}: the log's end is not where its records lead");
            let error = Error::new(ErrorKind::Corrupt, message).hint("`swarmkeep verify` says what is damaged");
            self.notice_error(id, &error);
            return Err(error);
        }
        let tail = Tail { bytes: tail_bytes, records: loaded.replayed, since_ms: self.clock.monotonic_ms() };
        let left_open = self.left_open(&state);
        self.arrive(slot, state, grant.epoch, tail);
        if let Some(embedded) = &self.embedded {
            embedded.is_read(id);
        }
        Ok(Some(left_open))
    }

    /// Closes what an earlier life left half-written. The caller has the turn.
    async fn close_left_open(self: &Arc<Self>, slot: &Slot, mut left_open: Option<Command>) -> Result<(), Error> {
        while let Some(interrupt) = left_open {
            Box::pin(self.carry_out(slot.id, Request::of(Actor::system(), interrupt), Turn::Has)).await?;
            left_open = match self.look(slot, |live| live.published.clone()) {
                Look::Live(state) => self.left_open(&state),
                Look::Cold | Look::Evicted => None,
            };
        }
        Ok(())
    }

    /// What has to be asked for to close what was left half-written, if anything was: by an earlier life of this very
    /// process, whenever the session is read; by others, while the store comes back.
    pub(super) fn left_open(&self, state: &State) -> Option<Command> {
        if !matches!(state.info.status, SessionStatus::Live | SessionStatus::Parked) {
            return None;
        }
        let is_orphan = |instance: &EntityId| instance.as_str().starts_with(HOLDER) && *instance != self.instance;
        let open = state.effects.iter().filter(|effect| effect.status == EffectStatus::Begun);
        let instances: BTreeSet<EntityId> =
            open.map(|effect| &effect.instance).filter(|instance| is_orphan(instance)).cloned().collect();
        let instances: Vec<EntityId> = instances.into_iter().collect();
        let at_start = !self.ready.get();
        let is_open = half_written(state, Gone { instances: &instances, at_start }).next().is_some();
        is_open.then_some(Command::InterruptTurns { instances, at_start })
    }

    /// A session is in RAM from now on; unless a group that was still in flight when it was read has become durable since:
    /// then it is read again.
    pub(super) fn arrive(self: &Arc<Self>, slot: &Slot, state: State, epoch: Epoch, tail: Tail) {
        self.watch.register(&state);
        let seq = state.head.seq.0;
        let live = Live::new(state, epoch, self.next_generation(), tail);
        let weight = live.weight();
        {
            let mut phase = slot.phase.lock();
            if slot.durable_seq.load(Ordering::Acquire) > seq {
                return;
            }
            *phase = Phase::Live(Box::new(live));
        }
        self.residency.came(slot.id, weight);
        if self.residency.is_tight() {
            self.sweep_soon();
        }
    }

    /// The state at `until`, from the newest checkpoint at or below it.
    pub(crate) async fn fold(&self, id: SessionId, until: Seq) -> Result<(State, Loaded, usize), Error> {
        let state = self.newest_checkpoint(id, until).await?;
        self.fold_from(id, state, until).await
    }

    /// The state that the newest checkpoint at or below `until` has; without one, the state before the first record.
    async fn newest_checkpoint(&self, id: SessionId, until: Seq) -> Result<State, Error> {
        let mut below = until;
        loop {
            let Some(checkpoint) = self.log.load(id, below).await.map_err(damage::log)? else {
                return Ok(State::empty());
            };
            match checkpoint.state() {
                Ok(mut state) => {
                    if planted::is(Defect::DedupeForgotten) {
                        state.requests = Default::default();
                    }
                    return Ok(state);
                }
                Err(error) => {
                    self.notice_checkpoint(id, checkpoint.head.seq, &error);
                    if checkpoint.head.seq == Seq::ZERO {
                        return Ok(State::empty());
                    }
                    below = Seq(checkpoint.head.seq.0 - 1);
                }
            }
        }
    }

    /// The state as near below `until` as it can be had, and why it is not had at `until`.
    pub(super) async fn fold_as_far_as_it_goes(
        &self,
        id: SessionId,
        until: Seq,
    ) -> Result<(State, Option<Error>), Error> {
        let mut state = self.newest_checkpoint(id, until).await?;
        let why = self.fold_on(id, &mut state, until, &mut |_| {}).await.err();
        Ok((state, why))
    }

    /// The state at `until`, folded from `state` on.
    async fn fold_from(&self, id: SessionId, state: State, until: Seq) -> Result<(State, Loaded, usize), Error> {
        self.fold_seeing(id, state, until, &mut |_| {}).await
    }

    /// [`Engine::fold_from`], and every record on the way is shown.
    pub(crate) async fn fold_seeing(
        &self,
        id: SessionId,
        mut state: State,
        until: Seq,
        see: See<'_>,
    ) -> Result<(State, Loaded, usize), Error> {
        let (loaded, tail_bytes) = self.fold_on(id, &mut state, until, see).await?;
        Ok((state, loaded, tail_bytes))
    }

    /// Folds on to `until`. After an error the state is at the last record that could be had.
    async fn fold_on(
        &self,
        id: SessionId,
        state: &mut State,
        until: Seq,
        see: See<'_>,
    ) -> Result<(Loaded, usize), Error> {
        let mut loaded = Loaded::default();
        let mut tail_bytes = 0;
        while state.head.seq < until {
            let bytes = self.read_up_to_damage(id, state.head.seq, READ_BYTES).await?;
            if bytes.is_empty() {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "session {id}: the log says it ends at seq {until}, but its records end at {}",
                        state.head.seq
                    ),
                )
                .hint("`swarmkeep verify` says what is damaged"));
            }
            for view in record::iter(&bytes) {
                let view = view.map_err(damage::record)?;
                if view.seq() > until {
                    break;
                }
                let record = view.decode().map_err(damage::record)?;
                see(&record);
                loaded.replayed += 1;
                tail_bytes += view.bytes().len();
                match state.apply(&record) {
                    Ok(()) => {}
                    Err(ApplyError::NeedsBase(base)) => {
                        let base = self.base(id, base).await?;
                        state.apply_base(&record, &base).map_err(unfit)?;
                    }
                    Err(error) => return Err(unfit(error)),
                }
            }
        }
        Ok((loaded, tail_bytes))
    }

    pub(crate) async fn state_at(self: &Arc<Self>, id: SessionId, seq: Seq) -> Result<State, Error> {
        let now = self.live(id, |live| live.published.clone()).await?;
        if seq == now.head.seq {
            return Ok(now);
        }
        if seq > now.head.seq || seq == Seq::ZERO {
            return Err(Refusal::not_found("record at seq", seq).into());
        }
        let removed = self.removed_through(id).seq;
        if removed > Seq::ZERO && self.log.load(id, seq).await.map_err(damage::log)?.is_none() {
            return Err(were_removed(removed));
        }
        Ok(self.fold(id, seq).await?.0)
    }

    /// The last record of a session that was removed below a checkpoint, which is no damage; seq 0: none was.
    pub(crate) fn removed_through(&self, id: SessionId) -> Head {
        // What is wrong with the session is said, and looked into, by whoever reads its records.
        self.embedded.as_ref().and_then(|embedded| embedded.base(id).ok()).unwrap_or_default()
    }

    /// The state that a fork or a rewind carries with it.
    async fn base(&self, id: SessionId, blob: BlobId) -> Result<State, Error> {
        let packed = match self.log.blob(id, blob).await {
            Err(LogError::NotFound) => {
                let message = format!("session {id}: the state it began with is not there: blob {blob}");
                return Err(Error::new(ErrorKind::Corrupt, message).hint("`swarmkeep verify` says what is damaged"));
            }
            packed => packed.map_err(damage::log)?,
        };
        embedded::unpack_base(&packed)
            .map_err(|error| Error::new(ErrorKind::Corrupt, format!("session {id}: the state it began with: {error}")))
    }

    pub(crate) async fn checkpoint(self: &Arc<Self>, id: SessionId) -> Result<Head, Error> {
        if let Some(error) = self.needs_decision(id) {
            return Err(error);
        }
        let checkpoint = self.encode(id).await?;
        self.save(checkpoint).await
    }

    /// The durable state, as a checkpoint has it. Encoded off the async threads.
    pub(super) async fn encode(self: &Arc<Self>, id: SessionId) -> Result<Checkpoint, Error> {
        let state = self.live(id, |live| live.published.clone()).await?;
        self.workers()
            .offload(move || Checkpoint::of(&state))
            .await
            .map_err(|error| Error::new(ErrorKind::Unavailable, "encoding was interrupted").caused_by(error))
    }

    /// Keeps a checkpoint; the tail counts from it.
    pub(super) async fn save(&self, checkpoint: Checkpoint) -> Result<Head, Error> {
        let (id, head) = (checkpoint.session, checkpoint.head);
        self.log.save(id, checkpoint).await.map_err(damage::log)?;
        let now_ms = self.clock.monotonic_ms();
        if let Some(slot) = self.residency.get(id)
            && let Phase::Live(live) = &mut *slot.phase.lock()
        {
            let since = live.published.head.seq.0.saturating_sub(head.seq.0);
            let bytes = live.tail.bytes * usize::try_from(since).unwrap_or(0)
                / usize::try_from(live.tail.records.max(1)).unwrap_or(1);
            live.tail = Tail { bytes, records: since, since_ms: now_ms };
        }
        Ok(head)
    }
}

/// The refusal of what needs records that were removed.
fn were_removed(through: Seq) -> Error {
    let message =
        format!("the records up to seq {through} were removed, and no checkpoint stands at or below what is asked for");
    Error::from(Refusal::new(RefusalCode::NotFound, message))
}

fn unfit(error: ApplyError) -> Error {
    Error::new(ErrorKind::Corrupt, error.to_string()).hint("`swarmkeep verify` says what is damaged").caused_by(error)
}
