//! A session without I/O: requests in, staged groups out.
//!
//! [`Session`] holds the *staged* state: everything durable, and everything on its way. [`Session::stage`] decides a
//! request against it and moves it forward; what to do with the group is the caller's business:
//!
//! - committed: publish [`Group::state`], whose head says up to where;
//! - refused by the log, or unknown: [`Session::reset`] to the state that the log really ends with, after which the same
//!   request id finds out by itself whether it was carried out.
//!
//! A request is all or nothing: each command is decided against the state with the earlier ones applied, and the first
//! refusal leaves the session as it was.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::Serialize;

use crate::{
    command::{Command, Outcome},
    decide::{self, Ctx, lifecycle},
    error::{Refusal, RefusalCode},
    event::Event,
    id::{Actor, BlobId, Epoch, Hash, RequestId, Seq, SessionId, SessionName},
    limits,
    log::{self, Blob},
    record::{self, Answer, Body, Record, RecordError},
    requests::{Done, Lookup},
    state::{ApplyError, EffectStatus, Head, SessionMetadata, State},
};

/// What a caller asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Sent again, it is answered and not repeated.
    pub id: Option<RequestId>,
    /// Who asks.
    pub actor: Actor,
    /// What is asked for: at most [`limits::COMMANDS_PER_REQUEST`], all or nothing.
    pub commands: Vec<Command>,
    /// Only if the session is at this seq; else `conflict` with the current one.
    pub expected_seq: Option<Seq>,
    /// Content that the records introduce.
    pub blobs: Vec<Blob>,
    /// With [`Command::Rewind`]: the state that its blob holds.
    pub base: Option<State>,
}

impl Request {
    /// Commands, without an id or a condition.
    #[must_use]
    pub fn new(actor: Actor, commands: Vec<Command>) -> Self {
        Self { id: None, actor, commands, expected_seq: None, blobs: Vec::new(), base: None }
    }

    /// What two requests of one id must have in common: BLAKE3 over the commands' JSON and the blobs' ids.
    #[must_use]
    pub fn hash(&self) -> Hash {
        hash_of(&(&self.commands, self.blobs.iter().map(|blob| blob.id).collect::<Vec<_>>()))
    }
}

fn hash_of<T: Serialize>(value: &T) -> Hash {
    // Plain data with string keys always serialises.
    Hash(*blake3::hash(&serde_json::to_vec(value).unwrap_or_default()).as_bytes())
}

/// A session to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewSession {
    /// `namespace/name`.
    pub name: SessionName,
    /// The person or team it belongs to.
    pub owner: Option<String>,
    /// Where it came from.
    pub metadata: SessionMetadata,
    /// Expires this long after creation, absolutely.
    pub ttl_ms: Option<u64>,
    /// Expires after this long without a record.
    pub idle_ttl_ms: Option<u64>,
    /// Sent again, it is answered and not repeated.
    #[serde(skip)]
    pub request: Option<RequestId>,
}

impl NewSession {
    /// A session of this name, and nothing else.
    #[must_use]
    pub fn new(name: SessionName) -> Self {
        Self { name, owner: None, metadata: SessionMetadata::default(), ttl_ms: None, idle_ttl_ms: None, request: None }
    }

    /// What two creations under one request id must have in common: look it up in the existing session's
    /// [`crate::requests::Requests`].
    #[must_use]
    pub fn hash(&self) -> Hash {
        hash_of(self)
    }
}

/// A request's records, decided and encoded, not yet in the log.
#[derive(Debug, Clone)]
pub struct Group {
    /// For [`crate::log::Log::append`].
    pub log: log::Group,
    /// The same records, decoded, in order.
    pub records: Vec<Arc<Record>>,
    /// The session with this group in.
    pub state: State,
    /// One per command.
    pub outcomes: Vec<Outcome>,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub enum Staged {
    /// To be appended.
    Group(Box<Group>),
    /// It was carried out before: wait until the seq is durable, then answer with what was recorded.
    Repeated {
        /// The answer. In a fork it may speak of the original's seqs.
        done: Done,
        /// The seq of this session to wait for.
        durable_at: Seq,
    },
    /// Nothing to write. The answer depends on what may still be on its way: wait until the head it was decided against
    /// is durable.
    Nothing {
        /// One per command.
        outcomes: Vec<Outcome>,
        /// Where the staged log ended.
        head: Head,
    },
}

/// The circumstances of a write: whoever stages brings them in.
pub struct Circumstances<'a> {
    /// Under which grant.
    pub epoch: Epoch,
    /// Wall clock.
    pub now_ms: u64,
    /// Random salts, one per record.
    pub salts: &'a mut dyn FnMut() -> [u8; 16],
}

