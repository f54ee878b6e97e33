//! Coming back: what was found, what waits for a decision.

use super::{
    super::tool::{Nature::*, Tool},
    always,
};

pub(super) const TOOLS: &[Tool] = &[
    Tool::new("recovery_status", "Recovery of a session", Reads, &[always("showRecovery")], "").long(),
    Tool::new(
        "recovery_waiting",
        "Sessions that wait for a decision",
        Reads,
        &[always("listQuarantine")],
        "",
    ),
    Tool::new(
        "recovery_trigger",
        "Recover a session",
        Decides,
        &[always("recoverSession")],
        "Recover a damaged session again from whatever copies there are now. `dry_run` says what would be done. `accept_loss` goes on \
         without what cannot be had, for good: a person's decision, not a program's.",
    )
    .long(),
    Tool::new(
        "report",
        "The morning report",
        Reads,
        &[always("report")],
        "What was done, what was interrupted, what waits for somebody's word, what was not paid twice, what is lost, how to continue: of the last 24 hours, of one session or of all.",
    ),
    Tool::new("recovery_history", "History of recoveries", Reads, &[always("listRecoveries")], ""),
];
