//! Turns: a call and its result, an answer and what it answers, a part and its whole; and how one that was left half-written
//! is named.
//!
//! Agents write their transcripts into messages and records of their own, in the forms that model providers have. A call
//! without its result makes such a transcript useless to whoever reads it back: most providers refuse it. So calls are
//! noticed when they are recorded ([`Said::in_json`]), and the state knows which of them are open.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    id::{EntityId, Seq},
    json::Json,
    limits,
};

/// A turn that was left half-written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Turn {
    /// A tool call in a message or a record, without its result.
    Call {
        /// The call's id, as its writer gave it.
        call: EntityId,
        /// Who wrote it.
        writer: EntityId,
        /// The seq of the record that holds it (in a fork: counted on from the original's).
        seq: Seq,
        /// In this message; absent: in a record of the writer's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<EntityId>,
    },
    /// An effect that was begun, without its finish. Its doubt is recorded beside it.
    Effect {
        /// Which effect.
        effect: EntityId,
        /// The attempt that was begun.
        attempt: u32,
    },
    /// A task that is part of one that does not exist: it stands alone from now on.
    Part {
        /// Which task.
        task: EntityId,
        /// The one that does not exist.
        parent: EntityId,
    },
    /// A message that answers one which was never sent: its `correlation_id` is the id of a later record.
    Answer {
        /// Which message.
        message: EntityId,
        /// What it answers.
        question: EntityId,
    },
}

/// The calls and results that a text of JSON speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Calls without a result in the same text, in the order in which they stand there.
    pub calls: Vec<EntityId>,
    /// Results of calls that do not stand in the same text.
    pub results: Vec<EntityId>,
}

/// How deep in a text a transcript may stand.
const DEPTH: usize = 8;
/// Fields that hold a transcript's messages, their parts, or a model's output. Not those with a tool's own input.
const WITHIN: [&str; 6] = ["message", "messages", "content", "output", "items", "item"];

impl Said {
    /// Looks for calls and results in the forms that are known:
    ///
    /// | | call | result |
    /// |---|---|---|
    /// | chat completions | `tool_calls: [{id}]` | `tool_call_id`, `tool_call_ids: []` |
    /// | responses | `type: function_call`, `call_id` | `type: function_call_output`, `call_id` |
    /// | messages | `type: tool_use`, `id` | `type: tool_result`, `tool_use_id` |
    /// | plain | `tool_call: {id}` | `tool_result: {id}` |
    ///
    /// In the value itself, in lists, and within `message`, `messages`, `content`, `output`, `items`, `item`. An id that
    /// cannot be an entity's is passed over; at most [`limits::CALLS_PER_RECORD`] of each are taken.
    #[must_use]
    pub fn in_json(json: &Json) -> Self {
        let text = json.as_str();
        // Most texts speak of no tools, and are not decoded for it.
        if !text.contains("\"tool_") && !text.contains("\"function_call") {
            return Self::default();
        }
        let mut said = Self::default();
        if let Ok(value) = json.decode::<Value>() {
            said.look(&value, DEPTH);
        }
        let answered: Vec<EntityId> = said.calls.iter().filter(|call| said.results.contains(call)).cloned().collect();
        said.calls.retain(|call| !answered.contains(call));
        said.results.retain(|call| !answered.contains(call));
        said
    }

