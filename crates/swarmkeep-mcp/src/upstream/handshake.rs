//! The handshake: the client's own, carried out again on every connection.
//!
//! The first time, the client's `initialize` and its `notifications/initialized` are forwarded as they came. On every later
//! connection the same lines are sent again, the server's answer is compared with the first one's revision, what ought to be
//! is said again ([`crate::desired`]), and the list of tools is read where something depends on it. Clients of revision
//! 2026-07-28 and later have no handshake: a process that was started for one is asked whether it is there before a call with an
//! effect goes to it, and for its tools where something depends on them.

use bytes::Bytes;
use serde_json::json;
use swarmkeep::core::failure::ProtocolCause;

use super::{
    CallId, Catalogue, Class, Edit, Envelope, Gate, Generation, Kind, Standing, Upstream, breach, calls, compose, link,
};
use crate::class::Asked;

/// Pages of a list of tools that are read.
const PAGES: u32 = 100;

/// A request of the proxy's own.
#[derive(Debug, Clone)]
pub(super) enum Own {
    Initialize,
    /// Whether the server still knows the session that an earlier daemon left.
    Resume,
    /// Whether there is anybody: of a server that has no handshake.
    Hello,
    /// Said again; the answer does not matter.
    Again,
    Tools {
        so_far: Catalogue,
        pages: u32,
        is_handshake: bool,
    },
    Probe,
}

/// What is known of the handshake.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    /// The client's `initialize`, and the number of its line while it has no answer.
    initialize: Option<(Envelope, Option<u64>)>,
    /// What the server answered first: its revision, as JSON text.
    revision: Option<String>,
    /// The client's `notifications/initialized`.
    initialized: Option<Bytes>,
    /// The connection on which the server has answered.
    done_on: Option<Generation>,
    /// The connection on which `notifications/initialized` was sent.
    initialized_on: Option<Generation>,
    under_way: bool,
    /// When it has failed.
    until_ms: Option<u64>,
    /// What a client of the stateless revisions says with every request.
    meta: Option<String>,
}

impl Handshake {
    /// Of a client that has shaken hands before.
    pub(super) fn known(initialize: Option<Bytes>, revision: Option<String>) -> Self {
        let initialize = initialize.and_then(|line| Envelope::parse(line).ok());
        let initialized = initialize.is_some().then(|| compose::notification("notifications/initialized", "{}"));
        let revision = revision.filter(|_| initialize.is_some());
        Self { initialize: initialize.map(|message| (message, None)), initialized, revision, ..Self::default() }
    }

    /// Whether it was carried out, and nobody waits for its answer: a session that is gone on with needs none.
    pub(super) fn may_go_on(&self) -> bool {
        self.revision.is_some() && self.initialize.as_ref().is_some_and(|(_, waiting)| waiting.is_none())
    }

