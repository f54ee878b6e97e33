//! Tools, resources and prompts in every era, over stdio.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    LEGACY,
    binary::Store,
    peer::{Peer, meta},
};

/// What a client does in a day, through every tool that a day needs.
fn day(peer: &mut Peer) {
    let session = "team/work";
    let opened = peer.done("session_open", json!({ "session": session, "request_id": "open" }));
    assert_eq!(opened["session"]["name"], session);
    for agent in ["coder", "tester"] {
        let spawned =
            json!({ "session": session, "id": agent, "kind": "worker", "request_id": format!("spawn-{agent}") });
        let reply = peer.done("agent_spawn", spawned);
        assert_eq!(reply["outcomes"][0]["done"]["id"], agent);
    }
    let create = json!({ "session": session, "title": "split the parser", "payload": { "n": 9007199254740993u64 }, "request_id": "task" });
    let task = peer.done("task_create", create)["outcomes"][0]["done"]["id"].clone();
    let claimed = peer.done("task_claim", json!({ "session": session, "agent": "coder", "request_id": "claim" }));
    assert_eq!(claimed["task"]["id"], task);
    assert_eq!(claimed["task"]["payload"]["n"], 9007199254740993u64, "numbers stay what they were");
    let lease = claimed["outcomes"][0]["claimed"]["lease"].clone();
    peer.done("task_heartbeat", json!({ "session": session, "task": task, "lease": lease }));
    let send = json!({ "session": session, "from": "coder", "to": { "agent": "tester" }, "content": "look", "request_id": "m" });
    peer.done("message_send", send);
    let mail = peer.done("message_receive", json!({ "session": session, "agent": "tester", "request_id": "r" }));
    let message = mail["messages"][0]["id"].clone();
    assert_eq!(mail["messages"][0]["content"], "look");
    peer.done(
        "message_acknowledge",
        json!({ "session": session, "message": message, "agent": "tester", "request_id": "ack" }),
    );
    for (key, value) in [("plan", json!({ "step": 1 })), ("nothing", json!(null))] {
        let set = json!({ "session": session, "key": key, "value": value, "request_id": format!("set-{key}") });
        assert!(peer.done("memory_set", set)["outcomes"][0]["version"]["version"].is_u64());
    }
    assert_eq!(peer.done("memory_get", json!({ "session": session, "key": "plan" }))["value"]["step"], 1);
    let found = peer.done("memory_search", json!({ "session": session, "text": "STEP" }));
    assert_eq!(found["memory"].as_array().unwrap().len(), 1, "{found}");
    let begin = json!({ "session": session, "effect": "pay-17", "class": "at_most_once", "agent": "coder", "instance": "p1", "request_id": "b" });
    let begun = peer.done("effect_begin", begin);
    let attempt = begun["outcomes"][0]["run"]["attempt"].clone();
    let finish = json!({ "session": session, "effect": "pay-17", "attempt": attempt, "outcome": { "ok": true }, "request_id": "f" });
    peer.done("effect_finish", finish);
    let finish = json!({ "session": session, "task": task, "how": "complete", "lease": lease, "result": "done", "request_id": "fin" });
    peer.done("task_finish", finish);
    assert_eq!(peer.done("task_status", json!({ "session": session, "task": task }))["status"], "completed");
    peer.done("session_checkpoint", json!({ "session": session }));
    let head = peer.done("session_status", json!({ "session": session }))["head"]["seq"].clone();
    peer.done("memory_delete", json!({ "session": session, "key": "plan", "request_id": "forget" }));
    peer.done("session_rewind", json!({ "session": session, "to": head, "request_id": "back" }));
    assert_eq!(peer.done("memory_get", json!({ "session": session, "key": "plan" }))["value"]["step"], 1);
    let fork = json!({ "session": session, "name": "team/other", "at": head, "request_id": "fork" });
    peer.done("session_fork", fork);
    let diff = peer.done("session_diff", json!({ "session": session, "from": 1 }));
    assert!(diff.to_string().contains("pay-17"), "{diff}");
    let history = peer.done("session_history", json!({ "session": session, "after": 1, "limit": 2 }));
    assert_eq!((&history["records"][0]["seq"], &history["records"][0]["actor"]), (&json!(2), &json!("coder")));
    assert_eq!(peer.done("session_history", json!({ "session": session, "limit": 1 }))["records"][0]["actor"], "mcp");
    let listed = peer.done("session_list", json!({ "namespace": "team" }));
    assert!(listed["rows"].as_array().unwrap().len() <= 2);
    peer.done("session_verify", json!({ "session": session }));
    peer.done("recovery_status", json!({ "session": session }));
    for tool in ["session_health", "recovery_waiting", "recovery_history"] {
        peer.done(tool, json!({}));
    }
    let report = peer.done("report", json!({ "session": session }));
    assert_eq!((&report["done"]["tasks"], &report["not_paid_twice"]["once"]), (&json!(1), &json!(1)), "{report}");
    peer.done("session_close", json!({ "session": session, "request_id": "close" }));
    let (code, _) = peer.refused("agent_spawn", json!({ "session": session, "request_id": "late" }));
    assert_eq!(code, "session_not_live");
}

