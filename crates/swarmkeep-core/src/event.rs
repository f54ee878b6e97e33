//! What can happen to a session: a closed vocabulary, in the past tense.
//!
//! An event carries its consequences: ids, versions, counts and new statuses are written out, so that the reducer and the
//! views follow from the event alone and never decide anything again. The meaning of a stored event never changes; changed
//! behaviour is a new event. Fields may be added when their absence means what it meant before.
//!
//! Stored as canonical JSON inside a record's body (see [`crate::record`]): `{"task_created":{…}}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::{BlobId, EntityId, Hash, Seq, SessionId, SessionName},
    json::Json,
    state::{Address, AgentStatus, EffectClass, EffectOutcome, SessionMetadata, SessionStatus},
    turn::Turn,
};

/// Something that happened. Times are not in here: a record has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    // ── session life ────────────────────────────────────────────────────────────────────────────────────────────────
    /// The first record of a session made from nothing.
    SessionCreated {
        /// `namespace/name`.
        name: SessionName,
        /// The person or team it belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// Where it came from.
        #[serde(default)]
        metadata: SessionMetadata,
        /// Expires this long after creation, absolutely.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
        /// Expires after this long without a record; slides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle_ttl_ms: Option<u64>,
    },
    /// The first record of a session made from another one's state at a seq. The state travels as a blob (its canonical
    /// bytes, zstd), so that the fork needs nothing of the original.
    SessionForked {
        /// The fork's own name.
        name: SessionName,
        /// Whose state.
        from: SessionId,
        /// At which seq.
        at: Seq,
        /// The record hash there.
        at_hash: Hash,
        /// The state, already without shared pending work.
        base: BlobId,
        /// The person or team it belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The state was set back to an earlier seq. History stays: this is a new record, with the state as a blob.
    SessionRewound {
        /// To the state at this seq.
        to: Seq,
        /// That state.
        base: BlobId,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Live, paused, parked, closed, expired, needs_decision.
    SessionStatusChanged {
        /// The new status.
        status: SessionStatus,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Owner, metadata or time-to-live were replaced; absent fields keep their value.
    SessionUpdated {
        /// New owner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// New metadata, whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<SessionMetadata>,
        /// New absolute time-to-live from creation; 0 removes it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
        /// New idle time-to-live; 0 removes it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle_ttl_ms: Option<u64>,
    },
    /// What a recovery found and did; kept so that the session tells its own story. Changes no entity.
    Recovered {
        /// The recovery's id.
        recovery: EntityId,
        /// The report.
        report: Json,
        /// Acknowledged records up to this seq were given up: no number that was given out in them is given out again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gave_up: Option<Seq>,
    },

    // ── agents and groups ───────────────────────────────────────────────────────────────────────────────────────────
    /// An agent joined the swarm.
    AgentSpawned {
        /// Its id.
        agent: EntityId,
        /// What kind of agent.
        kind: String,
        /// A name, unique among agents that are not terminated.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// What it can do.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        capabilities: Vec<String>,
        /// Its settings.
        #[serde(default = "Json::object")]
        configuration: Json,
    },
    /// Idle, busy, failed, terminated.
    AgentStatusChanged {
        /// Which agent.
        agent: EntityId,
        /// The new status.
        status: AgentStatus,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Name, capabilities or configuration were replaced; absent fields keep their value.
    AgentUpdated {
        /// Which agent.
        agent: EntityId,
        /// New name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// New capabilities, whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        capabilities: Option<Vec<String>>,
        /// New configuration, whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        configuration: Option<Json>,
    },
    /// An agent listens to a topic from now on.
    TopicSubscribed {
        /// Which agent.
        agent: EntityId,
        /// Which topic.
        topic: EntityId,
    },
    /// An agent no longer listens to a topic.
    TopicUnsubscribed {
        /// Which agent.
        agent: EntityId,
        /// Which topic.
        topic: EntityId,
    },
    /// A group of agents was made.
    GroupCreated {
        /// Its id.
        group: EntityId,
        /// Unique in the session.
        name: String,
        /// What kind of group.
        kind: String,
        /// Its settings.
        #[serde(default = "Json::object")]
        configuration: Json,
    },
    /// A group was dissolved; its members stay.
    GroupRemoved {
        /// Which group.
        group: EntityId,
    },
    /// An agent joined a group, or changed its role there.
    MemberJoined {
        /// Which group.
        group: EntityId,
        /// Which agent.
        agent: EntityId,
        /// In which role.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<String>,
    },
    /// An agent left a group.
    MemberLeft {
        /// Which group.
        group: EntityId,
        /// Which agent.
        agent: EntityId,
    },

    // ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────
    /// A task was put on the list: pending.
    TaskCreated {
        /// Its id.
        task: EntityId,
        /// What kind of task.
        kind: String,
        /// What to do, in one line.
        title: String,
        /// Higher comes first; equal ones by age.
        priority: i64,
        /// Everything the worker needs.
        #[serde(default)]
        payload: Json,
        /// Part of this task.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<EntityId>,
        /// Failures after which it is tried again.
        max_retries: u32,
    },
    /// Priority or payload were replaced; absent fields keep their value.
    TaskUpdated {
        /// Which task.
        task: EntityId,
        /// New priority.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priority: Option<i64>,
        /// New payload.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload: Option<Json>,
    },
    /// A pending task was given to an agent, which has yet to claim it: assigned.
    TaskAssigned {
        /// Which task.
        task: EntityId,
        /// To whom.
        agent: EntityId,
    },
    /// An agent took the task under a numbered lease: running.
    TaskClaimed {
        /// Which task.
        task: EntityId,
        /// Who has it now.
        agent: EntityId,
        /// The lease's number, one more than the last one of this task.
        lease: u64,
        /// How long the lease lasts without a heartbeat.
        lease_ms: u64,
    },
    /// The lease ended without a result: pending again, or failed after the last retry. `retry_count` is the new count.
    TaskLeaseExpired {
        /// Which task.
        task: EntityId,
        /// The lease that expired.
        lease: u64,
        /// Retries used, after this.
        retry_count: u32,
        /// Whether that was the last one: the task is failed.
        failed: bool,
        /// Why: silence, or the agent's end.
        reason: String,
    },
    /// The worker gave the task back untouched: pending again, no retry used.
    TaskReleased {
        /// Which task.
        task: EntityId,
        /// The lease that was given back (0: it was only assigned).
        lease: u64,
    },
    /// Done.
    TaskCompleted {
        /// Which task.
        task: EntityId,
        /// What came of it.
        #[serde(default)]
        result: Json,
    },
    /// An attempt failed: pending again, or failed after the last retry.
    TaskFailed {
        /// Which task.
        task: EntityId,
        /// What went wrong.
        error: String,
        /// Retries used, after this.
        retry_count: u32,
        /// Whether that was the last one: the task is failed.
        failed: bool,
    },
    /// Called off.
    TaskCancelled {
        /// Which task.
        task: EntityId,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },

    // ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────
    /// A message was accepted for its recipients, who were settled at this moment.
    MessageSent {
        /// Its id.
        message: EntityId,
        /// Who wrote it.
        from: EntityId,
        /// To an agent, a topic, or all.
        to: Address,
        /// What it is about.
        topic: String,
        /// The content.
        content: Json,
        /// Ties an answer to its question.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        correlation_id: Option<String>,
        /// Each gets it until it acknowledges it.
        recipients: Vec<EntityId>,
        /// Tool calls that stand in it without a result.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        calls: Vec<EntityId>,
        /// Open tool calls whose results stand in it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        results: Vec<EntityId>,
    },
    /// Handed to a recipient, for the `attempt`th time.
    MessageDelivered {
        /// Which message.
        message: EntityId,
        /// To whom.
        agent: EntityId,
        /// Counts from 1.
        attempt: u32,
    },
    /// Consumed by a recipient. When the last one has, the message leaves the state; the log and the views keep it.
    MessageAcknowledged {
        /// Which message.
        message: EntityId,
        /// By whom.
        agent: EntityId,
        /// Nobody else has yet to: the message leaves the state.
        consumed: bool,
    },
    /// Given up for a recipient: too many deliveries, or the recipient has ended. A notice to the sender follows in the
    /// same group.
    MessageDeadLettered {
        /// Which message.
        message: EntityId,
        /// For whom.
        agent: EntityId,
        /// Why.
        reason: String,
        /// Nobody else has yet to acknowledge it: the message leaves the state.
        consumed: bool,
    },

    // ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────
    /// A value was stored.
    MemorySet {
        /// Scope: an agent's id, a team, or `shared`.
        scope: EntityId,
        /// Key in the scope.
        key: EntityId,
        /// The value.
        value: Json,
        /// Its version: the seq of the record that set it, so that no version of a key ever comes twice, not even after
        /// the key was removed.
        version: u64,
        /// Gone this long after this record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
    },
    /// A value was removed, by a caller or because its time was over.
    MemoryDeleted {
        /// Scope.
        scope: EntityId,
        /// Key.
        key: EntityId,
        /// The version that was removed.
        version: u64,
        /// Because its time was over.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        expired: bool,
    },

    // ── effects ─────────────────────────────────────────────────────────────────────────────────────────────────────
    /// Something outside the session is about to be done. Written before it is done.
    EffectBegun {
        /// The effect's key: one thing done once.
        effect: EntityId,
        /// What may be done about a doubt.
        class: EffectClass,
        /// By which agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<EntityId>,
        /// For which task.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<EntityId>,
        /// The process that does it: a new process of the same agent has another instance, which is how a crash between
        /// begin and finish is seen.
        instance: EntityId,
        /// Counts from 1.
        attempt: u32,
        /// What is asked for, for people and for reconcilers.
        #[serde(default)]
        request: Json,
        /// After this long without a finish the outcome is unknown; until then the agent counts as alive.
        deadline_ms: u64,
    },
    /// It was done, or it failed for certain. The outcome is what a repeat is answered with.
    EffectFinished {
        /// Which effect.
        effect: EntityId,
        /// What came of it.
        outcome: EffectOutcome,
    },
    /// Nobody knows whether it was done.
    EffectOutcomeUnknown {
        /// Which effect.
        effect: EntityId,
        /// Why nobody knows.
        reason: String,
    },
    /// A reconciler or a person settled the doubt: it was done (with this outcome).
    EffectResolvedDone {
        /// Which effect.
        effect: EntityId,
        /// What came of it.
        outcome: EffectOutcome,
        /// Who says so, and how they know.
        by: String,
    },
    /// A reconciler or a person settled the doubt: it was not done. The next begin may do it.
    EffectResolvedNotDone {
        /// Which effect.
        effect: EntityId,
        /// Who says so, and how they know.
        by: String,
    },

    // ── connections, configuration, custom ──────────────────────────────────────────────────────────────────────────
    /// A connection to something outside (an MCP server, a browser): how to make it again, and how it stands.
    ConnectionSet {
        /// Which connection.
        connection: EntityId,
        /// How to make it again.
        recipe: Json,
        /// How it stands, for whoever drives it.
        state: Json,
        /// One word for people and queries: `connected`, `offline`, ….
        status: String,
    },
    /// A connection was given up.
    ConnectionRemoved {
        /// Which connection.
        connection: EntityId,
    },
    /// A configuration key was set; `topology` is the swarm's shape.
    ConfigSet {
        /// Which key.
        key: EntityId,
        /// Its value.
        value: Json,
    },
    /// A configuration key was removed.
    ConfigRemoved {
        /// Which key.
        key: EntityId,
    },
    /// A caller's own event. Changes no entity; it is in the log, the feeds and the views.
    Custom {
        /// The caller's name for it.
        kind: String,
        /// Which thing it is about, for the `events` view.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        aggregate: Option<EntityId>,
        /// Anything.
        #[serde(default)]
        payload: Json,
        /// Blobs it introduces or refers to, with a name for each.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        blobs: BTreeMap<String, BlobId>,
        /// Tool calls that stand in it without a result.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        calls: Vec<EntityId>,
        /// Open tool calls whose results stand in it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        results: Vec<EntityId>,
    },

    // ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────────
    /// A turn that was left half-written was closed: the rest of it is not waited for any more. What was written stays.
    Interrupted {
        /// Which turn.
        turn: Turn,
        /// Why nobody will write the rest.
        reason: String,
    },
}

impl Event {
    /// Whether it says what became of something outside, and begins nothing.
    #[must_use]
    pub fn tells_of_an_effect(&self) -> bool {
        matches!(
            self,
            Self::EffectFinished { .. }
                | Self::EffectOutcomeUnknown { .. }
                | Self::EffectResolvedDone { .. }
                | Self::EffectResolvedNotDone { .. }
                | Self::Interrupted { .. }
        )
    }

    /// The blob with the state that it begins from: without that nothing after it can be folded.
    #[must_use]
    pub fn base(&self) -> Option<BlobId> {
        match self {
            Self::SessionForked { base, .. } | Self::SessionRewound { base, .. } => Some(*base),
            _ => None,
        }
    }

    /// The blobs that it introduces or refers to.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> {
        let named = if let Self::Custom { blobs, .. } = self { Some(blobs) } else { None };
        self.base().into_iter().chain(named.into_iter().flat_map(BTreeMap::values).copied())
    }
}
