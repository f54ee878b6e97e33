//! `connection_lost` and `protocol_error`, raised by what servers do, and read from the history.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    binary::{PATIENCE, Store, effects, signal, until},
    client::{Client, asking, last_peer, peer, shop, text, under_way_without_a_program},
};

/// The failures of a type in the history.
fn failures(store: &Store, kind: &str) -> Vec<Value> {
    let history = store.run(&["recover", "history", "--json"]).ok().json();
    let all = history["failures"].as_array().unwrap();
    all.iter().filter(|failure| failure["type"] == kind).cloned().collect()
}

/// Asks the history until the one failure of this type is as it should be; `each` is done before each look.
fn noticed(store: &Store, kind: &str, mut each: impl FnMut(), is: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        each();
        let found = failures(store, kind);
        assert!(found.len() <= 1, "once: {found:?}");
        match found.first() {
            Some(failure) if is(failure) => return failure.clone(),
            _ => assert!(Instant::now() < deadline, "{kind} is not what it should be: {found:?}"),
        }
    }
}

fn is_open(failure: &Value) -> bool {
    failure["over_at_ms"].is_null()
}

#[test]
fn connection_lost_is_a_server_that_is_killed_and_cannot_start_again() {
    let store = Store::new();
    let (mut client, program, away) = under_way_without_a_program(&store);
    signal(last_peer(&store), Signal::KILL);
    let answer = client.answer(1);
    assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown", "{answer}");

    let lost = noticed(&store, "connection_lost", asking(&mut client), |_| true);
    assert_eq!((&lost["session_name"], &lost["strategy"]), (&json!("work/here"), &json!("reconnect")), "{lost}");
    assert_eq!((&lost["in_flight"], &lost["in_doubt"], &lost["count"]), (&json!(1), &json!(1), &json!(1)), "{lost}");
    assert_eq!(lost["severity"], "medium", "a call is in doubt: {lost}");
    assert!(lost["connection"].as_str().unwrap().starts_with("mcp-") && is_open(&lost), "{lost}");
    assert!(lost["what"].as_str().unwrap().starts_with("`shop.py` cannot be reached"), "{lost}");
    let silent_ms = lost["silent_ms"].as_u64().unwrap();
    assert_eq!(lost["since_ms"], lost["first_at_ms"].as_u64().unwrap() - silent_ms, "{lost}");
    let connection = lost["connection"].as_str().unwrap();
    // Its session says so, too, once that is written down.
    until("it is offline in the session", || {
        let state = store.run(&["session", "state", "work/here", "--json"]).ok().json().to_string();
        state.contains(connection) && state.contains("\"offline\"")
    });
    // Somebody has to start it, and is told so.
    let report = store.run(&["report", "--json"]).ok().json();
    let waits = report["waiting"].as_array().unwrap();
    assert!(waits.iter().any(|one| one["kind"] == "connection" && one["id"] == connection), "{report}");
    assert!(store.run(&["doctor"]).ok().out.contains("work/here: `shop.py` cannot be reached"));

    fs::rename(&away, &program).unwrap();
    let back = noticed(&store, "connection_lost", asking(&mut client), |failure| !is_open(failure));
    assert!(back["took_ms"].as_u64().unwrap() >= silent_ms, "{back}");
    assert_eq!((&back["id"], &back["count"]), (&lost["id"], &json!(1)), "{back}");
    client.call(2, "pay", &json!({}));
    assert_eq!((text(&client.answer(2)), effects(&store)), ("pay", 2), "and the first one was not made again");
    // It is a recovery in the figures, and raises no alert.
    let doctor = store.run(&["doctor"]).ok().out;
    assert!(doctor.contains("1 recovery in the last day: 100.0 % came back"), "{doctor}");

    // Another outage is counted; one that ends with its client is over, and was not put right.
    fs::rename(&program, &away).unwrap();
    signal(last_peer(&store), Signal::KILL);
    let again = noticed(&store, "connection_lost", asking(&mut client), is_open);
    // A question that was asked in the moment of the kill may be under way, and is in no doubt.
    assert_eq!((&again["id"], &again["count"], &again["in_doubt"]), (&lost["id"], &json!(2), &json!(0)), "{again}");
    assert!(again["took_ms"].is_null(), "{again}");
    client.child.kill().unwrap();
    client.child.wait().unwrap();
    let gone = noticed(&store, "connection_lost", || (), |failure| !is_open(failure));
    assert!(gone["took_ms"].is_null(), "{gone}");
    store.run(&["stop"]).ok();
}

