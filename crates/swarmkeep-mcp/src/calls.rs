//! The ledger of one client's calls to one server: every request is settled exactly once, over all connections to it.
//!
//! | a call stands | which means | goes on to |
//! |---|---|---|
//! | accepted | it came, and nothing of it went out, from here | recording or sent, when the gate is open; recording at once, if an earlier daemon may have sent it; settled: held too long, cancelled, offline |
//! | recording | its effect is being begun in the session's log | ready |
//! | ready | recorded, and not sent on this connection | sent; settled |
//! | sent | at least its first byte may be out | answered; when the connection is lost: ready (if its class allows it to be sent again) or settled as unknown |
//! | settled | the client has one answer, or has cancelled | forgotten; an answer that comes all the same is recorded, and not delivered |
//!
//! Classes that are recorded ([`crate::class::Class::is_recorded`]) are begun durably before the first byte goes out, and
//! finished after. Each sending has an id of its own, which is never used again: whatever comes back late, twice, from an
//! earlier connection or with an id that nobody gave out changes nothing, and is counted.
//!
//! A call of a tool that a person has named for it waits longer, in order ([`Queue`]): offline does not settle it.
//!
//! Requests of the server to the client (sampling, elicitation, roots) go the other way ([`Calls::from_server`]): an
//! answer to one of an earlier connection is not sent to the present one, and the client is told to stop.

mod incoming;
mod queue;
pub(crate) mod settle;
#[cfg(test)]
mod tests;
mod unanswered;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmkeep::EntityId;

pub use self::{
    queue::Queue,
    settle::{CODE_EXPIRED, CODE_FULL, CODE_OFFLINE, CODE_UNKNOWN},
};
use crate::{
    class::{Asked, Catalogue, Class, NotAgain, Tool},
    envelope::{Edit, Envelope, compose},
    link::Generation,
};

/// A call, from 1, in the order in which they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub u64);

/// How long calls may take, and how many there may be. Each is a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The server's name, in what clients are told.
    #[serde(skip)]
    pub upstream: String,
    /// A call that cannot be sent is held so long.
    pub hold_ms: u64,
    /// A client that wants progress hears so often that its call is held.
    pub hold_progress_ms: u64,
    /// A call that was sent has so long for its answer; progress gives it as long again.
    pub call_ms: u64,
    /// But no longer than this in all.
    pub call_most_ms: u64,
    /// Calls under way at once.
    pub calls: usize,
    /// Calls that wait for their server.
    pub queue: Queue,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upstream: "upstream".to_owned(),
            hold_ms: 20_000,
            hold_progress_ms: 5_000,
            call_ms: 10 * 60_000,
            call_most_ms: 60 * 60_000,
            calls: 1_024,
            queue: Queue::default(),
        }
    }
}

/// What a call came to, for the session's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It was answered.
    Answered {
        /// With a result that is no error.
        ok: bool,
        /// The result or the error, as JSON text.
        body: Bytes,
    },
    /// It was not carried out, for certain.
    NotExecuted {
        /// Why.
        why: String,
    },
    /// Nobody knows.
    Unknown {
        /// Why.
        why: String,
    },
}

impl Ending {
    pub(crate) fn is_larger_than(&self, bytes: usize) -> bool {
        matches!(self, Self::Answered { body, .. } if body.len() > bytes)
    }
}

