//! Daemons die, clients come and go, many share one store; stdio and HTTP.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::json;

use crate::{
    LEGACY,
    binary::{Store, signal},
    peer::{Peer, meta, post},
};

#[test]
fn the_daemon_dies_and_the_clients_session_goes_on() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &[], LEGACY);
    peer.done("session_open", json!({ "session": "a", "request_id": "open" }));
    for round in 0..12 {
        let pid = store.holder().unwrap();
        let asked = json!({ "name": "task_create", "arguments": { "session": "a", "title": "x", "request_id": format!("t{round}") } });
        // It takes nothing up any more in every other round; in the rest it dies with the request anywhere on its way.
        if round % 2 == 0 {
            signal(pid, Signal::STOP);
        }
        let (write, read) = (
            peer.send("tools/call", asked),
            peer.send("tools/call", json!({ "name": "session_status", "arguments": { "session": "a" } })),
        );
        signal(pid, Signal::KILL);
        let mut answered = BTreeSet::new();
        while answered.len() < 2 {
            let answer = peer.hear();
            assert_eq!(answer["result"]["isError"], false, "{answer}");
            assert!(answered.insert(answer["id"].as_u64().unwrap()), "answered twice: {answer}");
        }
        assert_eq!(answered, BTreeSet::from([write, read]));
        assert_ne!(store.holder(), Some(pid));
    }
    let tasks = peer.done("task_list", json!({ "session": "a" }));
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 12, "each exactly once");
    assert_eq!(peer.end(), 0);
}

#[test]
fn twenty_clients_share_one_daemon() {
    let store = Store::new();
    let mut peers: Vec<Peer> = (0..20).map(|_| Peer::start(&store, &[])).collect();
    for peer in &mut peers {
        peer.send(
            "initialize",
            json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": { "name": "peer", "version": "1" } }),
        );
    }
    for peer in &mut peers {
        assert_eq!(peer.hear()["result"]["protocolVersion"], LEGACY);
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.done("session_open", json!({ "session": "a", "request_id": format!("open-{number}") }));
        peer.done("agent_spawn", json!({ "session": "a", "request_id": format!("spawn-{number}") }));
    }
    let agents = peers[0].done("agent_list", json!({ "session": "a" }));
    assert_eq!(agents["agents"].as_array().unwrap().len(), 20);
}

#[test]
fn a_client_that_asks_and_goes_gets_its_answers() {
    let store = Store::new();
    let mut peer = Peer::start(&store, &[]);
    peer.send(
        "initialize",
        json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": { "name": "peer", "version": "1" } }),
    );
    peer.send("tools/call", json!({ "name": "session_open", "arguments": { "session": "a", "request_id": "1" } }));
    let mut relay = std::mem::replace(&mut peer.relay, store.command(&["--version"]).spawn().unwrap());
    let (first, second) = (peer.hear(), peer.hear());
    assert!(first["result"]["protocolVersion"].is_string() && second["result"]["isError"] == false, "{first} {second}");
    drop(peer);
    assert_eq!(relay.wait().unwrap().code(), Some(0));
}

