//! The connection in the session's log: how it was made, how it stands, what is said again on it.
//!
//! Written when one of these changes, not at every loss: a server that flaps fills no log. Removed when the client goes; what
//! is there without one belonged to a daemon that was killed, and the same client finds it again.

use serde_json::{Value, json};
use swarmkeep::{EntityId, State};

use super::{Done, Phase, Upstream};
use crate::{envelope::Envelope, transport::Resume};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Noted {
    status: String,
    state: Value,
}

/// The connection of a client: its [`Terms::client`](super::Terms::client).
#[must_use]
pub fn connection_of(client: &str) -> Option<EntityId> {
    EntityId::new(format!("mcp-{client}")).ok()
}

fn noted_in(state: &State, client: &str) -> Value {
    let connection = connection_of(client).and_then(|id| state.connections.get(&id).cloned());
    connection.and_then(|connection| connection.state.decode::<Value>().ok()).unwrap_or_default()
}

/// What is to be said again, as the log has it.
#[must_use]
pub fn desired_in(state: &State, client: &str) -> Vec<String> {
    let noted = noted_in(state, client);
    let desired = noted.get("desired").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    desired.iter().filter_map(|request| request.as_str().map(str::to_owned)).collect()
}

/// Tries that had failed in a row, as the log has it, if the server could not be reached when that was written.
#[must_use]
pub fn failures_in(state: &State, client: &str) -> u32 {
    noted_in(state, client)
        .get("failures")
        .and_then(Value::as_u64)
        .map_or(0, |failures| u32::try_from(failures).unwrap_or(u32::MAX))
}

/// The revision that its server speaks, as JSON text, as the log has it.
#[must_use]
pub fn revision_in(state: &State, client: &str) -> Option<String> {
    noted_in(state, client).get("revision").filter(|revision| !revision.is_null()).map(Value::to_string)
}

/// The server's session that a daemon left, as the log has it.
#[must_use]
pub fn resume_in(state: &State, client: &str) -> Option<Resume> {
    noted_in(state, client).get("resume").and_then(|resume| serde_json::from_value(resume.clone()).ok())
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
        self.terms.closing.as_ref().is_some_and(|closing| *closing.borrow())
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
