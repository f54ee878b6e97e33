//! [`Session`]: one swarm's log, and everything derived from it.

mod connection;
mod verbs;

pub use self::{
    connection::{Breach, Lost},
    verbs::Claim,
};

use std::sync::Arc;

use bytes::Bytes;
use swarmkeep_core::{
    Actor, BlobId, EntityId, Error, Record, RequestId, Seq, SessionId, SessionName, State,
    command::{Command, Outcome},
    diff::Diff,
    log::{Blob, Durability, Head, Observation, Position},
    record,
    session::NewSession,
};

use crate::{
    damage,
    effect::EffectCall,
    feed::{Feed, From},
    keep::Engine,
};

/// A session: one swarm's whole state, one log. A handle; cheap to clone, and holding one keeps nothing in RAM.
#[derive(Clone)]
pub struct Session {
    pub(crate) engine: Arc<Engine>,
    name: SessionName,
    id: SessionId,
}

/// Something asked of a session: its commands are one group, all or nothing.
#[derive(Debug, Clone)]
pub struct Request {
    /// The same id again gets the same answer and does nothing twice. Without one, a lost answer cannot be asked for again.
    pub id: Option<RequestId>,
    /// Who asks.
    pub actor: Actor,
    /// What is asked; at most [`swarmkeep_core::limits::COMMANDS_PER_REQUEST`].
    pub commands: Vec<Command>,
    /// Only if the session ends at this seq now.
    pub expected_seq: Option<Seq>,
    /// How sure the acknowledgement has to be.
    pub durability: Durability,
    /// Content that the commands refer to.
    pub blobs: Vec<Blob>,
    /// The caller awaited [`Session::room`]: the request does not wait for room again, so that requests that are polled in
    /// an order are decided in it. Too much waiting all the same is answered `retry`.
    pub has_room: bool,
    /// With a rewind: the state it goes back to.
    pub(crate) base: Option<State>,
}

impl Request {
    /// One command, durable, without an id.
    #[must_use]
    pub fn of(actor: Actor, command: Command) -> Self {
        Self::all(actor, vec![command])
    }

    /// Several commands: all or nothing.
    #[must_use]
    pub fn all(actor: Actor, commands: Vec<Command>) -> Self {
        Self {
            id: None,
            actor,
            commands,
            expected_seq: None,
            durability: Durability::Durable,
            blobs: Vec::new(),
            has_room: false,
            base: None,
        }
    }

    /// Gives it an id.
    #[must_use]
    pub fn id(mut self, id: RequestId) -> Self {
        self.id = Some(id);
        self
    }
}

/// A checkpoint as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SavedCheckpoint {
    /// The record it stands at.
    pub head: Head,
    /// BLAKE3 of the canonical state.
    pub hash: swarmkeep_core::Hash,
    /// Bytes of the canonical state.
    pub bytes: u64,
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Seq of its first record; 0: nothing had to be written.
    pub first: Seq,
    /// Its last record; with nothing written, where the session stands. Of a repeat whose answer is another by now (an effect
    /// has come into doubt since), the record up to which it is true.
    pub head: Head,
    /// One per command.
    pub outcomes: Vec<Outcome>,
    /// Carried out by an earlier call with the same id: this is that answer.
    pub repeated: bool,
    /// How sure it is.
    pub durability: Durability,
    /// For reading one's own write from the views ([`crate::Swarmkeep::find`]).
    pub position: Position,
}

impl Session {
    pub(crate) fn new(engine: Arc<Engine>, name: SessionName) -> Self {
        let id = name.id();
        Self { engine, name, id }
    }

    /// One whose name may not be known.
    pub(crate) fn of(engine: Arc<Engine>, name: SessionName, id: SessionId) -> Self {
        Self { engine, name, id }
    }

