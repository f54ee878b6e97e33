//! What makes something: each is one group, carried out once.

use axum::http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{
        api::{Ask, Problem, session_path},
        document::Object,
    },
    Key, Ruv, State, number, one_of, optional, put, read, text, whole, words,
};
use crate::utc::utc;

const TOPOLOGIES: &[&str] = &["mesh", "hierarchical", "ring", "star"];
const STRATEGIES: &[&str] = &["balanced", "specialized", "adaptive"];
const TYPES: &[&str] =
    &["researcher", "coder", "analyst", "optimizer", "coordinator", "tester", "reviewer", "documenter"];
const PATTERNS: &[&str] = &["convergent", "divergent", "lateral", "systems", "critical", "adaptive"];
/// Priorities by their names, as the engine's numbers.
const PRIORITIES: &[(&str, i64)] = &[("low", 3), ("medium", 5), ("high", 8), ("critical", 10)];
/// Agents of a swarm, where nobody says how many there may be.
const AGENTS: u64 = 5;

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

pub(super) async fn swarm_init(ruv: &Ruv, key: &Key, arguments: &Object) -> Result<Value, Problem> {
    let begun = Instant::now();
    let topology = one_of(arguments, "topology", TOPOLOGIES, "mesh")?;
    let strategy = one_of(arguments, "strategy", STRATEGIES, "balanced")?;
    let most = whole(arguments, "maxAgents", 1, 100)?.unwrap_or(AGENTS);
    let id = key.id("swarm");
    let open = Ask { method: Method::POST, path: session_path(&ruv.session, "/open"), ..Ask::default() };
    ruv.api.json(open).await?;
    if ruv.state().await?.find("groups", &id).is_none() {
        let configuration = json!({ "topology": topology, "strategy": strategy, "maxAgents": most });
        let create = json!([{ "create_group": {
            "id": id, "name": id, "kind": "swarm", "configuration": configuration,
        } }]);
        ruv.submit(key, create).await?;
    }
    let state = ruv.state().await?;
    let created = state.find("groups", &id).map(|swarm| number(swarm, "created_at_ms")).unwrap_or_default();
    Ok(json!({
        "id": id,
        "message": format!("Successfully initialized {topology} swarm with {most} max agents"),
        "topology": topology,
        "strategy": strategy,
        "maxAgents": most,
        "features": read::features(),
        "created": utc(created),
        "performance": { "initialization_time_ms": ms(begun), "memory_usage_mb": 0 },
    }))
}

/// The swarm that a call is about.
fn meant<'a>(state: &'a State, arguments: &Object) -> Result<&'a Value, Problem> {
    let named = optional(arguments, "swarmId");
    state.swarm(named).ok_or_else(|| match named {
        Some(id) => Problem::new("not_found", format!("Swarm not found: {id}")),
        None => Problem::new("not_found", "No active swarm found. Please initialize a swarm first using swarm_init."),
    })
}

fn most(swarm: &Value) -> u64 {
    swarm.pointer("/configuration/maxAgents").and_then(Value::as_u64).unwrap_or(100)
}

pub(super) async fn agent_spawn(ruv: &Ruv, key: &Key, arguments: &Object) -> Result<Value, Problem> {
    let begun = Instant::now();
    let kind = one_of(arguments, "type", TYPES, "researcher")?;
    let pattern = one_of(arguments, "cognitivePattern", PATTERNS, "adaptive")?;
    let capabilities = words(arguments, "capabilities")?;
    let id = key.id("agent");
    let before = ruv.state().await?;
    let swarm = text(meant(&before, arguments)?, "id").to_owned();
    if before.find("agents", &id).is_none() {
        let there = before.find("groups", &swarm).map(|swarm| (before.agents(swarm).len() as u64, most(swarm)));
        if let Some((count, most)) = there
            && count >= most
        {
            return Err(Problem::new("limit", format!("Swarm has reached maximum capacity of {most} agents")));
        }
        let name = optional(arguments, "name").map_or_else(|| format!("{kind}-{id}"), str::to_owned);
        let commands = json!([
            { "spawn_agent": {
                "id": id, "kind": kind, "name": name, "capabilities": capabilities,
                "configuration": { "cognitive_pattern": pattern },
            } },
            { "join_group": { "group": swarm, "agent": id } },
        ]);
        ruv.submit(key, commands).await?;
    }
    let state = ruv.state().await?;
    let gone = || Problem::new("internal", format!("agent {id} is gone already"));
    let agent = state.find("agents", &id).ok_or_else(gone)?;
    let swarm = state.find("groups", &swarm).ok_or_else(gone)?;
    let count = state.agents(swarm).len();
    let mut shown = read::agent(agent);
    put(&mut shown, "status", "idle".into());
    Ok(json!({
        "agent": shown,
        "swarm_info": {
            "id": text(swarm, "id"), "agent_count": count, "capacity": format!("{count}/{}", most(swarm)),
        },
        "message": format!("Successfully spawned {kind} agent with {pattern} cognitive pattern"),
        "performance": { "spawn_time_ms": ms(begun), "memory_overhead_mb": 0 },
    }))
}

