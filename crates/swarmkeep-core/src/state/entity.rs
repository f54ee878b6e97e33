//! The things a session is made of. Field names are those of the views and of every surface; times are milliseconds since
//! the Unix epoch, taken from the record that set them.

use std::{cmp::Reverse, collections::BTreeMap, fmt, str::FromStr};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::table::Entity;
use crate::{
    error::Refusal,
    id::{EntityId, Hash, Seq, SessionId, SessionName},
    json::Json,
    limits,
};

macro_rules! status {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The stable name, as in JSON and in the views.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Refusal;

            fn from_str(text: &str) -> Result<Self, Refusal> {
                $name::ALL.iter().copied().find(|status| status.as_str() == text).ok_or_else(|| {
                    let allowed: Vec<&str> = $name::ALL.iter().map(|status| status.as_str()).collect();
                    Refusal::invalid(format!(concat!($what, " `{}`: use one of {}"), text.chars().take(40).collect::<String>(), allowed.join(", ")))
                })
            }
        }
    };
}

status!(
    /// How a session stands.
    SessionStatus, "session status" {
        /// At work.
        Live = "live",
        /// Stopped by a person.
        Paused = "paused",
        /// Set aside by a clean stop or by command; the next command wakes it.
        Parked = "parked",
        /// Recovery wants a person's word.
        NeedsDecision = "needs_decision",
        /// Set aside as damaged.
        Quarantined = "quarantined",
        /// Ended by will.
        Closed = "closed",
        /// Ended by its time-to-live.
        Expired = "expired",
    }
);
status!(
    /// How an agent stands.
    AgentStatus, "agent status" {
        /// Ready for work.
        Idle = "idle",
        /// At work.
        Busy = "busy",
        /// Something is wrong with it; may come back.
        Failed = "failed",
        /// Ended; does not come back.
        Terminated = "terminated",
    }
);
status!(
    /// How a task stands.
    TaskStatus, "task status" {
        /// On the list.
        Pending = "pending",
        /// Given to an agent that has yet to claim it.
        Assigned = "assigned",
        /// Claimed under a lease.
        Running = "running",
        /// Done.
        Completed = "completed",
        /// Failed after the last retry.
        Failed = "failed",
        /// Called off.
        Cancelled = "cancelled",
    }
);
status!(
    /// How an effect stands.
    EffectStatus, "effect status" {
        /// Begun, and within its deadline.
        Begun = "begun",
        /// Begun, and nobody knows whether it was done.
        OutcomeUnknown = "outcome_unknown",
        /// Known not to have been done; the next begin may do it.
        NotDone = "not_done",
        /// Done, or failed for certain; the outcome is recorded.
        Finished = "finished",
    }
);
status!(
    /// What may be done about an effect whose outcome is not known.
    EffectClass, "effect class" {
        /// Changes nothing outside: run again.
        Read = "read",
        /// The other side knows the key: run again with the same key.
        Idempotent = "idempotent",
        /// Never run again in doubt; a reconciler or a person settles it.
        AtMostOnce = "at_most_once",
        /// Never run again in doubt; only a person settles it.
        Ask = "ask",
    }
);

impl Default for EffectClass {
    /// The safe one for effects nobody has classed.
    fn default() -> Self {
        Self::AtMostOnce
    }
}

impl TaskStatus {
    /// Completed, failed or cancelled.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl SessionStatus {
    /// Closed or expired: nothing more is written.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Closed | Self::Expired)
    }
}

/// Where a session came from, as its creator said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionMetadata {
    /// Address of the client that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    /// Its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// `cli`, `web_app`, ….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Json>,
}

/// The state a fork began from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Which session.
    pub session: SessionId,
    /// At which seq.
    pub seq: Seq,
    /// The record hash there.
    pub hash: Hash,
}

/// The session itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// `namespace/name`; absent only before the first record.
    pub name: Option<SessionName>,
    /// The person or team it belongs to.
    pub owner: Option<String>,
    /// How it stands.
    pub status: SessionStatus,
    /// Why, for people.
    pub status_reason: Option<String>,
    /// Where it came from.
    pub metadata: SessionMetadata,
    /// When it was created.
    pub created_at_ms: u64,
    /// Expires this long after `created_at_ms`.
    pub ttl_ms: Option<u64>,
    /// Expires this long after its last record.
    pub idle_ttl_ms: Option<u64>,
    /// With a fork: what it began from.
    pub forked_from: Option<Origin>,
    /// Rewinds so far.
    pub rewinds: u64,
    /// With a fork: how many records lie before its first one, in the sessions it came from; and how many a recovery gave up.
    /// Ages, made ids and memory versions count on from there, so that none of the original's, or of those, comes again.
    pub inherited_seqs: u64,
}

