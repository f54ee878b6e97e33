//! What agents remember.

use super::{
    super::tool::{Nature::*, Tool},
    always,
};

const SHARED: &[(&str, &str)] = &[("scope", "shared")];

pub(super) const TOOLS: &[Tool] = &[
    Tool::new("memory_get", "Recall", Reads, &[always("getMemory")], "The value under a key, with its version.").defaults(SHARED),
    Tool::new(
        "memory_set",
        "Remember",
        Replaces,
        &[always("setMemory")],
        "Store any JSON value under a key. With `if_version` only if the entry has this version (0: only if there is none).",
    )
    .defaults(SHARED),
    Tool::new("memory_delete", "Forget", Replaces, &[always("deleteMemory")], "").defaults(SHARED),
    Tool::new(
        "memory_search",
        "Search memory",
        Reads,
        &[always("listMemory")],
        "Entries in the order of scope and key: all, of one scope, or those in whose key or value a text stands (`text`).",
    ),
];
