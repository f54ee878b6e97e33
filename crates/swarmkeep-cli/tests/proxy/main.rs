//! `swarmkeep mcp`: a client with the proxy in its server's place, and everything killed around it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

#[path = "../binary/mod.rs"]
mod binary;
mod client;
/// Its processes are looked at in /proc.
#[cfg(target_os = "linux")]
mod crowd;
mod failures;
mod killed;

use std::fs;

use serde_json::json;

use self::{
    binary::Store,
    client::{Client, peer, text},
};

#[test]
fn what_is_wrong_with_a_call_is_said() {
    let store = Store::new();
    let ended = store.run(&["mcp", "proxy"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    let ended = store.run(&["mcp", "proxy", "--http", "http://127.0.0.1:1/mcp", "--header", "no colon"]);
    assert!(ended.code == 2 && ended.err.contains("no colon"), "{ended:?}");
    let ended = store.run(&["mcp", "status", "--json"]);
    assert_eq!(ended.json()["error"]["code"], "no_store", "{ended:?}");
    assert!(!store.dir().exists(), "asking makes no store");
    store.run(&["session", "create", "work"]).ok();
    store.run(&["stop"]).ok();
    assert_eq!(store.run(&["mcp", "status", "--json"]).ok().json()["links"], json!([]));
}

#[test]
fn servers_are_named_in_a_file_as_clients_have_it() {
    let store = Store::new();
    let file = store.path("servers.json");
    let shop = json!({ "command": "python3", "args": ["${PEER_SCRIPT:-NONE}"],
        "swarmkeep": { "session": "work/from-file", "idempotent": ["pay"] } });
    let servers = json!({ "mcpServers": { "shop": shop, "far": { "url": "http://127.0.0.1:1/mcp" } } });
    fs::write(&file, servers.to_string().replace("NONE", &peer("peer.py"))).unwrap();
    let from = file.to_str().unwrap();
    let mut client = Client::before(&store, &["--from", from, "--name", "shop"]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    assert_eq!(text(&client.answer(1)), "pay");
    client.end();
    let shown = store.run(&["mcp", "calls", "work/from-file"]).ok().out;
    assert!(shown.contains("shop") && shown.contains("idempotent"), "{shown}");
    let refused = store.run(&["mcp", "proxy", "--from", from]);
    assert!(refused.err.contains("--name is one of: far, shop"), "{}", refused.err);
    store.run(&["stop"]).ok();
}
