//! Agents.

use super::{
    super::tool::{Nature::*, Tool},
    always,
};

const ID: &[(&str, &str)] = &[("id", "agent")];

pub(super) const TOOLS: &[Tool] = &[
    Tool::new("agent_spawn", "Spawn an agent", Adds, &[always("spawnAgent")], "A new agent; `outcomes[0].done.id` is its id."),
    Tool::new("agent_list", "List agents", Reads, &[always("listAgents")], ""),
    Tool::new("agent_status", "Status of an agent", Reads, &[always("getAgent")], "An agent as it stands, and when it was last heard of.")
        .renamed(ID),
    Tool::new(
        "agent_return",
        "Return as an agent",
        Adds,
        &[always("returnAgent")],
        "Say that a new process (`instance`) goes on as this agent: what an earlier process left half-written is closed, and its effects without an outcome become doubts.",
    )
    .renamed(ID),
    Tool::new(
        "agent_heartbeat",
        "Sign of life of an agent",
        Adds,
        &[always("heartbeatAgent")],
        "Say that the agent lives, every 5 s or so; renews the leases of its tasks; with `last` its silence afterwards is no failure. Refused with `wrong_state` for a terminated one.",
    )
    .renamed(ID),
    Tool::new(
        "agent_set_status",
        "Set an agent's status",
        Replaces,
        &[always("setAgentStatus")],
        "Idle, busy, failed or terminated. Ending an agent gives back its tasks and sets its mail aside.",
    )
    .renamed(ID),
    Tool::new(
        "agent_update",
        "Update an agent",
        Replaces,
        &[always("updateAgent")],
        "Replace an agent's name, capabilities or configuration; what is left out stays.",
    )
    .renamed(ID),
];
