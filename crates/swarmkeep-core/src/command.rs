//! What a caller may ask for. A command is checked against the state ([`crate::decide`]) and becomes events, or a typed
//! refusal.
//!
//! As JSON a command is an object with one key, its name: `{"create_task":{"title":"split the parser","priority":8}}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::Refusal,
    event::Event,
    id::{BlobId, EntityId, Seq},
    json::Json,
    state::{Address, AgentStatus, EffectClass, EffectOutcome, SessionMetadata},
};

/// One thing asked for. Several in one request are one group: all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Command {
    /// Stop work until somebody resumes. What happened outside may still be recorded (`finish_effect`, `resolve_effect`);
    /// other work is refused.
    Pause {
        /// Why, for people.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Go on after a pause or a park.
    Resume {},
    /// Set aside, as a clean stop does; the next command wakes it.
    Park {},
    /// The end, by will. History stays readable.
    Close {
        /// Why, for people.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Owner, metadata, time-to-live; absent fields keep their value.
    UpdateSession {
        /// New owner.
        #[serde(default)]
        owner: Option<String>,
        /// New metadata, whole.
        #[serde(default)]
        metadata: Option<SessionMetadata>,
        /// Absolute, from creation; 0 removes it.
        #[serde(default)]
        ttl_ms: Option<u64>,
        /// Slides with each record; 0 removes it.
        #[serde(default)]
        idle_ttl_ms: Option<u64>,
    },

    /// A new agent.
    SpawnAgent(SpawnAgent),
    /// Idle, busy, failed, terminated. Ending an agent gives back its tasks and dead-letters its mail.
    SetAgentStatus {
        /// Which agent.
        agent: EntityId,
        /// The new status.
        status: AgentStatus,
        /// Why, for people.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Name, capabilities, configuration; absent fields keep their value.
    UpdateAgent {
        /// Which agent.
        agent: EntityId,
        /// New name.
        #[serde(default)]
        name: Option<String>,
        /// New capabilities, whole.
        #[serde(default)]
        capabilities: Option<Vec<String>>,
        /// New configuration, whole.
        #[serde(default)]
        configuration: Option<Json>,
    },
    /// Listen to a topic.
    Subscribe {
        /// Which agent.
        agent: EntityId,
        /// Which topic.
        topic: EntityId,
    },
    /// No longer listen to a topic.
    Unsubscribe {
        /// Which agent.
        agent: EntityId,
        /// Which topic.
        topic: EntityId,
    },
    /// A new process of an agent begins its work. What an earlier process left half-written is closed, at most
    /// [`crate::limits::SWEEP`] turns at a time: effects that another `instance` of this agent began become doubts, tool
    /// calls that this agent wrote are waited for no longer. Each is an `interrupted` record.
    ReturnAgent {
        /// Which agent.
        agent: EntityId,
        /// The new process.
        instance: EntityId,
    },
    /// A new group.
    CreateGroup {
        /// An id, else one is made.
        #[serde(default)]
        id: Option<EntityId>,
        /// Unique in the session.
        name: String,
        /// What kind of group.
        #[serde(default = "default_kind_group")]
        kind: String,
        /// Its settings.
        #[serde(default = "Json::object")]
        configuration: Json,
    },
    /// Dissolve a group.
    RemoveGroup {
        /// Which group.
        group: EntityId,
    },
    /// Put an agent into a group, or change its role there.
    JoinGroup {
        /// Which group.
        group: EntityId,
        /// Which agent.
        agent: EntityId,
        /// In which role.
        #[serde(default)]
        role: Option<String>,
    },
    /// Take an agent out of a group.
    LeaveGroup {
        /// Which group.
        group: EntityId,
        /// Which agent.
        agent: EntityId,
    },

    /// A new task.
    CreateTask(CreateTask),
    /// Priority, payload; absent fields keep their value.
    UpdateTask {
        /// Which task.
        task: EntityId,
        /// New priority.
        #[serde(default)]
        priority: Option<i64>,
        /// New payload.
        #[serde(default)]
        payload: Option<Json>,
    },
    /// Give a pending task to an agent.
    AssignTask {
        /// Which task.
        task: EntityId,
        /// To whom.
        agent: EntityId,
    },
    /// Take a task under a numbered lease: the one named, or the first that fits (assigned to this agent first, then by
    /// priority, then by age). With nothing to take the answer is `claimed: null` and nothing is written.
    ClaimTask {
        /// For whom.
        agent: EntityId,
        /// This one.
        #[serde(default)]
        task: Option<EntityId>,
        /// Only these kinds.
        #[serde(default)]
        kinds: Option<Vec<String>>,
        /// How long the lease lasts without a heartbeat; [`crate::limits::LEASE_MS`] by default.
        #[serde(default)]
        lease_ms: Option<u64>,
    },
    /// Give a task back untouched.
    ReleaseTask {
        /// Which task.
        task: EntityId,
        /// The number of the caller's lease; 0 for a task that was only assigned.
        lease: u64,
    },
    /// Done.
    CompleteTask {
        /// Which task.
        task: EntityId,
        /// The number of the caller's lease. Absent only for tasks that nobody claimed (a person ticks it off).
        #[serde(default)]
        lease: Option<u64>,
        /// What came of it.
        #[serde(default)]
        result: Json,
    },
    /// This attempt failed.
    FailTask {
        /// Which task.
        task: EntityId,
        /// The number of the caller's lease.
        #[serde(default)]
        lease: Option<u64>,
        /// What went wrong.
        error: String,
        /// Failed for good, whatever retries are left.
        #[serde(default)]
        permanent: bool,
    },
    /// Call it off, with its children that have not ended.
    CancelTask {
        /// Which task.
        task: EntityId,
        /// Why, for people.
        #[serde(default)]
        reason: Option<String>,
    },
    /// From the engine's detector: this lease went unanswered.
    ExpireLease {
        /// Which task.
        task: EntityId,
        /// Which lease; another current one means nothing happens.
        lease: u64,
        /// What was seen.
        reason: String,
    },

    /// Send a message.
    SendMessage {
        /// An id, else one is made.
        #[serde(default)]
        id: Option<EntityId>,
        /// Who writes.
        from: EntityId,
        /// To an agent, a topic, or all.
        to: Address,
        /// What it is about; for a message to a topic, that topic.
        #[serde(default)]
        topic: Option<String>,
        /// The content.
        #[serde(default)]
        content: Json,
        /// Ties an answer to its question.
        #[serde(default)]
        correlation_id: Option<String>,
    },
    /// Take up to `limit` messages that wait for this agent, oldest first, those due for redelivery included.
    ReceiveMessages {
        /// For whom.
        agent: EntityId,
        /// At most so many; 10 by default, 100 at most.
        #[serde(default)]
        limit: Option<u32>,
    },
    /// Consumed: not delivered again.
    AcknowledgeMessage {
        /// Which message.
        message: EntityId,
        /// By whom.
        agent: EntityId,
    },

    /// Store a value.
    SetMemory {
        /// `shared` by default.
        #[serde(default = "default_scope")]
        scope: EntityId,
        /// Key in the scope.
        key: EntityId,
        /// The value.
        value: Json,
        /// Only if the current version is this one; 0: only if there is none.
        #[serde(default)]
        if_version: Option<u64>,
        /// Gone after this long.
        #[serde(default)]
        ttl_ms: Option<u64>,
    },
    /// Remove a value. Removing what is not there is no error and writes nothing.
    DeleteMemory {
        /// `shared` by default.
        #[serde(default = "default_scope")]
        scope: EntityId,
        /// Key in the scope.
        key: EntityId,
        /// Only if the current version is this one.
        #[serde(default)]
        if_version: Option<u64>,
    },

    /// Before something is done outside. The answer says whether to do it.
    BeginEffect(BeginEffect),
    /// After it was done, or failed for certain.
    FinishEffect {
        /// Which effect.
        effect: EntityId,
        /// The attempt that `begin` answered with.
        attempt: u32,
        /// What came of it.
        outcome: EffectOutcome,
    },
    /// Settle a doubt.
    ResolveEffect {
        /// Which effect.
        effect: EntityId,
        /// The outcome, if it was done; absent: it was not done.
        #[serde(default)]
        outcome: Option<EffectOutcome>,
        /// Who says so, and how they know: `reconciler:NAME` or `user:NAME`. Class `ask` takes only `user:`.
        by: String,
        /// The attempt that was looked into. Where another one is in doubt by now, what was seen says nothing of it, and is
        /// refused. Absent: the current one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<u32>,
    },
    /// From the engine: a deadline passed, or the process that began it is gone.
    DoubtEffect {
        /// Which effect.
        effect: EntityId,
        /// The attempt in doubt; another current one means nothing happens.
        attempt: u32,
        /// What was seen.
        reason: String,
    },

    /// Record a connection's recipe and state.
    SetConnection {
        /// Which connection.
        connection: EntityId,
        /// How to make it again.
        #[serde(default)]
        recipe: Json,
        /// How it stands.
        #[serde(default)]
        state: Json,
        /// One word.
        #[serde(default = "default_connection_status")]
        status: String,
    },
    /// Give a connection up.
    RemoveConnection {
        /// Which connection.
        connection: EntityId,
    },
    /// Set a configuration key.
    SetConfig {
        /// Which key.
        key: EntityId,
        /// Its value.
        value: Json,
    },
    /// Remove a configuration key.
    RemoveConfig {
        /// Which key.
        key: EntityId,
    },
    /// Record an event of the caller's own.
    Record {
        /// The caller's name for it.
        kind: String,
        /// Which thing it is about.
        #[serde(default)]
        aggregate: Option<EntityId>,
        /// Anything.
        #[serde(default)]
        payload: Json,
        /// Blobs it introduces (sent with the request) or refers to.
        #[serde(default)]
        blobs: BTreeMap<String, BlobId>,
    },
    /// From the engine: closes what was left half-written by those who are gone.
    InterruptTurns {
        /// Processes that will finish nothing any more.
        #[serde(default)]
        instances: Vec<EntityId>,
        /// The store has been started: agents that ended before, and broken chains, are looked at too.
        #[serde(default)]
        at_start: bool,
    },
    /// From the engine: no result of a tool call came in time.
    InterruptCall {
        /// Which call; one that is not open means nothing happens.
        call: EntityId,
        /// What was seen.
        reason: String,
    },
    /// From the engine: what is over by time (memory, messages due for the dead-letter box, the session itself).
    Expire {},
    /// From the engine: what a recovery found.
    NoteRecovery {
        /// The recovery's id.
        recovery: EntityId,
        /// The report.
        report: Json,
        /// Acknowledged records up to this seq were given up.
        #[serde(default)]
        gave_up: Option<Seq>,
        /// What these, as far as they can be read, say about effects, in their order: it happened all the same.
        #[serde(default)]
        effects: Vec<Event>,
    },
    /// From the engine, with the state as a blob of the same group.
    Rewind {
        /// To the state at this seq.
        to: Seq,
        /// That state.
        base: BlobId,
        /// Why, for people.
        #[serde(default)]
        reason: Option<String>,
    },
}

impl Command {
    /// Whether only the engine may send it: surfaces refuse it from callers.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        matches!(
            self,
            Command::ExpireLease { .. }
                | Command::DoubtEffect { .. }
                | Command::InterruptTurns { .. }
                | Command::InterruptCall { .. }
                | Command::Expire {}
                | Command::NoteRecovery { .. }
                | Command::Rewind { .. }
        )
    }
}

