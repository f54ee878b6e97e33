//! Tool calls that were recorded and have no result yet.

use serde::{Deserialize, Serialize};

use super::{State, table::Entity};
use crate::id::{EntityId, Seq};

/// A tool call without its result, noticed when it was recorded. The state needs it to know which turns are open; what was
/// called is in the message or record it stands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCall {
    /// Its id, as its writer gave it.
    pub id: EntityId,
    /// Who wrote it: the sender of the message, or the actor of the record.
    pub writer: EntityId,
    /// In this message; absent: in a record of the writer's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<EntityId>,
    /// The seq of the record that holds it (in a fork: counted on from the original's).
    pub seq: Seq,
    /// When that was.
    pub called_at_ms: u64,
}

impl Entity for OpenCall {
    type Key = EntityId;
    type Rank = ();

    fn key(&self) -> EntityId {
        self.id.clone()
    }

    fn weight(&self) -> usize {
        100 + self.id.as_str().len()
            + self.writer.as_str().len()
            + self.message_id.as_ref().map_or(0, |id| id.as_str().len())
    }
}

impl State {
    /// Calls that a record opens, and those whose results it has.
    pub(super) fn evolve_calls(
        &mut self,
        (seq, time_ms): (Seq, u64),
        (writer, message): (&EntityId, Option<&EntityId>),
        calls: &[EntityId],
        results: &[EntityId],
    ) {
        for call in results {
            self.calls.remove(call);
        }
        for call in calls {
            self.calls.insert(OpenCall {
                id: call.clone(),
                writer: writer.clone(),
                message_id: message.cloned(),
                seq: self.age(seq),
                called_at_ms: time_ms,
            });
        }
    }
}
