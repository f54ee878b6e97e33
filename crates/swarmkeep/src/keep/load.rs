//! How a session comes into RAM, is made, and is written.

use std::{
    io::Read,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use swarmkeep_core::{
    Actor, BlobId, Epoch, Error, ErrorKind, Hash, Refusal, RefusalCode, RequestId, Seq, SessionId, State,
    checkpoint::Checkpoint,
    command::{Command, Outcome},
    limits,
    log::{Blob, Commit, Durability, Head, LogError, LogFuture, Observation, Position, Take},
    record,
    requests::{Done, Lookup},
    session::{self as pure, Circumstances, NewSession, Staged},
    state::{ApplyError, EffectStatus, SessionStatus, forked_base},
};

use super::{Engine, HOLDER};
use crate::{
    damage,
    session::{Reply, Request},
    slot::{Live, Phase, Slot, Tail},
};

/// Bytes read from the log at a time when a session comes back.
const READ_BYTES: usize = 1 << 20;
/// zstd level of a base state in a blob: it is written once and read rarely.
const BASE_LEVEL: i32 = 3;

/// What bringing a session back took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loaded {
    pub(crate) replayed: u64,
}

/// What a look at a slot found.
enum Look<R> {
    Live(R),
    Cold,
    Evicted,
}

/// What staging a request came to.
enum Step {
    /// The answer is there.
    Answered(Reply),
    /// A group is on its way.
    Sent { group: LogFuture<'static, Commit>, generation: u64, outcomes: Vec<Outcome>, first: Seq, head: Head },
    /// The answer is that of a group up to `last`, once that is durable.
    Repeated { done: Done, durable_at: Seq },
    /// Nothing has to be written, but what was seen is still in flight.
    After { head: Head, outcomes: Vec<Outcome> },
}

impl Engine {
    /// Looks at a slot; one that was shrunk is made whole again.
    fn look<R>(&self, slot: &Slot, see: impl FnOnce(&mut Live) -> R) -> Look<R> {
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
    pub(crate) async fn live<R>(self: &Arc<Self>, id: SessionId, mut see: impl FnMut(&mut Live) -> R) -> Result<R, Error> {
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
    pub(crate) async fn heads(self: &Arc<Self>, id: SessionId) -> Result<tokio::sync::watch::Receiver<Seq>, Error> {
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

    /// Brings a session into RAM: newest checkpoint, then the rest of the log, both verified.
    async fn load(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<(), Error> {
        let loading = slot.loading.lock().await;
        if !matches!(*slot.phase.lock(), Phase::Cold) {
            return Ok(());
        }
        self.check_open()?;
        let id = slot.id;
        let grant = match self.log.take(id, Take::Resume).await {
            Ok(grant) => grant,
            Err(error) => {
                self.residency.forget(slot);
                return Err(match error {
                    LogError::NotFound => Self::no_session(id),
                    other => damage::log(other),
                });
            }
        };
        let (state, loaded, tail_bytes) = self.fold(id, grant.head.seq).await?;
        if state.head.hash != grant.head.hash {
            return Err(Error::new(ErrorKind::Corrupt, format!("session {id}: the log's end is not where its records lead"))
                .hint("`swarmkeep verify` says what is damaged"));
        }
        let tail = Tail { bytes: tail_bytes, records: loaded.replayed, since_ms: self.clock.monotonic_ms() };
        let orphans = orphans(&state, self.instance.as_str());
        self.arrive(slot, state, grant.epoch, tail);
        drop(loading);
        if !orphans.is_empty() {
            // Begun by an earlier life of this very process: nobody will finish them.
            let request = Request::all(Actor::system(), orphans);
            if let Err(error) = Box::pin(self.submit(id, request)).await {
                tracing::warn!(session = %id, %error, "effects of an earlier life could not be marked yet");
            }
        }
        Ok(())
    }

    /// The state at `until`, from the newest checkpoint at or below it.
    pub(crate) async fn fold(&self, id: SessionId, until: Seq) -> Result<(State, Loaded, usize), Error> {
        let mut below = until;
        let state = loop {
            let Some(checkpoint) = self.log.load(id, below).await.map_err(damage::log)? else { break State::empty() };
            match checkpoint.state() {
                Ok(state) => break state,
                Err(error) => {
                    tracing::warn!(session = %id, error, "passing over a checkpoint");
                    if checkpoint.head.seq == Seq::ZERO {
                        break State::empty();
                    }
                    below = Seq(checkpoint.head.seq.0 - 1);
                }
            }
        };
        self.fold_from(id, state, until).await
    }

    /// The state at `until`, folded from `state` on.
    pub(crate) async fn fold_from(&self, id: SessionId, mut state: State, until: Seq) -> Result<(State, Loaded, usize), Error> {
        let mut loaded = Loaded::default();
        let mut tail_bytes = 0;
        while state.head.seq < until {
            let bytes = self.read_log(id, state.head.seq, READ_BYTES).await?;
            if bytes.is_empty() {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("session {id}: the log says it ends at seq {until}, but its records end at {}", state.head.seq),
                )
                .hint("`swarmkeep verify` says what is damaged"));
            }
            for view in record::iter(&bytes) {
                let view = view.map_err(damage::record)?;
                if view.seq() > until {
                    break;
                }
                let record = view.decode().map_err(damage::record)?;
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
        Ok((state, loaded, tail_bytes))
    }

    pub(crate) async fn state_at(self: &Arc<Self>, id: SessionId, seq: Seq) -> Result<State, Error> {
        let now = self.live(id, |live| live.published.clone()).await?;
        if seq == now.head.seq {
            return Ok(now);
        }
        if seq > now.head.seq || seq == Seq::ZERO {
            return Err(Refusal::not_found("record at seq", seq).into());
        }
        Ok(self.fold(id, seq).await?.0)
    }

    /// The state that a fork or a rewind carries with it.
    async fn base(&self, id: SessionId, blob: BlobId) -> Result<State, Error> {
        let packed = self.log.blob(id, blob).await.map_err(damage::log)?;
        unpack_base(&packed)
            .map_err(|error| Error::new(ErrorKind::Corrupt, format!("session {id}: the state it began with: {error}")))
    }

    pub(crate) async fn create(self: &Arc<Self>, new: NewSession, actor: &Actor) -> Result<(), Error> {
        let (id, hash, request) = (new.name.id(), new.hash(), new.request.clone());
        self.begin(id, request, hash, |circumstances| pure::create(new.clone(), actor, circumstances)).await
    }

    pub(crate) async fn fork(
        self: &Arc<Self>,
        from: SessionId,
        at: Option<Seq>,
        new: NewSession,
        reason: Option<String>,
        actor: &Actor,
    ) -> Result<(), Error> {
        let origin = match at {
            Some(seq) => self.state_at(from, seq).await?,
            None => self.live(from, |live| live.published.clone()).await?,
        };
        let (id, request) = (new.name.id(), new.request.clone());
        let hash = pure::fork_hash(&new, from, origin.head.seq);
        let base = forked_base(&origin);
        let blob = Blob::new(pack_base(&base)?);
        self.begin(id, request, hash, |circumstances| {
            pure::fork(new.clone(), &base, blob.clone(), reason.clone(), actor, circumstances)
        })
        .await?;
        // Its own full checkpoint: from here on it needs nothing of the original.
        self.checkpoint(id).await.map(drop)
    }

    /// Makes a session with its first group, unless the same request did so before.
    async fn begin(
        self: &Arc<Self>,
        id: SessionId,
        request: Option<RequestId>,
        hash: Hash,
        first: impl Fn(Circumstances<'_>) -> Result<(pure::Session, pure::Group), Refusal>,
    ) -> Result<(), Error> {
        loop {
            self.check_open()?;
            self.wait_for_room().await?;
            let slot = self.residency.place(id);
            let loading = slot.loading.lock().await;
            if matches!(*slot.phase.lock(), Phase::Evicted) {
                continue;
            }
            let there = !matches!(*slot.phase.lock(), Phase::Cold);
            let grant = if there { Err(LogError::Exists) } else { self.log.take(id, Take::Create).await };
            let grant = match grant {
                Ok(grant) => grant,
                Err(LogError::Exists) => {
                    drop(loading);
                    return self.made_before(id, request, hash).await;
                }
                Err(error) => {
                    self.residency.forget(&slot);
                    return Err(damage::log(error));
                }
            };
            let staged = first(Circumstances {
                epoch: grant.epoch,
                now_ms: self.clock.now_ms(),
                salts: &mut || self.salts.draw(),
            });
            let group = match staged {
                Ok((_, group)) => group,
                Err(refusal) => {
                    self.residency.forget(&slot);
                    return Err(refusal.into());
                }
            };
            if let Err(error) = self.log.append(group.log, Durability::Durable).await {
                self.residency.forget(&slot);
                return Err(damage::log(error));
            }
            let tail = Tail { bytes: 0, records: 1, since_ms: self.clock.monotonic_ms() };
            self.arrive(&slot, group.state, grant.epoch, tail);
            return Ok(());
        }
    }

    /// A session is in RAM from now on.
    fn arrive(self: &Arc<Self>, slot: &Slot, state: State, epoch: Epoch, tail: Tail) {
        self.watch.register(&state);
        let live = Live::new(state, epoch, self.next_generation(), tail);
        self.residency.came(live.weight());
        *slot.phase.lock() = Phase::Live(Box::new(live));
        if self.residency.is_tight() {
            self.sweep_soon();
        }
    }

    async fn made_before(self: &Arc<Self>, id: SessionId, request: Option<RequestId>, hash: Hash) -> Result<(), Error> {
        let now_ms = self.clock.now_ms();
        let lookup = match &request {
            None => Lookup::New,
            Some(request) => self.live(id, |live| live.published.requests.lookup(request, hash, now_ms)).await?,
        };
        match lookup {
            Lookup::Done(_) => Ok(()),
            _ => Err(damage::log(LogError::Exists)),
        }
    }

    /// Back-pressure, before anything is staged.
    async fn wait_for_room(&self) -> Result<(), Error> {
        match self.log.room() {
            None => Ok(()),
            Some(room) => room.await.map_err(damage::log),
        }
    }

    pub(crate) async fn submit(self: &Arc<Self>, id: SessionId, request: Request) -> Result<Reply, Error> {
        check_size(&request)?;
        let Request { id: request_id, actor, commands, expected_seq, durability, blobs, base } = request;
        let asked = pure::Request { id: request_id, actor, commands, expected_seq, blobs, base };
        loop {
            self.check_open()?;
            self.wait_for_room().await?;
            let slot = self.residency.place(id);
            let step = match self.look(&slot, |live| self.step(live, &asked, durability)) {
                Look::Live(step) => step?,
                Look::Cold => {
                    self.load(&slot).await?;
                    continue;
                }
                Look::Evicted => continue,
            };
            match step {
                Step::Answered(reply) => return Ok(reply),
                Step::Sent { group, generation, outcomes, first, head } => {
                    let reply = Reply { first, head, outcomes, repeated: false, durability, position: Position(0) };
                    let mut settling = Settling { engine: self.clone(), slot: slot.clone(), generation, group: Some(group) };
                    if durability == Durability::Relaxed {
                        // Dropping it lets it go on by itself.
                        return Ok(reply);
                    }
                    let commit = settling.settle().await?;
                    return Ok(Reply { position: commit.position, ..reply });
                }
                Step::Repeated { done, durable_at } => {
                    if self.durable(&slot, durable_at).await?.is_none() {
                        continue;
                    }
                    return Ok(Reply {
                        first: done.first,
                        head: self.head_at(id, durable_at).await?,
                        outcomes: done.outcomes.to_vec(),
                        repeated: true,
                        durability: Durability::Durable,
                        position: Position(0),
                    });
                }
                Step::After { head, outcomes } => {
                    if self.durable(&slot, head.seq).await?.is_none() {
                        continue;
                    }
                    let (first, position) = (Seq::ZERO, Position(0));
                    return Ok(Reply { first, head, outcomes, repeated: false, durability: Durability::Durable, position });
                }
            }
        }
    }

    /// Decides a request against the staged state and sends its group, all under the session's lock: groups leave in the
    /// order in which they were decided.
    fn step(&self, live: &mut Live, asked: &pure::Request, durability: Durability) -> Result<Step, Error> {
        let (epoch, now_ms) = (live.epoch, self.clock.now_ms());
        let circumstances = Circumstances { epoch, now_ms, salts: &mut || self.salts.draw() };
        match live.staging.stage(asked.clone(), circumstances)? {
            Staged::Group(staged) => {
                let pure::Group { log: group, records, state, outcomes } = *staged;
                let (first, head, bytes) = (group.after.seq.next(), group.head, group.records.len());
                let group = self.log.append(group, durability);
                live.sent(state, records, bytes);
                Ok(Step::Sent { group, generation: live.generation, outcomes, first, head })
            }
            Staged::Repeated { done, durable_at } => Ok(Step::Repeated { done, durable_at }),
            Staged::Nothing { outcomes, head } => {
                if head.seq == live.published.head.seq {
                    let (first, position, repeated) = (Seq::ZERO, Position(0), false);
                    return Ok(Step::Answered(Reply { first, head, outcomes, repeated, durability: Durability::Durable, position }));
                }
                Ok(Step::After { head, outcomes })
            }
        }
    }

    /// Waits until a session is durable up to `seq`; `None` when what was staged is gone: look again.
    async fn durable(&self, slot: &Slot, seq: Seq) -> Result<Option<Head>, Error> {
        let Look::Live((head, mut heads)) = self.look(slot, |live| (live.published.head, live.heads())) else {
            return Ok(None);
        };
        if head.seq >= seq {
            return Ok(Some(head));
        }
        tokio::select! {
            reached = heads.wait_for(|durable| *durable >= seq) => Ok(reached.ok().map(|_| head)),
            () = self.closing() => { self.check_open()?; Ok(None) }
        }
    }

    /// The head of a session when it ended at `seq`.
    async fn head_at(&self, id: SessionId, seq: Seq) -> Result<Head, Error> {
        let bytes = self.read_log(id, Seq(seq.0.saturating_sub(1)), 1).await?;
        match record::iter(&bytes).next() {
            Some(view) => {
                let view = view.map_err(damage::record)?;
                Ok(Head { seq: view.seq(), hash: view.hash(), time_ms: view.time_ms() })
            }
            None => Err(Error::new(ErrorKind::Corrupt, format!("session {id}: no record at seq {seq}"))),
        }
    }

    /// A group is durable: publish it, start the clocks it starts, see whether a checkpoint is due.
    fn publish(&self, slot: &Slot, generation: u64, commit: &Commit) {
        let (records, due) = {
            let mut phase = slot.phase.lock();
            let Phase::Live(live) = &mut *phase else { return };
            if live.generation != generation {
                return;
            }
            let records = live.commit(commit);
            (records, live.checkpoint_due(self.clock.monotonic_ms()))
        };
        for body in records.iter().filter_map(|record| record.body.as_ref()) {
            self.watch.note(slot.id, &body.event);
        }
        if due {
            // A full queue means the checkpoints are behind already; the next commit asks again.
            let _ = self.checkpoints.try_send(slot.id);
        }
    }

    /// A group failed: what was staged may or may not be there. The log knows.
    fn drop_staged(&self, slot: &Slot, generation: u64) {
        let mut phase = slot.phase.lock();
        if let Phase::Live(live) = &*phase
            && live.generation == generation
        {
            *phase = Phase::Cold;
        }
    }

    pub(crate) async fn checkpoint(self: &Arc<Self>, id: SessionId) -> Result<Head, Error> {
        let state = self.live(id, |live| live.published.clone()).await?;
        let head = state.head;
        let checkpoint = tokio::task::spawn_blocking(move || Checkpoint::of(&state))
            .await
            .map_err(|error| Error::new(ErrorKind::Unavailable, "encoding was interrupted").caused_by(error))?;
        self.log.save(id, checkpoint).await.map_err(damage::log)?;
        let now_ms = self.clock.monotonic_ms();
        if let Some(slot) = self.residency.get(id)
            && let Phase::Live(live) = &mut *slot.phase.lock()
        {
            let since = live.published.head.seq.0.saturating_sub(head.seq.0);
            let bytes = live.tail.bytes * usize::try_from(since).unwrap_or(0) / usize::try_from(live.tail.records.max(1)).unwrap_or(1);
            live.tail = Tail { bytes, records: since, since_ms: now_ms };
        }
        Ok(head)
    }

    pub(crate) async fn rewind(
        self: &Arc<Self>,
        id: SessionId,
        to: Seq,
        reason: Option<String>,
        request: Option<RequestId>,
        actor: Actor,
    ) -> Result<Reply, Error> {
        let base = self.state_at(id, to).await?;
        let blob = Blob::new(pack_base(&base)?);
        let command = Command::Rewind { to, base: blob.id, reason };
        let mut asked = Request { id: request, ..Request::of(actor, command) };
        asked.blobs.push(blob);
        asked.base = Some(base);
        self.submit(id, asked).await
    }

    pub(crate) async fn observe(self: &Arc<Self>, id: SessionId, mut observations: Vec<Observation>) -> Result<(), Error> {
        self.check_open()?;
        if observations.len() > limits::OBSERVATIONS_PER_REQUEST {
            let message = format!("at most {} observations in one request", limits::OBSERVATIONS_PER_REQUEST);
            return Err(Refusal::new(RefusalCode::Limit, message).into());
        }
        let state = self.live(id, |live| live.published.clone()).await?;
        let now_ms = self.clock.now_ms();
        for observation in &mut observations {
            let (Observation::Heartbeat { agent, at_ms } | Observation::Metric { agent, at_ms, .. }) = observation;
            if !state.agents.contains(agent) {
                return Err(Refusal::not_found("agent", agent).into());
            }
            if *at_ms == 0 {
                *at_ms = now_ms;
            }
        }
        for observation in &observations {
            if let Observation::Heartbeat { agent, .. } = observation {
                for task in state.tasks.iter() {
                    if let Some(lease) = task.lease.as_ref().filter(|lease| lease.agent_id == *agent) {
                        self.watch.renew_lease(id, &task.id, lease.number, lease.lease_ms);
                    }
                }
            }
        }
        self.log.observe(id, observations).await.map_err(damage::log)
    }

    pub(crate) async fn heartbeat_task(self: &Arc<Self>, id: SessionId, task: &swarmkeep_core::EntityId, lease: u64) -> Result<(), Error> {
        self.check_open()?;
        let state = self.live(id, |live| live.published.clone()).await?;
        let found = state.tasks.get(task).ok_or_else(|| Refusal::not_found("task", task))?;
        match &found.lease {
            Some(current) if current.number == lease => {
                self.watch.renew_lease(id, task, lease, current.lease_ms);
                self.log
                    .observe(id, vec![Observation::Heartbeat { agent: current.agent_id.clone(), at_ms: self.clock.now_ms() }])
                    .await
                    .map_err(damage::log)
            }
            _ => Err(Refusal::new(
                RefusalCode::LeaseLost,
                format!("lease {lease} of task `{task}` is over (it is {} now): stop working on it", found.status),
            )
            .into()),
        }
    }
}

/// A group on its way. Waited for, or left to itself: either way it is published when it is durable.
struct Settling {
    engine: Arc<Engine>,
    slot: Arc<Slot>,
    generation: u64,
    group: Option<LogFuture<'static, Commit>>,
}

impl Settling {
    async fn settle(&mut self) -> Result<Commit, Error> {
        let Some(group) = &mut self.group else { return Err(Error::new(ErrorKind::Unknown, "settled already")) };
        let settled = group.await;
        self.group = None;
        match settled {
            Ok(commit) => {
                self.engine.publish(&self.slot, self.generation, &commit);
                Ok(commit)
            }
            Err(error) => {
                self.engine.drop_staged(&self.slot, self.generation);
                Err(damage::log(error))
            }
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let Some(group) = self.group.take() else { return };
        let mut rest = Settling { engine: self.engine.clone(), slot: self.slot.clone(), generation: self.generation, group: Some(group) };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { rest.settle().await.map(drop) })),
            // No runtime: the program is ending. The journal still finishes what it has.
            Err(_) => rest.group = None,
        }
    }
}

fn check_size(request: &Request) -> Result<(), Error> {
    if request.commands.len() > limits::COMMANDS_PER_REQUEST {
        let message = format!("{} commands in one request: at most {}", request.commands.len(), limits::COMMANDS_PER_REQUEST);
        return Err(Refusal::new(RefusalCode::Limit, message).into());
    }
    if let Some(blob) = request.blobs.iter().find(|blob| blob.bytes.len() > limits::BLOB_BYTES) {
        let message = format!("a blob of {} bytes: at most {}", blob.bytes.len(), limits::BLOB_BYTES);
        return Err(Refusal::new(RefusalCode::Limit, message).into());
    }
    Ok(())
}

/// Effects begun by a process of which this one is the successor.
pub(super) fn orphans(state: &State, instance: &str) -> Vec<Command> {
    if !matches!(state.info.status, SessionStatus::Live | SessionStatus::Parked) {
        return Vec::new();
    }
    state
        .effects
        .iter()
        .filter(|effect| effect.status == EffectStatus::Begun)
        .filter(|effect| effect.instance.as_str().starts_with(HOLDER) && effect.instance.as_str() != instance)
        .take(limits::COMMANDS_PER_REQUEST)
        .map(|effect| Command::DoubtEffect {
            effect: effect.id.clone(),
            attempt: effect.attempt,
            reason: "the process that began it is gone".into(),
        })
        .collect()
}

fn unfit(error: ApplyError) -> Error {
    Error::new(ErrorKind::Corrupt, error.to_string()).hint("`swarmkeep verify` says what is damaged").caused_by(error)
}

fn pack_base(state: &State) -> Result<Bytes, Error> {
    zstd::bulk::compress(&state.canonical(), BASE_LEVEL)
        .map(Bytes::from)
        .map_err(|error| Error::new(ErrorKind::Unavailable, "the state could not be compressed").caused_by(error))
}

fn unpack_base(packed: &[u8]) -> Result<State, String> {
    let mut bytes = Vec::new();
    let limit = 2 * limits::STATE_BYTES as u64;
    zstd::stream::read::Decoder::new(packed)
        .and_then(|decoder| decoder.take(limit).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    State::from_canonical(&bytes)
}