/// Of an answer that says `run`, when that was carried out or has come into doubt since: whoever is told so never runs it.
/// Whether anything changed.
fn run_no_more(state: &State, commands: &[Command], outcomes: &mut [Outcome]) -> bool {
    let mut changed = false;
    for (command, outcome) in commands.iter().zip(outcomes) {
        let (Command::BeginEffect(begin), Outcome::Run { attempt }) = (command, &*outcome) else { continue };
        let Some(effect) = state.effects.get(&begin.effect) else { continue };
        *outcome = match (effect.status, &effect.outcome) {
            (EffectStatus::Finished, Some(recorded)) => Outcome::Recorded { outcome: recorded.clone() },
            (EffectStatus::Begun, _) if effect.attempt == *attempt => continue,
            _ => Outcome::Unknown {
                reason: effect.reason.clone().unwrap_or_else(|| "this attempt is over: begin again".into()),
            },
        };
        changed = true;
    }
    changed
}

/// A session's staged state, and the way it moves.
#[derive(Debug, Clone, Default)]
pub struct Session {
    staged: State,
}

impl Session {
    /// Goes on from a state: where the log ends now.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { staged: state }
    }

    /// The staged state: what the next request is decided against.
    #[must_use]
    pub fn staged(&self) -> &State {
        &self.staged
    }

    /// Drops whatever was staged: the log ends with `state`.
    pub fn reset(&mut self, state: State) {
        self.staged = state;
    }

    /// Decides a request.
    ///
    /// # Errors
    /// A refusal: nothing is staged, the session is as it was. `conflict` carries the current seq.
    pub fn stage(&mut self, request: Request, circumstances: Circumstances<'_>) -> Result<Staged, Refusal> {
        let now_ms = circumstances.now_ms.max(self.staged.head.time_ms);
        // Only a request that can be repeated has to be compared.
        let request_hash = request.id.as_ref().map_or(Hash::default(), |_| request.hash());
        if let Some(mut done) = self.repeated(request.id.as_ref(), request_hash, now_ms)? {
            let mut outcomes = done.outcomes.to_vec();
            if run_no_more(&self.staged, &request.commands, &mut outcomes) {
                done.outcomes = outcomes.into();
                return Ok(Staged::Repeated { done, durable_at: self.staged.head.seq });
            }
            // What a fork inherited has higher seqs than the fork itself: it is as durable as the fork.
            let durable_at = done.last.min(self.staged.head.seq);
            return Ok(Staged::Repeated { done, durable_at });
        }
        let head = self.staged.head;
        if let Some(expected) = request.expected_seq
            && expected != head.seq
        {
            let message = format!("the session is at seq {}, not {expected}: read it again, then decide", head.seq);
            return Err(Refusal::conflict(message, head.seq.0));
        }
        if request.commands.len() > limits::COMMANDS_PER_REQUEST {
            let message =
                format!("{} commands, at most {} in one request", request.commands.len(), limits::COMMANDS_PER_REQUEST);
            return Err(Refusal::new(RefusalCode::Limit, message));
        }
        let mut draft = Draft::new(&self.staged, &request.actor, now_ms);
        for command in &request.commands {
            let ctx = Ctx { now_ms, actor: &request.actor, seq: draft.state.head.seq.next() };
            let (events, outcome) = decide::decide(&draft.state, command, &ctx)?;
            for event in events {
                draft.add(event, request.base.as_ref())?;
            }
            draft.outcomes.push(outcome);
        }
        if draft.events.is_empty() {
            return Ok(Staged::Nothing { outcomes: draft.outcomes, head });
        }
        // A later command of the request may have ended what an earlier one began.
        run_no_more(&draft.state, &request.commands, &mut draft.outcomes);
        self.finish(draft, request.id, request_hash, request.blobs, circumstances)
    }

    fn repeated(&self, id: Option<&RequestId>, hash: Hash, now_ms: u64) -> Result<Option<Done>, Refusal> {
        let Some(id) = id else { return Ok(None) };
        match self.staged.requests.lookup(id, hash, now_ms) {
            Lookup::New => Ok(None),
            Lookup::Done(done) => Ok(Some(done)),
            Lookup::TooOld => Err(Refusal::new(
                RefusalCode::RequestTooOld,
                format!(
                    "request `{id}` is older than what this session remembers of its client: it was not carried out by this call"
                ),
            )),
            Lookup::Mismatch => Err(Refusal::new(
                RefusalCode::RequestMismatch,
                format!("request id `{id}` was used with another body: use a new id for another request"),
            )),
            Lookup::Full => Err(too_many_clients()),
        }
    }

    /// Encodes a draft's events as a chain of records and moves the session forward.
    fn finish(
        &mut self,
        draft: Draft<'_>,
        id: Option<RequestId>,
        request_hash: Hash,
        blobs: Vec<Blob>,
        circumstances: Circumstances<'_>,
    ) -> Result<Staged, Refusal> {
        let Draft { mut state, actor, time_ms, events, outcomes } = draft;
        let after = self.staged.head;
        let session = state.info.id;
        let first = after.seq.next();
        let last = events.len().saturating_sub(1);
        let mut head = after;
        let mut bytes = Vec::with_capacity(events.len() * 512);
        let mut records = Vec::with_capacity(events.len());
        let limit = match events.iter().all(Event::tells_of_an_effect) {
            true => limits::STATE_BYTES + limits::STATE_BYTES_RESERVED,
            false => limits::STATE_BYTES,
        };
        for (nth, event) in events.into_iter().enumerate() {
            let answer =
                (nth == last && id.is_some()).then(|| Answer { first, request_hash, outcomes: outcomes.clone() });
            let body = Body { actor: actor.clone(), request: id.clone(), event, answer };
            let json = serde_json::to_vec(&body)
                .map_err(|error| Refusal::invalid(format!("the request cannot be written as JSON: {error}")))?;
            let previous = head.hash;
            head =
                record::encode(&mut bytes, session, head, circumstances.epoch, time_ms, (circumstances.salts)(), &json);
            records.push(Arc::new(Record {
                session,
                seq: head.seq,
                time_ms: head.time_ms,
                epoch: circumstances.epoch,
                hash: head.hash,
                previous,
                body: Some(body),
            }));
        }
        check_size(&bytes, &blobs)?;
        if let Some((id, answer)) = records
            .last()
            .and_then(|record| record.body.as_ref())
            .and_then(|body| Some((body.request.as_ref()?, body.answer.as_ref()?)))
        {
            state.requests.remember(id, answer, head.seq, head.time_ms);
        }
        state.head = head;
        // What a request leaves behind in memory of itself never hinders the ones that make room.
        let entities = |state: &State| state.weight() - state.requests.weight();
        let weight = state.weight();
        if weight > limit && entities(&state) > entities(&self.staged) {
            return Err(Refusal::new(
                RefusalCode::Limit,
                format!(
                    "the session's state would have {weight} bytes, at most {limit}: remove memory, or begin another session"
                ),
            ));
        }
        self.staged = state.clone();
        Ok(Staged::Group(Box::new(Group {
            log: log::Group {
                session,
                epoch: circumstances.epoch,
                after,
                head,
                count: u32::try_from(records.len()).unwrap_or(u32::MAX),
                records: Bytes::from(bytes),
                blobs,
            },
            records,
            state,
            outcomes,
        })))
    }
}

