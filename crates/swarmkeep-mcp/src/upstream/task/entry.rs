//! A task of the proxy's own, as the session's memory has it, and as clients are shown it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use swarmkeep::{Command, EntityId, Json, State, core::state::MemoryKey};

use crate::{
    calls::{CODE_OFFLINE, CODE_UNKNOWN, CallId},
    envelope::{Envelope, Kind},
    utc::utc,
};

/// Begins the id of a task that is the proxy's own.
const OWN: &str = "px_";
/// So many follow.
const ID_DIGITS: usize = 32;
/// The scope in the session's memory.
const SCOPE: &str = "mcp-tasks";
/// How long a task is kept after it was last written.
const TTL_MS: u64 = 24 * 60 * 60 * 1000;
/// What a client says when it knows tasks, among its extensions.
const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// A longer call waits as calls do, and a longer answer is not kept beyond the daemon's end.
pub(super) const KEPT_BYTES: usize = 200 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::upstream) enum Status {
    Working,
    Completed,
    Failed,
    Cancelled,
}

/// A call as a task, as it is remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::upstream) struct Task {
    /// The client process whose call it is, and the number of its line.
    pub(super) client: String,
    pub(super) number: u64,
    /// While its call may still have to be made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) line: String,
    /// For how long its call could still wait in the queue when the task was made.
    #[serde(default)]
    pub(super) left_ms: u64,
    pub(super) status: Status,
    pub(super) said: String,
    /// The result or the error, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<String>,
    /// When it was made; absent until it is written a second time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_at_ms: Option<u64>,
    #[serde(skip)]
    pub(super) updated_at_ms: u64,
    /// Its call, while that is under way here.
    #[serde(skip)]
    pub(super) call: Option<CallId>,
    /// Its client has heard of it.
    #[serde(skip)]
    pub(super) is_told: bool,
    /// It is over, and that is not written down yet.
    #[serde(skip)]
    pub(super) is_unwritten: bool,
    /// Who asked to cancel it, and waits for that: number and id of each request.
    #[serde(skip)]
    pub(super) cancelling: Vec<(u64, String)>,
}

/// The tasks of a client process, as the log has them, by id.
pub(in crate::upstream) fn tasks_in(state: &State, client: &str) -> BTreeMap<String, Task> {
    let ours = state.memory.iter().filter(|entry| entry.scope.as_str() == SCOPE);
    let tasks = ours.filter_map(|entry| {
        let task: Task = entry.value.decode().ok()?;
        let task = Task { updated_at_ms: entry.updated_at_ms, is_told: true, ..task };
        (task.client == client).then(|| (entry.key.to_string(), task))
    });
    tasks.collect()
}

/// Whether a client takes a task for an answer to this call.
pub(super) fn knows_tasks(message: &Envelope) -> bool {
    let meta = message.client_meta().and_then(|meta| serde_json::from_str::<Value>(&meta).ok());
    let of_client = meta.as_ref().and_then(|meta| meta.get("io.modelcontextprotocol/clientCapabilities"));
    of_client.and_then(|capabilities| capabilities.get("extensions")?.get(EXTENSION)).is_some()
}