impl Default for SessionInfo {
    fn default() -> Self {
        Self {
            id: SessionId::default(),
            name: None,
            owner: None,
            status: SessionStatus::Live,
            status_reason: None,
            metadata: SessionMetadata::default(),
            created_at_ms: 0,
            ttl_ms: None,
            idle_ttl_ms: None,
            forked_from: None,
            rewinds: 0,
            inherited_seqs: 0,
        }
    }
}

/// An agent of the swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id.
    pub id: EntityId,
    /// What kind of agent.
    pub kind: String,
    /// Unique among agents that are not terminated.
    pub name: Option<String>,
    /// How it stands.
    pub status: AgentStatus,
    /// Why, for people.
    pub status_reason: Option<String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Its settings.
    pub configuration: Json,
    /// Topics it listens to.
    pub topics: Vec<EntityId>,
    /// When it joined.
    pub created_at_ms: u64,
    /// When it ended.
    pub terminated_at_ms: Option<u64>,
}

/// A group of agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: EntityId,
    /// Unique in the session.
    pub name: String,
    /// What kind of group.
    pub kind: String,
    /// Its settings.
    pub configuration: Json,
    /// When it was made.
    pub created_at_ms: u64,
    /// Who is in it, in the order of joining.
    pub members: Vec<Member>,
}

/// An agent in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which agent.
    pub agent_id: EntityId,
    /// In which role.
    pub role: Option<String>,
    /// Since when.
    pub joined_at_ms: u64,
}

/// A claim on a task. How much of it is left is not state: the engine measures silence on a clock of its own, so that a
/// stopped daemon takes nobody's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its number: one more than the last lease of this task.
    pub number: u64,
    /// Who holds it.
    pub agent_id: EntityId,
    /// How long it lasts without a heartbeat.
    pub lease_ms: u64,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: EntityId,
    /// What kind of task.
    pub kind: String,
    /// What to do, in one line.
    pub title: String,
    /// Higher comes first; equal ones by age.
    pub priority: i64,
    /// Everything the worker needs.
    pub payload: Json,
    /// How it stands.
    pub status: TaskStatus,
    /// To whom it is assigned, or who has it claimed, or who ended it.
    pub agent_id: Option<EntityId>,
    /// Part of this task.
    pub parent_task_id: Option<EntityId>,
    /// The current claim, while running.
    pub lease: Option<Lease>,
    /// The number of the last lease; 0: none so far. It counts leases until the session is rewound.
    pub leases: u64,
    /// What came of it.
    pub result: Option<Json>,
    /// What went wrong last.
    pub error_message: Option<String>,
    /// The seq of the record that made it (in a fork: counted on from the original's): its age.
    pub created_seq: Seq,
    /// When it was made.
    pub created_at_ms: u64,
    /// When it was last assigned.
    pub assigned_at_ms: Option<u64>,
    /// When it was last claimed.
    pub started_at_ms: Option<u64>,
    /// When it ended.
    pub completed_at_ms: Option<u64>,
    /// Retries used.
    pub retry_count: u32,
    /// Failures after which it is tried again.
    pub max_retries: u32,
}

/// To whom a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// One agent.
    Agent(EntityId),
    /// The agents that listen to a topic now.
    Topic(EntityId),
    /// Every agent that is not terminated, but the sender.
    Broadcast,
}

/// How a message stands with one recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Deliveries so far; 0: not yet.
    pub attempts: u32,
    /// When it was last delivered.
    pub delivered_at_ms: Option<u64>,
}

/// A message that somebody has yet to acknowledge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    pub id: EntityId,
    /// The seq of the record that sent it (in a fork: counted on from the original's): the order of delivery.
    pub seq: Seq,
    /// Who wrote it.
    pub from_agent: EntityId,
    /// To an agent, a topic, or all.
    pub to: Address,
    /// What it is about.
    pub topic: String,
    /// The content.
    pub content: Json,
    /// Ties an answer to its question.
    pub correlation_id: Option<String>,
    /// When it was sent.
    pub timestamp_ms: u64,
    /// Whether it was handed to anybody yet.
    pub delivered: bool,
    /// It was found to answer a message that was never sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_adrift: bool,
    /// Recipients that have yet to acknowledge, and how it stands with each. One that has acknowledged, or for which it was
    /// given up, is no longer here.
    pub waiting: OrdMap<EntityId, Receipt>,
}

/// Where a memory entry is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemoryKey {
    /// An agent's id, a team, or `shared`.
    pub scope: EntityId,
    /// Key in the scope.
    pub key: EntityId,
}