fn check_size(records: &[u8], blobs: &[Blob]) -> Result<(), Refusal> {
    if let Some(blob) = blobs.iter().find(|blob| blob.bytes.len() > limits::BLOB_BYTES) {
        let message = format!("blob {} has {} bytes, at most {}", blob.id, blob.bytes.len(), limits::BLOB_BYTES);
        return Err(Refusal::new(RefusalCode::Limit, message));
    }
    let inline: usize =
        blobs.iter().map(|blob| blob.bytes.len()).filter(|bytes| *bytes <= limits::BLOB_INLINE_BYTES).sum();
    let bytes = records.len() + inline;
    if bytes <= limits::GROUP_BYTES {
        return Ok(());
    }
    let message = format!(
        "the request takes {bytes} bytes with its inline blobs, at most {}: split it, or store large content as blobs of more than {} bytes",
        limits::GROUP_BYTES,
        limits::BLOB_INLINE_BYTES
    );
    Err(Refusal::new(RefusalCode::Limit, message))
}

/// Events on the way to a group. The draft's state has them applied, with heads counted on but not yet hashed.
struct Draft<'a> {
    state: State,
    actor: &'a Actor,
    time_ms: u64,
    events: Vec<Event>,
    outcomes: Vec<Outcome>,
}

impl<'a> Draft<'a> {
    fn new(state: &State, actor: &'a Actor, time_ms: u64) -> Self {
        Self { state: state.clone(), actor, time_ms, events: Vec::new(), outcomes: Vec::new() }
    }