#[test]
fn a_day_with_the_tools_in_every_revision() {
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let store = Store::new();
        let mut peer = Peer::begun(&store, &[], revision);
        day(&mut peer);
        assert_eq!(peer.end(), 0);
    }
    let store = Store::new();
    let mut peer = Peer::modern(&store, &[], &json!({}));
    let discovered = peer.ask("server/discover", json!({}));
    let revisions = discovered["result"]["supportedVersions"].as_array().unwrap();
    assert!(revisions.contains(&json!("2026-07-28")) && revisions.contains(&json!(LEGACY)), "{discovered}");
    day(&mut peer);
    assert_eq!(peer.end(), 0);
}

#[test]
fn a_client_may_probe_for_the_new_era_and_begin_in_the_old_one() {
    let store = Store::new();
    let mut peer = Peer::start(&store, &[]);
    let probe = json!({ "jsonrpc": "2.0", "id": "probe", "method": "server/discover", "params": { "_meta": meta(&json!({})) } });
    peer.say(&probe);
    assert_eq!(peer.hear()["id"], "probe");
    assert_eq!(peer.initialize(LEGACY)["result"]["protocolVersion"], LEGACY);
    peer.done("session_open", json!({ "session": "a", "request_id": "1" }));
}

#[test]
fn what_a_tool_says_of_itself_is_true() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &[], LEGACY);
    let tools = peer.ask("tools/list", json!({}))["result"]["tools"].clone();
    let tools = tools.as_array().unwrap();
    let names: BTreeSet<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), tools.len(), "names are unique");
    assert!(json!(tools).to_string().len() < 160 * 1024, "a client lists them all at once");

    peer.done("session_open", json!({ "session": "a", "request_id": "open" }));
    peer.done("agent_spawn", json!({ "session": "a", "id": "w", "request_id": "w" }));
    peer.done("task_create", json!({ "session": "a", "id": "t", "title": "x", "request_id": "t" }));
    peer.done("memory_set", json!({ "session": "a", "key": "k", "value": 1, "request_id": "k" }));
    let known = json!({ "session": "a", "agent": "w", "task": "t", "key": "k", "from": 1 });
    let head = |peer: &mut Peer| peer.done("session_status", json!({ "session": "a" }))["head"].clone();
    for tool in tools {
        let name = tool["name"].as_str().unwrap();
        let (input, hints) = (&tool["inputSchema"], &tool["annotations"]);
        let required: Vec<&str> =
            input["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for schema in [input, &tool["outputSchema"]] {
            assert_eq!(schema["type"], "object", "{name}");
        }
        assert!(!tool["description"].as_str().unwrap().is_empty(), "{name}");
        assert_eq!(hints["openWorldHint"], false, "{name}");
        let takes_request = input["properties"].get("request_id").is_some();
        if hints["readOnlyHint"] == true {
            assert!(!takes_request && hints["destructiveHint"] == false, "{name}");
            let mut arguments = json!({});
            for field in &required {
                arguments[*field] = known[*field].clone();
            }
            let before = head(&mut peer);
            peer.done(name, arguments);
            assert_eq!(head(&mut peer), before, "{name} says that it only reads");
        } else if takes_request {
            assert!(required.contains(&"request_id"), "{name}: what writes wants a request id");
            assert_eq!(hints["idempotentHint"], true, "{name}");
        }
    }
    let without: Vec<&str> = tools
        .iter()
        .filter(|tool| {
            tool["annotations"]["readOnlyHint"] == false
                && tool["inputSchema"]["properties"].get("request_id").is_none()
        })
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    // These write no records: a saved state, signs of life, and a recovery, which keeps its own.
    assert_eq!(without, ["session_checkpoint", "agent_heartbeat", "task_heartbeat", "recovery_trigger"]);
    for (tool, destructive) in
        [("session_rewind", true), ("session_close", true), ("memory_set", true), ("task_create", false)]
    {
        let described = tools.iter().find(|described| described["name"] == tool).unwrap();
        assert_eq!(described["annotations"]["destructiveHint"], destructive, "{tool}");
    }
}

