//! Calls that wait for a server that is away, in their order, rather than be answered soon that it is.
//!
//! A person names the tools. What waits was never sent: it goes out once the server is there and still has the tool as it was,
//! or is answered as not carried out when its time is over. The client waits with it: when it goes or cancels, nothing is sent.

use serde::{Deserialize, Serialize};

/// Which calls wait, and how long, and how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// Names of tools; `*` stands for any part of one. None: nothing waits longer than other calls do.
    pub tools: Vec<String>,
    /// From when a call came.
    pub for_ms: u64,
    /// At once.
    pub calls: usize,
    /// All of them together.
    pub bytes: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self { tools: Vec::new(), for_ms: 10 * 60_000, calls: 256, bytes: 16 << 20 }
    }
}

impl Queue {
    /// Whether calls of a tool wait.
    #[must_use]
    pub fn takes(&self, tool: &str) -> bool {
        self.tools.iter().any(|pattern| matches(pattern, tool))
    }
}

/// Whether a name fits a pattern, whose `*` stand for any part of a name.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_named_whole_or_in_part() {
        for (pattern, name, does) in [
            ("pay", "pay", true),
            ("pay", "pay2", false),
            ("pay*", "payment", true),
            ("*", "", true),
            ("*", "anything", true),
            ("*_write", "file_write", true),
            ("*_write", "file_write_all", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("", "x", false),
            ("é*", "écrire", true),
        ] {
            assert_eq!(matches(pattern, name), does, "{pattern} {name}");
        }
    }
}
