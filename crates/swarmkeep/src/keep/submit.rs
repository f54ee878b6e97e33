//! The way of a request: room, staged under the session's lock, sent, waited for, published.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use swarmkeep_core::{
    Actor, Error, ErrorKind, Refusal, RefusalCode, RequestId, Seq, SessionId, State,
    command::{Command, Outcome},
    limits,
    log::{Blob, Commit, Durability, Head, LogError, LogFuture, Position},
    record,
    requests::Done,
    session::{self as pure, Circumstances, Staged},
};

use super::{Engine, begin::pack_base, load::Look};
use crate::{
    damage,
    session::{Reply, Request},
    slot::{Live, Phase, Slot, Tail},
};

/// How often a request is decided again because the log ended elsewhere: about 10 s, with the pauses between.
const RESTAGED_MAX: u32 = 160;

/// How a request comes to a session that is not in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Behind those that came before it.
    InLine,
    /// It belongs to bringing the session there: whoever asks is the one that does that, and waits for nobody.
    Has,
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
    /// Back-pressure, before anything is staged.
    pub(crate) async fn wait_for_room(&self) -> Result<(), Error> {
        match self.log.room() {
            None => Ok(()),
            Some(room) => room.await.map_err(|error| self.said_by_log(error, SessionId::default())),
        }
    }

    pub(crate) async fn submit(self: &Arc<Self>, id: SessionId, request: Request) -> Result<Reply, Error> {
        self.carry_out(id, request, Turn::InLine).await
    }

    pub(super) async fn carry_out(
        self: &Arc<Self>,
        id: SessionId,
        request: Request,
        turn: Turn,
    ) -> Result<Reply, Error> {
        check_size(&request)?;
        self.look_before_writing(id).await?;
        let Request { id: request_id, actor, commands, expected_seq, durability, blobs, mut has_room, base } = request;
        let asked = pure::Request { id: request_id, actor, commands, expected_seq, blobs, base };
        let mut restaged = 0;
        loop {
            self.check_open()?;
            if !has_room {
                self.wait_for_room().await?;
                has_room = true;
            }
            let slot = self.residency.place(id);
            let step = |live: &mut Live| self.step(live, &asked, durability);
            let mut look = match turn == Turn::InLine && slot.has_line() {
                true => Look::Cold,
                false => self.look(&slot, step),
            };
            if matches!(look, Look::Cold) {
                if turn == Turn::Has {
                    return Err(moved_on());
                }
                let in_line = slot.stand_in_line();
                let having = self.load_in_turn(&slot).await?;
                look = self.look(&slot, step);
                drop((having, in_line));
            }
            let Look::Live(step) = look else { continue };
            let step = step?;
            match step {
                Step::Answered(reply) => return Ok(reply),
                Step::Sent { group, generation, outcomes, first, head } => {
                    let reply = Reply { first, head, outcomes, repeated: false, durability, position: Position(0) };
                    let mut settling = Settling {
                        engine: self.clone(),
                        slot: slot.clone(),
                        generation,
                        group: Some(group),
                        left: false,
                    };
                    let settled = if durability == Durability::Relaxed {
                        // What the log refuses at once is refused; else dropping it lets it go on by itself.
                        let Some(settled) = settling.settled_at_once() else { return Ok(reply) };
                        settled
                    } else {
                        settling.settle().await
                    };
                    match settled {
                        Ok(commit) => return Ok(Reply { position: commit.position, ..reply }),
                        // It was staged upon a group that the log did not take, or on a state without one that is still
                        // in flight. Nothing was written: it is decided again upon what is there.
                        Err(LogError::Conflict(_)) if turn == Turn::Has => return Err(moved_on()),
                        Err(LogError::Conflict(_)) if restaged < RESTAGED_MAX => {
                            has_room = false;
                            tokio::time::sleep(Duration::from_millis(1 << restaged.min(6))).await;
                            restaged += 1;
                        }
                        Err(LogError::Conflict(head)) => {
                            let message =
                                format!("the log ends at seq {}, which is not where its records lead yet", head.seq);
                            return Err(
                                Error::new(ErrorKind::Retry, message).hint("repeat it with the same request id")
                            );
                        }
                        Err(error) => return Err(self.said_by_log(error, id)),
                    }
                }
                Step::Repeated { done, durable_at } => {
                    let Some(published) = self.durable(&slot, durable_at).await? else { continue };
                    // A record that was removed has no hash any more; the answer is true up to here, too.
                    let head = match durable_at <= self.removed_through(id).seq {
                        true => published,
                        false => self.head_at(id, durable_at).await?,
                    };
                    return Ok(Reply {
                        first: done.first,
                        head,
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
                    return Ok(Reply {
                        first,
                        head,
                        outcomes,
                        repeated: false,
                        durability: Durability::Durable,
                        position,
                    });
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
                    return Ok(Step::Answered(Reply {
                        first,
                        head,
                        outcomes,
                        repeated,
                        durability: Durability::Durable,
                        position,
                    }));
                }
                Ok(Step::After { head, outcomes })
            }
        }
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

    /// Waits until a session is durable up to `seq`; `None` when what was staged is gone: look again.
    async fn durable(&self, slot: &Slot, seq: Seq) -> Result<Option<Head>, Error> {
        let Look::Live((head, mut heads)) = self.look(slot, |live| (live.published.head, live.heads())) else {
            return Ok(None);
        };
        if head.seq >= seq {
            return Ok(Some(head));
        }
        tokio::select! {
            biased;
            reached = heads.wait_for(|durable| durable >= seq) => Ok(reached.ok().map(|_| head)),
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
        slot.durable_seq.fetch_max(commit.head.seq.0, Ordering::AcqRel);
        let published = match &mut *slot.phase.lock() {
            Phase::Live(live) if live.generation == generation => {
                // Under the session's lock, as what came before and what comes after: clocks start and stop in the order of
                // the records.
                for body in live.commit(commit).iter().filter_map(|record| record.body.as_ref()) {
                    self.watch.note(slot.id, &body.event);
                    self.notice_event(slot.id, body, &live.published);
                }
                Some(live.checkpoint_due(self.clock.monotonic_ms()))
            }
            _ => None,
        };
        let Some(due) = published else {
            self.drop_outdated(slot.id, commit.head.seq);
            return;
        };
        self.incidents.writes_again(|| self.clock.now_ms());
        if due {
            // A full queue means the checkpoints are behind already; the next commit asks again.
            let _ = self.checkpoints.try_send(slot.id);
        }
    }

    /// A group became durable after its session had been dropped and perhaps read again, because another group failed: what
    /// was read without it is not the session any more.
    fn drop_outdated(&self, id: SessionId, durable: Seq) {
        let Some(slot) = self.residency.get(id) else { return };
        slot.durable_seq.fetch_max(durable.0, Ordering::AcqRel);
        let mut phase = slot.phase.lock();
        let outdated = match &*phase {
            Phase::Live(live) => live.published.head.seq < durable,
            Phase::Packed(packed) => packed.head.seq < durable,
            Phase::Cold | Phase::Evicted => false,
        };
        if outdated {
            *phase = Phase::Cold;
        }
    }

    /// A group failed: what was staged may or may not be there. The log knows; of a session that it has set aside RAM may know
    /// more.
    fn drop_staged(&self, slot: &Slot, generation: u64) {
        let is_aside = self.embedded.as_ref().is_some_and(|embedded| embedded.is_set_aside(slot.id));
        let mut phase = slot.phase.lock();
        if let Phase::Live(live) = &*phase
            && live.generation == generation
        {
            *phase = match is_aside {
                true => {
                    let published = State::clone(&live.published);
                    let next = self.next_generation();
                    Phase::Live(Box::new(Live::new(published, live.epoch, next, Tail::default())))
                }
                false => Phase::Cold,
            };
        }
    }

    /// One that waits for a decision takes nothing. Of one that was set aside, what is in RAM is saved before anything else.
    async fn look_before_writing(&self, id: SessionId) -> Result<(), Error> {
        if let Some(embedded) = self.embedded.as_ref().filter(|embedded| embedded.is_set_aside(id)) {
            embedded.look_into(id).await;
        }
        if let Some(error) = self.needs_decision(id) {
            return Err(error);
        }
        match self.embedded.as_ref().and_then(|embedded| embedded.aside(id)) {
            Some(damage) => Err(Error::new(ErrorKind::Retry, format!("{damage}: it is being looked at"))
                .hint("repeat it with the same request id")),
            None => Ok(()),
        }
    }
}

/// A group on its way. Waited for, or left to itself: either way it is published when it is durable.
struct Settling {
    engine: Arc<Engine>,
    slot: Arc<Slot>,
    generation: u64,
    group: Option<LogFuture<'static, Commit>>,
    /// It runs by itself already: dropped again, its runtime is ending, and a third life would end the same way at once.
    left: bool,
}

impl Settling {
    /// What it came to, if that is known without waiting.
    fn settled_at_once(&mut self) -> Option<Result<Commit, LogError>> {
        let settling = std::pin::pin!(self.settle());
        match settling.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(settled) => Some(settled),
            Poll::Pending => None,
        }
    }

    async fn settle(&mut self) -> Result<Commit, LogError> {
        let Some(group) = &mut self.group else { return Err(LogError::Unknown("settled already".into())) };
        let settled = group.await;
        self.group = None;
        match settled {
            Ok(commit) => {
                self.engine.publish(&self.slot, self.generation, &commit);
                Ok(commit)
            }
            Err(error) => {
                self.engine.drop_staged(&self.slot, self.generation);
                Err(error)
            }
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let Some(group) = self.group.take().filter(|_| !self.left) else { return };
        let mut rest = Settling {
            engine: self.engine.clone(),
            slot: self.slot.clone(),
            generation: self.generation,
            group: Some(group),
            left: true,
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { rest.settle().await.map(drop) })),
            // No runtime: the program is ending. The journal still finishes what it has.
            Err(_) => drop(rest),
        }
    }
}

/// What the session was when it was read is not what it is: whoever brings it into RAM reads it again.
fn moved_on() -> Error {
    Error::new(ErrorKind::Retry, "the session moved on while it was being read")
}

fn check_size(request: &Request) -> Result<(), Error> {
    if request.commands.len() > limits::COMMANDS_PER_REQUEST {
        let message =
            format!("{} commands in one request: at most {}", request.commands.len(), limits::COMMANDS_PER_REQUEST);
        return Err(Refusal::new(RefusalCode::Limit, message).into());
    }
    if let Some(blob) = request.blobs.iter().find(|blob| blob.bytes.len() > limits::BLOB_BYTES) {
        let message = format!("a blob of {} bytes: at most {}", blob.bytes.len(), limits::BLOB_BYTES);
        return Err(Refusal::new(RefusalCode::Limit, message).into());
    }
    Ok(())
}
