//! What may be done about a call of which nobody knows whether it was carried out.
//!
//! | class | methods | when the connection is lost after it was sent | recorded as |
//! |---|---|---|---|
//! | local | `ping`, `initialize` | answered here | not |
//! | read | lists, reads, `prompts/get`, `completion/complete`, `tasks/get`, `tasks/list`, `tasks/result`, `server/discover` | sent again | not |
//! | desired | subscriptions, log level, changed roots | the latest word is said again on the next connection | the connection's state |
//! | idempotent | `tools/call` of a trusted server's tool that says it may be repeated; `tasks/cancel`, `tasks/update` | sent again, if what it said still stands | an effect, `idempotent` |
//! | at most once | everything else | never sent again: its outcome is unknown | an effect, `at_most_once` |
//!
//! A server's hints are its own word: they count only where a person trusts the server ([`Trust`]). They are read again on
//! every connection before anything is sent again: a tool whose schema or hints are others than when it was called, or which is
//! gone, is not called again ([`Asked::may_be_resent`]).

mod catalogue;

pub use self::catalogue::{Catalogue, Page, Schema, Tool};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, Kind};

/// What may be done about a doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Answered here.
    Local,
    /// Changes nothing: sent again.
    Read,
    /// Says what ought to be: the latest word is said again.
    Desired,
    /// May be done again: sent again, if that still stands.
    Idempotent,
    /// Never sent again in doubt.
    AtMostOnce,
}

impl Class {
    /// Whether it is recorded as an effect before it is sent.
    #[must_use]
    pub fn is_recorded(self) -> bool {
        matches!(self, Self::Idempotent | Self::AtMostOnce)
    }
}

/// What a person says about one server. The default trusts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trust {
    /// Whether the server's own hints (`readOnlyHint`, `idempotentHint`) count.
    pub hints: bool,
    /// What is known about single tools, whatever the server says.
    pub tools: BTreeMap<String, ToolTrust>,
}

impl Trust {
    /// A person's word on single tools, which goes before one that was said before.
    pub fn say(&mut self, idempotent: &[String], at_most_once: &[String]) {
        let word = |trust| move |tool: &String| (tool.clone(), trust);
        self.tools.extend(idempotent.iter().map(word(ToolTrust::Idempotent)));
        self.tools.extend(at_most_once.iter().map(word(ToolTrust::AtMostOnce)));
    }
}

/// What a person says about one tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolTrust {
    /// It may be called again.
    Idempotent,
    /// It must not be, whatever its hints say.
    AtMostOnce,
}

/// How a call was asked for, and on what grounds it has its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its class.
    pub class: Class,
    /// The tool as it was known, where the class rests on its hints.
    pub tool: Option<(String, Tool)>,
    /// Whether it asks for a further page.
    pub has_cursor: bool,
}

/// Why something is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAgain {
    /// It may have been done, and nobody says that it may be done twice.
    #[error("nothing says that it may be done twice")]
    AtMostOnce,
    /// The tools of the new connection are not known.
    #[error("the tools of the new connection could not be read")]
    NoCatalogue,
    /// The tool is gone.
    #[error("the server has no such tool any more")]
    ToolGone,
    /// The tool takes something else now.
    #[error("the tool's schema is another one now")]
    SchemaChanged,
    /// The tool no longer says that it may be repeated.
    #[error("the tool no longer says that it may be called again")]
    HintLost,
    /// A cursor means nothing in another session.
    #[error("a cursor means nothing in a new session: ask for the first page again")]
    Cursor,
    /// It was tried often enough.
    #[error("it was sent {RESENDS} times again already")]
    TooOften,
}

/// How often one call is sent again.
pub const RESENDS: u32 = 3;

/// The class of a message that a client sent.
#[must_use]
pub fn of(message: &Envelope, trust: &Trust, catalogue: Option<&Catalogue>) -> Asked {
    let has_cursor = message.has_cursor();
    let plain = |class| Asked { class, tool: None, has_cursor };
    // What a peer may read as another message, and what carries on a conversation, is never sent twice.
    if message.is_ambiguous() || message.is_continuation() {
        return plain(Class::AtMostOnce);
    }
    match message.method() {
        Some("ping" | "initialize") => plain(Class::Local),
        Some(
            "server/discover"
            | "tools/list"
            | "prompts/list"
            | "prompts/get"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "completion/complete"
            | "tasks/get"
            | "tasks/list"
            | "tasks/result",
        ) => plain(Class::Read),
        Some(
            "resources/subscribe"
            | "resources/unsubscribe"
            | "logging/setLevel"
            | "subscriptions/listen"
            | "notifications/roots/list_changed",
        ) => plain(Class::Desired),
        Some("tasks/cancel" | "tasks/update") => plain(Class::Idempotent),
        Some("tools/call") if message.kind() == Kind::Request => of_tool(message, trust, catalogue),
        _ => plain(Class::AtMostOnce),
    }
}