/// A new agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpawnAgent {
    /// An id, else one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<EntityId>,
    /// What kind of agent.
    #[serde(default = "default_kind_agent")]
    pub kind: String,
    /// A name, unique among agents that are not terminated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Its settings.
    #[serde(default = "Json::object")]
    pub configuration: Json,
}

/// A new task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTask {
    /// An id, else one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<EntityId>,
    /// What kind of task.
    #[serde(default = "default_kind_task")]
    pub kind: String,
    /// What to do, in one line.
    pub title: String,
    /// Higher comes first; 5 by default.
    #[serde(default = "default_priority")]
    pub priority: i64,
    /// Everything the worker needs.
    #[serde(default)]
    pub payload: Json,
    /// Part of this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<EntityId>,
    /// Failures after which it is tried again; [`crate::limits::MAX_RETRIES`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Give it to this agent at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assign: Option<EntityId>,
}

/// Before something is done outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeginEffect {
    /// The effect's key: one thing done once.
    pub effect: EntityId,
    /// `at_most_once` by default: the safe one.
    #[serde(default)]
    pub class: EffectClass,
    /// By which agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<EntityId>,
    /// For which task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<EntityId>,
    /// The process that will do it.
    pub instance: EntityId,
    /// What is asked for.
    #[serde(default)]
    pub request: Json,
    /// [`crate::limits::EFFECT_DEADLINE_MS`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