    fn add(&mut self, event: Event, base: Option<&State>) -> Result<(), Refusal> {
        let session = match &event {
            Event::SessionCreated { name, .. } | Event::SessionForked { name, .. } => name.id(),
            _ => self.state.info.id,
        };
        let seq = self.state.head.seq.next();
        let applied = match base {
            Some(base) if matches!(event, Event::SessionForked { .. } | Event::SessionRewound { .. }) => {
                self.state.evolve_base(session, seq, self.time_ms, &event, base)
            }
            _ => self.state.evolve(session, seq, self.time_ms, self.actor, &event),
        };
        applied.map_err(|error| Refusal::invalid(format!("this request does not fit the session: {error}")))?;
        self.state.head.seq = seq;
        self.state.head.time_ms = self.time_ms;
        self.events.push(event);
        Ok(())
    }
}

/// The first group of a new session, and the session with it staged. Whether one exists already is the log's to say
/// (`Take::Create`).
///
/// # Errors
/// `invalid` or `limit` for what the caller brings along.
pub fn create(new: NewSession, actor: &Actor, circumstances: Circumstances<'_>) -> Result<(Session, Group), Refusal> {
    lifecycle::origin(new.owner.as_deref(), Some(&new.metadata))?;
    let hash = new.hash();
    let mut session = Session::default();
    let mut draft = Draft::new(&session.staged, actor, circumstances.now_ms);
    let event = Event::SessionCreated {
        name: new.name,
        owner: new.owner,
        metadata: new.metadata,
        ttl_ms: new.ttl_ms.filter(|ttl| *ttl > 0),
        idle_ttl_ms: new.idle_ttl_ms.filter(|ttl| *ttl > 0),
    };
    draft.add(event, None)?;
    draft.outcomes.push(Outcome::Done { id: None });
    first_group(&mut session, draft, new.request, hash, Vec::new(), circumstances).map(|group| (session, group))
}