/// The task of the proxy's own that a request is about.
pub(in crate::upstream) fn asked_for(message: &Envelope) -> Option<String> {
    if !matches!(message.method(), Some("tasks/get" | "tasks/cancel" | "tasks/update")) {
        return None;
    }
    let id: String = serde_json::from_str(message.param("taskId")?).ok()?;
    let is_own = id
        .strip_prefix(OWN)
        .is_some_and(|rest| rest.len() == ID_DIGITS && rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    is_own.then_some(id)
}

/// The id of the task of a client process's line: the same for the same line, and nobody else guesses it.
pub(super) fn id_of(client: &str, number: u64) -> String {
    let hash = blake3::hash(format!("{client}-{number}").as_bytes()).to_hex();
    format!("{OWN}{}", hash.get(..ID_DIGITS).unwrap_or_default())
}

/// Where it stands in the memory.
fn key(id: &str) -> Option<MemoryKey> {
    Some(MemoryKey { scope: EntityId::new(SCOPE).ok()?, key: EntityId::new(id).ok()? })
}

/// Takes a task out of the memory.
pub(super) fn removal(id: &str) -> Option<Command> {
    let MemoryKey { scope, key } = key(id)?;
    Some(Command::DeleteMemory { scope, key, if_version: None })
}

impl Task {
    /// A call that waits.
    pub(super) fn new(client: String, number: u64, line: String, left_ms: u64, said: String, call: CallId) -> Self {
        Self {
            client,
            number,
            line,
            left_ms,
            status: Status::Working,
            said,
            body: None,
            created_at_ms: None,
            updated_at_ms: 0,
            call: Some(call),
            is_told: false,
            is_unwritten: false,
            cancelling: Vec::new(),
        }
    }

    /// As the memory has it, whosever it is.
    pub(super) fn of(state: &State, id: &str) -> Option<Self> {
        let entry = state.memory.get(&key(id)?)?;
        let task: Self = entry.value.decode().ok()?;
        Some(Self { updated_at_ms: entry.updated_at_ms, ..task })
    }

    /// Puts it into the memory. A call may be under way for `call_most_ms` once it was sent.
    pub(super) fn entry(&self, id: &str, call_most_ms: u64) -> Option<Command> {
        let MemoryKey { scope, key } = key(id)?;
        let value = Json::encode(&self.kept()).ok()?;
        Some(Command::SetMemory { scope, key, value, if_version: None, ttl_ms: Some(self.ttl_ms(call_most_ms)) })
    }

    /// The task as a result has it; `kind` is the result's.
    pub(super) fn shown(&self, id: &str, kind: &str, poll_ms: u64) -> String {
        let base = json!({
            "resultType": kind,
            "taskId": id,
            "status": self.status,
            "statusMessage": self.said,
            "createdAt": utc(self.created_at_ms.unwrap_or(self.updated_at_ms)),
            "lastUpdatedAt": utc(self.updated_at_ms),
            "ttlMs": TTL_MS,
            "pollIntervalMs": poll_ms,
        });
        let mut text = base.to_string();
        let key = match self.status {
            Status::Completed => "result",
            Status::Failed => "error",
            Status::Working | Status::Cancelled => return text,
        };
        if let Some(body) = self.body.as_deref().filter(|_| kind == "complete") {
            // The result stays the bytes that came.
            text.truncate(text.len().saturating_sub(1));
            text.push_str(&format!(r#","{key}":{body}}}"#));
        }
        text
    }

    /// What its call was answered.
    pub(super) fn ends_with(&mut self, answer: &Envelope) {
        let body = answer.body().unwrap_or("null");
        if answer.kind() == Kind::Error {
            return self.fails("its server answered with an error", body.to_owned());
        }
        let result: Value = serde_json::from_str(body).unwrap_or_default();
        if let Some(outcome) = result.pointer("/_meta/swarmkeep~1outcome") {
            let text = result.pointer("/content/0/text").and_then(Value::as_str).unwrap_or_default();
            let error = json!({ "code": outcome.get("code"), "message": text, "data": outcome });
            return self.fails(text, error.to_string());
        }
        match result.get("resultType").and_then(Value::as_str) {
            Some("task") => {
                let text = "its server made a task of its own of it: ask for that one (`data.taskId`)";
                let data = json!({ "taskId": result.get("taskId"), "executed": "unknown", "retryable": false });
                self.fails(text, json!({ "code": CODE_UNKNOWN, "message": text, "data": data }).to_string());
            }
            Some("input_required") => {
                let text = "its server asks for input, which does not come by way of a queued call: call again, it is there now";
                let data = json!({ "executed": "no", "retryable": true });
                self.fails(text, json!({ "code": CODE_OFFLINE, "message": text, "data": data }).to_string());
            }
            _ => {
                self.status = Status::Completed;
                "answered".clone_into(&mut self.said);
                self.body = Some(body.to_owned());
            }
        }
    }

    pub(super) fn fails(&mut self, said: &str, error: String) {
        self.status = Status::Failed;
        said.clone_into(&mut self.said);
        self.body = Some(error);
    }

    /// As much of it as is written down.
    fn kept(&self) -> Self {
        let mut kept = self.clone();
        if kept.status != Status::Working {
            kept.line = String::new();
        }
        if kept.body.as_ref().is_some_and(|body| body.len() > KEPT_BYTES) {
            let text = "the call was carried out and answered; its answer was too large to be kept";
            let outcome = json!({ "code": CODE_UNKNOWN, "executed": "yes", "retryable": false });
            kept.body = Some(match kept.status {
                Status::Failed => json!({ "code": CODE_UNKNOWN, "message": text, "data": outcome }).to_string(),
                _ => json!({
                    "content": [{ "type": "text", "text": text }], "isError": true, "_meta": { "swarmkeep/outcome": outcome },
                })
                .to_string(),
            });
        }
        kept
    }

    /// How long it is kept when it is written now: a call that waits, or is under way, is not forgotten.
    fn ttl_ms(&self, call_most_ms: u64) -> u64 {
        match self.status {
            Status::Working => TTL_MS.saturating_add(self.left_ms).saturating_add(call_most_ms),
            _ => TTL_MS,
        }
    }

    /// Somebody waits for it to be written down.
    pub(in crate::upstream) fn owes(&self) -> bool {
        !self.cancelling.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        let task = Task::new("c".into(), 7, "{}".into(), 0, "queued".into(), CallId(1));
        Task { created_at_ms: Some(0), updated_at_ms: 1_000, ..task }
    }

    fn answered(line: &str) -> Value {
        let mut task = task();
        task.ends_with(&Envelope::parse(line.to_owned()).unwrap());
        serde_json::from_str(&task.shown("px_1", "complete", 500)).unwrap()
    }

    #[test]
    fn what_a_call_was_answered_is_what_its_task_comes_to() {
        let shown = answered(r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[],"x":1.0}}"#);
        assert_eq!((&shown["status"], &shown["result"]["x"]), (&json!("completed"), &json!(1.0)));
        assert_eq!((&shown["taskId"], &shown["createdAt"]), (&json!("px_1"), &json!("1970-01-01T00:00:00.000Z")));

        let shown = answered(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#);
        assert_eq!((&shown["status"], &shown["error"]["code"]), (&json!("failed"), &json!(-32602)));

        // What the proxy says itself is no result of the server's.
        let shown = answered(
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Nobody knows"}],"isError":true,
                "_meta":{"swarmkeep/outcome":{"code":-32011,"executed":"unknown"}}}}"#,
        );
        assert_eq!((&shown["status"], &shown["error"]["code"]), (&json!("failed"), &json!(-32011)));
        assert_eq!(shown["error"]["data"]["executed"], "unknown");

        for kind in ["task", "input_required"] {
            let line = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"{kind}","taskId":"t"}}}}"#);
            assert_eq!(answered(&line)["status"], "failed", "{kind}");
        }
    }

    #[test]
    fn an_answer_that_is_too_large_is_said_to_have_been() {
        let mut large = task();
        large.status = Status::Completed;
        large.body = Some(format!("{{\"text\":\"{}\"}}", "x".repeat(KEPT_BYTES)));
        assert!(large.shown("px_1", "complete", 500).len() > KEPT_BYTES, "as long as the daemon lives it is there");
        let kept: Value = serde_json::from_str(&large.kept().shown("px_1", "complete", 500)).unwrap();
        let outcome = &kept["result"]["_meta"]["swarmkeep/outcome"];
        assert_eq!((&kept["status"], &outcome["executed"]), (&json!("completed"), &json!("yes")));
        assert_eq!(large.kept().line, "", "it is not to be made again");
    }

    #[test]
    fn a_client_says_whether_it_knows_tasks() {
        let call = |extensions: &str| {
            let meta = format!(
                r#"{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{{extensions}}}}}"#
            );
            let line =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","_meta":{meta}}}}}"#);
            knows_tasks(&Envelope::parse(line).unwrap())
        };
        assert!(call(r#""extensions":{"io.modelcontextprotocol/tasks":{}}"#));
        assert!(!call(r#""extensions":{"other":{}}"#));
        assert!(!call(""));
    }
}