pub(super) async fn task_orchestrate(ruv: &Ruv, key: &Key, arguments: &Object) -> Result<Value, Problem> {
    let begun = Instant::now();
    let description =
        optional(arguments, "task").ok_or_else(|| Problem::invalid("Missing required parameter: task"))?;
    let names: Vec<&str> = PRIORITIES.iter().map(|(name, _)| *name).collect();
    let priority = one_of(arguments, "priority", &names, "medium")?;
    let strategy = one_of(arguments, "strategy", &["parallel", "sequential", "adaptive"], "adaptive")?;
    let at_most = whole(arguments, "maxAgents", 1, 50)?;
    let wanted = words(arguments, "requiredCapabilities")?;
    let duration = whole(arguments, "estimatedDuration", 1_000, 3_600_000)?.unwrap_or(30_000);
    let id = key.id("task");
    let before = ruv.state().await?;
    if before.find("tasks", &id).is_none() {
        let swarm = meant(&before, arguments)?;
        let has = |agent: &Value| {
            let has = agent.get("capabilities").and_then(Value::as_array);
            wanted.is_empty()
                || has.is_some_and(|has| {
                    has.iter().any(|one| one.as_str().is_some_and(|one| wanted.iter().any(|w| w == one)))
                })
        };
        let chosen = before.agents(swarm).into_iter().filter(|agent| text(agent, "status") == "idle" && has(agent));
        let chosen: Vec<&str> = chosen
            .take(at_most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX))
            .map(|agent| text(agent, "id"))
            .collect();
        if chosen.is_empty() {
            return Err(Problem::new(
                "not_found",
                "No agents available for task orchestration. Please spawn agents first.",
            ));
        }
        let number = PRIORITIES.iter().find(|(name, _)| *name == priority).map_or(5, |(_, number)| *number);
        let create = json!([{ "create_task": {
            "id": id, "kind": "orchestrated", "title": description, "priority": number,
            "payload": {
                "swarm_id": text(swarm, "id"), "assigned_agents": chosen, "priority": priority, "strategy": strategy,
                "required_capabilities": wanted, "estimated_duration_ms": duration,
            },
        } }]);
        ruv.submit(key, create).await?;
    }
    let state = ruv.state().await?;
    let task =
        state.find("tasks", &id).ok_or_else(|| Problem::new("internal", format!("task {id} is gone already")))?;
    let assigned = read::assigned(task);
    let swarm = task.pointer("/payload/swarm_id").and_then(Value::as_str).unwrap_or_default();
    let busy = state
        .find("groups", swarm)
        .map_or(0, |swarm| state.agents(swarm).iter().filter(|agent| text(agent, "status") == "busy").count());
    Ok(json!({
        "taskId": id,
        "status": "orchestrated",
        "description": description,
        "priority": priority,
        "strategy": strategy,
        "assigned_agents": assigned,
        "swarm_info": { "id": swarm, "active_agents": busy },
        "orchestration": {
            "agent_selection_algorithm": "capability_matching",
            "load_balancing": false,
            "cognitive_diversity_considered": false,
        },
        "performance": { "orchestration_time_ms": ms(begun), "estimated_completion_ms": duration },
        "message": format!("Task successfully orchestrated across {} agents", assigned.len()),
    }))
}