fn default_kind_agent() -> String {
    "worker".into()
}

fn default_kind_task() -> String {
    "task".into()
}

fn default_kind_group() -> String {
    "team".into()
}

fn default_priority() -> i64 {
    5
}

fn default_connection_status() -> String {
    "disconnected".into()
}

fn default_scope() -> EntityId {
    EntityId::new(DEFAULT_SCOPE).unwrap_or_else(|_| EntityId::made("scope", Seq::ZERO))
}

/// The memory scope of callers that name none.
pub const DEFAULT_SCOPE: &str = "shared";

/// What one command came to. Part of the answer to a request; a function of the group's records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It was done; the entity it made or changed.
    Done {
        /// Its id, where the command names or makes one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<EntityId>,
    },
    /// A task was claimed.
    Claimed {
        /// The task and the lease to show from now on; absent: nothing to take.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<EntityId>,
        /// The lease's number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<u64>,
        /// How long it lasts without a heartbeat.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_ms: Option<u64>,
    },
    /// Messages were handed over: ids, in order.
    Received {
        /// The messages.
        messages: Vec<EntityId>,
    },
    /// A memory value is at this version now (0: there is none).
    Version {
        /// The version.
        version: u64,
    },
    /// An effect may be carried out now, as this attempt.
    Run {
        /// Show it to `finish_effect`.
        attempt: u32,
    },
    /// An effect was carried out before; this is what came of it.
    Recorded {
        /// The recorded outcome.
        outcome: EffectOutcome,
    },
    /// Nobody knows whether an effect was carried out: the process that began it is gone. Do not carry it out; have the
    /// doubt settled (`resolve_effect`). An answer rather than a refusal, because the doubt itself was recorded.
    Unknown {
        /// Why nobody knows.
        reason: String,
    },
}