fn of_tool(message: &Envelope, trust: &Trust, catalogue: Option<&Catalogue>) -> Asked {
    let class = |class, tool| Asked { class, tool, has_cursor: false };
    let Some(name) = message.name() else { return class(Class::AtMostOnce, None) };
    match trust.tools.get(name) {
        Some(ToolTrust::Idempotent) => return class(Class::Idempotent, None),
        Some(ToolTrust::AtMostOnce) => return class(Class::AtMostOnce, None),
        None => {}
    }
    match catalogue.and_then(|catalogue| catalogue.tool(name)) {
        Some(tool) if trust.hints && tool.may_repeat() => class(Class::Idempotent, Some((name.to_owned(), tool))),
        _ => class(Class::AtMostOnce, None),
    }
}

impl Asked {
    /// Whether it may be sent again on a new connection after it was sent on one that was lost. `catalogue` is what the new
    /// connection's server says of its tools; `resent` counts how often it was sent again before.
    ///
    /// # Errors
    /// Why not.
    pub fn may_be_resent(&self, catalogue: Option<&Catalogue>, resent: u32) -> Result<(), NotAgain> {
        match self.class {
            Class::AtMostOnce => return Err(NotAgain::AtMostOnce),
            _ if resent >= RESENDS => return Err(NotAgain::TooOften),
            _ if self.has_cursor => return Err(NotAgain::Cursor),
            Class::Local | Class::Read | Class::Desired => return Ok(()),
            Class::Idempotent => {}
        }
        // A person's word, or a method that may be repeated by its definition, needs no hint.
        let Some((name, before)) = &self.tool else { return Ok(()) };
        let tool = catalogue.ok_or(NotAgain::NoCatalogue)?.tool(name).ok_or(NotAgain::ToolGone)?;
        if tool.schema != before.schema {
            return Err(NotAgain::SchemaChanged);
        }
        if (before.is_read_only && tool.is_read_only) || (before.is_idempotent && tool.is_idempotent) {
            Ok(())
        } else {
            Err(NotAgain::HintLost)
        }
    }