/// What came from a server and belongs to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stray {
    /// A second answer, or one to what is over.
    Over,
    /// An answer on another connection than the one on which was asked.
    OldGeneration,
    /// An answer with an id that nobody gave out.
    Foreign,
    /// Progress of what is over or was never asked for.
    Progress,
    /// An answer of the client to what the server does not ask any more.
    ClientLate,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Begin the effect in the session's log; then [`Calls::recorded`].
    Record(CallId),
    /// Send a call's line.
    Send {
        /// Which.
        call: CallId,
        /// Under which id the answer comes.
        wire: u64,
        /// On which connection.
        generation: Generation,
        /// The line.
        line: Bytes,
    },
    /// Send a line that is no call.
    Tell {
        /// On which connection.
        generation: Generation,
        /// The line.
        line: Bytes,
    },
    /// Give the client a line that answers no call.
    Deliver(Bytes),
    /// Give the client the answer to a call: the only one it gets.
    Answer {
        /// Which.
        call: CallId,
        /// The line.
        line: Bytes,
    },
    /// Record what the call came to. Once per call; twice if an answer came after it was settled as unknown.
    Finish {
        /// Which.
        call: CallId,
        /// What.
        ending: Ending,
    },
    /// Note it.
    Stray(Stray),
}

/// What there was to a call before this daemon.
#[derive(Debug, Clone, Copy, Default)]
pub struct Before {
    /// For how long it has waited in the queue.
    pub waited_ms: u64,
    /// An earlier daemon may have sent it: the session's log is asked, whether the server is there or not, before anybody is told
    /// that it was not carried out.
    pub may_be_sent: bool,
}

/// How a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the table above says what each is")]
pub enum Standing {
    Accepted,
    Recording,
    Ready,
    Sent,
}

#[derive(Debug, Clone)]
struct Call {
    message: Envelope,
    asked: Asked,
    /// Its key in the log, if it is to be recorded.
    effect: Option<EntityId>,
    /// What was known of the tool when the call came.
    known: Option<Tool>,
    standing: Standing,
    is_recorded: bool,
    wire: Option<(u64, Generation)>,
    /// It was sent on a connection that was lost.
    was_sent: bool,
    resent: u32,
    bounces: u32,
    accepted_ms: u64,
    sent_ms: u64,
    /// When it is settled without an answer.
    until_ms: u64,
    /// It waits in the queue up to then, for as long as it was never sent.
    queued_until_ms: Option<u64>,
    /// When the client hears that it is held.
    hold_progress_ms: Option<u64>,
    hold_progressed: u32,
    is_cancelled: bool,
    /// The client has its answer: what still comes is recorded only.
    is_settled: bool,
}

impl Call {
    /// It waits in the queue.
    fn is_queued(&self) -> bool {
        self.queued_until_ms.is_some()
            && !self.was_sent
            && matches!(self.standing, Standing::Accepted | Standing::Ready)
    }
}

/// A request of the server to the client.
#[derive(Debug, Clone)]
struct Ask {
    generation: Generation,
    /// The server's id for it, as JSON text.
    id: String,
}

/// The ledger.
#[derive(Debug)]
pub struct Calls {
    limits: Limits,
    next_call: u64,
    next_wire: u64,
    /// The connection on which calls may go now.
    passing: Option<Generation>,
    calls: BTreeMap<CallId, Box<Call>>,
    /// By the client's id, those that the client waits for.
    by_id: BTreeMap<String, CallId>,
    by_wire: BTreeMap<u64, CallId>,
    asks: BTreeMap<u64, Ask>,
    /// Tokens under which progress may still come after the answer (tasks), by the id they were sent under.
    tokens: BTreeMap<u64, (Generation, String)>,
    /// Calls that have effects wait, whether others pass or not.
    holds_effects: bool,
    /// Who is gone, so that nobody takes answers any more.
    gone: Option<&'static str>,
    strays: BTreeMap<Stray, u64>,
}

/// Ends the reason of a call that was begun, and nothing of it went out.
pub(crate) const BEFORE_SENT: &str = " before it was sent";
/// So often a call is sent anew after a server had not taken it.
const BOUNCES: u32 = 3;
/// Tokens kept for tasks; the oldest is dropped first.
const TOKENS: usize = 1_024;

/// The tool that a message calls.
fn tool_of(message: &Envelope) -> Option<&str> {
    message.name().filter(|_| message.method() == Some("tools/call"))
}

