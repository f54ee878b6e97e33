//! The connection in the session's log: how it was made, how it stands, what is said again on it.
//!
//! Written when one of these changes, not at every loss: a server that flaps fills no log. Removed when the client goes; what
//! is there without one belonged to a daemon that was killed, and the same client finds it again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use swarmkeep::{EntityId, State};

use super::{
    Done, Phase, Upstream,
    seen::{Seen, seen_in},
    task::{Task, tasks_in},
};
use crate::{
    envelope::Envelope,
    transport::{Recipe, Resume},
};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Noted {
    status: String,
    state: Value,
}

/// Tasks of a server that are remembered at once.
const TASKS: usize = 256;
/// A longer answer begins no task.
const TASK_BYTES: usize = 16 * 1024;

/// The connection of a client: its [`Terms::client`](super::Terms::client).
#[must_use]
pub fn connection_of(client: &str) -> Option<EntityId> {
    EntityId::new(format!("mcp-{client}")).ok()
}

/// What a session's log has of a client and its server from before.
#[derive(Debug, Clone, Default)]
pub struct Remembered {
    /// What the client had said that ought to be, and the server had agreed to.
    pub(super) desired: Vec<String>,
    /// Tries that had failed in a row, if the server could not be reached by then.
    pub(super) failures: u32,
    /// The revision that was agreed upon, as JSON text.
    pub(super) revision: Option<String>,
    /// The server's session that a daemon left.
    pub(super) resume: Option<Resume>,
    /// The server's own tasks of which no end was seen, as JSON texts.
    pub(super) server_tasks: BTreeSet<String>,
    /// What the server said when it was last there.
    pub(super) seen: Seen,
    /// Calls of which the client was told a task of ours.
    pub(super) tasks: BTreeMap<String, Task>,
    /// Lines that were begun as calls; absent where calls may have gone on in another session.
    pub(super) begun: Option<BTreeSet<u64>>,
}