/// A value that agents remember.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEntry {
    /// An agent's id, a team, or `shared`.
    pub scope: EntityId,
    /// Key in the scope.
    pub key: EntityId,
    /// The value.
    pub value: Json,
    /// The seq of the record that set it (in a fork: counted on from the original's): no version of a key ever comes twice.
    pub version: u64,
    /// When it was set.
    pub updated_at_ms: u64,
    /// Who set it.
    pub updated_by: Option<String>,
    /// When it is gone.
    pub expires_at_ms: Option<u64>,
}

/// What came of an effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EffectOutcome {
    /// Whether it did what was asked.
    pub ok: bool,
    /// The answer, or the error.
    #[serde(default)]
    pub value: Json,
}

/// Something done outside the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Its key.
    pub id: EntityId,
    /// What may be done about a doubt.
    pub class: EffectClass,
    /// How it stands.
    pub status: EffectStatus,
    /// By which agent.
    pub agent_id: Option<EntityId>,
    /// For which task.
    pub task_id: Option<EntityId>,
    /// The process that does it.
    pub instance: EntityId,
    /// The current attempt, from 1.
    pub attempt: u32,
    /// What is asked for.
    pub request: Json,
    /// What came of it.
    pub outcome: Option<EffectOutcome>,
    /// When the current attempt was begun.
    pub begun_at_ms: u64,
    /// How long it may take.
    pub deadline_ms: u64,
    /// When it was finished or resolved.
    pub finished_at_ms: Option<u64>,
    /// Who settled a doubt, and how they know.
    pub resolved_by: Option<String>,
    /// Why its outcome is not known.
    pub reason: Option<String>,
}

/// A connection to something outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its id.
    pub id: EntityId,
    /// How to make it again.
    pub recipe: Json,
    /// How it stands, for whoever drives it.
    pub state: Json,
    /// One word for people and queries.
    pub status: String,
    /// When it was last set.
    pub updated_at_ms: u64,
}

/// A configuration key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// Which key.
    pub key: EntityId,
    /// Its value.
    pub value: Json,
    /// When it was set.
    pub updated_at_ms: u64,
    /// Who set it.
    pub updated_by: Option<String>,
}

/// Bytes of field names, numbers and overhead in one entity; measured on the JSON of a task.
const ENTITY_BYTES: usize = 160;

fn text(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

fn id(id: Option<&EntityId>) -> usize {
    id.map_or(0, |id| id.as_str().len())
}

fn json(json: Option<&Json>) -> usize {
    json.map_or(0, |json| json.as_str().len())
}

impl Entity for Agent {
    type Key = EntityId;
    type Rank = ();

    fn key(&self) -> EntityId {
        self.id.clone()
    }

    fn weight(&self) -> usize {
        ENTITY_BYTES
            + self.id.as_str().len()
            + self.kind.len()
            + text(self.name.as_ref())
            + text(self.status_reason.as_ref())
            + self.capabilities.iter().map(|capability| capability.len() + 3).sum::<usize>()
            + self.topics.iter().map(|topic| topic.as_str().len() + 3).sum::<usize>()
            + json(Some(&self.configuration))
    }
}

impl Entity for Group {
    type Key = EntityId;
    type Rank = ();

    fn key(&self) -> EntityId {
        self.id.clone()
    }

    fn weight(&self) -> usize {
        ENTITY_BYTES
            + self.id.as_str().len()
            + self.name.len()
            + self.kind.len()
            + json(Some(&self.configuration))
            + self
                .members
                .iter()
                .map(|member| 60 + member.agent_id.as_str().len() + text(member.role.as_ref()))
                .sum::<usize>()
    }
}

/// Where a task that has not ended stands: on which list, and there by priority, then age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskRank {
    /// On which list.
    pub list: TaskList,
    /// Higher comes first.
    pub priority: Reverse<i64>,
    /// Older comes first.
    pub age: Seq,
    /// Which task; absent only to ask from the beginning of a list.
    pub id: Option<EntityId>,
}

/// The lists that tasks stand on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskList {
    /// Pending.
    Open,
    /// Assigned to this agent.
    For(EntityId),
    /// Claimed by this agent.
    With(EntityId),
}

impl TaskList {
    /// Before the first task of this list.
    #[must_use]
    pub fn start(self) -> TaskRank {
        TaskRank { list: self, priority: Reverse(i64::MAX), age: Seq::ZERO, id: None }
    }
}

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageRank {
    /// In the mail of this recipient, by age; the message absent only to ask from the beginning.
    Mail(EntityId, Seq, Option<EntityId>),
    /// Delivered to the recipient as often as it may be, and given up at this time.
    GivenUp(u64, Option<(EntityId, EntityId)>),
}