impl Calls {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            next_call: 1,
            next_wire: 1,
            passing: None,
            calls: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_wire: BTreeMap::new(),
            asks: BTreeMap::new(),
            tokens: BTreeMap::new(),
            holds_effects: false,
            gone: None,
            strays: BTreeMap::new(),
        }
    }

    /// Ids begin here, not with 1: those below were given out by somebody else.
    pub fn count_from(&mut self, first: u64) {
        self.next_wire = self.next_wire.max(first);
    }

    /// An id for a request of our own (handshake, probe, list of tools): never given to a call.
    pub fn own_id(&mut self) -> u64 {
        let id = self.next_wire;
        self.next_wire += 1;
        id
    }

    /// A client's request. `asked` is its class; `known` what is known of its tool.
    pub fn request(
        &mut self,
        now_ms: u64,
        message: Envelope,
        asked: Asked,
        known: Option<Tool>,
        before: Before,
        commands: &mut Vec<Command>,
    ) -> Option<CallId> {
        let id = message.id().unwrap_or("null").to_owned();
        if self.by_id.contains_key(&id) {
            commands.push(Command::Deliver(settle::duplicate(&id)));
            return None;
        }
        if self.calls.len() >= self.limits.calls {
            commands.push(Command::Deliver(settle::full(&message, self.limits.calls)));
            return None;
        }
        let queue = &self.limits.queue;
        let is_plain = !message.is_ambiguous() && !message.is_continuation();
        let is_queued = is_plain && tool_of(&message).is_some_and(|tool| queue.takes(tool));
        if is_queued && self.passing.is_none() && !self.has_queue_room(&message) {
            commands.push(Command::Deliver(settle::queue_full(&self.limits.upstream, &message, queue)));
            return None;
        }
        let queued_until_ms = is_queued.then(|| now_ms.saturating_add(queue.for_ms.saturating_sub(before.waited_ms)));
        let is_recorded = asked.class.is_recorded();
        let call = CallId(self.next_call);
        self.next_call += 1;
        let wants_progress = message.token().is_some();
        self.by_id.insert(id, call);
        self.calls.insert(
            call,
            Box::new(Call {
                message,
                asked,
                effect: None,
                known,
                standing: Standing::Accepted,
                is_recorded: false,
                wire: None,
                was_sent: false,
                resent: 0,
                bounces: 0,
                accepted_ms: now_ms,
                sent_ms: 0,
                until_ms: queued_until_ms.unwrap_or_else(|| now_ms.saturating_add(self.limits.hold_ms)),
                queued_until_ms,
                hold_progress_ms: wants_progress.then(|| now_ms.saturating_add(self.limits.hold_progress_ms)),
                hold_progressed: 0,
                is_cancelled: false,
                is_settled: false,
            }),
        );
        match self.passing {
            Some(_) if is_recorded && self.holds_effects => {}
            Some(generation) => self.forward(now_ms, call, generation, commands),
            None if before.may_be_sent && is_recorded => self.record(call, commands),
            None => {}
        }
        Some(call)
    }

    /// It is recorded under this key.
    pub fn goes_by(&mut self, id: CallId, effect: Option<EntityId>) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.effect = effect;
        }
    }

    /// More is known of its tool than when it came, and nothing was done about it yet.
    pub fn class_anew(&mut self, id: CallId, asked: Asked) {
        if let Some(call) = self.calls.get_mut(&id).filter(|call| call.standing == Standing::Accepted && !call.was_sent)
        {
            call.asked = asked;
        }
    }

    /// The call's effect is begun, durably, as this attempt.
    pub fn recorded(&mut self, now_ms: u64, id: CallId, attempt: u32, commands: &mut Vec<Command>) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.standing == Standing::Recording) else { return };
        (call.standing, call.is_recorded) = (Standing::Ready, true);
        // An earlier daemon began it, and may have sent it. What may be done once only is not begun again after that.
        call.was_sent |= attempt > 1 && call.asked.class != Class::AtMostOnce;
        let is_queued = call.queued_until_ms.is_some();
        if call.is_cancelled {
            let why = format!("{}{BEFORE_SENT}", self.gone.unwrap_or("the client cancelled it"));
            self.settle_unsent(id, &why, None, commands);
        }
        match self.passing {
            Some(generation) if is_queued => self.forward_queued(now_ms, generation, commands),
            Some(generation) => self.forward(now_ms, id, generation, commands),
            None => {}
        }
    }

    /// What was queued goes out in the order in which it came: what is recorded, up to the first that is not.
    fn forward_queued(&mut self, now_ms: u64, generation: Generation, commands: &mut Vec<Command>) {
        let waits = |call: &Call| matches!(call.standing, Standing::Accepted | Standing::Recording | Standing::Ready);
        let queued = self.calls.iter().filter(|(_, call)| call.queued_until_ms.is_some() && waits(call));
        let ready = queued.take_while(|(_, call)| call.standing == Standing::Ready);
        for id in ready.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.forward(now_ms, id, generation, commands);
        }
    }

    fn has_queue_room(&self, message: &Envelope) -> bool {
        let waiting = self.calls.values().filter(|call| call.is_queued());
        let (calls, bytes) = waiting
            .fold((0, message.bytes().len()), |(calls, bytes), call| (calls + 1, bytes + call.message.bytes().len()));
        calls < self.limits.queue.calls && bytes <= self.limits.queue.bytes
    }

    /// The call's effect could not be begun, or was begun before the program's last end and is in doubt: the client gets
    /// `line`, and nothing is sent.
    pub fn refused(&mut self, now_ms: u64, id: CallId, line: Bytes, commands: &mut Vec<Command>) {
        let Some(call) = self.remove(id) else { return };
        if !call.is_cancelled {
            commands.push(Command::Answer { call: id, line });
        }
        // Others may have waited for their turn after it.
        if let Some(generation) = self.passing {
            self.forward_queued(now_ms, generation, commands);
        }
    }

    /// A line that says that nobody knows what came of a call: for [`Calls::refused`].
    #[must_use]
    pub fn unknown_line(&self, id: CallId, why: &str) -> Option<Bytes> {
        let call = self.calls.get(&id)?;
        Some(settle::unknown(&self.limits.upstream, &call.message, call.asked.class, call.effect.as_ref(), why))
    }

    /// A line that says that a call was not carried out: for [`Calls::refused`].
    #[must_use]
    pub fn unsent_line(&self, id: CallId, why: &str) -> Option<Bytes> {
        Some(settle::not_sent(&self.limits.upstream, &self.calls.get(&id)?.message, why, 0))
    }

    /// A line that gives the client an answer that was recorded before: for [`Calls::refused`]. `body` is JSON text.
    #[must_use]
    pub fn recorded_line(&self, id: CallId, is_error: bool, body: &str) -> Option<Bytes> {
        let key = if is_error { "error" } else { "result" };
        let id = self.calls.get(&id)?.message.id().unwrap_or("null");
        Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"{key}":{body}}}"#).into())
    }

    /// Calls may go on this connection now. `catalogue` is what its server says of its tools.
    pub fn pass(
        &mut self,
        now_ms: u64,
        generation: Generation,
        catalogue: Option<&Catalogue>,
        commands: &mut Vec<Command>,
    ) {
        self.holds_effects = false;
        let is_new = self.passing.replace(generation) != Some(generation);
        let waiting: Vec<CallId> = self
            .calls
            .iter()
            .filter(|(_, call)| matches!(call.standing, Standing::Accepted | Standing::Ready))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            let Some(call) = self.calls.get(&id) else { continue };
            if call.was_sent {
                if let Err(why) = call.asked.may_be_resent(catalogue, call.resent) {
                    self.settle_unknown(
                        id,
                        &format!("the connection was lost, and it is not sent again: {why}"),
                        commands,
                    );
                    continue;
                }
            } else if is_new
                && let Some(name) = tool_of(&call.message)
                && let Err(why) = Asked::may_be_sent_late(name, call.known, catalogue)
            {
                self.settle_unsent(id, &format!("it was held, and is not sent: {why}"), Some(0), commands);
                continue;
            }
            if call.queued_until_ms.is_none() || call.standing == Standing::Accepted {
                self.forward(now_ms, id, generation, commands);
            }
        }
        self.forward_queued(now_ms, generation, commands);
    }

    /// What has an effect waits for the next [`Calls::pass`]; the rest goes on.
    pub fn hold_effects(&mut self) {
        self.holds_effects = true;
    }

    /// Calls may not go for now; they are held.
    pub fn block(&mut self) {
        self.passing = None;
    }

    /// Nobody can be reached for `retry_after_ms`: what is held is answered, but for what is queued.
    pub fn offline(&mut self, retry_after_ms: u64, commands: &mut Vec<Command>) {
        self.passing = None;
        let held: Vec<CallId> = self
            .calls
            .iter()
            .filter(|(_, call)| matches!(call.standing, Standing::Accepted | Standing::Ready) && !call.is_settled)
            .filter(|(_, call)| !call.is_queued())
            .map(|(id, _)| *id)
            .collect();
        for id in held {
            self.settle_held(id, Some(retry_after_ms), commands);
        }
    }

    /// The connection is lost: whatever was sent on it has no answer any more.
    pub fn lost(&mut self, now_ms: u64, generation: Generation, commands: &mut Vec<Command>) {
        if self.passing == Some(generation) {
            self.passing = None;
        }
        let sent: Vec<CallId> = self
            .calls
            .iter()
            .filter(|(_, call)| call.standing == Standing::Sent && call.wire.is_some_and(|(_, of)| of == generation))
            .map(|(id, _)| *id)
            .collect();
        for id in sent {
            self.lost_one(now_ms, id, commands);
        }
        self.tokens.retain(|_, (of, _)| *of != generation);
        let gone: Vec<u64> =
            self.asks.iter().filter(|(_, ask)| ask.generation == generation).map(|(id, _)| *id).collect();
        for id in gone {
            self.asks.remove(&id);
            let params = format!(r#"{{"requestId":{id},"reason":"the connection to the server was lost"}}"#);
            commands.push(Command::Deliver(compose::notification("notifications/cancelled", &params)));
        }
    }

    /// A sending has no answer and will have none, though the connection goes on.
    pub fn broken(&mut self, now_ms: u64, wire: u64, commands: &mut Vec<Command>) {
        if let Some(&id) = self.by_wire.get(&wire) {
            self.lost_one(now_ms, id, commands);
        }
    }

    fn lost_one(&mut self, now_ms: u64, id: CallId, commands: &mut Vec<Command>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.is_settled {
            self.remove(id);
            return;
        }
        if call.is_cancelled {
            let why = match self.gone {
                Some(gone) => format!("{gone} before an answer came"),
                None => "the client cancelled it, and the connection was lost before an answer came".to_owned(),
            };
            self.finish(id, Ending::Unknown { why }, commands);
            self.remove(id);
            return;
        }
        // What is certain now is said now; the rest waits for what the next connection's server says of its tools.
        let certain = match call.asked.class {
            Class::AtMostOnce => Some(NotAgain::AtMostOnce),
            _ if call.asked.has_cursor => Some(NotAgain::Cursor),
            _ if call.resent >= crate::class::RESENDS => Some(NotAgain::TooOften),
            _ => None,
        };
        if let Some(why) = certain {
            self.settle_unknown(id, &format!("the connection was lost, and it is not sent again: {why}"), commands);
            return;
        }
        if let Some((wire, _)) = call.wire.take() {
            self.by_wire.remove(&wire);
        }
        (call.standing, call.was_sent) = (Standing::Ready, true);
        call.until_ms = now_ms.saturating_add(self.limits.hold_ms);
        call.hold_progress_ms = call.message.token().map(|_| now_ms.saturating_add(self.limits.hold_progress_ms));
    }

    /// Not one byte of a sending went out, or the server said that it did not carry it out because it has forgotten the
    /// session: the call is as if it had not been sent.
    pub fn bounced(&mut self, now_ms: u64, wire: u64, commands: &mut Vec<Command>) {
        let Some(id) = self.by_wire.remove(&wire) else { return };
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.wire = None;
        call.standing = if call.is_recorded { Standing::Ready } else { Standing::Accepted };
        call.bounces += 1;
        call.until_ms = match call.queued_until_ms {
            Some(until_ms) if !call.was_sent => until_ms,
            _ => now_ms.saturating_add(self.limits.hold_ms),
        };
        if call.is_cancelled || call.is_settled {
            self.settle_unsent(id, "it was not sent", None, commands);
        } else if call.bounces > BOUNCES {
            self.settle_held(id, None, commands);
        }
    }

    /// When [`Calls::tick`] is due.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        let due = |call: &Call| match call.standing {
            Standing::Recording => None,
            Standing::Sent => Some(call.until_ms),
            Standing::Accepted | Standing::Ready => {
                Some(call.hold_progress_ms.map_or(call.until_ms, |at_ms| at_ms.min(call.until_ms)))
            }
        };
        self.calls.values().filter_map(|call| due(call)).min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64, retry_after_ms: Option<u64>, commands: &mut Vec<Command>) {
        let ids: Vec<CallId> = self.calls.keys().copied().collect();
        for id in ids {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            match call.standing {
                Standing::Recording => {}
                Standing::Sent if now_ms >= call.until_ms => self.timed_out(now_ms, id, commands),
                Standing::Sent => {}
                Standing::Accepted | Standing::Ready if now_ms >= call.until_ms => {
                    self.settle_held(id, retry_after_ms, commands);
                }
                Standing::Accepted | Standing::Ready => {
                    if call.hold_progress_ms.is_some_and(|at_ms| now_ms >= at_ms)
                        && let Some(token) = call.message.token()
                    {
                        call.hold_progressed += 1;
                        let state = match () {
                            () if call.was_sent => "sent once, to be sent again",
                            () if call.is_queued() => "queued, not sent yet",
                            () => "not sent yet",
                        };
                        let line = settle::held(&self.limits.upstream, token, call.hold_progressed, state);
                        call.hold_progress_ms = Some(now_ms.saturating_add(self.limits.hold_progress_ms));
                        commands.push(Command::Deliver(line));
                    }
                }
            }
        }
    }

    /// Nobody will take answers any more, as `gone` says: what was not sent is not sent any more. What was sent stays, so that its
    /// outcome is recorded.
    pub fn nobody_listens(&mut self, gone: &'static str, commands: &mut Vec<Command>) {
        self.gone = Some(gone);
        let ids: Vec<CallId> = self.calls.keys().copied().collect();
        for id in ids {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            call.is_cancelled = true;
            match call.standing {
                Standing::Sent | Standing::Recording => {}
                _ if call.was_sent => {
                    let why = format!("the connection was lost, and then {gone}");
                    self.finish(id, Ending::Unknown { why }, commands);
                    self.remove(id);
                }
                _ => self.settle_unsent(id, &format!("{gone}{BEFORE_SENT}"), None, commands),
            }
        }
        self.by_id.clear();
        self.asks.clear();
    }

    /// Calls that the server may be busy with: sent, and not answered, for as long as their deadline and as long again.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.by_wire.len()
    }

    /// How many calls are not over.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Calls that are not over.
    pub fn open(&self) -> impl Iterator<Item = (CallId, &Envelope, &Asked, Standing)> {
        self.calls.iter().map(|(id, call)| (*id, &call.message, &call.asked, call.standing))
    }

    /// Whether a call waits in the queue.
    #[must_use]
    pub fn is_queued(&self, id: CallId) -> bool {
        self.calls.get(&id).is_some_and(|call| call.is_queued())
    }

    /// For how much longer a call may wait in the queue.
    #[must_use]
    pub fn queue_left_ms(&self, id: CallId, now_ms: u64) -> Option<u64> {
        Some(self.calls.get(&id)?.queued_until_ms?.saturating_sub(now_ms))
    }

    /// The client has an answer to it, and may use its id again; what it comes to is asked for otherwise.
    pub fn detach(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id) else { return };
        let client_id = call.message.id().unwrap_or("null");
        // It may be another call's by now, if this one was cancelled or settled.
        if self.by_id.get(client_id) == Some(&id) {
            self.by_id.remove(client_id);
        }
    }

    /// Whether the client waits for a call that has this id, as JSON text.
    #[must_use]
    pub fn is_waited_for(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// A call that is not over: its message and its class.
    #[must_use]
    pub fn get(&self, id: CallId) -> Option<(&Envelope, &Asked)> {
        self.calls.get(&id).map(|call| (&call.message, &call.asked))
    }

    /// The call that was sent under this id: its message and its class.
    #[must_use]
    pub fn sent_as(&self, wire: u64) -> Option<(&Envelope, &Asked)> {
        self.by_wire.get(&wire).and_then(|id| self.get(*id))
    }

    /// Whether a call of a tool waits for a connection.
    #[must_use]
    pub fn has_tool_waiting(&self) -> bool {
        let waits = |call: &Call| matches!(call.standing, Standing::Accepted | Standing::Ready);
        self.calls.values().any(|call| waits(call) && tool_of(&call.message).is_some())
    }

    /// When a call came.
    #[must_use]
    pub fn accepted_ms(&self, id: CallId) -> Option<u64> {
        self.calls.get(&id).map(|call| call.accepted_ms)
    }

    /// What came and belonged to nothing, counted.
    #[must_use]
    pub fn strays(&self) -> &BTreeMap<Stray, u64> {
        &self.strays
    }

    fn stray(&mut self, stray: Stray, commands: &mut Vec<Command>) {
        *self.strays.entry(stray).or_default() += 1;
        commands.push(Command::Stray(stray));
    }

    fn record(&mut self, id: CallId, commands: &mut Vec<Command>) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.standing = Standing::Recording;
            commands.push(Command::Record(id));
        }
    }

    /// Records it, if it has to be and is not yet; else sends it.
    fn forward(&mut self, now_ms: u64, id: CallId, generation: Generation, commands: &mut Vec<Command>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.asked.class.is_recorded() && !call.is_recorded {
            return self.record(id, commands);
        }
        let wire = self.next_wire;
        self.next_wire += 1;
        call.standing = Standing::Sent;
        call.wire = Some((wire, generation));
        call.resent += u32::from(call.was_sent);
        call.sent_ms = now_ms;
        call.until_ms = if call.message.method() == Some("subscriptions/listen") {
            u64::MAX // Open for as long as the client listens.
        } else {
            now_ms.saturating_add(self.limits.call_ms)
        };
        self.by_wire.insert(wire, id);
        let name = wire.to_string();
        let token = call.message.token().map(|_| name.as_str());
        let line = Envelope::line(call.message.edited(Edit { id: Some(&name), token, ..Edit::default() }));
        commands.push(Command::Send { call: id, wire, generation, line });
    }

    fn remove(&mut self, id: CallId) -> Option<Box<Call>> {
        self.detach(id);
        let call = self.calls.remove(&id)?;
        if let Some((wire, _)) = call.wire {
            self.by_wire.remove(&wire);
        }
        Some(call)
    }

    fn finish(&self, id: CallId, ending: Ending, commands: &mut Vec<Command>) {
        if self.calls.get(&id).is_some_and(|call| call.is_recorded) {
            commands.push(Command::Finish { call: id, ending });
        }
    }
}