#[test]
fn the_next_daemon_goes_on_with_what_failed_before() {
    let store = Store::new();
    let (program, away) = shop(&store);
    let mut client = Client::before(&store, &["--session", "work/here", "--", program.to_str().unwrap()]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    client.answer(1);
    fs::rename(&program, &away).unwrap();
    signal(last_peer(&store), Signal::KILL);
    let before = noticed(&store, "connection_lost", asking(&mut client), |_| true);
    // Within a second it is written down; what was not yet is forgotten with its daemon.
    let records = rusqlite::Connection::open(store.dir().join("records.db")).unwrap();
    let is_kept = "SELECT EXISTS (SELECT 1 FROM recoveries WHERE id = ?1)";
    until("it is written down", || {
        records.query_row(is_kept, [before["id"].as_str().unwrap()], |row| row.get::<_, bool>(0)).unwrap_or(false)
    });
    drop(records);
    let killed = store.holder().unwrap();
    signal(killed, Signal::KILL);
    let links = || store.run(&["mcp", "status", "--json"]).ok().json()["links"].clone();
    let mut ask = asking(&mut client);
    until("the client has another daemon", || {
        // A client that says nothing needs no link.
        ask();
        store.holder().is_some_and(|pid| pid != killed) && links() != json!([])
    });
    drop(ask);
    let link = &links()[0]["link"];
    assert!(link["failures"].as_u64().unwrap() >= 9 && link["breaker_open"] == true, "{link}");
    // Its first try has failed by then, or will: that is told at once and not after nine. It is the same outage: one, and open.
    let again = noticed(&store, "connection_lost", || (), |failure| is_open(failure) && failure["count"] == 2);
    assert_eq!(again["id"], before["id"], "{again}");
    fs::rename(&away, &program).unwrap();
    client.call(2, "pay", &json!({}));
    let answer = client.answer(2);
    assert!(text(&answer) == "pay" || answer["result"]["isError"] == true, "{answer}");
    let mut ask = asking(&mut client);
    until("it is back", || {
        ask();
        links()[0]["link"]["phase"] == "connected"
    });
    drop(ask);
    client.end();
    store.run(&["stop"]).ok();
}

/// The scripted server over HTTP, as a process; it ends when its input does.
fn http_server(store: &Store, port: &str) -> (Child, String) {
    let mut server = Command::new("python3");
    server.arg(peer("http_peer.py")).env("PEER_PORT", port);
    server.env("PEER_NOTES", store.path("notes")).env("PEER_GATE", store.path("gate"));
    let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    (server, port.trim().to_owned())
}

#[test]
fn connection_lost_and_protocol_error_are_an_http_server_that_is_stopped_and_one_that_answers_with_a_page() {
    let store = Store::new();
    let (mut server, port) = http_server(&store, "0");
    let url = format!("http://127.0.0.1:{port}/mcp");
    let mut client = Client::before(&store, &["--session", "work/here", "--name", "shop", "--http", &url]);
    client.initialize();
    client.call(1, "garble", &json!({}));
    assert!(client.answer(1)["error"].is_object());
    let page = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&page["cause"], &page["strategy"]), (&json!("not_a_message"), &json!("reconnect")), "{page}");
    assert_eq!((&page["beginning"], &page["severity"]), (&json!("<html>a page</html>"), &json!("low")), "{page}");

    client.call(2, "slow", &json!({}));
    until("the call reaches the server", || {
        fs::read_to_string(store.path("notes")).unwrap_or_default().contains("call slow")
    });
    server.kill().unwrap();
    server.wait().unwrap();
    let answer = client.answer(2);
    assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown", "{answer}");
    let lost = noticed(&store, "connection_lost", asking(&mut client), |_| true);
    assert_eq!(
        (&lost["in_doubt"], &lost["count"], &lost["severity"]),
        (&json!(1), &json!(1), &json!("medium")),
        "{lost}"
    );
    assert!(lost["what"].as_str().unwrap().starts_with("`shop` cannot be reached") && is_open(&lost), "{lost}");

    let (mut server, _) = http_server(&store, &port);
    let back = noticed(&store, "connection_lost", asking(&mut client), |failure| !is_open(failure));
    assert!(back["took_ms"].is_u64(), "{back}");
    let page = noticed(&store, "protocol_error", || (), |failure| !is_open(failure));
    assert!(page["took_ms"].is_u64(), "a handshake was carried out on another connection: {page}");
    client.call(3, "pay", &json!({}));
    assert_eq!(text(&client.answer(3)), "pay");
    client.end();
    store.run(&["stop"]).ok();
    server.kill().unwrap();
    server.wait().unwrap();
}

/// A store, and a client that begins with a server that says this.
fn with_garbage(says: &Value) -> (Store, Client) {
    let store = Store::new();
    fs::write(store.path("says"), says.to_string()).unwrap();
    let args = ["--session", "work/here", "--name", "shop", "--", "python3", &peer("garbage.py")];
    let mut client = Client::before(&store, &args);
    client.ask_to_initialize();
    // It starts the daemon; who asks about a store that is not there is told so.
    until("the server is there", || store.path("pid").exists());
    (store, client)
}

fn pid(of: &Path) -> i32 {
    fs::read_to_string(of).unwrap().parse().unwrap()
}

