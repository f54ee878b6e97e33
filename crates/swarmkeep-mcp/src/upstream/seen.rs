//! What a server said when it was last there, in the session's log: a client that starts while it is away is answered from
//! that, and finds it later.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmkeep::{Command, EntityId, Json, State};

use super::{Catalogue, Done, Upstream};
use crate::{
    calls::{CallId, Standing},
    envelope::{Edit, Envelope, compose},
    transport::Recipe,
};

/// Longer answers are not kept, in bytes: a connection's state is one value in a session.
const KEPT_BYTES: usize = 200 * 1024;

/// What is kept of a server. Texts are JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    /// The revision that the client asked for.
    pub asked: Option<String>,
    /// The result of `initialize`.
    pub initialize: Option<String>,
    /// The result of `tools/list`, if it was one page.
    pub tools: Option<String>,
}

fn connection(upstream: &str) -> Option<EntityId> {
    let name: String = upstream
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(100)
        .collect();
    EntityId::new(format!("mcp-server-{name}")).ok()
}

/// What the log has of a server: not of another one of the same name.
pub(super) fn seen_in(state: &State, upstream: &str, recipe: &Recipe) -> Seen {
    let found = connection(upstream).and_then(|id| state.connections.get(&id).cloned());
    let is_same = |of: &Recipe| of.is_of_same_server(recipe);
    let found = found.filter(|found| found.recipe.decode().as_ref().is_ok_and(is_same));
    found.and_then(|found| found.state.decode().ok()).unwrap_or_default()
}

impl Seen {
    /// What is known of its tools by that.
    pub(super) fn catalogue(&self) -> Option<Catalogue> {
        let mut catalogue = Catalogue::default();
        catalogue.add(self.tools.as_deref()?).map(|_| catalogue)
    }
}

impl Upstream {
    /// The server has answered the client's `initialize`.
    pub(super) fn saw_initialize(&mut self, answer: &Envelope) {
        let asked = self.handshake.asked().map(str::to_owned);
        let kept = answer.body().filter(|body| body.len() <= KEPT_BYTES).map(str::to_owned);
        let tools = self.seen.tools.take();
        self.keep_seen(Seen { asked, initialize: kept, tools });
    }

    /// The server has answered a `tools/list` that asked for the first page.
    pub(super) fn saw_tools(&mut self, answer: &Envelope) {
        let is_whole = answer.result_member("nextCursor").is_none_or(|cursor| cursor == "null");
        let kept = answer.body().filter(|body| is_whole && body.len() <= KEPT_BYTES).map(str::to_owned);
        self.keep_seen(Seen { tools: kept, ..self.seen.clone() });
    }

    fn keep_seen(&mut self, seen: Seen) {
        self.seen = seen;
        self.write_seen();
    }

    /// One write at a time: what changes meanwhile is written after it.
    pub(super) fn write_seen(&mut self) {
        if self.is_writing_seen || self.written_seen == self.seen {
            return;
        }
        let Some(connection) = connection(&self.terms.upstream) else { return };
        let recipe = Json::encode(&self.terms.recipe.without_secrets()).unwrap_or_default();
        let Ok(state) = Json::encode(&self.seen) else { return };
        self.is_writing_seen = true;
        self.written_seen = self.seen.clone();
        let command = Command::SetConnection { connection, recipe, state, status: "seen".to_owned() };
        let (record, upstream) = (self.record.clone(), self.terms.upstream.clone());
        self.beside.spawn(async move {
            if let Err(error) = record.write(command).await {
                tracing::debug!(%upstream, %error, "what the server said of itself could not be written down");
            }
            Done::Seen
        });
    }

    /// The result of `initialize` that the server gave to the same question.
    pub(super) fn initialize_as_seen(&self, asked: Option<&str>) -> Option<String> {
        self.seen.initialize.clone().filter(|_| self.seen.asked.as_deref() == asked && asked.is_some())
    }

    /// Answers what is held and can be answered so.
    pub(super) fn settle_as_seen(&mut self) {
        let answer = |(call, request, ..): (CallId, &Envelope, _, _)| Some((call, self.tools_as_seen(request)?));
        let answers: Vec<(CallId, Bytes)> =
            self.calls.open().filter(|(.., standing)| *standing != Standing::Sent).filter_map(answer).collect();
        let now_ms = self.now_ms();
        for (call, line) in answers {
            self.gave_seen = true;
            self.ledger(|calls, commands| calls.refused(now_ms, call, line, commands));
        }
    }

    /// An answer to a first page of tools, marked as old.
    fn tools_as_seen(&self, request: &Envelope) -> Option<Bytes> {
        let tools =
            self.seen.tools.as_ref().filter(|_| request.method() == Some("tools/list") && !request.has_cursor())?;
        let line = compose::result(request.id().unwrap_or("null"), tools);
        let answer = Envelope::parse(line).ok()?;
        if answer.result_member("_meta").is_some() {
            return Some(answer.edited(Edit::default()));
        }
        let inside = tools.trim_start().strip_prefix('{')?;
        let comma = if inside.trim_start().starts_with('}') { "" } else { "," };
        let marked = format!(r#"{{"_meta":{{"swarmkeep/stale":true}}{comma}{inside}"#);
        Some(compose::result(request.id().unwrap_or("null"), &marked))
    }
}