/// The first group of a fork, and the fork with it staged.
///
/// `base` is [`crate::state::forked_base`] of the original's state at the seq to fork from; `blob` its canonical bytes as
/// they are stored. Metadata and times-to-live that `new` does not set are the original's.
///
/// # Errors
/// `invalid` or `limit` for what the caller brings along.
pub fn fork(
    new: NewSession,
    base: &State,
    blob: Blob,
    reason: Option<String>,
    at: Option<Seq>,
    actor: &Actor,
    circumstances: Circumstances<'_>,
) -> Result<(Session, Group), Refusal> {
    lifecycle::origin(new.owner.as_deref(), Some(&new.metadata))?;
    if base.head.seq == Seq::ZERO {
        return Err(Refusal::invalid("there is nothing to fork before the first record"));
    }
    let hash = fork_hash(&new, base.info.id, at);
    // The fork remembers the original's clients: one more must not push out one of them that may still repeat.
    if let Some(id) = &new.request
        && base.requests.lookup(id, hash, circumstances.now_ms) == Lookup::Full
    {
        return Err(too_many_clients());
    }
    let mut session = Session::default();
    let mut draft = Draft::new(&session.staged, actor, circumstances.now_ms);
    let event = Event::SessionForked {
        name: new.name,
        from: base.info.id,
        at: base.head.seq,
        at_hash: base.head.hash,
        base: blob.id,
        owner: new.owner,
        reason,
    };
    draft.add(event, Some(base))?;
    if new.metadata != SessionMetadata::default() || new.ttl_ms.is_some() || new.idle_ttl_ms.is_some() {
        let event = Event::SessionUpdated {
            owner: None,
            metadata: (new.metadata != SessionMetadata::default()).then_some(new.metadata),
            ttl_ms: new.ttl_ms,
            idle_ttl_ms: new.idle_ttl_ms,
        };
        draft.add(event, None)?;
    }
    draft.outcomes.push(Outcome::Done { id: None });
    first_group(&mut session, draft, new.request, hash, vec![blob], circumstances).map(|group| (session, group))
}

fn too_many_clients() -> Refusal {
    let message = format!(
        "{} clients count their requests in this session: use a free-form key, or a client id known here",
        limits::REQUEST_CLIENTS
    );
    Refusal::new(RefusalCode::Limit, message)
}

/// What two forks under one request id must have in common (see [`NewSession::hash`]).
#[must_use]
pub fn fork_hash(new: &NewSession, from: SessionId, at: Option<Seq>) -> Hash {
    hash_of(&(new, from, at))
}

fn first_group(
    session: &mut Session,
    draft: Draft<'_>,
    id: Option<RequestId>,
    hash: Hash,
    blobs: Vec<Blob>,
    circumstances: Circumstances<'_>,
) -> Result<Group, Refusal> {
    match session.finish(draft, id, hash, blobs, circumstances)? {
        Staged::Group(group) => Ok(*group),
        _ => Err(Refusal::invalid("a session begins with a record")),
    }
}

/// Why a fold stopped. The state holds every record before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// The bytes are not the record that comes next.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The record cannot be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The state that a fork or a rewind begins from cannot be read.
    #[error("record {seq} needs the state in blob {blob}: {error}")]
    Base {
        /// The record.
        seq: Seq,
        /// The blob.
        blob: BlobId,
        /// What is wrong with it.
        error: String,
    },
}

/// Folds records onto a state, each verified against the one before. `base` reads and decodes the state in a blob.
///
/// # Errors
/// The first record that does not follow, verify, decode or fit; the state then ends before it.
pub fn fold(
    state: &mut State,
    records: &[u8],
    base: &mut dyn FnMut(BlobId) -> Result<State, String>,
) -> Result<(), FoldError> {
    for view in record::iter(records) {
        let view = view?;
        let session = if state.head.seq == Seq::ZERO { view.session() } else { state.info.id };
        view.follows(session, state.head)?;
        fold_record(state, &view.decode()?, base)?;
    }
    Ok(())
}

/// Folds one decoded record onto a state (see [`fold`]); its own bytes were verified by whoever decoded it.
///
/// # Errors
/// As [`fold`].
pub fn fold_record(
    state: &mut State,
    record: &Record,
    base: &mut dyn FnMut(BlobId) -> Result<State, String>,
) -> Result<(), FoldError> {
    match state.apply(record) {
        Err(ApplyError::NeedsBase(blob)) => {
            let base = base(blob).map_err(|error| FoldError::Base { seq: record.seq, blob, error })?;
            Ok(state.apply_base(record, &base)?)
        }
        applied => Ok(applied?),
    }
}

/// States by the id of the blob they travel in: the simplest source of bases for [`fold`].
pub fn bases_in(known: &BTreeMap<BlobId, State>) -> impl FnMut(BlobId) -> Result<State, String> {
    |id| known.get(&id).cloned().ok_or_else(|| format!("no blob {id}"))
}