#[test]
fn protocol_error_is_a_server_that_prints_what_is_no_json_and_is_counted() {
    let (store, mut client) = with_garbage(&json!({ "initialize": "{\"half\": \u{1b}[1m\n".repeat(30) + "Listening" }));
    let noise = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&noise["cause"], &noise["session_name"]), (&json!("not_a_message"), &json!("work/here")), "{noise}");
    assert_eq!((&noise["beginning"], &noise["count"]), (&json!(r#"{\"half\": \x1b[1m"#), &json!(1)), "{noise}");
    assert!(noise["what"].as_str().unwrap().starts_with("`shop`: not JSON") && is_open(&noise), "{noise}");

    // Another server is started in its place, and does as it should: the others of this minute are told with the end.
    fs::remove_file(store.path("says")).unwrap();
    signal(pid(&store.path("pid")), Signal::KILL);
    assert_eq!(client.answer(0)["result"]["serverInfo"]["name"], "peer");
    let over = noticed(&store, "protocol_error", || (), |failure| !is_open(failure));
    assert_eq!((&over["id"], &over["count"], &over["beginning"]), (&noise["id"], &json!(31), &json!("Listening")));
    assert!(over["took_ms"].is_u64(), "{over}");
    let doctor = store.run(&["doctor"]).ok().out;
    assert!(doctor.contains("1 recovery in the last day: 100.0 % came back"), "{doctor}");
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn protocol_error_is_a_server_that_answers_what_nobody_asked_again_and_again() {
    let answer = r#"{"jsonrpc":"2.0","id":987654,"result":{}}"#;
    let (store, mut client) = with_garbage(&json!({ "ask": answer, "twice": format!("{answer}\n{answer}") }));
    client.answer(0);
    client.say(&json!({ "jsonrpc": "2.0", "id": 1, "method": "twice" }));
    client.say(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" }));
    client.answer(2);
    assert_eq!(failures(&store, "protocol_error"), [json!(null); 0], "twice is an accident");
    client.say(&json!({ "jsonrpc": "2.0", "id": 3, "method": "ask" }));
    let foreign = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&foreign["cause"], &foreign["count"]), (&json!("unknown_id"), &json!(1)), "{foreign}");
    assert!(foreign["what"].as_str().unwrap().contains("with id 987654"), "{foreign}");
    client.child.kill().unwrap();
    client.child.wait().unwrap();
    let gone = noticed(&store, "protocol_error", || (), |failure| !is_open(failure));
    assert!(gone["took_ms"].is_null(), "it ended with its client: {gone}");
    store.run(&["stop"]).ok();
}

#[test]
fn protocol_error_is_a_line_without_an_end() {
    let (store, mut client) = with_garbage(&json!({ "tools/list": (128 << 20) + 1 }));
    client.answer(0);
    client.say(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
    let long = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&long["cause"], &long["beginning"]), (&json!("too_long"), &json!("x".repeat(64))), "{long}");
    // The server is started again, and asked again: what it says then is taken.
    fs::remove_file(store.path("says")).unwrap();
    assert!(client.answer(1)["result"].is_object());
    let over = noticed(&store, "protocol_error", || (), |failure| !is_open(failure));
    assert!(over["took_ms"].is_u64(), "{over}");
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn protocol_error_is_a_server_that_names_no_revision_or_another_one_than_before() {
    let named = |version: &str| {
        let result = format!(r#"{{"protocolVersion":{version},"capabilities":{{}},"serverInfo":{{"name":"peer"}}}}"#);
        json!({ "initialize": format!(r#"{{"jsonrpc":"2.0","id":{{id}},"result":{result}}}"#) })
    };
    let (store, mut client) = with_garbage(&named("7"));
    client.answer(0);
    let none = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&none["cause"], &none["severity"]), (&json!("revision"), &json!("low")), "{none}");
    assert!(none["what"].as_str().unwrap().ends_with("names no revision of the protocol: 7"), "{none}");
    client.child.kill().unwrap();
    client.child.wait().unwrap();
    store.run(&["stop"]).ok();

    let (store, mut client) = with_garbage(&named("\"2025-06-18\""));
    client.answer(0);
    client.say(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
    client.answer(1);
    assert_eq!(failures(&store, "protocol_error"), [json!(null); 0]);
    fs::write(store.path("says"), named("\"2024-11-05\"").to_string()).unwrap();
    signal(pid(&store.path("pid")), Signal::KILL);
    let other = noticed(&store, "protocol_error", || (), |_| true);
    assert!(
        other["what"].as_str().unwrap().contains(r#"revision "2024-11-05" now, and spoke "2025-06-18""#),
        "{other}"
    );
    // A server that is refused cannot be used: that is an outage.
    let lost = noticed(&store, "connection_lost", || (), |_| true);
    assert!(lost["what"].as_str().unwrap().contains("another revision"), "{lost}");
    fs::write(store.path("says"), named("\"2025-06-18\"").to_string()).unwrap();
    let back = noticed(&store, "connection_lost", asking(&mut client), |failure| !is_open(failure));
    assert!(back["took_ms"].is_u64(), "{back}");
    client.end();
    store.run(&["stop"]).ok();
}