#[test]
fn over_http_both_eras_are_behind_the_same_guard() {
    let store = Store::new();
    let (mut daemon, served) = store.serve(&["--set", "token=0123456789abcdef0123"]);
    let url = served["addresses"][0].as_str().unwrap().to_owned();
    let token = ("authorization", "Bearer 0123456789abcdef0123");
    let common = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
    let legacy = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": { "name": "peer", "version": "1" } } });
    let (status, body) = post(&url, "/mcp", &[common[0], common[1]], &legacy.to_string());
    assert_eq!(status, 401, "{body}");
    let (status, body) =
        post(&url, "/mcp", &[common[0], common[1], token, ("host", "evil.example")], &legacy.to_string());
    assert_eq!(status, 403, "{body}");
    let (status, body) =
        post(&url, "/mcp", &[common[0], common[1], token, ("origin", "https://evil.example")], &legacy.to_string());
    assert_eq!(status, 403, "{body}");
    let (status, body) = post(&url, "/mcp", &[common[0], common[1], token], &legacy.to_string());
    assert!(status == 200 && body.contains(LEGACY), "{status} {body}");
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "session_open", "arguments": { "session": "a", "request_id": "1" } } });
    let (status, body) =
        post(&url, "/mcp", &[common[0], common[1], token, ("mcp-protocol-version", LEGACY)], &call.to_string());
    assert!(status == 200 && body.contains("\"isError\":false"), "{status} {body}");
    let mut modern = call.clone();
    modern["params"]["_meta"] = meta(&json!({}));
    modern["params"]["arguments"]["request_id"] = json!("2");
    let headers = [
        common[0],
        common[1],
        token,
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "session_open"),
    ];
    let (status, body) = post(&url, "/mcp", &headers, &modern.to_string());
    assert!(status == 200 && body.contains("\"resultType\":\"complete\""), "{status} {body}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn what_is_no_message_over_http_is_refused_and_breaks_nothing() {
    let store = Store::new();
    let (mut daemon, served) = store.serve(&[]);
    let url = served["addresses"][0].as_str().unwrap().to_owned();
    let headers = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{}"}}}}"#, "x".repeat(5 << 20));
    for (body, status) in [("", 4), ("{", 4), ("[]", 4), ("null", 4), (deep.as_str(), 4), (large.as_str(), 4)] {
        let (found, said) = post(&url, "/mcp", &headers, body);
        assert_eq!(found / 100, status, "{found} {said}");
    }
    let (found, _) = post(&url, "/mcp", &[("content-type", "text/plain"), headers[1]], "{}");
    assert_eq!(found, 415);
    // A stream is opened by an upgrade alone.
    let (found, _) = post(&url, "/mcp/stream", &headers, "{}");
    assert_eq!(found, 405);
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(post(&url, "/mcp", &headers, &ping.to_string()).0, 200);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn a_relay_reaches_a_daemon_elsewhere_with_its_token() {
    let store = Store::new();
    let (mut daemon, served) = store.serve(&["--set", "token=0123456789abcdef0123"]);
    let url = served["addresses"][0].as_str().unwrap().to_owned();
    let mut command = Store::new().command(&["mcp", "serve", "--url", &url]);
    command.env("SWARMKEEP_TOKEN", "0123456789abcdef0123");
    let mut peer = Peer::of(command);
    peer.initialize(LEGACY);
    peer.done("session_open", json!({ "session": "a", "request_id": "1" }));
    assert_eq!(peer.end(), 0);
    // Without it whoever asks is told, and the relay stays.
    let mut peer = Peer::of(Store::new().command(&["mcp", "serve", "--url", &url]));
    for _ in 0..2 {
        let answer = peer.initialize(LEGACY);
        assert_eq!(answer["error"]["code"], -32010, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("SWARMKEEP_TOKEN"), "{answer}");
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn a_daemon_that_cannot_be_had_is_said_and_the_next_request_tries_again() {
    let store = Store::new();
    // A file where the store would be.
    std::fs::write(store.dir(), "").unwrap();
    let mut peer = Peer::start(&store, &[]);
    let answer = peer.initialize(LEGACY);
    assert_eq!(answer["error"]["code"], -32010, "{answer}");
    std::fs::remove_file(store.dir()).unwrap();
    assert_eq!(peer.initialize(LEGACY)["result"]["protocolVersion"], LEGACY);
    peer.done("session_open", json!({ "session": "a", "request_id": "1" }));
}

#[test]
fn whoever_asks_much_at_once_is_answered_once_each_over_a_kill() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &[], LEGACY);
    peer.done("session_open", json!({ "session": "a", "request_id": "open" }));
    let mut asked = 0;
    for round in 0..5 {
        // More than are ever on their way at once: the rest waits in the pipe.
        let mut waiting = BTreeSet::new();
        for _ in 0..60 {
            asked += 1;
            let create = json!({ "session": "a", "title": "x".repeat(200), "request_id": format!("r{asked}") });
            waiting.insert(peer.send("tools/call", json!({ "name": "task_create", "arguments": create })));
        }
        for _ in 0..round * 5 {
            assert!(waiting.remove(&peer.hear()["id"].as_u64().unwrap()));
        }
        signal(store.holder().unwrap(), Signal::KILL);
        while !waiting.is_empty() {
            let answer = peer.hear();
            assert_eq!(answer["result"]["isError"], false, "{answer}");
            assert!(waiting.remove(&answer["id"].as_u64().unwrap()), "answered twice: {answer}");
        }
    }
    let tasks = peer.done("task_list", json!({ "session": "a", "limit": 1000 }));
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), asked, "each exactly once");
}

#[test]
fn a_daemon_that_is_stopped_is_started_again_by_whoever_needs_it_and_not_before() {
    let store = Store::new();
    let mut peer = Peer::begun(&store, &[], LEGACY);
    peer.done("session_open", json!({ "session": "a", "request_id": "1" }));
    let pid = store.holder().unwrap();
    // An open stream does not hold the end up, and is no reason to start it again.
    store.run(&["stop"]).ok();
    assert_eq!(store.run(&["--no-start", "session", "ls"]).code, 3);
    assert_eq!(peer.done("session_status", json!({ "session": "a" }))["status"], "live");
    assert_ne!(store.holder(), Some(pid));
    assert_eq!(peer.end(), 0);
}
