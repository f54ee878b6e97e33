//! What a server says of its tools.

use std::collections::BTreeMap;

use crate::envelope::scan;

/// BLAKE3 of a tool's input schema, as its bytes came. A server that writes the same schema in another order has another one
/// here: then nothing is repeated, which is the safe side.
pub type Schema = [u8; 32];

/// What of a tool matters for whether a call of it may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// What it takes.
    pub schema: Schema,
    /// It says that it changes nothing.
    pub is_read_only: bool,
    /// It says that the same call again changes nothing more.
    pub is_idempotent: bool,
}

impl Tool {
    /// Whether it says of itself that it may be called again.
    #[must_use]
    pub fn may_repeat(self) -> bool {
        self.is_read_only || self.is_idempotent
    }
}

/// The tools of one connection's server, page by page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    tools: BTreeMap<String, Tool>,
}

/// What a page of a list left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The cursor of the next page, as JSON text.
    pub next: Option<String>,
}

impl Catalogue {
    /// Takes in the result of a `tools/list`, as JSON text. `None`: it is not one.
    pub fn add(&mut self, result: &str) -> Option<Page> {
        let text = result.as_bytes();
        let whole = scan::space(text, 0)..text.len();
        let tools = scan::member(text, &whole, "tools")?;
        if text.get(tools.start) != Some(&b'[') {
            return None;
        }
        let next = scan::member(text, &whole, "nextCursor")
            .and_then(|span| result.get(span))
            .filter(|cursor| *cursor != "null")
            .map(str::to_owned);
        scan::elements(text, tools.start, |tool| {
            let Some(name) = scan::member(text, &tool, "name").and_then(|name| scan::string(text, &name)) else {
                return;
            };
            let schema = scan::member(text, &tool, "inputSchema").and_then(|span| text.get(span)).unwrap_or_default();
            let hints = scan::member(text, &tool, "annotations");
            let says = |hint: &str| {
                let value = hints.as_ref().and_then(|hints| scan::member(text, hints, hint));
                value.and_then(|span| text.get(span)) == Some(b"true")
            };
            let found = Tool {
                schema: *blake3::hash(schema).as_bytes(),
                is_read_only: says("readOnlyHint"),
                is_idempotent: says("idempotentHint"),
            };
            // Two tools of one name: which of them a call means is not known, so neither's word counts.
            self.tools
                .entry(name)
                .and_modify(|tool| (tool.is_read_only, tool.is_idempotent) = (false, false))
                .or_insert(found);
        })
        .ok()?;
        Some(Page { next })
    }

    /// A tool by name.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<Tool> {
        self.tools.get(name).copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tools.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }
}
