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
mod tasks;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use serde_json::json;

use self::{
    binary::Store,
    client::{Client, listening, peer, text},
};

#[test]
fn what_is_wrong_with_a_call_is_said() {
    let store = Store::new();
    let ended = store.run(&["mcp", "proxy"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    let ended = store.run(&["mcp", "proxy", "--http", "http://127.0.0.1:1/mcp", "--header", "no colon"]);
    assert!(ended.code == 2 && ended.err.contains("no colon"), "{ended:?}");
    let ended = store.run(&["mcp", "proxy", "--queue-for", "30s", "--http", "http://127.0.0.1:1/mcp"]);
    assert!(ended.code == 2 && ended.err.contains("--queue TOOL"), "{ended:?}");
    for (flag, url, says) in [
        ("--http", "htp://127.0.0.1/mcp", "neither http:// nor https://"),
        ("--sse", "ws://127.0.0.1/", "neither http:// nor https://"),
        ("--ws", "http://127.0.0.1/", "neither ws:// nor wss://"),
    ] {
        let ended = store.run(&["mcp", "proxy", flag, url]);
        assert!(ended.code == 2 && ended.err.contains(says) && ended.err.contains("--ws takes"), "{ended:?}");
    }
    let ended = store.run(&["mcp", "status", "--json"]);
    assert_eq!(ended.json()["error"]["code"], "no_store", "{ended:?}");
    assert!(!store.dir().exists(), "asking makes no store");
    store.run(&["session", "create", "work"]).ok();
    store.run(&["stop"]).ok();
    assert_eq!(store.run(&["mcp", "status", "--json"]).ok().json()["links"], json!([]));
    let shown = store.run(&["mcp", "status"]).ok().out;
    assert!(shown.contains("no daemon runs here"), "{shown}");
    let ended = store.run(&["mcp", "calls", "nosuch"]);
    assert!(ended.code == 1 && ended.err.contains("session ls") && !ended.err.contains("session open"), "{ended:?}");
    assert_eq!(store.run(&["mcp", "status"]).ok().out.trim(), "no links");
    let ended = store.run(&["mcp", "resolve", "work", "nosuch", "--not-done"]);
    assert!(ended.code == 1 && ended.err.contains(" mcp calls work` shows"), "{ended:?}");
    let help = store.run(&["mcp", "resolve", "--help"]).ok().out;
    assert!(help.contains("only its client may call again") && !help.contains("begin"), "{help}");
    store.run(&["stop"]).ok();
}

#[test]
fn servers_are_named_in_a_file_as_clients_have_it() {
    let store = Store::new();
    let file = store.path("servers.json");
    let shop = json!({ "command": "python3", "args": ["${PEER_SCRIPT:-NONE}"],
        "swarmkeep": { "session": "work/from-file", "idempotent": ["pay"] } });
    let waits = json!({ "command": "x", "swarmkeep": { "queueFor": "30s" } });
    let typo = json!({ "command": "x", "swarmkeep": { "trusthints": true } });
    let servers = json!({ "mcpServers": { "shop": shop, "far": { "url": "http://127.0.0.1:1/mcp" }, "waits": waits, "typo": typo } });
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
    assert!(refused.err.contains("--name is one of: far, shop, typo, waits"), "{}", refused.err);
    for (name, says) in [("waits", "--queue TOOL"), ("typo", "server `typo`: `swarmkeep.trusthints`: unknown field")] {
        let refused = store.run(&["mcp", "proxy", "--from", from, "--name", name]);
        assert!(refused.code == 2 && refused.err.contains(says), "{refused:?}");
    }
    store.run(&["stop"]).ok();
}

/// A page's server: it answers whatever it hears so, for as long as the test runs.
fn pages(head: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Whoever connects and goes has heard enough.
            if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n").as_bytes());
            }
        }
    });
    address
}

#[test]
fn why_a_server_is_not_there_is_said_to_its_client() {
    let store = Store::new();
    let page = pages("501 Unsupported method\r\ncontent-type: text/html\r\ncontent-length: 0");
    let stream = pages("405 Method Not Allowed\r\nallow: GET\r\ncontent-length: 0");
    let html = pages("200 OK\r\ncontent-type: text/html\r\ncontent-length: 0");
    let (https, http) = (format!("https://{page}/mcp"), format!("http://{page}/mcp"));
    let (stream, html) = (format!("http://{stream}/sse"), format!("http://{html}/"));
    let asked = [
        (
            vec!["--", "no-such-program"],
            "cannot be started: `no-such-program`, looked for in the PATH of its client: No such file",
        ),
        (vec!["--http", "http://127.0.0.1:1/mcp"], "cannot be reached: Connection refused"),
        (vec!["--http", &http], "HTTP status 501 Not Implemented: is there an MCP server"),
        (vec!["--http", &https], "speaks no TLS (received corrupt message of type InvalidContentType): is it https"),
        (vec!["--http", &stream], "named with --sse"),
        (vec!["--sse", &http], "HTTP status 501 Not Implemented, and no stream of events"),
        (vec!["--sse", &html], "HTTP status 200 OK, and no stream of events"),
    ]
    .into_iter()
    .enumerate()
    .map(|(nth, (server, says))| {
        let session = format!("work/s{nth}");
        let mut client = Client::before(&store, &[&["--session", &session][..], &server].concat());
        client.ask_to_initialize();
        (client, says)
    });
    // All at once: each is tried for a while before its client is told.
    for (mut client, says) in asked.collect::<Vec<_>>() {
        let answer = client.answer(0);
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{says}: {answer}");
        client.end();
    }
    store.run(&["stop"]).ok();
}

/// Over TLS, as servers are reached that are elsewhere: by a certificate that the machine knows, and not without.
#[test]
fn servers_are_reached_over_tls() {
    let store = Store::new();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (store.path("cert.pem"), store.path("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let environment = [("PEER_CERT", certificate.clone()), ("PEER_KEY", key)];
    let (mut server, port) = listening("tls_peer.py", &environment);
    let at = |scheme: &str| format!("{scheme}://localhost:{port}/mcp");

    // The daemon that the first one starts checks by that file.
    let knows = [("SSL_CERT_FILE", certificate)];
    for (flag, scheme) in [("--ws", "wss"), ("--http", "https")] {
        let mut client = Client::with(&store, &[flag, &at(scheme)], &knows);
        client.initialize();
        client.call(1, "pay", &json!({}));
        assert_eq!(text(&client.answer(1)), scheme);
        client.end();
    }
    store.run(&["stop"]).ok();

    // One that knows it not; in a session that has seen nothing of the server.
    let mut client = Client::before(&store, &["--session", "work/unknown", "--ws", &at("wss")]);
    client.ask_to_initialize();
    let refused = client.answer(0);
    assert!(refused["error"]["message"].as_str().unwrap().contains("certificate"), "{refused}");
    client.end();
    store.run(&["stop"]).ok();
    server.kill().unwrap();
    server.wait().unwrap();
}
