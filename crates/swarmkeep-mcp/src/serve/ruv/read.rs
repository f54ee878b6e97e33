//! What shows how things stand: from one consistent state of the session.

use serde_json::{Value, json};

use super::{
    super::{api::Problem, document::Object},
    State, number, one_of, optional, put, text,
};
use crate::utc::utc;

const MIB: f64 = 1024.0 * 1024.0;

/// What the package can and a session does not do.
pub(super) fn features() -> Value {
    json!({ "cognitive_diversity": false, "neural_networks": false, "forecasting": false, "simd_support": false })
}

pub(super) fn agent(agent: &Value) -> Value {
    json!({
        "id": text(agent, "id"),
        "name": text(agent, "name"),
        "type": text(agent, "kind"),
        "cognitive_pattern": agent.pointer("/configuration/cognitive_pattern").cloned().unwrap_or_default(),
        "capabilities": agent.get("capabilities").cloned().unwrap_or_default(),
        "neural_network_id": null,
        "status": text(agent, "status"),
    })
}

pub(super) fn assigned(task: &Value) -> Vec<Value> {
    task.pointer("/payload/assigned_agents").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// A task's status in the package's words.
fn status(task: &Value) -> &str {
    match text(task, "status") {
        "pending" | "assigned" => "orchestrated",
        "running" => "in_progress",
        ended => ended,
    }
}

fn swarm(state: &State, swarm: &Value) -> Value {
    let (agents, tasks) = (state.agents(swarm), state.tasks(swarm));
    let are = |wanted: &str| agents.iter().filter(|agent| text(agent, "status") == wanted).count();
    let stand = |wanted: &str| tasks.iter().filter(|task| status(task) == wanted).count();
    json!({
        "id": text(swarm, "id"),
        "agents": { "total": agents.len(), "active": are("busy"), "idle": are("idle") },
        "tasks": {
            "total": tasks.len(),
            "pending": stand("orchestrated"),
            "in_progress": stand("in_progress"),
            "completed": stand("completed"),
        },
    })
}

pub(super) fn swarm_status(state: &State, arguments: &Object) -> Result<Value, Problem> {
    if let Some(id) = optional(arguments, "swarmId") {
        let found = state.swarm(Some(id)).ok_or_else(|| Problem::new("not_found", format!("Swarm not found: {id}")))?;
        let mut shown = swarm(state, found);
        if arguments.get("verbose") == Some(&Value::Bool(true))
            && let Some(agents) = shown.get_mut("agents")
        {
            put(agents, "agents", state.agents(found).into_iter().map(agent).collect());
        }
        let wasm = json!({ "memory_usage_mb": 0, "loaded_modules": {}, "features": features() });
        put(&mut shown, "wasm_metrics", wasm);
        return Ok(shown);
    }
    let swarms: Vec<Value> =
        state.list("groups").iter().map(|one| json!({ "id": text(one, "id"), "status": swarm(state, one) })).collect();
    let total = |of: &dyn Fn(&Value) -> usize| state.list("groups").iter().map(of).sum::<usize>();
    Ok(json!({
        "active_swarms": swarms.len(),
        "swarms": swarms,
        "global_metrics": {
            "totalSwarms": state.list("groups").len(),
            "totalAgents": total(&|swarm| state.agents(swarm).len()),
            "totalTasks": total(&|swarm| state.tasks(swarm).len()),
            "memoryUsage": 0,
            "performance": {},
            "features": features(),
            "wasm_modules": {},
            "timestamp": utc(state.time_ms()),
        },
        "runtime_info": { "features": features(), "wasm_modules": {}, "tool_metrics": {} },
    }))
}

pub(super) fn agent_list(state: &State, arguments: &Object) -> Result<Value, Problem> {
    let filter = one_of(arguments, "filter", &["all", "active", "idle", "busy"], "all")?;
    let mut agents: Vec<&Value> = match optional(arguments, "swarmId") {
        Some(id) => {
            let swarm =
                state.swarm(Some(id)).ok_or_else(|| Problem::new("not_found", format!("Swarm not found: {id}")))?;
            state.agents(swarm)
        }
        None => state.list("groups").iter().flat_map(|swarm| state.agents(swarm)).collect(),
    };
    agents.retain(|agent| match filter {
        "all" => true,
        "idle" => text(agent, "status") == "idle",
        _ => text(agent, "status") == "busy",
    });
    Ok(json!({
        "total_agents": agents.len(),
        "filter_applied": filter,
        "agents": agents.into_iter().map(agent).collect::<Vec<_>>(),
    }))
}

/// How long a task was at work, up to the session's last record.
fn took_ms(state: &State, task: &Value) -> u64 {
    let (begun, ended) = (number(task, "started_at_ms"), number(task, "completed_at_ms"));
    let until = if ended > 0 { ended } else { state.time_ms() };
    if begun > 0 { until.saturating_sub(begun) } else { 0 }
}

pub(super) fn task_status(state: &State, arguments: &Object) -> Result<Value, Problem> {
    let shown = |task: &Value| {
        json!({
            "id": text(task, "id"),
            "status": status(task),
            "assignedAgents": assigned(task),
            "progress": match status(task) {
                "orchestrated" => 0.0,
                "in_progress" => 0.1,
                _ => 1.0,
            },
            "execution_time_ms": took_ms(state, task),
        })
    };
    if let Some(id) = optional(arguments, "taskId") {
        return found(state, id).map(shown);
    }
    let tasks: Vec<Value> = state.list("groups").iter().flat_map(|swarm| state.tasks(swarm)).map(shown).collect();
    Ok(json!({ "total_tasks": tasks.len(), "tasks": tasks }))
}

fn found<'a>(state: &'a State, id: &str) -> Result<&'a Value, Problem> {
    state.find("tasks", id).ok_or_else(|| Problem::new("not_found", format!("Task not found: {id}")))
}