    fn look(&mut self, value: &Value, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let fields = match value {
            Value::Array(items) => return items.iter().for_each(|item| self.look(item, depth)),
            Value::Object(fields) => fields,
            _ => return,
        };
        let list = |name: &str| fields.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let id_of = |value: &Value| value.get("id").cloned();
        let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
        list("tool_calls").iter().filter_map(id_of).for_each(|id| note(&mut self.calls, Some(&id)));
        note(&mut self.calls, fields.get("tool_call").and_then(id_of).as_ref());
        match kind {
            "tool_use" => note(&mut self.calls, fields.get("id")),
            "function_call" => note(&mut self.calls, fields.get("call_id")),
            "function_call_output" => note(&mut self.results, fields.get("call_id")),
            _ => {}
        }
        note(&mut self.results, fields.get("tool_call_id"));
        note(&mut self.results, fields.get("tool_use_id"));
        note(&mut self.results, fields.get("tool_result").and_then(id_of).as_ref());
        list("tool_call_ids").iter().for_each(|id| note(&mut self.results, Some(id)));
        // What a tool gave is its own: a transcript in there is not this one.
        if !matches!(kind, "tool_result" | "function_call_output") {
            WITHIN.iter().filter_map(|name| fields.get(*name)).for_each(|within| self.look(within, depth));
        }
    }
}

fn note(ids: &mut Vec<EntityId>, id: Option<&Value>) {
    if let Some(id) = id.and_then(Value::as_str).and_then(|id| EntityId::new(id).ok())
        && ids.len() < limits::CALLS_PER_RECORD
        && !ids.contains(&id)
    {
        ids.push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> (Vec<String>, Vec<String>) {
        let said = Said::in_json(&Json::parse(text).unwrap());
        let names = |ids: Vec<EntityId>| ids.iter().map(ToString::to_string).collect();
        (names(said.calls), names(said.results))
    }

    #[test]
    fn calls_and_results_are_found_in_every_known_form() {
        for (text, calls, results) in [
            (
                r#"{"role":"assistant","tool_calls":[{"id":"c1","function":{"name":"f"}},{"id":"c2"}]}"#,
                vec!["c1", "c2"],
                vec![],
            ),
            (r#"{"role":"tool","tool_call_id":"c1","content":"4"}"#, vec![], vec!["c1"]),
            (r#"{"role":"tool","tool_call_ids":["c1","c2"]}"#, vec![], vec!["c1", "c2"]),
            (r#"{"output":[{"type":"function_call","call_id":"f1","id":"x"}]}"#, vec!["f1"], vec![]),
            (r#"{"type":"function_call_output","call_id":"f1","output":"4"}"#, vec![], vec!["f1"]),
            (
                r#"{"content":[{"type":"text","text":"a"},{"type":"tool_use","id":"u1","input":{}}]}"#,
                vec!["u1"],
                vec![],
            ),
            (r#"{"content":[{"type":"tool_result","tool_use_id":"u1","content":"4"}]}"#, vec![], vec!["u1"]),
            (r#"{"tool_call":{"id":"p1"}}"#, vec!["p1"], vec![]),
            (r#"{"tool_result":{"id":"p1"}}"#, vec![], vec!["p1"]),
            (r#"[{"message":{"tool_calls":[{"id":"c1"},{"id":"c2"}]}},{"tool_call_id":"c2"}]"#, vec!["c1"], vec![]),
        ] {
            let (found, answered) = said(text);
            assert_eq!(found, calls, "{text}");
            assert_eq!(answered, results, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_call_is_none() {
        for text in [
            r#""the text \"tool_calls\": [{\"id\":\"c1\"}]""#,
            r#"{"type":"tool_use","id":7}"#,
            r#"{"type":"tool_use","id":""}"#,
            r#"{"tool_calls":"none"}"#,
            r#"{"arguments":{"tool_calls":[{"id":"inner"}]}}"#,
            r#"{"id":"c1","type":"message"}"#,
        ] {
            assert_eq!(said(text), (vec![], vec![]), "{text}");
        }
        let inner = r#"{"type":"tool_result","tool_use_id":"u1","content":[{"type":"tool_use","id":"inner"}]}"#;
        assert_eq!(said(inner), (vec![], vec!["u1".into()]));
        let many: Vec<String> = (0..1_000).map(|n| format!(r#"{{"id":"c{n}"}}"#)).collect();
        assert_eq!(said(&format!(r#"{{"tool_calls":[{}]}}"#, many.join(","))).0.len(), limits::CALLS_PER_RECORD);
    }
}