impl Entity for Task {
    type Key = EntityId;
    type Rank = TaskRank;

    fn ranks(&self) -> Vec<TaskRank> {
        let list = match (self.status, &self.agent_id) {
            (TaskStatus::Pending, _) => TaskList::Open,
            (TaskStatus::Assigned, Some(agent)) => TaskList::For(agent.clone()),
            (TaskStatus::Running, Some(agent)) => TaskList::With(agent.clone()),
            _ => return Vec::new(),
        };
        vec![TaskRank { list, priority: Reverse(self.priority), age: self.created_seq, id: Some(self.id.clone()) }]
    }

    fn key(&self) -> EntityId {
        self.id.clone()
    }

    fn weight(&self) -> usize {
        2 * ENTITY_BYTES
            + self.id.as_str().len()
            + self.kind.len()
            + self.title.len()
            + json(Some(&self.payload))
            + json(self.result.as_ref())
            + text(self.error_message.as_ref())
            + id(self.agent_id.as_ref())
            + id(self.parent_task_id.as_ref())
            + self.lease.as_ref().map_or(0, |lease| 50 + lease.agent_id.as_str().len())
    }
}

impl Receipt {
    /// When it may be delivered (again), as long as it may be delivered at all.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        self.delivered_at_ms.map_or(0, |at_ms| at_ms.saturating_add(limits::REDELIVERY_AFTER_MS))
    }

    /// Delivered as often as it may be: when it is given up.
    #[must_use]
    pub fn given_up_at_ms(&self) -> Option<u64> {
        (self.attempts >= limits::DELIVERIES).then(|| self.due_ms())
    }
}

impl Entity for Message {
    type Key = EntityId;
    type Rank = MessageRank;

    fn ranks(&self) -> Vec<MessageRank> {
        let mail = |agent: &EntityId| MessageRank::Mail(agent.clone(), self.seq, Some(self.id.clone()));
        let given_up = |(agent, receipt): (&EntityId, &Receipt)| {
            Some(MessageRank::GivenUp(receipt.given_up_at_ms()?, Some((self.id.clone(), agent.clone()))))
        };
        self.waiting.keys().map(mail).chain(self.waiting.iter().filter_map(given_up)).collect()
    }

    fn key(&self) -> EntityId {
        self.id.clone()
    }

    fn weight(&self) -> usize {
        ENTITY_BYTES
            + self.id.as_str().len()
            + self.from_agent.as_str().len()
            + self.topic.len()
            + json(Some(&self.content))
            + text(self.correlation_id.as_ref())
            + self.waiting.keys().map(|agent| 50 + agent.as_str().len()).sum::<usize>()
    }
}

impl Entity for MemoryEntry {
    type Key = MemoryKey;
    /// When it is gone; the key absent only to ask from the beginning.
    type Rank = (u64, Option<MemoryKey>);

    fn ranks(&self) -> Vec<Self::Rank> {
        self.expires_at_ms.map(|at_ms| (at_ms, Some(self.key()))).into_iter().collect()
    }

    fn key(&self) -> MemoryKey {
        MemoryKey { scope: self.scope.clone(), key: self.key.clone() }
    }

    fn weight(&self) -> usize {
        ENTITY_BYTES
            + self.scope.as_str().len()
            + self.key.as_str().len()
            + json(Some(&self.value))
            + text(self.updated_by.as_ref())
    }
}

impl Entity for Effect {
    type Key = EntityId;
    type Rank = ();

    fn key(&self) -> EntityId {
        self.id.clone()
    }

    fn weight(&self) -> usize {
        2 * ENTITY_BYTES
            + self.id.as_str().len()
            + id(self.agent_id.as_ref())
            + id(self.task_id.as_ref())
            + self.instance.as_str().len()
            + json(Some(&self.request))
            + self.outcome.as_ref().map_or(0, |outcome| 20 + outcome.value.as_str().len())
            + text(self.resolved_by.as_ref())
            + text(self.reason.as_ref())
    }
}

impl Entity for Connection {
    type Key = EntityId;
    type Rank = ();

    fn key(&self) -> EntityId {
        self.id.clone()
    }

    fn weight(&self) -> usize {
        ENTITY_BYTES + self.id.as_str().len() + json(Some(&self.recipe)) + json(Some(&self.state)) + self.status.len()
    }
}

impl Entity for ConfigEntry {
    type Key = EntityId;
    type Rank = ();

    fn key(&self) -> EntityId {
        self.key.clone()
    }

    fn weight(&self) -> usize {
        ENTITY_BYTES + self.key.as_str().len() + json(Some(&self.value)) + text(self.updated_by.as_ref())
    }
}
