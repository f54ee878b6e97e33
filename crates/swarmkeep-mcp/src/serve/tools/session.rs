//! Sessions: their life, their history, the report.

use super::{
    super::tool::{Nature::*, Tool},
    always,
};

pub(super) const TOOLS: &[Tool] = &[
    Tool::new(
        "session_open",
        "Open a session",
        Adds,
        &[always("openSession")],
        "Resume a session exactly where it stood, or make it if there is none of this name. Begin here.",
    ),
    Tool::new(
        "session_create",
        "Create a session",
        Adds,
        &[always("createSession")],
        "Make a new session; refused with `already_exists` if there is one of this name.",
    )
    .renamed(&[("name", "session")]),
    Tool::new("session_list", "List sessions", Reads, &[always("listSessions")], ""),
    Tool::new(
        "session_status",
        "Status of a session",
        Reads,
        &[always("getSession")],
        "The session itself, where its log ends (`head.seq`), and how much is in it.",
    ),
    Tool::new(
        "session_health",
        "Health",
        Reads,
        &[always("health")],
        "How the system that keeps the sessions is, component by component: storage, recovery, tasks; and its alerts.",
    ),
    Tool::new(
        "session_checkpoint",
        "Save a checkpoint",
        Adds,
        &[always("makeCheckpoint")],
        "Save the state as it stands, so that coming back to it is quick. Nothing needs it to be safe: every write is durable already.",
    ),
    Tool::new(
        "session_rewind",
        "Rewind a session",
        Replaces,
        &[always("rewindSession")],
        "Set the session's state back to what it was at seq `to`, by a new record. History stays; effects stay as they are, for they happened outside.",
    ),
    Tool::new(
        "session_fork",
        "Fork a session",
        Adds,
        &[always("forkSession")],
        "Make a new session `name` from the state of `session`, now or at an earlier seq.",
    ),
    Tool::new(
        "session_diff",
        "What changed",
        Reads,
        &[always("diffState")],
        "What changed between two seqs, entity by entity.",
    )
    .needed(&["from"]),
    Tool::new(
        "session_history",
        "History of a session",
        Reads,
        &[always("listRecords")],
        "Records in order: what happened, when, by whom. For the next page give the last seq as `after`.",
    ),
    Tool::new("session_pause", "Pause a session", Adds, &[always("pauseSession")], ""),
    Tool::new("session_resume", "Resume a session", Adds, &[always("resumeSession")], ""),
    Tool::new(
        "session_close",
        "Close a session",
        Replaces,
        &[always("closeSession")],
        "End a session by will. Its history stays readable; nothing is written to it any more.",
    ),
    Tool::new(
        "session_verify",
        "Prove a session",
        Reads,
        &[always("verify")],
        "Prove that what is stored is what was acknowledged: of one session, or of all. Reads all of it: may take long.",
    )
    .hidden(&["repair"])
    .long(),
];
