//! What the relay knows of the conversation it carries: which requests have no answer yet, and how the client began.
//!
//! Only that: no tool, no protocol revision. When the daemon dies and another one answers, the client's own `initialize` is
//! said again and its answer kept from the client, then every request without an answer. Reads may be made twice; a write has
//! its request id and is carried out once.

use std::collections::VecDeque;

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;

/// Requests without an answer, at most; the client is not read meanwhile. Half of the free-form request ids that a session
/// remembers: what is said again after a crash must not have been forgotten behind newer requests of the same client.
const WAITING: usize = 32;
/// Their bytes, at most.
const WAITING_BYTES: usize = 64 << 20;
/// Longest message. The server takes no longer line either.
pub(super) const LINE_BYTES: usize = 16 << 20;

/// JSON-RPC's codes, and ours for a daemon that cannot be reached.
const NOT_JSON: i64 = -32700;
const NOT_A_REQUEST: i64 = -32600;
const OFFLINE: i64 = -32010;

/// Who is asked for what: `1` is not `"1"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl Id {
    fn json(&self) -> serde_json::Value {
        match self {
            Self::Number(number) => (*number).into(),
            Self::Text(text) => text.as_str().into(),
        }
    }
}

/// The fields of a message that matter here.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: Option<String>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// A field that is there, be it `null`: an id that is null is no missing one.
fn present<'de, D: Deserializer<'de>>(field: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(field).map(Some)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cancelled {
    request_id: Id,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Begun {
    protocol_version: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Option<Begun>,
}

/// A request without an answer.
#[derive(Debug)]
struct Waiting {
    id: Id,
    line: Vec<u8>,
    /// It ends when the client says so, not by an answer.
    is_endless: bool,
}

/// How the client began, if it began with `initialize`.
#[derive(Debug)]
struct Beginning {
    id: Id,
    line: Vec<u8>,
    /// What was agreed on; none: not answered yet.
    revision: Option<String>,
    /// `notifications/initialized`, once said.
    done: Option<Vec<u8>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    beginning: Option<Beginning>,
    /// The answer to the `initialize` that was said again is not the client's.
    keeps_back: bool,
}

/// What becomes of a message of the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It goes to the server.
    Pass,
    /// It does not: this is its answer.
    Refused(Vec<u8>),
    /// There is nothing in it.
    Nothing,
}

/// What becomes of a message of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It goes to the client.
    Pass,
    /// It stays here.
    Keep,
    /// Another daemon agreed on another revision than the client was told.
    Changed { from: String, to: String },
}

impl Conversation {
    /// Whether there is room for another request.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING && self.waiting_bytes < WAITING_BYTES
    }

    /// Whether somebody waits for an answer that has to come.
    pub(super) fn is_owed(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.is_endless)
    }

    /// Whether a connection is of use, though nothing new is said.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The client says something: one line, without its end.
    pub(super) fn say(&mut self, line: &[u8]) -> Said {
        if line.trim_ascii().is_empty() {
            return Said::Nothing;
        }
        // A struct would be read from a list as well, field by field.
        if line.trim_ascii_start().starts_with(b"[") {
            return Said::Refused(match serde_json::from_slice::<IgnoredAny>(line) {
                Ok(_) => error_line(None, NOT_A_REQUEST, "batches are not taken: one message a line"),
                Err(error) => error_line(None, NOT_JSON, &format!("this is no JSON: {error}")),
            });
        }
        let head: Head<'_> = match serde_json::from_slice(line) {
            Ok(head) => head,
            Err(error) if error.is_data() => {
                return Said::Refused(error_line(None, NOT_A_REQUEST, &format!("this is no message: {error}")));
            }
            Err(error) => return Said::Refused(error_line(None, NOT_JSON, &format!("this is no JSON: {error}"))),
        };
        let Some(method) = head.method else {
            // An answer to something the server asked.
            return Said::Pass;
        };
        let Some(id) = head.id else {
            self.note(&method, head.params, line);
            return Said::Pass;
        };
        let Ok(id) = serde_json::from_str::<Id>(id.get()) else {
            return Said::Refused(error_line(None, NOT_A_REQUEST, "an id is a text or a whole number"));
        };
        if self.waiting.iter().any(|waiting| waiting.id == id) {
            return Said::Refused(error_line(Some(&id), NOT_A_REQUEST, "a request with this id has no answer yet"));
        }
        if method == "initialize" {
            self.beginning = Some(Beginning { id: id.clone(), line: line.to_vec(), revision: None, done: None });
        }
        self.waiting_bytes += line.len();
        self.waiting.push_back(Waiting { id, line: line.to_vec(), is_endless: method == "subscriptions/listen" });
        Said::Pass
    }

    /// A notification.
    fn note(&mut self, method: &str, params: Option<&RawValue>, line: &[u8]) {
        match method {
            "notifications/initialized" => {
                if let Some(beginning) = &mut self.beginning {
                    beginning.done = Some(line.to_vec());
                }
            }
            "notifications/cancelled" => {
                if let Some(cancelled) = params.and_then(|params| serde_json::from_str::<Cancelled>(params.get()).ok())
                {
                    self.settle(&cancelled.request_id);
                }
            }
            _ => {}
        }
    }

    fn settle(&mut self, id: &Id) -> bool {
        match self.waiting.iter().position(|waiting| waiting.id == *id) {
            Some(at) => {
                if let Some(waiting) = self.waiting.remove(at) {
                    self.waiting_bytes -= waiting.line.len();
                }
                true
            }
            None => false,
        }
    }

    /// The server says something.
    pub(super) fn hear(&mut self, line: &[u8]) -> Heard {
        let Ok(Head { id: Some(id), method: None, .. }) = serde_json::from_slice(line) else { return Heard::Pass };
        let Ok(id) = serde_json::from_str::<Id>(id.get()) else { return Heard::Pass };
        if let Some(beginning) = self.beginning.as_mut().filter(|beginning| beginning.id == id) {
            let agreed = serde_json::from_slice::<Answer>(line).ok().and_then(|answer| answer.result);
            let agreed = agreed.map(|begun| begun.protocol_version);
            if std::mem::take(&mut self.keeps_back) {
                return match (&beginning.revision, agreed) {
                    (Some(from), Some(to)) if *from != to => Heard::Changed { from: from.clone(), to },
                    _ => Heard::Keep,
                };
            }
            beginning.revision = agreed;
        }
        // An answer that nobody waits for: to a request that was cancelled, or made twice.
        if self.settle(&id) { Heard::Pass } else { Heard::Keep }
    }

    /// What a new connection begins with.
    pub(super) fn again(&mut self) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        self.keeps_back = false;
        if let Some(Beginning { line, revision: Some(_), done, .. }) = &self.beginning {
            self.keeps_back = true;
            lines.push(line.clone());
            lines.extend(done.clone());
        }
        lines.extend(self.waiting.iter().map(|waiting| waiting.line.clone()));
        // Said before it was answered: it comes after the request it is about.
        if let Some(Beginning { revision: None, done: Some(done), .. }) = &self.beginning {
            lines.push(done.clone());
        }
        lines
    }

    /// Nobody can be asked: everybody who waits is told.
    pub(super) fn give_up(&mut self, why: &str) -> Vec<Vec<u8>> {
        self.waiting_bytes = 0;
        self.waiting.drain(..).map(|waiting| error_line(Some(&waiting.id), OFFLINE, why)).collect()
    }
}