pub(super) fn task_results(state: &State, arguments: &Object) -> Result<Value, Problem> {
    let id = optional(arguments, "taskId").ok_or_else(|| Problem::invalid("taskId is required"))?;
    let format = one_of(arguments, "format", &["summary", "detailed", "raw", "performance"], "summary")?;
    let task = found(state, id)?;
    let assigned = assigned(task);
    let time = |name: &str| match number(task, name) {
        0 => Value::Null,
        ms => utc(ms).into(),
    };
    let error = task.get("error_message").cloned().unwrap_or_default();
    let result = task.get("result").cloned().unwrap_or_default();
    let by = text(task, "agent_id");
    let execution = json!({
        "status": status(task),
        "start_time": time("created_at_ms"),
        "end_time": time("completed_at_ms"),
        "duration_ms": took_ms(state, task),
        "success": status(task) == "completed",
        "error_message": error,
        "agents_involved": assigned.len(),
        "result_entries": usize::from(!result.is_null()),
    });
    Ok(match format {
        "summary" => json!({
            "task_id": id,
            "status": status(task),
            "execution_summary": execution,
            "agent_count": assigned.len(),
            "completion_time": took_ms(state, task),
            "success": status(task) == "completed",
            "has_errors": !error.is_null(),
            "result_available": !result.is_null(),
        }),
        "performance" => json!({
            "task_id": id,
            "execution_metrics": execution,
            "agent_performance": {},
            "resource_utilization": { "peak_memory_mb": 0, "cpu_time_ms": took_ms(state, task) },
        }),
        _ => {
            let mut whole = json!({
                "task_id": id,
                "task_description": text(task, "title"),
                "status": status(task),
                "priority": task.pointer("/payload/priority").cloned().unwrap_or_default(),
                "swarm_id": task.pointer("/payload/swarm_id").cloned().unwrap_or_default(),
                "assigned_agents": assigned,
                "created_at": time("created_at_ms"),
                "completed_at": time("completed_at_ms"),
                "execution_time_ms": took_ms(state, task),
                "execution_summary": execution,
                "final_result": result,
                "error_details": null,
            });
            if !error.is_null() {
                let told =
                    json!({ "message": error, "timestamp": time("completed_at_ms"), "recovery_suggestions": [] });
                put(&mut whole, "error_details", told);
            }
            if !result.is_null() {
                let agent = state.find("agents", by);
                let results = json!([{
                    "agent_id": by,
                    "agent_name": agent.map(|agent| text(agent, "name")),
                    "agent_type": agent.map(|agent| text(agent, "kind")),
                    "output": result,
                    "timestamp": time("completed_at_ms"),
                }]);
                put(&mut whole, "agent_results", results);
            }
            whole
        }
    })
}

pub(super) fn memory_usage(state: &State, health: &Value, arguments: &Object) -> Result<Value, Problem> {
    let detail = one_of(arguments, "detail", &["summary", "detailed", "by-agent"], "summary")?;
    let bytes = |at: &str| health.pointer(at).and_then(Value::as_f64).unwrap_or_default();
    let mut shown = json!({
        "total_mb": bytes("/metrics/memoryUsage/rss") / MIB,
        "wasm_mb": 0,
        "javascript_mb": 0,
        "available_mb": bytes("/metrics/memoryUsage/budget") / MIB,
    });
    let weight = |value: &Value| value.to_string().len() as f64 / MIB;
    match detail {
        "detailed" => {
            let of = |name: &str| state.list(name).iter().map(weight).sum::<f64>();
            put(&mut shown, "wasm_modules", json!({}));
            let parts = json!({
                "agents": of("agents"), "neural_networks": 0, "swarm_state": of("groups"), "task_queue": of("tasks"),
            });
            put(&mut shown, "memory_breakdown", parts);
        }
        "by-agent" => {
            let agents = state.list("groups").iter().flat_map(|swarm| state.agents(swarm));
            let agents = agents
                .map(|agent| {
                    json!({
                        "agent_id": text(agent, "id"),
                        "agent_name": text(agent, "name"),
                        "agent_type": text(agent, "kind"),
                        "memory_mb": weight(agent),
                        "neural_network": false,
                    })
                })
                .collect();
            put(&mut shown, "agents", agents);
        }
        _ => {}
    }
    Ok(shown)
}
