//! Sessions as tools, behind the proxy: a server that keeps tasks of its own, and both ends killed.

use rustix::process::Signal;
use serde_json::json;

use crate::{
    LEGACY,
    binary::{Store, signal, until},
    peer::{Peer, meta},
    tasks::{ended, knows_tasks},
};

/// The proxy of one store, in front of the sessions of another.
fn behind(proxy: &Store, sessions: &Store) -> Peer {
    let folder = sessions.dir();
    let server = [env!("CARGO_BIN_EXE_swarmkeep"), "mcp", "serve", "--store", folder.to_str().unwrap()];
    let proxied = ["mcp", "proxy", "--session", "work/here", "--"];
    Peer::of(proxy.command(&[&proxied[..], &server[..]].concat()))
}

fn kill(store: &Store) {
    signal(store.holder().unwrap(), Signal::KILL);
}

/// A task's id passes, and means the same after the proxy, the server and whoever keeps its tasks were killed.
#[test]
fn a_task_is_the_same_after_everything_was_killed() {
    let (proxy, sessions) = (Store::new(), Store::new());
    let mut client = behind(&proxy, &sessions);
    client.speaks_modern(&knows_tasks());
    client.done("session_open", json!({ "session": "a", "request_id": "1" }));
    let call = json!({ "name": "session_verify", "arguments": { "session": "a" } });
    let begun = client.ask("tools/call", call.clone())["result"].clone();
    assert_eq!(begun["resultType"], "task", "{begun}");
    let open = || {
        let state = proxy.run(&["session", "state", "work/here", "--json"]).ok().json();
        let connections = state["connections"].as_array().unwrap().clone();
        connections
            .iter()
            .find_map(|connection| connection["state"]["server_tasks"].as_array().cloned())
            .unwrap_or_default()
    };
    until("its id is kept", || open().contains(&begun["taskId"]));
    let before = ended(&mut client, &begun["taskId"]);
    assert_eq!(before["status"], "completed", "{before}");

    until("its end is", || open().is_empty());

    kill(&proxy);
    kill(&sessions);
    let after = ended(&mut client, &begun["taskId"]);
    assert_eq!((&after["status"], &after["result"]), (&before["status"], &before["result"]), "{after}");
    assert_eq!(client.ask("tasks/cancel", json!({ "taskId": begun["taskId"] }))["result"]["resultType"], "complete");
    let unknown = client.ask("tasks/get", json!({ "taskId": "0123456789abcdef0123456789abcdef" }));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");

    // What was called is in the proxy's log, and what it came to.
    let calls = proxy.run(&["mcp", "calls", "work/here", "--json"]).ok().json();
    let calls = calls["calls"].as_array().unwrap();
    assert!(calls.iter().any(|call| call["request"]["name"] == "session_verify"), "{calls:?}");
    assert!(calls.iter().all(|call| call["status"] == "finished"), "{calls:?}");
    assert_eq!(client.end(), 0);
    proxy.run(&["stop"]).ok();
    sessions.run(&["stop"]).ok();
}

/// One client in either era, and one that asks in the newer way first and begins in the older.
#[test]
fn clients_of_both_eras_and_one_that_changes_its_mind_are_behind_the_proxy_as_without_it() {
    let (proxy, sessions) = (Store::new(), Store::new());
    let mut modern = behind(&proxy, &sessions);
    modern.speaks_modern(&json!({}));
    let discovered = modern.ask("server/discover", json!({}));
    assert!(discovered["result"]["supportedVersions"].to_string().contains("2026-07-28"), "{discovered}");
    modern.done("session_open", json!({ "session": "a", "request_id": "1" }));
    assert_eq!(modern.end(), 0);

    let mut legacy = behind(&proxy, &sessions);
    assert_eq!(legacy.initialize(LEGACY)["result"]["protocolVersion"], LEGACY);
    legacy.done("memory_set", json!({ "session": "a", "key": "k", "value": 1, "request_id": "k" }));
    kill(&proxy);
    legacy.done("memory_get", json!({ "session": "a", "key": "k" }));
    assert_eq!(legacy.end(), 0);

    let mut both = behind(&proxy, &sessions);
    let probe = json!({ "jsonrpc": "2.0", "id": "probe", "method": "server/discover", "params": { "_meta": meta(&json!({})) } });
    both.say(&probe);
    assert_eq!(both.hear()["id"], "probe");
    assert_eq!(both.initialize(LEGACY)["result"]["protocolVersion"], LEGACY);
    both.done("memory_get", json!({ "session": "a", "key": "k" }));
    kill(&proxy);
    both.done("memory_get", json!({ "session": "a", "key": "k" }));
    assert_eq!(both.end(), 0);
    proxy.run(&["stop"]).ok();
    sessions.run(&["stop"]).ok();
}