    /// Whether what was never sent may be sent for the first time: the tool must still be there and take what it took.
    /// `known` is what was known of the tool when the call came.
    ///
    /// # Errors
    /// Why not.
    pub fn may_be_sent_late(name: &str, known: Option<Tool>, catalogue: Option<&Catalogue>) -> Result<(), NotAgain> {
        // Nothing was known of it: whether there is such a tool is the server's to say.
        let Some(before) = known else { return Ok(()) };
        let tool = catalogue.ok_or(NotAgain::NoCatalogue)?.tool(name).ok_or(NotAgain::ToolGone)?;
        if tool.schema == before.schema { Ok(()) } else { Err(NotAgain::SchemaChanged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Envelope {
        Envelope::parse(text.to_owned()).unwrap()
    }

    fn tool(name: &str) -> Envelope {
        call(&format!(r#"{{"id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{}}}}}}"#))
    }

    fn catalogue(result: &str) -> Catalogue {
        let mut catalogue = Catalogue::default();
        catalogue.add(result).unwrap();
        catalogue
    }

    const TOOLS: &str = r#"{"tools":[
        {"name":"look","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}},
        {"name":"put","inputSchema":{"type":"object"},"annotations":{"idempotentHint":true,"readOnlyHint":false}},
        {"name":"pay","inputSchema":{"type":"object"}},
        {"name":"odd","inputSchema":{},"annotations":{"idempotentHint":"true"}},
        {"name":"twice","annotations":{"readOnlyHint":true}},{"name":"twice","annotations":{"readOnlyHint":true}}]}"#;

    #[test]
    fn nothing_is_trusted_unless_a_person_says_so() {
        let tools = catalogue(TOOLS);
        let trusting = Trust { hints: true, ..Trust::default() };
        for name in ["look", "put", "pay", "odd", "twice", "none"] {
            assert_eq!(of(&tool(name), &Trust::default(), Some(&tools)).class, Class::AtMostOnce, "{name}");
            assert_eq!(of(&tool(name), &trusting, None).class, Class::AtMostOnce, "{name}");
        }
        for name in ["look", "put"] {
            assert_eq!(of(&tool(name), &trusting, Some(&tools)).class, Class::Idempotent, "{name}");
        }
        for name in ["pay", "odd", "twice", "none"] {
            assert_eq!(of(&tool(name), &trusting, Some(&tools)).class, Class::AtMostOnce, "{name}");
        }
    }

    #[test]
    fn a_persons_word_about_a_tool_comes_before_its_hints() {
        let trust = Trust {
            hints: true,
            tools: [("look".to_owned(), ToolTrust::AtMostOnce), ("pay".to_owned(), ToolTrust::Idempotent)].into(),
        };
        let tools = catalogue(TOOLS);
        assert_eq!(of(&tool("look"), &trust, Some(&tools)).class, Class::AtMostOnce);
        let pay = of(&tool("pay"), &trust, Some(&tools));
        assert_eq!(pay.class, Class::Idempotent);
        assert_eq!(pay.may_be_resent(None, 0), Ok(()));
    }

    #[test]
    fn methods_have_classes_and_unknown_ones_are_never_repeated() {
        let class =
            |method: &str| of(&call(&format!(r#"{{"id":1,"method":"{method}"}}"#)), &Trust::default(), None).class;
        assert_eq!(class("ping"), Class::Local);
        assert_eq!(class("resources/read"), Class::Read);
        assert_eq!(class("logging/setLevel"), Class::Desired);
        assert_eq!(class("tasks/cancel"), Class::Idempotent);
        for method in ["sampling/createMessage", "x", "Tools/List", "tools/list/", "tools\\u0000/list"] {
            assert_eq!(class(method), Class::AtMostOnce, "{method}");
        }
    }

    #[test]
    fn what_may_be_read_in_two_ways_is_never_repeated() {
        for text in [
            r#"{"id":1,"method":"tools/call","method":"tools/list"}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":"pay","name":"look"}}"#,
            r#"{"id":1,"method":"prompts/get","params":{"name":"p","requestState":"s"}}"#,
        ] {
            let trust = Trust { hints: true, ..Trust::default() };
            assert_eq!(of(&call(text), &trust, Some(&catalogue(TOOLS))).class, Class::AtMostOnce, "{text}");
        }
    }

    #[test]
    fn hints_and_schema_are_read_again_before_a_resend() {
        let trust = Trust { hints: true, ..Trust::default() };
        let look = of(&tool("look"), &trust, Some(&catalogue(TOOLS)));
        let now = |tools: &str| look.may_be_resent(Some(&catalogue(&format!(r#"{{"tools":[{tools}]}}"#))), 0);
        assert_eq!(look.may_be_resent(Some(&catalogue(TOOLS)), 0), Ok(()));
        assert_eq!(look.may_be_resent(Some(&catalogue(TOOLS)), RESENDS), Err(NotAgain::TooOften));
        assert_eq!(look.may_be_resent(None, 0), Err(NotAgain::NoCatalogue));
        assert_eq!(now(""), Err(NotAgain::ToolGone));
        assert_eq!(now(r#"{"name":"look","inputSchema":{"type":"object"}}"#), Err(NotAgain::HintLost));
        // Another hint is another promise.
        let other = r#"{"name":"look","inputSchema":{"type":"object"},"annotations":{"idempotentHint":true}}"#;
        assert_eq!(now(other), Err(NotAgain::HintLost));
        let changed =
            r#"{"name":"look","inputSchema":{"type":"object","required":["a"]},"annotations":{"readOnlyHint":true}}"#;
        assert_eq!(now(changed), Err(NotAgain::SchemaChanged));
    }

    #[test]
    fn reads_are_sent_again_but_not_the_next_page_of_a_list() {
        let list = |params: &str| {
            of(&call(&format!(r#"{{"id":1,"method":"tools/list","params":{params}}}"#)), &Trust::default(), None)
        };
        assert_eq!(list("{}").may_be_resent(None, 0), Ok(()));
        assert_eq!(list(r#"{"cursor":"abc"}"#).may_be_resent(None, 0), Err(NotAgain::Cursor));
    }

    #[test]
    fn a_first_delivery_that_comes_late_needs_the_same_tool() {
        let tools = catalogue(TOOLS);
        let pay = tools.tool("pay");
        assert_eq!(Asked::may_be_sent_late("pay", pay, Some(&tools)), Ok(()));
        assert_eq!(Asked::may_be_sent_late("pay", None, None), Ok(()));
        assert_eq!(Asked::may_be_sent_late("pay", pay, None), Err(NotAgain::NoCatalogue));
        let gone = catalogue(r#"{"tools":[]}"#);
        assert_eq!(Asked::may_be_sent_late("pay", pay, Some(&gone)), Err(NotAgain::ToolGone));
    }
}
