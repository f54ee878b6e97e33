//! Two states of a session compared, entity by entity.
//!
//! Entities that the two share in memory are skipped without being looked at, so a diff between near states costs what
//! changed between them when one was folded from the other. What is compared is what people see: the session itself and
//! its tables. Heads and remembered requests are not: they differ with every record.

use serde::Serialize;

use crate::{
    json::Json,
    state::{Entity, Head, MemoryKey, State, Table},
};

/// What became of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Only in the later state.
    Added,
    /// Only in the earlier state.
    Removed,
    /// In both, and not the same.
    Changed,
}

/// One entity that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// In which table: `session`, `agents`, `groups`, `tasks`, `messages`, `memory`, `effects`, `calls`, `connections`,
    /// `config`.
    pub table: &'static str,
    /// Which entity: its id; memory as `SCOPE/KEY`; for the session its name.
    pub id: String,
    /// What became of it.
    pub kind: Kind,
    /// The entity in the earlier state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Json>,
    /// The entity in the later state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Json>,
}

/// What differs between two states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Where the earlier state stands.
    pub from: Head,
    /// Where the later one does.
    pub to: Head,
    /// Table by table, in the order of keys.
    pub changes: Vec<Change>,
}

impl Diff {
    /// Compares two states.
    #[must_use]
    pub fn between(from: &State, to: &State) -> Self {
        let mut changes = Vec::new();
        if from.info != to.info {
            let name = to.info.name.as_ref().or(from.info.name.as_ref()).map(ToString::to_string).unwrap_or_default();
            let there = |state: &State| state.info.name.is_some().then(|| json(&*state.info)).flatten();
            let (before, after) = (there(from), there(to));
            changes.push(Change { table: "session", id: name, kind: kind(&before, &after), before, after });
        }
        table("agents", &from.agents, &to.agents, &mut changes);
        table("groups", &from.groups, &to.groups, &mut changes);
        table("tasks", &from.tasks, &to.tasks, &mut changes);
        table("messages", &from.messages, &to.messages, &mut changes);
        table("memory", &from.memory, &to.memory, &mut changes);
        table("effects", &from.effects, &to.effects, &mut changes);
        table("calls", &from.calls, &to.calls, &mut changes);
        table("connections", &from.connections, &to.connections, &mut changes);
        table("config", &from.config, &to.config, &mut changes);
        Self { from: from.head, to: to.head, changes }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

fn kind(before: &Option<Json>, after: &Option<Json>) -> Kind {
    match (before, after) {
        (None, _) => Kind::Added,
        (_, None) => Kind::Removed,
        _ => Kind::Changed,
    }
}

fn json<T: Serialize>(entity: &T) -> Option<Json> {
    // An entity nests a caller's JSON, which may already be as deep as is allowed; it is still shown, then without it.
    Json::encode(entity).ok().or_else(|| Json::parse(r#""too deep to show""#).ok())
}

/// How a key is written.
trait Key {
    fn text(&self) -> String;
}

impl Key for crate::id::EntityId {
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Key for MemoryKey {
    fn text(&self) -> String {
        format!("{}/{}", self.scope, self.key)
    }
}

fn table<T>(name: &'static str, from: &Table<T>, to: &Table<T>, changes: &mut Vec<Change>)
where
    T: Entity + Serialize,
    T::Key: Key,
{
    for key in from.differing_keys(to) {
        let before = from.get(&key).and_then(|row| json(&**row));
        let after = to.get(&key).and_then(|row| json(&**row));
        changes.push(Change { table: name, id: key.text(), kind: kind(&before, &after), before, after });
    }
}