#[test]
fn the_same_request_twice_is_one_group() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &[], LEGACY);
    peer.done("session_open", json!({ "session": "a", "request_id": "open" }));
    let create = json!({ "session": "a", "title": "once", "request_id": "k" });
    let first = peer.done("task_create", create.clone());
    let again = peer.done("task_create", create);
    assert_eq!((&first["repeated"], &again["repeated"]), (&json!(false), &json!(true)));
    assert_eq!(first["head"], again["head"]);
    assert_eq!(peer.done("task_list", json!({ "session": "a" }))["tasks"].as_array().unwrap().len(), 1);
    let (code, _) = peer.refused("task_create", json!({ "session": "a", "title": "other", "request_id": "k" }));
    assert_eq!(code, "request_mismatch");
}

#[test]
fn what_cannot_be_done_is_said_to_the_model_and_what_is_no_call_to_the_client() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &[], LEGACY);
    peer.done("session_open", json!({ "session": "a", "request_id": "open" }));
    let mut says = |name: &str, arguments: Value, code: &str, words: &str| {
        let (found, result) = peer.refused(name, arguments);
        let text = result["content"][0]["text"].as_str().unwrap().to_owned();
        assert!(found == code && text.contains(words) && text.starts_with(code), "{name}: {result}");
    };
    says("session_status", json!({ "session": "none" }), "not_found", "`default/none` (hint: `session_open` makes it");
    says("session_diff", json!({ "session": "a" }), "invalid", "argument `from` is missing");
    let begin = |more: Value| {
        let mut begin = json!({ "session": "a", "effect": "pay", "class": "ask", "agent": "w", "request_id": "1" });
        begin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        begin
    };
    says("effect_begin", begin(json!({})), "invalid", "invalid: argument `instance` is missing");
    says("effect_begin", begin(json!({ "instance": [] })), "invalid", "invalid: argument `instance`: invalid type");
    says("task_list", json!({ "session": "a", "limit": 0 }), "invalid", "invalid: argument `limit`");
    says("task_list", json!({ "session": "a", "limit": "x" }), "invalid", "invalid: argument `limit`");
    says("session_pause", json!({ "session": "a", "request_id": "" }), "invalid", "invalid: argument `request_id`");
    says("session_status", json!({}), "invalid", "`session`");
    says("session_status", json!({ "session": "a/b/c" }), "invalid", "name");
    says("session_status", json!({ "session": "../../v1/store" }), "invalid", "name");
    says("task_create", json!({ "session": "a", "title": "x" }), "invalid", "request_id");
    says("task_create", json!({ "session": "a", "request_id": "1" }), "invalid", "title");
    says("task_create", json!({ "session": "a", "titel": "x", "request_id": "1" }), "invalid", "known: actor");
    says(
        "task_finish",
        json!({ "session": "a", "task": "t", "how": "eat", "request_id": "1" }),
        "invalid",
        "complete, fail, release, cancel",
    );
    says("task_finish", json!({ "session": "a", "task": "t", "how": "complete", "request_id": "1" }), "not_found", "t");
    says(
        "task_create",
        json!({ "session": "a", "title": "x", "expected_seq": 77, "request_id": "1" }),
        "precondition_failed",
        "77",
    );
    says("memory_get", json!({ "session": "a", "key": "" }), "invalid", "empty");
    says(
        "task_create",
        json!({ "session": "a", "title": "x", "actor": "system", "request_id": "1" }),
        "invalid",
        "system",
    );

    let answer = peer.ask("tools/call", json!({ "name": "no_such_tool", "arguments": {} }));
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    assert_eq!(peer.ask("tools/teleport", json!({}))["error"]["code"], -32601);
    // What is no message is answered as well, and nothing of it breaks the connection.
    for (line, code) in
        [("{", -32700), ("nonsense", -32700), ("[]", -32600), (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600)]
    {
        peer.say_line(line);
        let answer = peer.hear();
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(code), &json!(null)), "{line}");
    }
    peer.say_line(&format!(
        r#"{{"jsonrpc":"2.0","id":"long","method":"ping","params":{{"x":"{}"}}}}"#,
        "x".repeat(17 << 20)
    ));
    assert_eq!(peer.hear()["error"]["code"], -32600);
    assert_eq!(peer.ask("ping", json!({}))["result"], json!({}));
}