impl SpawnAgent {
    /// An agent of this name; its id is made.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            id: None,
            kind: default_kind_agent(),
            name: Some(name.into()),
            capabilities: Vec::new(),
            configuration: Json::object(),
        }
    }

    /// With this id, instead of one that is made.
    ///
    /// # Errors
    /// `invalid` for text that cannot be an id.
    pub fn id(mut self, id: impl AsRef<str>) -> Result<Self, Refusal> {
        self.id = Some(EntityId::new(id)?);
        Ok(self)
    }

    /// What kind of agent.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = kind.into();
        self
    }

    /// One more thing it can do.
    #[must_use]
    pub fn capability(mut self, capability: impl Into<String>) -> Self {
        self.capabilities.push(capability.into());
        self
    }

    /// Its settings.
    #[must_use]
    pub fn configuration(mut self, configuration: Json) -> Self {
        self.configuration = configuration;
        self
    }
}

impl CreateTask {
    /// A task, in one line; its id is made.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            id: None,
            kind: default_kind_task(),
            title: title.into(),
            priority: default_priority(),
            payload: Json::null(),
            parent: None,
            max_retries: None,
            assign: None,
        }
    }

    /// With this id, instead of one that is made: a program that starts again does not make it twice.
    ///
    /// # Errors
    /// `invalid` for text that cannot be an id.
    pub fn id(mut self, id: impl AsRef<str>) -> Result<Self, Refusal> {
        self.id = Some(EntityId::new(id)?);
        Ok(self)
    }

    /// What kind of task.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = kind.into();
        self
    }

    /// Higher comes first.
    #[must_use]
    pub fn priority(mut self, priority: i64) -> Self {
        self.priority = priority;
        self
    }

    /// Everything the worker needs.
    #[must_use]
    pub fn payload(mut self, payload: Json) -> Self {
        self.payload = payload;
        self
    }

    /// Part of another task.
    #[must_use]
    pub fn parent(mut self, parent: EntityId) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Given to this agent at once.
    #[must_use]
    pub fn assign(mut self, agent: EntityId) -> Self {
        self.assign = Some(agent);
        self
    }
}