impl Remembered {
    /// What `state` has of this client ([`Terms::client`](super::Terms::client)) and this server
    /// ([`Terms::upstream`](super::Terms::upstream), reached by this recipe: two servers may have one name).
    #[must_use]
    pub fn of(state: &State, client: &str, upstream: &str, recipe: &Recipe) -> Self {
        let connection = connection_of(client).and_then(|id| state.connections.get(&id).cloned());
        let noted = connection.and_then(|connection| connection.state.decode::<Value>().ok()).unwrap_or_default();
        let texts = |name: &str| {
            let texts = noted.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            texts.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        let failures = noted.get("failures").and_then(Value::as_u64).unwrap_or_default();
        Self {
            desired: texts("desired"),
            failures: u32::try_from(failures).unwrap_or(u32::MAX),
            revision: noted.get("revision").filter(|revision| !revision.is_null()).map(Value::to_string),
            resume: noted.get("resume").and_then(|resume| serde_json::from_value(resume.clone()).ok()),
            server_tasks: texts("server_tasks").into_iter().map(|task| Value::from(task).to_string()).collect(),
            seen: seen_in(state, upstream, recipe),
            tasks: tasks_in(state, client),
            begun: crate::record::is_roomy(state, 0).then(|| begun_in(state, client)),
        }
    }
}

fn begun_in(state: &State, client: &str) -> BTreeSet<u64> {
    let first = format!("mcp-{client}-");
    let number = |key: &str| key.strip_prefix(&first)?.parse().ok();
    state.effects.iter().filter_map(|effect| number(effect.id.as_str())).collect()
}

/// An answer may begin a task of the server's own, or tell the end of one: whether `open` is changed by it. Both eras have
/// tasks, by other names.
pub(super) fn saw_task(open: &mut BTreeSet<String>, request: &Envelope, answer: &Envelope) -> bool {
    let begun = || match answer.result_member("resultType") {
        Some("\"task\"") => answer.result_member("taskId").map(str::to_owned),
        // Up to 2025-11-25 the client asks for one.
        _ => {
            request.param("task")?;
            let task: Value = serde_json::from_str(answer.result_member("task")?).ok()?;
            task.get("taskId").filter(|id| id.is_string()).map(Value::to_string)
        }
    };
    let is_over = || {
        let ends = ["\"completed\"", "\"failed\"", "\"cancelled\""];
        answer.result_member("status").is_some_and(|status| ends.contains(&status))
    };
    match request.method() {
        Some("tools/call") if answer.bytes().len() <= TASK_BYTES && open.len() < TASKS => {
            begun().is_some_and(|task| open.insert(task))
        }
        Some("tasks/get") if !open.is_empty() && is_over() => {
            request.param("taskId").is_some_and(|task| open.remove(task))
        }
        Some("tasks/cancel" | "tasks/result") => request.param("taskId").is_some_and(|task| open.remove(task)),
        _ => false,
    }
}

impl Upstream {
    pub(super) fn note_connection(&mut self) {
        let Some(id) = connection_of(&self.terms.client) else { return };
        let status = match self.link.phase() {
            Phase::Connected | Phase::Suspect => "connected",
            _ => "offline",
        };
        let text = |request: &Envelope| String::from_utf8_lossy(request.bytes()).into_owned();
        let desired: Vec<String> = self.desired.again().map(text).collect();
        let revision = self.handshake.revision().and_then(|revision| serde_json::from_str::<Value>(revision).ok());
        let mut resume = self.live.as_ref().and_then(|live| live.resumable.get());
        if let Some(resume) = resume.as_mut().filter(|_| !self.daemon_ends()) {
            // Events come after it until then, and an old one brings them all again.
            resume.last_event = None;
        }
        let state = json!({
            "upstream": self.terms.upstream,
            "era": if self.handshake.is_modern() { "stateless" } else { "initialized" },
            "revision": revision,
            "desired": desired,
            // The next daemon goes on with it: its own start says nothing about the server.
            "failures": if status == "offline" { self.link.failures() } else { 0 },
            "resume": resume,
            "server_tasks": self.server_tasks.iter().filter_map(|task| serde_json::from_str(task).ok()).collect::<Vec<Value>>(),
        });
        let noted = Noted { status: status.to_owned(), state };
        // One write at a time: what changes meanwhile is written after it.
        if self.is_noting || self.noted.as_ref() == Some(&noted) {
            return;
        }
        self.is_noting = true;
        let recipe = serde_json::to_value(self.terms.recipe.without_secrets()).unwrap_or_default();
        let command = crate::record::connection(id, &recipe, &noted.state, &noted.status);
        self.noted = Some(noted);
        let (record, upstream) = (self.record.clone(), self.terms.upstream.clone());
        self.beside.spawn(async move {
            if let Err(error) = record.write(command).await {
                tracing::warn!(%upstream, %error, "how the connection stands could not be written down");
            }
            Done::Noted
        });
    }

    /// The daemon ends, not the client.
    pub(super) fn daemon_ends(&self) -> bool {
        self.terms.closing.as_ref().is_some_and(|closing| closing.borrow().is_some())
    }

    /// The client is gone, and its connection with it; a client of a daemon that ends comes back to the next one, and
    /// one that may come back and has not said all is waited for.
    pub(super) fn forget_connection(&mut self) {
        let comes_back = self.terms.is_lasting && self.draining_until_ms.is_none();
        let is_over = self.noted.is_some() && !self.daemon_ends() && !comes_back;
        let Some(connection) = connection_of(&self.terms.client).filter(|_| is_over) else { return };
        let (record, upstream) = (self.record.clone(), self.terms.upstream.clone());
        self.beside.spawn(async move {
            if let Err(error) = record.write(swarmkeep::Command::RemoveConnection { connection }).await {
                tracing::debug!(%upstream, %error, "a connection that is over stays in the log");
            }
            Done::Written
        });
    }
}
