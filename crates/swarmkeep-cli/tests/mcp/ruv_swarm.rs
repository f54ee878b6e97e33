//! The tools of ruv-swarm, for clients that are written for it: what is written is there after a kill.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    LEGACY,
    binary::{Store, signal},
    peer::Peer,
};

/// Calls a tool; its result is JSON in a text, as the package gives it.
fn call(peer: &mut Peer, name: &str, arguments: Value) -> Value {
    let result = peer.tool(name, arguments);
    assert!(result.get("structuredContent").is_none(), "{result}");
    serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
}

fn refused(peer: &mut Peer, name: &str, arguments: Value) -> Value {
    let answer = peer.ask("tools/call", json!({ "name": name, "arguments": arguments }));
    assert!(answer.get("error").is_some(), "{answer}");
    answer["error"].clone()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_swarm_its_agents_and_its_task_are_there_after_a_kill() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &["--ruv-swarm", "--session", "ruv/one"], LEGACY);
    let error = refused(&mut peer, "agent_spawn", json!({ "type": "coder" }));
    assert!(error["message"].as_str().unwrap().contains("No active swarm found"), "{error}");
    let swarm = call(&mut peer, "swarm_init", json!({ "topology": "mesh", "maxAgents": 2 }));
    assert_eq!(
        keys(&swarm),
        ["created", "features", "id", "maxAgents", "message", "performance", "strategy", "topology"]
    );
    let error = refused(&mut peer, "task_orchestrate", json!({ "task": "write it" }));
    assert!(error["message"].as_str().unwrap().contains("No agents available"), "{error}");
    let mut agents = Vec::new();
    for (kind, capabilities) in [("coder", json!(["rust"])), ("researcher", json!([]))] {
        let spawned = call(&mut peer, "agent_spawn", json!({ "type": kind, "capabilities": capabilities }));
        assert_eq!(keys(&spawned), ["agent", "message", "performance", "swarm_info"]);
        agents.push(spawned["agent"]["id"].clone());
    }
    let full = refused(&mut peer, "agent_spawn", json!({ "type": "coder" }));
    assert!(full["message"].as_str().unwrap().contains("maximum capacity of 2"), "{full}");
    let task = call(&mut peer, "task_orchestrate", json!({ "task": "write it", "priority": "high" }));
    assert_eq!((&task["status"], &task["assigned_agents"]), (&json!("orchestrated"), &json!(agents)));
    let only = json!({ "task": "in Rust", "requiredCapabilities": ["rust"] });
    assert_eq!(call(&mut peer, "task_orchestrate", only)["assigned_agents"], json!([agents[0]]));

    signal(store.holder().unwrap(), Signal::KILL);

    let listed = call(&mut peer, "agent_list", json!({}));
    assert_eq!((&listed["total_agents"], &listed["filter_applied"]), (&json!(2), &json!("all")), "{listed}");
    assert_eq!(
        keys(&listed["agents"][0]),
        ["capabilities", "cognitive_pattern", "id", "name", "neural_network_id", "status", "type"]
    );
    let tasks = call(&mut peer, "task_status", json!({}));
    assert_eq!((&tasks["total_tasks"], &tasks["tasks"][0]["id"]), (&json!(2), &task["taskId"]), "{tasks}");
    assert_eq!(keys(&tasks["tasks"][0]), ["assignedAgents", "execution_time_ms", "id", "progress", "status"]);
    let status = call(&mut peer, "swarm_status", json!({}));
    assert_eq!((&status["active_swarms"], &status["swarms"][0]["id"]), (&json!(1), &swarm["id"]));
    assert_eq!(status["swarms"][0]["status"]["agents"], json!({ "total": 2, "active": 0, "idle": 2 }));

    // Whoever does the work does it with the session's own tools, and the package's show it.
    let mut worker = Peer::begun(&store, &[], LEGACY);
    let claim = json!({ "session": "ruv/one", "agent": agents[0], "task": task["taskId"], "request_id": "c" });
    let lease = worker.done("task_claim", claim)["outcomes"][0]["claimed"]["lease"].clone();
    let finish = json!({ "session": "ruv/one", "task": task["taskId"], "how": "complete", "lease": lease, "result": { "lines": 7 }, "request_id": "f" });
    worker.done("task_finish", finish);
    let results = call(&mut peer, "task_results", json!({ "taskId": task["taskId"], "format": "detailed" }));
    assert_eq!((&results["status"], &results["final_result"]["lines"]), (&json!("completed"), &json!(7)), "{results}");
    assert_eq!(results["agent_results"][0]["agent_id"], agents[0]);
    let summary = call(&mut peer, "task_results", json!({ "taskId": task["taskId"] }));
    assert_eq!((&summary["success"], &summary["result_available"]), (&json!(true), &json!(true)));
    for detail in ["summary", "detailed", "by-agent"] {
        assert!(call(&mut peer, "memory_usage", json!({ "detail": detail }))["available_mb"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn what_is_wrong_or_not_there_is_said_as_the_package_says_it() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &["--ruv-swarm", "--session", "ruv/one"], LEGACY);
    let tools = peer.ask("tools/list", json!({}))["result"]["tools"].clone();
    let names: Vec<&str> = tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "swarm_init",
            "swarm_status",
            "agent_spawn",
            "agent_list",
            "task_orchestrate",
            "task_status",
            "task_results",
            "memory_usage"
        ]
    );
    for (name, arguments) in [
        ("swarm_init", json!({ "topology": "cube" })),
        ("swarm_init", json!({ "topology": "mesh", "maxAgents": 0 })),
        ("task_results", json!({})),
        ("task_results", json!({ "taskId": "task-none" })),
        ("task_status", json!({ "taskId": "task-none" })),
        ("swarm_status", json!({ "swarmId": "none" })),
        ("agent_list", json!({ "filter": "odd" })),
    ] {
        let error = refused(&mut peer, name, arguments);
        assert_eq!(error["code"], -32603, "{error}");
        assert_eq!(error["data"]["tool"], name, "{error}");
    }
    for name in ["neural_train", "daa_init", "benchmark_run", "swarm_monitor", "no_such_tool"] {
        assert_eq!(refused(&mut peer, name, json!({}))["code"], -32601, "{name}");
    }
    // 5.0 is 5, as JavaScript has it.
    assert_eq!(call(&mut peer, "swarm_init", json!({ "topology": "star", "maxAgents": 5.0 }))["maxAgents"], 5);
}

#[test]
fn what_was_on_its_way_when_the_daemon_died_is_done_once() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &["--ruv-swarm", "--session", "ruv/one"], LEGACY);
    call(&mut peer, "swarm_init", json!({ "topology": "mesh", "maxAgents": 100 }));
    for round in 0..12 {
        let pid = store.holder().unwrap();
        if round % 3 == 0 {
            signal(pid, Signal::STOP);
        }
        let id = peer.send("tools/call", json!({ "name": "agent_spawn", "arguments": { "type": "coder" } }));
        signal(pid, Signal::KILL);
        let answer = peer.hear();
        assert!(answer["id"] == id && answer["result"]["isError"] == false, "{answer}");
    }
    assert_eq!(call(&mut peer, "agent_list", json!({}))["total_agents"], 12, "each exactly once");
}
