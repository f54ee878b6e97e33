//! Tasks.

use super::{
    super::tool::{Nature::*, Tool},
    always, given, is,
};

const ID: &[(&str, &str)] = &[("id", "task")];

pub(super) const TOOLS: &[Tool] = &[
    Tool::new("task_create", "Create a task", Adds, &[always("createTask")], "Put a task on the list; `outcomes[0].done.id` is its id."),
    Tool::new("task_list", "List tasks", Reads, &[always("listTasks")], ""),
    Tool::new("task_status", "Status of a task", Reads, &[always("getTask")], "A task as it stands, with its result.").renamed(ID),
    Tool::new(
        "task_claim",
        "Claim a task",
        Adds,
        &[given("task", "claimTask"), always("claimNextTask")],
        "Take a task for an agent, under a numbered lease: the one named, else the first that fits. `claimed: {}` when there is \
         nothing to take. Send `task_heartbeat` while working on it, end with `task_finish`.",
    )
    .renamed(ID),
    Tool::new(
        "task_heartbeat",
        "Keep a claimed task",
        Adds,
        &[always("heartbeatTask")],
        "The lease begins again. `lease_lost` means that the task is another's now: stop working on it.",
    )
    .renamed(ID),
    Tool::new(
        "task_finish",
        "Finish a task",
        Replaces,
        &[
            is("how", "complete", "completeTask"),
            is("how", "fail", "failTask"),
            is("how", "release", "releaseTask"),
            is("how", "cancel", "cancelTask"),
        ],
        "How a task ends: `complete` (with `lease` and `result`), `fail` (with `lease` and `error`; tried again while retries are \
         left), `release` (given back untouched), `cancel` (called off, with its children).",
    )
    .renamed(ID),
];