    /// `namespace/name`.
    #[must_use]
    pub fn name(&self) -> &SessionName {
        &self.name
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Asks for something. Dropping the future does not undo it.
    ///
    /// # Errors
    /// A refusal by the state (nothing was written), or what the store says; `unknown` means it may or may not have been
    /// written: repeat it with the same request id.
    pub async fn submit(&self, request: Request) -> Result<Reply, Error> {
        self.engine.submit(self.id, request).await
    }

    /// Back-pressure: returns when the store takes writes.
    ///
    /// # Errors
    /// `retry` when it does not for a while.
    pub async fn room(&self) -> Result<(), Error> {
        self.engine.wait_for_room().await
    }

    /// The state, as it is durable: a snapshot that costs next to nothing and waits for no writer.
    ///
    /// # Errors
    /// What the store says when the session has to come back into RAM.
    pub async fn state(&self) -> Result<State, Error> {
        self.engine.live(self.id, |live| live.published.clone()).await
    }

    /// The state's canonical bytes (JSON), shared, and the head they stand at.
    ///
    /// # Errors
    /// As [`Session::state`].
    pub async fn canonical(&self) -> Result<(Head, Bytes), Error> {
        self.engine.canonical(self.id).await
    }

    /// The state as it was at `seq`: the newest checkpoint below, and the records up to it.
    ///
    /// # Errors
    /// `not_found` beyond the end; `corrupt` where the log is damaged.
    pub async fn state_at(&self, seq: Seq) -> Result<State, Error> {
        self.engine.state_at(self.id, seq).await
    }

    /// Records after `after`, in order, up to about `max_bytes` (at least one, if there is one).
    ///
    /// # Errors
    /// `not_found` for a session that does not exist; `corrupt` where the log is damaged.
    pub async fn records(&self, after: Seq, max_bytes: usize) -> Result<Vec<Record>, Error> {
        let bytes = self.engine.read_log(self.id, after, max_bytes).await?;
        record::iter(&bytes).map(|view| view.and_then(|view| view.decode()).map_err(damage::record)).collect()
    }

    /// The session's records as they come.
    ///
    /// # Errors
    /// `conflict` when `from` is a place that the log does not have.
    pub async fn subscribe(&self, from: From) -> Result<Feed, Error> {
        Feed::begin(self.engine.clone(), self.id, from).await
    }

    /// Heartbeats and metrics: kept, batched, not part of the state. A heartbeat renews the agent's leases.
    ///
    /// # Errors
    /// `limit` for more than [`swarmkeep_core::limits::OBSERVATIONS_PER_REQUEST`]; `not_found` for an agent that is not there.
    pub async fn observe(&self, observations: Vec<Observation>) -> Result<(), Error> {
        self.engine.observe(self.id, observations).await
    }

    /// An agent's last heartbeat: it has nothing to do for now, and its silence is none to worry about. Its next heartbeat ends
    /// that. What it holds goes back when its leases end, as ever.
    ///
    /// # Errors
    /// As of [`Session::observe`].
    pub async fn rest_agent(&self, agent: &EntityId) -> Result<(), Error> {
        self.engine.rest_agent(self.id, agent.clone()).await
    }

    /// A worker's sign of life for one task: the lease begins again.
    ///
    /// # Errors
    /// `lease_lost` when the number is not the current one: stop working on it.
    pub async fn heartbeat_task(&self, task: &EntityId, lease: u64) -> Result<(), Error> {
        self.engine.heartbeat_task(self.id, task, lease).await
    }

    /// Saves a checkpoint now. Checkpoints are made by themselves; this is for a moment one wants to come back to quickly.
    ///
    /// # Errors
    /// What the store says.
    pub async fn checkpoint(&self) -> Result<Head, Error> {
        self.engine.checkpoint(self.id).await
    }

    /// The checkpoints that the store has, newest first, as far as they are applied.
    ///
    /// # Errors
    /// What the store says.
    pub fn checkpoints(&self) -> Result<Vec<SavedCheckpoint>, Error> {
        self.engine.embedded.as_ref().map_or_else(|| Ok(Vec::new()), |embedded| embedded.checkpoints(self.id))
    }

    /// Sets the state back to what it was at `to`, by a new record; history is never cut. Effects are not set back: they
    /// happened. Leases end.
    ///
    /// # Errors
    /// `not_found` beyond the end; as [`Session::submit`].
    pub async fn rewind(
        &self,
        to: Seq,
        reason: Option<String>,
        request: Option<RequestId>,
        actor: Actor,
    ) -> Result<Reply, Error> {
        self.engine.rewind(self.id, to, reason, request, actor).await
    }

    /// A new session that begins with the state of this one at `at` (now, if absent). It shares nothing with it.
    ///
    /// # Errors
    /// `already_exists` for the new name; `not_found` beyond the end.
    pub async fn fork(
        &self,
        at: Option<Seq>,
        new: NewSession,
        reason: Option<String>,
        actor: &Actor,
    ) -> Result<Session, Error> {
        let name = new.name.clone();
        self.engine.fork(self.id, at, new, reason, actor).await?;
        Ok(Session::new(self.engine.clone(), name))
    }

    /// What changed between two seqs, by entity.
    ///
    /// # Errors
    /// `not_found` beyond the end.
    pub async fn diff(&self, from: Seq, to: Seq) -> Result<Diff, Error> {
        let before = self.state_at(from).await?;
        let after = self.state_at(to).await?;
        Ok(Diff::between(&before, &after))
    }

    /// Keeps content with the session, by a `record` event that introduces it under `label`. Gives its id: the BLAKE3 of the bytes.
    ///
    /// # Errors
    /// `limit` above [`swarmkeep_core::limits::BLOB_BYTES`].
    pub async fn put_blob(
        &self,
        label: &str,
        bytes: Bytes,
        actor: Actor,
        request: Option<RequestId>,
    ) -> Result<BlobId, Error> {
        let blob = Blob::new(bytes);
        let id = blob.id;
        let command = Command::Record {
            kind: "blob".into(),
            aggregate: None,
            payload: swarmkeep_core::Json::null(),
            blobs: std::iter::once((label.to_owned(), id)).collect(),
        };
        let mut request = Request { id: request, ..Request::of(actor, command) };
        request.blobs.push(blob);
        self.submit(request).await?;
        Ok(id)
    }

    /// A blob's bytes, verified.
    ///
    /// # Errors
    /// `not_found`; `corrupt` when the bytes are not those of the id.
    pub async fn blob(&self, id: BlobId) -> Result<Bytes, Error> {
        self.engine.log.blob(self.id, id).await.map_err(|error| self.engine.said_by_log(error, self.id))
    }

    /// Names this process among those that carry out effects: what it began and did not finish is in doubt once another
    /// process has the store.
    #[must_use]
    pub fn instance(&self) -> &EntityId {
        &self.engine.instance
    }

    /// Something to be done outside, once per key: [`EffectCall::run`].
    pub fn effect(&self, key: impl AsRef<str>) -> EffectCall<'_> {
        EffectCall::new(self, key.as_ref(), self.engine.instance.clone())
    }
}
