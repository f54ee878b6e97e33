//! Work that takes long, as tasks of the protocol.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    LEGACY,
    binary::{Store, signal},
    peer::Peer,
};

pub(crate) fn knows_tasks() -> Value {
    json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } })
}

/// Asks until it has come to its end. Each time is a round trip: so many are minutes.
pub(crate) fn ended(peer: &mut Peer, id: &Value) -> Value {
    (0..100_000)
        .map(|_| peer.ask("tasks/get", json!({ "taskId": id }))["result"].clone())
        .find(|task| task["status"] != "working")
        .unwrap()
}

#[test]
fn long_work_is_a_task_for_clients_that_know_them() {
    let store = Store::new();
    let mut peer = Peer::modern(&store, &[], &knows_tasks());
    peer.done("session_open", json!({ "session": "a", "request_id": "1" }));
    let call = json!({ "name": "session_verify", "arguments": { "session": "a" } });
    let begun = peer.ask("tools/call", call.clone())["result"].clone();
    assert_eq!((&begun["resultType"], &begun["status"]), (&json!("task"), &json!("working")), "{begun}");
    assert!(begun["ttlMs"].is_u64() && begun["pollIntervalMs"].is_u64(), "{begun}");
    let task = ended(&mut peer, &begun["taskId"]);
    assert_eq!((&task["status"], &task["createdAt"]), (&json!("completed"), &begun["createdAt"]), "{task}");
    let result = &task["result"];
    assert_eq!((&result["isError"], &result["structuredContent"]["findings"]), (&json!(false), &json!([])), "{task}");

    // Another client, another connection, another daemon: the same task.
    signal(store.holder().unwrap(), Signal::KILL);
    let mut other = Peer::modern(&store, &[], &knows_tasks());
    assert_eq!(ended(&mut other, &begun["taskId"])["result"], *result);
    assert_eq!(other.ask("tasks/cancel", json!({ "taskId": begun["taskId"] }))["result"]["resultType"], "complete");
    assert_eq!(ended(&mut other, &begun["taskId"])["status"], "completed", "what has ended is not called off");
    let unknown = other.ask("tasks/get", json!({ "taskId": "0123456789abcdef0123456789abcdef" }));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");

    // What cannot be done is a result of the task.
    let wrong = other.ask("tools/call", json!({ "name": "recovery_trigger", "arguments": { "session": "none" } }));
    let task = ended(&mut other, &wrong["result"]["taskId"]);
    assert_eq!((&task["status"], &task["result"]["isError"]), (&json!("completed"), &json!(true)), "{task}");

    // Who does not know tasks waits, and may not ask for them.
    let mut plain = Peer::modern(&store, &[], &json!({}));
    assert_eq!(plain.ask("tools/call", call)["result"]["isError"], false);
    assert_eq!(plain.ask("tasks/get", json!({ "taskId": begun["taskId"] }))["error"]["code"], -32021);
    let mut legacy = Peer::begun(&store, &[], LEGACY);
    legacy.done("session_verify", json!({ "session": "a" }));
}

#[test]
fn a_task_that_a_dead_daemon_was_at_is_begun_again() {
    let store = Store::new();
    let mut peer = Peer::modern(&store, &[], &knows_tasks());
    peer.done("session_open", json!({ "session": "a", "request_id": "1" }));
    // As it stands when the daemon dies between the task's making and its end.
    peer.done("session_open", json!({ "session": "mcp/tasks", "request_id": "1" }));
    let left = json!({ "tool": "session_verify", "arguments": { "session": "a" }, "status": "working" });
    let id = "00112233445566778899aabbccddeeff";
    peer.done(
        "memory_set",
        json!({ "session": "mcp/tasks", "scope": "tasks", "key": id, "value": left, "request_id": "2" }),
    );
    signal(store.holder().unwrap(), Signal::KILL);
    let task = ended(&mut peer, &json!(id));
    assert_eq!((&task["status"], &task["result"]["isError"]), (&json!("completed"), &json!(false)), "{task}");

    let cancelled = "ffeeddccbbaa99887766554433221100";
    let left = json!({ "tool": "session_verify", "arguments": { "session": "a" }, "status": "working" });
    peer.done(
        "memory_set",
        json!({ "session": "mcp/tasks", "scope": "tasks", "key": cancelled, "value": left, "request_id": "3" }),
    );
    assert_eq!(peer.ask("tasks/cancel", json!({ "taskId": cancelled }))["result"]["resultType"], "complete");
    assert_eq!(ended(&mut peer, &json!(cancelled))["status"], "cancelled");
}