#[test]
fn state_and_history_are_resources_and_a_prompt_tells_how_things_stand() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &[], LEGACY);
    peer.done("session_open", json!({ "session": "team/work", "request_id": "open" }));
    peer.done("agent_spawn", json!({ "session": "team/work", "id": "coder", "request_id": "1" }));
    peer.done("task_create", json!({ "session": "team/work", "title": "split the parser", "request_id": "2" }));
    let begin = json!({ "session": "team/work", "effect": "pay-17", "class": "ask", "agent": "coder", "instance": "p1", "request_id": "3" });
    peer.done("effect_begin", begin);
    peer.done("agent_return", json!({ "session": "team/work", "agent": "coder", "instance": "p2", "request_id": "4" }));

    let templates = peer.ask("resources/templates/list", json!({}))["result"]["resourceTemplates"].clone();
    assert_eq!(templates.as_array().unwrap().len(), 2);
    let mut read = |uri: &str| peer.ask("resources/read", json!({ "uri": uri }));
    let contents = |answer: &Value| -> Value {
        serde_json::from_str(answer["result"]["contents"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")))
            .unwrap()
    };
    assert!(contents(&read("swarmkeep://team/work/state"))["tasks"].to_string().contains("split the parser"));
    assert!(!contents(&read("swarmkeep://team/work/state?at=1"))["tasks"].to_string().contains("split the parser"));
    let history = contents(&read("swarmkeep://team/work/history?from=2&limit=1"));
    assert_eq!((&history["records"][0]["seq"], &history["records"].as_array().unwrap().len()), (&json!(2), &1));
    for missing in [
        "swarmkeep://team/none/state",
        "swarmkeep://team/work/state?at=999",
        "swarmkeep://team/work/secrets",
        "file:///etc/passwd",
    ] {
        let answer = read(missing);
        assert_eq!(
            (&answer["error"]["code"], &answer["error"]["data"]["uri"]),
            (&json!(-32002), &json!(missing)),
            "{answer}"
        );
    }
    assert_eq!(read("swarmkeep://team/work/state?at=soon")["error"]["code"], -32602);

    let prompts = peer.ask("prompts/list", json!({}))["result"]["prompts"].clone();
    assert_eq!(prompts[0]["name"], "resume_session");
    let asked = json!({ "name": "resume_session", "arguments": { "session": "team/work", "agent": "coder" } });
    let told = peer.ask("prompts/get", asked)["result"]["messages"][0]["content"]["text"].clone();
    for words in ["team/work", "coder", "split the parser", "pay-17", "nobody knows"] {
        assert!(told.as_str().unwrap().contains(words), "{words}: {told}");
    }
    // Agents by their names, where one is meant; what is assigned to one waits for it.
    for (id, name) in [("a1", "planner"), ("a2", "twin"), ("a3", "twin")] {
        let spawn = json!({ "session": "team/work", "id": id, "name": name, "request_id": format!("spawn-{id}") });
        peer.done("agent_spawn", spawn);
        let end =
            json!({ "session": "team/work", "agent": id, "status": "terminated", "request_id": format!("end-{id}") });
        if name == "twin" {
            peer.done("agent_set_status", end);
        }
    }
    let assigned =
        json!({ "session": "team/work", "id": "plan", "title": "plan it", "assign": "a1", "request_id": "8" });
    peer.done("task_create", assigned);
    peer.done("memory_set", json!({ "session": "team/work", "key": "k", "value": 1, "request_id": "9" }));
    let mut ask = |agent: &str| {
        let asked = json!({ "name": "resume_session", "arguments": { "session": "team/work", "agent": agent } });
        peer.ask("prompts/get", asked)
    };
    for agent in ["a1", "planner"] {
        let answer = ask(agent);
        let told = answer["result"]["messages"][0]["content"]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert!(told.contains("## What waits for a1 (planner)\n- task plan: plan it (assigned)\n"), "{told}");
        assert!(
            told.contains("task plan: plan it (assigned to a1)\n") && told.contains("\n1 entry is remembered"),
            "{told}"
        );
    }
    for (agent, says) in [
        ("nobody", "no agent `nobody`; there are: a1 (planner), a2 (twin), a3 (twin), coder"),
        ("no such/agent", "no agent `no such/agent`"),
        ("twin", "several agents that have ended were called `twin`: give the id of one: a2 (twin), a3 (twin)"),
    ] {
        let answer = ask(agent);
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{answer}");
    }
    for wrong in [json!({ "name": "resume_session" }), json!({ "name": "other" })] {
        assert_eq!(peer.ask("prompts/get", wrong)["error"]["code"], -32602);
    }
    // The views follow a moment later.
    let listed = (0..20_000).any(|_| {
        peer.ask("resources/list", json!({}))["result"]["resources"]
            .to_string()
            .contains("swarmkeep://team/work/history")
    });
    assert!(listed, "a session has its resources in the list");
}

#[test]
fn names_are_completed() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &[], LEGACY);
    for session in ["team/work", "team/other", "solo"] {
        peer.done("session_open", json!({ "session": session, "request_id": session }));
    }
    peer.done("agent_spawn", json!({ "session": "team/work", "id": "coder", "request_id": "1" }));
    let prompt = json!({ "type": "ref/prompt", "name": "resume_session" });
    let mut complete = |to: &Value, name: &str, value: &str, context: Value| {
        let asked =
            json!({ "ref": to, "argument": { "name": name, "value": value }, "context": { "arguments": context } });
        peer.ask("completion/complete", asked)
    };
    let values = |answer: &Value| answer["result"]["completion"]["values"].clone();
    // The views follow a moment later.
    let found =
        (0..20_000).any(|_| values(&complete(&prompt, "session", "", json!({}))).as_array().unwrap().len() == 3);
    assert!(found, "all sessions are known");
    assert_eq!(values(&complete(&prompt, "session", "wor", json!({}))), json!(["team/work"]));
    assert_eq!(values(&complete(&prompt, "agent", "", json!({ "session": "team/work" }))), json!(["coder"]));
    assert_eq!(values(&complete(&prompt, "agent", "", json!({ "session": "none" }))), json!([]));
    let state = json!({ "type": "ref/resource", "uri": "swarmkeep://{namespace}/{name}/state{?at}" });
    assert_eq!(values(&complete(&state, "namespace", "t", json!({}))), json!(["team", "default"]));
    assert_eq!(values(&complete(&state, "name", "", json!({ "namespace": "team" }))), json!(["other", "work"]));
    let other = json!({ "type": "ref/prompt", "name": "other" });
    assert_eq!(complete(&other, "session", "", json!({}))["error"]["code"], -32602);
}