/// A line that is too long, refused.
pub(super) fn too_long() -> Vec<u8> {
    error_line(None, NOT_A_REQUEST, &format!("a message has at most {LINE_BYTES} bytes"))
}

fn error_line(id: Option<&Id>, code: i64, message: &str) -> Vec<u8> {
    let id = id.map_or(serde_json::Value::Null, Id::json);
    let error = serde_json::json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } });
    error.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &[u8] = br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    const BEGUN: &[u8] = br#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#;
    const DONE: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

    fn ask(id: &str) -> Vec<u8> {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"x"}}}}"#).into_bytes()
    }

    fn answer(id: &str) -> Vec<u8> {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).into_bytes()
    }

    #[test]
    fn a_new_connection_hears_the_beginning_again_and_what_has_no_answer() {
        let mut talk = Conversation::default();
        assert_eq!(talk.say(BEGIN), Said::Pass);
        assert_eq!(talk.again(), [BEGIN.to_vec()], "not answered: said again as it is");
        assert_eq!(talk.hear(BEGUN), Heard::Pass);
        assert_eq!(talk.say(DONE), Said::Pass);
        for id in ["1", "\"1\"", "2"] {
            assert_eq!(talk.say(&ask(id)), Said::Pass);
        }
        assert_eq!(talk.hear(&answer("1")), Heard::Pass);
        assert_eq!(talk.again(), [BEGIN.to_vec(), DONE.to_vec(), ask("\"1\""), ask("2")]);
        assert_eq!(talk.hear(BEGUN), Heard::Keep, "the client has had it");
        assert_eq!(talk.hear(&answer("2")), Heard::Pass);
        assert_eq!(talk.hear(&answer("2")), Heard::Keep, "an answer is given once");
        assert!(talk.is_owed());
        assert_eq!(talk.hear(&answer("\"1\"")), Heard::Pass);
        assert!(!talk.is_waiting());
    }

    #[test]
    fn another_revision_than_the_client_was_told_is_said() {
        let mut talk = Conversation::default();
        talk.say(BEGIN);
        talk.hear(BEGUN);
        talk.again();
        let other = br#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18"}}"#;
        let changed = Heard::Changed { from: "2025-11-25".into(), to: "2025-06-18".into() };
        assert_eq!(talk.hear(other), changed);
    }

    #[test]
    fn what_is_cancelled_is_not_asked_again() {
        let mut talk = Conversation::default();
        talk.say(&ask("7"));
        talk.say(br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#);
        assert!(talk.again().is_empty() && !talk.is_waiting());
        assert_eq!(talk.hear(&answer("7")), Heard::Keep);
    }

    #[test]
    fn what_is_no_message_is_answered_here() {
        let mut talk = Conversation::default();
        let refused = |said: Said| match said {
            Said::Refused(line) => {
                serde_json::from_slice::<serde_json::Value>(&line).unwrap()["error"]["code"].as_i64()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(talk.say(b"{")), Some(NOT_JSON));
        assert_eq!(refused(talk.say(b"hello")), Some(NOT_JSON));
        assert_eq!(refused(talk.say(b"[1]")), Some(NOT_A_REQUEST));
        assert_eq!(refused(talk.say(b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]")), Some(NOT_A_REQUEST));
        for id in ["1.5", "null", "{}", "9223372036854775808", "true"] {
            assert_eq!(refused(talk.say(&ask(id))), Some(NOT_A_REQUEST), "{id}");
        }
        talk.say(&ask("3"));
        assert_eq!(refused(talk.say(&ask("3"))), Some(NOT_A_REQUEST));
        assert_eq!(talk.say(b"  "), Said::Nothing);
    }

    #[test]
    fn who_cannot_be_answered_is_told_once() {
        let mut talk = Conversation::default();
        talk.say(&ask("1"));
        talk.say(&ask("\"a\""));
        let told = talk.give_up("nobody answers");
        assert_eq!(told.len(), 2);
        assert!(String::from_utf8_lossy(&told[1]).contains("\"id\":\"a\""));
        assert!(talk.give_up("nobody answers").is_empty());
    }
}
