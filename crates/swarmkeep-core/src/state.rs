//! The state of a session: `fold(records)`, by the only reducer there is ([`State::apply`]).
//!
//! Entities are shared (`Arc`) in persistent maps, so a snapshot of a state is a handful of reference counts: readers,
//! checkpoints and the roll-back of a refused group each hold one and never wait for a writer.

mod apply;
mod base;
mod call;
mod entity;
mod evolve;
mod table;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::{
    apply::ApplyError,
    base::forked_base,
    call::OpenCall,
    entity::{
        Address, Agent, AgentStatus, ConfigEntry, Connection, Effect, EffectClass, EffectOutcome, EffectStatus, Group,
        Lease, Member, MemoryEntry, MemoryKey, Message, MessageRank, Origin, Receipt, SessionInfo, SessionMetadata,
        SessionStatus, Task, TaskList, TaskRank, TaskStatus,
    },
    table::{Entity, Table},
};
use crate::{
    id::{Hash, Seq},
    requests::Requests,
};

/// Where a session's log ends: what the next record is chained to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The last record; 0: none.
    pub seq: Seq,
    /// Its hash; zeros: none.
    pub hash: Hash,
    /// Its time.
    pub time_ms: u64,
}

/// The version of the state's shape and of the reducer. A checkpoint of another version is not read; the log is folded
/// again.
pub const STATE_VERSION: u32 = 1;

/// Everything that is known of a session at one seq.
///
/// Its canonical bytes ([`State::canonical`]) are its JSON: fields in the order of this definition, tables as lists in
/// the order of their keys, callers' JSON as it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// [`STATE_VERSION`] of the program that folded it.
    pub version: u32,
    /// Where the log ends.
    pub head: Head,
    /// The session itself.
    pub info: Arc<SessionInfo>,
    /// Agents, by id.
    pub agents: Table<Agent>,
    /// Groups, by id.
    pub groups: Table<Group>,
    /// Tasks, by id.
    pub tasks: Table<Task>,
    /// Messages that somebody has yet to acknowledge, by id.
    pub messages: Table<Message>,
    /// Memory, by scope and key.
    pub memory: Table<MemoryEntry>,
    /// Effects, by key.
    pub effects: Table<Effect>,
    /// Tool calls without a result, by id.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub calls: Table<OpenCall>,
    /// Connections, by id.
    pub connections: Table<Connection>,
    /// Configuration, by key.
    pub config: Table<ConfigEntry>,
    /// Requests already carried out.
    pub requests: Requests,
}

impl State {
    /// Before the first record.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            version: STATE_VERSION,
            head: Head::default(),
            info: Arc::default(),
            agents: Table::default(),
            groups: Table::default(),
            tasks: Table::default(),
            messages: Table::default(),
            memory: Table::default(),
            effects: Table::default(),
            calls: Table::default(),
            connections: Table::default(),
            config: Table::default(),
            requests: Requests::default(),
        }
    }

    /// The canonical bytes: what a checkpoint holds, what a read over HTTP copies, what [`State::hash`] is of.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.weight());
        self.canonical_into(&mut bytes);
        bytes
    }

    /// [`State::canonical`], appended to `out`: for whoever writes many states into one buffer.
    pub fn canonical_into(&self, out: &mut Vec<u8>) {
        // Writing into a Vec cannot fail, and every map here has string keys: the only two errors serde_json knows.
        let _ = serde_json::to_writer(out, self);
    }

    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// A sentence, when the bytes are not a state of this [`STATE_VERSION`].
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, String> {
        let state: State = serde_json::from_slice(bytes).map_err(|error| format!("not a state: {error}"))?;
        if state.version != STATE_VERSION {
            return Err(format!("state version {} (this program folds version {STATE_VERSION})", state.version));
        }
        Ok(state)
    }

    /// BLAKE3 of the canonical bytes.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash(*blake3::hash(&self.canonical()).as_bytes())
    }

    /// About how many bytes the state takes, canonical and in RAM alike; kept up by the tables, so that asking is cheap.
    #[must_use]
    pub fn weight(&self) -> usize {
        512 + self.agents.weight()
            + self.groups.weight()
            + self.tasks.weight()
            + self.messages.weight()
            + self.memory.weight()
            + self.effects.weight()
            + self.calls.weight()
            + self.connections.weight()
            + self.config.weight()
            + self.requests.weight()
    }
}

impl Default for State {
    fn default() -> Self {
        Self::empty()
    }
}