    /// Whether the client waits for the answer to its `initialize`.
    pub(super) fn is_awaited(&self) -> bool {
        self.initialize.as_ref().is_some_and(|(_, waiting)| waiting.is_some())
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    pub(super) fn due_ms(&self) -> Option<u64> {
        self.until_ms.filter(|_| self.under_way)
    }

    /// With the connection it was carried out on.
    pub(super) fn is_lost(&mut self) {
        self.under_way = false;
    }

    pub(super) fn was_done_on(&self, generation: Generation) -> bool {
        self.done_on == Some(generation)
    }

    pub(super) fn has_batches(&self) -> bool {
        self.revision.as_deref() == Some("\"2025-03-26\"")
    }

    /// The revision that the client asked for, as JSON text.
    pub(super) fn asked(&self) -> Option<&str> {
        self.initialize.as_ref().and_then(|(message, _)| message.param("protocolVersion"))
    }

    /// The revision that was agreed upon, as JSON text.
    pub(super) fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    pub(super) fn saw(&mut self, message: &Envelope) {
        if self.meta.is_none() {
            self.meta = message.client_meta();
        }
    }

    pub(super) fn is_modern(&self) -> bool {
        self.meta.is_some() && self.initialize.is_none()
    }

    /// The params of a request of our own; `more` are members of it.
    fn params(&self, more: &str) -> String {
        let meta = self.meta.as_ref().filter(|_| self.is_modern()).map(|meta| format!(r#""_meta":{meta}"#));
        let members = [meta.unwrap_or_default(), more.to_owned()];
        let members: Vec<String> = members.into_iter().filter(|member| !member.is_empty()).collect();
        format!("{{{}}}", members.join(","))
    }
}

impl Upstream {
    /// The client begins.
    pub(super) fn initialize(&mut self, number: u64, message: Envelope) {
        if let Some((first, waiting)) = &self.handshake.initialize {
            if waiting.is_none() && first.param("protocolVersion") == message.param("protocolVersion") {
                // Said again, and nothing is different: the server is asked again, and the client gets its answer.
            } else if waiting.is_some() {
                let line = compose::error(message.id().unwrap_or("null"), -32600, "`initialize` is under way", None);
                return self.give(Some(number), line);
            }
        }
        self.handshake.initialize = Some((message, Some(number)));
        (self.handshake.revision, self.handshake.initialized, self.handshake.done_on) = (None, None, None);
        self.link(link::Event::Wanted);
        match &self.live {
            Some(live) if self.link.phase() != link::Phase::Opening => self.shake_hands(live.generation),
            _ => self.settle_held(),
        }
    }

    /// The client has taken the server's answer.
    pub(super) fn initialized(&mut self, line: Bytes) {
        self.handshake.initialized = Some(line);
        if let Some(generation) = self.live.as_ref().map(|live| live.generation)
            && self.handshake.was_done_on(generation)
        {
            self.say_initialized(generation);
        }
    }

    fn say_initialized(&mut self, generation: Generation) {
        if self.handshake.initialized_on == Some(generation) {
            return;
        }
        if let Some(line) = self.handshake.initialized.clone() {
            self.handshake.initialized_on = Some(generation);
            self.send(None, line);
            // The client may call a tool before it asks what there is.
            if self.terms.trust.hints && self.catalogue_on != Some(generation) && !self.handshake.is_under_way() {
                self.begin_handshake();
                self.calls.hold_effects();
                self.list_tools(Catalogue::default(), 0, None, true);
                self.tell_in_flight();
            }
        }
    }

    /// Begins the handshake on a connection, if there is one to carry out.
    pub(super) fn shake_hands(&mut self, generation: Generation) {
        if self.resumes_on == Some(generation) && self.handshake.may_go_on() {
            self.begin_handshake();
            self.calls.block();
            let id = self.calls.own_id();
            self.own.insert(id, Own::Resume);
            self.send(Some(id), compose::request(&id.to_string(), "ping", "{}"));
            return self.tell_in_flight();
        }
        let Some((initialize, _)) = &self.handshake.initialize else {
            match self.owes_hello(generation) {
                true => return self.say_hello(generation),
                false => return self.hands_shaken(generation),
            }
        };
        if self.handshake.under_way && self.own.values().any(|own| matches!(own, Own::Initialize)) {
            return;
        }
        let initialize = initialize.clone();
        self.begin_handshake();
        self.calls.block();
        let id = self.calls.own_id();
        let name = id.to_string();
        let line = Envelope::line(initialize.edited(Edit { id: Some(&name), ..Edit::default() }));
        self.own.insert(id, Own::Initialize);
        self.send(Some(id), line);
        self.tell_in_flight();
    }

    /// To a server that has no handshake: a process that was started may end before it has read a word, and what it was sent then
    /// would be in doubt.
    fn owes_hello(&self, generation: Generation) -> bool {
        let may_be_nobody = self.terms.recipe.is_a_program() && self.heard_on != Some(generation);
        self.handshake.is_modern() && (may_be_nobody || self.lacks_tools(generation))
    }

    fn say_hello(&mut self, generation: Generation) {
        self.begin_handshake();
        self.calls.hold_effects();
        if self.lacks_tools(generation) {
            return self.list_tools(Catalogue::default(), 0, None, true);
        }
        let id = self.calls.own_id();
        self.own.insert(id, Own::Hello);
        self.send(Some(id), compose::request(&id.to_string(), "server/discover", &self.handshake.params("")));
        self.tell_in_flight();
    }

    /// A call that has an effect is about to go to a server of which less is known than its class, or its worth, depends on.
    pub(super) fn look_before_sending(&mut self, class: Class) {
        let Some(generation) = self.live.as_ref().map(|live| live.generation) else { return };
        let is_up = self.link.gate(self.now_ms()) == Gate::Pass && !self.handshake.is_under_way();
        if is_up && class.is_recorded() && self.owes_hello(generation) {
            self.say_hello(generation);
        }
    }

    fn begin_handshake(&mut self) {
        self.handshake.under_way = true;
        self.handshake.until_ms = Some(self.now_ms().saturating_add(self.terms.timing.sync_ms));
    }

    /// An answer to a request of our own.
    pub(super) fn own_answer(&mut self, generation: Generation, own: Own, answer: &Envelope) {
        match own {
            Own::Initialize => self.answered(generation, answer),
            // Whatever it says to it, it has the session.
            Own::Resume => self.goes_on(generation),
            // Whatever it says to it, it is there.
            Own::Hello if self.lacks_tools(generation) => self.list_tools(Catalogue::default(), 0, None, true),
            Own::Hello => self.hands_shaken(generation),
            Own::Again | Own::Probe => {}
            Own::Tools { so_far, pages, is_handshake } => self.listed(generation, so_far, pages, is_handshake, answer),
        }
    }

    fn answered(&mut self, generation: Generation, answer: &Envelope) {
        let Some((initialize, number)) = &mut self.handshake.initialize else { return };
        let client_id = initialize.id().unwrap_or("null").to_owned();
        let number = number.take();
        let is_first = number.is_some();
        if let Some(number) = number {
            self.give(Some(number), answer.edited(Edit { id: Some(&client_id), ..Edit::default() }));
        }
        if answer.kind() == Kind::Error {
            if is_first {
                // The client may say something else; until then there was no handshake.
                self.handshake.initialize = None;
                return self.hands_shaken(generation);
            }
            tracing::warn!(upstream = %self.terms.upstream, error = ?answer.error(), "the server refuses the handshake that it took before");
            return self.refused(generation, "the server refuses the handshake");
        }
        let revision = answer.result_member("protocolVersion").map(str::to_owned);
        let before = self.handshake.revision.clone();
        let breach = |what: String| breach::breach(ProtocolCause::Revision, what, answer.bytes());
        let named = |revision: &Option<String>| revision.clone().unwrap_or_else(|| "none".to_owned());
        if !is_first && before.is_some() && before != revision {
            let what = format!("it speaks revision {} now, and spoke {} before", named(&revision), named(&before));
            self.breached(generation, breach(what));
            tracing::warn!(upstream = %self.terms.upstream, ?before, now = ?revision, "the server speaks another revision now");
            return self.refused(
                generation,
                "the server speaks another revision of the protocol than before: start the client again",
            );
        }
        if !breach::is_revision(revision.as_deref(), self.handshake.asked()) {
            let what = format!("its answer to `initialize` names no revision of the protocol: {}", named(&revision));
            self.breached(generation, breach(what));
        }
        self.handshake.revision = revision;
        self.handshake.done_on = Some(generation);
        self.saw_initialize(answer);
        if is_first {
            // The client says `initialized` itself.
            return self.hands_shaken(generation);
        }
        self.say_initialized(generation);
        let again: Vec<Envelope> = self.desired.again().cloned().collect();
        for request in again {
            let id = self.calls.own_id();
            let name = id.to_string();
            self.own.insert(id, Own::Again);
            self.send(Some(id), Envelope::line(request.edited(Edit { id: Some(&name), ..Edit::default() })));
        }
        if self.needs_tools() {
            self.list_tools(Catalogue::default(), 0, None, true);
        } else {
            self.hands_shaken(generation);
        }
    }

    /// The server knows the session, and with it what the client has said.
    fn goes_on(&mut self, generation: Generation) {
        tracing::info!(upstream = %self.terms.upstream, "the server still has the session of before");
        (self.handshake.done_on, self.handshake.initialized_on) = (Some(generation), Some(generation));
        if self.needs_tools() {
            self.list_tools(Catalogue::default(), 0, None, true);
        } else {
            self.hands_shaken(generation);
        }
    }

    fn lacks_tools(&self, generation: Generation) -> bool {
        self.needs_tools() && self.catalogue_on != Some(generation)
    }

    /// Whether something depends on what the server says of its tools.
    fn needs_tools(&self) -> bool {
        let has_known = self.catalogue.is_some() || self.known_before.is_some();
        self.terms.trust.hints || self.gave_seen || (has_known && self.calls.has_tool_waiting())
    }

    fn refused(&mut self, generation: Generation, why: &str) {
        self.handshake.under_way = false;
        self.refusal = Some(why.to_owned());
        self.link(link::Event::Refused(generation));
    }

    fn list_tools(&mut self, so_far: Catalogue, pages: u32, cursor: Option<&str>, is_handshake: bool) {
        let id = self.calls.own_id();
        let params = self.handshake.params(&cursor.map(|cursor| format!(r#""cursor":{cursor}"#)).unwrap_or_default());
        self.own.insert(id, Own::Tools { so_far, pages, is_handshake });
        self.send(Some(id), compose::request(&id.to_string(), "tools/list", &params));
    }

    fn listed(
        &mut self,
        generation: Generation,
        mut so_far: Catalogue,
        pages: u32,
        is_handshake: bool,
        answer: &Envelope,
    ) {
        let page = answer.body().filter(|_| answer.kind() == Kind::Result).and_then(|body| so_far.add(body));
        match page.as_ref().and_then(|page| page.next.as_deref()) {
            Some(cursor) if pages < PAGES => return self.list_tools(so_far, pages + 1, Some(cursor), is_handshake),
            _ => {}
        }
        let before = std::mem::replace(&mut self.catalogue, page.is_some().then_some(so_far));
        self.catalogue_on = Some(generation);
        if !is_handshake {
            return;
        }
        self.class_anew();
        let gave_seen = std::mem::take(&mut self.gave_seen);
        if gave_seen || (before.is_some() && before != self.catalogue) {
            self.give(None, compose::notification("notifications/tools/list_changed", "{}"));
        }
        self.hands_shaken(generation);
    }

    /// Calls that came before anything was known of their tools.
    fn class_anew(&mut self) {
        let is_early = |(.., standing): &(_, _, _, Standing)| *standing == Standing::Accepted;
        let early: Vec<(CallId, Asked)> =
            self.calls.open().filter(is_early).map(|(call, message, ..)| (call, self.class_of(message))).collect();
        for (call, asked) in early {
            self.calls.class_anew(call, asked);
        }
    }

    /// The server's tools are others now.
    pub(super) fn tools_changed(&mut self, generation: Generation) {
        self.catalogue = None;
        let asks = self.own.values().any(|own| matches!(own, Own::Tools { .. }));
        if self.terms.trust.hints && !asks && self.handshake.was_done_on(generation) {
            self.list_tools(Catalogue::default(), 0, None, false);
        }
    }

    fn hands_shaken(&mut self, generation: Generation) {
        self.handshake.under_way = false;
        self.tell_in_flight();
        self.link(link::Event::Synced(generation));
        self.troubles_synced(generation);
        self.note_connection();
        if self.link.gate(self.now_ms()) == Gate::Pass {
            self.release();
        }
    }

    pub(super) fn probe(&mut self, generation: Generation) {
        if self.live.as_ref().is_none_or(|live| live.generation != generation) {
            return;
        }
        if !self.handshake.is_modern() && !self.handshake.was_done_on(generation) {
            // A server that waits for its client's first word is not asked anything, and owes no sign of life.
            return self.link(link::Event::Heard(generation));
        }
        let id = self.calls.own_id();
        // Whatever a server answers is a sign of life: that it does not know the method, too.
        let method = if self.handshake.is_modern() { "server/discover" } else { "ping" };
        self.own.insert(id, Own::Probe);
        self.send(Some(id), compose::request(&id.to_string(), method, &self.handshake.params("")));
    }

    /// The client waits for its handshake, and nobody can be reached.
    pub(super) fn handshake_offline(&mut self) {
        let Some((initialize, number)) = &mut self.handshake.initialize else { return };
        let Some(number) = number.take() else { return };
        let client_id = initialize.id().unwrap_or("null").to_owned();
        let asked = self.handshake.asked().map(str::to_owned);
        if let Some(result) = self.initialize_as_seen(asked.as_deref()) {
            let answer = Envelope::parse(compose::result(&client_id, &result));
            self.handshake.revision =
                answer.as_ref().ok().and_then(|answer| answer.result_member("protocolVersion")).map(str::to_owned);
            self.gave_seen = true;
            return self.give(Some(number), compose::result(&client_id, &result));
        }
        let why = self.last_loss.clone().unwrap_or_else(|| "it cannot be reached".to_owned());
        let text = format!("`{}`: {why}", self.terms.upstream);
        let mut facts = json!({ "upstream": self.terms.upstream, "executed": "no", "retryable": true });
        if let Gate::Offline { retry_after_ms } = self.link.gate(self.now_ms())
            && let Some(facts) = facts.as_object_mut()
        {
            facts.insert("retryAfterMs".to_owned(), retry_after_ms.into());
        }
        let line = compose::error(&client_id, calls::CODE_OFFLINE, &text, Some(&facts));
        self.handshake.initialize = None;
        self.give(Some(number), line);
    }
}
